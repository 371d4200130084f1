"""Which records of two images belong together, and that nothing that differs is left out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ckpt.cli import main
from ckpt.debug.diff import ImageDiff, compare_images, plain
from ckpt.debug.diff_match import Matching, compare_records, differences
from ckpt.debug.diff_text import diff_lines
from ckpt.debug.render import to_plain
from ckpt.debug.session import open_session
from ckpt.host.facts import Credentials
from ckpt.objects import record_types
from ckpt.objects.areas import Area, AreasRecord
from ckpt.objects.base import ProcessRecord, Record, Records
from ckpt.objects.cpu_state import XstateRecord
from ckpt.objects.creds import CredsRecord
from ckpt.objects.dispositions import Disposition, Sighand
from ckpt.objects.file_kinds.epoll import EpollFile, Watch
from ckpt.objects.file_kinds.eventfd import EventfdFile
from ckpt.objects.file_kinds.pipe import Pipe, PipeFile
from ckpt.objects.file_kinds.regular import RegularFile
from ckpt.objects.files import Descriptor, FileTable
from ckpt.objects.signals import ThreadSignals
from tests.unit.planning import process_record
from tests.unit.test_session_objects import AT, PAGE, RW, layout, mm_record, tables, write_image
from tests.unit.test_show import HOSTILE, assert_harmless, struct_of, thread

KEYS = {"tid", "tgid", "ref", "timer_id", "tids"}
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)
"""Making a failing record of these smaller takes minutes."""
DATA = {1: [(AT, b"x" * PAGE)]}


def eventfd(ref: int, count: int = 0) -> EventfdFile:
    return EventfdFile(ref=ref, flags=os.O_RDWR, count=count, is_semaphore=False)


def regular(ref: int, path: bytes, pos: int = 0) -> RegularFile:
    return RegularFile(
        ref=ref, flags=os.O_RDWR, path=path, pos=pos, size=9, mtime_ns=0, dev=1,
        ino=sum(path), inode=0, is_kept=False,
    )  # fmt: skip


def process(*records: Record, tids: Sequence[int] = (412,)) -> list[Record]:
    """Return a whole process; a table among `records` takes the place of the empty one."""
    threads = [replace(thread(AT), tid=tid) for tid in tids]
    given_types = {type(record) for record in records}
    rest = [one for one in tables() if type(one) not in given_types]
    area = layout(Area(AT, AT + PAGE, RW, 0))
    return [process_record(*tids), *threads, mm_record(), area, *rest, *records]


def diff(folder: Path, before: list[Record], after: list[Record]) -> tuple[ImageDiff, list[str]]:
    """Compare two images; return what was found, and as lines."""
    paths = [write_image(folder / name, one, DATA) for name, one in (("a", before), ("b", after))]
    with open_session(paths[0]) as one, open_session(paths[1]) as other:
        found = compare_images(one, other)
        lines = list(diff_lines(found, one, other))
    assert json.loads(json.dumps(plain(found)))["same"] is found.same
    return found, lines


def fd_table(*rows: tuple[int, int], ref: int = 2) -> FileTable:
    return FileTable(ref=ref, descriptors=[Descriptor(fd, False, file) for fd, file in rows])


def renumbered(record: Any, by: int) -> Any:
    """Return a record with other objrefs."""
    moved: dict[str, Any] = {"ref": record.ref + by} if hasattr(record, "ref") else {}
    if isinstance(record, FileTable):
        moved["descriptors"] = [replace(one, file=one.file + by) for one in record.descriptors]
    elif isinstance(record, EpollFile):
        moved["watches"] = [replace(one, file=one.file + by) for one in record.watches]
    elif isinstance(record, PipeFile):
        moved["pipe"] = record.pipe + by
    elif isinstance(record, ProcessRecord):
        names = ("mm", "files", "fs", "sighand")
        moved = {name: getattr(record, name) + by for name in names}
    return replace(record, **moved)


def sample() -> list[Record]:
    watch = Watch(5, 14, 1, 0, False, False)
    pipe = Pipe(ref=11, path=b"", uid=0, gid=0, capacity=4096, chunks=[], is_packets=False)
    ends = [PipeFile(ref=12 + way, flags=way, pipe=11) for way in (0, 1)]
    epoll = EpollFile(ref=15, flags=os.O_RDWR, watches=[watch])
    table = fd_table((3, 12), (4, 13), (5, 14), (6, 15), (7, 14))
    return process(pipe, *ends, eventfd(14), epoll, table)


def test_objrefs_are_numbers_of_one_image(tmp_path: Path) -> None:
    before = sample()
    after = [renumbered(record, 100) for record in before]
    paths = [
        write_image(tmp_path / "a", before, DATA),
        write_image(tmp_path / "b", after, {101: DATA[1]}),
    ]
    with open_session(paths[0]) as one, open_session(paths[1]) as other:
        found = compare_images(one, other)
        assert found.same, found
        assert list(diff_lines(found, one, other))[-1] == "nothing differs"


def test_descriptors_by_what_became_of_them(tmp_path: Path) -> None:
    table = fd_table((0, 10), (3, 11), (4, 12), (5, 13), (6, 10))
    files = [regular(10, b"/a"), regular(11, b"/b"), eventfd(12), regular(13, b"/d")]
    other = fd_table((0, 20), (3, 21), (4, 22), (6, 20), (8, 24))
    now = [regular(20, b"/a", pos=5), regular(21, b"/other"), eventfd(22, 7), eventfd(24)]
    found, lines = diff(tmp_path, process(table, *files), process(other, *now))
    (task,) = found.tasks
    assert {(one.fd, one.what) for one in task.fds} == {
        (0, "changed"), (3, "replaced"), (4, "changed"), (5, "closed"), (6, "changed"),
        (8, "opened"),
    }  # fmt: skip
    growth = {one.what: (one.before, one.after) for one in task.growth}
    assert growth["fds"] == (5, 5)
    assert growth["fds.eventfd"] == (1, 2)
    text = "\n".join(lines)
    assert "changed fd 0: regular /a, O_RDWR, at 5, same as fd 6: pos: 0 -> 5" in text
    assert "replaced fd 3: was regular /b, O_RDWR, at 0; is regular /other, O_RDWR, at 0" in text
    assert "everything else" not in text


def test_a_pipe_that_two_images_share_is_one(tmp_path: Path) -> None:
    """Closing the lowest descriptor of a file makes no other difference."""
    after = [record for record in sample() if not isinstance(record, FileTable)]
    found, _ = diff(tmp_path, sample(), [*after, fd_table((3, 12), (4, 13), (6, 15), (7, 14))])
    (task,) = found.tasks
    assert [(one.fd, one.what) for one in task.fds] == [(5, "closed")]
    assert [one.type for one in found.records] == ["files"]


def test_threads_new_gone_renamed(tmp_path: Path) -> None:
    before, after = process(tids=(412, 413, 414)), process(tids=(412, 414, 500))
    after = [
        replace(one, comm=b"other\x1b") if getattr(one, "tid", 0) == 414 else one for one in after
    ]
    creds = [CredsRecord(tgid=412, tids=[412, 413, 414], credentials=Credentials(), securebits=0,
                         label="")]  # fmt: skip
    now = [replace(creds[0], tids=[412, 500]), replace(creds[0], tids=[414],
           credentials=Credentials(uids=(0, 7, 0, 0)))]  # fmt: skip
    found, lines = diff(tmp_path, [*before, *creds], [*after, *now])
    (task,) = found.tasks
    assert {(one.tid, one.what) for one in task.threads} == {
        (413, "gone"), (414, "changed"), (500, "new"),
    }  # fmt: skip
    changed = [one for one in found.records if one.type == "creds"]
    assert {(one.tid, one.what) for one in changed} == {
        (413, "gone"), (414, "changed"), (500, "new"),
    }  # fmt: skip
    text = "\n".join(lines)
    assert "creds thread 414 process 412" not in text
    assert "creds thread 414: credentials.uids[1]: 0 -> 7" in text
    assert "renamed from worker" in text
    for line in lines:
        assert_harmless(line)


def test_signals_by_name(tmp_path: Path) -> None:
    old = [Sighand(ref=4, dispositions=[Disposition(10, AT, 0, 0, 0)]),
           ThreadSignals(tid=412, mask=1, pending=[])]  # fmt: skip
    info = (12).to_bytes(4, "little").ljust(128, b"\0")
    now = [Disposition(10, AT + 8, 0, 0, 0), Disposition(15, 1, 0, 0, 0)]
    new = [Sighand(ref=4, dispositions=now), ThreadSignals(tid=412, mask=0, pending=[info])]
    _, lines = diff(tmp_path, process(*old), process(*new))
    text = "\n".join(lines)
    assert "SIGTERM: default -> ignored" in text
    assert "dispositions SIGUSR1.handler: 0x100000 (anonymous memory) -> 0x100008" in text
    assert "mask: SIGHUP -> none" in text
    assert "pending[0:]: none -> SIGUSR2" in text


def test_vector_registers_by_name(tmp_path: Path) -> None:
    area = bytearray(832)
    area[160 + 16 * 3] = area[576 + 16 * 15] = 0xFF
    before = XstateRecord(tid=412, area=bytes(832))
    _, lines = diff(tmp_path, process(before), process(replace(before, area=bytes(area))))
    said = "area: 2 of 832 bytes differ, the first at 208 (xmm3, ymm15 upper half)"
    assert f"  xstate thread 412: {said}" in lines


def test_different_processes_are_compared_with_a_note(tmp_path: Path) -> None:
    other = [
        replace(process_record(500), tids=[500, 501]),
        *(replace(thread(AT), tid=tid, comm=b"b") for tid in (500, 501)),
        mm_record(), layout(Area(AT, AT + PAGE, RW, 0)), *tables(),
    ]  # fmt: skip
    found, lines = diff(tmp_path, process(tids=(412, 413)), other)
    assert "note: different processes (412 and 500)" in "\n".join(lines)
    assert [(one.tid, one.what) for one in found.tasks[0].threads] == [
        (500, "changed"), (501, "changed"),
    ]  # fmt: skip


def test_a_second_process_is_new(tmp_path: Path) -> None:
    second = [
        replace(process_record(500), mm=21, files=22, fs=23, sighand=24),
        replace(thread(AT), tid=500), mm_record(ref=21), layout(ref=21),
        *(replace(one, ref=getattr(one, "ref", 0) + 20) for one in tables()),
    ]  # fmt: skip
    found, lines = diff(tmp_path, process(), [*process(), *second])
    assert (found.new_tasks, found.gone_tasks) == ([500], [])
    assert "  new   process 500" in lines
    assert {one.what for one in found.records} == {"new"}


@pytest.mark.parametrize(
    "kind",
    [kind for kind in record_types() if kind is not AreasRecord],
    ids=lambda kind: str(kind.__struct_config__.tag),
)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), phases=UNSHRUNK)
@given(data=st.data())
def test_no_field_of_no_record_is_left_out(kind: type[Record], data: st.DataObject) -> None:
    """Whatever a field changes to is reported under its name, in every type of record."""
    fields = sorted(set(kind.__struct_fields__) - KEYS)
    one, source = data.draw(struct_of(kind)), data.draw(struct_of(kind))
    if "tids" in kind.__struct_fields__ and kind is not ProcessRecord:
        one = replace(one, tids=[412])
    name = data.draw(st.sampled_from(fields))
    other = replace(one, **{name: getattr(source, name)})
    found = list(compare_records(Matching(Records([one]), Records([other]))))
    if list(differences(to_plain(getattr(one, name)), to_plain(getattr(other, name)))):
        changes = [change.field for record in found for change in record.changes]
        assert any(re.split(r"[.\[]", field)[0] == name for field in changes), (name, found)
    for record in found:
        assert_harmless(record.title)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), phases=UNSHRUNK)
@given(data=st.data())
def test_hostile_records_print_harmlessly(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever records differ in: lines without control characters, JSON in ASCII."""
    kind = data.draw(st.sampled_from(record_types()))
    one, other = data.draw(struct_of(kind)), data.draw(struct_of(kind))
    path = str(tmp_path / "a")
    if not os.path.exists(path):
        write_image(Path(path), process(), DATA)
    with open_session(path) as session:
        found = compare_images(session, session)
        changes = list(compare_records(Matching(Records([one]), Records([other]))))
        found = found._replace(same=False, records=changes)
        for line in diff_lines(found, session, session):
            assert_harmless(line)
            assert len(line) < 5000
    json.dumps(plain(found)).encode("ascii")


