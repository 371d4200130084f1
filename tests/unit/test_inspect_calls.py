"""Calls with arguments: the tables are complete, and what memory holds is decoded or left alone."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt.arch.x86_64.syscalls import all_syscalls, syscall_number
from ckpt.debug.call_args import KINDS, CallDecoder
from ckpt.debug.call_flags import SETS, name_value
from ckpt.debug.call_table import all_signatures, find_kinds

PLACE = 0x1000
HERE = PLACE + 0x100
U64 = st.integers(0, (1 << 64) - 1)


class Memory:
    """Some bytes from PLACE on; everything else is not mapped."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = content

    def read(self, address: int, size: int) -> bytes:
        at = address - PLACE
        return self.content[at : at + size] if at >= 0 else b""

    def locate(self, address: int) -> str:
        return "memory" if 0 <= address - PLACE < len(self.content) else ""


def at_here(content: bytes) -> Memory:
    """Return memory that holds `content` at HERE."""
    return Memory(bytes(HERE - PLACE) + content)


def decode(name: str, *args: int, memory: Memory | None = None, is_i386: bool = False) -> str:
    """Return the text of a call."""
    decoder = CallDecoder(memory or Memory(), lambda fd: f"{fd & 0xFFFFFFFF}<file>")
    padded = (*args, *(0,) * (6 - len(args)))
    return decoder.decode(syscall_number(name, i386=is_i386), padded, is_i386=is_i386).text


def test_every_call_of_x86_64_has_its_arguments() -> None:
    signatures = all_signatures()
    assert signatures.keys() == set(all_syscalls().values())
    kinds = {kind for kinds in signatures.values() for kind in kinds}
    unknown = {k for k in kinds if not (k[1:] in SETS if k.startswith(":") else k in KINDS)}
    assert not unknown
    assert max(map(len, signatures.values())) == 6


def test_calls_of_i386_with_long_times_have_the_same() -> None:
    names = [name for name in all_syscalls(i386=True).values() if name.endswith("_time64")]
    assert names
    assert all(find_kinds(name) == find_kinds(name.removesuffix("_time64")) for name in names)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("read", 3, HERE, 5), "read(3<file>, 0x1100, 5)"),
        (("lseek", 3, (1 << 64) - 8, 2), "lseek(3<file>, -8, SEEK_END)"),
        (("mmap", 0, 4096, 3, 0x22, -1, 0), "mmap(NULL, 4096, PROT_READ|PROT_WRITE, "
         "MAP_PRIVATE|MAP_ANONYMOUS, 4294967295<file>, 0x0)"),
        (("mprotect", HERE, 4096, 0), "mprotect(0x1100, 4096, PROT_NONE)"),
        (("epoll_wait", 4, HERE, 8, (1 << 64) - 1), "epoll_wait(4<file>, 0x1100, 8, no limit)"),
        (("wait4", (1 << 64) - 1, 0, 0x3, 0), "wait4(-1, NULL, WNOHANG|WUNTRACED, NULL)"),
        (("kill", 412, 10), "kill(412, SIGUSR1)"),
        (("fcntl", 3, 7, HERE), "fcntl(3<file>, F_SETLKW, 0x1100)"),
        (("futex", HERE, 0x189, 0, 0, 0, 0xFFFFFFFF), "futex(0x1100, "
         "FUTEX_WAIT_BITSET_PRIVATE|FUTEX_CLOCK_REALTIME, 0, NULL, NULL, 0xffffffff)"),
        (("futex", HERE, 0x81, 1), "futex(0x1100, FUTEX_WAKE_PRIVATE, 1)"),
        (("futex", HERE, 0x84, 1, 2, HERE),
         "futex(0x1100, FUTEX_CMP_REQUEUE_PRIVATE, 1, 2, 0x1100)"),
        (("socket", 2, 0x80001, 0), "socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, 0)"),
        (("clone", 0x4111, 0, 0, 0, 0),
         "clone(CLONE_VM|CLONE_VFORK|SIGCHLD, NULL, NULL, NULL, NULL)"),
        (("clock_nanosleep", (1 << 64) - 6, 1, HERE, 0), "clock_nanosleep(CPU clock of process "
         "itself, TIMER_ABSTIME, 0x1100, NULL)"),
        (("open", HERE, 0o102, 0o644), "open(0x1100, O_RDWR|O_CREAT, 0644)"),
        (("getpid",), "getpid()"),
    ],
)  # fmt: skip
def test_registers_alone(args: tuple[str, *tuple[int, ...]], text: str) -> None:
    name, *values = args
    assert decode(name, *(value & (1 << 64) - 1 for value in values)) == text


