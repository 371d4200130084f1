"""Backtraces: the rules read from real files equal pyelftools', and nothing hostile gets far."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt.arch.x86_64.vdso import read_host_vdso
from ckpt.debug.elf import ElfSymbols, Symbol, read_symbols
from ckpt.debug.space import Module
from ckpt.debug.unwind import (
    SIGNAL_HANDLER_CALLED,
    Frame,
    backtrace,
    name_frame,
    walk_stack,
)
from ckpt.debug.unwind_data import MASK, Cursor, MalformedError
from ckpt.debug.unwind_expression import evaluate
from ckpt.debug.unwind_rules import RETURN, How, Row, find_row
from ckpt.debug.unwind_table import find_entry
from ckpt.objects.areas import Area
from ckpt.objects.vma_flags import Vm

LOADER: Final = "/lib64/ld-linux-x86-64.so.2"
CODE, STACK, PAGES = 0x40_0000, 0x7000_0000, 4 * 4096
SIGRETURN: Final = b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05"
TYPES: Final = {
    "UNDEFINED": How.UNDEFINED,
    "SAME_VALUE": How.SAME,
    "OFFSET": How.OFFSET,
    "VAL_OFFSET": How.VALUE_OFFSET,
    "REGISTER": How.REGISTER,
    "EXPRESSION": How.EXPRESSION,
    "VAL_EXPRESSION": How.VALUE_EXPRESSION,
}


class FileSpace:
    """A file mapped at the addresses that it says itself."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY)
        symbols = read_symbols(self.fd, 1 << 28)
        assert symbols is not None
        self.symbols: ElfSymbols = symbols
        self.module = Module(path, 0, symbols)

    def find_area(self, _address: int) -> None:
        return None

    def locate(self, address: int) -> str:
        return self.symbols.name_address(address)

    def module_at(self, _address: int) -> Module:
        return self.module

    def find_symbol(self, address: int) -> Symbol | None:
        return self.symbols.find_symbol(address)

    def read(self, address: int, size: int) -> bytes:
        for load in self.symbols.loads:
            past = address - load.address
            if 0 <= past < load.file_bytes:
                return os.pread(self.fd, min(size, load.file_bytes - past), load.offset + past)
        return b""


@pytest.fixture(scope="module")
def vdso_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("vdso") / "vdso.so"
    path.write_bytes(read_host_vdso()[0])
    return str(path)


