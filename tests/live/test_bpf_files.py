"""What BPF shows of descriptors, memory and areas, against a second source for every value."""

from __future__ import annotations

import ctypes
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt.host.bpf import BpfObserver, open_observer
from ckpt.host.kernel_view import FileView, MmView
from tests.live.harness import Build
from tests.live.kernel_state import State, kcmp, running_state

KCMP_FILE = 0
O_CLOEXEC = 0o2000000
TABLES = 3
"""Descriptor tables that hold each file: the process's, its forked child's, one thread's own."""
MANY_AREAS = 1500
VM_LOCKED = 0x2000
ANON_INODE_FS_MAGIC = 0x09041934
F_OPS = {
    "regular": "ext4_file_operations",
    "folder": "ext4_dir_operations",
    "o_path": "empty_fops",
    "pipe_read": "pipefifo_fops",
    "pipe_write": "pipefifo_fops",
    "socket": "socket_file_ops",
    "eventfd": "eventfd_fops",
    "epoll": "eventpoll_fops",
    "timerfd": "timerfd_fops",
    "signalfd": "signalfd_fops",
    "inotify": "inotify_fops",
    "memfd": "shmem_file_operations",
    "null": "null_fops",
    "zero": "zero_fops",
    "full": "full_fops",
    "random": "random_fops",
    "urandom": "urandom_fops",
    "pidfd": "pidfs_file_operations",
    "namespace": "ns_file_operations",
    "tty": "tty_fops",
    "mqueue": "mqueue_file_operations",
}


@pytest.fixture(scope="module")
def observer() -> Iterator[BpfObserver]:
    with open_observer() as opened:
        yield opened


@pytest.fixture(scope="module")
def state(build: Build) -> Iterator[State]:
    with running_state(build) as running:
        yield running


@pytest.fixture
def files(observer: BpfObserver, state: State) -> dict[int, FileView]:
    return {file.fd: file for file in observer.observe_files(state.pid)}


@pytest.fixture
def mm(observer: BpfObserver, state: State) -> MmView:
    view = observer.observe_threads(state.pid)
    assert view.mm is not None and len(view.mms) == 1
    return view.mm


def test_descriptors_are_those_of_proc(files: dict[int, FileView], state: State) -> None:
    assert sorted(files) == sorted(int(fd) for fd in os.listdir(f"/proc/{state.pid}/fd"))


def test_position_flags_and_inode(files: dict[int, FileView], state: State) -> None:
    for fd, file in files.items():
        text = Path(f"/proc/{state.pid}/fdinfo/{fd}").read_text()
        info = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        flags = int(info["flags"], 8)
        assert file.f_pos == int(info["pos"]), fd
        assert file.cloexec == bool(flags & O_CLOEXEC), fd
        assert file.f_flags == flags & ~O_CLOEXEC, fd
        found = os.stat(f"/proc/{state.pid}/fd/{fd}")
        # pidfs says regular file in its inodes, and no type at all to stat(2).
        mode = found.st_mode | (stat.S_IFREG if file.fs_type == "pidfs" else 0)
        assert (file.ino, file.dev, file.mode) == (found.st_ino, found.st_dev, mode), fd
        assert (file.nlink, file.rdev) == (found.st_nlink, found.st_rdev), fd
        if stat.S_ISREG(file.mode):
            assert file.size == found.st_size, fd


def test_positions_and_counts_that_were_set_up(files: dict[int, FileView], state: State) -> None:
    fds = {kind: int(fd) for kind, fd in state.said["fd"]}
    regular = files[fds["regular"]]
    assert (regular.f_pos, regular.size, regular.nlink) == (7, 10, 0)
    assert regular.has_locks
    for kind in ("duplicate", "high"):
        assert files[fds[kind]].file == regular.file
    assert files[fds["reopened"]].file != regular.file
    assert files[fds["reopened"]].inode == regular.inode
    assert regular.f_count == 3 * TABLES
    for kind in ("eventfd", "memfd", "pipe_read", "folder", "o_path", "reopened"):
        assert files[fds[kind]].f_count == TABLES, kind
    socket = files[fds["socket"]]
    assert (socket.owner_pid, socket.owner_type) == (state.pid, 1)
    assert (socket.owner_uid, socket.owner_euid) == (0, 0)
    assert socket.owner_signum == 34 + 5
    assert files[fds["socket_peer"]].owner_pid == 0


def test_identity_is_that_of_kcmp(files: dict[int, FileView], state: State) -> None:
    for fd, file in files.items():
        for other, second in files.items():
            is_same = kcmp(state.pid, state.pid, KCMP_FILE, fd, other) == 0
            assert (file.file == second.file) == is_same, (fd, other)


def test_kinds_are_known_by_their_operations(files: dict[int, FileView], state: State) -> None:
    for kind, fd in state.said["fd"]:
        if kind in F_OPS:
            expected = F_OPS[kind]
            if expected.startswith("ext4") and files[int(fd)].fs_type != "ext4":
                expected = files[int(fd)].f_op
            assert files[int(fd)].f_op == expected, kind
        link = os.readlink(f"/proc/{state.pid}/fd/{fd}")
        anon_name = files[int(fd)].anon_name
        is_anon = files[int(fd)].sb_magic == ANON_INODE_FS_MAGIC
        assert (f"anon_inode:{anon_name}" == link) == is_anon, kind


