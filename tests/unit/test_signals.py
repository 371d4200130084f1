"""Signals, alternate stacks and robust lists: records to steps, without a process."""

import struct
from types import SimpleNamespace

import pytest

from ckpt.errors import PlanError
from ckpt.objects import altstack, dispositions, last_calls, robust, siginfo, signals
from ckpt.objects.base import Builder, HostFacts, Options, ProcessRecord, Records
from ckpt.objects.steps import Blob, Entry, Step, dispositions_set, restart_armed, thread_done


def process_record(tids: list[int] | None = None) -> ProcessRecord:
    return ProcessRecord(
        tgid=100,
        tids=tids or [100],
        leader_alive=True,
        stopped_by=0,
        mm=1,
        files=2,
        fs=3,
        sighand=4,
    )


def plan_of(module: object, *records: object) -> list[Step]:
    build = Builder(HostFacts(), Options(), 3)
    module.plan(Records(records), build)  # type: ignore[attr-defined,arg-type]
    return build.steps


def info(signo: int, code: int = 0, pid: int = 7, sigval: int = 0) -> bytes:
    return struct.pack("<iii4xiIQ", signo, 0, code, pid, 1000, sigval).ljust(128, b"\0")


def signal_records(
    *, pending: list[bytes] | None = None, shared: list[bytes] | None = None
) -> tuple[object, ...]:
    return (
        process_record(),
        dispositions.Sighand(
            ref=4,
            dispositions=[dispositions.Disposition(10, 0x401000, 0x04000004, 0x402000, 0x200)],
        ),
        signals.ThreadSignals(tid=100, mask=0x4000, pending=pending or []),
        signals.ProcessSignals(tgid=100, pending=shared or [], alarms=[]),
    )


def test_dispositions_set_every_signal_but_kill_and_stop() -> None:
    step = plan_of(dispositions, *signal_records())[0]
    numbers = [call.args[0] for call in step.calls]
    assert numbers == [n for n in range(1, 65) if n not in (9, 19)]
    blob = step.calls[numbers.index(10)].args[1]
    assert isinstance(blob, Blob)
    assert struct.unpack("<QQQQ", blob.content) == (0x401000, 0x04000004, 0x402000, 0x200)
    default = step.calls[0].args[1]
    assert isinstance(default, Blob)
    assert default.content == bytes(32)
    assert {call.args[3] for call in step.calls} == {8}
    assert step.provides == (dispositions_set(100),)


def test_thread_without_pending_signals_gets_no_tape_but_its_mask() -> None:
    steps = plan_of(signals, *signal_records())
    assert len(steps) == 1
    action = steps[0].action
    assert isinstance(action, signals.LoadMask)
    assert (action.tid, action.mask) == (100, 0x4000)
    assert thread_done(100) in steps[0].after
    assert action.describe() == "tid 100: block SIGTERM"


def test_pending_are_queued_in_order_after_rearming() -> None:
    entries = [info(34, sigval=1), info(34, sigval=2), info(10)]
    step = plan_of(signals, *signal_records(pending=entries))[0]
    assert [call.args[:3] for call in step.calls] == [
        (100, 100, 34),
        (100, 100, 34),
        (100, 100, 10),
    ]
    assert [call.args[3].content for call in step.calls] == entries  # type: ignore[union-attr]
    assert {restart_armed(100), dispositions_set(100)} <= set(step.after)


def test_shared_pending_names_the_calling_thread() -> None:
    records = list(signal_records(shared=[info(15)]))
    records[0] = process_record([105, 106])
    records[2:3] = [signals.ThreadSignals(tid=tid, mask=0, pending=[]) for tid in (105, 106)]
    step = plan_of(signals, *records)[0]
    assert step.tid == 105
    assert step.calls[0].args[:2] == (105, 15)


def test_alarms_of_setitimer_are_queued_with_the_others() -> None:
    alarm = info(14, code=siginfo.SI_KERNEL)
    assert siginfo.is_alarm(alarm)
    assert not siginfo.is_alarm(info(14))
    assert not siginfo.is_alarm(info(15, code=siginfo.SI_KERNEL))
    records = list(signal_records())
    records[3] = signals.ProcessSignals(tgid=100, pending=[info(15)], alarms=[alarm])
    step = plan_of(signals, *records)[0]
    assert [call.args[1] for call in step.calls] == [15, 14]


def test_signal_without_siginfo_is_recorded_as_the_kernel_would_report_it() -> None:
    (bare,) = signals._queue([], 1 << 39)
    assert struct.unpack_from("<iii4xii", bare) == (40, 0, 0, 0, 0)
    assert len(bare) == 128


def test_pending_stop_is_sent_with_the_mask_not_on_the_tape() -> None:
    steps = plan_of(signals, *signal_records(shared=[info(19)]))
    assert len(steps) == 1
    action = steps[0].action
    assert isinstance(action, signals.LoadMask)
    assert action.stop_tgid == 100
    assert "SIGSTOP" in action.describe()


