"""Core files of images that somebody made up: the right process, or a clear refusal."""

from __future__ import annotations

import json
import os
import typing
from array import array
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ckpt.arch.x86_64.debugregs import X86DebugRegs
from ckpt.arch.x86_64.tls import UserDesc
from ckpt.cli import main
from ckpt.debug.core import CoreResult, core_of_image
from ckpt.errors import CkptError, ImageError
from ckpt.host.facts import Credentials
from ckpt.image.errors import ImageCorruptError
from ckpt.image.writer import ImageWriter
from ckpt.objects.areas import Area, AreasRecord
from ckpt.objects.base import ProcessRecord, Record
from ckpt.objects.cpu_state import SegmentsRecord, XstateRecord
from ckpt.objects.creds import CredsRecord
from ckpt.objects.dispositions import Sighand
from ckpt.objects.file_kinds.inode import InodeContent
from ckpt.objects.files import FileTable
from ckpt.objects.fs import FsRecord
from ckpt.objects.mapped_files import MappedFile
from ckpt.objects.mm import MmRecord
from ckpt.objects.session import SessionRecord
from ckpt.objects.signals import ThreadSignals
from ckpt.objects.vdso import VdsoRecord
from ckpt.restore import open_image
from tests.unit.planning import process_record
from tests.unit.test_core_layout import RW, Core, page_at
from tests.unit.test_image_samples import HEADER
from tests.unit.test_show import thread

PAGE = 4096
AT = 0x10000
EXE = MappedFile("/nowhere", 0, 0, 0, 0)
MM = MmRecord(
    ref=1,
    start_code=AT,
    end_code=AT,
    start_data=AT,
    end_data=AT,
    start_brk=AT,
    brk=AT,
    start_stack=AT,
    arg_start=AT,
    arg_end=AT + 20,
    env_start=AT,
    env_end=AT,
    auxv=b"",
    exe=EXE,
)
LAYOUT = AreasRecord(ref=1, areas=[Area(AT, AT + 2 * PAGE, RW, 0)], files=[], guards=[])
TABLES = (
    FileTable(ref=2, descriptors=[]),
    FsRecord(ref=3, cwd=b"/", cwd_mode=0o40755, is_cwd_removed=False, root=b"/", umask=0),
    Sighand(ref=4, dispositions=[]),
)


def records_of(*tids: int) -> list[Record]:
    threads = [replace(thread(0x1234), tid=tid) for tid in tids]
    return [process_record(*tids), *threads, MM, LAYOUT, *TABLES]


def write_image(path: Path, records: list[Record]) -> None:
    """Write an image whose object 1 has one page, at AT."""
    with ImageWriter.create(str(path), PAGE) as writer:
        offset = writer.pages.begin(1, PAGE)
        writer.pages.write_at(offset, page_at(AT, b"m"))
        writer.pages.end(1, array("Q", [AT, PAGE]))
        writer.write_header(replace(HEADER, arch=os.uname().machine))
        writer.write_records(records)
        writer.commit()


def make_core(folder: Path, records: list[Record], pid: int | None = None) -> CoreResult:
    write_image(folder / "image", records)
    with open_image(str(folder / "image")) as image:
        return core_of_image(image, str(folder / "core"), pid)


def test_a_process_with_least_records(tmp_path: Path) -> None:
    result = make_core(tmp_path, records_of(412, 413))
    assert (result.pid, result.threads, result.frozen_s) == (412, 2, None)
    assert not result.warnings
    core = Core(tmp_path / "core")
    assert core.read(AT) == page_at(AT, b"m")
    assert core.read(AT + PAGE) == bytes(PAGE)


def second_process() -> list[Record]:
    other = ProcessRecord(
        tgid=500, tids=[500], leader_alive=True, stopped_by=0, mm=11, files=2, fs=3, sighand=4
    )
    layout = AreasRecord(ref=11, areas=[Area(PAGE, 2 * PAGE, RW, 0)], files=[], guards=[])
    return [other, replace(thread(0), tid=500), replace(MM, ref=11), layout]