@pytest.fixture(scope="module")
def lazy_program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A program whose PLT has rules with an expression."""
    path = tmp_path_factory.mktemp("lazy") / "lazy"
    source = b'int puts(const char *); int main(void) { return puts(""); }'
    command = ["gcc", "-O1", "-Wl,-z,lazy", "-fcf-protection=none", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=source, check=True, timeout=60)
    return str(path)


def mapped_library(name: str) -> str:
    """Return the path of a library, loading it if it is not."""
    ctypes.CDLL(name)
    lines = Path("/proc/self/maps").read_text().splitlines()
    stem = name.partition(".")[0]
    return next(line.split()[-1] for line in lines if f"/{stem}." in line)


@pytest.fixture(params=["loader", "libm", "vdso", "plt"])
def elf_path(request: pytest.FixtureRequest, vdso_file: str, lazy_program: str) -> str:
    if request.param == "libm":
        return mapped_library("libm.so.6")
    return {"loader": LOADER, "vdso": vdso_file, "plt": lazy_program}[request.param]


def expected_rows(path: str) -> list[tuple[int, dict[Any, Any]]]:
    """Return (address, row) of every row of every entry, as pyelftools decodes them."""
    with open(path, "rb") as file:
        info = ELFFile(file).get_dwarf_info(follow_links=False)
        entries = [entry for entry in info.EH_CFI_entries() if isinstance(entry, FDE)]
        return [(row["pc"], row) for entry in entries for row in entry.get_decoded().table]


def same_rule(ours: Any, theirs: Any) -> bool:
    how = TYPES[theirs.type]
    if ours is None or ours.how is not how:
        return how is How.SAME and ours is None
    if how in (How.EXPRESSION, How.VALUE_EXPRESSION):
        return bytes(theirs.arg) == ours.expression
    return how in (How.UNDEFINED, How.SAME) or theirs.arg == ours.number


def compare_row(ours: Row, theirs: dict[Any, Any]) -> str:
    cfa = theirs["cfa"]
    if cfa.expr is not None:
        if bytes(cfa.expr) != ours.cfa.expression:
            return "CFA expression"
    elif (cfa.reg, cfa.offset) != ours.cfa[:2]:
        return f"CFA {ours.cfa}"
    for number in set(theirs) - {"pc", "cfa"} | set(ours.rules):
        if number not in theirs:
            return f"rule of register {number} too many"
        if not same_rule(ours.rules.get(number), theirs[number]):
            return f"register {number}: {ours.rules.get(number)}"
    return ""


def test_the_rules_of_real_files_are_those_that_pyelftools_reads(elf_path: str) -> None:
    space = FileSpace(elf_path)
    rows = expected_rows(elf_path)
    assert len(rows) >= 5
    # A million-row file would only be slower.
    for address, theirs in rows[:: max(len(rows) // 5000, 1)]:
        entry = find_entry(space, space.module, address)
        assert entry is not None, hex(address)
        difference = compare_row(find_row(entry, address), theirs)
        assert not difference, (hex(address), difference, theirs)


def test_a_procedure_linkage_table_has_an_expression(lazy_program: str) -> None:
    """Before and behind the push of an entry, the CFA is elsewhere by a word."""
    space = FileSpace(lazy_program)
    rows = expected_rows(lazy_program)
    start = next(address for address, row in rows if row["cfa"].expr is not None)
    entry = find_entry(space, space.module, start)
    assert entry is not None
    expression = find_row(entry, start).cfa.expression
    for past, distance in ((0, 8), (10, 8), (11, 16), (15, 16), (16, 8)):
        known = {7: STACK, RETURN: start + past}
        assert evaluate(expression, known, space.read) == STACK + distance


def test_the_rules_of_the_signal_trampoline_lead_where_its_frame_does() -> None:
    """glibc's __restore_rt: by its code, as everywhere, and by its rules, where code is unread."""
    space = FileSpace(mapped_library("libc.so.6"))
    places = [load.address for load in space.symbols.loads]
    texts = [space.read(load.address, load.file_bytes) for load in space.symbols.loads]
    [place] = [
        at + text.find(SIGRETURN)
        for at, text in zip(places, texts, strict=True)
        if SIGRETURN in text
    ]
    entry = find_entry(space, space.module, place - 1)
    assert entry is not None and entry.cie.is_signal_frame
    found = []
    for hides_code in (False, True):
        both = TrampolineSpace(space, place if hides_code else 0)
        walk = walk_stack(both, registers(place), 2)
        found.append([frame._replace(cfa=0) for frame in walk.frames])
        assert walk.frames[0].is_trampoline
    assert found[0] == found[1]
    assert found[0][1].address == CODE + 2048
    assert found[0][1].how == "signal frame"


def test_an_address_between_functions_has_no_entry() -> None:
    space = FileSpace(LOADER)
    start = space.symbols.loads[0].address
    assert find_entry(space, space.module, start) is None
    assert find_entry(space, space.module, MASK) is None
    assert find_entry(space, Module("none", 0, None, "gone"), 0x1000) is None


