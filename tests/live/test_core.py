"""Core files in a debugger: it shows what it shows of the running process.

gdb looks at the same process three times: at the core of its image, at the core of the process
itself, and, after both were made, attached to it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
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


VECTORS = ("$xmm0", "$xmm7", "$ymm0", "$st0", "$mxcsr", "$fctrl", "$fs_base")
QUESTIONS = {
    "frames": [f"{EACH} bt -full"],
    "registers": [f"{EACH} info registers", *(f"{EACH} p {name}" for name in VECTORS)],
    "calls": [f"{EACH} p (long)$orig_rax"],
    "values": [word for name in VALUES for word in (f"output {name}", "echo \\n")],
    "signal": [f"{EACH} p $_siginfo"],
    "own": [f"{EACH} p own_number"],
    "system": ["info auxv", "x/4i main", "x/2i nanosleep"],
    "secret": ["output secret", "echo \\n"],
}
Answers = dict[str, list[str]]


class Views(NamedTuple):
    """One process, its cores, and what gdb answers of each to QUESTIONS."""

    pid: int
    binary: Path
    image_core: Path
    live_core: Path
    said: str
    """Of the tool that made the live core."""
    image: Answers
    live: Answers
    attached: Answers


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
        answers = (
            ask(str(binary), str(image_core)),
            ask(str(binary), str(live_core)),
            ask("-p", str(process.pid)),
        )
        yield Views(process.pid, binary, image_core, live_core, said, *answers)


def calls_of(pid: int) -> list[bytes]:
    """Return what the threads of a process are in, as /proc/TID/syscall names it."""
    folder = Path(f"/proc/{pid}/task")
    return sorted((folder / tid / "syscall").read_bytes().split()[0] for tid in os.listdir(folder))


def good(*args: str) -> str:
    """Run ckpt-bpf, which must exit with 0; return what it printed."""
    done = run_tool(*args)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def ask(*what: str) -> Answers:
    """Return what gdb answers to all questions about a core or a process."""
    commands = [word for name, asked in QUESTIONS.items() for word in (f"echo ={name}\\n", *asked)]
    answers: Answers = {}
    for line in gdb(*what, commands=commands):
        if line[:1] == "=" and line[1:] in QUESTIONS:
            found = answers.setdefault(line[1:], [])
        else:
            found.append(line)
    assert list(answers) == list(QUESTIONS)
    return answers


def gdb(*what: str, commands: Sequence[str]) -> list[str]:
    """Run gdb on a core or a process; return its answers without what differs by nature."""
    marked = ["echo BEGIN\\n", *commands, "echo END\\n"]
    command = [*GDB, *what, *(word for text in marked for word in ("-ex", text))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    text = done.stdout.partition("BEGIN\n")[2].partition("END\n")[0]
    assert text, done.stderr
    # Only a running process has names of threads; values are numbered.
    text = re.sub(r'(LWP \d+\)) ".*"\)', r"\1)", text)
    return re.sub(r"^\$\d+ = ", "= ", text, flags=re.M).splitlines()


@pytest.mark.parametrize("what", [name for name in QUESTIONS if name not in ("calls", "secret")])
def test_a_core_is_like_the_process(views: Views, what: str) -> None:
    assert views.attached[what]
    assert views.image[what] == views.attached[what]
    assert views.live[what] == views.attached[what]


def test_every_frame_is_there(views: Views) -> None:
    text = "\n".join(views.image["frames"])
    assert len(re.findall("^Thread ", text, re.M)) == 6
    assert "wait_nanosleep (depth=depth@entry=3)" in text
    for name in ("wait_futex", "wait_poll", "wait_sigtimedwait", "wait_spinning", "main"):
        assert f" {name} (" in text


def test_registers_have_what_the_program_put_there(views: Views) -> None:
    """General, FP and vector ones, and results of interrupted calls as a debugger sees them."""
    text = "\n".join(views.image["registers"])
    assert "3.1415926535897932385" in text
    assert "uint128 = 1234605616436508552" in text
    for result in ("-516", "-512", "-4"):
        assert re.search(rf"^rax +0x\S+ +{result}$", text, re.M), result


def test_interrupted_calls(views: Views) -> None:
    """A call with a restart_block is restart_syscall (219) once it has been interrupted."""
    assert views.live["calls"] == views.attached["calls"]
    found = [line for line in views.image["calls"] if line.startswith("= ")]
    assert found == ["= 202", "= 230", "= 202", "= 7", "= 128", "= -1"]
    restarted = {"= 230": "= 219", "= 7": "= 219"}
    assert [line for line in views.live["calls"] if line.startswith("= ")] == [
        restarted.get(line, line) for line in found
    ]


def test_values_in_every_kind_of_memory(views: Views) -> None:
    for line, (name, value) in zip(views.image["values"], VALUES.items(), strict=True):
        assert line.endswith(value), name


def test_signals_and_thread_local_variables(views: Views) -> None:
    assert sum("si_signo = 19" in line for line in views.image["signal"]) == 6
    found = [line for line in views.image["own"] if line.startswith("= ")]
    assert found == ["= 0", *(f"= {100 + index}" for index in range(5))]


def test_memory_that_was_kept_from_cores(views: Views) -> None:
    assert views.attached["secret"][0].endswith('"not for cores"')
    for answers, core in ((views.image, views.image_core), (views.live, views.live_core)):
        assert "not for cores" not in "\n".join(answers["secret"])
        assert b"not for cores\0" not in core.read_bytes()


def test_mapped_files_are_named_where_they_are(views: Views) -> None:
    """What `info proc mappings` shows of a core are the areas of files as /proc has them."""
    maps = parse_maps(Path(f"/proc/{views.pid}/maps").read_bytes())
    wanted = {(line.start, line.end, line.offset, line.name) for line in maps if line.inode}
    for core in (views.image_core, views.live_core):
        found = set()
        for line in gdb(str(views.binary), str(core), commands=["info proc mappings"]):
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
        views.said,
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
        lines = gdb(exe, str(core), commands=["bt"])
        attached = gdb("-p", str(process.pid), commands=["bt"])
    assert any("_PyEval_EvalFrameDefault" in line for line in lines)
    assert lines == attached
    assert b"core core core core core of python" in core.read_bytes()


def test_the_same_without_bpf_and_as_a_stream(views: Views, tmp_path: Path) -> None:
    core = tmp_path / "core"
    good("core", "--live", str(views.pid), "-o", str(core), "--no-bpf")
    frames = gdb(str(views.binary), str(core), commands=QUESTIONS["frames"])
    assert frames == views.attached["frames"]
    command = [sys.executable, "-m", "ckpt.cli", "core", "--live", str(views.pid), "-o", "-"]
    streamed = subprocess.run(command, capture_output=True, timeout=60)
    assert streamed.returncode == 0, streamed.stderr
    core.write_bytes(streamed.stdout)
    frames = gdb(str(views.binary), str(core), commands=QUESTIONS["frames"])
    assert frames == views.attached["frames"]


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
