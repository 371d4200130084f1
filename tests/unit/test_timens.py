"""Time namespaces: offsets in and out, and the way in."""

import time

import pytest

from ckpt.host.clocks import parse_offsets
from ckpt.host.facts import Credentials
from ckpt.objects import timens
from ckpt.objects.base import Options
from ckpt.objects.passing import SYS_CLOSE, SYS_RECVMSG
from ckpt.objects.steps import Executor, memory_mapped, timens_entered
from ckpt.objects.timens import TimensRecord
from tests.unit.planning import host_facts, plan_of, process_record, warnings


def record(*, initial: bool = True, offsets: tuple[int, int] = (0, 0)) -> TimensRecord:
    return TimensRecord(
        tgid=100,
        is_initial=initial,
        monotonic_offset_ns=offsets[0],
        boottime_offset_ns=offsets[1],
    )


@pytest.mark.parametrize("offsets", [(0, 0), (1, -1), (-1_310_666_762, 5_000_000_001)])
def test_offsets_survive_a_round_trip(offsets: tuple[int, int]) -> None:
    found = parse_offsets(timens.format_offsets(*offsets).encode())
    assert (found["monotonic"], found["boottime"]) == offsets


def test_kernel_columns_are_read() -> None:
    raw = b"monotonic          -1 310666762\nboottime            3         0\n"
    assert parse_offsets(raw) == {"monotonic": -689_333_238, "boottime": 3_000_000_000}


def test_clocks_go_on_from_where_they_stood() -> None:
    clocks = (12_345_000_000_000, 22_345_000_000_000)
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    monotonic, boottime = timens.offsets_for(clocks)
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    with open("/proc/self/timens_offsets", "rb") as file:
        ours = parse_offsets(file.read())
    # What the machine's clock read in between plus the offset is what was asked for.
    shown = clocks[0] - monotonic + ours["monotonic"]
    assert before <= shown <= after
    assert boottime != monotonic


def test_the_way_in() -> None:
    build = plan_of(timens, process_record(100, 101), record())
    unshare, offsets, send, enter = build.steps
    assert [step.executor for step in build.steps] == [
        Executor.TAPE,
        Executor.HOST,
        Executor.HOST,
        Executor.TAPE,
    ]
    assert memory_mapped(100) in unshare.after
    assert set(unshare.provides) <= set(offsets.needs)
    assert set(offsets.provides) <= set(send.needs)
    assert set(send.provides) <= set(enter.needs)
    assert enter.provides == (timens_entered(100),)
    # The descriptor arrives at the lowest number that is free; 3 is the socket's.
    received, entered, closed = enter.calls
    assert (received.nr, received.args[0]) == (SYS_RECVMSG, 3)
    assert (entered.nr, entered.args) == (timens.SYS_SETNS, (0, timens.CLONE_NEWTIME))
    assert (closed.nr, closed.args) == (SYS_CLOSE, (0,))


def test_not_wanted() -> None:
    assert plan_of(timens, process_record(100), record(), options=Options(timens=False)).steps == []


def test_its_own_offsets_stay_when_continuity_is_not_wanted() -> None:
    build = plan_of(
        timens,
        process_record(100),
        record(initial=False, offsets=(5, 6)),
        options=Options(timens=False),
    )
    action = build.steps[1].action
    assert isinstance(action, timens.SetOffsets)
    assert action.clocks is None
    assert action.offsets == (5, 6)


def test_without_privilege_it_is_a_warning() -> None:
    host = host_facts(credentials=Credentials())
    build = plan_of(timens, process_record(100), record(), host=host)
    assert build.steps == []
    assert "will jump" in warnings(build)[0]
