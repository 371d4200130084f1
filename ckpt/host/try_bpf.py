"""Trials of BPF: what the observer needs. Raw bpf(2), so that they say what the kernel can do."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING, Final

from ckpt.host.features import Trial
from ckpt.host.syscalls import syscall

if TYPE_CHECKING:
    from collections.abc import Iterable

SYS_BPF: Final = 321
# `include/uapi/linux/bpf.h`, 6.18.
BPF_MAP_CREATE: Final = 0
BPF_PROG_LOAD: Final = 5
BPF_RAW_TRACEPOINT_OPEN: Final = 17
BPF_LINK_CREATE: Final = 28
BPF_ITER_CREATE: Final = 33
BPF_MAP_TYPE_ARRAY: Final = 2
BPF_MAP_TYPE_RINGBUF: Final = 27
BPF_PROG_TYPE_RAW_TRACEPOINT: Final = 17
BPF_PROG_TYPE_TRACING: Final = 26
BPF_TRACE_ITER: Final = 28
BTF_MAGIC: Final = 0xEB9F

_RETURN_0: Final = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)
"""`r0 = 0; exit`"""
_ATTR_BYTES: Final = 128

_NO_BPF: Final = "snapshot needs --no-bpf: deadlines of blocked calls and much else are not seen"


def trials() -> Iterable[Trial]:
    """Return the trials of this group."""
    root = "run as root, on a kernel with CONFIG_BPF_SYSCALL"
    debian = "apt install python3-bpfcc (Debian)"
    return (
        Trial("bpf", _create_array, _NO_BPF, root),
        Trial("btf", _read_btf, _NO_BPF, "a kernel with CONFIG_DEBUG_INFO_BTF"),
        Trial("bpf_iterators", _iterate_tasks, _NO_BPF, "a kernel with BPF iterators (5.8)"),
        Trial(
            "raw_tracepoints",
            _open_raw_tracepoint,
            "no proof that no task was missed while stopping",
            "a kernel with CONFIG_BPF_EVENTS",
        ),
        Trial("ringbuf", _create_ring, "events of tasks cannot be read", "a kernel from 5.8 on"),
        Trial("bcc", _import_bcc, f"{_NO_BPF} (unless its programs are cached)", debian),
        Trial(
            "libbpf",
            _open_libbpf,
            "cached programs cannot be loaded",
            "apt install libbpf1 (Debian)",
        ),
        Trial(
            "kallsyms",
            _read_kallsyms,
            "restart functions and kinds of files have no names",
            "run as root, with sysctl kernel.kptr_restrict below 2",
        ),
        Trial("lockdown", _read_lockdown, _NO_BPF, "boot without lockdown=confidentiality"),
    )


def _bpf(command: int, attr: bytes) -> int:
    return syscall(SYS_BPF, command, attr.ljust(_ATTR_BYTES, b"\0"), _ATTR_BYTES)


def _create_array() -> None:
    os.close(_bpf(BPF_MAP_CREATE, struct.pack("<IIII", BPF_MAP_TYPE_ARRAY, 4, 8, 1)))


def _create_ring() -> None:
    os.close(_bpf(BPF_MAP_CREATE, struct.pack("<IIII", BPF_MAP_TYPE_RINGBUF, 0, 0, 4096)))


def _load(program_type: int, attach_type: int = 0, btf_id: int = 0) -> int:
    """Load a program that does nothing and return its descriptor."""
    code = ctypes.create_string_buffer(_RETURN_0, len(_RETURN_0))
    name = ctypes.create_string_buffer(b"GPL")
    # prog_type, insn_cnt, insns, license, log_*, kern_version, prog_flags, prog_name[16],
    # prog_ifindex, expected_attach_type, ..., attach_btf_id at offset 108.
    attr = bytearray(_ATTR_BYTES)
    struct.pack_into("<IIQQ", attr, 0, program_type, 2, ctypes.addressof(code), _address(name))
    struct.pack_into("<I", attr, 68, attach_type)
    struct.pack_into("<I", attr, 108, btf_id)
    return _bpf(BPF_PROG_LOAD, bytes(attr))


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def _open_raw_tracepoint() -> None:
    program = _load(BPF_PROG_TYPE_RAW_TRACEPOINT)
    try:
        name = ctypes.create_string_buffer(b"sched_process_exit")
        os.close(_bpf(BPF_RAW_TRACEPOINT_OPEN, struct.pack("<QI", _address(name), program)))
    finally:
        os.close(program)


def _iterate_tasks() -> None:
    libbpf = _open_libbpf_handle()
    btf_id = int(libbpf.libbpf_find_vmlinux_btf_id(b"task", BPF_TRACE_ITER))
    if btf_id <= 0:
        raise OSError(-btf_id, os.strerror(-btf_id))
    fds = [_load(BPF_PROG_TYPE_TRACING, BPF_TRACE_ITER, btf_id)]
    try:
        fds.append(_bpf(BPF_LINK_CREATE, struct.pack("<III", fds[0], 0, BPF_TRACE_ITER)))
        fds.append(_bpf(BPF_ITER_CREATE, struct.pack("<I", fds[1])))
        os.read(fds[2], 64)
    finally:
        for fd in fds:
            os.close(fd)


def _open_libbpf_handle() -> ctypes.CDLL:
    for name in ("libbpf.so.1", "libbpf.so.0"):
        try:
            return ctypes.CDLL(name, use_errno=True)
        except OSError:
            continue
    raise ImportError("no libbpf.so")


def _open_libbpf() -> None:
    _open_libbpf_handle()


def _import_bcc() -> str:
    import importlib.util

    spec = importlib.util.find_spec("bcc")
    if spec is None:
        raise ImportError("python has no module bcc")
    return str(getattr(__import__("bcc"), "__version__", ""))


def _read_btf() -> None:
    with open("/sys/kernel/btf/vmlinux", "rb") as file:
        if int.from_bytes(file.read(2), "little") != BTF_MAGIC:
            raise ValueError("no BTF inside")


def _read_kallsyms() -> None:
    with open("/proc/kallsyms", "rb") as file:
        if not any(int(line.split()[0], 16) for line in file.readlines(4096)):
            raise ValueError("all addresses are zero")


def _read_lockdown() -> str:
    """Lockdown only stands in the way when it forbids BPF to read kernel memory."""
    try:
        with open("/sys/kernel/security/lockdown") as file:
            modes = file.read()
    except FileNotFoundError:
        return "not shown"
    mode = modes.partition("[")[2].partition("]")[0]
    if mode == "confidentiality":
        raise ValueError("confidentiality")
    return mode
