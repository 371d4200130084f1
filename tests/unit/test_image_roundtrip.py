"""What is written is what is read, byte for byte, and the same every time."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import threading
import time
from array import array
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt.errors import CaptureError, ImageWriteError
from ckpt.image.extents import find_fault, split_extents, total_bytes
from ckpt.image.format import MAX_HEADER_BYTES
from ckpt.image.gather import read_extents
from ckpt.image.header import encode_header
from ckpt.image.reader import open_image_file
from ckpt.image.writer import ImageWriter
from tests.unit.test_image_samples import (
    HEADER,
    TYPES,
    Areas,
    Pages,
    Task,
    flat,
    open_bytes,
    read_pages,
    write_all,
    write_image,
)

PAGE = 4096

records = st.lists(
    st.one_of(
        st.builds(Task, tid=st.integers(0, 2**63), comm=st.text(), regs=st.binary()),
        st.builds(
            Areas,
            ref=st.integers(0, 2**64 - 1),
            areas=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(-(2**63), 0))),
            options=st.dictionaries(st.text(), st.integers(-5, 5)),
        ),
    ),
    max_size=20,
)


@st.composite
def extents(draw: st.DrawFn) -> tuple[list[tuple[int, int]], bytes]:
    pairs, address, content = [], draw(st.sampled_from([0, 0x40_0000, 0x7FFF_0000_0000])), b""
    for _ in range(draw(st.integers(0, 5))):
        address += draw(st.integers(0, 3)) * PAGE
        count = draw(st.integers(1, 3))
        content += b"".join(bytes([draw(st.integers(0, 255))]) * PAGE for _ in range(count))
        pairs.append((address, count * PAGE))
        address += count * PAGE
    return pairs, content


pages = st.dictionaries(st.integers(0, 2**64 - 1), extents(), max_size=4)


@settings(deadline=None)
@given(records, pages)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, written: list[Any], memory: Pages
) -> None:
    folder = tmp_path_factory.mktemp("image")
    data = write_image(folder / "a.ckpt", written, memory)
    assert write_image(folder / "b.ckpt", written, memory) == data
    assert len(data) % 8 == 0
    with open_image_file(str(folder / "a.ckpt"), TYPES, arch="x86_64") as image:
        image.verify_pages()
        assert image.header == HEADER
        assert image.records == written
        assert read_pages(image) == memory
        assert list(image.pages) == list(memory)
        assert all(item.file_offset % PAGE == 0 for item in image.pages.values())
        rows = list(image.iter_frames())
    assert rows[0].name == "header"
    assert rows[-1].name == "tail"
    assert {row.state for row in rows} == {"good"}


def test_order_of_dictionaries_does_not_show(tmp_path: Path) -> None:
    one = write_image(tmp_path / "1", [Areas(ref=1, options={"a": 1, "b": 2})])
    two = write_image(tmp_path / "2", [Areas(ref=1, options={"b": 2, "a": 1})])
    assert one == two


def test_records_between_pages(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    with ImageWriter.create(path) as writer:
        for ref in range(5):
            writer.write_record(Task(tid=ref, comm="x" * ref))
            writer.pages.write_pages(
                ref, flat([(0, PAGE)]), lambda fd, at: os.pwrite(fd, b"y" * PAGE, at)
            )
        writer.write_header(HEADER)
        writer.commit()
    with open_image_file(path, TYPES, arch="x86_64") as image:
        image.verify_pages()
        assert [record.tid for record in image.records] == list(range(5))
        assert read_pages(image) == {ref: ([(0, PAGE)], b"y" * PAGE) for ref in range(5)}


@pytest.mark.parametrize("prefault", [False, True])
@pytest.mark.parametrize("expected_bytes", [0, 3 * PAGE, 5 << 20])
def test_preallocation_leaves_no_trace_in_the_bytes(
    tmp_path: Path, expected_bytes: int, prefault: bool
) -> None:
    memory = {1: ([(0, 3 * PAGE)], b"z" * 3 * PAGE)}
    plain = write_image(tmp_path / "a", [Task(tid=1)], memory)
    with ImageWriter.create(str(tmp_path / "b")) as writer:
        writer.preallocate(expected_bytes, prefault=prefault)
        write_all(writer, [Task(tid=1)], memory)
    assert (tmp_path / "b").read_bytes() == plain


def test_store_copies_extents_of_a_descriptor(tmp_path: Path) -> None:
    source = os.memfd_create("memory")
    content = os.urandom(3 << 20)
    os.write(source, content)
    pairs = [(0, PAGE), (8 * PAGE, PAGE), (16 * PAGE, 2 << 20), (700 * PAGE, PAGE)]
    path = str(tmp_path / "a")
    with ImageWriter.create(path) as writer:
        writer.pages.store(7, source, flat(pairs))
        writer.write_header(HEADER)
        writer.commit()
    os.close(source)
    with open_image_file(path, TYPES, arch="x86_64") as image:
        image.verify_pages()
        expected = b"".join(content[start : start + length] for start, length in pairs)
        assert read_pages(image) == {7: (pairs, expected)}


@pytest.mark.parametrize("with_tid", [False, True])
def test_store_of_living_memory(tmp_path: Path, with_tid: bool) -> None:
    area = mmap.mmap(-1, 1500 * PAGE)
    area.write(os.urandom(1500 * PAGE))
    content = area[:]
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    numbers = [*range(0, 600, 2), 1400, 1403]
    pairs = [(start + number * PAGE, PAGE) for number in numbers]
    pairs.insert(100, (start + 199 * PAGE, PAGE))
    pairs.insert(-2, (start + 700 * PAGE, 600 * PAGE))
    # Pages that their owner cannot read are stored all the same.
    ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + 10 * PAGE), PAGE, 0)
    source = os.open("/proc/self/mem", os.O_RDONLY)
    path = str(tmp_path / "a")
    with ImageWriter.create(path) as writer:
        writer.pages.store(1, source, flat(pairs), os.getpid() if with_tid else 0)
        writer.write_header(HEADER)
        writer.commit()
    os.close(source)
    ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + 10 * PAGE), PAGE, 3)
    expected = b"".join(content[at - start : at - start + length] for at, length in pairs)
    with open_image_file(path, TYPES, arch="x86_64") as image:
        assert read_pages(image) == {1: (pairs, expected)}


def test_one_vector_call_reads_a_batch() -> None:
    area = mmap.mmap(-1, 512 * PAGE)
    area.write(os.urandom(512 * PAGE))
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    extents_of_one = flat([(start + number * 2 * PAGE, PAGE) for number in range(256)])
    # No descriptor at all: what cannot be read by the vector call would fail.
    (part,) = read_extents(-1, extents_of_one, os.getpid())
    assert bytes(part) == b"".join(area[n * 2 * PAGE :][:PAGE] for n in range(256))


def test_store_of_memory_that_is_not_there(tmp_path: Path) -> None:
    source = os.open("/proc/self/mem", os.O_RDONLY)
    writer = ImageWriter.create(str(tmp_path / "a"))
    with writer, pytest.raises(CaptureError, match="memory at 0x0: cannot read 4096 bytes"):
        writer.pages.store(1, source, flat([(0, PAGE)]))
    os.close(source)
    source = os.memfd_create("short")
    writer = ImageWriter.create(str(tmp_path / "a"))
    with writer, pytest.raises(CaptureError, match="ends inside an extent"):
        writer.pages.store(1, source, flat([(0, PAGE)]))
    os.close(source)
    assert os.listdir(tmp_path) == []


def test_misuse_is_an_error_of_ours(tmp_path: Path) -> None:
    with ImageWriter.create(str(tmp_path / "a")) as writer:
        with pytest.raises(ValueError, match="without header"):
            writer.commit()
        writer.write_header(HEADER)
        with pytest.raises(ValueError, match="twice"):
            writer.write_header(HEADER)
        writer.pages.begin(1, PAGE)
        with pytest.raises(ValueError, match="begun twice"):
            writer.pages.begin(1, PAGE)
        with pytest.raises(ValueError, match="not ended"):
            writer.commit()
        writer.pages.end(1, flat([(0, 2 * PAGE)]))
        with pytest.raises(ValueError, match="object 1: extents cover 8192 bytes of 4096"):
            writer.commit()
    assert os.listdir(tmp_path) == []


def test_largest_header(tmp_path: Path) -> None:
    room = MAX_HEADER_BYTES - len(encode_header(HEADER))
    # A string of 32 to 255 bytes costs two bytes beside itself, from 256 on three.
    largest = msgspec.structs.replace(HEADER, tool_version="x" * (room + len("0.1.0") - 2))
    assert len(encode_header(largest)) == MAX_HEADER_BYTES
    with ImageWriter.create(str(tmp_path / "a")) as writer:
        writer.write_header(largest)
        writer.commit()
    with open_image_file(str(tmp_path / "a"), TYPES, arch="x86_64") as image:
        assert image.header == largest
    larger = msgspec.structs.replace(HEADER, tool_version=largest.tool_version + "x")
    writer = ImageWriter.create(str(tmp_path / "b"))
    with writer, pytest.raises(ImageWriteError, match="too long"):
        writer.write_header(larger)


def test_many_records_and_extents(tmp_path: Path) -> None:
    many = [Task(tid=tid, comm=str(tid) * 20) for tid in range(12_000)]
    extents_of_one = array("Q", (n for i in range(20_000) for n in (i * 2 * PAGE, PAGE)))
    path = str(tmp_path / "a")
    with ImageWriter.create(path) as writer:
        writer.pages.begin(1, 20_000 * PAGE)
        writer.pages.end(1, extents_of_one)
        writer.preallocate(20_000 * PAGE)
        writer.write_header(HEADER)
        writer.write_records(many)
        writer.commit()
    with open_image_file(path, TYPES, arch="x86_64") as image:
        assert image.records == many
        assert image.page_extents(1) == (extents_of_one, PAGE)
        image.verify_pages()


def test_checks_of_many_extents_run_no_python_per_extent() -> None:
    # 260,000 extents; the limit is six times what a slow machine takes.
    many = array("Q", (n for i in range(260_000) for n in (i * 2 * PAGE, PAGE)))
    start = time.process_time()
    assert find_fault(many, total_bytes(many), PAGE) is None
    assert time.process_time() - start < 0.3


def test_progress_and_a_thread_that_verifies(tmp_path: Path) -> None:
    memory: Pages = {ref: ([(0, 4 << 20)], bytes([ref]) * (4 << 20)) for ref in (1, 2, 3)}
    calls: list[tuple[int, int]] = []
    with ImageWriter.create(str(tmp_path / "a")) as writer:
        for ref, (pairs, content) in memory.items():
            writer.pages.write_at(writer.pages.begin(ref, len(content)), content)
            writer.pages.end(ref, flat(pairs))
        writer.write_header(HEADER)
        writer.commit(lambda done, total: calls.append((done, total)))
    assert calls[-1] == (12 << 20, 12 << 20)
    assert calls == sorted(calls)
    seen: list[int] = []
    with open_image_file(str(tmp_path / "a"), TYPES, arch="x86_64") as image:
        thread = threading.Thread(
            target=image.verify_pages, args=(lambda done, _: seen.append(done),)
        )
        thread.start()
        assert read_pages(image) == memory
        thread.join(timeout=60)
    assert seen[-1] == 12 << 20


def test_progress_may_give_up(tmp_path: Path) -> None:
    def give_up(_done: int, _total: int) -> None:
        raise TimeoutError("deadline")

    with ImageWriter.create(str(tmp_path / "a")) as writer:
        writer.pages.write_at(writer.pages.begin(1, PAGE), bytes(PAGE))
        writer.pages.end(1, flat([(0, PAGE)]))
        writer.write_header(HEADER)
        with pytest.raises(TimeoutError, match="deadline"):
            writer.commit(give_up)
    assert os.listdir(tmp_path) == []


def test_an_image_without_records_or_pages(tmp_path: Path) -> None:
    with open_bytes(write_image(tmp_path / "a")) as image:
        assert image.records == []
        assert image.pages == {}
        image.verify_pages()


_LARGE = """
import os, sys
from array import array
from ckpt.image.reader import open_image_file
from ckpt.image.writer import ImageWriter
from tests.unit.test_image_samples import HEADER, TYPES

