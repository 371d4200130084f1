"""The notes of a core file, as `fs/binfmt_elf.c` writes them (kernel 6.18). Pure: facts to bytes.

Layouts: `include/linux/elfcore.h` (struct elf_prstatus), `include/linux/elfcore-compat.h`,
`include/uapi/linux/elfcore.h`, `fs/binfmt_elf.c` (fill_files_note), types in
`include/uapi/linux/elf.h`. All are those of x86_64.
"""

from __future__ import annotations

import signal
import struct
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.debug.core_facts import CoreProcess, CoreThread

NT_PRSTATUS, NT_PRFPREG, NT_PRPSINFO, NT_AUXV = 1, 2, 3, 6
NT_FILE, NT_SIGINFO = 0x46494C45, 0x53494749
NT_386_TLS, NT_X86_XSTATE = 0x200, 0x202

PRSTATUS: Final = struct.Struct("<3ih2x2Q4i8q216si4x")
"""struct elf_prstatus, 336 bytes: siginfo, cursig, pending, blocked, pids, four times, regs."""
PRPSINFO: Final = struct.Struct("<BcBbxxxxQ2I4i16s80s")
"""struct elf_prpsinfo, 136 bytes."""
SIGINFO: Final = struct.Struct("<3i116x")
"""si_signo, si_errno, si_code of siginfo_t, 128 bytes."""
_NOTE: Final = struct.Struct("<III")
_SI_KERNEL: Final = 0x80
_FXSAVE_BYTES: Final = 512
_FXSAVE_USED: Final = 416
"""Behind this, struct user_fpregs_struct has padding, and an XSAVE area what software keeps."""
_MIN_XSTATE_BYTES: Final = 576
_PAGE: Final = 4096
_MAX_FILE_BYTES: Final = 64 << 20
"""What NT_FILE may take; the kernel stops at 4 MiB. Areas behind that have no names."""
_FNAME_BYTES, ARGUMENT_BYTES = 15, 79


def build_notes(process: CoreProcess) -> bytes:
    """Return the content of the PT_NOTE segment; the first thread is first, with the process's."""
    first, *others = process.threads
    parts = [
        _note(NT_PRSTATUS, _prstatus(process, first)),
        _note(NT_PRPSINFO, _prpsinfo(process)),
        _note(NT_SIGINFO, _siginfo(process)),
        _note(NT_AUXV, process.auxv),
        _note(NT_FILE, _file_note(process)),
        *_register_notes(first),
    ]
    for thread in others:
        parts.append(_note(NT_PRSTATUS, _prstatus(process, thread)))
        parts += _register_notes(thread)
        parts.append(_note(NT_SIGINFO, _siginfo(process)))
    return b"".join(parts)


def _note(kind: int, content: bytes) -> bytes:
    name = b"CORE\0" if kind not in (NT_386_TLS, NT_X86_XSTATE) else b"LINUX\0"
    head = _NOTE.pack(len(name), len(content), kind)
    return head + name.ljust(8, b"\0") + content + bytes(-len(content) % 4)


def _register_notes(thread: CoreThread) -> Iterator[bytes]:
    """Yield FP registers and what goes with them; general registers are in NT_PRSTATUS."""
    if len(thread.xstate) >= _MIN_XSTATE_BYTES:
        fxsave = thread.xstate[:_FXSAVE_USED].ljust(_FXSAVE_BYTES, b"\0")
        yield _note(NT_PRFPREG, fxsave)
    if thread.tls:
        yield _note(NT_386_TLS, thread.tls)
    if len(thread.xstate) >= _MIN_XSTATE_BYTES:
        # The kernel's own bytes, with XCR0 at offset 464, by which gdb knows the layout.
        yield _note(NT_X86_XSTATE, thread.xstate)


def _prstatus(process: CoreProcess, thread: CoreThread) -> bytes:
    """Encode struct elf_prstatus; CPU times are not kept and stay 0."""
    stop = process.stop_signal
    pids = (thread.tid, process.ppid, process.pgid, process.sid)
    has_fp = len(thread.xstate) >= _MIN_XSTATE_BYTES
    return PRSTATUS.pack(
        *(stop, 0, 0, stop, thread.pending, thread.blocked, *pids, *(0,) * 8, thread.regs, has_fp)
    )


def _prpsinfo(process: CoreProcess) -> bytes:
    state = (3, b"T") if process.stop_signal else (1, b"S")
    start, end = process.arguments
    text = process.memory.read(start, min(max(end - start, 0), ARGUMENT_BYTES))
    return PRPSINFO.pack(
        *(*state, 0, process.nice, 0, process.uid, process.gid),
        *(process.pid, process.ppid, process.pgid, process.sid),
        *(process.comm[:_FNAME_BYTES], text.replace(b"\0", b" ")),
    )


def _siginfo(process: CoreProcess) -> bytes:
    """Return what a debugger sees that attaches: a stop, sent by the kernel."""
    return SIGINFO.pack(process.stop_signal or signal.SIGSTOP, 0, _SI_KERNEL)


def _file_note(process: CoreProcess) -> bytes:
    """Encode NT_FILE: count, page size; start, end, offset in pages of each; all the names."""
    sizes = accumulate(
        24 + len(process.files[area.file].name) if area.file >= 0 else 0 for area in process.areas
    )
    mapped = [
        area
        for area, size in zip(process.areas, sizes, strict=True)
        if area.file >= 0 and size < _MAX_FILE_BYTES
    ]
    words: Iterable[int] = chain(
        (len(mapped), _PAGE),
        *((area.start, area.end, area.offset // _PAGE) for area in mapped),
    )
    names = b"".join(process.files[area.file].name + b"\0" for area in mapped)
    return struct.pack(f"<{2 + 3 * len(mapped)}Q", *words) + names
