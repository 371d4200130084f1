"""The plan of a descriptor table, of folders and of locks: steps, their order, their numbers."""

from __future__ import annotations

import os
import struct
from typing import Any

import pytest

from ckpt.errors import CaptureError
from ckpt.objects import files, fs, locks
from ckpt.objects.base import Identities, Options, Process, Record
from ckpt.objects.file_kinds.common import FileRecord, Owner
from ckpt.objects.file_kinds.device import DeviceFile
from ckpt.objects.file_kinds.epoll import EpollFile, Watch
from ckpt.objects.file_kinds.eventfd import EventfdFile
from ckpt.objects.file_kinds.timerfd import TimerfdFile
from ckpt.objects.files import Descriptor, FileTable
from ckpt.objects.fs import FsRecord
from ckpt.objects.locks import Lock, LocksRecord
from ckpt.objects.steps import Blob, Call, Executor, Token, fds_placed, fs_set, timens_entered
from ckpt.plan import order_steps
from tests.unit.planning import SOCKET_FD, blockers, calls_of, host_facts, only, plan_of
from tests.unit.planning import process_record as process_of

TGID = 100
PROCESS = process_of(TGID, 101)
GIVEN = [Token(name, TGID) for name in ("born", "mapped", "threads")]
NULL = os.makedev(1, 3)


def null(ref: int, **fields: Any) -> DeviceFile:
    return DeviceFile(ref=ref, flags=0, path=b"/dev/null", rdev=NULL, **fields)


def table(*entries: tuple[int, int]) -> FileTable:
    return FileTable(
        ref=PROCESS.files, descriptors=[Descriptor(fd, False, ref) for fd, ref in entries]
    )


def tape(*records: Record, options: Options | None = None) -> list[Call]:
    build = plan_of(files, PROCESS, *records, options=options)
    assert blockers(build) == []
    order_steps(build.steps, GIVEN)
    return calls_of(build, TGID)


def words(call: Call) -> tuple[int, ...]:
    return tuple(arg for arg in call.args if isinstance(arg, int))


def test_batches_are_opened_sent_and_placed_one_after_the_other() -> None:
    count = 600
    build = plan_of(
        files,
        PROCESS,
        table(*((fd if fd < SOCKET_FD else fd + 1, 1000 + fd) for fd in range(count))),
        *(null(1000 + n) for n in range(count)),
    )
    order = order_steps(build.steps, GIVEN)
    assert [step.why for step in order] == ["open files", "pass files", "place descriptors"] * 3
    sent = [len(step.action.keys) for step in order if step.why == "pass files"]  # type: ignore[union-attr]
    assert sent == [253, 253, 94]
    assert all(fds_placed(PROCESS.files) in s.provides for s in order if s.calls)


def test_an_image_without_a_descriptors_file_is_refused() -> None:
    build = plan_of(files, PROCESS, table((0, 7), (5, 8)), null(7))
    assert blockers(build) == ["process 100 fd 5: the image has no record of its file"]


def test_an_image_with_a_descriptor_twice_is_refused() -> None:
    build = plan_of(files, PROCESS, table((5, 7), (5, 7)), null(7))
    assert blockers(build) == ["process 100: the image has a descriptor twice"]


def test_numbers_of_watches_are_kept_free_of_the_socket() -> None:
    watch = Watch(SOCKET_FD, 8, 1, 0, False, False)
    records = (table((0, 7), (9, 8)), EpollFile(ref=7, flags=2, watches=[watch]), null(8))
    build = plan_of(files, PROCESS, *records)
    from ckpt.objects.base import Records

    assert set(files.reserved_fds(Records(records))) == {0, 9, SOCKET_FD}
    assert only(build.steps, "epoll").executor is Executor.HOST


class Player:
    """Takes calls like a restorer; every epoll_wait finds `ready` events."""

    def __init__(self, ready: int) -> None:
        self.calls: list[Call] = []
        self.ready = ready

    def play(self, tid: int, calls: list[Call]) -> list[int]:
        assert tid == TGID
        self.calls += calls
        return [self.ready if call.nr == 232 else call.value for call in calls]


