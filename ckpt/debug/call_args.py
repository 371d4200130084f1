"""System calls with their arguments, decoded as strace would: names, descriptors, memory.

Memory is read while the program runs on: what a pointer leads to may have changed since the call.
Everything is bounded, and every text is safe to print.
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from ckpt.arch.x86_64.syscalls import syscall_name
from ckpt.arch.x86_64.timeouts import resolve_name
from ckpt.debug.call_flags import SETS, name_value
from ckpt.debug.call_table import find_kinds
from ckpt.debug.text import escape_bytes
from ckpt.objects.siginfo import name_of, signals_in

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_TEXT: Final = 128
_MAX_ITEMS: Final = 16
_MAX_FDS: Final = 1024
_PAGE: Final = 4096
_FUTEX_PRIVATE: Final = 128
_FUTEX_CLOCK_REALTIME: Final = 256
_FUTEX_TIMED: Final = frozenset((0, 6, 9, 11, 13))
_FUTEX_TWO_WORDS: Final = frozenset((3, 4, 5, 11, 12))
_FUTEX_BITSETS: Final = frozenset((9, 10))
_EPOLL: Final = {1 << 31: "EPOLLET", 1 << 30: "EPOLLONESHOT", 1 << 28: "EPOLLEXCLUSIVE"}
_CLONE_SIGNAL: Final = 0xFF
_NANOSECONDS: Final = 1_000_000_000
_INFINITE_MS: Final = -1
_ALL_SIGNALS: Final = (1 << 64) - 1


class Memory(Protocol):
    """The address space that pointers lead into; `ckpt.debug.space.Space` is one."""

    def read(self, address: int, size: int) -> bytes:
        """Return bytes; fewer at the first that cannot be read."""

    def locate(self, address: int) -> str:
        """Return what an address falls in, as safe text; empty when in nothing."""


class Argument(msgspec.Struct, frozen=True):
    """One argument: what it is, its value as it stands in the register, and as text."""

    kind: str
    value: int
    text: str


class Call(msgspec.Struct, frozen=True):
    """A system call with its arguments."""

    nr: int
    name: str
    args: tuple[Argument, ...]
    is_i386: bool = False

    @property
    def text(self) -> str:
        """One line, as strace writes it."""
        return f"{self.name}({', '.join(arg.text for arg in self.args)})"


class CallDecoder:
    """Decodes calls of one thread: its memory, and the names of its descriptors."""

    def __init__(self, memory: Memory, name_fd: Callable[[int], str]) -> None:
        self._memory = memory
        self._name_fd = name_fd

    def decode(self, nr: int, args: tuple[int, ...], *, is_i386: bool = False) -> Call:
        """Decode the call `nr`; a call that no table has is shown with six plain numbers."""
        listed = syscall_name(nr, i386=is_i386)
        name = resolve_name(listed, args)
        kinds = find_kinds(name) if name == listed else None
        # What comes after the last known argument is whatever the registers happened to hold.
        if kinds is None:
            kinds = ("ptr",) * len(args)
        one = _OneCall(self, name, args, is_i386)
        if name == "futex":
            kinds = _futex_kinds(args)
        return Call(
            nr, name, tuple(one.argument(at, kind) for at, kind in enumerate(kinds)), is_i386
        )

    def pointer(self, address: int) -> str:
        """Return a pointer with what it falls in: `0x7ffd0010 (stack)`."""
        if address == 0:
            return "NULL"
        place = self._memory.locate(address)
        return f"{address:#x} ({place})" if place else f"{address:#x}"

    def fd(self, value: int) -> str:
        """Return a descriptor with what it is."""
        return self._name_fd(value)

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes, or none if any of them cannot be read."""
        content = self._memory.read(address, size)
        return content if len(content) == size else b""

    def read_text(self, address: int) -> str | None:
        """Return a C string in quotes, cut if it is long; None when it cannot be read."""
        content = b""
        while len(content) <= _MAX_TEXT:
            room = _PAGE - (address + len(content)) % _PAGE
            part = self._memory.read(address + len(content), min(room, _MAX_TEXT + 1))
            content += part
            if not part or b"\0" in part:
                break
        if not content:
            return None
        text, ended, _ = content.partition(b"\0")
        return f'"{escape_bytes(text[:_MAX_TEXT])}"' + ("" if ended else "...")


