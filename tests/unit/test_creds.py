"""Credentials: status files to records, records to calls."""

import struct

import pytest

from ckpt.host.facts import Credentials
from ckpt.host.probe import SECBIT_NOROOT, after_exec
from ckpt.host.status import parse_credentials, parse_fields
from ckpt.objects import creds
from ckpt.objects.creds import CredsRecord
from ckpt.objects.statuses import Statuses
from ckpt.objects.steps import Blob, Call, born, creds_set, limits_set, seccomp_set
from tests.unit.planning import (
    ALL_CAPS,
    ROOT,
    blockers,
    calls_of,
    host_facts,
    plan_of,
    process_record,
    warnings,
)

STATUS = (
    b"Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\nGroups:\t4 27 \n"
    b"NStgid:\t9\nCapInh:\t0000000000000001\nCapPrm:\t0000000000000003\n"
    b"CapEff:\t0000000000000002\nCapBnd:\t00000000000000ff\nCapAmb:\t0000000000000001\n"
    b"NoNewPrivs:\t1\nSeccomp:\t0\n"
)
USER = Credentials((1000,) * 4, (1000,) * 4, (27,), bounding=ALL_CAPS)


def record(
    credentials: Credentials, *tids: int, securebits: int | None = 0, label: str = ""
) -> CredsRecord:
    return CredsRecord(
        tgid=100,
        tids=list(tids) or [100],
        credentials=credentials,
        securebits=securebits,
        label=label,
    )


def calls_for(credentials: Credentials, securebits: int | None = 0) -> list[Call]:
    build = plan_of(creds, process_record(100), record(credentials, securebits=securebits))
    assert not blockers(build)
    return calls_of(build, 100)


def test_status_to_credentials() -> None:
    expected = Credentials((1, 2, 3, 4), (5, 6, 7, 8), (4, 27), 1, 3, 2, 0xFF, 1, True)
    assert parse_credentials(parse_fields(STATUS)) == expected


def test_threads_that_are_alike_are_one_group() -> None:
    other = STATUS.replace(b"Uid:\t1", b"Uid:\t9")
    noise = STATUS.replace(b"Name:\tx", b"Name:\ty")
    statuses = Statuses({1: STATUS, 2: other, 3: noise}, {1: 1, 2: 2, 3: 3, 4: 1})
    groups = statuses.groups((b"Uid", b"NStgid"), (b"CapInh", b"Seccomp"))
    assert [tids for tids, _ in groups] == [[1, 3, 4], [2]]
    assert parse_credentials(groups[1][1]).uids[0] == 9


def test_thousand_threads_like_the_restorer_need_no_step() -> None:
    tids = range(100, 1100)
    build = plan_of(creds, process_record(*tids), record(ROOT, *tids))
    assert build.steps == []


def test_plain_user() -> None:
    calls = calls_for(USER)
    assert [call.nr for call in calls] == [
        creds.SYS_SETGROUPS,
        creds.SYS_PRCTL,
        creds.SYS_SETRESGID,
        creds.SYS_SETRESUID,
        creds.SYS_PRCTL,
        creds.SYS_CAPSET,
    ]
    fixup, final = calls[1], calls[4]
    assert fixup.args == (creds.PR_SET_SECUREBITS, creds.SECBIT_NO_SETUID_FIXUP)
    assert final.args == (creds.PR_SET_SECUREBITS, 0)
    assert calls[3].args == (1000, 1000, 1000)


def test_fs_ids_are_set_and_read_back() -> None:
    want = Credentials((0, 0, 0, 7), (0, 0, 0, 8), (), 0, ALL_CAPS, ALL_CAPS, ALL_CAPS)
    calls = calls_for(want)
    fsuid = [call for call in calls if call.nr == creds.SYS_SETFSUID]
    assert [(call.args, call.value) for call in fsuid] == [((7,), 0), ((0xFFFF_FFFF,), 7)]


def test_what_needs_setpcap_comes_before_it_is_lost() -> None:
    want = Credentials(
        (1000,) * 4, (1000,) * 4, (), 1 << 10, 1 << 10, 1 << 10, ALL_CAPS & ~1, 1 << 10, True
    )
    calls = calls_for(want, securebits=0b1)
    order = [call.args[0] if call.nr == creds.SYS_PRCTL else call.nr for call in calls]
    last_capset = len(order) - 1 - order[::-1].index(creds.SYS_CAPSET)
    for option in (creds.PR_CAPBSET_DROP, creds.PR_CAP_AMBIENT, creds.PR_SET_SECUREBITS):
        assert order.index(option) < last_capset
    assert order.index(creds.SYS_CAPSET) < order.index(creds.PR_CAP_AMBIENT)
    assert order[-1] == creds.PR_SET_NO_NEW_PRIVS
    final = calls[last_capset].args[1]
    assert isinstance(final, Blob)
    assert struct.unpack("<6I", final.content)[:3] == (1 << 10,) * 3


def test_order_among_other_steps() -> None:
    build = plan_of(creds, process_record(100), record(USER))
    (step,) = build.steps
    assert step.needs == (born(100),)
    assert step.provides == (creds_set(100),)
    assert {limits_set(100), seccomp_set(100)} <= set(step.after)


@pytest.mark.parametrize(
    ("own", "want", "text"),
    [
        (Credentials(effective=ALL_CAPS), ROOT, "needs capabilities that restore lacks"),
        (Credentials((5,) * 4, (1000,) * 4, (27,)), USER, "belongs to uid 1000"),
        (Credentials((1000,) * 4, (5,) * 4), USER, "has gid 1000"),
    ],
)
def test_what_we_have_not_got_is_refused(own: Credentials, want: Credentials, text: str) -> None:
    build = plan_of(creds, process_record(100), record(want), host=host_facts(credentials=own))
    assert any(text in line for line in blockers(build))
    assert build.steps == []


def test_a_smaller_bounding_set_of_ours_is_a_warning() -> None:
    own = Credentials(permitted=ALL_CAPS, effective=ALL_CAPS, bounding=1)
    build = plan_of(creds, process_record(100), record(ROOT), host=host_facts(credentials=own))
    assert "bounding set becomes smaller" in warnings(build)[0]


def test_exec_gives_root_what_bounding_set_allows() -> None:
    own = Credentials(permitted=1, effective=1, bounding=0xF0, inheritable=2)
    assert after_exec(own, 0).permitted == 0xF2
    assert after_exec(own, SECBIT_NOROOT).permitted == 0
    user = Credentials((1000,) * 4, permitted=7, effective=7, bounding=7, ambient=4)
    assert (after_exec(user, 0).permitted, after_exec(user, 0).effective) == (4, 4)