class FakeSpace:
    """Code at CODE, a stack at STACK, and a module whose unwind table is anything."""

    def __init__(self, stack: bytes = b"", code: bytes = b"", module: Module | None = None) -> None:
        self.memory = {CODE: code.ljust(PAGES, b"\x90"), STACK: stack.ljust(PAGES, b"\0")}
        self.module = module
        self.symbols: list[Symbol] = []
        self.reads = 0

    def find_area(self, address: int) -> Area | None:
        for start, data in self.memory.items():
            if start <= address < start + len(data):
                flags = Vm.READ | (Vm.EXEC if start == CODE else Vm.WRITE)
                return Area(start, start + len(data), flags, 0)
        return None

    def locate(self, address: int) -> str:
        return f"code+{address - CODE:#x}" if self.find_area(address) else ""

    def module_at(self, address: int) -> Module | None:
        return self.module if CODE <= address < CODE + PAGES else None

    def find_symbol(self, address: int) -> Symbol | None:
        inside = (one for one in self.symbols if one.value <= address < one.value + one.size)
        return next(inside, None)

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        area = self.find_area(address)
        if area is None:
            return b""
        return self.memory[area.start][address - area.start :][:size]


class TrampolineSpace(FakeSpace):
    """A signal frame at STACK, and libc's trampoline, whose code may be unreadable."""

    def __init__(self, libc: FileSpace, hidden: int) -> None:
        context = words(*range(8, 16), 5, 4, 6, 3, 1, 0, 2, STACK + 4096, CODE + 2048)
        super().__init__(bytes(40) + context)
        self._libc = libc
        self._hidden = hidden

    def find_area(self, address: int) -> Area | None:
        text = Area(4096, 1 << 30, int(Vm.READ | Vm.EXEC), 0)
        return super().find_area(address) or (text if address < CODE else None)

    def module_at(self, address: int) -> Module | None:
        return self._libc.module if address < CODE else None

    def read(self, address: int, size: int) -> bytes:
        if self._hidden <= address < self._hidden + 16:
            return b""
        return super().read(address, size) if address >= CODE else self._libc.read(address, size)


def registers(rip: int, rsp: int = STACK, rbp: int = 0, **more: int) -> SimpleNamespace:
    return SimpleNamespace(rip=rip, rsp=rsp, rbp=rbp, **more)


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def test_frame_pointers_lead_to_the_outermost_frame() -> None:
    stack = words(0, 0, STACK + 48, CODE + 20, 0, 0, 0, CODE + 30, 7, 7)
    walk = walk_stack(FakeSpace(stack), registers(CODE, rbp=STACK + 16))
    assert [frame.address for frame in walk.frames] == [CODE, CODE + 20, CODE + 30]
    assert [frame.how for frame in walk.frames] == ["registers"] + ["frame pointer"] * 2
    assert [frame.lookup for frame in walk.frames] == [CODE, CODE + 19, CODE + 29]
    assert walk.frames[0].cfa == STACK + 32
    assert walk.end == "no unwind information, and the frame pointer is 0"


@pytest.mark.parametrize(
    ("stack", "rbp"),
    [
        (words(STACK, CODE), STACK),  # a frame that is its own caller
        (words(STACK + 16, CODE, STACK, CODE), STACK),  # two that call each other
        (words(0, STACK), STACK),  # a return address that is no code
        (words(0, CODE), STACK + 1),
        (b"", MASK - 7),
        (b"", STACK - 4096),
    ],
)
def test_frame_pointers_that_lead_nowhere_end_the_walk(stack: bytes, rbp: int) -> None:
    space = FakeSpace(stack)
    frames = backtrace(space, registers(CODE, rbp=rbp), 1000)
    assert len(frames) <= 3
    assert space.reads < 100


def test_the_limit_is_kept() -> None:
    chain = b"".join(words(STACK + 16 * (at + 1), CODE + 1 + at) for at in range(500))
    walk = walk_stack(FakeSpace(chain), registers(CODE, rbp=STACK), 64)
    assert len(walk.frames) == 64
    assert walk.end == "limit of 64 frames"
    assert len(backtrace(FakeSpace(chain), registers(CODE, rbp=STACK), 0)) == 0