class _OneCall:
    """The arguments of one call: some need others to be understood."""

    def __init__(
        self, decoder: CallDecoder, name: str, args: tuple[int, ...], is_i386: bool
    ) -> None:
        self.decoder = decoder
        self.name = name
        self.args = args
        self.word = 4 if is_i386 else 8
        is_short = is_i386 and not name.endswith("_time64")
        self.timespec = struct.Struct("<ii" if is_short else "<qq")

    def argument(self, at: int, kind: str) -> Argument:
        value = self.args[at] if at < len(self.args) else 0
        return Argument(kind.lstrip(":"), value, self._text(at, kind, value))

    def _text(self, at: int, kind: str, value: int) -> str:
        if kind.startswith(":"):
            return self._names(kind[1:], value)
        return KINDS[kind](self, at, value)

    def _names(self, which: str, value: int) -> str:
        if which == "futex":
            return _name_futex(value)
        if which == "clone":
            exits = value & _CLONE_SIGNAL
            names = name_value("clone", value & ~_CLONE_SIGNAL) if value & ~_CLONE_SIGNAL else ""
            return "|".join(filter(None, (names, name_of(exits) if exits else ""))) or "0"
        if which == "clock":
            return _name_clock(_signed(value))
        wide = SETS[which].choice_mask < 0
        return name_value(which, value & 0xFFFF_FFFF if wide else value & 0xFFFF_FFFF_FFFF)

    def pollfds(self, at: int, value: int) -> str:
        count = self.args[at + 1] & 0xFFFF_FFFF
        shown = min(count, _MAX_ITEMS)
        content = self.decoder.read(value, 8 * shown)
        if not value or not content:
            return self.decoder.pointer(value)
        items = [
            f"{{{self.decoder.fd(fd & 0xFFFF_FFFF)}, {name_value('poll', events & 0xFFFF)}}}"
            for fd, events, _ in struct.iter_unpack("<ihh", content)
        ]
        return _listed(items, count)

    def fdset(self, at: int, value: int) -> str:
        del at
        count = min(_signed(self.args[0]), _MAX_FDS)
        if not value or count <= 0:
            return self.decoder.pointer(value)
        size = -(-count // 64) * 8
        content = self.decoder.read(value, size)
        if not content:
            return self.decoder.pointer(value)
        bits = int.from_bytes(content, "little") & (1 << count) - 1
        found = [fd for fd in range(count) if bits >> fd & 1]
        return _listed([self.decoder.fd(fd) for fd in found[:_MAX_ITEMS]], len(found))

    def time(self, at: int, value: int) -> str:
        del at
        return self._times(value, 1, _NANOSECONDS)

    def timeval(self, at: int, value: int) -> str:
        del at
        return self._times(value, 1, 1_000_000)

    def itimerspec(self, at: int, value: int) -> str:
        del at
        return self._times(value, 2, _NANOSECONDS)

    def _times(self, value: int, count: int, parts: int) -> str:
        content = self.decoder.read(value, self.timespec.size * count) if value else b""
        if not content:
            return self.decoder.pointer(value)
        times = [
            _seconds(seconds, part, parts) for seconds, part in self.timespec.iter_unpack(content)
        ]
        return times[0] if count == 1 else f"{{every {times[0]}, first {times[1]}}}"

    def sigset(self, at: int, value: int) -> str:
        del at
        content = self.decoder.read(value, 8) if value else b""
        if not content:
            return self.decoder.pointer(value)
        return _name_set(int.from_bytes(content, "little"))

    def sockaddr(self, at: int, value: int) -> str:
        size = min(self.args[at + 1] & 0xFFFF_FFFF, _MAX_TEXT)
        content = self.decoder.read(value, size) if value and size >= 2 else b""
        return _name_address(content) if content else self.decoder.pointer(value)

    def sembuf(self, at: int, value: int) -> str:
        count = self.args[at + 1] & 0xFFFF_FFFF
        content = self.decoder.read(value, 6 * min(count, _MAX_ITEMS))
        if not content:
            return self.decoder.pointer(value)
        items = [
            f"{{semaphore {number}, {change:+d}}}"
            for number, change, _ in struct.iter_unpack("<Hhh", content)
        ]
        return _listed(items, count)

    def epoll_event(self, at: int, value: int) -> str:
        del at
        content = self.decoder.read(value, 12) if value else b""
        if not content:
            return self.decoder.pointer(value)
        events, data = struct.unpack("<IQ", content)
        high = [name for bit, name in _EPOLL.items() if events & bit]
        low = name_value("poll", events & 0xFFFF).replace("POLL", "EPOLL")
        return f"{{{'|'.join([low, *high])}, {data:#x}}}"

    def clone_args(self, at: int, value: int) -> str:
        del at
        content = self.decoder.read(value, 8) if value else b""
        if not content:
            return self.decoder.pointer(value)
        return f"{{{name_value('clone', int.from_bytes(content, 'little'))}, ...}}"

    def futexes(self, at: int, value: int) -> str:
        count = self.args[at + 1] & 0xFFFF_FFFF
        content = self.decoder.read(value, 24 * min(count, _MAX_ITEMS))
        if not content:
            return self.decoder.pointer(value)
        items = [
            f"{{{self.decoder.pointer(address)}, {expected:#x}}}"
            for expected, address, _flags, _ in struct.iter_unpack("<QQII", content)
        ]
        return _listed(items, count)

    def path(self, at: int, value: int) -> str:
        del at
        text = self.decoder.read_text(value) if value else None
        return text if text is not None else self.decoder.pointer(value)


def _signed(value: int) -> int:
    return (value & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000


def _long(call: _OneCall, at: int, value: int) -> str:
    del at
    if call.word == 4:
        return str(_signed(value))
    return str(value - (1 << 64) if value >> 63 else value)


def _ms(call: _OneCall, at: int, value: int) -> str:
    del call, at
    number = _signed(value)
    return "no limit" if number <= _INFINITE_MS else f"{number} ms"


KINDS: Final[dict[str, Callable[[_OneCall, int, int], str]]] = {
    "fd": lambda call, _at, value: call.decoder.fd(value),
    "dirfd": lambda call, _at, value: call.decoder.fd(value),
    "ptr": lambda call, _at, value: call.decoder.pointer(value),
    "int": _long,
    "pid": lambda _call, _at, value: str(_signed(value)),
    "uint": lambda _call, _at, value: str(value & 0xFFFF_FFFF),
    "size": lambda _call, _at, value: str(value),
    "hex": lambda _call, _at, value: hex(value),
    "mode": lambda _call, _at, value: f"{value & 0xFFFF:04o}",
    "ms": _ms,
    "sig": lambda _call, _at, value: name_of(_signed(value)),
    "path": _OneCall.path,
    "timespec": _OneCall.time,
    "timeval": _OneCall.timeval,
    "itimerspec": _OneCall.itimerspec,
    "sigset": _OneCall.sigset,
    "sockaddr": _OneCall.sockaddr,
    "pollfds": _OneCall.pollfds,
    "fdset": _OneCall.fdset,
    "sembuf": _OneCall.sembuf,
    "epoll_event": _OneCall.epoll_event,
    "clone_args": _OneCall.clone_args,
    "futexes": _OneCall.futexes,
}
"""How each kind of argument is written."""


def _listed(items: list[str], count: int) -> str:
    more = [f"... {count - len(items)} more"] if count > len(items) else []
    return f"[{', '.join([*items, *more])}]"


def _seconds(seconds: int, part: int, parts: int) -> str:
    """Return a time as seconds; one that the kernel would refuse as its two numbers."""
    if not 0 <= part < parts:
        return f"{{{seconds}, {part}}}"
    text = f"{seconds}.{part:0{len(str(parts)) - 1}d}".rstrip("0").rstrip(".")
    return f"{text} s"


def _futex_kinds(args: tuple[int, ...]) -> tuple[str, ...]:
    """Return the arguments that a futex operation has; `val2` and `timeout` share a register."""
    operation = args[1] & ~(_FUTEX_PRIVATE | _FUTEX_CLOCK_REALTIME) & 0xFFFF_FFFF
    kinds = ["ptr", ":futex", "uint"]
    if operation in _FUTEX_TIMED:
        kinds.append("timespec")
    elif operation in _FUTEX_TWO_WORDS:
        kinds.append("uint")
    if operation in _FUTEX_TWO_WORDS:
        kinds.append("ptr")
    if operation in _FUTEX_BITSETS:
        kinds += ["timespec"][: 4 - len(kinds)] + ["ptr", "hex"]
    return tuple(kinds)


def _name_futex(value: int) -> str:
    value &= 0xFFFF_FFFF
    text = name_value("futex", value & ~(_FUTEX_PRIVATE | _FUTEX_CLOCK_REALTIME))
    private = "_PRIVATE" if value & _FUTEX_PRIVATE else ""
    clock = "|FUTEX_CLOCK_REALTIME" if value & _FUTEX_CLOCK_REALTIME else ""
    return f"{text}{private}{clock}"


def _name_clock(clock: int) -> str:
    """Name a clock; those of another task or of a device are negative numbers."""
    if clock >= 0:
        return name_value("clock", clock)
    # include/linux/posix-timers_types.h: ~pid << 3 | per-thread 4 | kind; kind 3 is a descriptor
    number, kind = ~(clock >> 3), clock & 3
    if kind == 3:
        return f"clock of fd {number}"
    return f"CPU clock of {'thread' if clock & 4 else 'process'} {number or 'itself'}"


def _name_set(mask: int) -> str:
    """Return a set of signals as strace does: of most of them, those that are missing."""
    missing = ~mask & _ALL_SIGNALS
    if missing.bit_count() < mask.bit_count():
        return f"~[{' '.join(map(name_of, signals_in(missing)))}]"
    return f"[{' '.join(map(name_of, signals_in(mask)))}]"


def _name_address(content: bytes) -> str:
    import socket  # Hardly any call has an address, and its import takes as long as one look.

    family = int.from_bytes(content[:2], "little")
    with contextlib.suppress(ValueError, OSError):
        if family == socket.AF_UNIX:
            path = content[2:]
            if path[:1] == b"\0":
                return f'{{AF_UNIX, @"{escape_bytes(path[1:])}"}}'
            return f'{{AF_UNIX, "{escape_bytes(path.split(bytes(1), 1)[0])}"}}'
        port = int.from_bytes(content[2:4], "big")
        if family == socket.AF_INET:
            return f"{{AF_INET, {socket.inet_ntop(socket.AF_INET, content[4:8])}:{port}}}"
        if family == socket.AF_INET6:
            return f"{{AF_INET6, [{socket.inet_ntop(socket.AF_INET6, content[8:24])}]:{port}}}"
    return f"{{{name_value('family', family)}, {len(content)} bytes}}"
