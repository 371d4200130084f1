"""The tables of system call names, against the installed headers."""

import re
from pathlib import Path

import pytest

from ckpt.arch.x86_64 import syscalls

INCLUDE = Path("/usr/include/x86_64-linux-gnu/asm")
DEFINE = re.compile(r"#define __NR_(\w+)\s+(\d+)\s*$", re.MULTILINE)


def read_header(name: str) -> dict[int, str]:
    path = INCLUDE / name
    if not path.exists():
        pytest.skip("needs linux-libc-dev")
    return {int(number): call for call, number in DEFINE.findall(path.read_text())}


@pytest.mark.parametrize(("header", "i386"), [("unistd_64.h", False), ("unistd_32.h", True)])
def test_table_is_the_header_and_newer_calls(header: str, i386: bool) -> None:
    known = read_header(header)
    ours = syscalls.all_syscalls(i386=i386)
    newer = {nr for nr in ours if nr > max(known)} | {335}
    assert {nr: name for nr, name in ours.items() if nr in known} == known
    assert set(known) <= set(ours)
    assert {nr for nr in ours if nr not in known} <= newer


@pytest.mark.parametrize("i386", [False, True])
def test_names_and_numbers_are_inverse(i386: bool) -> None:
    table = syscalls.all_syscalls(i386=i386)
    assert len(set(table.values())) == len(table)
    for nr, name in table.items():
        assert syscalls.syscall_number(name, i386=i386) == nr
        assert syscalls.syscall_name(nr, i386=i386) == name


def test_known_points() -> None:
    assert syscalls.syscall_name(219) == "restart_syscall"
    assert syscalls.syscall_name(0, i386=True) == "restart_syscall"
    assert syscalls.syscall_name(468) == "file_getattr"
    assert syscalls.syscall_name(9999) == "syscall_9999"
    with pytest.raises(KeyError):
        syscalls.syscall_number("socketcall")
