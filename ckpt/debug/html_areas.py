"""The areas of an image as blocks of a map: what kind each is, how much of it the image stores.

No HTML here. However many areas there are, the blocks are a few hundred: the areas that count
stand by themselves, what lies between them is bundled.
"""

from __future__ import annotations

import operator
import os
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ckpt.debug.text import escape, escape_bytes
from ckpt.objects.areas import Area, AreasRecord
from ckpt.objects.mm import MmRecord
from ckpt.objects.task import ThreadRecord
from ckpt.objects.vma_flags import Vm

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckpt.image.reader import ImageFile
    from ckpt.objects.base import Records

KINDS: Final = {
    "code": "code of files",
    "rodata": "read-only data of files",
    "data": "writable data of files",
    "heap": "heap",
    "stack": "stacks",
    "anon": "anonymous memory",
    "jit": "generated code",
    "shared": "shared memory",
    "kernel": "mapped by the kernel",
    "reserved": "reserved, inaccessible",
}
"""Every kind with its words, in the order of the legend."""

MAX_ALONE: Final = 120
"""Areas that stand by themselves; between them are as many bundles at most."""
_MAX_STACKS: Final = 24
"""More stacks than these are bundled where they lie side by side."""
_MAX_GUARD: Final = 1 << 20
"""What is inaccessible below a stack and not larger belongs to the stack."""
_SHARED_MEMORY: Final = "/dev/zero"
"""What the kernel calls shared memory without a name, `mm/shmem.c`."""
_PROT: Final = Vm.READ | Vm.WRITE | Vm.EXEC


class Block(NamedTuple):
    """One area, or a bundle of neighbours."""

    start: int
    end: int
    kind: str
    name: str
    """Safe text."""
    prot: str
    stored_bytes: int
    size_bytes: int
    """Of the areas, without the gaps between them."""
    areas: int
    detail: str
    group: str
    """Neighbours of one group belong together: parts of one file."""


class Stored:
    """Where the pages of one object lie, to be asked how many of them are in a range."""

    def __init__(self, image: ImageFile, ref: int) -> None:
        """Take the extents of object `ref`; without any, nothing is stored."""
        extents: Any = image.page_extents(ref)[0] if ref in image.pages else ()
        self._starts: Sequence[int] = extents[0::2]
        self._lengths: Sequence[int] = extents[1::2]
        self._sums: list[int] = list(accumulate(self._lengths, operator.add, initial=0))

    def count(self, start: int, end: int) -> int:
        """Return the stored bytes between two addresses."""
        return self._below(end) - self._below(start)

    def _below(self, address: int) -> int:
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return 0
        return self._sums[index] + min(address - self._starts[index], self._lengths[index])


class AreaMap:
    """The areas of one process of an image."""

    def __init__(self, image: ImageFile, records: Records) -> None:
        """Take the first process's; `areas` is empty when it has none."""
        self._image = image
        process = records.processes[0] if records.processes else None
        ref = process.mm if process else 0
        record = next((one for one in records.of(AreasRecord) if one.ref == ref), None)
        self._mm = next((one for one in records.of(MmRecord) if one.ref == ref), None)
        self.areas = sorted(record.areas, key=lambda area: area.start) if record else []
        self._files = record.files if record else []
        self._own = Stored(image, ref)
        self._contents: dict[int, Stored] = {}
        self._stacks = self._find_stacks(records.of(ThreadRecord))

    def _find_stacks(self, threads: Iterable[ThreadRecord]) -> dict[int, int]:
        """Return the starts of areas that a thread's stack pointer is in, and the thread."""
        starts = [area.start for area in self.areas]
        found: dict[int, int] = {}
        for thread in threads:
            index = bisect_right(starts, thread.regs.rsp) - 1
            if index >= 0 and thread.regs.rsp < self.areas[index].end:
                found.setdefault(starts[index], thread.tid)
        return found

    def blocks(self) -> list[Block]:
        """Return the blocks of the map, by address."""
        blocks = [self._block(area) for area in self.areas if area.start < area.end]
        blocks = _join_guards(blocks)
        if sum(block.kind == "stack" for block in blocks) > _MAX_STACKS:
            blocks = list(_bundle_stacks(blocks))
        if len(blocks) <= MAX_ALONE * 2:
            return blocks
        weights = sorted(map(_weight, blocks))
        # Of those that are alike, all stand alone or none: thousands of equals are one bundle.
        limit = weights[-MAX_ALONE - 1]
        return list(_bundle(blocks, {each.start for each in blocks if _weight(each) > limit}))

    def _block(self, area: Area) -> Block:
        stored = self._stored(area)
        kind = self._kind(area, stored)
        file = self._files[area.file] if 0 <= area.file < len(self._files) else None
        path = escape(file.path) if file else ""
        name = os.path.basename(path) or path
        if not name:
            name = escape_bytes(area.anon_name or area.special) or _CALLED.get(kind, kind)
        if path == _SHARED_MEMORY:
            name = _CALLED["shared"]
        if area.start in self._stacks:
            name = f"stack {self._stacks[area.start]}"
        prot = "".join(
            letter if area.flags & bit else "-"
            for letter, bit in (("r", Vm.READ), ("w", Vm.WRITE), ("x", Vm.EXEC))
        )
        prot += "s" if area.flags & Vm.MAYSHARE else "p"
        detail = f"{path} from {area.offset:#x}" if path else KINDS[kind]
        size = area.end - area.start
        return Block(
            area.start, area.end, kind, name, prot, min(stored, size), size, 1, detail, path
        )

    def _stored(self, area: Area) -> int:
        """Return the bytes of an area that the image holds: its own pages, those of its inode."""
        own = self._own.count(area.start, area.end)
        ref = self._files[area.file].content if 0 <= area.file < len(self._files) else 0
        if not ref:
            return own
        if ref not in self._contents:
            self._contents[ref] = Stored(self._image, ref)
        end = area.offset + area.end - area.start
        return own + self._contents[ref].count(area.offset, end)

    def _kind(self, area: Area, stored: int) -> str:
        flags = area.flags
        if area.special:
            return "kernel"
        if area.start in self._stacks or flags & Vm.GROWSDOWN:
            return "stack"
        if not flags & _PROT and not stored:
            return "reserved"
        if flags & Vm.MAYSHARE:
            return "shared"
        if area.file >= 0:
            if flags & Vm.EXEC:
                return "code"
            return "data" if flags & Vm.WRITE else "rodata"
        if flags & Vm.EXEC:
            return "jit"
        if self._mm is not None and self._mm.start_brk <= area.start < self._mm.brk:
            return "heap"
        return "anon"