def watches(*found: Watch, ready: int = 0) -> list[Call]:
    records = (
        table((4, 7), (5, 8), (6, 9)),
        EpollFile(ref=7, flags=2, watches=list(found)),
        EventfdFile(ref=8, flags=2, count=1, is_semaphore=False),
        null(9),
    )
    build = plan_of(files, PROCESS, *records)
    action = only(build.steps, "epoll").action
    player = Player(ready)
    action.perform(player)  # type: ignore[union-attr, arg-type]
    return player.calls


def event(call: Call) -> tuple[int, int]:
    (blob,) = [arg for arg in call.args if isinstance(arg, Blob)]
    events, data = struct.unpack("<IQ", blob.content)
    return events, data


def test_a_plain_watch_is_one_call() -> None:
    (add,) = watches(Watch(5, 8, 0x19, 77, False, False))
    assert (add.nr, words(add), event(add)) == (233, (4, 1, 5), (0x19, 77))


def test_a_watch_of_a_number_that_is_free_now() -> None:
    dup, add, close = watches(Watch(12, 8, 1, 0, False, False))
    assert (dup.nr, words(dup), dup.value) == (292, (5, 12, 0), 12)
    assert words(add) == (4, 1, 12)
    assert (close.nr, words(close)) == (3, (12,))


def test_a_watch_of_a_number_that_is_another_file_now() -> None:
    calls = watches(Watch(6, 8, 1, 0, False, False))
    aside = 7
    assert [(call.nr, words(call)) for call in calls] == [
        (72, (6, 0, aside)),
        (292, (5, 6, 0)),
        (233, (4, 1, 6)),
        (292, (aside, 6, 0)),
        (3, (aside,)),
    ]


def test_consumed_edges_come_first_and_are_taken() -> None:
    level, edge = Watch(5, 8, 1, 0, False, False), Watch(6, 9, 1 << 31 | 1, 0, False, True)
    assert [call.nr for call in watches(level, edge)] == [233, 232, 233]
    assert words(watches(level, edge)[0]) == (4, 1, 6)


@pytest.mark.parametrize("ready", [0, 1])
def test_a_spent_one_shot_goes_off_or_is_muted(ready: int) -> None:
    one_shot = 1 << 30
    calls = watches(Watch(5, 8, one_shot, 5, False, False), ready=ready)
    assert [call.nr for call in calls] == [233, 232] + [233] * (1 - ready)
    assert event(calls[0])[0] & (one_shot | 1 | 4) == one_shot | 1 | 4
    if not ready:
        assert (words(calls[2])[1], event(calls[2])) == (3, (one_shot, 5))


def timer(**fields: Any) -> TimerfdFile:
    found = {"ref": 8, "flags": 2, "clockid": 1, "settime_flags": 0, "expires_ns": 0}
    return TimerfdFile(**{**found, "interval_ns": 0, "ticks": 0, **fields})


def armed(record: TimerfdFile, options: Options | None = None) -> list[tuple[int, Any]]:
    host = host_facts().__class__(snapshot_monotonic_ns=1_000, snapshot_realtime_ns=50_000)
    build = plan_of(files, PROCESS, table((5, 8)), record, host=host, options=options)
    step = only(build.steps, "timerfds")
    assert timens_entered(TGID) in step.after
    found = []
    for call in step.calls:
        (blob,) = [arg for arg in call.args if isinstance(arg, Blob)]
        content = struct.unpack("<qqqq" if call.nr == 286 else "<Q", blob.content)
        found.append((words(call)[1], content))
    return found


def test_timers_go_on_in_the_targets_clock() -> None:
    record = timer(expires_ns=3_000_000_500, interval_ns=2_000_000_001)
    assert armed(record) == [(1, (2, 1, 3, 500))]


