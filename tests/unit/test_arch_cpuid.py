"""The instructions that ask this CPU."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from ckpt.arch.x86_64 import cpu, cpuid


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_code_is_assembled_source(tmp_path: Path) -> None:
    source = Path(cpuid.__file__).parent / "cpuid.S"
    binary, object_file = str(tmp_path / "cpuid.bin"), str(tmp_path / "cpuid.o")
    subprocess.run(["gcc", "-c", "-o", object_file, str(source)], check=True)
    command = ["ld", "-Ttext=0", "--oformat", "binary", "-o", binary, object_file]
    subprocess.run(command, check=True)
    assert Path(binary).read_bytes() == cpuid.CPUID_CODE
    symbols = subprocess.run(["nm", object_file], check=True, capture_output=True, text=True).stdout
    labels = {name: int(value, 16) for value, _, name in map(str.split, symbols.splitlines())}
    expected = {"cpuid": cpuid._CPUID, "xgetbv": cpuid._XGETBV, "fxsave": cpuid._FXSAVE}
    assert {name: labels[name] for name in expected} == expected


def test_vendor_is_that_of_proc() -> None:
    leaf = cpuid.read_cpuid(0)
    vendor = b"".join(part.to_bytes(4, "little") for part in (leaf.ebx, leaf.edx, leaf.ecx))
    assert f": {vendor.decode()}\n" in Path("/proc/cpuinfo").read_text()


def test_code_is_not_writable() -> None:
    cpuid.read_cpuid(0)
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if "cpuid" in line]
    assert len(lines) == 1
    assert lines[0].split()[1] == "r-xp"


def test_machine_constants() -> None:
    constants = cpu.read_machine_constants()
    assert constants["page_size"] == ctypes.CDLL(None).getpagesize()
    assert constants["xstate_size"] >= 576
    assert all(isinstance(value, int) for value in constants.values())
