"""Where bytecode comes from: the cache, or else the compiler.

The key covers everything that the bytecode depends on, without opening BTF or BCC: the programs'
text, our header synthesizer, the kernel build (which decides BTF) and the compiler's libraries.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Final

import msgspec
import xxhash

from ckpt.host.bpf_bytecode import Bytecode

if TYPE_CHECKING:
    from ckpt.host.bpf_cache import Cache

SNAPSHOT_PROGRAMS: Final = ("tasks", "timers", "files", "ready", "areas", "stack", "events")
TRACE_PROGRAMS: Final = ("trace",)
"""Kept as an entry of its own: no other command pays for it."""
DEBUG_PROGRAMS: Final = ("peers",)
"""Loaded only by the command that uses them."""
PROGRAMS: Final = (*SNAPSHOT_PROGRAMS, *DEBUG_PROGRAMS)

_NOTES: Final = "/sys/kernel/notes"
_BTF: Final = "/sys/kernel/btf/vmlinux"
_LIBRARY_FOLDERS: Final = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib")
_OWN_MODULES: Final = ("bpf_compile.py", "bpf_headers.py", "bpf_bytecode.py", "btf.py")
_LLVM_NAMES: Final = tuple(
    name for n in range(8, 32) for name in (f"libLLVM-{n}.so.1", f"libLLVM.so.{n}.1")
)
"""A fixed list, as reading the folder of all libraries takes longer than all else here."""
_PREFIX: Final = "bytecode-"
_KEPT_VERSIONS: Final = 8
"""Two versions of this program on one machine must not throw out each other's entry."""
_VERSIONS_KEPT: Final = 8
"""More than one: two installations that replaced each other's entry would compile every time."""


def load_programs(cache: Cache, names: tuple[str, ...] = PROGRAMS) -> dict[str, Bytecode]:
    """Return the bytecode of programs, compiling it if the cache has none for this kernel.

    Of several processes that find it missing, one compiles and the others wait for its entry.
    """
    prefix = _PREFIX if names == PROGRAMS else f"{'-'.join(names)}-"
    entry = f"{prefix}{cache_key()}"
    programs = _load_entry(cache, entry)
    if programs is not None:
        return programs
    with cache.locked():
        programs = _load_entry(cache, entry)
        if programs is None:
            programs = _compile_programs(cache, entry, names)
            cache.keep_newest(prefix, _KEPT_VERSIONS)
        return programs


def _load_entry(cache: Cache, entry: str) -> dict[str, Bytecode] | None:
    payload = cache.load(entry)
    if payload is None:
        return None
    try:
        return msgspec.msgpack.decode(payload, type=dict[str, Bytecode])
    except msgspec.DecodeError:
        cache.discard(entry)
        return None


def _compile_programs(cache: Cache, entry: str, names: tuple[str, ...]) -> dict[str, Bytecode]:
    """Compile programs and keep them."""
    from ckpt.host.bpf_compile import compile_in_child

    programs = compile_in_child(names)
    cache.store(entry, msgspec.msgpack.encode(programs))
    return programs


def cache_key() -> str:
    """Return the hash of all that the bytecode depends on."""
    digest = xxhash.xxh3_128()
    for path in _source_files():
        content = _read(path)
        digest.update(b"%s\0%d\0" % (os.path.basename(path).encode(), len(content)))
        digest.update(content)
    for part in (*os.uname()[2:], *_kernel_build(), *_compiler_libraries()):
        digest.update(part.encode() + b"\0")
    return str(digest.hexdigest())


def _source_files() -> list[str]:
    folder = importlib.import_module("ckpt.bpf").__path__[0]
    sources = sorted(name for name in os.listdir(folder) if name.endswith((".c", ".h")))
    own = os.path.dirname(__file__)
    return [f"{folder}/{name}" for name in sources] + [f"{own}/{name}" for name in _OWN_MODULES]


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _kernel_build() -> tuple[str, ...]:
    """Return the notes with the build id, and the size of BTF in case that there are none."""
    notes = _read(_NOTES).hex() if os.path.exists(_NOTES) else ""
    return notes, str(os.stat(_BTF).st_size) if os.path.exists(_BTF) else "no BTF"


def _compiler_libraries() -> list[str]:
    """Return path, size and time of libbcc and of every LLVM beside it, without loading them."""
    for folder in _LIBRARY_FOLDERS:
        if os.path.exists(f"{folder}/libbcc.so.0"):
            names = (f"{folder}/{name}" for name in ("libbcc.so.0", *_LLVM_NAMES))
            return [_file_identity(name) for name in names if os.path.exists(name)]
    return []


def _file_identity(path: str) -> str:
    real = os.path.realpath(path)
    found = os.stat(real)
    return f"{real} {found.st_size} {found.st_mtime_ns}"
