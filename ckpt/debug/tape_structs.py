"""What the pointers of planned system calls lead to, as strace writes structures.

A shape is a struct format and its fields, each with a kind: what a number means. Layouts are the
kernel's (uapi headers, Linux 6.18); the modules of `ckpt.objects` that build them name the headers.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.debug.call_flags import name_value
from ckpt.debug.tape_flags import SETS, name_bits
from ckpt.debug.text import escape_bytes
from ckpt.objects.siginfo import SI_TIMER, name_of, names_in
from ckpt.objects.steps import Blob, Scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAX_BYTES: Final = 64
_MAX_ITEMS: Final = 8
_UNLIMITED: Final = (1 << 64) - 1


class Shape(NamedTuple):
    """A structure: `fields` are `name:kind`, in the order of the format's values."""

    layout: struct.Struct
    fields: tuple[str, ...]


def _shape(layout: str, fields: str) -> Shape:
    return Shape(struct.Struct(layout), tuple(fields.split()))


SHAPES: Final[dict[str, Shape]] = {
    "sigaction": _shape("<QQQQ", "sa_handler:handler sa_flags:;sa sa_restorer:ptr sa_mask:sigset"),
    "rlimit": _shape("<QQ", "rlim_cur:limit rlim_max:limit"),
    "stack_t": _shape("<Qi4xQ", "ss_sp:ptr ss_flags:;ss ss_size:int"),
    "cap_header": _shape("<Ii", "version:hex pid:int"),
    "cap_data": _shape(
        "<6I",
        "effective:hex permitted:hex inheritable:hex "
        "effective_high:hex permitted_high:hex inheritable_high:hex",
    ),
    "sched_attr": _shape(
        "<IIQiIQQQ",
        "size:int sched_policy::policy sched_flags:hex sched_nice:int sched_priority:int "
        "sched_runtime:int sched_deadline:int sched_period:int",
    ),
    "sigevent": _shape(
        "<Qiii", "sigev_value:hex sigev_signo:sig sigev_notify:;sigev sigev_notify_thread_id:int"
    ),
    "timer_id": _shape("<i", "timerid:int"),
    "ticks": _shape("<Q", "ticks:int"),
    "user_desc": _shape("<IIII", "entry_number:int base_addr:hex limit:hex flags:hex"),
    "owner_ex": _shape("<ii", "type:;owner pid:int"),
    "flock": _shape(
        "<hhxxxxqqi", "l_type:;lock_type l_whence::whence l_start:int l_len:int l_pid:int"
    ),
    "epoll_event": _shape("<IQ", "events:epoll data:hex"),
    "timespec": _shape("<qq", "tv_sec:int tv_nsec:int"),
    "timespec32": _shape("<ii", "tv_sec:int tv_nsec:int"),
    "mm_map": _shape(
        "<11QQII",
        "start_code:ptr end_code:ptr start_data:ptr end_data:ptr start_brk:ptr brk:ptr "
        "start_stack:ptr arg_start:ptr arg_end:ptr env_start:ptr env_end:ptr auxv:pointee "
        "auxv_size:int exe_fd:int",
    ),
    "fprog": _shape("<H6xQ", "len:int filter:pointee"),
    "iovec1": _shape("<QQ", "iov_base:pointee iov_len:int"),
    "msghdr": _shape(
        "<QI4xQQQQi4x",
        "msg_name:ptr msg_namelen:int msg_iov:iovec1 msg_iovlen:int msg_control:pointee "
        "msg_controllen:int msg_flags:hex",
    ),
}


class Contents:
    """Writes what pointers lead to; `locate` names addresses of the target."""

    def __init__(self, locate: Callable[[int], str]) -> None:
        self._locate = locate

    def pointer(self, address: int) -> str:
        """Return an address of the target with what it falls in."""
        if address == 0:
            return "NULL"
        address &= _UNLIMITED
        place = self._locate(address)
        return f"{address:#x} ({place})" if place else hex(address)

    def describe(self, kind: str, what: Blob | Scratch) -> str:
        """Return what `what` holds; as plain bytes if it is not of this kind."""
        if isinstance(what, Scratch):
            return f"{{room for {what.size_bytes} bytes}}"
        special = _SPECIAL.get(kind)
        if special is not None:
            return special(what.content)
        if kind == "clone_args" and len(what.content) >= 8:
            return self._clone_args(what)
        if kind == "iovec":
            return self._iovecs(what.content)
        shape = SHAPES.get(kind)
        if shape is None or len(what.content) < shape.layout.size:
            return describe_bytes(what.content)
        return f"{{{', '.join(self._fields(shape, what))}}}"

    def _fields(self, shape: Shape, what: Blob) -> Iterator[str]:
        values = shape.layout.unpack_from(what.content)
        offsets = dict(what.pointers)
        places = _offsets(shape.layout.format)
        for field, value, offset in zip(shape.fields, values, places, strict=True):
            name, _, kind = field.partition(":")
            inner = offsets.get(offset)
            if inner is not None:
                yield f"{name}={self.describe(kind, inner)}"
            elif value or kind not in ("ptr", "hex"):
                yield f"{name}={self.number(kind, value)}"

    def number(self, kind: str, value: int) -> str:
        """Return a number of a kind: of `_NUMBERS`, `:` a set of call_flags, `;` one of ours."""
        if kind.startswith(";"):
            return name_bits(SETS[kind[1:]], value)
        if kind.startswith(":"):
            return name_value(kind[1:], value & 0xFFFF_FFFF)
        if kind in ("ptr", "pointee", "iovec1"):
            return self.pointer(value)
        if kind == "handler":
            return {0: "SIG_DFL", 1: "SIG_IGN"}.get(value) or self.pointer(value)
        return _NUMBERS[kind](value)

    def _clone_args(self, what: Blob) -> str:
        """struct clone_args: flags, five pointers, ..., set_tid at 64 (linux/sched.h)."""
        flags, *_ = struct.unpack_from("<Q", what.content)
        tids = dict(what.pointers).get(64)
        content = tids.content if isinstance(tids, Blob) else b""
        wanted = [tid for (tid,) in struct.iter_unpack("<i", content[: len(content) & -4]) if tid]
        return f"{{flags={name_value('clone', flags)}, set_tid=[{_joined(map(str, wanted))}]}}"

    def _iovecs(self, content: bytes) -> str:
        pairs = list(struct.iter_unpack("<QQ", content[: len(content) & -16]))
        shown = [
            f"{{iov_base={self.pointer(base)}, iov_len={length}}}"
            for base, length in pairs[:_MAX_ITEMS]
        ]
        return f"[{_listed(shown, len(pairs))}]"


