"""Compile ``bpf/*.bpf.c`` with BCC; run as a process of its own, so that LLVM leaves with it.

``python -m ckpt.host.bpf_compile NAME...`` writes a msgpack map of name to ``Bytecode`` to standard
output. Nothing is loaded into the kernel but the maps that BCC creates while it compiles, and these
end with the process.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ckpt.errors import HostError
from ckpt.host.bpf_bytecode import Bytecode, MapSpec, Program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.host.bpf_headers import Headers
    from ckpt.host.btf import Btf

SOURCE_DIR: Final = Path(importlib.import_module("ckpt.bpf").__path__[0])
TIMEOUT_S: Final = 120
_EXIT_NO_BCC: Final = 3
_EXIT_HOST_ERROR: Final = 4

_INSTRUCTION: Final = struct.Struct("<BBhi")
"""struct bpf_insn, include/uapi/linux/bpf.h: code, registers, off, imm."""
_LD_IMM64: Final = 0x18
"""BPF_LD | BPF_IMM | BPF_DW, the two-slot load of a 64-bit constant."""
_PSEUDO_MAP_FD: Final = 1
_PROGRAM: Final = re.compile(r"^(BPF_ITER|RAW_TRACEPOINT_PROBE)\((\w+)\)", re.M)
_TABLE: Final = re.compile(r"^BPF_(?:HASH|ARRAY|RINGBUF_OUTPUT)\((\w+)", re.M)
_INCLUDE: Final = re.compile(r'^#include "([\w.]+)"', re.M)
_SYNTHESIZED: Final = "synthesized.h"
_FUNCTION_PREFIX: Final = {"BPF_ITER": "bpf_iter__", "RAW_TRACEPOINT_PROBE": "raw_tracepoint__"}


def compile_in_child(names: tuple[str, ...]) -> dict[str, Bytecode]:
    """Compile the named programs in a child process and return their bytecode.

    Raises HostError when BCC is missing, or cannot compile them, with the compiler's last words.
    """
    command = [sys.executable, "-m", "ckpt.host.bpf_compile", *names]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise HostError(f"no result within {TIMEOUT_S} s", where="BPF compiler") from error
    if done.returncode:
        raise _child_error(done.returncode, done.stderr.decode("utf-8", "replace").strip())
    return msgspec.msgpack.decode(done.stdout, type=dict[str, Bytecode])


def _child_error(status: int, stderr: str) -> HostError:
    """Make an error of how the child ended."""
    if status == _EXIT_NO_BCC:
        return HostError(
            "not found",
            where=f"BCC for {sys.executable}",
            hint="install it for /usr/bin/python3 (Debian: apt install python3-bpfcc) and use a "
            "virtual environment with system site packages; or use --no-bpf",
        )
    if status == _EXIT_HOST_ERROR:
        what, _, hint = stderr.partition("\n")
        return HostError(what, where="BPF compiler", hint=hint)
    # BCC writes what the compiler says first, and then a traceback that says nothing.
    said, _, _ = stderr.partition("Traceback")
    words = [line for line in said.splitlines() if line.strip()][:3] or stderr.splitlines()[-1:]
    return HostError(" | ".join(words) or f"ended with {status}", where="BPF compiler")


def read_source(name: str) -> str:
    """Return the text of a program after that of all headers of ours that it includes."""
    seen: set[str] = set()

    def expand(file: str) -> str:
        seen.add(file)
        text = (SOURCE_DIR / file).read_text()
        included = [header for header in _INCLUDE.findall(text) if header != _SYNTHESIZED]
        return "".join(expand(header) for header in included if header not in seen) + text

    return expand(f"{name}.bpf.c")


def compile_program(name: str, btf: Btf, root: Path) -> Bytecode:
    """Compile one program; ``root`` holds the synthesized source tree."""
    from ckpt.host.bpf_headers import build_headers, scan_program

    source = read_source(name)
    headers = build_headers(btf, scan_program(source))
    include = root / f"for_{name}"
    include.mkdir()
    (include / _SYNTHESIZED).write_text(headers.text)
    module = _run_bcc(SOURCE_DIR / f"{name}.bpf.c", include)
    tables = {table: module[table] for table in _TABLE.findall(source)}
    maps = tuple(_map_spec(module, table) for table in tables)
    fds = {table.map_fd: table_name for table_name, table in tables.items()}
    programs = tuple(
        _program(module, kind, target, btf, headers, fds)
        for kind, target in _PROGRAM.findall(source)
    )
    lost = set(headers.symbols) - {symbol for program in programs for _, symbol in program.symbols}
    if lost:
        raise HostError(f"compiled away: {', '.join(sorted(lost))}", where=f"BPF program {name}")
    return Bytecode(programs, maps, headers.gaps)


def _run_bcc(source: Path, include: Path) -> Any:
    """Hand a program to BCC; its messages go to stderr."""
    from bcc import BPF

    # BCC's own headers are older than this style of program and warn about themselves.
    flags = [f"-I{include}", f"-I{SOURCE_DIR}", "-w"]
    return BPF(text=source.read_text(), cflags=flags)


def _map_spec(module: Any, name: str) -> MapSpec:
    """Read back what kind of map BCC made of a table."""
    from bcc.libbcc import lib

    number = lib.bpf_table_id(module.module, name.encode())
    return MapSpec(
        name,
        lib.bpf_table_type_id(module.module, number),
        lib.bpf_table_key_size_id(module.module, number),
        lib.bpf_table_leaf_size_id(module.module, number),
        _max_entries(module, number),
    )


def _max_entries(module: Any, number: int) -> int:
    """Ask libbcc for a table's size; its Python side does not declare the function."""
    from bcc.libbcc import lib

    lib.bpf_table_max_entries_id.restype = ctypes.c_size_t
    lib.bpf_table_max_entries_id.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return int(lib.bpf_table_max_entries_id(module.module, number))


