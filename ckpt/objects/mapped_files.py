"""Files behind memory areas: which, whether they are still what was mapped, and opening them again.

Policy: a file mapped privately must be the same bytes: the same build-id if it has one, else the
same size and modification time. A file mapped shared is live data: it must exist.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.errors import Finding, RestoreError
from ckpt.objects.base import Plain
from ckpt.objects.file_kinds import inode
from ckpt.objects.file_kinds.common import inode_key, inode_made
from ckpt.objects.maps_text import MapsLine, SmapsEntry, unescape_path
from ckpt.objects.steps import Token
from ckpt.objects.vma_flags import Vm

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckpt.objects.base import Builder, Process, Restorer

_HUGETLB: Final = int(Vm.HUGETLB)
_DELETED: Final = b" (deleted)"


class MappedFile(Plain, frozen=True):
    """One file that areas map."""

    path: str
    dev: int
    ino: int
    size: int
    mtime_ns: int
    build_id: bytes = b""
    content: int = 0
    """Objref of its inode's content in the image; 0: it is opened by its path."""


class Capture(NamedTuple):
    """Files found, and which of them each area maps."""

    files: list[MappedFile]
    by_inode: dict[tuple[bytes, int], int]

    def index_of(self, line: MapsLine) -> int:
        """Return the index of the area's file, -1 if it has none."""
        return self.by_inode.get((line.dev, line.inode), -1) if line.inode else -1


def capture(process: Process, lines: Iterable[MapsLine], entries: dict[int, SmapsEntry]) -> Capture:
    """Look at every mapped file once; not at the kernel's own file behind private huge pages."""
    found = Capture([], {})
    for line in lines:
        key = (line.dev, line.inode)
        if line.inode and key not in found.by_inode and not entries[line.start].flags & _HUGETLB:
            found.by_inode[key] = len(found.files)
            found.files.append(_capture_file(process, line))
    return found


def capture_exe(process: Process) -> MappedFile:
    """Look at the file behind /proc/PID/exe."""
    link = process.path("exe")
    return _capture(process, link, os.fsencode(os.readlink(link)))


def _capture_file(process: Process, line: MapsLine) -> MappedFile:
    # The folder stands beside task/, not below it; /proc/TID leads there from any thread.
    link = f"/proc/{process.living_tid}/map_files/{line.start:x}-{line.end:x}"
    return _capture(process, link, line.name)


def _capture(process: Process, link: str, name: bytes) -> MappedFile:
    path = unescape_path(name)
    fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        build_id = read_build_id(fd)
        ref = 0
        if stat.S_ISREG(status.st_mode) and not _is_at(path, status):
            ref = inode.inode_ref(process.identities, status.st_dev, status.st_ino)
            inode.capture_content(process, ref, fd, *_kind_of(name))
    finally:
        os.close(fd)
    if ref:
        # Recreated as another inode, which then has its content and times from the image.
        return MappedFile(path, 0, 0, status.st_size, 0, build_id, ref)
    return MappedFile(
        path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, build_id, ref
    )


def _is_at(path: str, status: os.stat_result) -> bool:
    """Tell whether the path leads to the mapped inode: names may be forged, numbers decide."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino)


def _kind_of(name: bytes) -> tuple[inode.Kind, bytes]:
    """Return the kind of inode behind a mapping without a path, and its name."""
    name = name.removesuffix(_DELETED)
    if name == b"/dev/zero":
        return inode.SHMEM, b""
    if name.startswith(b"/memfd:"):
        return inode.MEMFD, name.removeprefix(b"/memfd:")
    return inode.DELETED, name


def read_build_id(fd: int) -> bytes:
    """Return the GNU build-id of an ELF file, empty when it has none (or is no ELF file)."""
    import struct

    head = os.pread(fd, 64, 0)
    if head[:5] != b"\x7fELF\x02":
        return b""
    phoff, phentsize, phnum = struct.unpack_from("<Q14xHH", head, 32)
    table = os.pread(fd, min(phentsize * phnum, 65536), phoff)
    for at in range(0, len(table) - 55, phentsize or 56):
        kind, offset, size = struct.unpack_from("<I4xQ16xQ", table, at)
        if kind == 4:
            found = _find_build_id(os.pread(fd, min(size, 65536), offset))
            if found:
                return found
    return b""


def _find_build_id(notes: bytes) -> bytes:
    import struct

    at = 0
    while at + 12 <= len(notes):
        name_size, desc_size, kind = struct.unpack_from("<III", notes, at)
        name_end = at + 12 + (name_size + 3 & ~3)
        if kind == 3 and notes[at + 12 : at + 16] == b"GNU\0":
            return notes[name_end : name_end + desc_size]
        at = name_end + (desc_size + 3 & ~3)
    return b""


def plan_open(file: MappedFile, key: str, areas: Sequence[object], build: Builder) -> None:
    """Add the step that opens `file` as `key`, with the access that its areas need."""
    writes = any(area.flags & Vm.SHARED and area.flags & Vm.MAYWRITE for area in areas)  # type: ignore[attr-defined]
    needs = (inode_made(file.content),) if file.content else ()
    build.host_step(
        OpenMapped(file, key, writes),
        "open a mapped file",
        needs=needs,
        provides=(Token(f"opened:{key}"),),
    )


class OpenMapped:
    """Open a mapped file for its areas."""

    def __init__(self, file: MappedFile, key: str, writes: bool) -> None:
        self.file = file
        self.key = key
        self.writes = writes

    def perform(self, restorer: Restorer) -> None:
        """Open by path, or the inode that was made from the image's content."""
        path = self.file.path
        if self.file.content:
            path = f"/proc/self/fd/{restorer.fds[inode_key(self.file.content)]}"
        flags = (os.O_RDWR if self.writes else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOCTTY
        try:
            restorer.fds[self.key] = os.open(path, flags)
        except OSError as error:
            raise RestoreError(
                "mapped file cannot be opened", where=self.file.path, errno=error.errno
            ) from error

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return f"open {self.file.path!r} {'read-write' if self.writes else 'read-only'}"


def check_unchanged(files: Iterable[MappedFile]) -> Iterable[Finding]:
    """Yield a finding for each file that is gone or has other bytes than were mapped."""
    for file in files:
        if file.content:
            continue
        problem = _find_change(file)
        if problem:
            yield Finding(
                f"mapped file {file.path!r}",
                problem,
                "put back the file that the process had mapped, or install the same version",
            )


def open_found(path: str) -> int:
    """Open the file at `path` for reading, if it is a regular one.

    What else a path of an image may lead to (a device, a FIFO) is only opened by name (O_PATH):
    opening it could do something. Raises OSError.
    """
    try:
        found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except ValueError as error:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from error  # a NUL in the path
    if not stat.S_ISREG(os.fstat(found).st_mode):
        return found
    try:
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(found)


def find_change(file: MappedFile, fd: int) -> str:
    """Return in what the file open as `fd` is not the one that was mapped; empty: in nothing."""
    status = os.fstat(fd)
    if file.build_id and stat.S_ISREG(status.st_mode):
        same = read_build_id(fd) == file.build_id
        return "" if same else "is another build (its build-id differs)"
    if (status.st_size, status.st_mtime_ns) != (file.size, file.mtime_ns):
        return "has changed since the snapshot (size or modification time)"
    return ""


def _find_change(file: MappedFile) -> str:
    try:
        fd = open_found(file.path)
    except OSError as error:
        return f"cannot be opened: {os.strerror(error.errno or 0)}"
    try:
        return find_change(file, fd)
    finally:
        os.close(fd)
