"""Core files in a debugger: it shows what it shows of the running process.

gdb looks at the same process three times: at the core of its image, at the core of the process
itself, and, after both were made, attached to it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ckpt.objects.maps_text import parse_maps
from tests.live.harness import Build
from tests.live.tickers import Ticker, refusal, run_tool, started, wait_for

GDB = ("gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-iex", "set width 0")
CALLS = sorted([b"202", b"230", b"202", b"7", b"128", b"running"])
"""What the threads of `core_threads` are in: futex, clock_nanosleep, poll, rt_sigtimedwait."""
EACH = "thread apply all -ascending"
VALUES = {
    "initialized": "{11, 22, 303, 44}",
    "zeroed[5000]": "122 'z'",
    "zeroed[4000]": "0 '\\000'",
    "list->next->next->value": "0",
    "(char *)list->next->next->name": '"last"',
    "constant": '"a constant"',
    "shared_anon + 2097152": '"shared by nobody"',
    "memfd_shared": '"memfd, first page"',
    "memfd_shared + 8192": '"memfd, its tail"',
    "memfd_private": '"memfd, its tail"',
    "deleted_private + 10": '"own page of a deleted file"',
    "deleted_private + 4106": '"was deleted"',
    "mapped_private + 4106": '"in the file"',
    "mapped_private + 8200": '"on its own page"',
    "mapped_shared + 4106": '"in the file"',
    "large + 100": '"at the front"',
    "large + 3145728000": '"far behind"',
    "read_only": '"may not be written"',
}


class Views(NamedTuple):
    """One process, and its cores."""

    pid: int
    binary: Path
    image_core: Path
    live_core: Path
    frozen_text: str


@pytest.fixture(scope="module")
def views(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Views]:
    folder = tmp_path_factory.mktemp("core")
    binary = build.binary("core_threads")
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    with started(binary, folder, **quiet) as process:
        wait_for("its threads", lambda: calls_of(process.pid) == CALLS)
        image, image_core, live_core = (folder / name for name in ("image", "icore", "lcore"))
        good("snapshot", str(process.pid), "--leave-running", "-o", str(image))
        good("core", str(image), "-o", str(image_core))
        said = good("core", "--live", str(process.pid), "-o", str(live_core))
        assert (folder / "ready").exists()
        yield Views(process.pid, binary, image_core, live_core, said)


def calls_of(pid: int) -> list[bytes]:
    """Return what the threads of a process are in, as /proc/TID/syscall names it."""
    folder = Path(f"/proc/{pid}/task")
    return sorted((folder / tid / "syscall").read_bytes().split()[0] for tid in os.listdir(folder))


def good(*args: str) -> str:
    """Run ckpt-bpf, which must exit with 0; return what it printed."""
    done = run_tool(*args)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def ask(views: Views, *commands: str) -> tuple[list[str], list[str], list[str]]:
    """Return what gdb prints of the image's core, of the live core and of the process."""
    command = [*GDB, *(word for text in commands for word in ("-ex", text))]
    attached = gdb([*command, "-p", str(views.pid)])
    image = gdb([*command, str(views.binary), str(views.image_core)])
    return image, gdb([*command, str(views.binary), str(views.live_core)]), attached


def gdb(command: list[str]) -> list[str]:
    """Run gdb; return the lines that answer `-ex` commands, without what is different by nature."""
    at = command.index("-ex")
    marked = [*command[:at], "-ex", "echo BEGIN\\n", *command[at:], "-ex", "echo END\\n"]
    # Files and processes come before commands, or these would have nothing to look at.
    done = subprocess.run(marked, capture_output=True, text=True, timeout=60)
    text = done.stdout.partition("BEGIN\n")[2].partition("END\n")[0]
    assert text, done.stderr
    # Only a running process has names of threads; values are numbered.
    text = re.sub(r'(LWP \d+\)) ".*"\)', r"\1)", text)
    return re.sub(r"^\$\d+ = ", "= ", text, flags=re.M).splitlines()


