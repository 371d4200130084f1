"""What is shown of an image: all of it, with names for addresses, and nothing that harms."""

from __future__ import annotations

import ctypes
import enum
import json
import os
import types
import typing
import unicodedata
from array import array
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from ckpt.arch.x86_64 import restart
from ckpt.arch.x86_64.decode import CallEntry
from ckpt.arch.x86_64.regs import REG_NAMES, X86Regs
from ckpt.debug.calls import describe_calls
from ckpt.debug.render import record_lines, render, to_plain
from ckpt.debug.show import json_parts, show_lines
from ckpt.debug.symbols import AddressSpace
from ckpt.image.reader import ImageFile, open_image_file
from ckpt.image.writer import ImageWriter
from ckpt.objects import record_types
from ckpt.objects.areas import Area, AreasRecord
from ckpt.objects.base import Record, Records
from ckpt.objects.interrupted import Interrupted
from ckpt.objects.mapped_files import MappedFile, read_build_id
from ckpt.objects.task import ThreadRecord
from ckpt.objects.vma_flags import Vm
from tests.unit.planning import process_record
from tests.unit.test_image_samples import HEADER

HOSTILE = "\x1b]0;owned\x07\x1b[2J\n\r\u202egnp.exe\x9b31m\udcff"
CODE_AT = 0x40_0000


def strategy_of(kind: Any) -> st.SearchStrategy[Any]:
    """Return values of a field's type, the nastier the better."""
    origin = typing.get_origin(kind)
    args = typing.get_args(kind)
    if origin is typing.Literal:
        return st.sampled_from(args)
    if origin is Annotated:
        return strategy_of(args[0])
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(strategy_of, args))
    if origin is list:
        return st.lists(strategy_of(args[0]), max_size=4)
    if origin is tuple:
        if args[1:] == (...,):
            return st.lists(strategy_of(args[0]), max_size=4).map(tuple)
        return st.tuples(*map(strategy_of, args))
    if origin is dict:
        return st.dictionaries(strategy_of(args[0]), strategy_of(args[1]), max_size=3)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return struct_of(kind)
    if isinstance(kind, type) and issubclass(kind, tuple):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{name: strategy_of(hint) for name, hint in hints.items()})
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return st.sampled_from(list(kind))
    simple: dict[Any, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(-(1 << 63), (1 << 64) - 1),
        float: st.floats(),
        str: st.one_of(st.text(max_size=20), st.just(HOSTILE)),
        bytes: st.one_of(
            st.binary(max_size=600), st.just(HOSTILE.encode("utf-8", "surrogateescape"))
        ),
        type(None): st.none(),
    }
    return simple[kind]


def struct_of(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: strategy_of(hints[field.name]) for field in msgspec.structs.fields(kind)}

    def make(**values: Any) -> Any:
        try:
            return kind(**values)
        except ValueError:  # A record refuses what no image may hold.
            reject()

    return st.builds(make, **fields)


