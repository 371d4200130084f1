"""An image as objects: tasks, threads, descriptors and memory, of images somebody made up."""

from __future__ import annotations

import contextlib
import itertools
import os
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ckpt.debug.__main__ import main
from ckpt.debug.session import Session, open_session
from ckpt.debug.session_complete import Completer
from ckpt.debug.session_memory import FaultError
from ckpt.debug.session_views import Number, View, wrap
from ckpt.errors import ImageError
from ckpt.image.writer import ImageWriter
from ckpt.objects import record_types
from ckpt.objects.areas import Area, AreasRecord
from ckpt.objects.base import Record
from ckpt.objects.dispositions import Sighand
from ckpt.objects.file_kinds.inode import InodeContent
from ckpt.objects.file_kinds.pipe import Pipe, PipeFile
from ckpt.objects.file_kinds.regular import RegularFile
from ckpt.objects.files import Descriptor, FileTable
from ckpt.objects.fs import FsRecord
from ckpt.objects.interrupted import RearmFacts
from ckpt.objects.mapped_files import MappedFile
from ckpt.objects.mm import MmRecord
from ckpt.objects.signals import ThreadSignals
from ckpt.objects.task import ThreadRecord
from ckpt.objects.vma_flags import Vm
from tests.unit.planning import process_record
from tests.unit.test_image_samples import HEADER
from tests.unit.test_show import HOSTILE, assert_harmless, struct_of, thread

PAGE = 4096
AT = 0x10_0000
RW = int(Vm.READ | Vm.WRITE | Vm.MAYREAD | Vm.MAYWRITE)
HOSTILE_BYTES = HOSTILE.encode("utf-8", "surrogateescape")
Pages = Mapping[int, Sequence[tuple[int, bytes]]]
"""objref -> (start, whole pages), by start."""


def mm_record(**fields: Any) -> MmRecord:
    names = set(MmRecord.__struct_fields__) - {"ref", "auxv", "exe"}
    exe = MappedFile("/nowhere/prog", 0, 0, 0, 0)
    return MmRecord(**{**dict.fromkeys(names, 0), "ref": 1, "auxv": b"", "exe": exe, **fields})


def tables(*descriptors: Descriptor) -> list[Record]:
    return [
        FileTable(ref=2, descriptors=list(descriptors)),
        FsRecord(ref=3, cwd=b"/", cwd_mode=0o40755, is_cwd_removed=False, root=b"/", umask=0),
        Sighand(ref=4, dispositions=[]),
    ]


def layout(*areas: Area, **fields: Any) -> AreasRecord:
    return AreasRecord(**{"ref": 1, "areas": list(areas), "files": [], "guards": [], **fields})


def write_image(path: Path, records: Sequence[Record], pages: Pages | None = None) -> str:
    """Write an image of these records and pages; return its path."""
    with ImageWriter.create(str(path), PAGE) as writer:
        for ref, parts in (pages or {}).items():
            offset = writer.pages.begin(ref, sum(len(content) for _, content in parts))
            for _, content in parts:
                writer.pages.write_at(offset, content)
                offset += len(content)
            pairs = [number for start, content in parts for number in (start, len(content))]
            writer.pages.end(ref, array("Q", pairs))
        writer.write_header(replace(HEADER, arch=os.uname().machine))
        writer.write_records(records)
        writer.commit()
    return str(path)


def open_sample(folder: Path, *records: Record, pages: Pages | None = None) -> Session:
    """Open an image of process 412 with these records."""
    given_tids = [one.tid for one in records if isinstance(one, ThreadRecord)]
    first: list[Record] = [process_record(*(given_tids or [412]))]
    if not given_tids:
        first.append(thread(0x1234))
    return open_session(write_image(folder / "image", [*first, *records], pages))