def test_without_a_time_namespace_the_remaining_time_counts() -> None:
    assert armed(timer(expires_ns=3_500), Options(timens=False)) == [(0, (0, 0, 0, 2_500))]
    assert armed(timer(expires_ns=500), Options(timens=False)) == [(0, (0, 0, 0, 1))]


def test_absolute_dates_stay_dates_and_relative_ones_relative() -> None:
    assert armed(timer(clockid=0, settime_flags=3, expires_ns=70)) == [(3, (0, 0, 0, 70))]
    assert armed(timer(clockid=0, expires_ns=60_000)) == [(0, (0, 0, 0, 10_000))]


def test_unread_ticks_are_put_back() -> None:
    assert armed(timer(ticks=4)) == [(0x40085400, (4,))]


def test_signal_owners_are_set_by_the_task() -> None:
    calls = tape(table((5, 8)), null(8, owner=Owner(TGID, 1, 34)))
    sent = [words(call) for call in calls if call.nr == 72]
    assert sent == [(5, 10, 34), (5, 15)]
    assert issubclass(DeviceFile, FileRecord)


def test_folders_and_mask() -> None:
    record = FsRecord(
        ref=PROCESS.fs, cwd=b"/tmp/x", cwd_mode=0o755, is_cwd_removed=False, root=b"/", umask=0o27
    )
    build = plan_of(fs, PROCESS, record)
    (step,) = build.steps
    assert [call.nr for call in step.calls] == [80, 95]
    assert step.provides[0] == fs_set(TGID)
    gone = plan_of(
        fs,
        PROCESS,
        FsRecord(
            ref=PROCESS.fs,
            cwd=b"/gone",
            cwd_mode=0o700,
            is_cwd_removed=True,
            root=b"/jail",
            umask=0,
        ),
    )
    assert [call.nr for call in gone.steps[0].calls] == [83, 80, 90, 84, 161, 95]


class FakeProcess(Process):
    """A process whose fdinfo is given."""

    def __init__(self, lines: bytes) -> None:
        super().__init__(TGID, Options(), Identities())
        self.lines = lines

    def read(self, name: str, tid: int | None = None) -> bytes:
        del name, tid
        return self.lines


def test_lock_lines_of_the_kernel() -> None:
    process = FakeProcess(
        b"pos:\t0\nflags:\t0100002\n"
        b"lock:\t1: POSIX  ADVISORY  WRITE 100 fe:00:11691 10 19\n"
        b"lock:\t2: OFDLCK ADVISORY  READ -1 fe:00:11691 0 EOF\n"
        b"lock:\t3: FLOCK  ADVISORY  WRITE 100 fe:00:11691 0 EOF\n"
        b"lock:\t4: LEASE  ACTIVE    READ 100 fe:00:11691 0 EOF\n"
    )
    found = locks._read_lines(process, 5)
    assert [line[0] for line in found] == [b"POSIX", b"OFDLCK", b"FLOCK", b"LEASE"]
    assert [line[4:] for line in found[:2]] == [(b"10", b"19"), (b"0", b"EOF")]
    process.lines = b"lock:\t1: NOVEL ADVISORY\n"
    with pytest.raises(CaptureError):
        locks._read_lines(process, 5)


def test_locks_are_taken_without_waiting() -> None:
    taken = [
        Lock(5, "posix", True, 10, 10),
        Lock(6, "ofd", False, 0, 0),
        Lock(7, "flock", True, 0, 0),
    ]
    record = LocksRecord(tgid=TGID, files=PROCESS.files, locks=taken)
    build = plan_of(locks, PROCESS, record)
    (step,) = build.steps
    assert fds_placed(PROCESS.files) in step.needs
    assert [(call.nr, words(call)) for call in step.calls] == [
        (72, (5, 6)),
        (72, (6, 37)),
        (73, (7, 6)),
    ]
    (blob,) = [arg for arg in step.calls[0].args if isinstance(arg, Blob)]
    assert struct.unpack("<hhxxxxqqixxxx", blob.content) == (1, 0, 10, 10, 0)
