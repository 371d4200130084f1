"""What /proc says, as values: the parsers behind a snapshot without BPF."""

from __future__ import annotations

import os
import stat
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt.arch.x86_64.decode import CallEntry
from ckpt.arch.x86_64.syscalls import syscall_number
from ckpt.arch.x86_64.timeouts import Timeout, find_timeout
from ckpt.host.kernel_view import (
    FutexRestart,
    KernelId,
    NanosleepRestart,
    PollRestart,
    RestartBlock,
    Rlimit,
)
from ckpt.host.proc_areas import parse_areas
from ckpt.host.proc_asked import TimerAnswer, membarrier_state
from ckpt.host.proc_build import summarize_maps
from ckpt.host.proc_files import infer_operations, parse_fdinfo, parse_mounts
from ckpt.host.proc_process import (
    ListedTimer,
    build_timer,
    cut_auxv,
    find_date,
    parse_limits,
    parse_timers,
)
from ckpt.host.proc_reading import parse_timens
from ckpt.host.proc_tasks import parse_stat
from ckpt.host.proc_waits import (
    Sleep,
    Timers,
    Wait,
    build_restart,
    clock_offset_ns,
    measure_task_clock,
    parse_call,
    parse_exec_start,
    parse_timer_list,
)
from ckpt.host.remote_place import Area, find_memory, find_place
from ckpt.objects import limits

SECOND_NS = 1_000_000_000
STAT = (
    "4242 ({name}) S 17 4242 4240 34816 4250 4194624 1 2 3 4 5 6 7 8 20 -5 3 0 9000 1 2 3 101 102 "
    "103 104 105 0 0 0 0 0 0 0 17 1 0 0 0 0 0 201 202 203 204 205 206 207 0\n"
)
FIRST = ListedTimer(0, 14, 0x7FFE_0000_0010, 4, 2634, 1)


@given(st.text(st.characters(codec="latin-1", exclude_characters="\n\0"), max_size=15))
def test_stat_of_a_thread_with_any_name(name: str) -> None:
    found = parse_stat(STAT.format(name=name).encode("latin-1"))
    assert (found.state, found.parent, found.pgrp, found.session) == (b"S", 17, 4242, 4240)
    assert (found.tty, found.flags, found.prio, found.nice, found.threads) == (
        34816,
        4194624,
        20,
        -5,
        3,
    )
    assert (found.start_code, found.end_code, found.start_stack) == (101, 102, 103)
    assert (found.exit_signal, found.processor, found.rt_priority, found.policy) == (17, 1, 0, 0)
    assert (found.start_data, found.start_brk, found.env_end, found.exit_code) == (201, 203, 207, 0)


def test_limits_as_the_object_module_reads_them() -> None:
    with open("/proc/self/limits", "rb") as file:
        text = file.read()
    assert [(limit.soft, limit.hard) for limit in parse_limits(text)] == limits.parse_limits(text)
    assert parse_limits(text)[limits.NAMES.index("CORE")] == Rlimit(*limits.parse_limits(text)[4])


TIMERS = b"""ID: 0
signal: 14/00007ffe00000010
notify: signal/tid.2634
ClockID: 1
ID: 7
signal: 60/0000000000000000
notify: none/pid.2634
ClockID: -6
"""


def test_timers() -> None:
    first, second = parse_timers(TIMERS)
    assert first == FIRST
    assert (second.timer_id, second.notify, second.clockid) == (7, 1, 2)
    assert parse_timers(b"") == []


TIMER_LIST = b"""Timer List Version: v0.10
now at 2439528932913 nsecs
active timers:
 #0: <00000000e2734176>, hrtimer_wakeup, S:01
 # expires at 2439530838721-2439530888721 nsecs [in 1905808 to 1955808 nsecs]
 #1: <00000000d4d86755>, posix_timer_fn, S:01
 # expires at 1795224435372902984-1795224435372902984 nsecs [in 1 to 1 nsecs]
 #2: <0000000073d4623e>, tick_nohz_handler, S:01
 # expires at 2439532000000-2439532000000 nsecs [in 3067087 to 3067087 nsecs]
 #3: <00000000f8fca301>, hrtimer_wakeup, S:01
 # expires at 2439530000000-2439530050000 nsecs [in 11517983 to 11567983 nsecs]
"""