def test_memory_across_stored_zero_and_missing_pages(tmp_path: Path) -> None:
    stored = b"\x11" * PAGE + (0x1122334455667788).to_bytes(8, "little") + b"hello\0" + bytes(4082)
    areas = layout(
        Area(AT, AT + 8 * PAGE, RW, 0), Area(AT + 9 * PAGE, AT + 10 * PAGE, RW, 0),
        guards=[(AT + 6 * PAGE, PAGE)],
    )  # fmt: skip
    with open_sample(tmp_path, areas, mm_record(), pages={1: [(AT + PAGE, stored)]}) as img:
        memory = img.memory
        whole = memory.read(AT, 6 * PAGE)
        assert whole == bytes(PAGE) + stored + bytes(3 * PAGE)
        assert memory.read(AT + PAGE - 3, 6) == b"\0\0\0\x11\x11\x11"
        assert memory.u64(AT + 2 * PAGE) == 0x1122334455667788
        assert memory.u32(AT + 2 * PAGE) == 0x55667788
        assert memory.u16(AT + 2 * PAGE) == 0x7788
        assert memory.u8(AT + 2 * PAGE) == 0x88
        assert memory.i64(AT) == 0
        assert memory.string(AT + 2 * PAGE + 8) == "hello"
        sources = [(one.start, one.source) for one in memory.ranges(AT, AT + 9 * PAGE)]
        assert sources[:3] == [(AT, "zeros"), (AT + PAGE, "image"), (AT + 3 * PAGE, "zeros")]
        assert [known.is_known for known in memory.ranges(AT + 6 * PAGE, AT + 7 * PAGE)] == [False]
        for address, bad in ((AT + 5 * PAGE, AT + 6 * PAGE), (AT + 7 * PAGE, AT + 8 * PAGE)):
            with pytest.raises(FaultError) as caught:
                memory.read(address, 2 * PAGE)
            assert caught.value.address == bad
        for address in (-1, 1 << 64, (1 << 64) - 1):
            with pytest.raises(FaultError):
                memory.read(address, 8)
        with pytest.raises(ValueError, match="at most"):
            memory.read(AT, 1 << 40)


def test_search_finds_what_lies_across_chunks_and_untouched_pages(tmp_path: Path) -> None:
    chunk = 1 << 20
    stored = bytearray(b"\x55" * (2 * chunk))
    stored[chunk - 3 : chunk + 3] = b"needle"
    stored[-3:] = b"nee"
    stored[:3] = b"\0dl"
    end = AT + 2 * chunk
    areas = layout(Area(AT - 4 * PAGE, end + 4 * PAGE, RW, 0))
    with open_sample(tmp_path, areas, mm_record(), pages={1: [(AT, bytes(stored))]}) as img:
        assert list(img.memory.search(b"needle")) == [AT + chunk - 3]
        assert list(img.memory.search(b"nee\0\0")) == [end - 3]
        assert list(img.memory.search(b"\0\0\0dl")) == [AT - 2]
        assert list(img.memory.search(b"\x55", limit=2)) == [AT + 3, AT + 4]
        assert list(img.memory.search(b"needle", start=AT + chunk)) == []
        with pytest.raises(ValueError, match="zero"):
            next(img.memory.search(b"\0\0"))


def test_a_huge_reservation_costs_nothing(tmp_path: Path) -> None:
    """An image may claim areas of any size: what was never touched is not read."""
    areas = layout(Area(AT, 1 << 46, RW, 0))
    with open_sample(tmp_path, areas, mm_record(), pages={1: [(AT, b"x" * PAGE)]}) as img:
        assert list(img.memory.search(b"xy")) == []
        assert list(img.memory.search(b"x\0")) == [AT + PAGE - 1]


def test_memory_of_a_file_that_is_in_the_image(tmp_path: Path) -> None:
    file = MappedFile("/memfd:shared (deleted)", 0, 0, 2 * PAGE + 5, 0, b"", 9)
    content = InodeContent(
        ref=9, kind="memfd", name=b"shared", ino=0, size=2 * PAGE + 5, mode=0o100600, uid=0, gid=0,
        mtime_ns=0, seals=0, has_pages=True, tail=b"tail!",
    )  # fmt: skip
    areas = layout(Area(AT, AT + 4 * PAGE, RW | Vm.SHARED, 0, 0), files=[file])
    pages = {9: [(PAGE, b"c" * PAGE)]}
    with open_sample(tmp_path, areas, mm_record(), content, pages=pages) as img:
        assert img.memory.read(AT, 3 * PAGE) == (
            bytes(PAGE) + b"c" * PAGE + b"tail!".ljust(PAGE, b"\0")
        )
        with pytest.raises(FaultError, match="end of its file"):
            img.memory.read(AT + 3 * PAGE, 1)


def test_threads_by_index_and_by_tid(tmp_path: Path) -> None:
    threads = [replace(thread(0x1234 + tid), tid=tid, comm=b"t%d" % tid) for tid in (412, 1, 5)]
    with open_sample(tmp_path, *threads, layout(), mm_record()) as img:
        task = img.tasks[412]
        assert [one.tid for one in task.threads] == [412, 1, 5]
        assert task.threads[1].tid == 1 == task.threads[-2].tid
        assert task.threads[5].comm == "t5"
        assert task.threads.by_tid(1) is task.threads[1]
        assert img.threads[5] is task.threads[5]
        assert task.threads[5].regs.rip == 0x1239
        for wrong in (3, 999):
            with pytest.raises(IndexError):
                task.threads[wrong]
        assert task.threads[0].restart_block is None


