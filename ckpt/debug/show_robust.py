"""Walking a robust futex list in the memory of an image: which locks a thread holds.

The list is the program's own memory: anything may stand there, so the walk is bounded as the
kernel's is (ROBUST_LIST_LIMIT), and ends where memory does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from ckpt.debug.space import Space

_LIMIT: Final = 2048
"""ROBUST_LIST_LIMIT, `include/uapi/linux/futex.h`, 6.18."""
_OWNER: Final = 0x3FFF_FFFF
_WAITERS: Final = 0x8000_0000
_DIED: Final = 0x4000_0000
"""FUTEX_TID_MASK, FUTEX_WAITERS, FUTEX_OWNER_DIED."""
_PI: Final = 1
"""FUTEX_ROBUST_MOD_PI: the lowest bit of an entry."""
_TOP: Final = 1 << 64


class HeldFutex(NamedTuple):
    """One entry of the list."""

    address: int
    """Of the futex word."""
    word: int | None
    """What stands there; None when it cannot be read."""
    is_pending: bool
    """It was being locked or unlocked (list_op_pending)."""
    is_pi: bool

    def line(self, place: str) -> str:
        """Return it as text; `place` names the address."""
        where = f"{self.address:#x}{f' ({place})' if place else ''}"
        if self.word is None:
            return f"futex {where}: not readable"
        states = [f"owner {self.word & _OWNER}"]
        states += ["has waiters"] if self.word & _WAITERS else []
        states += ["owner died"] if self.word & _DIED else []
        states += ["priority inheritance"] if self.is_pi else []
        states += ["operation pending"] if self.is_pending else []
        return f"futex {where}: {', '.join(states)}"

    def plain(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return self._asdict()


class RobustWalk(NamedTuple):
    """A whole list."""

    held: list[HeldFutex]
    problem: str
    """Why the walk did not come to the end of the list."""


def walk_robust_list(space: Space, head: int, word_bytes: int = 8) -> RobustWalk:
    """Return the entries of the list at `head` (struct robust_list_head; 4: the compat one)."""

    def pointer(address: int) -> int | None:
        data = space.read(address, word_bytes)
        return int.from_bytes(data, "little") if len(data) == word_bytes else None

    first, pending = pointer(head), pointer(head + 2 * word_bytes)
    raw = space.read(head + word_bytes, word_bytes)
    if first is None or pending is None or len(raw) != word_bytes:
        return RobustWalk([], "its head cannot be read")
    offset = int.from_bytes(raw, "little", signed=True)
    held: list[HeldFutex] = []
    problem, entry = "", first
    while entry & ~_PI != head:
        if len(held) >= _LIMIT:
            problem = f"more than {_LIMIT} entries"
            break
        following = pointer(entry & ~_PI)
        if following is None:
            problem = f"entry {entry & ~_PI:#x} cannot be read"
            break
        held.append(_read_futex(space, entry, offset, is_pending=False))
        entry = following
    if pending & ~_PI:
        held.append(_read_futex(space, pending, offset, is_pending=True))
    return RobustWalk(held, problem)


def _read_futex(space: Space, entry: int, offset: int, *, is_pending: bool) -> HeldFutex:
    address = ((entry & ~_PI) + offset) % _TOP
    data = space.read(address, 4)
    word = int.from_bytes(data, "little") if len(data) == 4 else None
    return HeldFutex(address, word, is_pending, bool(entry & _PI))
