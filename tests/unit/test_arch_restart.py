"""Classification of interrupted threads, call by call, with the results measured on 6.18."""

from typing import Any

import msgspec
import pytest

from ckpt.arch.x86_64 import regs as r
from ckpt.arch.x86_64.decode import CallEntry
from ckpt.arch.x86_64.restart import (
    NO_RESTART_FUNCTION,
    RESTART_FUNCTIONS,
    Kind,
    Strategy,
    build_reissue_regs,
    classify,
    confirm,
)
from ckpt.arch.x86_64.syscalls import syscall_number
from ckpt.arch.x86_64.timeouts import NO_TIMEOUT, Timeout, Where

SYSCALL = bytes.fromhex("b8230000000f05")
INT80 = bytes.fromhex("b8a2000000cd80")
OTHER = bytes.fromhex("4889c34883c408")
PTR = 0x7FFC_1000
REGISTERS = {
    CallEntry.SYSCALL: ("rdi", "rsi", "rdx", "r10", "r8", "r9"),
    CallEntry.INT80: ("rbx", "rcx", "rdx", "rsi", "rdi", "rbp"),
}


def make_regs(
    result: int, nr: int, args: tuple[int, ...] = (), entry: CallEntry = CallEntry.SYSCALL
) -> r.X86Regs:
    fields = dict.fromkeys(r.REG_NAMES, 0)
    fields |= dict(zip(REGISTERS[entry], map(r.unsigned, args), strict=False))
    fields |= {"rax": r.unsigned(result), "orig_rax": r.unsigned(nr), "rip": 0x401234}
    return r.X86Regs(**fields)


def decide(name: str, result: int, *args: int, i386: bool = False, **facts: Any) -> Strategy:
    entry, code = (CallEntry.INT80, INT80) if i386 else (CallEntry.SYSCALL, SYSCALL)
    number = syscall_number(name, i386=i386)
    return classify(make_regs(result, number, args, entry), code, **facts)


def monotonic(where: Where, arg: int) -> Timeout:
    return Timeout(where, arg)


NATIVE = [
    ("clock_nanosleep", -514, (1, 1, PTR, 0), Timeout(Where.TIMESPEC, 2, absolute=True)),
    ("clock_nanosleep", -514, (0, 1, PTR), Timeout(Where.TIMESPEC, 2, absolute=True, clock=0)),
    ("ppoll", -514, (0, 0, PTR), monotonic(Where.TIMESPEC, 2)),
    ("ppoll", -514, (0, 0, 0), NO_TIMEOUT),
    ("select", -514, (0, 0, 0, 0, PTR), monotonic(Where.TIMEVAL, 4)),
    ("pselect6", -514, (0, 0, 0, 0, PTR, 0), monotonic(Where.TIMESPEC, 4)),
    ("futex", -512, (PTR, 128, 0, 0), NO_TIMEOUT),
    ("futex", -513, (PTR, 6, 0, PTR), Timeout(Where.TIMESPEC, 3, absolute=True, clock=0)),
    ("futex_waitv", -512, (PTR, 1, 0, PTR, 1), Timeout(Where.TIMESPEC, 3, absolute=True)),
    ("rt_sigsuspend", -514, (PTR, 8), NO_TIMEOUT),
    ("pause", -514, (), NO_TIMEOUT),
    ("io_pgetevents", -514, (PTR, 1, 1, PTR, 0, 0), NO_TIMEOUT),
    ("recvfrom", -512, (3, PTR, 10), Timeout(Where.SO_RCVTIMEO, 0)),
    ("read", -512, (3, PTR, 10), Timeout(Where.SO_RCVTIMEO, 0)),
    ("write", -512, (3, PTR, 10), Timeout(Where.SO_SNDTIMEO, 0)),
    ("msgrcv", -514, (3, PTR, 10, 0, 0), NO_TIMEOUT),
    ("msgsnd", -514, (3, PTR, 10, 0), NO_TIMEOUT),
    ("wait4", -512, (-1,), NO_TIMEOUT),
    ("waitid", -512, (0,), NO_TIMEOUT),
    ("flock", -512, (3, 2), NO_TIMEOUT),
    ("fcntl", -512, (3, 7, PTR), NO_TIMEOUT),
    ("openat", -512, (-100, PTR), NO_TIMEOUT),
    (
        "mq_timedreceive",
        -512,
        (3, PTR, 10, 0, PTR),
        Timeout(Where.TIMESPEC, 4, absolute=True, clock=0),
    ),
]