def test_a_call_through_a_bad_pointer_shows_who_called() -> None:
    walk = walk_stack(FakeSpace(words(CODE + 100)), registers(0))
    assert [(frame.address, frame.how) for frame in walk.frames] == [
        (0, "registers"),
        (CODE + 100, "stack top"),
    ]
    nowhere = walk_stack(FakeSpace(words(STACK)), registers(0x1234))
    assert nowhere.end == "there is no code at 0x1234"


def test_a_function_that_has_pushed_nothing_is_found_by_the_call_to_it() -> None:
    """As Go's and other assembly: no unwind information, and rbp is still the caller's."""
    call = b"\xe8" + struct.pack("<i", 0x800 - 0x105)
    space = FakeSpace(words(CODE + 0x105, 0, 0, CODE + 9), bytes(0x100) + call)
    space.symbols = [Symbol(CODE + 0x800, 64, 0)]
    walk = walk_stack(space, registers(CODE + 0x810, rbp=STACK + 16))
    assert [(frame.address - CODE, frame.how) for frame in walk.frames] == [
        (0x810, "registers"),
        (0x105, "stack top"),
        (9, "frame pointer"),
    ]
    assert walk.end == "no unwind information, and the frame pointer is 0"
    space.symbols = [Symbol(CODE + 0x801, 64, 0)]
    frames = backtrace(space, registers(CODE + 0x810, rbp=STACK + 16))
    assert [frame.address - CODE for frame in frames] == [0x810, 9]


def test_a_signal_frame_leads_back_to_what_was_interrupted() -> None:
    context = words(*range(8, 16), 5, 4, 6, 3, 1, 0, 2, STACK + 4096, CODE + 2048)
    stack = bytes(40) + context
    space = FakeSpace(stack, SIGRETURN)
    for rip in (CODE, CODE + 7):
        walk = walk_stack(space, registers(rip))
        assert walk.frames[0].is_trampoline
        assert name_frame(space, walk.frames[0]) == SIGNAL_HANDLER_CALLED
        assert (walk.frames[1].address, walk.frames[1].how) == (CODE + 2048, "signal frame")
        assert walk.frames[1].lookup == CODE + 2048
    cut = walk_stack(space, registers(CODE, STACK + PAGES - 50))
    assert cut.end == "the signal frame cannot be read"


def test_32_bit_code_is_said_not_to_be_unwound() -> None:
    walk = walk_stack(FakeSpace(), registers(CODE, cs=0x23))
    assert len(walk.frames) == 1
    assert walk.end == "32-bit code is not unwound"


def test_a_missing_file_is_said_and_frame_pointers_are_used() -> None:
    module = Module("/gone", 0, None, "cannot be opened: No such file or directory")
    walk = walk_stack(FakeSpace(words(0, CODE + 9), module=module), registers(CODE, rbp=STACK))
    assert [frame.how for frame in walk.frames] == ["registers", "frame pointer"]
    assert walk.problems == {"/gone": "cannot be opened: No such file or directory"}


def test_a_return_address_is_named_by_the_call_before_it() -> None:
    space = FakeSpace()
    frame = Frame(CODE + 0x20, 0, "eh_frame", is_return=True)
    assert name_frame(space, frame) == "code+0x20"
    assert name_frame(space, Frame(CODE + 0x20, 0, "registers")) == "code+0x20"


class Table:
    """A module whose `.eh_frame_hdr` is at CODE + 4096."""

    unwind_table = (4096, PAGES)


def fake_table(content: bytes) -> FakeSpace:
    symbols: Any = Table()
    code = bytes(4096) + content
    return FakeSpace(code=code[:PAGES], module=Module("fake", CODE, symbols))