def test_tty_instances_share_private_data_only_with_themselves(
    files: dict[int, FileView], state: State
) -> None:
    ttys = [files[int(fd)] for kind, fd in state.said["fd"] if kind == "tty"]
    assert len(ttys) == 2
    assert ttys[0].private and ttys[1].private and ttys[0].private != ttys[1].private


def test_memory_numbers_of_proc_stat(mm: MmView, state: State) -> None:
    stat_fields = [0, 0, 0, *map(_number, state.stat(state.pid)[3:])]
    assert [mm.start_code, mm.end_code, mm.start_stack] == stat_fields[26:29]
    assert [mm.start_data, mm.end_data, mm.start_brk] == stat_fields[45:48]
    assert [mm.arg_start, mm.arg_end, mm.env_start, mm.env_end] == stat_fields[48:52]
    assert mm.brk == state.number("brk")
    assert mm.vdso == state.number("vdso")
    auxv = Path(f"/proc/{state.pid}/auxv").read_bytes()
    assert mm.saved_auxv == auxv[: len(mm.saved_auxv)] and not any(auxv[len(mm.saved_auxv) :])
    status = state.status(state.pid)
    page_kib = os.sysconf("SC_PAGESIZE") // 1024
    assert mm.total_vm is not None and mm.locked_vm is not None
    assert mm.total_vm * page_kib == int(status["VmSize"].split()[0])
    assert mm.locked_vm * page_kib == int(status["VmLck"].split()[0])


def _number(word: str) -> int:
    return int(word) if word.lstrip("-").isdigit() else 0


def test_memory_flags(mm: MmView, state: State) -> None:
    status = state.status(state.pid)
    core = int(Path(f"/proc/{state.pid}/coredump_filter").read_text(), 16)
    assert mm.coredump_filter == core == 0x17
    assert mm.dumpable == 1
    assert mm.thp_disabled == (status["THP_enabled"] == "0") is True
    assert mm.has_mdwe and not mm.has_mdwe_no_inherit
    assert mm.def_flags is not None and mm.def_flags & VM_LOCKED
    exe = os.stat(f"/proc/{state.pid}/exe")
    assert (mm.exe_dev, mm.exe_ino) == (exe.st_dev, exe.st_ino)
    assert mm.mm_users == len(state.tids())
    assert mm.mm_count in (1, 2)  # a CPU that idles may hold on to the last mm it ran
    assert mm.membarrier_state
    assert mm.aio_contexts == 1
    assert mm.ldt is not None
    said = bytes.fromhex(state.said["ldt"][0][0])
    assert mm.ldt.ljust(len(said), b"\0") == said
    key = state.number("pkey")
    if key >= 0:
        assert mm.pkey_allocation_map is not None and mm.pkey_allocation_map & 1 << key


def test_areas_are_those_of_proc_maps(observer: BpfObserver, mm: MmView, state: State) -> None:
    areas = observer.observe_areas(state.pid)
    lines = Path(f"/proc/{state.pid}/maps").read_text().splitlines()
    expected = [line for line in lines if "[vsyscall]" not in line]
    assert mm.map_count == len(expected) == len(areas)
    for area, line in zip(areas, expected, strict=True):
        bounds, rights, offset, device, ino, *name = line.split(None, 5)
        assert bounds == f"{area.start:08x}-{area.end:08x}"
        letters = "".join(c if area.flags & 1 << n else "-" for n, c in enumerate("rwx"))
        assert rights == letters + ("s" if area.flags & 8 else "p"), line
        assert area.ino == int(ino), line
        assert f"{os.major(area.dev):02x}:{os.minor(area.dev):02x}" == device, line
        if area.file:
            assert area.pgoff * os.sysconf("SC_PAGESIZE") == int(offset, 16), line
        if name and name[0] in {"[vdso]", "[vvar]"}:
            assert area.vm_ops == "special_mapping_vmops"
        assert not area.has_userfaultfd and not area.has_policy
    stack = next(area for area in areas if area.start <= mm.start_stack < area.end)
    assert stack.has_anon_vma


def test_many_areas(observer: BpfObserver) -> None:
    """More than one read's worth: the kernel's iterator then does not end by itself."""
    page = mmap.PAGESIZE
    with mmap.mmap(-1, MANY_AREAS * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        handle = ctypes.c_char.from_buffer(memory)
        base = ctypes.addressof(handle)
        libc = ctypes.CDLL(None, use_errno=True)
        for n in range(0, MANY_AREAS, 2):
            assert libc.mprotect(ctypes.c_void_p(base + n * page), page, mmap.PROT_READ) == 0
        areas = observer.observe_areas(os.getpid())
        starts = [area.start for area in areas]
        assert starts == sorted(set(starts))
        inside = [start for start in starts if base <= start < base + MANY_AREAS * page]
        assert inside == [base + n * page for n in range(MANY_AREAS)]
        del handle


def test_member_that_the_kernel_lacks_is_none(observer: BpfObserver, state: State) -> None:
    raw = observer.read_threads(state.pid)
    gaps = observer.gaps
    try:
        observer.gaps = (*gaps, "mm_struct.context.ldt", "signal_struct.is_child_subreaper")
        view = raw.decode()
    finally:
        observer.gaps = gaps
    assert view.mm is not None and view.process is not None
    assert (view.mm.ldt, view.process.is_child_subreaper) == (None, None)
    assert "mm_struct.context.ldt" in view.gaps
    assert raw.decode().mm != view.mm