def test_timer_list_is_sorted_and_of_one_function() -> None:
    lines = TIMER_LIST.splitlines(keepends=True)
    assert parse_timer_list(lines, b", hrtimer_wakeup,") == [
        (2439530000000, 2439530050000),
        (2439530838721, 2439530888721),
    ]
    assert parse_timer_list(lines, b", posix_timer_fn,") == [(1795224435372902984,) * 2]
    assert parse_timer_list([], b", hrtimer_wakeup,") == []


def test_timer_list_cut_off_anywhere() -> None:
    for end in range(len(TIMER_LIST)):
        lines = TIMER_LIST[:end].splitlines(keepends=True)
        if lines and lines[-1].startswith(b" # expires at ") and b" nsecs" not in lines[-1]:
            lines.pop()
        assert len(parse_timer_list(lines, b", hrtimer_wakeup,")) <= 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"running\n", None),
        (b"", None),
        (b"-1 0x7ffc10 0x401000\n", (-1, (), 0x7FFC10, 0x401000)),
        (
            b"35 0x10 0x20 0x0 0x0 0x0 0x0 0x7ffc10 0x401002\n",
            (35, (16, 32, 0, 0, 0, 0), 0x7FFC10, 0x401002),
        ),
    ],
)
def test_call(text: bytes, expected: object) -> None:
    assert parse_call(text) == expected


def test_exec_start_is_in_nanoseconds() -> None:
    text = b"cat (24394, #threads: 1)\n---\nse.exec_start        :       2213826.833151\n"
    assert parse_exec_start(text) == 2_213_826_833_151
    assert parse_exec_start(b"") is None


def test_task_clock_leaves_our_affinity_alone() -> None:
    before = os.sched_getaffinity(0)
    cpu = min(before)
    assert measure_task_clock(cpu) is not None
    assert os.sched_getaffinity(0) == before


def test_a_sleep_that_has_just_begun() -> None:
    cpu = min(os.sched_getaffinity(0))
    offset = measure_task_clock(cpu)
    assert offset is not None
    now = time.monotonic_ns()
    began = Timers().began_ns(Sleep(now - offset, cpu))
    assert began is not None and abs(began - now) < SECOND_NS // 10


def make_wait(name: str, *args: int, entry: CallEntry = CallEntry.SYSCALL) -> Wait:
    six = (*args, 0, 0, 0, 0, 0, 0)[:6]
    nr = syscall_number(name, i386=entry is CallEntry.INT80)
    return Wait(nr, six, 0x7000, 0x4000, entry, find_timeout(name, six, entry), name)


RESTARTS: list[tuple[Wait, RestartBlock | None]] = [
    (
        make_wait("nanosleep", 0x10, 0x20),
        NanosleepRestart("hrtimer_nanosleep_restart", 1, 1, 0x20, 50),
    ),
    (
        make_wait("clock_nanosleep", 0, 0, 0x10, 0),
        NanosleepRestart("hrtimer_nanosleep_restart", 1, 0, 0, 50),
    ),
    (
        make_wait("clock_nanosleep", 9, 0, 0x10, 0x20),
        NanosleepRestart("alarm_timer_nsleep_restart", 1, 1, 0x20, 50),
    ),
    (make_wait("clock_nanosleep", 2, 0, 0x10, 0x20), None),
    (
        make_wait("nanosleep", 0x10, 0x20, entry=CallEntry.INT80),
        NanosleepRestart("hrtimer_nanosleep_restart", 1, 2, 0x20, 50),
    ),
    (make_wait("poll", 0x10, 3, 1000), PollRestart("do_restart_poll", 0x10, 3, 50)),
    (
        make_wait("futex", 0x10, 128, 7, 0x20),
        FutexRestart("futex_wait_restart", 0x10, 7, 0x42, 0xFFFF_FFFF, 0, 50),
    ),
    (
        make_wait("futex", 0x10, 9 | 256, 7, 0x20, 0, 5),
        FutexRestart("futex_wait_restart", 0x10, 7, 0x72, 5, 0, 50),
    ),
    (make_wait("epoll_wait", 3, 0x10, 1, 1000), None),
]


