"""Core files of made-up processes: what an ELF reader finds is what the process had."""

from __future__ import annotations

import os
import subprocess
from array import array
from collections.abc import Sequence
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt.debug import core_layout
from ckpt.debug.core import write_core
from ckpt.debug.core_facts import Content, CoreFile, CoreProcess, CoreThread, Stored
from ckpt.debug.core_files import Files, NamedSource
from ckpt.debug.core_layout import PAGE, WHOLE_BYTES, ZEROS_BYTES, plan_layout
from ckpt.errors import CkptError, Finding
from ckpt.image.output import FileOutput
from ckpt.objects.areas import Area
from ckpt.objects.mapped_files import MappedFile
from ckpt.objects.vma_flags import Vm

RW = int(Vm.READ | Vm.WRITE)
THREAD = CoreThread(7, bytes(216), b"", b"", 0, 0)
Ranges = Sequence[tuple[int, int]]


def store(path: Path, ranges: Ranges, letter: bytes = b"m") -> Stored:
    """Put pages into a file, each full of bytes that tell its address."""
    start = path.stat().st_size if path.exists() else 0
    with path.open("ab") as file:
        for low, high in ranges:
            for address in range(low, high, PAGE):
                file.write(page_at(address, letter))
    fd = os.open(path, os.O_RDONLY)
    flat = array("Q", [number for low, high in ranges for number in (low, high - low)])
    return Stored(fd, flat, start)


