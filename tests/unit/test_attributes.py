"""Attributes of processes and threads, membarrier, speculation, dispatch, cgroups."""

import pytest

from ckpt.objects import cgroup, dispatch, membarrier, prctl, speculation, thread_attributes
from ckpt.objects.cgroup import CgroupRecord
from ckpt.objects.dispatch import DispatchRecord
from ckpt.objects.membarrier import MembarrierRecord
from ckpt.objects.prctl import AttributesRecord
from ckpt.objects.speculation import SpeculationRecord, choices
from ckpt.objects.steps import Token, creds_set, memory_filled, thread_done
from ckpt.objects.thread_attributes import ThreadAttributesRecord
from tests.unit.planning import (
    ROOT,
    blockers,
    calls_of,
    host_facts,
    only,
    plan_of,
    process_record,
    warnings,
)


def attributes(**changed: object) -> AttributesRecord:
    plain: dict[str, object] = {
        "tgid": 100,
        "dumpable": 1,
        "is_subreaper": False,
        "thp_disabled": False,
        "thp_except_advised": False,
        "mdwe": 0,
        "merges_memory": False,
        "coredump_filter": 0x33,
        "oom_score_adj": 0,
    }
    return AttributesRecord(**{**plain, **changed})  # type: ignore[arg-type]


def thread_record(*tids: int, **changed: object) -> ThreadAttributesRecord:
    plain: dict[str, object] = {
        "tgid": 100,
        "tids": list(tids),
        "personality": 0,
        "pdeath_signal": 0,
        "tsc_faults": False,
        "cpuid_faults": False,
        "is_io_flusher": False,
        "mce_policy": -1,
    }
    return ThreadAttributesRecord(**{**plain, **changed})  # type: ignore[arg-type]


def test_plain_process_only_gets_dumpable_after_all_credentials() -> None:
    build = plan_of(prctl, process_record(100, 101), attributes())
    (step,) = build.steps
    assert [call.args for call in step.calls] == [(prctl.PR_SET_DUMPABLE, 1)]
    assert {creds_set(100), creds_set(101)} <= set(step.after)


def test_mdwe_waits_for_memory() -> None:
    build = plan_of(prctl, process_record(100), attributes(mdwe=3, is_subreaper=True))
    step = only(build.steps, "MDWE")
    assert step.calls[0].args == (prctl.PR_SET_MDWE, 3)
    assert memory_filled(100) in step.after
    early = only(build.steps, "process attributes")
    assert early.calls[0].args == (prctl.PR_SET_CHILD_SUBREAPER, 1)


def test_huge_pages_where_advised() -> None:
    record = attributes(thp_except_advised=True)
    build = plan_of(prctl, process_record(100), record)
    assert only(build.steps, "process attributes").calls[0].args == (41, 1, 2)
    host = host_facts()
    older = type(host)(inherited=host.inherited, features={"thp_except_advised": False})
    build = plan_of(prctl, process_record(100), record, host=older)
    assert len(build.steps) == 1
    assert "huge pages" in warnings(build)[0]


def test_dumpable_two_is_a_warning() -> None:
    build = plan_of(prctl, process_record(100), attributes(dumpable=2))
    assert only(build.steps, "dumpable").calls[0].args == (prctl.PR_SET_DUMPABLE, 0)
    assert "dumpable is 2" in warnings(build)[0]


def test_proc_files_are_written_by_the_host() -> None:
    record = attributes(coredump_filter=0x7F, oom_score_adj=500)
    build = plan_of(prctl, process_record(100), record)
    actions = [step.action for step in build.steps if step.action]
    described = [action.describe() for action in actions]
    assert described == [
        "write 0x7f to coredump_filter of tid 100",
        "write 500 to oom_score_adj of tid 100",
    ]


def test_oom_adjustment_below_ours_may_fail() -> None:
    host = host_facts(credentials=type(ROOT)(), oom_score_adj=0)
    build = plan_of(prctl, process_record(100), attributes(oom_score_adj=-5), host=host)
    assert "may be below" in warnings(build)[0]
    (action,) = [step.action for step in build.steps if step.action]
    assert isinstance(action, prctl.WriteProc)
    assert action.may_fail


