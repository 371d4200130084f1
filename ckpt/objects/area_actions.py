"""What is done with a new address space from outside: placing vdso and vvar, reading pages.

Actions of `areas.py`'s plan. Pages go from the image straight to their places: the task reads.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from ckpt.objects.maps_text import SPECIAL
from ckpt.objects.passing import close_call, lowest_free, receive_call
from ckpt.objects.steps import Blob, Call

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ckpt.objects.base import Restorer

SYS_MUNMAP, SYS_MREMAP, SYS_PREADV = 11, 25, 295
_IOV_MAX: Final = 1024
_MAX_RW_COUNT: Final = 0x7FFF_F000


class MoveSpecial:
    """Move the seed's vdso and vvar to where the target had them, or unmap them."""

    def __init__(self, tid: int, spans: Mapping[bytes, tuple[int, int]]) -> None:
        self.tid = tid
        self.areas = spans

    def perform(self, restorer: Restorer) -> None:
        """Go by way of a free place when old and new overlap."""
        now = {
            line.name: (line.start, line.end)
            for line in restorer.read_maps(self.tid)
            if line.name in SPECIAL and line.name != b"[vsyscall]"
        }
        gone = [span for name, span in now.items() if name not in self.areas]
        restorer.play(self.tid, [Call(SYS_MUNMAP, (low, high - low)) for low, high in gone])
        moves = {name: now[name] for name in self.areas if name in now}
        if all(moves[name] == self.areas[name] for name in moves):
            return
        spare = restorer.find_hole(sum(high - low for low, high in moves.values()))
        calls: list[Call] = []
        for name, (low, high) in sorted(moves.items(), key=lambda item: item[1]):
            calls.append(_move_call(low, high - low, spare))
            moves[name] = (spare, spare + high - low)
            spare += high - low
        for name, (low, high) in moves.items():
            calls.append(_move_call(low, high - low, self.areas[name][0]))
        restorer.play(self.tid, calls)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        shown = (f"{name.decode()} at {low:#x}" for name, (low, _) in self.areas.items())
        return f"move {', '.join(shown)}"


def _move_call(start: int, size: int, to: int) -> Call:
    maymove_fixed = 3
    return Call(SYS_MREMAP, (start, size, size, maymove_fixed, to), to)


class FillPages:
    """Let the task read its pages from the image, each extent straight to its place."""

    def __init__(self, tid: int, ref: int, socket_fd: int) -> None:
        self.tid = tid
        self.ref = ref
        self.socket_fd = socket_fd

    def perform(self, restorer: Restorer) -> None:
        """Pass the image, play the reads, close it again."""
        extents, offset = restorer.page_extents(self.ref)
        if not extents:
            return
        restorer.send_fds([restorer.image_fd])
        fd = next(lowest_free({self.socket_fd}))
        calls = [receive_call(self.socket_fd, 1)]
        calls += build_reads(fd, extents, offset)
        calls.append(close_call(fd))
        restorer.play(self.tid, calls)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return f"preadv every page of object {self.ref} from the image"


def build_reads(fd: int, extents: array[int], offset: int) -> Iterator[Call]:
    """Yield preadv calls that spread consecutive file bytes over the extents."""
    for batch in _read_batches(extents):
        size = sum(batch[1::2])
        iovec = Blob(batch.tobytes())
        yield Call(SYS_PREADV, (fd, iovec, len(batch) // 2, offset, 0), size)
        offset += size


def _read_batches(extents: array[int]) -> Iterator[array[int]]:
    """Split extents so that no call has more than IOV_MAX of them or MAX_RW_COUNT bytes."""
    for i in range(0, len(extents), 2 * _IOV_MAX):
        batch = extents[i : i + 2 * _IOV_MAX]
        if sum(batch[1::2]) <= _MAX_RW_COUNT:
            yield batch
        else:
            yield from _read_pieces(batch)


def _read_pieces(batch: Iterable[int]) -> Iterator[array[int]]:
    items = iter(batch)
    for start, length in zip(items, items, strict=True):
        while length:
            part = min(length, _MAX_RW_COUNT & -4096)
            yield array("Q", (start, part))
            start, length = start + part, length - part
