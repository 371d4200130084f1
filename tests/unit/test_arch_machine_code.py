"""The checked-in machine code is what the assembler makes of the sources beside it."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt.arch.x86_64 import machine_code as mc

SOURCES = Path(mc.__file__).parent
U64 = st.integers(0, (1 << 64) - 1)


def assemble(source: Path, folder: Path) -> tuple[bytes, dict[str, int]]:
    object_file, binary = folder / "code.o", folder / "code.bin"
    subprocess.run(["gcc", "-c", "-o", object_file, source], check=True)
    command = ["ld", "-Ttext=0", "--oformat", "binary", "-o"]
    subprocess.run([*command, binary, object_file], check=True)
    symbols = subprocess.run(["nm", object_file], check=True, capture_output=True, text=True).stdout
    labels = {name: int(value, 16) for value, _, name in map(str.split, symbols.splitlines())}
    return binary.read_bytes(), labels


needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


@needs_gcc
def test_seed_is_assembled_source(tmp_path: Path) -> None:
    code, labels = assemble(SOURCES / "seed.S", tmp_path)
    assert code == mc.SEED_IMAGE
    assert code == mc.build_seed()
    assert labels["seed_start"] == mc.SEED_START
    assert labels["seed_syscall"] == mc.SEED_SYSCALL
    assert labels["seed_int80"] == mc.SEED_INT80
    assert labels["seed_end"] <= mc.SEED_SIZE_BYTES


@needs_gcc
def test_tape_is_assembled_source(tmp_path: Path) -> None:
    code, labels = assemble(SOURCES / "tape.S", tmp_path)
    assert code == mc.TAPE_CODE
    expected = {
        "tape_start": mc.TAPE_START,
        "tape_end": mc.TAPE_END,
        "tape_mismatch": mc.TAPE_MISMATCH,
        "tape_syscall": mc.TAPE_SYSCALL,
        "tape_int80": mc.TAPE_INT80,
    }
    assert {name: labels[name] for name in expected} == expected


def test_seed_address_is_patched() -> None:
    address = 0x7F00_1234_5000
    image = mc.build_seed(address)
    assert struct.unpack_from("<Q", image, 24)[0] == address + mc.SEED_START
    p_type, p_flags, p_offset, p_vaddr, p_paddr = struct.unpack_from("<IIQQQ", image, 64)
    assert (p_type, p_flags, p_offset, p_vaddr, p_paddr) == (1, 5, 0, address, address)


@pytest.mark.parametrize("address", [0, 0x10010, 1 << 47, -0x1000])
def test_seed_address_must_be_a_user_page(address: int) -> None:
    with pytest.raises(ValueError, match="seed address"):
        mc.build_seed(address)


ENTRIES = st.builds(
    mc.Entry,
    nr=st.integers(0, (1 << 32) - 1),
    args=st.tuples(*[U64] * 6),
    expect=st.builds(mc.Expect, U64, U64),
    how=st.sampled_from(mc.EntryHow),
)


@given(st.lists(ENTRIES, max_size=5))
def test_entries_round_trip(entries: list[mc.Entry]) -> None:
    packed = mc.pack_entries(entries)
    assert len(packed) == mc.ENTRY_SIZE * len(entries)
    assert mc.parse_entries(packed) == [(entry, 0) for entry in entries]


def test_negative_arguments_and_results() -> None:
    packed = bytearray(mc.pack_entries([mc.Entry(257, (-100,))]))
    assert struct.unpack_from("<q", packed, mc.ENTRY_ARGS_OFFSET)[0] == -100
    struct.pack_into("<q", packed, mc.ENTRY_RESULT_OFFSET, -2)
    assert mc.parse_results(bytes(packed)) == [-2]


def test_seven_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="7 arguments"):
        mc.pack_entries([mc.Entry(0, (0,) * 7)])


@pytest.mark.parametrize("result", [0, 1, 0x7F00_0000_0000, -4096, (1 << 64) - 4096])
def test_not_error_accepts(result: int) -> None:
    assert mc.EXPECT_NOT_ERROR.accepts(result)


@pytest.mark.parametrize("result", [-1, -4095, -14])
def test_not_error_rejects(result: int) -> None:
    assert not mc.EXPECT_NOT_ERROR.accepts(result)


@given(U64, U64)
def test_exact_accepts_one_value(value: int, other: int) -> None:
    assert mc.expect_exact(value).accepts(value)
    assert mc.expect_exact(value).accepts(other) == (value == other)
    assert mc.EXPECT_ANY.accepts(other)


def test_between_is_closed_and_signed() -> None:
    expect = mc.expect_between(-1, 3)
    assert [expect.accepts(value) for value in (-2, -1, 0, 3, 4)] == [
        False,
        True,
        True,
        True,
        False,
    ]
    with pytest.raises(ValueError, match="empty range"):
        mc.expect_between(2, 1)
