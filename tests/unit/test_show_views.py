"""The views of `show`: what they say of a small image, that options go together, hostile images."""

from __future__ import annotations

import json
import os
from array import array
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckpt.cli import main
from ckpt.commands.show import _view_blocks as view_blocks
from ckpt.debug.show import section_names
from ckpt.debug.show_blocks import Block, block_lines, grep_blocks
from ckpt.debug.show_fds import event_names
from ckpt.debug.show_maps import human
from ckpt.debug.show_threads import flag_names
from ckpt.image.reader import ImageFile
from ckpt.image.writer import ImageWriter
from ckpt.objects.altstack import AltStack
from ckpt.objects.areas import Area, AreasRecord
from ckpt.objects.base import Record, Records
from ckpt.objects.file_kinds.epoll import EpollFile, Watch
from ckpt.objects.file_kinds.eventfd import EventfdFile
from ckpt.objects.file_kinds.pipe import Pipe, PipeFile
from ckpt.objects.files import Descriptor, FileTable
from ckpt.objects.mapped_files import MappedFile
from ckpt.objects.mm import MmRecord
from ckpt.objects.robust import RobustLists
from ckpt.objects.session import SessionRecord
from ckpt.objects.signals import ThreadSignals
from ckpt.objects.task import ThreadRecord
from ckpt.objects.vma_flags import Vm
from tests.unit.planning import process_record
from tests.unit.test_image_samples import HEADER
from tests.unit.test_show import HOSTILE, assert_harmless, regs, struct_of, thread

CODE, STACK, DATA = 0x40_0000, 0x7F00_0000_0000, 0x5000_0000
MM_NUMBERS = ("start_code", "end_code", "start_data", "end_data", "start_brk", "brk")
MM: dict[str, Any] = {
    "ref": 1,
    "start_stack": 0,
    "arg_start": STACK + 4096,
    "arg_end": STACK + 4106,
    "env_start": 0,
    "env_end": 0,
    "auxv": b"",
}
VIEWS = ("", "maps", "threads", "fds", "tree")


def layout(*files: MappedFile) -> AreasRecord:
    rw = int(Vm.READ | Vm.WRITE)
    areas = [
        Area(CODE, CODE + 4096, int(Vm.READ | Vm.EXEC), 0),
        Area(DATA, DATA + (1 << 34), rw, 0, anon_name=b"big \x1b pool"),
        Area(STACK, STACK + 8192, rw | Vm.GROWSDOWN, 0),
    ]
    return AreasRecord(ref=1, areas=areas, files=list(files), guards=[(DATA + 8192, 4096)])


def records() -> list[Record]:
    stopped = regs(rip=CODE + 2, rsp=STACK + 512, rbp=STACK + 1024, eflags=0x246, cs=0x33)
    head = DATA
    table = FileTable(
        ref=2,
        descriptors=[
            Descriptor(0, False, 10),
            Descriptor(1, True, 10),
            Descriptor(3, False, 11),
            Descriptor(4, False, 12),
            Descriptor(9, False, 77),
        ],
    )
    watches = [Watch(0, 10, 0x80000001, 0xABCD, False, True), Watch(8, 0, 4, 0, False, False)]
    exe = MappedFile("/bin/prog\x1b", 0, 0, 0, 0)
    return [
        process_record(412, 413),
        msgspec.structs.replace(thread(CODE + 2), regs=stopped),
        msgspec.structs.replace(thread(CODE + 2, b"two\x1b"), tid=413),
        layout(),
        MmRecord(**dict.fromkeys(MM_NUMBERS, 0) | MM, exe=exe),
        SessionRecord(tgid=412, pgid=400, sid=399, tty=0, is_foreground=False, tty_fds=[]),
        ThreadSignals(tid=412, mask=0x200, pending=[b"\x0a" + bytes(127), b"short"]),
        AltStack(tid=412, sp=STACK, size=4096, flags=0),
        RobustLists(tid=412, head=head),
        table,
        Pipe(ref=30, path=b"", uid=0, gid=0, capacity=65536, chunks=[b"abc"], is_packets=False),
        PipeFile(ref=10, flags=os.O_RDONLY, pipe=30),
        EventfdFile(ref=11, flags=os.O_RDWR | os.O_NONBLOCK, count=7, is_semaphore=False),
        EpollFile(ref=12, flags=os.O_RDWR, watches=watches),
    ]


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


