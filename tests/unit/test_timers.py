"""Interval timers and POSIX timers: views to records to steps."""

import struct
from types import SimpleNamespace

import pytest

from ckpt.host.kernel_view import PosixTimer
from ckpt.objects import itimers, timer_ids, timers
from ckpt.objects.base import Builder, HostFacts, Options, ProcessRecord, Records
from ckpt.objects.steps import Blob, Call, signals_queued, timers_armed

SECOND = 1_000_000_000
HOST = HostFacts(
    monotonic_ns=500 * SECOND,
    boottime_ns=600 * SECOND,
    snapshot_monotonic_ns=1000 * SECOND,
    snapshot_boottime_ns=1100 * SECOND,
)


def process_record(tids: tuple[int, ...] = (100,)) -> ProcessRecord:
    return ProcessRecord(
        tgid=100,
        tids=list(tids),
        leader_alive=True,
        stopped_by=0,
        mm=1,
        files=2,
        fs=3,
        sighand=4,
    )


def a_view(**changes: object) -> PosixTimer:
    fields: dict[str, object] = {
        "timer_id": 3,
        "clockid": 1,
        "notify": 0,
        "signo": 10,
        "sigval": 0xABCD,
        "notify_tid": 100,
        "expires_ns": 2000 * SECOND,
        "value_ns": 5 * SECOND,
        "interval_ns": 0,
        "overrun": -1,
        "overrun_last": 0,
        "signal_queued": False,
    }
    return PosixTimer(**(fields | changes))  # type: ignore[arg-type]


CLOCKS = {0: 2000 * SECOND, 1: 2000 * SECOND, 7: 2100 * SECOND}


def a_record(has_signal: bool = False, **changes: object) -> timers.PosixTimerRecord:
    return timers._posix_timer(100, a_view(**changes), has_signal, CLOCKS)


def plan_of(
    *records: object,
    tids: tuple[int, ...] = (100,),
    host: HostFacts = HOST,
    options: Options | None = None,
    module: object = timers,
) -> Builder:
    build = Builder(host, options or Options(), 3)
    module.plan(Records((process_record(tids), *records)), build)  # type: ignore[attr-defined,arg-type]
    return build


def spec_of(call: Call) -> tuple[int, int]:
    """Return (interval, value) in nanoseconds of a timer_settime."""
    blob = call.args[2]
    assert isinstance(blob, Blob)
    interval_s, interval_ns, value_s, value_ns = struct.unpack("<qqqq", blob.content)
    return interval_s * SECOND + interval_ns, value_s * SECOND + value_ns


def settimes(build: Builder) -> list[Call]:
    return [call for step in build.steps for call in step.calls if call.nr == 223]


def test_one_shot_is_created_with_its_id_and_gets_the_time_that_remained() -> None:
    build = plan_of(a_record())
    create, arm = build.steps
    assert [call.nr for call in create.calls] == [157, 222, 157]
    assert [call.args[1] for call in (create.calls[0], create.calls[2])] == [1, 0]
    _, event, wanted = create.calls[1].args
    assert isinstance(event, Blob) and isinstance(wanted, Blob)
    assert struct.unpack_from("<Qiii", event.content) == (0xABCD, 10, 0, 0)
    assert len(event.content) == 64
    assert struct.unpack("<i4x", wanted.content) == (3,)
    assert arm.calls[0].args[:2] == (3, 0)
    assert spec_of(arm.calls[0]) == (0, 5 * SECOND)
    assert timers_armed(100) in arm.provides


def test_disarmed_timer_is_only_created() -> None:
    assert settimes(plan_of(a_record(value_ns=None, expires_ns=None))) == []


def test_timer_of_a_date_keeps_its_date() -> None:
    date = 1_800_000_000 * SECOND
    (call,) = settimes(plan_of(a_record(clockid=0, expires_ns=date)))
    assert call.args[1] == 1
    assert spec_of(call) == (0, date)


def test_relative_wall_clock_timer_expires_by_the_monotonic_clock() -> None:
    (call,) = settimes(plan_of(a_record(clockid=0)))
    assert call.args[1] == 0
    assert spec_of(call) == (0, 5 * SECOND)


@pytest.mark.parametrize(("timens", "now"), [(True, 1000), (False, 500)])
def test_pending_periodic_timer_is_armed_where_it_began(timens: bool, now: int) -> None:
    """Expired 2 s ago, moved on by 3 periods since: its overrun began 5 s ago."""
    record = a_record(
        has_signal=True,
        interval_ns=SECOND,
        expires_ns=1998 * SECOND,
        value_ns=None,
        overrun=2,
    )
    build = plan_of(record, options=Options(timens=timens))
    (call,) = settimes(build)
    assert call.args[1] == 1
    assert spec_of(call) == (SECOND, (now - 5) * SECOND)
    assert signals_queued(100) in build.steps[-1].after
    assert timers_armed(100) not in build.steps[-1].provides


def test_pending_one_shot_is_armed_in_the_past() -> None:
    (call,) = settimes(plan_of(a_record(has_signal=True, expires_ns=None, value_ns=None)))
    assert call.args[1] == 1
    assert 0 < spec_of(call)[1] <= 1000 * SECOND


