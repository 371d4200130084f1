"""What `show` says of an image is what gdb says of the same process: frames, registers, memory."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from ckpt.debug.symbols import AddressSpace
from ckpt.objects.base import Records
from ckpt.restore import open_image
from tests.live.harness import PROGRAMS, TOOL, Build, Case, Target, wait_until

FLAGS: Final = ("-O2", "-fomit-frame-pointer", "-pthread", "-Wall", "-Wextra", "-Werror")
GDB: Final = ("gdb", "-nx", "-q", "-batch", "-iex", "set debuginfod enabled off")
# fmt: off
REGISTERS: Final = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15", "rip", "eflags",
)
# fmt: on
THREAD: Final = re.compile(r"^Thread \d+ \(.*LWP (\d+)\b")
FRAME: Final = re.compile(r"^#\d+\s+(?:0x([0-9a-f]+) in )?(.+?)(?: \(|$)")
VALUE: Final = re.compile(r"^(\w+)\s+0x([0-9a-f]+)\s")
HANDLER: Final = "<signal handler called>"


class Frame(NamedTuple):
    address: int | None
    name: str


class Gdb(NamedTuple):
    frames: dict[int, list[Frame]]
    registers: dict[int, dict[str, int]]
    memory: bytes


class Optimized(Build):
    """Programs without frame pointers, and with names from the symbol table only."""

    def _compile(self, source: Path, out: Path) -> None:
        command = ["gcc", *FLAGS, "-o", str(out), str(source)]
        subprocess.run(command, check=True, timeout=60)


@pytest.fixture(scope="module")
def build() -> Iterator[Optimized]:
    build = Optimized()
    yield build
    build.remove()


@pytest.fixture(scope="module")
def target(build: Optimized) -> Iterator[Target]:
    assert (PROGRAMS / "show_stacks.c").exists()
    with Target(Case("show_stacks"), build) as target:
        target.start()
        assert target.wait_ready()
        tasks = Path(f"/proc/{target.pid}/task")
        wait_until("every thread to wait", lambda: all(map(_waits, tasks.iterdir())), 10.0)
        target.snapshot("--leave-running")
        yield target


def _waits(task: Path) -> bool:
    return (task / "stat").read_text().rpartition(")")[2].split()[0] == "S" and (
        task / "syscall"
    ).read_text().split()[0].isdigit()


@pytest.fixture(scope="module")
def gdb(target: Target) -> Gdb:
    """Ask gdb after the image was made: its stop ends calls that ours does not."""
    if shutil.which("gdb") is None:
        pytest.skip("gdb is not installed")
    # Inlined functions are known to debugging information only.
    commands = ["thread apply all bt", "thread apply all info registers"]
    commands += ["x/64xb &show_numbers"]
    shown = [
        part for command in commands for part in ("-ex", f"echo @@{command}\\n", "-ex", command)
    ]
    nowhere = ("-iex", "set debug-file-directory /nowhere")
    with tempfile.TemporaryFile("w+") as said:
        subprocess.run(
            [*GDB, *nowhere, "-p", str(target.pid), *shown],
            stdout=said,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )
        said.seek(0)
        parts = dict(part.split("\n", 1) for part in said.read().split("@@")[1:])
    frames, registers, memory = (parts[command] for command in commands)
    return Gdb(_parse_frames(frames), _parse_registers(registers), _parse_bytes(memory))


def _by_thread(text: str) -> Iterator[tuple[int, str]]:
    tid = 0
    for line in text.splitlines():
        found = THREAD.match(line)
        tid = int(found[1]) if found else tid
        yield tid, line


def _parse_frames(text: str) -> dict[int, list[Frame]]:
    frames: dict[int, list[Frame]] = {}
    for tid, line in _by_thread(text):
        found = FRAME.match(line)
        if found:
            address = int(found[1], 16) if found[1] else None
            frames.setdefault(tid, []).append(Frame(address, found[2]))
    return frames


def _parse_registers(text: str) -> dict[int, dict[str, int]]:
    registers: dict[int, dict[str, int]] = {}
    for tid, line in _by_thread(text):
        found = VALUE.match(line)
        if found and found[1] in REGISTERS:
            registers.setdefault(tid, {})[found[1]] = int(found[2], 16)
    return registers


def _parse_bytes(text: str) -> bytes:
    lines = [line.partition(":")[2] for line in text.splitlines() if line.startswith("0x")]
    return bytes(int(value, 16) for line in lines for value in line.split())


def show(target: Target, *options: str) -> str:
    command = [*TOOL, "show", str(target.image), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def threads(target: Target) -> dict[int, Any]:
    found = json.loads(show(target, "--threads", "--json"))["threads"]
    return {thread["tid"]: thread for thread in found}


def test_backtraces_are_those_of_gdb(target: Target, gdb: Gdb, threads: dict[int, Any]) -> None:
    assert len(threads) == 6
    assert gdb.frames.keys() == threads.keys()
    with open_image(str(target.image)) as image:
        records = Records(image.records)
        with AddressSpace(image, records) as space:
            for tid, theirs in gdb.frames.items():
                ours = threads[tid]["backtrace"]
                # gdb does not go beyond main.
                assert len(ours) >= len(theirs), (tid, theirs, ours)
                assert len(ours) == len(theirs) or theirs[-1].name == "main"
                for frame, expected in zip(ours, theirs, strict=False):
                    _compare(space, frame, expected)


def _compare(space: AddressSpace, frame: dict[str, Any], expected: Frame) -> None:
    if expected.name == HANDLER:
        assert frame["place"] == HANDLER
        return
    assert expected.address in (None, frame["address"])
    if expected.name == "??":
        return  # A symbol that only we found, in a file of debugging information.
    module = space.module_at(frame["address"])
    assert module is not None and module.symbols is not None
    symbol = module.symbols.find_symbol(frame["address"] - 1 - module.bias)
    assert symbol is not None, (frame, expected)
    assert expected.name in module.symbols.aliases(symbol), (frame, expected)


def test_the_program_is_what_this_test_is_about(threads: dict[int, Any]) -> None:
    """A handler on its own stack, a callback, a lock, a frame aligned by hand: all were met."""
    stacks = [" ".join(frame["place"] for frame in t["backtrace"]) for t in threads.values()]
    for words in (
        ("wait_in_read", "on_usr1", HANDLER, "wait_in_poll", "run"),
        ("compare", "qsort", "sort_and_wait"),
        ("lock_and_wait", "run"),
        ("nanosleep", "sleep_realigned"),
        ("wait_in_epoll", "run"),
        ("wait_in_read", "main"),
    ):
        positions = [[stack.find(word) for word in words] for stack in stacks]
        assert any(found == sorted(found) and -1 not in found for found in positions), words
    assert all(not thread["problems"] for thread in threads.values())
    assert all(t["backtrace_end"] == "outermost frame" for t in threads.values())


def test_calls_have_their_arguments(threads: dict[int, Any]) -> None:
    calls = {thread["call"]: thread["arguments"] for thread in threads.values()}
    address, operation, value, timeout = calls["futex"]
    assert address.endswith("(show_stacks held)")
    assert (operation, value, timeout) == ("FUTEX_WAIT_PRIVATE", "2", "NULL")
    assert calls["poll"][0].startswith("[{3<pipe, read end, other end fd 4")
    assert calls["epoll_wait"][0].startswith("5<epoll")


def test_registers_are_those_of_gdb(gdb: Gdb, threads: dict[int, Any]) -> None:
    assert gdb.registers.keys() == threads.keys()
    for tid, theirs in gdb.registers.items():
        ours = threads[tid]["registers"]
        assert theirs == {name: ours[name] for name in REGISTERS}, tid


def test_memory_is_that_of_gdb(target: Target, gdb: Gdb) -> None:
    plain = json.loads(show(target, "--memory", "show_numbers:64", "--json"))
    ours = b"".join(bytes.fromhex(piece["hex"]) for piece in plain["pieces"])
    assert len(gdb.memory) == 64
    assert ours == gdb.memory


def test_code_equals_that_of_gdb(target: Target) -> None:
    """The instructions are those of objdump: addresses, bytes, and that none is left out."""
    binary = next(Path(target.command_line().split()[0]).parent.glob("show_stacks"))
    command = ["objdump", "-d", "-w", "--disassemble=wait_in_poll", str(binary)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    expected = re.findall(r"^\s+([0-9a-f]+):\t((?:[0-9a-f]{2} )+)", listing, re.MULTILINE)
    size = int(expected[-1][0], 16) + len(expected[-1][1].split()) - int(expected[0][0], 16)
    plain = json.loads(show(target, "--memory", f"wait_in_poll:{size}", "--disasm", "--json"))
    start = plain["address"] - int(expected[0][0], 16)
    assert [(line["address"] - start, line["code"]) for line in plain["code"]] == [
        (int(address, 16), code.replace(" ", "")) for address, code in expected
    ]
