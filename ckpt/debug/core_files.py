"""The files behind areas, as they are on this machine: are they of any use, what do they hold."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.objects.mapped_files import find_change, open_found

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckpt.debug.core_facts import CoreFile
    from ckpt.objects.mapped_files import MappedFile

_ELF_MAGIC: Final = b"\x7fELF"
_ANY_EXEC: Final = 0o111


class FileFacts(NamedTuple):
    """What a core needs to know of a file before its bytes are copied."""

    problem: str
    """Why it cannot be used; empty: it can."""
    is_elf: bool = False
    size_bytes: int = 0
    disk_bytes: int = 0
    """What it takes on the disk: less, if it has holes."""


class Files:
    """The files of one process; each is looked at once."""

    def __init__(self, files: Sequence[CoreFile]) -> None:
        self._files = files
        self._facts: dict[int, FileFacts] = {}

    def facts(self, index: int) -> FileFacts:
        """Look at file `index`, unless that was done."""
        if index not in self._facts:
            self._facts[index] = self._look(index)
        return self._facts[index]

    def open(self, index: int) -> int:
        """Return a descriptor that the caller closes, or -1."""
        source = self._files[index].source
        return source.open() if source is not None else -1

    def _look(self, index: int) -> FileFacts:
        source = self._files[index].source
        if source is None:
            return FileFacts("is no file that can be read")
        fd = source.open()
        if fd < 0:
            return FileFacts(source.problem)
        try:
            status = os.fstat(fd)
            # As the kernel does: it looks only into files that may be executed.
            is_elf = bool(status.st_mode & _ANY_EXEC) and os.pread(fd, 4, 0) == _ELF_MAGIC
            return FileFacts("", is_elf, status.st_size, status.st_blocks * 512)
        except OSError as error:
            return FileFacts(f"cannot be read: {os.strerror(error.errno or 0)}")
        finally:
            os.close(fd)


class NamedSource:
    """A file that an image names: opened by its path, if it still is what was mapped."""

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        self.problem = ""

    def open(self) -> int:
        """Return a descriptor, or -1 with the `problem`."""
        try:
            fd = open_found(self._file.path)
        except OSError as error:
            self.problem = f"cannot be opened: {os.strerror(error.errno or 0)}"
            return -1
        try:
            self.problem = self._find_problem(fd)
        except OSError as error:
            self.problem = f"cannot be read: {os.strerror(error.errno or 0)}"
        if self.problem:
            os.close(fd)
            return -1
        return fd

    def _find_problem(self, fd: int) -> str:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return "is not a regular file"
        return find_change(self._file, fd)