def small_table(program: bytes, augmentation: bytes = b"zR\0") -> bytes:
    """Return `.eh_frame_hdr` with one entry for CODE to CODE + 256, whose rules are `program`."""
    head = b"\x01\x1b\x03\x3b" + struct.pack("<iI", 0, 1)
    row = struct.pack("<ii", -4096, 64)
    cie = (
        struct.pack("<IB", 0, 1) + augmentation + b"\x01\x78\x10\x01\x1b" + b"\x0c\x07\x08\x90\x01"
    )
    cie = struct.pack("<I", len(cie)) + cie
    cie_at, fde_at = 24, 64
    body = struct.pack("<IiI", fde_at + 4 - cie_at, -4096 - fde_at - 8, 256)
    body += b"\0" + program
    fde = struct.pack("<I", len(body)) + body
    return ((head + row).ljust(cie_at, b"\0") + cie).ljust(fde_at, b"\0") + fde


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 300))
def test_no_program_of_rules_runs_away(program: bytes, at: int) -> None:
    space = fake_table(small_table(program))
    walk = walk_stack(space, registers(CODE + at, rbp=STACK + 64, rbx=1, r12=2))
    assert 1 <= len(walk.frames) <= 64
    assert space.reads < 2000


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=700))
def test_no_table_runs_away(content: bytes) -> None:
    for head in (b"", b"\x01\x1b\x03\x3b", small_table(b"")[:64]):
        space = fake_table(head + content)
        assert len(backtrace(space, registers(CODE + 5, rbp=STACK))) <= 64


def test_the_hand_made_table_is_read() -> None:
    """Else the two tests above would test nothing."""
    space = fake_table(small_table(b"\x41\x0e\x10"))
    space.memory[STACK] = words(0, CODE + 0x30, CODE + 0x40).ljust(PAGES, b"\0")
    walk = walk_stack(space, registers(CODE + 5))
    assert [frame.address for frame in walk.frames[:2]] == [CODE + 5, CODE + 0x30]
    assert walk.frames[1].how == "eh_frame"
    assert not walk.problems
    before = walk_stack(space, registers(CODE))
    assert (len(before.frames), before.end) == (1, "outermost frame")


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (b"\x77\x08\x80\x00\x3f\x1a\x3b\x2a\x33\x24\x22", None),  # what a PLT has
        (b"\x0a\x34\x12", 0x1234),
        (b"\x09\xff", MASK),
        (b"\x31\x32\x1c", MASK),
        (b"\x37\x12\x1e", 49),
        (b"\x31\x2f\xfc\xff", MalformedError),  # it jumps back to itself
        (b"\x12", MalformedError),
        (b"\x06", MalformedError),
        (b"\x31\x30\x1b", MalformedError),
        (b"\x31\x30\x1d", MalformedError),
        (b"\x9c", MalformedError),
        (b"\x30\x28\x00\x00\x35", 5),
        (b"\x39\x31\x32\x16\x1c", 1),
        (b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", MalformedError),
    ],
)
def test_expressions(expression: bytes, value: Any) -> None:
    known = {7: STACK, RETURN: 0x100B}
    read = FakeSpace().read
    if value is MalformedError:
        with pytest.raises(MalformedError):
            evaluate(expression, known, read)
    elif value is None:
        assert evaluate(expression, known, read) == STACK + 8 + 8
        assert evaluate(expression, {7: STACK, RETURN: 0x100A}, read) == STACK + 8
    else:
        assert evaluate(expression, known, read) == value


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=40))
def test_no_expression_runs_away(expression: bytes) -> None:
    space = FakeSpace(words(*range(100)))
    try:
        assert 0 <= evaluate(expression, dict.fromkeys(range(17), STACK), space.read, STACK) <= MASK
    except MalformedError:
        pass
    assert space.reads <= 1000


@pytest.mark.parametrize(
    ("data", "unsigned", "signed"),
    [(b"\x7f", 127, -1), (b"\x80\x7f", 16256, -128), (b"\xe5\x8e\x26", 624485, 624485)],
)
def test_leb128(data: bytes, unsigned: int, signed: int) -> None:
    assert Cursor(data).uleb() == unsigned
    assert Cursor(data).sleb() == signed