def test_one_of_two_processes(tmp_path: Path) -> None:
    records = [*records_of(412), *second_process()]
    with pytest.raises(ImageError, match="holds 2 processes") as caught:
        make_core(tmp_path, records)
    assert "412, 500" in caught.value.hint
    with pytest.raises(ImageError, match="holds no process 7") as caught:
        make_core(tmp_path, records, 7)
    assert "412, 500" in caught.value.hint
    assert not (tmp_path / "core").exists()
    assert make_core(tmp_path, records, 500).pid == 500
    assert [start for start, *_ in Core(tmp_path / "core").loads] == [PAGE]


def test_a_damaged_page_makes_no_core(tmp_path: Path) -> None:
    """What stood under the name before stays."""
    write_image(tmp_path / "image", records_of(412))
    data = (tmp_path / "image").read_bytes().replace(page_at(AT, b"m"), page_at(AT, b"n"))
    (tmp_path / "image").write_bytes(data)
    (tmp_path / "core").write_text("the core before")
    with open_image(str(tmp_path / "image")) as image, pytest.raises(ImageCorruptError):
        core_of_image(image, str(tmp_path / "core"))
    assert (tmp_path / "core").read_text() == "the core before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["core", "image"]


@pytest.mark.parametrize("cut", [100, 4096, -1])
def test_a_part_of_an_image_makes_no_core(
    tmp_path: Path, cut: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "image", records_of(412))
    (tmp_path / "image").write_bytes((tmp_path / "image").read_bytes()[:cut])
    assert main(["core", str(tmp_path / "image"), "-o", str(tmp_path / "core")]) == 1
    assert not (tmp_path / "core").exists()
    said = capsys.readouterr()
    assert said.err.startswith(f"ckpt-bpf: {tmp_path}/image")
    assert not said.out


@pytest.mark.parametrize(
    ("areas", "what"),
    [
        ([Area(AT, AT + PAGE, RW, -PAGE)], "impossible offset"),
        ([Area(AT, AT + PAGE, RW, 100)], "impossible offset"),
        (
            [Area(i * PAGE, (i + 1) * PAGE, 1, 0, special=b"[vdso]") for i in range(16, 18)],
            "more than one vdso",
        ),
        ([Area(AT, AT + PAGE, RW, 0, 3)], "no core can be made"),
        ([Area(AT + PAGE, AT, RW, 0)], "no core can be made"),
    ],
)
def test_impossible_areas_are_refused(tmp_path: Path, areas: list[Area], what: str) -> None:
    records = [replace(r, areas=areas) if r is LAYOUT else r for r in records_of(412)]
    with pytest.raises(CkptError, match=what):
        make_core(tmp_path, records)
    assert not (tmp_path / "core").exists()


NASTY = st.sampled_from([-(1 << 63), -1, 0, 1, 64, PAGE, 1 << 31, 1 << 45, (1 << 63) - 1])
BYTES = st.sampled_from([b"", b"\0\xff\x1b[2J", b"x" * 20, b"y" * 832, b"z" * 100_000])


def any_of(kind: type[Record], base: Record) -> st.SearchStrategy[Record]:
    """Return records of a type with hostile numbers and bytes where `base` has any."""
    hints = typing.get_type_hints(kind)
    fields: dict[str, st.SearchStrategy[object]] = {}
    for name in base.__struct_fields__:
        if hints[name] is int and name not in ("ref", "tid", "tgid"):
            fields[name] = NASTY
        elif hints[name] is bytes:
            fields[name] = BYTES
    return st.fixed_dictionaries(fields).map(lambda values: replace(base, **values))


