"""Every layout and constant of the registry equals that of the installed headers."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.abi.abi_registry import CONSTANTS, LAYOUTS, Constants, Layout, of_format

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


def print_from_c(headers: tuple[str, ...], expressions: list[str], folder: Path) -> list[int]:
    """Compile and run a program that prints expressions; raise CalledProcessError if it fails."""
    lines = ["#define _GNU_SOURCE", "#include <stddef.h>", "#include <stdio.h>"]
    lines += [f"#include <{header}>" for header in headers]
    lines.append("int main(void) {")
    lines += [f'\tprintf("%lld\\n", (long long)({text}));' for text in expressions]
    lines += ["\treturn 0;", "}"]
    source, program = folder / "abi.c", folder / "abi"
    source.write_text("\n".join(lines) + "\n")
    subprocess.run(["gcc", "-o", str(program), str(source)], check=True, capture_output=True)
    output = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    return [int(line) for line in output.split()]


def ask_headers(headers: tuple[str, ...], expressions: list[str], folder: Path) -> list[int]:
    try:
        return print_from_c(headers, expressions, folder)
    except subprocess.CalledProcessError as error:
        pytest.fail(error.stderr.decode())


def read_headers_version() -> tuple[int, int]:
    """Read the Linux version of the installed headers, (0, 0) if there are none."""
    path = Path("/usr/include/linux/version.h")
    words = path.read_text().split() if path.exists() else []
    names = ("LINUX_VERSION_MAJOR", "LINUX_VERSION_PATCHLEVEL")
    major, minor = (int(words[words.index(n) + 1]) if n in words else 0 for n in names)
    return major, minor


VERSION = read_headers_version()


@needs_gcc
@pytest.mark.parametrize(
    "layout", [one for one in LAYOUTS if one.since <= VERSION], ids=lambda one: one.c_type
)
def test_layout(layout: Layout, tmp_path: Path) -> None:
    expressions = [f"sizeof({layout.c_type})"]
    expressions += [f"offsetof({layout.c_type}, {member})" for member in layout.offsets]
    answers = ask_headers(layout.headers, expressions, tmp_path)
    found = dict(zip(["size", *layout.offsets], answers, strict=True))
    assert found == {"size": layout.size} | layout.offsets


@needs_gcc
@pytest.mark.parametrize(
    "block",
    [one for one in CONSTANTS if one.since <= VERSION],
    ids=lambda one: ",".join(list(one.values)[:2]),
)
def test_constants(block: Constants, tmp_path: Path) -> None:
    answers = ask_headers(block.headers, list(block.values), tmp_path)
    assert dict(zip(block.values, answers, strict=True)) == block.values


@needs_gcc
def test_a_wrong_layout_is_noticed(tmp_path: Path) -> None:
    wrong = of_format("<IQ", "struct timespec", ["tv_sec", "tv_nsec"], "time.h")
    with pytest.raises(AssertionError):
        test_layout(wrong, tmp_path)


def test_offsets_of_formats_follow_struct() -> None:
    layout = of_format(struct.Struct("<I4xQ16s2Hx"), "none", ["a", "b", "c", "d", "e"])
    assert layout.offsets == {"a": 0, "b": 8, "c": 16, "d": 32, "e": 34}
    assert of_format("@BQ", "none", ["a", "b"]).offsets == {"a": 0, "b": 8}