def test_thread_attributes_that_are_plain_cost_nothing() -> None:
    build = plan_of(thread_attributes, process_record(100), thread_record(100))
    assert build.steps == []


def test_thread_attributes() -> None:
    record = thread_record(100, personality=0x40000, pdeath_signal=9, tsc_faults=True, mce_policy=1)
    build = plan_of(thread_attributes, process_record(100), record)
    early, late = build.steps
    assert early.calls[0].args == (0x40000,)
    assert early.calls[1].args == (33, 1, 1)
    assert [call.args for call in late.calls] == [(1, 9), (26, 2)]
    assert creds_set(100) in late.after


@pytest.mark.parametrize(
    ("flags", "modes"),
    [
        (1 << 14, (False, False)),
        (1 << 14 | 1 << 16, (True, False)),
        (1 << 14 | 1 << 15, (False, True)),
        (1 << 19 | 1 << 21, (True, False)),
        (1 << 19 | 1 << 20, (False, True)),
        (0, (None, None)),
        (1 << 14 | 1 << 19, (None, None)),
        (None, (None, None)),
    ],
)
def test_fault_modes_of_both_layouts(
    flags: int | None, modes: tuple[bool | None, bool | None]
) -> None:
    assert thread_attributes._fault_modes(flags) == modes


@pytest.mark.parametrize(("flags", "policy"), [(0, -1), (0x80, 0), (0x0800_0080, 1)])
def test_mce_policy(flags: int, policy: int) -> None:
    assert thread_attributes.mce_policy(flags) == policy


def test_cpuid_faulting_on_a_cpu_without_it_is_refused() -> None:
    host = host_facts()
    host = type(host)(inherited=host.inherited, features={"cpuid_faulting": False})
    record = thread_record(100, cpuid_faults=True)
    build = plan_of(thread_attributes, process_record(100), record, host=host)
    assert "CPUID faults" in blockers(build)[0]


def test_membarrier() -> None:
    record = MembarrierRecord(tgid=100, commands=[1 << 4, 1 << 8])
    build = plan_of(membarrier, process_record(100), record)
    assert [call.args for call in calls_of(build, 100)] == [(16,), (256,)]
    bad = MembarrierRecord(tgid=100, commands=[1 << 9])
    assert blockers(plan_of(membarrier, process_record(100), bad))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("thread vulnerable", "conditional enabled"), (2, 2)),
        (("thread force mitigated", "conditional force disabled"), (8, 8)),
        (("vulnerable", "always enabled"), (0, 0)),
        (("", ""), (0, 0)),
    ],
)
def test_speculation_words(words: tuple[str, str], expected: tuple[int, int]) -> None:
    assert choices(*words) == expected


def test_speculation_is_set_where_it_differs() -> None:
    record = SpeculationRecord(tgid=100, tids=[100], store_bypass=4, indirect_branch=2)
    host = host_facts(speculation=("thread vulnerable", "conditional enabled"))
    build = plan_of(speculation, process_record(100), record, host=host)
    assert [call.args for call in calls_of(build, 100)] == [(53, 0, 4)]
    elsewhere = plan_of(speculation, process_record(100), record)
    assert elsewhere.steps == []
    assert len(warnings(elsewhere)) == 2


def test_dispatch_is_set_when_tapes_are_over() -> None:
    record = DispatchRecord(tid=100, mode=1, selector=0x1000, offset=0x2000, length=0x1000)
    (step,) = plan_of(dispatch, process_record(100), record).steps
    assert {thread_done(100), Token("parked", 100)} <= set(step.after)
    assert step.action is not None
    assert step.action.describe() == "syscall user dispatch, free in 0x2000-0x3000"


def test_cgroup_elsewhere_is_a_warning() -> None:
    record = CgroupRecord(tgid=100, lines=["0::/a", "1:cpu:/"])
    build = plan_of(cgroup, process_record(100), record, host=host_facts(cgroups=("1:cpu:/",)))
    (text,) = warnings(build)
    assert "not in 0::/a" in text
