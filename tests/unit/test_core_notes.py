"""The notes of a core file, as pyelftools reads them, and the registers behind what it knows."""

from __future__ import annotations

import os
import struct
from array import array
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from ckpt.arch.x86_64.tls import UserDesc
from ckpt.debug.core import write_core
from ckpt.debug.core_facts import CoreFile, CoreProcess, CoreThread, Stored, mask_of_pending
from ckpt.debug.core_image import encode_tls
from ckpt.debug.core_notes import (
    NT_386_TLS,
    NT_AUXV,
    NT_FILE,
    NT_PRFPREG,
    NT_PRPSINFO,
    NT_PRSTATUS,
    NT_SIGINFO,
    NT_X86_XSTATE,
    PRSTATUS,
)
from ckpt.image.output import FileOutput
from ckpt.objects.areas import Area

XSTATE = bytes(range(256)) * 4
AUXV = struct.pack("<6Q", 6, 4096, 31, 0x5010, 0, 0)
AREAS = [
    Area(0x5000, 0x6000, 3, 0),
    Area(0x7000, 0x9000, 5, 0x3000, 0),
    Area(0xA000, 0xB000, 1, 0, 1),
]
FILES = [
    CoreFile(b"/bin/program", None, None),
    CoreFile(b"/tmp/two\n\xff (deleted)", None, None),
]


def regs_of(tid: int) -> bytes:
    return struct.pack("<27Q", *range(tid * 100, tid * 100 + 27))


def thread(tid: int, xstate: bytes = XSTATE, tls: bytes = b"") -> CoreThread:
    return CoreThread(tid, regs_of(tid), xstate, tls, mask_of_pending([37, 99, -1]), 0xF00)


def make_process(folder: Path, *threads: CoreThread, stop_signal: int = 0) -> CoreProcess:
    """One page of memory at 0x5000, with the arguments at its byte 16."""
    (folder / "pages").write_bytes((b"x" * 16 + b"./program\0first\0" + b"long " * 100)[:4096])
    os.truncate(folder / "pages", 4096)
    fd = os.open(folder / "pages", os.O_RDONLY)
    return CoreProcess(
        pid=40,
        ppid=1,
        pgid=41,
        sid=42,
        uid=1000,
        gid=1001,
        nice=-5,
        comm=b"a name of too many characters",
        arguments=(0x5010, 0x5010 + 400),
        auxv=AUXV,
        stop_signal=stop_signal,
        threads=threads,
        areas=AREAS,
        files=FILES,
        vdso=b"",
        memory=Stored(fd, array("Q", [0x5000, 4096]), 0),
    )


def read_notes(process: CoreProcess, folder: Path) -> list[tuple[str, int, Any, bytes]]:
    """Return (owner, type, what pyelftools makes of it, content) of every note."""
    output = FileOutput(str(folder / "core"))
    write_core(process, output)
    output.publish(None)
    found = []
    with (folder / "core").open("rb") as file:
        elf = ELFFile(file)
        (segment,) = [seg for seg in elf.iter_segments() if seg["p_type"] == "PT_NOTE"]
        data = segment.data()
        parsed = list(segment.iter_notes())
    at = 0
    for note in parsed:
        name_size, size, kind = struct.unpack_from("<III", data, at)
        start = at + 12 + (name_size + 3 & ~3)
        found.append((note["n_name"], kind, note["n_desc"], data[start : start + size]))
        at = start + (size + 3 & ~3)
    assert at == len(data)
    return found


def test_order_and_owners(tmp_path: Path) -> None:
    """As the kernel writes them: the process's notes behind the first thread's status."""
    tls = encode_tls([UserDesc(13, 0x1000, 0xFFFFF, seg_32bit=True)])
    process = make_process(tmp_path, thread(40), thread(41, tls=tls), thread(42, xstate=b""))
    notes = read_notes(process, tmp_path)
    assert [kind for _, kind, *_ in notes] == [
        *(NT_PRSTATUS, NT_PRPSINFO, NT_SIGINFO, NT_AUXV, NT_FILE, NT_PRFPREG, NT_X86_XSTATE),
        *(NT_PRSTATUS, NT_PRFPREG, NT_386_TLS, NT_X86_XSTATE, NT_SIGINFO),
        *(NT_PRSTATUS, NT_SIGINFO),
    ]
    linux = {kind for owner, kind, *_ in notes if owner == "LINUX"}
    assert linux == {NT_386_TLS, NT_X86_XSTATE}
    assert {owner for owner, *_ in notes} == {"CORE", "LINUX"}


def test_registers(tmp_path: Path) -> None:
    """NT_PRFPREG ends where an XSAVE area has software's bytes; NT_X86_XSTATE is all of it."""
    notes = read_notes(make_process(tmp_path, thread(40), thread(41)), tmp_path)
    statuses = [PRSTATUS.unpack(content) for _, kind, _, content in notes if kind == NT_PRSTATUS]
    assert [status[-2] for status in statuses] == [regs_of(40), regs_of(41)]
    assert [status[6:10] for status in statuses] == [(40, 1, 41, 42), (41, 1, 41, 42)]
    assert {(status[4], status[5], status[-1]) for status in statuses} == {(1 << 36, 0xF00, 1)}
    fp = [content for _, kind, _, content in notes if kind == NT_PRFPREG]
    assert fp == [XSTATE[:416] + bytes(96)] * 2
    assert [content for _, kind, _, content in notes if kind == NT_X86_XSTATE] == [XSTATE] * 2


def test_the_process(tmp_path: Path) -> None:
    notes = read_notes(make_process(tmp_path, thread(40)), tmp_path)
    (info,) = [desc for _, kind, desc, _ in notes if kind == NT_PRPSINFO]
    assert (info["pr_pid"], info["pr_ppid"], info["pr_pgrp"], info["pr_sid"]) == (40, 1, 41, 42)
    assert (info["pr_uid"], info["pr_gid"]) == (1000, 1001)
    assert info["pr_fname"].rstrip(b"\0") == b"a name of too m"
    assert info["pr_psargs"].rstrip(b"\0") == (b"./program first " + b"long " * 20)[:79]
    (auxv,) = [content for _, kind, _, content in notes if kind == NT_AUXV]
    assert auxv == AUXV


def test_mapped_files(tmp_path: Path) -> None:
    notes = read_notes(make_process(tmp_path, thread(40)), tmp_path)
    (files,) = [desc for _, kind, desc, _ in notes if kind == NT_FILE]
    found = [
        (entry["vm_start"], entry["vm_end"], entry["page_offset"])
        for entry in files["Elf_Nt_File_Entry"]
    ]
    assert found == [(0x7000, 0x9000, 3), (0xA000, 0xB000, 0)]
    assert files["filename"] == [file.name for file in FILES]


@pytest.mark.parametrize(("stop_signal", "shown"), [(0, 19), (20, 20)])
def test_what_stopped_it(tmp_path: Path, stop_signal: int, shown: int) -> None:
    """A process that ran shows the stop that a debugger's attaching makes, and no signal."""
    process = make_process(tmp_path, thread(40), stop_signal=stop_signal)
    notes = read_notes(process, tmp_path)
    (info,) = [content for _, kind, _, content in notes if kind == NT_SIGINFO]
    assert struct.unpack_from("<3i", info) == (shown, 0, 0x80)
    assert len(info) == 128
    (status,) = [content for _, kind, _, content in notes if kind == NT_PRSTATUS]
    assert PRSTATUS.unpack(status)[:4] == (stop_signal, 0, 0, stop_signal)
