"""Names for the addresses of traced processes, looked up when first needed.

Nothing raises: a process that is gone, or may not be looked at, leaves its addresses unnamed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ckpt.debug.live_space import LiveSpace
    from ckpt.debug.symbol_store import SymbolStore

_MAX_PROCESSES: Final = 16
_LOOK_AGAIN_S: Final = 0.5
"""An address in no known area may be in one mapped since; but not every event may ask for that."""


class Pointers:
    """The addresses of one process; a `ckpt.debug.call_args.Memory` that reads nothing.

    What a pointer led to at the time of the call may be something else by now.
    """

    def __init__(self, places: Places, tgid: int) -> None:
        self._places = places
        self._tgid = tgid

    def read(self, _address: int, _size: int) -> bytes:
        """Return nothing."""
        return b""

    def locate(self, address: int) -> str:
        """Return what an address falls in, as safe text; empty when it is not known."""
        return self._places.locate(self._tgid, address)

    def name(self, address: int) -> str:
        """Return a pointer with what it falls in."""
        place = self.locate(address) if address else ""
        return f"{address:#x} ({place})" if place else f"{address:#x}" if address else "NULL"


class Places:
    """The address spaces of traced processes; close it at the end."""

    def __init__(self) -> None:
        self._store: SymbolStore | None = None
        self._spaces: dict[int, tuple[LiveSpace | None, float]] = {}

    def close(self) -> None:
        """Close what is open."""
        for tgid in list(self._spaces):
            self.forget(tgid)

    def forget(self, tgid: int) -> None:
        """Forget a process that ended, or that is another program now."""
        space, _ = self._spaces.pop(tgid, (None, 0.0))
        if space is not None:
            space.close()

    def pointers(self, tgid: int) -> Pointers:
        """Return the addresses of one process."""
        return Pointers(self, tgid)

    def locate(self, tgid: int, address: int) -> str:
        """Return what an address of a process falls in; empty when it is not known."""
        if not address or not tgid:
            return ""
        space, looked_s = self._spaces.get(tgid, (None, -_LOOK_AGAIN_S))
        is_known = space is not None and space.find_area(address) is not None
        if not is_known and time.monotonic() >= looked_s + _LOOK_AGAIN_S:
            space = self._open(tgid)
        return space.locate(address) if space is not None else ""

    def _open(self, tgid: int) -> LiveSpace | None:
        from ckpt.debug.live_space import LiveSpace
        from ckpt.debug.symbol_store import SymbolStore

        self.forget(tgid)
        while len(self._spaces) >= _MAX_PROCESSES:
            self.forget(next(iter(self._spaces)))
        if self._store is None:
            self._store = SymbolStore()
        try:
            space = LiveSpace(tgid, tgid, self._store)
        except OSError:
            space = None
        self._spaces[tgid] = space, time.monotonic()
        return space
