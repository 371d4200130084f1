"""The calls that arm a restart_block again, and the times they are given."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt.arch.x86_64.decode import CallEntry
from ckpt.arch.x86_64.rearm import (
    TT_COMPAT,
    TT_NATIVE,
    TT_NONE,
    rearm_futex,
    rearm_nanosleep,
    rearm_poll,
)
from ckpt.arch.x86_64.timeouts import Where, decode_time, encode_milliseconds, encode_time

SCRATCH = 0x7000_0000
RMTP = 0x60_0000
HRTIMER = "hrtimer_nanosleep_restart"
SECOND = 1_000_000_000


def test_nanosleep_becomes_clock_nanosleep_with_what_remains() -> None:
    call = rearm_nanosleep(HRTIMER, 1, RMTP, TT_NATIVE, CallEntry.SYSCALL)
    assert (call.nr, call.absolute, call.clock) == (230, False, 1)
    args, data = call.fill(SCRATCH, 1_500_000_000)
    assert args == (1, 0, SCRATCH, RMTP, 0, 0)
    assert data == struct.pack("<qq", 1, 500_000_000)


def test_no_rmtp_and_cpu_clocks() -> None:
    call = rearm_nanosleep("posix_cpu_nsleep_restart", -6, 0xDEAD, TT_NONE, CallEntry.SYSCALL)
    assert call.clock == -6
    assert call.fill(SCRATCH, SECOND)[0] == (0xFFFF_FFFA, 0, SCRATCH, 0, 0, 0)


@pytest.mark.parametrize(("alarm", "clock"), [(0, 8), (1, 9)])
def test_alarm_sleeps_store_their_own_numbers(alarm: int, clock: int) -> None:
    call = rearm_nanosleep("alarm_timer_nsleep_restart", alarm, 0, TT_NONE, CallEntry.SYSCALL)
    assert (call.args[0], call.clock) == (clock, clock)
    with pytest.raises(ValueError, match="no alarm clock"):
        rearm_nanosleep("alarm_timer_nsleep_restart", alarm + 2, 0, TT_NONE, CallEntry.SYSCALL)


@pytest.mark.parametrize(
    ("rmtp_type", "nr", "where"), [(TT_COMPAT, 267, Where.TIMESPEC32), (TT_NATIVE, 407, "timespec")]
)
def test_int80_sleeps_keep_the_form_of_rmtp(rmtp_type: int, nr: int, where: Where) -> None:
    call = rearm_nanosleep(HRTIMER, 1, RMTP, rmtp_type, CallEntry.INT80)
    assert (call.nr, call.where) == (nr, where)
    with pytest.raises(ValueError, match="below 4 GiB"):
        call.fill((1 << 32) - 8, SECOND)


def test_poll_rounds_up_to_milliseconds() -> None:
    call = rearm_poll(0x1000, 2, has_timeout=True, entry=CallEntry.SYSCALL)
    assert call.nr == 7
    assert call.fill(0, 1_000_001) == ((0x1000, 2, 2, 0, 0, 0), b"")
    assert call.fill(0, -5)[0][2] == 0
    forever = rearm_poll(0x1000, 2, has_timeout=False, entry=CallEntry.INT80)
    assert (forever.nr, forever.fill(0, 0)[0][2]) == (168, 0xFFFF_FFFF)


def test_futex_wait_is_relative_and_bitset_absolute() -> None:
    wait = rearm_futex(0x1000, 7, 0xFFFF_FFFF, 128, CallEntry.SYSCALL)
    assert (wait.nr, wait.absolute, wait.clock) == (202, False, 1)
    assert wait.fill(SCRATCH, SECOND)[0] == (0x1000, 128, 7, SCRATCH, 0, 0xFFFF_FFFF)
    bitset = rearm_futex(0x1000, 7, 0x10, 9 | 128 | 256, CallEntry.INT80)
    assert (bitset.nr, bitset.absolute, bitset.clock) == (422, True, 0)
    assert bitset.args[5] == 0x10


def test_no_entry_is_refused() -> None:
    with pytest.raises(ValueError, match="without a call instruction"):
        rearm_poll(0, 0, has_timeout=False, entry=CallEntry.NONE)


@given(st.integers(0, 10**18), st.sampled_from([Where.TIMESPEC, Where.TIMEVAL]))
def test_times_round_trip_upwards(time_ns: int, where: Where) -> None:
    found = decode_time(where, encode_time(where, time_ns))
    unit = 1 if where is Where.TIMESPEC else 1000
    assert 0 <= found - time_ns < unit


@given(st.integers(-(10**18), 10**18))
def test_milliseconds_fit_an_int(time_ns: int) -> None:
    found = encode_milliseconds(time_ns)
    assert 0 <= found < 1 << 31
    assert found == (1 << 31) - 1 or 0 <= found * 1_000_000 - max(time_ns, 0) < 1_000_000


def test_32_bit_forms() -> None:
    assert encode_time(Where.TIMEVAL32, 2_000_001_000) == struct.pack("<ii", 2, 1)
    assert decode_time(Where.TIMESPEC32, struct.pack("<ii", 2, 5)) == 2_000_000_005