@pytest.mark.parametrize(("wait", "expected"), RESTARTS)
def test_restart_block(wait: Wait, expected: RestartBlock | None) -> None:
    assert build_restart(wait, 20, 50) == expected


def test_restart_block_of_a_wait_without_limit_or_with_an_unknown_one() -> None:
    for_ever = make_wait("poll", 0x10, 3, (1 << 32) - 1)
    assert build_restart(for_ever, None, None) == PollRestart("do_restart_poll", 0x10, 3, None)
    assert build_restart(make_wait("poll", 0x10, 3, 1000), 20, None) is None
    assert build_restart(make_wait("nanosleep", 0x10, 0), None, None) is None


def test_call_without_an_instruction_has_no_timeout() -> None:
    wait = Wait(35, (1, 2, 3, 4, 5, 6), 0, 0, CallEntry.NONE, Timeout(), "")
    assert build_restart(wait, None, None) is None


def test_running_timer_is_given_as_of_the_freeze() -> None:
    answer = TimerAnswer(2 * SECOND_NS, 0, 3, asked_ns=1_500)
    timer = build_timer(FIRST, answer, is_queued=False, as_of_ns=1_000)
    assert (timer.value_ns, timer.expires_ns) == (2 * SECOND_NS + 500, 2 * SECOND_NS + 1_500)
    assert (timer.overrun_last, timer.notify_tid) == (3, 2634)


def test_timer_with_a_queued_signal_expired_an_interval_before_the_next_time() -> None:
    answer = TimerAnswer(SECOND_NS, 3 * SECOND_NS, 0, asked_ns=1_000)
    timer = build_timer(FIRST, answer, is_queued=True, as_of_ns=1_000)
    assert timer.expires_ns == 1_000 - 2 * SECOND_NS


def test_disarmed_timer_has_no_times() -> None:
    timer = build_timer(FIRST, TimerAnswer(0, 0, 0, 1_500), is_queued=False, as_of_ns=1_000)
    assert (timer.value_ns, timer.expires_ns) == (None, None)


def test_timer_of_a_cpu_clock_has_a_duration_only() -> None:
    listed = FIRST._replace(clockid=2)
    timer = build_timer(listed, TimerAnswer(9, 0, 0, 1_500), is_queued=False, as_of_ns=1_000)
    assert (timer.value_ns, timer.expires_ns) == (9, None)


def test_timer_set_to_a_date() -> None:
    listed = FIRST._replace(clockid=0)
    asked = time.monotonic_ns()
    date = asked + clock_offset_ns(0) + 500 * SECOND_NS
    answer = TimerAnswer(500 * SECOND_NS, 0, 0, asked)
    dates = [date - SECOND_NS, date + 700_000, date + SECOND_NS, asked + 500 * SECOND_NS]
    assert find_date(listed, answer, dates) == date + 700_000
    assert find_date(listed, answer, dates[::2]) == 0
    assert find_date(listed._replace(clockid=1), answer, dates) == 0
    built = build_timer(listed, answer, is_queued=False, as_of_ns=asked, dates=dates)
    assert built.expires_ns == date + 700_000


def test_auxv_ends_with_its_null() -> None:
    pairs = struct.pack("<6Q", 33, 0x7FFF0000, 0, 0, 77, 88)
    assert cut_auxv(pairs) == pairs[:32]
    assert cut_auxv(b"") == b""


def test_membarrier_registrations() -> None:
    assert membarrier_state(0) == 0
    assert membarrier_state(1 << 4 | 1 << 8) == 0xC3


def test_timens_offsets() -> None:
    text = b"monotonic           -5   1000\nboottime             7         0\n"
    assert parse_timens(text) == {b"monotonic": -5 * SECOND_NS + 1000, b"boottime": 7 * SECOND_NS}
    assert parse_timens(b"") == {}


