"""Areas from /proc/PID/smaps and numa_maps, as `VmaView`s; `vm_ops` cannot be seen there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from ckpt.host.kernel_view import NO_OBJECT, KernelId, VmaView
from ckpt.host.proc_tasks import read_optional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FLAGS: Final = {
    b"rd": 0x1,
    b"wr": 0x2,
    b"ex": 0x4,
    b"sh": 0x8,
    b"mr": 0x10,
    b"mw": 0x20,
    b"me": 0x40,
    b"ms": 0x80,
    b"gd": 0x100,
    b"um": 0x200,
    b"pf": 0x400,
    b"uw": 0x1000,
    b"lo": 0x2000,
    b"io": 0x4000,
    b"sr": 0x8000,
    b"rr": 0x10000,
    b"dc": 0x20000,
    b"de": 0x40000,
    b"ac": 0x100000,
    b"nr": 0x200000,
    b"ht": 0x400000,
    b"sf": 0x800000,
    b"ar": 0x1000000,
    b"wf": 0x2000000,
    b"dd": 0x4000000,
    b"mm": 0x10000000,
    b"hg": 0x20000000,
    b"nh": 0x40000000,
    b"mg": 0x80000000,
}
"""The words of VmFlags (`show_smap_vma_flags`, fs/proc/task_mmu.c) to VM_*, 6.18."""
_USERFAULTFD: Final = 0x200 | 0x1000
_NAME: Final = (b"[anon:", b"[anon_shmem:")


def read_smaps(tgid: int, tid: int) -> tuple[bytes, bytes]:
    """Return smaps and numa_maps of a living thread."""
    folder = f"/proc/{tgid}/task/{tid}/"
    with open(folder + "smaps", "rb") as smaps:
        text = smaps.read()
    return text, read_optional(folder + "numa_maps")


def parse_areas(
    smaps: bytes, numa_maps: bytes, identify: Callable[[object], KernelId]
) -> Iterator[VmaView]:
    """Yield every area, ordered by address."""
    policies = {
        int(line.split(None, 2)[0], 16)
        for line in numa_maps.splitlines()
        if line.split(None, 2)[1] != b"default"
    }
    head, fields = b"", dict[bytes, bytes]()
    for line in smaps.splitlines():
        name, _, value = line.partition(b":")
        if b" " not in name:
            fields[name] = value
        else:
            head, fields = line, {}
        if name == b"VmFlags":
            yield _build_area(head, fields, policies, identify)


def _build_area(
    head: bytes,
    fields: dict[bytes, bytes],
    policies: set[int],
    identify: Callable[[object], KernelId],
) -> VmaView:
    addresses, _, offset, device, inode, *path = head.split(None, 5)
    start, end = (int(part, 16) for part in addresses.split(b"-"))
    major, minor = (int(part, 16) for part in device.split(b":"))
    dev, ino = os.makedev(major, minor), int(inode)
    flags = sum(_FLAGS.get(word, 0) for word in fields[b"VmFlags"].split())
    label = path[0] if path else b""
    anon_name = None
    for prefix in _NAME:
        if label.startswith(prefix):
            anon_name = label[len(prefix) : -1].decode("utf-8", "backslashreplace")
    return VmaView(
        start=start,
        end=end,
        flags=flags,
        pgoff=int(offset, 16) // os.sysconf("SC_PAGE_SIZE"),
        file=identify(("inode", dev, ino)) if ino else NO_OBJECT,
        dev=dev,
        ino=ino,
        vm_ops="",
        anon_name=anon_name,
        has_anon_vma=fields.get(b"Anonymous", b"0").split()[0] != b"0",
        has_policy=start in policies,
        has_userfaultfd=bool(flags & _USERFAULTFD),
    )
