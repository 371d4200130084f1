"""Everything that no other kind claims: refused, each by name, with what to do about it."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING, Final

from ckpt.errors import Finding
from ckpt.objects.file_kinds.common import FileRecord, OpenFile, Opening, Table
from ckpt.objects.file_kinds.streams import is_terminal
from ckpt.objects.file_kinds.unix_peers import TCP_LISTEN, copy_socket, unix_sockets

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckpt.objects.base import Builder, Records

RECORDS: tuple[type[FileRecord], ...] = ()

SO_DOMAIN: Final = 39
_CLOSE: Final = "let the program close it before the snapshot"
_BY_FOPS: Final = {
    "inotify_fops": "inotify instance",
    "fanotify_fops": "fanotify group",
    "io_uring_fops": "io_uring",
    "userfaultfd_fops": "userfaultfd",
    "userfaultfd_dev_fops": "/dev/userfaultfd",
    "pidfs_file_operations": "pidfd",
    "pidfd_fops": "pidfd",
    "perf_fops": "perf event",
    "bpf_map_fops": "BPF map",
    "bpf_prog_fops": "BPF program",
    "bpf_link_fops": "BPF link",
    "bpf_link_fops_poll": "BPF link",
    "btf_fops": "BTF object",
    "bpf_iter_fops": "BPF iterator",
    "ns_file_operations": "namespace",
    "seccomp_notify_ops": "seccomp notifier",
    "landlock_ruleset_fops": "landlock ruleset",
    "mqueue_file_operations": "POSIX message queue",
    "hugetlbfs_file_operations": "hugetlbfs file or huge memfd",
    "secretmem_fops": "secret memory",
    "fscontext_fops": "file system context",
    "ptmx_fops": "pseudo-terminal master",
    "kvm_chardev_ops": "/dev/kvm",
    "kvm_vm_fops": "KVM virtual machine",
    "kvm_vcpu_fops": "KVM virtual CPU",
    "tun_fops": "tun/tap device",
    "fuse_dev_operations": "/dev/fuse",
    "dma_buf_fops": "DMA buffer",
    "sync_file_fops": "sync file",
    "drm_syncobj_file_fops": "DRM sync object",
}
"""Names of struct file_operations, Linux 6.18."""
_BY_FILE_SYSTEM: Final = {
    "pidfs": "pidfd",
    "nsfs": "namespace",
    "mqueue": "POSIX message queue",
    "hugetlbfs": "hugetlbfs file or huge memfd",
    "secretmem": "secret memory",
}
"""Where there is no symbol: without BPF."""
_HINTS: Final = {
    "inotify instance": "stop watching files before the snapshot",
    "pseudo-terminal master": "snapshot the program inside the terminal, not the emulator",
    "io_uring": "run the program with io_uring turned off",
}
_PTMX: Final = os.makedev(5, 2)


def claims(file: OpenFile, table: Table) -> bool:
    """Claim what is left."""
    del file, table
    return True


def survey(files: Sequence[OpenFile], table: Table) -> Iterable[Finding]:
    """Refuse each."""
    for file in files:
        what, hint = name_file(file, table)
        yield Finding(table.where(file), f"{what}: not supported", hint)


def capture(files: Sequence[OpenFile], table: Table) -> Iterable[FileRecord]:
    """Record nothing: survey has refused them."""
    del files, table
    return ()


def plan(records: Records, build: Builder) -> Iterable[Opening]:
    """Plan nothing: there are no records."""
    del records, build
    return ()


def name_file(file: OpenFile, table: Table) -> tuple[str, str]:
    """Return what a file is, and what to do about it."""
    view = file.view
    if file.is_socket:
        return name_socket(file, table)
    known = _BY_FOPS.get(view.f_op) or _BY_FILE_SYSTEM.get(view.fs_type)
    if known is None and view.anon_name:
        known = view.anon_name.strip("[]")
    if known is not None:
        return known, _HINTS.get(known, _CLOSE)
    described = table.describe(file)
    if stat.S_ISCHR(view.mode):
        if view.rdev == _PTMX:
            return "pseudo-terminal master", _HINTS["pseudo-terminal master"]
        if is_terminal(file):
            return f"another terminal than its own, {described}", _CLOSE
        return f"device {os.major(view.rdev)}:{os.minor(view.rdev)} {described}", _CLOSE
    if stat.S_ISBLK(view.mode):
        return f"block device {described}", _CLOSE
    return f"file {described}", _CLOSE


def name_socket(file: OpenFile, table: Table) -> tuple[str, str]:
    """Return family and type of a socket, and for unix ones what is the matter with it."""
    with copy_socket(file, table) as sock:
        family = _name(socket.AddressFamily, sock.getsockopt(socket.SOL_SOCKET, SO_DOMAIN))
        kind = _name(socket.SocketKind, sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE))
    named = f"socket {family} {kind.removeprefix('SOCK_').lower()}"
    found = unix_sockets(table).get(file.view.ino)
    if found is None:
        return named, "close the connection before the snapshot"
    if found.state == TCP_LISTEN:
        return f"{named}, listening", _CLOSE
    if found.peer is None:
        return f"{named}, not connected", _CLOSE
    if found.is_named:
        return f"{named}, bound to a name", _CLOSE
    return f"{named}, connected to somebody outside", "close the connection before the snapshot"


def _name(numbers: type[socket.AddressFamily] | type[socket.SocketKind], value: int) -> str:
    try:
        return numbers(value).name
    except ValueError:
        return str(value)
