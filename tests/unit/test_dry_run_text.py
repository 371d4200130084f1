"""Planned calls as text, and the names of steps: what is printed for which bytes."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckpt.arch.x86_64.syscalls import syscall_number
from ckpt.debug.plan_text import step_json
from ckpt.debug.tape_structs import SHAPES
from ckpt.debug.tape_text import Later, PlannedCall, TapeText, planned
from ckpt.debug.text import escape
from ckpt.errors import PlanError
from ckpt.objects import altstack, dispositions, locks, mm, passing, sched, timer_ids
from ckpt.objects.file_kinds import epoll, owners
from ckpt.objects.steps import (
    Arg,
    Blob,
    Call,
    Entry,
    Executor,
    Expect,
    Scratch,
    Step,
    TimevalLeft,
    c_string,
)
from ckpt.plan import Plan, find_step, name_steps

HEAP = 0x5500_0000_0000


def locate(address: int) -> str:
    return "heap" if address == HEAP else ""


def text(name: str, *args: Arg | Later, i386: bool = False, **more: object) -> str:
    entry = Entry.INT80 if i386 else Entry.SYSCALL
    call = PlannedCall(syscall_number(name, i386=i386), args, entry=entry)
    return TapeText(locate).line(7, call._replace(**more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (text("prctl", 15, c_string("worker")), 'prctl(PR_SET_NAME, "worker") = 0 expected'),
        (
            text("mmap", HEAP, 4096, 3, 0x100022, -1, 0, value=HEAP),
            "mmap(0x550000000000 (heap), 4096, PROT_READ|PROT_WRITE, "
            "MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED_NOREPLACE, -1, 0) = 0x550000000000 expected",
        ),
        (
            text("rt_sigaction", 10, Blob(struct.pack("<QQQQ", 1, 0x10000004, 0, 1 << 14)), 0, 8),
            "rt_sigaction(SIGUSR1, {sa_handler=SIG_IGN, sa_flags=SA_SIGINFO|SA_RESTART, "
            "sa_mask=[SIGTERM]}, NULL, 8) = 0 expected",
        ),
        (
            text("prlimit64", 0, 7, Blob(struct.pack("<QQ", 20, 2**64 - 1)), 0),
            "prlimit64(0, RLIMIT_NOFILE, {rlim_cur=20, rlim_max=RLIM64_INFINITY}, NULL)"
            " = 0 expected",
        ),
        (
            text("setitimer", 0, TimevalLeft(struct.pack("<4q", 0, 0, 1, 5), 16), 0),
            "setitimer(ITIMER_REAL, {it_interval=0.000000 s, it_value=1.000005 s, "
            "and what the clock lags}, NULL) = 0 expected",
        ),
        (
            text("recvmsg", 3, passing.receive_call(3, 2).args[1], 0, value=1),
            "recvmsg(3, {msg_namelen=0, msg_iov={iov_base={room for 8 bytes}, iov_len=1}, "
            "msg_iovlen=1, msg_control={room for 24 bytes}, msg_controllen=24}, 0) = 1 expected",
        ),
        (text("umask", 0o22, expect=Expect.NOT_NEGATIVE), "umask(0022) = no error expected"),
        (text("close", 5, expect=Expect.ANY), "close(5) = any result"),
        (text("close", Later("which one")), "close(<which one>) = 0 expected"),
        (
            text("close", 5, when="if it is open"),
            "close(5) = 0 expected  (only if it is open)",
        ),
        (text("chdir", c_string(b"/\xff\x1b[2J")), 'chdir("/\\xff\\x1b[2J") = 0 expected'),
        (
            text("rmdir", c_string("/x"), value=-2),
            'rmdir("/x") = -1 ENOENT (No such file or directory) expected',
        ),
        (
            text("poll", HEAP, 1, -1, value=None, i386=True),
            "poll(0x550000000000 (heap), 1, -1) = <known when it runs>  (by int 0x80)",
        ),
        (
            text(
                "rt_sigqueueinfo", 7, 10, Blob(struct.pack("<iii4xiI", 10, 0, -1, 9, 8).ljust(128))
            ),
            "rt_sigqueueinfo(7, SIGUSR1, {si_signo=SIGUSR1, si_code=-1, si_pid=9, si_uid=8})"
            " = 0 expected",
        ),
        (
            text("preadv", 0, Blob(struct.pack("<4Q", HEAP, 8, 1, 2)), 2, 4096, 0, value=10),
            "preadv(0, [{iov_base=0x550000000000 (heap), iov_len=8}, {iov_base=0x1, iov_len=2}], "
            "2, 4096, 0) = 10 expected",
        ),
        (
            text("futex", HEAP, 128 + 256 + 9, 3, Later("left"), 0, 0xFFFF_FFFF),
            "futex(0x550000000000 (heap), FUTEX_WAIT_BITSET|FUTEX_PRIVATE_FLAG|"
            "FUTEX_CLOCK_REALTIME, 3, <left>, NULL, 0xffffffff) = 0 expected",
        ),
    ],
)
def test_lines(shown: str, wanted: str) -> None:
    assert shown == f"[tid 7] {wanted}"


def test_calls_that_were_made() -> None:
    close = Call(3, (5,))
    show = TapeText().made
    assert show(7, close, 0) == "[tid 7] close(5) = 0"
    assert show(7, close, -9) == "[tid 7] close(5) = -1 EBADF (Bad file descriptor) (expected 0)"
    assert show(7, close._replace(expect=Expect.ANY), -516) == (
        "[tid 7] close(5) = ? ERESTART_RESTARTBLOCK"
    )
    assert show(7, Call(60, (0,)), None) == "[tid 7] exit(0) = ?"


def test_shapes_are_those_that_plans_build() -> None:
    for kind, layout in {
        "sigaction": dispositions.SIGACTION,
        "stack_t": altstack.STACK_T,
        "mm_map": mm._MM_MAP,
        "msghdr": passing._MSGHDR,
        "owner_ex": owners._OWN_EX,
        "epoll_event": epoll._EVENT,
        "sched_attr": sched.SCHED_ATTR,
    }.items():
        assert SHAPES[kind].layout.format == layout.format, kind
    # The same with what is padding behind the last field left out.
    assert locks._FLOCK.format.startswith(SHAPES["flock"].layout.format)
    assert timer_ids.SIGEVENT.format.startswith(SHAPES["sigevent"].layout.format)
    for kind, shape in SHAPES.items():
        values = shape.layout.unpack(bytes(shape.layout.size))
        assert len(values) == len(shape.fields), kind


numbers = st.integers(-(2**63), 2**64 - 1) | st.integers(-5, 70)
blobs = st.recursive(
    st.builds(Blob, st.binary(max_size=200)) | st.builds(Scratch, st.integers(0, 1 << 40)),
    lambda inner: st.builds(
        lambda content, what: Blob(content, ((0, what), (16, what), (64, what))),
        st.binary(max_size=200),
        inner,
    ),
    max_leaves=3,
)
calls = st.builds(
    Call,
    st.integers(0, 600),
    st.lists(numbers | blobs, max_size=6).map(tuple),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from(Expect),
    st.sampled_from(Entry),
)


@settings(deadline=None, max_examples=300)
@given(calls)
@example(Call(157, (35, 14, Blob(b"\0" * 104, ((88, Blob(b"")),)), 104)))
@example(Call(435, (Blob(b"short"), 88)))
def test_nothing_that_a_plan_may_hold_makes_it_fail(call: Call) -> None:
    show = TapeText(locate)
    line = show.line(1, planned(call))
    assert len(line) < 20_000
    assert escape(line) == line
    json.dumps(show.plain(1, planned(call)))
    assert show.made(1, call, -11).startswith("[tid 1] ")


def step(why: str, tid: int = 0, executor: Executor = Executor.HOST) -> Step:
    return Step(executor, tid, why)


STEPS = (
    step("map anonymous memory", 7, Executor.TAPE),
    step("load registers", 7, Executor.PTRACE),
    step("load registers", 8, Executor.PTRACE),
    step("open a file"),
    step("open a file"),
    step("enter b'/tmp/\x1b[2J'", 7, Executor.TAPE),
    step("rearm: ERESTART_RESTARTBLOCK, because", 7, Executor.PTRACE),
    step("stays in the restoring command's process group", 7, Executor.TAPE),
    step("'", 7),
    step("x" * 100, 7),
)
NAMES = [
    "map-anonymous-memory",
    "load-registers@7",
    "load-registers@8",
    "open-a-file.1",
    "open-a-file.2",
    "enter",
    "rearm",
    "stays-in-the-restoring-commands-process",
    "step-0",
    "x" * 40,
]


def test_step_names_are_plain_and_unique() -> None:
    assert name_steps(STEPS) == NAMES


@given(st.lists(st.tuples(st.text(max_size=90), st.integers(0, 3)), max_size=12))
def test_any_reason_makes_a_name(reasons: list[tuple[str, int]]) -> None:
    names = name_steps([step(why, tid) for why, tid in reasons])
    assert len(set(names)) == len(names)
    for name in names:
        assert name.isascii()
        assert name
        assert not name.isdecimal()
        assert name != "commit"
        assert not set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789-@.")


def test_steps_are_found_by_number_and_name() -> None:
    plan = Plan(STEPS, (), 3)
    for index, name in enumerate([*NAMES, "commit"]):
        assert find_step(plan, name) == index
        assert find_step(plan, str(index + 1)) == index
    for wrong in ("", "0", str(len(STEPS) + 2), "9" * 99, "load", "²", "commit "):
        with pytest.raises(PlanError) as caught:
            find_step(plan, wrong)
        assert "--dry-run" in caught.value.hint
    with pytest.raises(PlanError) as caught:
        find_step(plan, "load-registers")
    assert caught.value.hint.startswith("did you mean load-registers@")


def test_a_part_of_a_plan_has_the_same_runs() -> None:
    same = [step(f"tape {index}", 7, Executor.TAPE) for index in range(3)]
    plan = Plan((*same, step("host"), same[0]), (), 3)
    assert [len(run) for run in plan.runs()] == [3, 1, 1]
    assert [len(run) for run in plan.runs(2)] == [2]
    assert [len(run) for run in plan.runs(4)] == [3, 1]
    assert list(plan.runs(0)) == []


def test_json_of_a_step_is_safe() -> None:
    plain = step_json(6, "enter", STEPS[5])
    assert plain["why"] == "enter b'/tmp/\\x1b[2J'"
    assert step_json(11, "commit", None)["executor"] == "host"