def test_backtraces_with_every_variable(views: Views) -> None:
    image, live, attached = ask(views, f"{EACH} bt -full")
    assert image == attached
    assert live == attached
    text = "\n".join(image)
    assert text.count("\nThread ") + text.startswith("Thread ") == 6
    assert "wait_nanosleep (depth=depth@entry=3)" in text
    for name in ("wait_futex", "wait_poll", "wait_sigtimedwait", "wait_spinning", "main"):
        assert f"in {name} (" in text or f" {name} (" in text


def test_registers(views: Views) -> None:
    """General, FP and vector registers; results of interrupted calls as a debugger sees them."""
    names = ["$xmm0", "$xmm7", "$ymm0", "$st0", "$mxcsr", "$fctrl", "$fs_base"]
    commands = [f"{EACH} info registers", *(f"{EACH} p {name}" for name in names)]
    image, live, attached = ask(views, *commands)
    assert image == attached
    assert live == attached
    text = "\n".join(image)
    assert "3.1415926535897932385" in text
    assert "uint128 = 1234605616436508552" in text
    for result in ("-516", "-512", "-4"):
        assert re.search(rf"^rax +0x\S+ +{result}$", text, re.M), result


def test_interrupted_calls(views: Views) -> None:
    """A call with a restart_block is restart_syscall (219) once it has been interrupted."""
    image, live, attached = ask(views, f"{EACH} p (long)$orig_rax")
    assert live == attached
    found = [line for line in image if line.startswith("= ")]
    assert found == ["= 202", "= 230", "= 202", "= 7", "= 128", "= -1"]
    restarted = {"= 230": "= 219", "= 7": "= 219"}
    assert [line for line in live if line.startswith("= ")] == [
        restarted.get(line, line) for line in found
    ]


def test_values_in_every_kind_of_memory(views: Views) -> None:
    commands = [f"output {name}" for name in VALUES]
    commands = [word for text in commands for word in (text, "echo \\n")]
    image, live, attached = ask(views, *commands)
    assert image == attached
    assert live == attached
    for line, (name, value) in zip(image, VALUES.items(), strict=True):
        assert line.endswith(value), name


def test_signal_auxv_and_thread_local_variables(views: Views) -> None:
    image, live, attached = ask(
        views,
        f"{EACH} p $_siginfo",
        "info auxv",
        f"{EACH} p own_number",
        "x/4i main",
        "x/2i nanosleep",
    )
    assert image == attached
    assert live == attached
    assert any("si_signo = 19" in line for line in image)
    assert [line for line in image if line in [f"= {100 + i}" for i in range(5)]]


def test_memory_that_was_kept_from_cores(views: Views) -> None:
    image, live, attached = ask(views, "output secret", "echo \\n")
    assert attached[0].endswith('"not for cores"')
    for lines, core in ((image, views.image_core), (live, views.live_core)):
        assert "not for cores" not in "\n".join(lines)
        assert b"not for cores\0" not in core.read_bytes()


def test_mapped_files_are_named_where_they_are(views: Views) -> None:
    """What `info proc mappings` shows of a core are the areas of files as /proc has them."""
    maps = parse_maps(Path(f"/proc/{views.pid}/maps").read_bytes())
    wanted = {(line.start, line.end, line.offset, line.name) for line in maps if line.inode}
    for core in (views.image_core, views.live_core):
        lines = gdb([*GDB, "-ex", "info proc mappings", str(views.binary), str(core)])
        found = set()
        for line in lines:
            if re.match(r" *0x", line):
                start, end, _, offset, name = line.split(None, 4)
                found.add((*(int(text, 16) for text in (start, end, offset)), name.encode()))
        assert found == wanted