@pytest.mark.parametrize(("name", "result", "args", "timeout"), NATIVE)
def test_native(name: str, result: int, args: tuple[int, ...], timeout: Timeout) -> None:
    strategy = decide(name, result, *args, ts_compat=False)
    assert (strategy.kind, strategy.name, strategy.timeout) == (Kind.NATIVE, name, timeout)
    assert strategy.entry is CallEntry.SYSCALL


REARM = [
    ("nanosleep", (PTR, PTR + 16), "hrtimer_nanosleep_restart", Where.TIMESPEC),
    ("clock_nanosleep", (2, 0, PTR, 0), "posix_cpu_nsleep_restart", Where.TIMESPEC),
    ("clock_nanosleep", (9, 0, PTR, 0), "alarm_timer_nsleep_restart", Where.TIMESPEC),
    ("poll", (PTR, 1, 5000), "do_restart_poll", Where.MILLISECONDS),
    ("poll", (PTR, 1, -1), "do_restart_poll", Where.NONE),
    ("futex", (PTR, 128, 0, PTR), "futex_wait_restart", Where.TIMESPEC),
    ("futex", (PTR, 9 | 256, 0, PTR), "futex_wait_restart", Where.TIMESPEC),
    ("restart_syscall", (PTR, 1, 5000), "do_restart_poll", Where.MILLISECONDS),
    ("restart_syscall", (PTR, 0, 0, PTR), "hrtimer_nanosleep_restart", Where.NONE),
]


@pytest.mark.parametrize(("name", "args", "function", "where"), REARM)
def test_rearm(name: str, args: tuple[int, ...], function: str, where: Where) -> None:
    strategy = decide(name, -516, *args, restart_fn=function)
    assert (strategy.kind, strategy.name, strategy.timeout.where) == (Kind.REARM, name, where)
    assert function in strategy.reason


def test_rearm_clocks() -> None:
    def clock(*args: int) -> tuple[int, bool, int]:
        timeout = decide("clock_nanosleep", -516, *args).timeout
        return timeout.clock, timeout.absolute, timeout.remainder

    assert clock(0, 0, PTR, PTR + 16) == (1, False, PTR + 16)
    assert clock(2, 0, PTR, 0) == (2, False, 0)
    assert clock(-6, 0, PTR, 0) == (-6, False, 0)
    relative = decide("futex", -516, PTR, 128, 0, PTR).timeout
    bitset = decide("futex", -516, PTR, 9 | 256, 0, PTR).timeout
    assert (relative.clock, relative.absolute) == (1, False)
    assert (bitset.clock, bitset.absolute) == (0, True)


def test_restart_block_that_cannot_be_armed() -> None:
    assert decide("nanosleep", -516, PTR, restart_fn=None).kind is Kind.REARM
    for function in ("some_driver_restart", NO_RESTART_FUNCTION):
        strategy = decide("nanosleep", -516, PTR, restart_fn=function)
        assert strategy.kind is Kind.NATIVE
        assert "EINTR" in strategy.reason