def test_pending_cpu_timer_expires_at_once() -> None:
    (call,) = settimes(plan_of(a_record(has_signal=True, clockid=-6, expires_ns=7)))
    assert (call.args[1], spec_of(call)) == (1, (0, 1))


def test_periodic_timer_of_an_ignored_signal_waits_again() -> None:
    record = a_record(interval_ns=SECOND, expires_ns=1999 * SECOND, value_ns=None)
    assert record.is_pending and record.is_armed
    assert record.value_ns == -SECOND


def test_thread_timer_names_its_thread_which_must_exist() -> None:
    build = plan_of(a_record(notify=4, notify_tid=101), tids=(100, 101))
    event = build.steps[0].calls[1].args[1]
    assert isinstance(event, Blob)
    assert struct.unpack_from("<Qiii", event.content)[2:] == (4, 101)
    assert ("born", 101) in build.steps[0].needs


def test_own_cpu_clock_is_created_by_the_thread_that_is_notified() -> None:
    own = a_record(timer_id=5, clockid=-2, notify=4, notify_tid=101)
    build = plan_of(a_record(), own, a_record(timer_id=7), tids=(100, 101))
    creators = [step.tid for step in build.steps if any(call.nr == 222 for call in step.calls)]
    assert creators == [100, 101, 100]
    assert build.steps[1].calls[1].args[0] == 0xFFFF_FFFE
    assert set(build.steps[0].provides) & set(build.steps[1].needs)


def created_ids(build: Builder) -> list[int]:
    found = []
    for step in build.steps:
        for call in step.calls:
            if call.nr == 222:
                assert isinstance(call.args[2], Blob)
                found.append(struct.unpack("<i4x", call.args[2].content)[0])
    return found


@pytest.mark.parametrize(
    ("ids", "next_id", "created"),
    [
        ((3, 7), 8, [3, 7]),
        ((3, 7), 4, [7, 3]),
        ((3, 7), 100, [3, 7, 99]),
        ((3, 7), 5, [3, 7, 4]),
        ((), 12, [11]),
    ],
)
def test_next_id_goes_on_where_it_was(
    ids: tuple[int, ...], next_id: int, created: list[int]
) -> None:
    records = [a_record(timer_id=number) for number in ids]
    build = plan_of(*records, timers.TimerIds(tgid=100, next_id=next_id))
    assert created_ids(build) == created


def test_older_kernel_counts_ids_up() -> None:
    host = HostFacts(features={timer_ids.CAN_CHOOSE_IDS: False})
    build = plan_of(a_record(timer_id=2), host=host)
    assert [call.nr for call in build.steps[0].calls] == [222, 226, 222, 226, 222]
    assert [call.args[0] for call in build.steps[0].calls if call.nr == 226] == [0, 1]


def test_older_kernel_refuses_ids_out_of_reach() -> None:
    host = HostFacts(features={timer_ids.CAN_CHOOSE_IDS: False})
    build = plan_of(a_record(timer_id=2**31 - 1), host=host)
    assert [finding.blocker for finding in build.findings] == [True]


def test_alarm_timer_needs_its_capability() -> None:
    assert plan_of(a_record(clockid=9)).findings[0].blocker


def test_listing_names_notified_threads() -> None:
    listing = b"ID: 1\nsignal: 10/00\nnotify: signal/tid.412\nClockID: 1\nnotify: none/pid.9\n"
    assert timers._notified_tids(listing) == {412}


def itimer_record(*three: tuple[int, int]) -> itimers.Itimers:
    return itimers.Itimers(tgid=100, timers=[itimers.IntervalTimer(*one) for one in three])


def test_itimers_are_rounded_up_to_microseconds() -> None:
    build = plan_of(itimer_record((0, 1_500_000_001), (2 * SECOND, 1), (0, 0)), module=itimers)
    (step,) = build.steps
    values = []
    for call in step.calls:
        assert isinstance(call.args[1], Blob)
        values.append((call.args[0], *struct.unpack("<qqqq", call.args[1].content)))
    assert values == [(0, 0, 0, 1, 500_001), (1, 2, 0, 0, 1)]


def test_expired_real_itimer_expires_again_behind_pending_signals() -> None:
    (step,) = plan_of(itimer_record((SECOND, 0), (SECOND, 0), (0, 0)), module=itimers).steps
    (call,) = step.calls
    assert isinstance(call.args[1], Blob)
    assert (call.args[0], struct.unpack("<qqqq", call.args[1].content)) == (0, (1, 0, 0, 1))
    assert signals_queued(100) in step.after


def test_no_timers_no_steps() -> None:
    assert plan_of().steps == []
    assert plan_of(itimer_record((0, 0), (0, 0), (0, 0)), module=itimers).steps == []


def test_timers_without_bpf_are_refused_by_name() -> None:
    refused: list[str] = []
    process = SimpleNamespace(
        tgid=100, process_view=None, refuse=lambda *parts: refused.append(parts[1])
    )
    raw = timers.Raw(b"ID: 0\n", frozenset())
    assert list(timers.finish(raw, process)) == []  # type: ignore[arg-type]
    assert len(refused) == 1