def _program(
    module: Any, kind: str, target: str, btf: Btf, headers: Headers, fds: dict[int, str]
) -> Program:
    """Take one function's instructions and list what has to be filled in at load."""
    from ckpt.host.btf import Kind

    instructions = bytes(module.dump_func((_FUNCTION_PREFIX[kind] + target).encode()))
    is_iter = kind == "BPF_ITER"
    btf_id = btf.find(Kind.FUNC, f"bpf_iter_{target}") if is_iter else 0
    if btf_id is None:
        raise HostError(f"the kernel has no iterator over {target}", where="BPF")
    loads = list(find_loads(instructions))
    return Program(
        "iter" if is_iter else "raw_tracepoint",
        target,
        btf_id,
        instructions,
        tuple(_symbol_places(loads, headers)),
        tuple((index, fds[value]) for index, source, value in loads if source == _PSEUDO_MAP_FD),
    )


def _symbol_places(
    loads: list[tuple[int, int, int]], headers: Headers
) -> Iterator[tuple[int, str]]:
    """Yield where markers of symbols are loaded."""
    from ckpt.host.bpf_headers import symbol_marker

    names = {symbol_marker(name): name for name in headers.symbols}
    for index, source, value in loads:
        if source == 0 and value in names:
            yield index, names[value]


def find_loads(instructions: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (index, source register, constant) of each 64-bit load."""
    slots = list(_INSTRUCTION.iter_unpack(instructions))
    index = 0
    while index < len(slots):
        code, registers, _off, low = slots[index]
        if code == _LD_IMM64:
            high = slots[index + 1][3]
            yield index, registers >> 4, (high & 0xFFFFFFFF) << 32 | low & 0xFFFFFFFF
            index += 1
        index += 1


def compile_all(names: list[str]) -> dict[str, Bytecode]:
    """Compile the named programs in this process."""
    from ckpt.host.bpf_headers import write_source_tree
    from ckpt.host.btf import Btf

    btf = Btf.read_vmlinux()
    with tempfile.TemporaryDirectory(prefix="ckpt-bpf-") as folder:
        root = Path(folder)
        write_source_tree(root)
        os.environ["BCC_KERNEL_SOURCE"] = folder
        return {name: compile_program(name, btf, root) for name in names}


def main(names: list[str]) -> int:
    """Compile the named programs, write the result to standard output, return the exit code."""
    try:
        importlib.import_module("bcc")
    except ImportError:
        return _EXIT_NO_BCC
    try:
        result = compile_all(names)
    except HostError as error:
        os.write(2, f"{error}\n{error.hint}\n".encode())
        return _EXIT_HOST_ERROR
    sys.stdout.buffer.write(msgspec.msgpack.encode(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
