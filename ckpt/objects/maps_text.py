"""/proc/PID/maps and smaps as values: what is common to all kernels, with or without BPF.

Source: `fs/proc/task_mmu.c` (show_map_vma, show_smap_vma_flags), kernel 6.18.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.objects.vma_flags import SMAPS_CODES

if TYPE_CHECKING:
    from collections.abc import Iterator


SPECIAL: Final = (b"[vdso]", b"[vvar]", b"[vvar_vclock]", b"[vsyscall]")
"""Names of what the kernel maps by itself."""


class MapsLine(NamedTuple):
    """One area as maps shows it."""

    start: int
    end: int
    perms: bytes
    offset: int
    dev: bytes
    inode: int
    name: bytes
    """Path, `[heap]`-like name, or empty; a deleted file's path ends in ` (deleted)`."""


class SmapsEntry(NamedTuple):
    """What only smaps tells of one area."""

    flags: int
    """`vma_flags.Vm`."""
    pkey: int
    page_kib: int


def parse_maps(text: bytes) -> list[MapsLine]:
    """Parse /proc/PID/maps."""
    return [parse_maps_line(line) for line in text.splitlines()]


def parse_maps_line(line: bytes) -> MapsLine:
    """Parse one line; the name may contain anything, newlines come as \\012."""
    fields = line.split(None, 5)
    start, end = fields[0].split(b"-")
    name = fields[5] if len(fields) > 5 else b""
    return MapsLine(
        int(start, 16), int(end, 16), fields[1], int(fields[2], 16), fields[3], int(fields[4]), name
    )


def parse_smaps(text: bytes) -> dict[int, SmapsEntry]:
    """Parse /proc/PID/smaps: start address -> flags, protection key, page size."""
    return dict(_smaps_entries(text))


def _smaps_entries(text: bytes) -> Iterator[tuple[int, SmapsEntry]]:
    start = pkey = 0
    page_kib = 4
    for line in text.splitlines():
        head, _, rest = line.partition(b" ")
        if head == b"VmFlags:":
            flags = 0
            for code in rest.split():
                flags |= SMAPS_CODES.get(code, 0)
            yield start, SmapsEntry(flags, pkey, page_kib)
            pkey = 0
        elif head == b"KernelPageSize:":
            page_kib = int(rest.split()[0])
        elif head == b"ProtectionKey:":
            pkey = int(rest)
        elif head[-1:] != b":":
            start = int(head.split(b"-")[0], 16)


def unescape_path(name: bytes) -> str:
    """Return the path of a maps name: ` (deleted)` cut off, octal escapes of newlines undone."""
    name = name.removesuffix(b" (deleted)").replace(b"\\012", b"\n")
    return name.decode("utf-8", "surrogateescape")