def test_faults_and_traps_are_queued_behind_the_last_tape() -> None:
    """A trap at the end of a tape would deliver a queued fault, although it is blocked."""
    entries = [info(11, code=1), info(10), info(5)]
    steps = plan_of(signals, *signal_records(pending=entries))
    assert [call.args[2] for call in steps[0].calls] == [10]
    action = steps[1].action
    assert isinstance(action, last_calls.LastCalls)
    assert [call.args[2] for call in action.calls] == [11, 5]
    assert {thread_done(100), restart_armed(100)} <= set(steps[1].after)
    assert action.describe() == "tid 100: set or queue SIGSEGV, SIGTRAP"


def test_ignored_sigtrap_is_ignored_again_behind_the_last_tape() -> None:
    records = list(signal_records())
    records[1] = dispositions.Sighand(ref=4, dispositions=[dispositions.Disposition(5, 1, 0, 0, 0)])
    action = plan_of(dispositions, *records)[1].action
    assert isinstance(action, last_calls.LastCalls)
    assert [(call.nr, call.args[0]) for call in action.calls] == [(13, 5)]


def test_missing_mask_is_a_plan_error() -> None:
    records = [r for r in signal_records() if not isinstance(r, signals.ThreadSignals)]
    with pytest.raises(PlanError, match="tid 100"):
        plan_of(signals, *records)


def test_timer_signals_are_left_to_timers_and_kill_to_nobody() -> None:
    entries = [info(12), info(10), info(14, code=siginfo.SI_TIMER), info(10, sigval=9)]
    queued = signals._queue(entries, 1 << 11 | 1 << 9 | 1 << 13 | 1 << 8)
    assert queued == [info(10), info(10, sigval=9), info(12)]


def test_thousand_threads_are_one_step_each() -> None:
    tids = list(range(100, 1100))
    steps = plan_of(
        signals,
        process_record(tids),
        dispositions.Sighand(ref=4, dispositions=[]),
        *(signals.ThreadSignals(tid=tid, mask=0, pending=[]) for tid in tids),
    )
    assert len(steps) == 1000


def test_mask_names() -> None:
    assert siginfo.names_in(0) == "none"
    assert siginfo.names_in((1 << 64) - 1) == "all"
    assert siginfo.names_in(1 << 1 | 1 << 33) == "SIGINT, SIGRTMIN+2"
    assert siginfo.mask_of([2, 34]) == 1 << 1 | 1 << 33


def process_with_views(**fields: object) -> SimpleNamespace:
    view = SimpleNamespace(**fields)
    warnings: list[tuple[str, str]] = []
    return SimpleNamespace(
        tgid=100,
        tids=[100],
        thread_views={100: view},
        warn=lambda where, what: warnings.append((where, what)),
        warnings=warnings,
    )


def test_altstack_round_trip_with_autodisarm() -> None:
    process = process_with_views(sas_ss_sp=0x7000, sas_ss_size=8192, sas_ss_flags=1 << 31)
    (record,) = altstack.finish(None, process)  # type: ignore[arg-type]
    (step,) = plan_of(altstack, process_record(), record)
    blob = step.calls[0].args[0]
    assert isinstance(blob, Blob)
    assert struct.unpack("<QI4xQ", blob.content) == (0x7000, 1 << 31, 8192)


@pytest.mark.parametrize(("size", "flags"), [(0, 0), (0, 2)])
def test_no_altstack_no_record(size: int, flags: int) -> None:
    process = process_with_views(sas_ss_sp=0, sas_ss_size=size, sas_ss_flags=flags)
    assert list(altstack.finish(None, process)) == []  # type: ignore[arg-type]
    assert process.warnings == []


def test_unseen_altstack_is_a_warning() -> None:
    process = process_with_views(sas_ss_sp=None, sas_ss_size=None, sas_ss_flags=None)
    assert list(altstack.finish(None, process)) == []  # type: ignore[arg-type]
    assert len(process.warnings) == 1


def test_robust_lists_native_and_compat() -> None:
    process = process_with_views(robust_list=0x7F00_0000_1000, compat_robust_list=0x5000)
    (record,) = robust.finish(None, process)  # type: ignore[arg-type]
    (step,) = plan_of(robust, process_record(), record)
    native, compat = step.calls
    assert (native.nr, native.args, native.entry) == (273, (0x7F00_0000_1000, 24), Entry.SYSCALL)
    assert (compat.nr, compat.args, compat.entry) == (311, (0x5000, 12), Entry.INT80)


def test_thread_without_robust_list_has_no_record() -> None:
    process = process_with_views(robust_list=0, compat_robust_list=0)
    assert list(robust.finish(None, process)) == []  # type: ignore[arg-type]