def test_a_restart_block_and_signals(tmp_path: Path) -> None:
    call = thread(0).interrupted
    block = RearmFacts(fn="hrtimer_nanosleep_restart", remaining_ns=5, clockid=1)
    armed = replace(thread(0x1234), interrupted=replace(call, rearm=block))
    pending = (10).to_bytes(4, "little").ljust(128, b"\0")
    signals = ThreadSignals(tid=412, mask=1 << 11, pending=[pending, b"short"])
    with open_sample(tmp_path, armed, signals, layout(), mm_record()) as img:
        one = img.tasks[412].threads[0]
        assert one.restart_block is not None
        assert (one.restart_block.fn, one.restart_block.remaining_ns) == (block.fn, 5)
        assert one.restart_block.record is armed.interrupted.rearm or one.restart_block == block
        assert (one.signals.blocked, one.signals.pending) == (["SIGUSR2"], ["SIGUSR1"])
        assert one.thread_signals.mask == 1 << 11
        with pytest.raises(AttributeError, match="no 'altstack'"):
            _ = one.altstack


def test_descriptors(tmp_path: Path) -> None:
    regular = RegularFile(
        ref=10, flags=os.O_RDWR | os.O_APPEND, path=b"/tmp/\x1b[31mx", pos=7, size=9, mtime_ns=0,
        dev=1, ino=2, inode=0, is_kept=False,
    )  # fmt: skip
    pipe = Pipe(ref=11, path=b"", uid=0, gid=0, capacity=65536, chunks=[b"abc"], is_packets=False)
    ends = [PipeFile(ref=12 + way, flags=way, pipe=11) for way in (0, 1)]
    rows = [(0, 10), (1, 10), (3, 12), (4, 13), (9, 99)]
    table = tables(*(Descriptor(fd, fd == 3, ref) for fd, ref in rows))
    with open_sample(tmp_path, regular, pipe, *ends, *table, layout(), mm_record()) as img:
        fds = img.task.fds
        assert [(fd, fds.kind(fd)) for fd in fds] == [
            (0, "regular"), (1, "regular"), (3, "pipe"), (4, "pipe"), (9, "missing"),
        ]  # fmt: skip
        assert (fds[0].pos, fds[0].flags, fds[0].shared_with) == (7, "O_RDWR|O_APPEND", [1])
        assert fds[3].cloexec
        assert "read end, other end fd 4, holds 3 bytes" in fds[3].text
        assert fds[0].file.size == 9
        assert img.check(), "descriptor 9 leads nowhere"
        assert_harmless(repr(fds) + repr(list(fds.values())) + fds[0].path)
        with pytest.raises(KeyError):
            fds[5]


def test_several_processes(tmp_path: Path) -> None:
    """Images of today hold one; the objects do not rely on it."""
    second = replace(process_record(500), mm=21, files=22, fs=23, sighand=24)
    records = [
        process_record(412), second, thread(1), replace(thread(2), tid=500, comm=b"second"),
        layout(Area(AT, AT + PAGE, RW, 0)), mm_record(),
        layout(Area(AT, AT + PAGE, RW, 0), ref=21), mm_record(ref=21),
    ]  # fmt: skip
    pages = {1: [(AT, b"1" * PAGE)], 21: [(AT, b"2" * PAGE)]}
    with open_session(write_image(tmp_path / "image", records, pages)) as img:
        assert list(img.tasks) == [412, 500]
        assert img.tasks[412].memory.read(AT, 1) == b"1"
        assert img.tasks[500].memory.read(AT, 1) == b"2"
        assert img.threads[500].task.pid == 500
        assert img.tasks[500].comm == "second"
        assert img.tasks[500].parent is None


@pytest.mark.parametrize("kind", record_types(), ids=lambda kind: str(kind.__struct_config__.tag))
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_view_can_harm_a_terminal(kind: type[Record], data: st.DataObject) -> None:
    view = View(data.draw(struct_of(kind)))
    assert_harmless(repr(view))
    assert len(repr(view)) < 400
    for line in str(view).split("\n"):
        assert_harmless(line)
    for name in dir(view):
        assert_harmless(repr(getattr(view, name)) if name not in ("record", "plain") else "")