@pytest.fixture
def image_path(tmp_path: Path) -> str:
    """An image with code, a robust list of one mutex and argv."""
    path = str(tmp_path / "sample.ckpt")
    robust = words(DATA + 64, 8, 0).ljust(64, b"\0") + words(DATA, 412 | 0x80000000)
    pages = {
        CODE: b"\x0f\x05\xeb\xfe\x06",
        DATA: robust,
        STACK + 4096: b"prog\0-x\0a\x1b\0",
    }
    with ImageWriter.create(path, 4096) as writer:
        offset = writer.pages.begin(1, 4096 * len(pages))
        for number, content in enumerate(pages.values()):
            writer.pages.write_at(offset + 4096 * number, content.ljust(4096, b"\0"))
        writer.pages.end(1, array("Q", [part for start in pages for part in (start, 4096)]))
        writer.write_header(msgspec.structs.replace(HEADER, arch=os.uname().machine))
        writer.write_records(records())
        writer.commit()
    return path


class Shown:
    """Runs `ckpt-bpf show` on the image, in this process."""

    def __init__(self, path: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capsys = capsys

    def __call__(self, *options: str, code: int = 0) -> str:
        try:
            assert main(["show", self.path, *options]) == code
        except SystemExit as error:
            assert error.code == code
        out, err = self._capsys.readouterr()
        assert_harmless((out + err).replace("\n", ""))
        return out if code == 0 else err

    def json(self, *options: str) -> Any:
        return json.loads(self(*options, "--json"))


@pytest.fixture
def show(image_path: str, capsys: pytest.CaptureFixture[str]) -> Shown:
    return Shown(image_path, capsys)


def test_maps_say_what_is_stored(show: Shown) -> None:
    text = show("--maps")
    assert text.startswith("process 412: 3 areas, 16.0 GiB mapped, 12 KiB stored\n")
    assert "00400000-00401000 r-xp 00000000 00:00 0" in text
    assert r"4 KiB of 16.0 GiB [anon:big \x1b pool]" in text
    assert "guard 50002000-50003000" in text
    [process] = show.json("--maps")["maps"]
    assert [area["stored_bytes"] for area in process["areas"]] == [4096, 4096, 4096]
    assert process["guards"] == [{"start": DATA + 8192, "end": DATA + 12288}]


def test_threads_say_everything_about_a_thread(show: Shown) -> None:
    text = show("--threads")
    for line in (
        "thread 412 (worker): pause: native: ERESTARTNOHAND, the kernel restarts it",
        "  instruction: syscall at 0x400000",
        "    rip      0x0000000000400002  <anonymous memory>",
        "    eflags   0x0000000000000246  [ PF ZF IF ]",
        "    #0  0x0000000000400002  anonymous memory  (registers)",
        "       0x400000:  0f 05                           syscall",
        "    => 0x400002:  eb fe                           jmp 0x400002  <anonymous memory>",
        "       0x400004:  06                              (bad)",
        "  blocked signals: SIGUSR1",
        "  pending signals: SIGUSR1",
        "  alternate stack: 0x7f0000000000-0x7f0000001000, 4096 bytes, the thread is on it",
        "  robust list: head 0x50000000, 1 futexes held",
        r"    futex 0x50000048 (big \x1b pool): owner 412, has waiters",
        r"thread 413 (two\x1b): pause: native: ERESTARTNOHAND, the kernel restarts it",
    ):
        assert f"{line}\n" in text
    first, second = show.json("--threads")["threads"]
    assert first["registers"]["rip"] == CODE + 2
    assert first["robust_lists"][0]["held"][0]["value"] == 412 | 0x80000000
    assert (second["altstack"], second["blocked_signals"]) == (None, None)


def test_fds_say_who_shares_and_who_watches(show: Shown) -> None:
    text = show("--fds")
    assert "process 412: 5 descriptors\n" in text
    assert "pipe, read end, holds 3 bytes  (same open file as fd 1)" in text
    assert "O_RDONLY|cloexec" in text
    assert "EPOLLIN|EPOLLET, data 0xabcd, reported already" in text
    assert "watches fd 8 a file that has no descriptor any more: EPOLLOUT" in text
    assert "no record of its file" in text
    [process] = show.json("--fds")["fds"]
    rows = {row["fd"]: row for row in process["descriptors"]}
    assert rows[0]["shared_with_fds"] == [1]
    assert rows[4]["watches"][0]["data"] == 0xABCD


def test_a_file_shared_between_processes_is_said() -> None:
    table = FileTable(ref=8, descriptors=[Descriptor(5, False, 11)])
    other = msgspec.structs.replace(process_record(500), files=8)
    both = Records([*records(), other, table])
    text = "\n".join(block_lines(view_blocks("fds", "", cast("ImageFile", Direct(both.all)))))
    assert "(shared with process 500 fd 5)" in text
    assert "(shared with process 412 fd 3)" in text


def test_the_tree_has_names_arguments_and_states(show: Shown) -> None:
    text = show("--tree")
    assert text.startswith("412 (worker), running, 2 threads, group 400, session 399, exe /bin/pr")
    assert r"  arguments: prog -x a\x1b" in text
    assert "  ├─ 412 (worker): in pause\n" in text
    assert r"  └─ 413 (two\x1b): in pause" in text
    assert show.json("--tree")["processes"][0]["arguments"] == ["prog", "-x", "a\x1b"]


def test_a_section_is_only_its_records(show: Shown) -> None:
    assert show("--section", "session").splitlines()[0] == "session process 412"
    shown = show.json("--section", "file")["records"]
    assert [record["type"] for record in shown] == ["file.pipe", "file.eventfd", "file.epoll"]
    assert show("--section", "timens") == ""
    error = show("--section", "sesion\x1b", code=2)
    assert "no records are called" in error
    for name in section_names():
        assert name in error


def test_grep_keeps_lines_below_their_heads(show: Shown) -> None:
    assert show("--grep", "group").strip() == ""
    assert show("--section", "session", "--grep", "400") == "session process 412\n  pgid: 400\n"
    assert show("--threads", "--grep", "(bad)").count("\n") == 5
    lines = show("--maps", "--grep", "r-xp").splitlines()
    assert [line.split()[0] for line in lines] == ["process", "00400000-00401000"]
    [process] = show.json("--maps", "--grep", "r-xp")["maps"]
    assert [len(process[name]) for name in ("areas", "files", "guards")] == [1, 0, 0]
    [process] = show.json("--maps", "--grep", "guard 5")["maps"]
    assert [len(process[name]) for name in ("areas", "files", "guards")] == [0, 0, 1]
    assert [r["type"] for r in show.json("--grep", "412")["records"]][:2] == ["process", "thread"]
    assert show.json("--grep", "PGID") == {"path": show.path, "records": []}


def test_grep_on_blocks() -> None:
    block = Block("head a", ["b", "c\na"], {"rows": [1, 2], "more": 3}, ("rows",))
    [found] = grep_blocks([block], "a")
    assert (found.lines, found.plain) == (["c\na"], {"rows": [2], "more": 3})
    assert list(grep_blocks([block], "d")) == [
        block._replace(lines=[], plain={"rows": [], "more": 3})
    ]
    assert list(grep_blocks([block], "D")) == []


@pytest.mark.parametrize(
    "options",
    [
        ("--hex",),
        ("--disasm", "--maps"),
        ("--maps", "--fds"),
        ("--memory", "1", "--threads"),
        ("--memory", "1", "--grep", "x"),
        ("--memory", "1", "--hex", "--string"),
        ("--memory", "1", "--section", "thread"),
        ("--section", "thread", "--tree"),
        ("--grep", ""),
        ("--memory", ""),
        ("--memory", "main:0"),
        ("--memory", ":5"),
        ("--memory", "0xzz"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(
    show: Shown, options: tuple[str, ...]
) -> None:
    assert "error: " in show(*options, code=2)


def test_help_names_the_sections(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["show", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in section_names():
        assert name in text


class Direct:
    """An image whose records never went through the decoder: worse than any file can be."""

    status = os.stat("/dev/null")
    header = HEADER
    path = HOSTILE
    fd = -1

    def __init__(self, found: Any) -> None:
        self.pages: dict[int, object] = {}
        self.records = list(found)


def show_all(found: list[Record]) -> None:
    image = cast("ImageFile", Direct(found))
    for view in VIEWS:
        for block in view_blocks(view, "", image):
            for line in block_lines([block]):
                assert_harmless(line.replace("\n", ""))
                assert len(line) < 200_000
            assert_harmless(json.dumps(block.plain))


def hostile(kind: type[Record], **fixed: Any) -> st.SearchStrategy[Any]:
    return struct_of(kind).map(lambda record: msgspec.structs.replace(record, **fixed))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_hostile_records_are_shown_harmlessly(data: st.DataObject) -> None:
    kinds: list[tuple[type[Record], dict[str, Any]]] = [
        (AreasRecord, {"ref": 1}),
        (ThreadRecord, {"tid": 412}),
        (ThreadSignals, {"tid": 412}),
        (AltStack, {"tid": 412}),
        (RobustLists, {"tid": 412}),
        (MmRecord, {"ref": 1}),
        (FileTable, {"ref": 2}),
        (EpollFile, {}),
        (SessionRecord, {"tgid": 412}),
    ]
    drawn = [data.draw(hostile(kind, **fixed)) for kind, fixed in kinds]
    show_all([process_record(412), *drawn])


def test_areas_that_no_kernel_has_are_shown_harmlessly() -> None:
    file = MappedFile(HOSTILE.encode("utf-8", "replace").decode(), -1, 1 << 70, 1, 1, b"\x1b" * 20)
    areas = [
        Area(CODE, CODE + 4096, -1, 1 << 70, 0, anon_name=b"\x1b[31m"),
        Area(0, 1 << 64, 5, 0, 99, special=b"\n\n[vdso]"),
        Area(CODE + 8192, CODE, 5, -5, -7, policy="\x1b"),
        Area(-(1 << 62), 5, 5, -5, 0),
    ]
    broken = AreasRecord(ref=1, areas=areas, files=[file], guards=[(1, -1), (-5, 1 << 65)])
    for rip in (0, CODE, CODE + 8191, (1 << 64) - 1):
        robust = RobustLists(tid=412, head=rip, compat_head=rip)
        show_all([process_record(412, 412, 413), thread(rip, b"\x1b"), broken, robust])


def test_an_image_without_anything_is_shown() -> None:
    show_all([])
    show_all([process_record(412)])
    show_all([thread(CODE)])


@pytest.mark.parametrize(
    ("events", "text"),
    [(0, "0"), (5, "EPOLLIN|EPOLLOUT"), (1 << 31 | 1 << 20, "EPOLLET|0x100000")],
)
def test_epoll_events(events: int, text: str) -> None:
    assert event_names(events) == text


def test_sizes_and_flags() -> None:
    assert [human(size) for size in (0, 4096, 100, 20 << 20, 3 << 41)] == [
        "0 KiB",
        "4 KiB",
        "100 bytes",
        "20.0 MiB",
        "6144.0 GiB",
    ]
    assert flag_names(0x10246) == "[ PF ZF IF RF ]"