def peak_kib():
    with open("/proc/self/status") as file:
        return int(next(line.split()[1] for line in file if line.startswith("VmHWM")))

before, path, count = peak_kib(), sys.argv[1], 400_000
extents = array("Q", bytes(16 * count))
extents[0::2] = array("Q", range(0, count * 8192, 8192))
extents[1::2] = array("Q", [4096]) * count
with ImageWriter.create(path) as writer:
    offset = writer.pages.begin(1, count * 4096)
    os.ftruncate(writer.pages.fd, offset + count * 4096)
    writer.pages.end(1, extents)
    writer.write_header(HEADER)
    writer.commit()
del extents, writer
with open_image_file(path, TYPES, arch="x86_64") as image:
    image.verify_pages()
    assert len(image.pages[1].extents) == 2 * count
print((peak_kib() - before) * 1024, count)
"""


def test_peak_memory_is_64_bytes_an_extent_and_does_not_grow_with_pages(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LARGE, str(tmp_path / "a")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    grown_bytes, count = map(int, done.stdout.split())
    # The image is 1.6 GiB; 8 MiB are buffers and the interpreter's own growth.
    assert grown_bytes < 64 * count + (8 << 20)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    share=st.floats(0, 1),
)
def test_extents_are_cut_in_two(lengths: list[int], share: float) -> None:
    extents = array("Q")
    for number, length in enumerate(lengths):
        extents.extend((number * 20 * 4096, length * 4096))
    wanted = int(sum(lengths) * share) * 4096
    first, second = split_extents(extents, wanted)
    assert sum(first[1::2]) == wanted
    pages = [
        page
        for part in (first, second)
        for start, length in zip(part[0::2], part[1::2], strict=True)
        for page in range(start, start + length, 4096)
    ]
    assert pages == [
        start + page * 4096
        for start, length in zip(extents[0::2], extents[1::2], strict=True)
        for page in range(length // 4096)
    ]