def test_names_of_a_hostile_image_are_escaped(tmp_path: Path) -> None:
    file = MappedFile("/tmp/" + HOSTILE.replace("\udcff", ""), 1, 2, 3, 4)
    areas = layout(
        Area(AT, AT + PAGE, RW, 0, 0),
        Area(AT + PAGE, AT + 2 * PAGE, RW, 0, anon_name=HOSTILE_BYTES),
        files=[file],
    )  # fmt: skip
    args = b"prog\0" + HOSTILE_BYTES + b"\0"
    mm = mm_record(arg_start=AT + PAGE, arg_end=AT + PAGE + len(args), env_start=AT, env_end=AT + 9)
    threads = [replace(thread(AT), comm=HOSTILE_BYTES[:15])]
    pages = {1: [(AT + PAGE, args.ljust(PAGE, b"\0"))]}
    with open_sample(tmp_path, *threads, areas, mm, *tables(), pages=pages) as img:
        task = img.task
        shown = [img, task, task.comm, task.exe, task.areas, task.threads, task.fds, img.records]
        shown += [one.name for one in task.areas] + task.args + [list(task.environ.items())]
        shown += [img.memory, img.memory.locate(AT), task.threads[0].backtrace(), dir(task)]
        assert_harmless("".join(map(repr, shown)) + "".join(task.args) + task.areas[0].name)
        assert len(task.args) == 2


def test_numbers_print_as_people_read_them() -> None:
    number = wrap(0x7F00_0000_1000, "rip", lambda _: "libc.so.6 read+0x12")
    assert repr(number) == f"{number}" == "0x7f0000001000 (libc.so.6 read+0x12)"
    assert number + 1 == 0x7F00_0000_1001
    assert f"{number:x}" == "7f0000001000"
    assert type(number) is Number
    assert type(wrap(7, "count")) is int
    assert wrap(True, "flags") is True


def test_completion_behind_subscripts_calls_nothing(tmp_path: Path) -> None:
    with open_sample(tmp_path, layout(), mm_record()) as img:
        completer = Completer({"img": img, "boom": pytest.fail})
        assert "img.tasks[412].threads" in completer.attr_matches("img.tasks[412].thr")
        assert "img.task.threads[0].regs" in completer.attr_matches("img.task.threads[0].re")
        assert completer.attr_matches("img.nothing[0].x") == []
        assert completer.attr_matches("boom('called').x") == []
        assert not [name for name in completer.attr_matches("img.") if name.startswith("img._")]


def test_running_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path
    with open_sample(folder, layout(), mm_record()) as img:
        path = img.path
    assert main([path, path, "-c", "print(img.task.pid, img2.task.pid)"]) == 0
    assert capsys.readouterr().out == "412 412\n"
    script = folder / "look.py"
    script.write_text("import sys\nprint(sys.argv[1:], __name__, img)\n")
    assert main([path, str(script), "-c", "x"]) == 0
    assert capsys.readouterr().out.startswith("['-c', 'x'] __main__ <image ")
    assert main([path, "-c", "1/0"]) == 1
    said = capsys.readouterr().err
    assert said.endswith("ZeroDivisionError: division by zero\n")
    assert "__main__.py" not in said
    assert main([path, "-c", "img.memory.read(16, 1)"]) == 1
    assert capsys.readouterr().err == "ckpt.debug: address 0x10: not mapped\n"
    assert main([path, str(folder / "none.py")]) == 1
    assert main([str(folder / "none"), "-c", "1"]) == 1
    with pytest.raises(SystemExit) as stopped:
        main([path, "-c", "raise SystemExit(7)"])
    assert stopped.value.code == 7
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2


def test_damage_is_told(tmp_path: Path) -> None:
    with open_sample(tmp_path, layout(Area(AT, AT + PAGE, RW, 0)), mm_record(),
                     pages={1: [(AT, b"x" * PAGE)]}) as img:  # fmt: skip
        path = Path(img.path)
        offset = img.image.pages[1].file_offset
        img.verify()
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    with open_session(str(path)) as img, pytest.raises(ImageError):
        img.verify()
    path.write_bytes(data[:-1])
    with pytest.raises(ImageError):
        open_session(str(path))


@settings(max_examples=60, deadline=2000, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(st.tuples(*[st.integers(-(1 << 63), (1 << 64) - 1)] * 3), max_size=6),
    guards=st.lists(st.tuples(*[st.integers(-(1 << 63), (1 << 64) - 1)] * 2), max_size=4),
    address=st.integers(-(1 << 63), 1 << 65),
)
def test_impossible_layouts_neither_hang_nor_crash(
    tmp_path: Path, rows: list[tuple[int, int, int]], guards: list[tuple[int, int]], address: int
) -> None:
    """A session opens what `check` finds fault with: every look ends, with bytes or FaultError."""
    areas = layout(*(Area(start, end, RW, offset) for start, end, offset in rows), guards=guards)
    pages = {1: [(AT, b"x" * PAGE)]}
    with open_sample(tmp_path, areas, mm_record(brk=1 << 63), *tables(), pages=pages) as img:
        memory = img.memory
        with contextlib.suppress(FaultError):
            memory.read(address, 64)
        list(itertools.islice(memory.ranges(), 100))
        list(memory.search(b"xx", limit=3))
        assert_harmless(repr([memory, memory.locate(address), img.task.areas, img.task.args]))
        img.check()
