"""Symbols of ELF files: names, sizes, tables of jumps; and files that are made to mislead."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt.debug.elf import ElfSymbols, read_symbols

SOURCE = r"""
#include <stdio.h>
#include <unistd.h>
int counter = 7;
static int hidden[4];
__attribute__((noinline)) int twice(int n) { hidden[1] = n; return puts("x") + 2 * n; }
int another(int n) __attribute__((alias("twice")));
__asm__(".text\nlabel_without_size:\n nop\n nop\n ret\n.globl behind\n.type behind,@function\n"
        "behind:\n ret\n.size behind, 1\n");
int main(void) { return twice(counter) + hidden[1] + getppid(); }
"""
BUDGET = 1 << 26


@pytest.fixture(scope="module", params=["lazy", "now"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("elf") / "program"
    flags = ["-O1", f"-Wl,-z,{request.param}", "-fcf-protection=full"]
    command = ["gcc", *flags, "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=SOURCE, text=True, check=True, timeout=60)
    return path


@pytest.fixture(scope="module")
def symbols(program: Path) -> Iterator[ElfSymbols]:
    fd = os.open(program, os.O_RDONLY)
    found = read_symbols(fd, BUDGET)
    assert found is not None
    yield found
    os.close(fd)


def nm_of(program: Path) -> dict[str, tuple[int, int]]:
    listing = subprocess.run(["nm", "-S", str(program)], capture_output=True, text=True, check=True)
    found = re.findall(r"^([0-9a-f]+) ([0-9a-f]+) \w (\S+)$", listing.stdout, re.MULTILINE)
    return {name: (int(value, 16), int(size, 16)) for value, size, name in found}


def test_every_symbol_with_a_size_is_that_of_nm(program: Path, symbols: ElfSymbols) -> None:
    expected = nm_of(program)
    assert {"counter", "hidden", "twice", "another", "main"} <= expected.keys()
    for name, (value, size) in expected.items():
        symbol = symbols.find_name(name)
        assert symbol is not None, name
        assert symbol[:2] == (value, size), name
        inside = symbols.find_symbol(value + size - 1)
        assert inside is not None and name in symbols.aliases(inside)


def test_of_several_names_the_plainest_is_shown(symbols: ElfSymbols) -> None:
    symbol = symbols.find_name("another")
    assert symbol is not None
    assert symbols.name_address(symbol.value + 3) == "twice+0x3"
    assert set(symbols.aliases(symbol)) == {"twice", "another"}


def test_a_label_covers_what_is_before_the_next_symbol(symbols: ElfSymbols) -> None:
    label, behind = symbols.find_name("label_without_size"), symbols.find_name("behind")
    assert label is not None and behind is not None
    assert behind.value - label.value == 3
    assert symbols.name_address(label.value + 2) == "label_without_size+0x2"
    assert symbols.name_address(behind.value) == "behind"


def test_jump_tables_have_the_names_that_objdump_gives_them(
    program: Path, symbols: ElfSymbols
) -> None:
    command = ["objdump", "-d", "-j", ".plt", "-j", ".plt.sec", "-j", ".plt.got", str(program)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    expected = re.findall(r"^([0-9a-f]+) <([a-z_]+@plt)>:", listing, re.MULTILINE)
    assert {"puts@plt", "getppid@plt"} <= {name for _, name in expected}
    for address, name in expected:
        assert symbols.name_address(int(address, 16)) == name
        found = symbols.find_name(name)
        assert found is not None and found.value == int(address, 16)
    assert symbols.find_name("puts") is None


def test_addresses_outside_have_no_name(symbols: ElfSymbols) -> None:
    for address in (0, 1, 1 << 40, (1 << 64) - 1, -5):
        assert symbols.name_address(address) == ""
        assert not symbols.covers(address) or address < 1 << 20


def test_a_budget_is_kept(program: Path) -> None:
    with open(program, "rb") as file:
        found = read_symbols(file.fileno(), 100)
        assert found is not None
        assert found.read_bytes <= 100
        assert found.name_address(0x1000) == ""


def use(data: bytes) -> None:
    """Do with a file everything that is done with one; only what it reads may be wrong."""
    fd = os.memfd_create("elf")
    try:
        os.write(fd, data)
        found = read_symbols(fd, BUDGET)
        if found is not None:
            found.name_address(0x1139)
            found.find_name("main")
            found.address_of_offset(0x2000)
            assert found.read_bytes <= BUDGET
    finally:
        os.close(fd)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_files_made_to_mislead_do_no_harm(program: Path, data: st.DataObject) -> None:
    """Headers, sections and relocations overwritten with the numbers that hurt most."""
    content = bytearray(program.read_bytes())
    [sections_at] = struct.unpack_from("<Q", content, 40)
    count = len(content)
    places = st.one_of(
        st.integers(0, 64 + 14 * 56),
        st.integers(sections_at, count - 8),
        st.integers(0, count - 8),
    )
    numbers = st.sampled_from((0, 1, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 63, (1 << 64) - 1, count))
    for at, number, size in data.draw(
        st.lists(st.tuples(places, numbers, st.sampled_from((1, 2, 4, 8))), max_size=6)
    ):
        content[at : at + size] = (number & (1 << 8 * size) - 1).to_bytes(size, "little")
    use(bytes(content))


@given(st.binary(max_size=300))
def test_what_is_no_elf_file_has_no_symbols(data: bytes) -> None:
    use(data)
    use(b"\x7fELF\x02\x01\x01" + data)