_CALLED: Final = {
    "heap": "heap",
    "stack": "stack",
    "anon": "anonymous",
    "jit": "generated",
    "shared": "shared",
    "kernel": "kernel",
    "reserved": "reserved",
}


def _weight(block: Block) -> tuple[int, int]:
    return block.stored_bytes, block.size_bytes


def _join_guards(blocks: Sequence[Block]) -> list[Block]:
    """Let stacks and the guards below them be groups."""
    found = list(blocks)
    for index in range(1, len(found)):
        guard, stack = found[index - 1], found[index]
        is_guard = guard.kind == "reserved" and guard.size_bytes <= _MAX_GUARD
        if stack.kind == "stack" and is_guard and guard.end == stack.start:
            found[index - 1] = guard._replace(name="guard", group=stack.name)
            found[index] = stack._replace(group=stack.name)
    return found


def _bundle_stacks(blocks: Sequence[Block]) -> Iterator[Block]:
    """Yield blocks, stacks that lie side by side with their guards in one."""
    waiting: list[Block] = []
    for block in blocks:
        if block.kind != "stack" and not (block.kind == "reserved" and block.group):
            if waiting:
                yield _merge_stacks(waiting)
                waiting = []
            yield block
        else:
            waiting.append(block)
    if waiting:
        yield _merge_stacks(waiting)


def _merge_stacks(blocks: Sequence[Block]) -> Block:
    stacks = sum(block.kind == "stack" for block in blocks)
    return _merge(blocks)._replace(name=f"{stacks:,} stacks") if stacks > 1 else _merge(blocks)


def _bundle(blocks: Sequence[Block], alone: set[int]) -> Iterator[Block]:
    """Yield blocks, those that do not stand alone with their neighbours in one."""
    waiting: list[Block] = []
    for block in blocks:
        if block.start in alone:
            if waiting:
                yield _merge(waiting)
                waiting = []
            yield block
        else:
            waiting.append(block)
    if waiting:
        yield _merge(waiting)


def _merge(blocks: Sequence[Block]) -> Block:
    """Make one block of neighbours; its kind is the one that most of their bytes have."""
    if len(blocks) == 1:
        return blocks[0]
    weights: dict[str, int] = {}
    for block in blocks:
        weights[block.kind] = weights.get(block.kind, 0) + block.size_bytes
    kind = max(weights, key=lambda name: weights[name])
    others = ", ".join(KINDS[name] for name in weights if name != kind)
    return Block(
        blocks[0].start,
        blocks[-1].end,
        kind,
        f"{len(blocks):,} areas",
        "",
        sum(block.stored_bytes for block in blocks),
        sum(block.size_bytes for block in blocks),
        sum(block.areas for block in blocks),
        f"mostly {KINDS[kind]}; also {others}" if others else KINDS[kind],
        "",
    )