REISSUE = [
    ("epoll_wait", (3, PTR, 1, 5000), Where.MILLISECONDS, 3),
    ("epoll_wait", (3, PTR, 1, -1), Where.NONE, -1),
    ("epoll_wait", (3, PTR, 1, 0xFFFF_FFFF), Where.NONE, -1),
    ("epoll_pwait", (3, PTR, 1, 5000, 0, 8), Where.MILLISECONDS, 3),
    ("epoll_pwait2", (3, PTR, 1, PTR, 0, 8), Where.TIMESPEC, 3),
    ("epoll_pwait2", (3, PTR, 1, 0, 0, 8), Where.NONE, -1),
    ("semop", (3, PTR, 1), Where.NONE, -1),
    ("semtimedop", (3, PTR, 1, PTR), Where.TIMESPEC, 3),
    ("semtimedop", (3, PTR, 1, 0), Where.NONE, -1),
    ("rt_sigtimedwait", (PTR, 0, PTR, 8), Where.TIMESPEC, 2),
    ("rt_sigtimedwait", (PTR, 0, 0, 8), Where.NONE, -1),
    ("io_getevents", (PTR, 1, 1, PTR, PTR), Where.TIMESPEC, 4),
    ("ppoll", (0, 0, PTR), Where.TIMESPEC, 2),
    ("select", (0, 0, 0, 0, PTR), Where.TIMEVAL, 4),
    ("pselect6", (0, 0, 0, 0, PTR, 0), Where.TIMESPEC, 4),
    ("recvfrom", (3, PTR, 10), Where.SO_RCVTIMEO, 0),
    ("recvmsg", (3, PTR, 0), Where.SO_RCVTIMEO, 0),
    ("recvmmsg", (3, PTR, 1, 0, 0), Where.SO_RCVTIMEO, 0),
    ("read", (3, PTR, 10), Where.SO_RCVTIMEO, 0),
    ("readv", (3, PTR, 1), Where.SO_RCVTIMEO, 0),
    ("accept", (3, 0, 0), Where.SO_RCVTIMEO, 0),
    ("accept4", (3, 0, 0, 0), Where.SO_RCVTIMEO, 0),
    ("splice", (3, 0, 4, 0, 100, 0), Where.SO_RCVTIMEO, 0),
    ("sendto", (3, PTR, 10), Where.SO_SNDTIMEO, 0),
    ("sendmmsg", (3, PTR, 1), Where.SO_SNDTIMEO, 0),
    ("write", (3, PTR, 10), Where.SO_SNDTIMEO, 0),
    ("connect", (3, PTR, 16), Where.SO_SNDTIMEO, 0),
    ("sendfile", (3, 4, 0, 10), Where.SO_SNDTIMEO, 0),
    ("fallocate", (3, 0, 0, 10), Where.NONE, -1),
]


@pytest.mark.parametrize(("name", "args", "where", "arg"), REISSUE)
def test_reissue(name: str, args: tuple[int, ...], where: Where, arg: int) -> None:
    strategy = decide(name, -4, *args)
    assert strategy.kind is Kind.REISSUE
    assert (strategy.timeout.where, strategy.timeout.arg) == (where, arg)
    assert not strategy.timeout.absolute


def test_io_pgetevents_would_wait_its_full_timeout_again() -> None:
    strategy = decide("io_pgetevents", -514, PTR, 1, 1, PTR, PTR, 0)
    assert strategy.kind is Kind.REISSUE
    assert strategy.timeout == Timeout(Where.TIMESPEC, 4)


@pytest.mark.parametrize("name", ["epoll_wait", "recvfrom", "semop", "rt_sigtimedwait"])
def test_true_eintr_stays(name: str) -> None:
    strategy = decide(name, -4, 3, PTR, 1, PTR, handled_signal_pending=True)
    assert strategy.kind is Kind.DONE
    assert "true EINTR" in strategy.reason


@pytest.mark.parametrize("name", ["close", "ioctl", "nanosleep", "restart_syscall", "poll"])
def test_eintr_of_other_calls_stays(name: str) -> None:
    assert decide(name, -4, 3, PTR).kind is Kind.DONE


@pytest.mark.parametrize("result", [-512, -513, -514, -516])
def test_a_pending_handler_is_the_kernels_decision(result: int) -> None:
    strategy = decide("nanosleep", result, PTR, handled_signal_pending=True)
    assert strategy.kind is Kind.NATIVE


@pytest.mark.parametrize("result", [0, 1, 4, 512, -11, -515, -517, -5000, 0x7F00_0000_0000])
def test_finished_calls_are_left(result: int) -> None:
    strategy = decide("epoll_wait", result, 3, PTR, 1, 5000)
    assert (strategy.kind, strategy.timeout) == (Kind.DONE, NO_TIMEOUT)


