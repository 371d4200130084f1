"""Seccomp: chains of filters to records, records to calls."""

import struct
from types import SimpleNamespace
from typing import Any, cast

from ckpt.host.facts import Credentials
from ckpt.objects import seccomp
from ckpt.objects.base import Identities, Process
from ckpt.objects.seccomp import Filter, SeccompFilterRecord, SeccompRecord
from ckpt.objects.steps import Blob, Executor, creds_set, seccomp_set
from tests.unit.planning import blockers, calls_of, host_facts, only, plan_of, process_record

ALLOW = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF_0000)
ERRNO = struct.pack("<HBBI", 0x06, 0, 0, 0x0005_0001)
NOTIFY = struct.pack("<HBBI", 0x06, 0, 0, 0x7FC0_0000)


def filters(*programs: bytes) -> list[SeccompFilterRecord]:
    return [
        SeccompFilterRecord(ref=number, program=program, logs=number == 2)
        for number, program in enumerate(programs, 1)
    ]


def thread(*tids: int, chain: tuple[int, ...]) -> SeccompRecord:
    mode = seccomp.SECCOMP_MODE_FILTER if chain else seccomp.SECCOMP_MODE_STRICT
    return SeccompRecord(tgid=100, tids=list(tids), mode=mode, filters=list(chain))


def test_equal_filters_become_one_record() -> None:
    process = cast(Process, SimpleNamespace(tgid=100, identities=Identities()))
    first, second = Filter(ALLOW, 0), Filter(ERRNO, seccomp.FILTER_FLAG_LOG)
    raw = {100: (first, second), 101: (first,), 102: (first, second), 103: ()}
    found = list(seccomp.finish(raw, process))
    programs = [record for record in found if isinstance(record, SeccompFilterRecord)]
    assert [(record.program, record.logs) for record in programs] == [
        (ALLOW, False),
        (ERRNO, True),
    ]
    one, two = (record.ref for record in programs)
    threads = [record for record in found if isinstance(record, SeccompRecord)]
    assert [(record.tids, record.filters, record.mode) for record in threads] == [
        ([100, 102], [one, two], 2),
        ([101], [one], 2),
        ([103], [], 1),
    ]


def test_shared_prefix_is_synchronised_and_the_rest_is_each_threads_own() -> None:
    build = plan_of(
        seccomp,
        process_record(100, 101, 102),
        *filters(ALLOW, ERRNO),
        thread(100, 101, chain=(1,)),
        thread(102, chain=(1, 2)),
    )
    shared = only(build.steps, "of all threads")
    assert shared.tid == 100
    (call,) = shared.calls
    assert call.args[:2] == (1, seccomp.FILTER_FLAG_TSYNC | seccomp.FILTER_FLAG_SPEC_ALLOW)
    assert set(shared.provides) >= {seccomp_set(100), seccomp_set(101), seccomp_set(102)}
    assert calls_of(build, 101) == []
    (own,) = calls_of(build, 102)
    assert own.args[1] == seccomp.FILTER_FLAG_LOG | seccomp.FILTER_FLAG_SPEC_ALLOW
    assert creds_set(100) not in shared.after


def test_program_is_handed_over_whole_and_in_order() -> None:
    build = plan_of(seccomp, process_record(100), *filters(ALLOW, ERRNO), thread(100, chain=(2, 1)))
    programs = []
    for call in calls_of(build, 100):
        fprog = call.args[2]
        assert isinstance(fprog, Blob)
        ((offset, content),) = fprog.pointers
        assert (offset, struct.unpack_from("<H", fprog.content)) == (8, (1,))
        programs.append(cast(Any, content).content)
    assert programs == [ERRNO, ALLOW]


def test_threads_without_seccomp_are_not_synchronised() -> None:
    build = plan_of(seccomp, process_record(100, 101), *filters(ALLOW), thread(101, chain=(1,)))
    assert calls_of(build, 100) == []
    (call,) = calls_of(build, 101)
    assert call.args[1] == seccomp.FILTER_FLAG_SPEC_ALLOW


def test_calls_are_let_through_first() -> None:
    build = plan_of(seccomp, process_record(100), thread(100, chain=()))
    suspend, strict = build.steps
    assert suspend.executor is Executor.HOST
    assert set(suspend.provides) <= set(strict.needs)
    assert strict.calls[0].args == (seccomp.SECCOMP_SET_MODE_STRICT, 0, 0)


def test_without_the_right_to_do_it_it_is_refused() -> None:
    weak = host_facts(credentials=Credentials())
    build = plan_of(seccomp, process_record(100), thread(100, chain=()), host=weak)
    assert "without CAP_SYS_ADMIN" in blockers(build)[0]
    filtered = host_facts(seccomp_mode=2)
    assert blockers(plan_of(seccomp, process_record(100), thread(100, chain=()), host=filtered))


def test_broken_records_are_refused() -> None:
    missing = plan_of(seccomp, process_record(100), thread(100, chain=(9,)))
    assert "does not have" in blockers(missing)[0]
    torn = plan_of(seccomp, process_record(100), *filters(b"123"), thread(100, chain=(1,)))
    assert "is no program" in blockers(torn)[0]


def test_listeners_are_recognised() -> None:
    assert seccomp.has_user_notification(ALLOW + NOTIFY)
    assert not seccomp.has_user_notification(ALLOW + ERRNO)