def test_long_lists_are_cut_and_json_is_complete(tmp_path: Path) -> None:
    files = [eventfd(100 + at) for at in range(300)]
    table = fd_table(*((at, 100 + at) for at in range(300)))
    found, lines = diff(tmp_path, process(), process(table, *files))
    assert len(found.tasks[0].fds) == 300
    assert "  ... 260 more" in lines
    assert len(lines) < 80


def test_lists_with_and_without_keys() -> None:
    assert list(differences([1, 2, 3], [1, 5, 3])) == [("[1]", 2, 5)]
    assert list(differences([1, 2, 3], [1, 3])) == [("[1:]", [2], [])]
    one, other = [{"fd": 1, "a": 1}], [{"fd": 0, "a": 9}, {"fd": 1, "a": 2}]
    assert list(differences(one, other, "x")) == [
        ("x[fd 1].a", 1, 2),
        ("x[fd 0]", None, {"fd": 0, "a": 9}),
    ]
    twice = [{"fd": 1}, {"fd": 1}]
    assert list(differences(twice, twice[:1], "x")) == [("x[1:]", [{"fd": 1}], [])]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_image(tmp_path / "a", process(), DATA)
    other = write_image(tmp_path / "b", process(tids=(412, 413)), DATA)
    assert main(["diff", path, path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["same"] is True
    assert main(["diff", path, other, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["same"] is False
    assert main(["diff", path, str(tmp_path / "none")]) == 1
    assert main(["diff", "-", "-"]) == 1
    broken = write_image(tmp_path / "c", [process_record(412)], DATA)
    assert main(["diff", path, broken]) == 1
    said = capsys.readouterr().err
    assert "inconsistent" in said
    assert "Traceback" not in said
    assert HOSTILE not in said