def page_at(address: int, letter: bytes) -> bytes:
    return (b"%c%015x" % (letter, address)) * (PAGE // 16)


def make_process(
    areas: Sequence[Area], memory: Stored, files: Sequence[CoreFile] = (), vdso: bytes = b""
) -> CoreProcess:
    return CoreProcess(
        pid=7,
        ppid=1,
        pgid=7,
        sid=7,
        uid=0,
        gid=0,
        nice=0,
        comm=b"made up",
        arguments=(0, 0),
        auxv=bytes(16),
        stop_signal=0,
        threads=[THREAD],
        areas=areas,
        files=files,
        vdso=vdso,
        memory=memory,
    )


def write(process: CoreProcess, path: Path, *, full: bool = False) -> list[Finding]:
    output = FileOutput(str(path))
    try:
        result = write_core(process, output, full=full)
        output.publish(None)
    finally:
        output.discard()
    return result.warnings


class Core:
    """A core file as pyelftools reads it."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            elf = ELFFile(file)
            loads = [seg for seg in elf.iter_segments() if seg["p_type"] == "PT_LOAD"]
            self.loads = [
                (seg["p_vaddr"], seg["p_memsz"], seg["p_filesz"], seg["p_offset"]) for seg in loads
            ]
        self.path = path

    def read(self, address: int) -> bytes | None:
        """Return the page at `address`; None when the core has no bytes for it."""
        for start, size, file_size, offset in self.loads:
            if start <= address < start + size:
                if address - start >= file_size:
                    return None
                with self.path.open("rb") as file:
                    file.seek(offset + address - start)
                    return file.read(PAGE)
        raise AssertionError(f"{address:#x} is in no segment")


def test_stored_pages_zeros_and_nothing(tmp_path: Path) -> None:
    """An area with pages reads as they are and zeros between; one that may not be read is empty."""
    areas = [
        Area(0x10000, 0x14000, RW, 0),
        Area(0x14000, 0x16000, RW, 0),
        Area(0x20000, 0x30000, 0, 0),
        Area(0x30000, 0x31000, RW | Vm.DONTDUMP, 0),
    ]
    memory = store(tmp_path / "pages", [(0x11000, 0x12000), (0x13000, 0x15000), (0x30000, 0x31000)])
    write(make_process(areas, memory), tmp_path / "core")
    core = Core(tmp_path / "core")
    assert [start for start, *_ in core.loads] == [area.start for area in areas]
    for address in (0x11000, 0x13000, 0x14000):
        assert core.read(address) == page_at(address, b"m")
    for address in (0x10000, 0x12000, 0x15000):
        assert core.read(address) == bytes(PAGE)
    assert core.read(0x20000) is None
    assert core.read(0x30000) is None
    assert (tmp_path / "core").stat().st_mode & 0o777 == 0o600


def test_terabytes_of_reservation_take_no_room(tmp_path: Path) -> None:
    """Only what is near stored pages is in the file, holes or not."""
    end = 0x10000 + (16 << 40)
    far = 0x10000 + (7 << 40)
    memory = store(tmp_path / "pages", [(0x10000, 0x11000), (far, far + PAGE)])
    write(make_process([Area(0x10000, end, RW, 0)], memory), tmp_path / "core")
    core = Core(tmp_path / "core")
    assert core.read(far) == page_at(far, b"m")
    assert core.read(0x10000) == page_at(0x10000, b"m")
    assert core.read(0x10000 + 2 * ZEROS_BYTES) is None
    assert (tmp_path / "core").stat().st_size < 1 << 20
    assert sum(size for _, size, *_ in core.loads) == end - 0x10000


def named_file(path: Path, size: int, mode: int = 0o644, head: bytes = b"") -> CoreFile:
    path.write_bytes(head + bytes(range(1, 256)) * (size // 255) + bytes(size % 255))
    path.chmod(mode)
    os.truncate(path, size)
    status = path.stat()
    mapped = MappedFile(str(path), status.st_dev, status.st_ino, size, status.st_mtime_ns)
    return CoreFile(os.fsencode(path), None, NamedSource(mapped))


def test_a_private_mapping_reads_as_its_file_but_for_its_own_pages(tmp_path: Path) -> None:
    file = named_file(tmp_path / "file", 2 * PAGE + 100)
    content = (tmp_path / "file").read_bytes() + bytes(PAGE - 100)
    memory = store(tmp_path / "pages", [(0x11000, 0x12000)])
    areas = [Area(0x10000, 0x14000, RW, 0, 0)]
    assert not write(make_process(areas, memory, [file]), tmp_path / "core")
    core = Core(tmp_path / "core")
    assert core.read(0x10000) == content[:PAGE]
    assert core.read(0x11000) == page_at(0x11000, b"m")
    assert core.read(0x12000) == content[2 * PAGE :]
    assert core.read(0x13000) == bytes(PAGE)


def test_of_a_large_one_only_what_is_near_its_own_pages(tmp_path: Path) -> None:
    """A debugger takes the rest from the file; with `full` all of it is there."""
    size = WHOLE_BYTES + (4 << 20)
    file = named_file(tmp_path / "file", size)
    content = (tmp_path / "file").read_bytes()
    areas = [Area(0x1000000, 0x1000000 + size, RW, 0, 0)]
    near = 0x1000000 + (8 << 20)
    memory = store(tmp_path / "pages", [(near, near + PAGE), (near + 2 * PAGE, near + 3 * PAGE)])
    process = make_process(areas, memory, [file])
    write(process, tmp_path / "core")
    core = Core(tmp_path / "core")
    assert core.read(near + PAGE) == content[(8 << 20) + PAGE :][:PAGE]
    assert core.read(near + 2 * PAGE) == page_at(near + 2 * PAGE, b"m")
    assert core.read(near - PAGE) is None
    assert core.read(0x1000000) is None
    write(process, tmp_path / "full", full=True)
    full = Core(tmp_path / "full")
    assert full.read(near) == page_at(near, b"m")
    assert full.read(0x1000000 + (15 << 20)) == content[15 << 20 :][:PAGE]


@pytest.mark.parametrize("mode", [0o644, 0o755])
def test_the_first_page_of_a_program_is_there(tmp_path: Path, mode: int) -> None:
    """It has the build-id; the kernel looks for it in files that may be executed."""
    file = named_file(tmp_path / "file", 3 * PAGE, mode, b"\x7fELF")
    areas = [
        Area(0x10000, 0x12000, int(Vm.READ), 0, 0),
        Area(0x12000, 0x13000, int(Vm.READ), PAGE, 0),
    ]
    write(make_process(areas, Stored(), [file]), tmp_path / "core")
    core = Core(tmp_path / "core")
    page = core.read(0x10000)
    if mode == 0o644:
        assert page is None
    else:
        assert page == (tmp_path / "file").read_bytes()[:PAGE]
    assert core.read(0x11000) is None
    assert core.read(0x12000) is None


def test_of_a_changed_file_nothing_is_made_up(tmp_path: Path) -> None:
    file = named_file(tmp_path / "file", 3 * PAGE)
    (tmp_path / "file").write_bytes(b"other")
    memory = store(tmp_path / "pages", [(0x11000, 0x12000)])
    areas = [Area(0x10000, 0x13000, RW, 0, 0)]
    (finding,) = write(make_process(areas, memory, [file]), tmp_path / "core")
    assert "has changed since the snapshot" in finding.what
    core = Core(tmp_path / "core")
    assert core.read(0x11000) == page_at(0x11000, b"m")
    assert core.read(0x10000) is None
    assert core.read(0x12000) is None


def test_an_inode_without_a_name_comes_with_its_content(tmp_path: Path) -> None:
    """Shared, private with a page of its own, at an offset, beyond its end."""
    stored = store(tmp_path / "pages", [(0, PAGE), (2 * PAGE, 3 * PAGE)], b"i")
    content = Content(3 * PAGE + 5, stored, b"tail!")
    files = [CoreFile(b"/memfd:x (deleted)", content, None)]
    areas = [
        Area(0x10000, 0x15000, RW | Vm.SHARED | Vm.MAYSHARE, 0, 0),
        Area(0x20000, 0x22000, RW, 2 * PAGE, 0),
    ]
    memory = store(tmp_path / "pages", [(0x20000, 0x21000)])
    assert not write(make_process(areas, memory, files), tmp_path / "core")
    core = Core(tmp_path / "core")
    tail = b"tail!".ljust(PAGE, b"\0")
    expected = [page_at(0, b"i"), bytes(PAGE), page_at(2 * PAGE, b"i"), tail, None]
    assert [core.read(0x10000 + i * PAGE) for i in range(5)] == expected
    assert core.read(0x20000) == page_at(0x20000, b"m")
    assert core.read(0x21000) == tail


def test_shared_huge_pages_are_said_to_be_missing(tmp_path: Path) -> None:
    files = [CoreFile(b"/anon_hugepage (deleted)", None, None)]
    areas = [Area(0x200000, 0x400000, RW | Vm.SHARED | Vm.MAYSHARE | Vm.HUGETLB, 0, 0)]
    (finding,) = write(make_process(areas, Stored(), files), tmp_path / "core")
    assert "/anon_hugepage" in finding.where
    assert "not in the core" in finding.what
    assert Core(tmp_path / "core").read(0x200000) is None


def test_content_that_is_mapped_a_thousand_times_is_bounded() -> None:
    """A small image must not make a core of terabytes."""
    fd = os.memfd_create("large")
    os.truncate(fd, 512 << 20)
    stored = Stored(fd, array("Q", [0, 512 << 20]), 0)
    files = [CoreFile(b"large", Content(512 << 20, stored), None)]
    step = 1 << 30
    areas = [
        Area(step * i, step * i + (512 << 20), RW | Vm.SHARED | Vm.MAYSHARE, 0, 0)
        for i in range(1, 1001)
    ]
    process = make_process(areas, Stored(), files)
    layout = plan_layout(process, Files(files))
    assert layout.size_bytes <= (1 << 30) + 16 * (512 << 20)
    (finding,) = layout.findings
    assert "mapped more than 16 times over" in finding.what


def test_the_vdso_is_there_and_vvar_is_not(tmp_path: Path) -> None:
    areas = [
        Area(0x10000, 0x14000, int(Vm.READ | Vm.IO | Vm.PFNMAP), 0, special=b"[vvar]"),
        Area(0x14000, 0x16000, int(Vm.READ | Vm.EXEC), 0, special=b"[vdso]"),
    ]
    vdso = page_at(1, b"v") + page_at(2, b"v")
    write(make_process(areas, Stored(), vdso=vdso), tmp_path / "core")
    core = Core(tmp_path / "core")
    assert core.read(0x10000) is None
    assert core.read(0x14000) == vdso[:PAGE]
    assert core.read(0x15000) == vdso[PAGE:]


def test_more_areas_than_the_header_can_count(tmp_path: Path) -> None:
    """With 70,000 areas their number stands in section 0; other readers agree."""
    count = 70_000
    areas = [Area(i * 0x2000, i * 0x2000 + PAGE, RW, 0) for i in range(1, count + 1)]
    memory = store(tmp_path / "pages", [(count * 0x2000, count * 0x2000 + PAGE)])
    write(make_process(areas, memory), tmp_path / "core")
    core = Core(tmp_path / "core")
    assert len(core.loads) == count
    assert core.read(count * 0x2000) == page_at(count * 0x2000, b"m")
    shown = subprocess.run(
        ["readelf", "-h", tmp_path / "core"], capture_output=True, text=True, check=True
    )
    assert f"65535 ({count + 1})" in shown.stdout
    assert not shown.stderr


def test_too_many_segments_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page of a changed file is a segment of its own: there is an end to that."""
    count = 1000
    monkeypatch.setattr(core_layout, "MAX_SEGMENTS", count)
    starts = range(0x2000, 0x2000 * (count + 1), 0x2000)
    flat = array("Q", [number for start in starts for number in (start, PAGE)])
    memory = Stored(-1, flat, 0)
    files = [CoreFile(b"gone", None, NamedSource(MappedFile("/nowhere", 0, 0, 0, 0)))]
    areas = [Area(0x2000, 0x2000 * (count + 2), RW, 0, 0)]
    with pytest.raises(CkptError, match="segments"):
        write(make_process(areas, memory, files), tmp_path / "core")
    assert not (tmp_path / "core").exists()


page_runs = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(page_runs, page_runs)
def test_any_areas_and_pages(
    tmp_path_factory: pytest.TempPathFactory,
    area_runs: list[tuple[int, int]],
    stored_runs: list[tuple[int, int]],
) -> None:
    """Whatever lies where, each page reads as what is stored, or as zeros."""
    tmp_path = tmp_path_factory.mktemp("core")
    areas = [Area(low, high, RW, 0) for low, high in _runs(area_runs)]
    pages = {address for low, high in _runs(stored_runs) for address in range(low, high, PAGE)}
    covered = {address for area in areas for address in range(area.start, area.end, PAGE)}
    ranges = [(low, high) for low, high in _runs(stored_runs)]
    write(make_process(areas, store(tmp_path / "pages", ranges)), tmp_path / "core")
    core = Core(tmp_path / "core")
    for address in covered:
        expected = page_at(address, b"m") if address in pages else bytes(PAGE)
        assert core.read(address) == expected


def _runs(pairs: list[tuple[int, int]]) -> Ranges:
    """Turn (pages, gap behind them) pairs into address ranges."""
    found, at = [], 0x10000
    for pages, gap in pairs:
        found.append((at, at + pages * PAGE))
        at += (pages + gap) * PAGE
    return found