def test_mounts() -> None:
    text = (
        b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
        b"31 22 0:27 / /mnt/a\\040b rw - fuse.odd\\x20name none rw\n"
    )
    found = parse_mounts(text)
    assert found[22] == (os.makedev(254, 0), "ext4")
    assert found[31].dev == os.makedev(0, 27)


def test_fdinfo_keeps_the_first_line_of_a_name() -> None:
    text = b"pos:\t5\nflags:\t02100002\nmnt_id:\t15\ntfd: 3\ntfd: 4\n"
    fields, has_locks = parse_fdinfo(text)
    assert (fields[b"pos"], fields[b"tfd"], has_locks) == (b"5", b"3", False)
    assert parse_fdinfo(text + b"lock:\t1: FLOCK\n")[1]


@pytest.mark.parametrize(
    ("mode", "flags", "anon_name", "expected"),
    [
        (stat.S_IFIFO, 0, "", "pipefifo_fops"),
        (stat.S_IFIFO, 0o10000000, "", ""),
        (stat.S_IFSOCK, 2, "", "socket_file_ops"),
        (0o600, 2, "[eventfd]", "eventfd_fops"),
        (0o600, 2, "[something new]", ""),
        (stat.S_IFREG, 2, "", ""),
    ],
)
def test_operations(mode: int, flags: int, anon_name: str, expected: str) -> None:
    assert infer_operations(mode, flags, anon_name) == expected


MAPS = b"""55a0-55b0 rw-p 00000000 00:00 0     [heap]
7f00-7f10 rw-s 00000000 00:0c 99        /[aio] (deleted)
7f10-7f20 r--p 00000000 fe:00 7         /tmp/[aio] [vdso]
7f30-7f40 r-xp 00000000 00:00 0         [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
"""


def test_summary_of_maps() -> None:
    assert summarize_maps(b"") == (None, None, None)
    found = summarize_maps(MAPS)
    assert (found.map_count, found.vdso, found.aio_contexts) == (4, 0x7F30, 1)


SMAPS = b"""7f0000000000-7f0000002000 rw-p 00000000 00:00 0     [anon:a name: odd]
Size:                  8 kB
Anonymous:             4 kB
THPeligible:           0
VmFlags: rd wr mr mw me ac lo um
7f0000002000-7f0000003000 r--s 00003000 fe:01 77        /x: y
Anonymous:             0 kB
VmFlags: rd sh mr me
"""


def test_areas() -> None:
    numa = b"7f0000000000 bind:0 anon=1\n7f0000002000 default file=/x\n"
    first, second = parse_areas(SMAPS, numa, lambda _what: KernelId(5))
    assert (first.start, first.end, first.anon_name) == (
        0x7F0000000000,
        0x7F0000002000,
        "a name: odd",
    )
    assert first.flags == 0x1 | 0x2 | 0x10 | 0x20 | 0x40 | 0x100000 | 0x2000 | 0x200
    assert (first.has_anon_vma, first.has_policy, first.has_userfaultfd) == (True, True, True)
    assert (second.pgoff, second.ino, second.file, second.has_policy) == (3, 77, 5, False)


def test_place_for_calls_is_found_in_ourselves() -> None:
    with open("/proc/self/maps", "rb") as file:
        maps = file.read()
    place = find_place(os.getpid(), os.getpid(), maps, [0])
    assert place is not None
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        assert os.pread(memory.fileno(), 2, place.instruction) == b"\x0f\x05"
    assert place.areas == sorted(place.areas)
    assert all(b"w" in line for line in maps.splitlines() if b"[stack]" in line)


def test_results_go_where_pages_exist() -> None:
    with open("/proc/self/maps", "rb") as file:
        maps = file.read()
    place = find_place(os.getpid(), os.getpid(), maps, [])
    assert place is not None
    found = find_memory(os.getpid(), os.getpid(), place.areas, 0x1000, 256)
    assert found is not None
    assert any(area.start <= found and found + 256 <= area.end for area in place.areas)
    assert find_memory(os.getpid(), os.getpid(), [Area(0x1000, 0x1080, True)], 0x1000, 256) is None
