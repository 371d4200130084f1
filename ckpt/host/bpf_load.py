"""Loads bytecode into the kernel through libbpf, and reads iterators and ring buffers.

Owns the libbpf ABI (ctypes) and descriptors of programs, maps and links. It does not know what the
programs mean.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, Protocol

from ckpt.errors import HostError
from ckpt.host.bpf_bytecode import Bytecode, MapSpec, Program

# enum bpf_prog_type and enum bpf_attach_type, include/uapi/linux/bpf.h (6.18)
_RAW_TRACEPOINT: Final = 17
_TRACING: Final = 26
_TRACE_ITER: Final = 28
_NOEXIST: Final = 1
# include/uapi/linux/capability.h
_CAP_SYS_ADMIN: Final = 1 << 21
_CAPS_WANTED: Final = 1 << 34 | 1 << 38 | 1 << 39
"""CAP_SYSLOG (for /proc/kallsyms), CAP_PERFMON, CAP_BPF."""
_LOG_BYTES: Final = 1 << 16
_READ_BYTES: Final = 1 << 15
_KERNEL_ADDRESS: Final = re.compile(r"0xffff[0-9a-f]{12}")
"""In the verifier's log: symbols that were patched in. They are nobody's business."""
_LD_IMM64_LOW: Final = struct.Struct("<BBhi")
_PSEUDO_MAP_FD: Final = 1


class _LoadOptions(ctypes.Structure):
    """struct bpf_prog_load_opts, tools/lib/bpf/bpf.h (libbpf 1.1); 112 bytes."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_int),
        ("prog_btf_fd", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_ifindex", ctypes.c_uint32),
        ("kern_version", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
        ("attach_prog_fd", ctypes.c_uint32),
        ("attach_btf_obj_fd", ctypes.c_uint32),
        ("fd_array", ctypes.c_void_p),
        ("func_info", ctypes.c_void_p),
        ("func_info_cnt", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_void_p),
        ("line_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_char_p),
    )


class _TaskLimit(ctypes.Structure):
    """The task member of union bpf_iter_link_info, include/uapi/linux/bpf.h; padded to 16 bytes."""

    _fields_ = (
        ("tid", ctypes.c_uint32),
        ("pid", ctypes.c_uint32),
        ("pid_fd", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )


class _LinkOptions(ctypes.Structure):
    """struct bpf_link_create_opts up to target_btf_id, tools/lib/bpf/bpf.h (libbpf 1.1)."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("flags", ctypes.c_uint32),
        ("iter_info", ctypes.POINTER(_TaskLimit)),
        ("iter_info_len", ctypes.c_uint32),
        ("target_btf_id", ctypes.c_uint32),
    )


_SAMPLE_FN: Final = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t
)
_SIGNATURES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "bpf_prog_load": (
        ctypes.c_int,
        (
            ctypes.c_int,
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.POINTER(_LoadOptions),
        ),
    ),
    "bpf_link_create": (
        ctypes.c_int,
        (ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.POINTER(_LinkOptions)),
    ),
    "bpf_iter_create": (ctypes.c_int, (ctypes.c_int,)),
    "bpf_map_create": (
        ctypes.c_int,
        (
            ctypes.c_int,
            ctypes.c_char_p,
            ctypes.c_uint32,
            ctypes.c_uint32,
            ctypes.c_uint32,
            ctypes.c_void_p,
        ),
    ),
    "bpf_map_update_elem": (
        ctypes.c_int,
        (ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint64),
    ),
    "bpf_map_lookup_elem": (
        ctypes.c_int,
        (ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p),
    ),
    "bpf_map_delete_elem": (ctypes.c_int, (ctypes.c_int, ctypes.c_char_p)),
    "bpf_map_get_next_key": (
        ctypes.c_int,
        (ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p),
    ),
    "bpf_raw_tracepoint_open": (ctypes.c_int, (ctypes.c_char_p, ctypes.c_int)),
    "ring_buffer__new": (
        ctypes.c_void_p,
        (ctypes.c_int, _SAMPLE_FN, ctypes.c_void_p, ctypes.c_void_p),
    ),
    "ring_buffer__consume": (ctypes.c_int, (ctypes.c_void_p,)),
    "ring_buffer__free": (None, (ctypes.c_void_p,)),
}


class Addresses(Protocol):
    """What fills in the constants that a program names: `kallsyms.Symbols`, and options."""

    def address_of(self, name: str) -> int | None:
        """Return the constant; None: there is none of that name."""


def check_privileges(instead: str = "") -> None:
    """Refuse at once what the kernel would refuse later, and less clearly.

    `instead`: what one can do without the privilege, for the hint.

    Raises:
        HostError: BPF programs cannot be loaded by this process.
    """
    with open("/proc/self/status", "rb") as file:
        found = int(file.read().split(b"CapEff:", 1)[1].split(None, 1)[0], 16)
    if not found & _CAP_SYS_ADMIN and found & _CAPS_WANTED != _CAPS_WANTED:
        hint = "run as root (or with CAP_BPF, CAP_PERFMON and CAP_SYSLOG)"
        raise HostError(
            "no privilege to use BPF", hint=f"{hint}; or {instead}" if instead else hint
        )


def _open_libbpf() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise HostError(
            "not found", where="libbpf.so.1", hint="install libbpf1; or use --no-bpf"
        ) from error
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


class Libbpf:
    """libbpf, opened once for an observer."""

    def __init__(self) -> None:
        self._lib = _open_libbpf()

    def call(self, what: str, name: str, *arguments: Any) -> int:
        """Call a function that returns a descriptor, a count or -errno. Raises HostError."""
        result = int(getattr(self._lib, name)(*arguments))
        if result < 0:
            raise HostError(
                f"{name} failed", where=what, errno=-result, hint="needs root; or use --no-bpf"
            )
        return result

    def create_map(self, spec: MapSpec) -> int:
        """Create a map and return its descriptor."""
        sizes = (spec.key_bytes, spec.value_bytes, spec.max_entries)
        name = spec.name[:15].encode()
        return self.call(f"BPF map {spec.name}", "bpf_map_create", spec.type, name, *sizes, None)

    def load_program(self, program: Program, instructions: bytes) -> int:
        """Load a program and return its descriptor; the verifier's words are in the error."""
        options = _LoadOptions(sz=ctypes.sizeof(_LoadOptions), attach_btf_id=program.btf_id)
        is_iter = program.kind == "iter"
        if is_iter:
            options.expected_attach_type = _TRACE_ITER
        kind = _TRACING if is_iter else _RAW_TRACEPOINT
        arguments = (kind, b"ckpt", b"GPL", instructions, len(instructions) // 8)
        where = f"BPF program {program.attach}"
        try:
            return self.call(where, "bpf_prog_load", *arguments, ctypes.byref(options))
        except HostError as first:
            log = ctypes.create_string_buffer(_LOG_BYTES)
            options.log_level, options.log_size = 1, _LOG_BYTES
            options.log_buf = ctypes.cast(log, ctypes.c_char_p)
            fd = int(self._lib.bpf_prog_load(*arguments, ctypes.byref(options)))
            if fd >= 0:
                return fd
            words = _KERNEL_ADDRESS.sub("0x?", log.value.decode("ascii", "replace"))
            words = " | ".join(words.strip().splitlines()[-3:])
            raise HostError(
                f"refused by the verifier: {words}", where=where, errno=first.errno
            ) from first

    def update_element(self, fd: int, key: bytes, value: bytes) -> None:
        """Set an element of a map."""
        self.call("BPF map", "bpf_map_update_elem", fd, key, value, 0)

    def add_element(self, fd: int, key: bytes, value: bytes) -> None:
        """Set an element of a map, unless it is there already (or the map is full)."""
        self._lib.bpf_map_update_elem(fd, key, value, _NOEXIST)

    def delete_element(self, fd: int, key: bytes) -> None:
        """Remove an element of a map, which may be gone already."""
        self._lib.bpf_map_delete_elem(fd, key)

    def lookup_element(self, fd: int, key: bytes, value_bytes: int) -> bytes:
        """Return an element of a map."""
        value = ctypes.create_string_buffer(value_bytes)
        self.call("BPF map", "bpf_map_lookup_elem", fd, key, value)
        return value.raw

    def next_key(self, fd: int, after: bytes | None, key_bytes: int) -> bytes | None:
        """Return the key that follows in a map (the first one without `after`); None at the end."""
        key = ctypes.create_string_buffer(key_bytes)
        return None if self._lib.bpf_map_get_next_key(fd, after, key) < 0 else key.raw

    def attach_tracepoint(self, program: Program, fd: int) -> int:
        """Attach a raw tracepoint program; closing the returned descriptor detaches it."""
        where = f"tracepoint {program.attach}"
        return self.call(where, "bpf_raw_tracepoint_open", program.attach.encode(), fd)

    def read_iterator(self, fd: int, *, tgid: int = 0, tid: int = 0) -> bytes:
        """Run an iterator over one process (or one thread) and return everything it wrote."""
        return b"".join(self.read_parts(fd, tgid=tgid, tid=tid))

    def read_parts(self, fd: int, *, tgid: int = 0, tid: int = 0) -> Iterator[bytes]:
        """Run an iterator and yield what it writes, up to eight pages at a time."""
        limit = _TaskLimit(tid=tid, pid=tgid)
        options = _LinkOptions(
            sz=ctypes.sizeof(_LinkOptions),
            iter_info=ctypes.pointer(limit),
            iter_info_len=ctypes.sizeof(_TaskLimit),
        )
        link = self.call("BPF iterator", "bpf_link_create", fd, 0, _TRACE_ITER, options)
        try:
            stream = self.call("BPF iterator", "bpf_iter_create", link)
        finally:
            os.close(link)
        try:
            yield from _read_to_end(stream)
        except OSError as error:
            raise HostError("read failed", where="BPF iterator", errno=error.errno) from error
        finally:
            os.close(stream)

    def open_ring(self, fd: int, on_sample: Callable[[bytes], None]) -> Ring:
        """Open a ring buffer map for reading."""
        return Ring(self._lib, fd, on_sample)


def _read_to_end(fd: int) -> Iterator[bytes]:
    """Yield parts until the end; EAGAIN means that the iterator spent its time without result."""
    while True:
        try:
            part = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            continue
        if not part:
            return
        yield part


class Ring:
    """A ring buffer map, mapped by libbpf."""

    def __init__(self, lib: ctypes.CDLL, fd: int, on_sample: Callable[[bytes], None]) -> None:
        def copy(_context: int, data: int, size: int) -> int:
            on_sample(ctypes.string_at(data, size))
            return 0

        self._lib = lib
        self._callback = _SAMPLE_FN(copy)  # has to live as long as the ring
        self._ring = lib.ring_buffer__new(fd, self._callback, None, None)
        if not self._ring:
            raise HostError("ring_buffer__new failed", where="BPF ring", errno=ctypes.get_errno())

    def consume(self) -> None:
        """Call the sample function for everything that is in the buffer."""
        result = int(self._lib.ring_buffer__consume(self._ring))
        if result < 0:
            raise HostError("cannot be read", where="BPF ring", errno=-result)

    def close(self) -> None:
        """Unmap the buffer."""
        if self._ring:
            self._lib.ring_buffer__free(self._ring)
            self._ring = None


class Loaded(NamedTuple):
    """Descriptors of one program file's programs and maps."""

    programs: dict[str, tuple[Program, int]]
    """By what they attach to."""
    maps: dict[str, int]

    def close(self) -> None:
        """Give everything back to the kernel."""
        for fd in [fd for _, fd in self.programs.values()] + list(self.maps.values()):
            os.close(fd)


def patch_instructions(program: Program, symbols: Addresses, maps: dict[str, int]) -> bytes:
    """Fill in symbol addresses (0 for a symbol the kernel lacks) and descriptors of maps."""
    patched = bytearray(program.instructions)
    for index, name in program.symbols:
        _patch_load(patched, index, symbols.address_of(name) or 0, 0)
    for index, name in program.maps:
        _patch_load(patched, index, maps[name], _PSEUDO_MAP_FD)
    return bytes(patched)


def _patch_load(instructions: bytearray, index: int, value: int, source: int) -> None:
    """Replace the constant of the two-slot load at ``index``."""
    at = index * _LD_IMM64_LOW.size
    instructions[at + 1] = instructions[at + 1] & 0x0F | source << 4
    instructions[at + 4 : at + 8] = (value & 0xFFFFFFFF).to_bytes(4, "little")
    instructions[at + 12 : at + 16] = (value >> 32).to_bytes(4, "little")


def load_bytecode(lib: Libbpf, bytecode: Bytecode, symbols: Addresses) -> Loaded:
    """Create the maps, load the programs. Leaves nothing behind when something fails."""
    with contextlib.ExitStack() as undo:
        maps: dict[str, int] = {}
        for spec in bytecode.maps:
            maps[spec.name] = lib.create_map(spec)
            undo.callback(os.close, maps[spec.name])
        programs = {}
        for program in bytecode.programs:
            fd = lib.load_program(program, patch_instructions(program, symbols, maps))
            undo.callback(os.close, fd)
            programs[program.attach] = (program, fd)
        undo.pop_all()
    return Loaded(programs, maps)