def assert_harmless(text: str) -> None:
    bad = [char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert not bad, (bad, text)


@pytest.mark.parametrize("kind", record_types(), ids=lambda kind: str(kind.__struct_config__.tag))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_record_can_harm_a_terminal(kind: type[Record], data: st.DataObject) -> None:
    record = data.draw(struct_of(kind))
    for line in record_lines(record):
        assert_harmless(line)
        assert len(line) < 100_000
    assert_harmless(json.dumps(to_plain(record)))


def regs(**values: int) -> X86Regs:
    return X86Regs(**{**dict.fromkeys(REG_NAMES, 0), **values})


def thread(rip: int, comm: bytes = b"worker") -> ThreadRecord:
    call = Interrupted(
        kind=restart.Kind.NATIVE,
        name="pause",
        nr=34,
        entry=CallEntry.SYSCALL,
        reason="ERESTARTNOHAND, the kernel restarts it",
    )
    return ThreadRecord(
        tid=412, comm=comm, regs=regs(rip=rip), clear_child_tid=None, interrupted=call
    )


def open_sample(folder: Path, *records: Record, code: bytes = b"") -> ImageFile:
    """Write an image of these records; `code` is the page at CODE_AT of object 1."""
    path = str(folder / "sample.ckpt")
    with ImageWriter.create(path, 4096) as writer:
        if code:
            offset = writer.pages.begin(1, 4096)
            writer.pages.write_at(offset, code.ljust(4096, b"\0"))
            writer.pages.end(1, array("Q", [CODE_AT, 4096]))
        writer.write_header(msgspec.structs.replace(HEADER, arch=os.uname().machine))
        writer.write_records(records)
        writer.commit()
    return open_image_file(path, record_types())


def anonymous(start: int, end: int, flags: int = Vm.READ | Vm.EXEC) -> AreasRecord:
    return AreasRecord(ref=1, areas=[Area(start, end, int(flags), 0)], files=[], guards=[])


def test_the_call_instruction_is_read_from_the_image(tmp_path: Path) -> None:
    records = (process_record(412), thread(CODE_AT + 0x102), anonymous(CODE_AT, CODE_AT + 4096))
    code = b"\x90" * 0x100 + b"\x0f\x05"
    with open_sample(tmp_path, *records, code=code) as image:
        text = "\n".join(show_lines(image))
        plain = json.loads("".join(json_parts(image)))
    assert "thread 412 (worker): pause: native: ERESTARTNOHAND, the kernel restarts it" in text
    assert "instruction: syscall at 0x400100" in text
    assert "rip: 0x400102 (anonymous memory)" in text
    assert plain["threads"][0]["instruction"] == "syscall at 0x400100"
    assert [record["type"] for record in plain["records"]] == ["process", "thread", "areas"]
    assert plain["pages"] == [{"ref": 1, "bytes": 4096, "extents": 1}]


def test_code_that_is_nowhere_is_said_to_be_unreadable(tmp_path: Path) -> None:
    for rip in (0, 1, 0x1234, (1 << 64) - 1):
        with open_sample(tmp_path, process_record(412), thread(rip)) as image:
            [call] = describe_calls(
                Records(image.records), AddressSpace(image, Records(image.records))
            )
        assert call.instruction == "instruction not readable"


def libc_area(address: int) -> tuple[Area, MappedFile]:
    """Return our own area at `address` and the file behind it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, _, _, *path = line.split(None, 5)
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= address < end:
            status = os.stat(path[0])
            with open(path[0], "rb") as file:
                build_id = read_build_id(file.fileno())
            found = MappedFile(path[0], status.st_dev, status.st_ino, status.st_size, 0, build_id)
            return Area(start, end, int(Vm.READ | Vm.EXEC), int(offset, 16), 0), found
    raise AssertionError(f"{address:#x} is not mapped")


def test_addresses_have_the_file_and_the_symbol(tmp_path: Path) -> None:
    function = ctypes.CDLL(None).getpid
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    area, file = libc_area(address)
    layout = AreasRecord(ref=1, areas=[area], files=[file], guards=[])
    records = (process_record(412), thread(address + 2), layout)
    with open_sample(tmp_path, *records) as image, AddressSpace(image, Records(records)) as space:
        assert "getpid" in space.locate(address)
        assert "getpid+0x2" in space.locate(address + 2)
        assert space.locate(area.end) == ""
        assert space.read(address, 4) == ctypes.string_at(address, 4)


def test_another_build_of_a_file_gives_no_names(tmp_path: Path) -> None:
    """Wrong names would be worse than none."""
    address = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p).value or 0
    area, file = libc_area(address)
    other = msgspec.structs.replace(file, build_id=b"\0" * 20)
    layout = AreasRecord(ref=1, areas=[area], files=[other], guards=[])
    records = (process_record(412), layout)
    with open_sample(tmp_path, *records) as image, AddressSpace(image, Records(records)) as space:
        assert (
            space.locate(address)
            == f"{Path(file.path).name}+{address - area.start + area.offset:#x}"
        )
        assert space.read(address, 4) == b""


@pytest.mark.parametrize("what", ["fifo", "device", "missing", "nul", "garbage", "bad_elf"])
def test_files_that_an_image_names_are_not_trusted(tmp_path: Path, what: str) -> None:
    """Nothing hangs, nothing is opened but regular files, nothing escapes."""
    path = tmp_path / "file"
    name = {"device": "/dev/zero", "nul": "a\0b"}.get(what, str(path))
    if what == "fifo":
        os.mkfifo(path)
    elif what == "garbage":
        path.write_bytes(os.urandom(5000))
    elif what == "bad_elf":
        elf = bytearray(Path("/proc/self/exe").read_bytes()[:100_000])
        elf[40:48] = (1 << 60).to_bytes(8, "little")  # e_shoff
        path.write_bytes(elf)
    status = path.stat() if path.exists() else os.stat("/dev/zero")
    file = MappedFile(name, 1, 1, status.st_size, status.st_mtime_ns)
    layout = AreasRecord(
        ref=1, areas=[Area(CODE_AT, CODE_AT + 4096, 5, 0, 0)], files=[file], guards=[]
    )
    records = (process_record(412), thread(CODE_AT + 16), layout)
    with open_sample(tmp_path, *records) as image:
        for line in show_lines(image):
            assert_harmless(line)


def test_hostile_records_are_shown_harmlessly() -> None:
    file = MappedFile(HOSTILE.encode("utf-8", "replace").decode(), 1, 1, 1, 1, b"\x1b" * 20)
    areas = [
        Area(CODE_AT, CODE_AT + 4096, -1, 1 << 70, 0, anon_name=b"\x1b[31m"),
        Area(0, 1 << 64, 5, 0, 99, special=b"\n\n[vdso]"),
        Area(CODE_AT + 8192, CODE_AT, 5, -5, -7, policy="\x1b"),
    ]
    layout = AreasRecord(ref=1, areas=areas, files=[file], guards=[(1, -1)])
    records = (process_record(412), thread(CODE_AT, b"\x1b[5m\n"), layout)

    class Direct:
        """An image whose records never went through the decoder: worse than any file can be."""

        status = os.stat("/dev/null")
        header = HEADER

        def __init__(self) -> None:
            self.path = HOSTILE
            self.pages: dict[int, object] = {}
            self.records = list(records)

    for line in show_lines(typing.cast("ImageFile", Direct())):
        assert_harmless(line)
    assert_harmless("".join(json_parts(typing.cast("ImageFile", Direct()))).replace("\n", ""))


@pytest.mark.parametrize(
    ("value", "field", "text"),
    [
        (b"plain", "comm", "'plain'"),
        (b"\x7fELF", "program", "7f454c46"),
        (b"x" * 300, "tail", f"'{'x' * 256}'... 300 bytes"),
        (0o22, "umask", "0022"),
        (0x1234, "handler", "0x1234"),
        (1_500_000_000_000_000, "value_ns", "1500000000000000"),
        (None, "clear_child_tid", "-"),
        (True, "leader_alive", "yes"),
        ([], "tids", "[]"),
        (list(range(2000)), "tids", None),
    ],
)
def test_values_are_readable(value: Any, field: str, text: str | None) -> None:
    shown = render(value, field)
    assert shown == text if text is not None else shown.endswith("... 976 more]")