def _offsets(layout: str) -> list[int]:
    """Return the offset of every value of a little-endian struct format."""
    found, done, at = [], "<", 1
    while at < len(layout):
        digits = at
        while layout[at].isdigit():
            at += 1
        count = int(layout[digits:at] or "1")
        code = layout[at]
        at += 1
        for _ in range(count):
            if code != "x":
                found.append(struct.calcsize(done))
            done += code
    return found


def describe_bytes(content: bytes) -> str:
    """Return bytes as a C string if they are one, else in hex; long ones are cut."""
    text = content[:-1]
    if content.endswith(b"\0") and b"\0" not in text:
        return describe_string(content)
    shown = content[:_MAX_BYTES]
    if shown.strip(b"\0") == b"":
        return f"{{{len(content)} bytes, zero}}" if len(content) <= _MAX_BYTES else _hex(content)
    return _hex(content)


def _hex(content: bytes) -> str:
    more = f" ... {len(content)} bytes" if len(content) > _MAX_BYTES else ""
    return f"{{{content[:_MAX_BYTES].hex()}{more}}}"


def describe_string(content: bytes) -> str:
    """Return a zero-terminated string in quotes."""
    text = content.partition(b"\0")[0]
    more = "..." if len(text) > 4 * _MAX_BYTES else ""
    return f'"{escape_bytes(text[: 4 * _MAX_BYTES])}"{more}'


def _mask(content: bytes) -> str:
    return hex(int.from_bytes(content, "little"))


def _words(content: bytes) -> str:
    words = [str(word) for (word,) in struct.iter_unpack("<I", content[: len(content) & -4])]
    return f"[{_listed(words[:_MAX_ITEMS], len(words))}]"


def _times(names: tuple[str, str], digits: int, content: bytes) -> str:
    if len(content) < 32:
        return describe_bytes(content)
    times = struct.unpack_from("<qqqq", content)
    shown = [f"{times[at]}.{times[at + 1]:0{digits}d} s" for at in (0, 2)]
    return f"{{{names[0]}={shown[0]}, {names[1]}={shown[1]}}}"


def _itimer(digits: int) -> Callable[[bytes], str]:
    return lambda content: _times(("it_interval", "it_value"), digits, content)


def _siginfo(content: bytes) -> str:
    """Return siginfo_t: who sent it; for a fault, the words that say what it was about."""
    if len(content) < 32:
        return describe_bytes(content)
    signo, _, code, first, second = struct.unpack_from("<iii4xiI", content)
    head = f"si_signo={name_of(signo) if signo else 0}, si_code={code}"
    if code > 0:
        return f"{{{head}, {content[16:32].hex()}}}"
    names = ("si_timerid", "si_overrun") if code == SI_TIMER else ("si_pid", "si_uid")
    return f"{{{head}, {names[0]}={first}, {names[1]}={second}}}"


def _limit(value: int) -> str:
    return "RLIM64_INFINITY" if value == _UNLIMITED else str(value)


def _epoll(value: int) -> str:
    high = {1 << 31: "EPOLLET", 1 << 30: "EPOLLONESHOT", 1 << 29: "EPOLLWAKEUP"}
    names = [name for bit, name in high.items() if value & bit]
    low = value & ~sum(high)
    return "|".join(([name_value("poll", low).replace("POLL", "EPOLL")] if low else []) + names)


def _listed(shown: list[str], count: int) -> str:
    more = [f"... {count - len(shown)} more"] if count > len(shown) else []
    return ", ".join([*shown, *more])


def _joined(parts: Iterator[str] | map[str]) -> str:
    return ", ".join(parts)


_SPECIAL: Final[dict[str, Callable[[bytes], str]]] = {
    "path": describe_string,
    "text": describe_string,
    "mask": _mask,
    "words": _words,
    "itimerval": _itimer(6),
    "itimerspec": _itimer(9),
    "siginfo": _siginfo,
}
_NUMBERS: Final[dict[str, Callable[[int], str]]] = {
    "int": str,
    "hex": hex,
    "sig": lambda value: name_of(value) if value else "0",
    "limit": _limit,
    "epoll": lambda value: _epoll(value) or "0",
    "sigset": lambda value: f"[{names_in(value)}]" if value else "[]",
}