@pytest.mark.parametrize("result", [-4, -512, -516, 0])
@pytest.mark.parametrize("orig", [-1, 0xFFFF_FFFF])
def test_not_in_a_call(result: int, orig: int) -> None:
    strategy = classify(make_regs(result, orig), SYSCALL, ts_compat=False)
    assert (strategy.kind, strategy.entry) == (Kind.DONE, CallEntry.NONE)


def test_i386_table_by_int80() -> None:
    sleep = decide("nanosleep", -516, PTR, 0, i386=True, ts_compat=True)
    assert (sleep.kind, sleep.nr, sleep.entry) == (Kind.REARM, 162, CallEntry.INT80)
    assert sleep.timeout.where is Where.TIMESPEC32
    again = decide("restart_syscall", -516, i386=True, restart_fn="hrtimer_nanosleep_restart")
    assert (again.nr, again.name, again.kind) == (0, "restart_syscall", Kind.REARM)
    epoll = decide("epoll_wait", -4, 3, PTR, 1, 0xFFFF_FFFF, i386=True)
    assert (epoll.nr, epoll.kind, epoll.timeout) == (256, Kind.REISSUE, NO_TIMEOUT)
    for name in ("futex_time64", "ppoll_time64", "rt_sigtimedwait_time64"):
        strategy = decide(name, -514, 8, 0, 8, 8, i386=True)
        assert strategy.timeout.where is Where.TIMESPEC
    select = decide("_newselect", -514, 0, 0, 0, 0, PTR, i386=True)
    assert select.timeout.where is Where.TIMEVAL32


def test_i386_multiplexers() -> None:
    recv = decide("socketcall", -4, 10, PTR, i386=True)
    assert (recv.name, recv.kind) == ("recv", Kind.REISSUE)
    assert recv.timeout == Timeout(Where.SO_RCVTIMEO, 0, indirect=True)
    timed = decide("ipc", -4, 4, 3, 1, 0, PTR, PTR, i386=True)
    assert (timed.name, timed.kind) == ("semtimedop", Kind.REISSUE)
    assert timed.timeout == Timeout(Where.TIMESPEC32, 5)
    assert decide("ipc", -4, 1, 3, 1, 0, PTR, i386=True).timeout == NO_TIMEOUT
    assert decide("ipc", -514, 12, 3, i386=True).name == "msgrcv"
    assert decide("socketcall", -4, 4, PTR, i386=True).kind is Kind.DONE


def test_the_flag_wins_over_the_bytes() -> None:
    regs = make_regs(-4, 232, (3, PTR, 1, -1))
    assert classify(regs, OTHER).kind is Kind.DONE
    assert classify(regs, b"").kind is Kind.DONE
    hidden = classify(regs, b"", ts_compat=False)
    assert (hidden.kind, hidden.entry) == (Kind.REISSUE, CallEntry.SYSCALL)
    assert "entered by syscall" in hidden.reason
    crossed = classify(make_regs(-514, 29, entry=CallEntry.INT80), SYSCALL, ts_compat=True)
    assert (crossed.name, crossed.entry) == ("pause", CallEntry.INT80)


def test_reissue_registers() -> None:
    regs = build_reissue_regs(make_regs(-4, 232))
    assert (regs.rax, regs.rip, regs.orig_rax) == (232, 0x401232, 232)


@pytest.mark.parametrize(("code", "text"), [(SYSCALL, "syscall"), (INT80, "int 0x80")])
def test_confirmed_by_capstone(code: bytes, text: str) -> None:
    regs = make_regs(-514, 29)
    assert confirm(classify(regs, code), regs, code) == f"{text} at 0x401232"


def test_strategy_survives_an_image() -> None:
    strategy = decide("semtimedop", -4, 3, PTR, 1, PTR)
    packed = msgspec.msgpack.encode(strategy)
    assert msgspec.msgpack.decode(packed, type=Strategy) == strategy


def test_every_restart_function_names_a_call() -> None:
    assert all(syscall_number(name) for name in RESTART_FUNCTIONS.values())