@pytest.mark.parametrize("which", ["image_core", "live_core"])
def test_readelf_understands_every_note(views: Views, which: str) -> None:
    core = getattr(views, which)
    for option in ("-n", "-lW", "-h"):
        done = subprocess.run(["readelf", option, core], capture_output=True, text=True)
        assert not done.stderr
        assert "Unknown note" not in done.stdout
        assert "Warning" not in done.stdout
    assert core.stat().st_mode & 0o777 == 0o600
    # 4 GiB of address space with two pages in it.
    assert core.stat().st_size < 256 << 20
    assert core.stat().st_blocks * 512 < 8 << 20


def test_the_result_is_told(views: Views) -> None:
    size = views.live_core.stat().st_size
    assert re.fullmatch(
        rf"process {views.pid}: 6 threads, {size} bytes \(\d+ on disk\) in {views.live_core}, "
        r"frozen 0\.\d+ s\n",
        views.frozen_text,
    )


def test_a_python_program(tmp_path: Path) -> None:
    """The frames of the interpreter are there, and the string that it computes with."""
    text = (
        "import sys, time; word = 'core ' * 5 + 'of python'; print(1, flush=True); time.sleep(1e6)"
    )
    with started(sys.executable, "-c", text, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        core = tmp_path / "core"
        good("core", "--live", str(process.pid), "-o", str(core), "--full")
        exe = os.path.realpath(f"/proc/{process.pid}/exe")
        lines = gdb([*GDB, "-ex", "bt", exe, str(core)])
        attached = gdb([*GDB, "-ex", "bt", "-p", str(process.pid)])
    assert any("_PyEval_EvalFrameDefault" in line for line in lines)
    assert lines == attached
    assert b"core core core core core of python" in core.read_bytes()


def test_the_same_without_bpf_and_as_a_stream(views: Views, tmp_path: Path) -> None:
    core = tmp_path / "core"
    good("core", "--live", str(views.pid), "-o", str(core), "--no-bpf")
    lines = gdb([*GDB, "-ex", f"{EACH} bt", str(views.binary), str(core)])
    assert lines == gdb([*GDB, "-ex", f"{EACH} bt", str(views.binary), str(views.image_core)])
    command = [sys.executable, "-m", "ckpt.cli", "core", "--live", str(views.pid), "-o", "-"]
    streamed = subprocess.run(command, capture_output=True, timeout=60)
    assert streamed.returncode == 0, streamed.stderr
    core.write_bytes(streamed.stdout)
    assert lines == gdb([*GDB, "-ex", f"{EACH} bt", str(views.binary), str(core)])


@pytest.fixture
def ticker(build: Build) -> Iterator[Ticker]:
    """A running ticker."""
    with Ticker(build.binary("ticker")) as found:
        yield found


def test_the_process_notices_nothing(ticker: Ticker) -> None:
    for _ in range(3):
        good("core", "--live", str(ticker.pid), "-o", str(ticker.folder / "core"))
        ticker.check_untouched()
    (ticker.folder / "core").unlink()


def test_errors(ticker: Ticker, tmp_path: Path) -> None:
    """Nothing is written, what stood there stays, and the process runs."""
    core = tmp_path / "core"
    core.write_text("before")
    tid = max(ticker.shape.tids)
    assert f"is a thread of process {ticker.pid}" in refusal("core", "--live", str(tid))
    assert "no such process" in refusal("core", "--live", str(1 << 22), "-o", str(core))
    assert "is init" in refusal("core", "--live", "1", "-o", str(core))
    assert "cannot create" in refusal("core", "--live", str(ticker.pid), "-o", "/nowhere/core")
    ticker.image.write_bytes(b"not an image")
    refusal("core", str(ticker.image), "-o", str(core))
    ticker.image.unlink()
    with started(*GDB, "-p", str(ticker.pid), "-ex", "shell sleep 60", stdout=subprocess.DEVNULL):
        wait_for("gdb", lambda: tracer_of(ticker.pid) != 0)
        assert "end the debugger first" in refusal("core", "--live", str(ticker.pid))
    assert core.read_text() == "before"
    assert os.listdir(tmp_path) == ["core"]


def tracer_of(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("TracerPid:")[2].split()[0])