@st.composite
def hostile_layouts(draw: st.DrawFn) -> AreasRecord:
    """Return areas in order that hold the stored page; the rest of them is as nasty as can be."""
    files = [
        MappedFile(
            draw(st.sampled_from(["", "/", "/dev/zero", "/bin/sh", "\x1b[2J"])), *draw(words)
        )
        for _ in range(draw(st.integers(0, 2)))
    ]
    areas, at = [], AT
    for _ in range(draw(st.integers(1, 4))):
        end = at + draw(st.sampled_from([PAGE, 5 * PAGE, 1 << 31, 1 << 45]))
        flags, pkey, kib = draw(st.tuples(NASTY, NASTY, NASTY))
        offset = draw(st.sampled_from([0, PAGE, 1 << 40, (1 << 62) - PAGE]))
        file = draw(st.integers(-1, len(files) - 1))
        special = draw(st.sampled_from([b"", b"[vdso]", b"[vvar]", b"\x1b"]))
        areas.append(Area(at, end, flags, offset, file, pkey, kib, b"\xff", special))
        at = end
    return AreasRecord(ref=1, areas=areas, files=files, guards=[(-1, 1 << 63)])


words = st.tuples(NASTY, NASTY, NASTY, NASTY, BYTES, st.sampled_from([0, 9]))
CONTENT = InodeContent(
    ref=9,
    kind="memfd",
    name=b"",
    ino=1,
    size=0,
    mode=0,
    uid=0,
    gid=0,
    mtime_ns=0,
    seals=0,
    has_pages=False,
    tail=b"",
)
SEGMENTS = SegmentsRecord(tid=412, tls=[UserDesc(13, 1), UserDesc(99)], debug=X86DebugRegs())
OTHERS = st.tuples(
    any_of(XstateRecord, XstateRecord(tid=412, area=b"")),
    any_of(ThreadSignals, ThreadSignals(tid=412, mask=0, pending=[b"", b"x" * 128])),
    any_of(VdsoRecord, VdsoRecord(tgid=412, mappings=[], content=b"", threads_inside=[])),
    any_of(
        SessionRecord,
        SessionRecord(tgid=412, pgid=0, sid=0, tty=0, is_foreground=False, tty_fds=[]),
    ),
    st.builds(
        lambda size, tail: replace(CONTENT, size=size, tail=tail),
        st.sampled_from([0, 5, PAGE + 5, 1 << 50]),
        st.sampled_from([b"", b"tail" * 1000]),
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(layout=hostile_layouts(), mm=any_of(MmRecord, MM), others=OTHERS)
def test_whatever_the_records_say_it_is_a_core_or_an_error(
    tmp_path_factory: pytest.TempPathFactory,
    layout: AreasRecord,
    mm: MmRecord,
    others: tuple[Record, ...],
) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    creds = CredsRecord(
        tgid=412, tids=[412], credentials=Credentials(), securebits=None, label="\x1b[2J"
    )
    base = [record for record in records_of(412) if record is not LAYOUT and record is not MM]
    try:
        result = make_core(folder, [*base, layout, mm, *others, SEGMENTS, creds])
    except CkptError as error:
        event(type(error).__name__ + ": " + error.what[:30])
        assert not (folder / "core").exists()
        return
    event("a core")
    assert result.disk_bytes < 32 << 20
    starts = [start for start, *_ in Core(folder / "core").loads]
    assert starts == sorted(starts)
    (folder / "core").unlink()


def test_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage is exit code 2, and says what would be right."""
    for args in ([], ["image", "--live", "7"], ["--live", "7", "--pid", "7"], ["--live", "x"]):
        with pytest.raises(SystemExit) as caught:
            main(["core", *args])
        assert caught.value.code == 2
    assert "--pid chooses from an image" in capsys.readouterr().err
    write_image(tmp_path / "image", records_of(412))
    assert main(["core", str(tmp_path / "image"), "-o", str(tmp_path)]) == 1
    assert "exists and is not a regular file" in capsys.readouterr().err


def test_the_name_that_it_has_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "image", records_of(412))
    monkeypatch.chdir(tmp_path)
    assert main(["core", "image"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("process 412: 1 threads, ")
    assert said.endswith(" in core.412\n")
    assert Core(tmp_path / "core.412").read(AT) == page_at(AT, b"m")


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "image", records_of(412))
    core = tmp_path / "core"
    assert main(["core", str(tmp_path / "image"), "-o", str(core), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "pid": 412,
        "core": str(core),
        "threads": 1,
        "core_bytes": core.stat().st_size,
        "disk_bytes": found["disk_bytes"],
        "frozen_s": None,
        "warnings": [],
    }