@pytest.mark.parametrize(
    ("name", "args", "content", "shown"),
    [
        ("nanosleep", (HERE, 0), struct.pack("<qq", 1, 500_000_000), "1.5 s"),
        ("nanosleep", (HERE, 0), struct.pack("<qq", 1, -1), "{1, -1}"),
        ("openat", (0, HERE, 0, 0), b"/etc/\x1b[1m\0", r'"/etc/\x1b[1m"'),
        ("openat", (0, HERE, 0, 0), b"x" * 300, '"' + "x" * 128 + '"...'),
        ("poll", (HERE, 1, 5), struct.pack("<ihh", 7, 5, 0), "[{7<file>, POLLIN|POLLOUT}]"),
        ("select", (70, HERE, 0, 0, 0), (1 << 69 | 2).to_bytes(16, "little"),
         "[1<file>, 69<file>]"),
        ("rt_sigsuspend", (HERE, 8), (0x4001).to_bytes(8, "little"), "[SIGHUP SIGTERM]"),
        ("rt_sigsuspend", (HERE, 8), b"\xff" * 7 + b"\x7f", "~[SIGRTMIN+32]"),
        ("connect", (3, HERE, 16), b"\2\0\0\x50\x7f\0\0\1" + bytes(8), "{AF_INET, 127.0.0.1:80}"),
        ("connect", (3, HERE, 5), b"\1\0\0ab", '{AF_UNIX, @"ab"}'),
        ("connect", (3, HERE, 28), b"\x0a\0\0\x50" + bytes(19) + b"\1" + bytes(4),
         "{AF_INET6, [::1]:80}"),
        ("timerfd_settime", (3, 0, HERE, 0), struct.pack("<4q", 1, 0, 2, 0),
         "{every 1 s, first 2 s}"),
        ("epoll_ctl", (3, 1, 4, HERE), struct.pack("<IQ", 1 << 31 | 1, 9),
         "{EPOLLIN|EPOLLET, 0x9}"),
        ("semop", (1, HERE, 1), struct.pack("<Hhh", 2, 1, 0), "[{semaphore 2, +1}]"),
    ],
)  # fmt: skip
def test_what_pointers_lead_to(
    name: str, args: tuple[int, ...], content: bytes, shown: str
) -> None:
    assert shown in decode(name, *args, memory=at_here(content))


def test_many_items_are_cut() -> None:
    text = decode("poll", HERE, 5000, 1, memory=at_here(struct.pack("<ihh", 1, 1, 0) * 5000))
    assert text.count("POLLIN") == 16 and "... 4984 more" in text


def test_32_bit_times_and_signs() -> None:
    memory = at_here(struct.pack("<ii", 2, 0))
    assert decode("nanosleep", HERE, 0, memory=memory, is_i386=True) == "nanosleep(2 s, NULL)"
    text = decode("lseek", 3, 0xFFFFFFFF, 0, is_i386=True)
    assert text == "lseek(3<file>, -1, SEEK_SET)"


def test_flags_that_have_no_name() -> None:
    assert name_value("open", 0x4000_0003) == "0x3|0x40000000"
    assert name_value("madvise", 99) == "0x63"
    assert name_value("lock", 6) == "LOCK_EX|LOCK_NB"
    assert name_value("access", 0) == "F_OK"
    assert name_value("poll", 0) == "0"


@given(
    nr=st.integers(0, 500),
    args=st.tuples(*[st.one_of(U64, st.sampled_from([0, HERE, PLACE]))] * 6),
    content=st.binary(max_size=600),
    is_i386=st.booleans(),
)
def test_no_call_and_no_memory_is_too_strange(
    nr: int, args: tuple[int, ...], content: bytes, is_i386: bool
) -> None:
    if is_i386:
        args = tuple(arg & 0xFFFF_FFFF for arg in args)
    decoder = CallDecoder(at_here(content), lambda fd: str(fd & 0xFFFF_FFFF))
    text = decoder.decode(nr, args, is_i386=is_i386).text
    assert text.isprintable() and len(text) < 40_000
