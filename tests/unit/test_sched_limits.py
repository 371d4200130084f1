"""Scheduling and resource limits: records to calls."""

import struct

import pytest

from ckpt.host.facts import RLIM_INFINITY, Scheduling
from ckpt.host.scheduling import SCHED_ATTR, parse_cpu_list, read_scheduling
from ckpt.objects import limits, sched
from ckpt.objects.limits import LimitsRecord, parse_limits
from ckpt.objects.sched import SchedRecord
from ckpt.objects.steps import Blob, Call, fds_placed, limits_set, threads_exist
from tests.unit.planning import (
    ROOT,
    calls_of,
    host_facts,
    only,
    plan_of,
    process_record,
    warnings,
)

OWN = Scheduling(runtime_ns=2_800_000, cpus=0b11)
HOST = host_facts(scheduling=OWN)


def sched_record(scheduling: Scheduling, cpus: int = 0b11, slack: int = 50_000) -> SchedRecord:
    return SchedRecord(
        tgid=100, tids=[100], scheduling=scheduling, cpus=f"{cpus:x}", timer_slack_ns=slack
    )


def sched_calls(record: SchedRecord) -> list[Call]:
    return calls_of(plan_of(sched, process_record(100), record, host=HOST), 100)


def attr_of(call: Call) -> tuple[int, ...]:
    blob = call.args[1]
    assert isinstance(blob, Blob)
    return SCHED_ATTR.unpack(blob.content)


def test_a_thread_like_the_restorer_needs_no_call() -> None:
    assert sched_calls(sched_record(Scheduling(runtime_ns=2_800_000))) == []


def test_nice_alone_keeps_the_slice_of_the_system() -> None:
    (call,) = sched_calls(sched_record(Scheduling(nice=5, runtime_ns=2_800_000)))
    assert call.nr == sched.SYS_SCHED_SETATTR
    assert attr_of(call) == (48, 0, 0, 5, 0, 0, 0, 0)


def test_deadline_parameters_and_flags() -> None:
    want = Scheduling(6, 0x5, 0, 0, 1_000_000, 2_000_000, 3_000_000)
    (call,) = sched_calls(sched_record(want))
    assert attr_of(call) == (48, 6, 5, 0, 0, 1_000_000, 2_000_000, 3_000_000)


def test_affinity_ioprio_and_slack() -> None:
    want = Scheduling(runtime_ns=2_800_000, ioprio=0x4003)
    affinity, ioprio, slack = sched_calls(sched_record(want, cpus=0b10, slack=1234))
    mask = affinity.args[2]
    assert isinstance(mask, Blob)
    assert (affinity.nr, affinity.args[1]) == (sched.SYS_SCHED_SETAFFINITY, 8)
    assert mask.content == b"\2" + bytes(7)
    assert ioprio.args == (1, 0, 0x4003)
    assert slack.args == (sched.PR_SET_TIMERSLACK, 1234)


def test_cpus_that_are_not_here() -> None:
    host = host_facts(scheduling=OWN)
    host = type(host)(inherited=host.inherited, online_cpus=0b11)
    record = sched_record(Scheduling(runtime_ns=2_800_000), cpus=0b100)
    build = plan_of(sched, process_record(100), record, host=host)
    assert build.steps == []
    assert "none of them is here" in warnings(build)[0]


def test_scheduling_comes_after_threads_exist() -> None:
    build = plan_of(sched, process_record(100), sched_record(Scheduling(policy=5)), host=HOST)
    assert threads_exist(100) in build.steps[0].after


def test_wide_masks_pass_through_text() -> None:
    wide = Scheduling(cpus=1 << 200)
    record = sched._record(100, [100], wide, None)
    assert int(record.cpus, 16) == 1 << 200
    assert record.scheduling.cpus == 0


@pytest.mark.parametrize(
    ("text", "mask"), [("0\n", 1), ("0-3,8", 0b1_0000_1111), ("", 0), ("2,4-5", 0b110100)]
)
def test_cpu_lists(text: str, mask: int) -> None:
    assert parse_cpu_list(text) == mask


def test_our_own_scheduling_reads() -> None:
    own = read_scheduling(0)
    assert own.cpus
    assert -20 <= own.nice <= 19


def limits_of(**changed: tuple[int, int]) -> LimitsRecord:
    values = [(10, 20)] * 16
    values[0] = (RLIM_INFINITY, RLIM_INFINITY)
    for name, value in changed.items():
        values[limits.NAMES.index(name)] = value
    return LimitsRecord(tgid=100, limits=values)


def test_limits_come_after_what_they_could_hinder() -> None:
    build = plan_of(limits, process_record(100), limits_of(NOFILE=(1, 2)))
    step = only(build.steps, "resource limits")
    assert len(step.calls) == 16
    blob = step.calls[7].args[2]
    assert isinstance(blob, Blob)
    assert struct.unpack("<QQ", blob.content) == (1, 2)
    assert fds_placed(2) in step.after
    assert step.provides == (limits_set(100),)


def test_a_hard_limit_above_ours_is_lowered_with_a_warning() -> None:
    weak = type(ROOT)(permitted=0, effective=0)
    host = host_facts(credentials=weak, limits=((RLIM_INFINITY, RLIM_INFINITY), *((10, 20),) * 15))
    build = plan_of(limits, process_record(100), limits_of(NOFILE=(30, 40)), host=host)
    blob = build.steps[0].calls[7].args[2]
    assert isinstance(blob, Blob)
    assert struct.unpack("<QQ", blob.content) == (20, 20)
    assert "RLIMIT_NOFILE: hard limit 40 cannot be had, 20 instead" in warnings(build)[0]


def test_cpu_time_that_starts_anew_is_told() -> None:
    quiet = plan_of(limits, process_record(100), limits_of())
    assert warnings(quiet) == []
    told = plan_of(limits, process_record(100), limits_of(CPU=(5, 10)))
    assert "from zero again" in warnings(told)[0]


def test_proc_limits_are_read_by_name() -> None:
    with open("/proc/self/limits", "rb") as file:
        found = parse_limits(file.read())
    import resource

    for number, pair in enumerate(found):
        assert pair == tuple(value & RLIM_INFINITY for value in resource.getrlimit(number))
