"""The vdso of this kernel, and changed copies of it."""

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt.arch.x86_64 import vdso
from ckpt.arch.x86_64.vdso import SpecialMapping, Symbol

MAPS = """\
400000-401000 r-xp 00000000 08:01 123 /tmp/a name with [vdso]
7ffd1000-7ffd5000 r--p 00000000 00:00 0                          [vvar]
7ffd5000-7ffd7000 r--p 00000000 00:00 0                          [vvar_vclock]
7ffd7000-7ffd9000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0          [vsyscall]
"""
SPECIAL = [
    SpecialMapping("[vvar]", 0x7FFD1000, 0x7FFD5000),
    SpecialMapping("[vvar_vclock]", 0x7FFD5000, 0x7FFD7000),
    SpecialMapping("[vdso]", 0x7FFD7000, 0x7FFD9000),
]
HOST, PLACES = vdso.read_host_vdso()
needs_vdso = pytest.mark.skipif(not HOST, reason="needs a kernel that maps a vdso")


def test_special_mappings_of_maps() -> None:
    assert vdso.find_special(MAPS.splitlines()) == SPECIAL


def test_placement_is_relative_to_the_vdso() -> None:
    moved = [SpecialMapping(n, s + 0x5000, e + 0x5000) for n, s, e in SPECIAL]
    assert vdso.compare_placement(SPECIAL, moved) == []
    bigger = [SPECIAL[0]._replace(start=0x7FFD0000), *SPECIAL[1:]]
    (problem,) = vdso.compare_placement(SPECIAL, bigger)
    assert (
        problem
        == "[vvar]: 0x4000 bytes at vdso-0x6000 in the image, 0x5000 bytes at vdso-0x7000 here"
    )
    assert vdso.compare_placement(SPECIAL[:1] + SPECIAL[2:], SPECIAL) == [
        "[vvar_vclock]: none in the image, 0x2000 bytes at vdso-0x2000 here"
    ]
    assert len(vdso.compare_placement([], SPECIAL)) == 3


@needs_vdso
def test_symbols_agree_with_readelf(tmp_path: Path) -> None:
    (tmp_path / "vdso.so").write_bytes(HOST)
    command = ["readelf", "--dyn-syms", "--wide", str(tmp_path / "vdso.so")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in output.splitlines() if " FUNC " in line]
    expected = {row[7].split("@")[0]: Symbol(int(row[1], 16), int(row[2], 0)) for row in rows}
    assert vdso.parse_symbols(HOST) == expected
    assert "__vdso_clock_gettime" in expected


@needs_vdso
def test_equal_is_equal() -> None:
    assert vdso.compare_vdso(HOST, HOST) == []
    assert vdso.hash_vdso(HOST) == vdso.hash_vdso(bytes(bytearray(HOST)))
    assert len(vdso.hash_vdso(HOST)) == 32


@needs_vdso
def test_changed_code_names_its_functions() -> None:
    symbol = vdso.parse_symbols(HOST)["__vdso_time"]
    changed = bytearray(HOST)
    changed[symbol.offset] ^= 0xFF
    assert vdso.hash_vdso(bytes(changed)) != vdso.hash_vdso(HOST)
    problems = vdso.compare_vdso(bytes(changed), HOST)
    assert f"__vdso_time: other code at {symbol.offset:#x}" in problems
    assert not any("getcpu" in problem for problem in problems)


@needs_vdso
def test_missing_and_moved_functions() -> None:
    renamed = HOST.replace(b"\0__vdso_getcpu\0", b"\0__vdso_gotcpu\0")
    problems = vdso.compare_vdso(renamed, HOST)
    assert "__vdso_gotcpu: missing here" in problems
    assert "__vdso_getcpu: only here" in problems


@needs_vdso
def test_bytes_outside_of_functions() -> None:
    assert vdso.compare_vdso(HOST[:-1] + b"\x01", HOST) == [
        "same functions, other bytes around them"
    ]


@pytest.mark.parametrize("content", [b"", b"\x7fELF", bytes(8192), b"#!/bin/sh\n"])
def test_no_elf(content: bytes) -> None:
    with pytest.raises(ValueError, match="vdso"):
        vdso.parse_symbols(content)


@needs_vdso
@given(st.data())
def test_damaged_files_do_not_run_away(data: st.DataObject) -> None:
    (sections,) = struct.unpack_from("<Q", HOST, 40)
    tables = st.integers(0, 63) | st.integers(sections, min(sections + 1024, len(HOST) - 1))
    changed = bytearray(HOST)
    for offset in data.draw(st.lists(tables, min_size=1, max_size=4)):
        changed[offset] = data.draw(st.sampled_from([0, 1, 0x7F, 0xFF]))
    try:
        vdso.parse_symbols(bytes(changed))
    except ValueError as error:
        assert str(error).startswith("vdso: ")
