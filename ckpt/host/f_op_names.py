"""Names of ``struct file_operations`` (and ``vm_operations_struct``) tables.

A kernel without CONFIG_KALLSYMS_ALL has no names for data, so a table is known by the functions in
it, which all kernels name. The names are those of the variables in the kernel's source (6.18). A
table that is not listed here is called ``ops:FUNCTION`` after its first known function.
"""

from __future__ import annotations

from typing import Final

BY_RELEASE: Final = {
    "pipe_release": "pipefifo_fops",
    "eventfd_release": "eventfd_fops",
    "ep_eventpoll_release": "eventpoll_fops",
    "timerfd_release": "timerfd_fops",
    "signalfd_release": "signalfd_fops",
    "inotify_release": "inotify_fops",
    "fanotify_release": "fanotify_fops",
    "io_uring_release": "io_uring_fops",
    "userfaultfd_release": "userfaultfd_fops",
    "sock_close": "socket_file_ops",
    "tty_release": "tty_fops",
    "bpf_map_release": "bpf_map_fops",
    "bpf_prog_release": "bpf_prog_fops",
    "bpf_link_release": "bpf_link_fops",
    "bpf_link_release_rcu": "bpf_link_fops",
    "btf_release": "btf_fops",
    "perf_release": "perf_fops",
    "seccomp_notify_release": "seccomp_notify_ops",
    "fscontext_release": "fscontext_fops",
    "mqueue_release": "mqueue_file_operations",
    "kernfs_fop_release": "kernfs_file_fops",
    "kernfs_dir_fop_release": "kernfs_dir_fops",
    "blkdev_release": "def_blk_fops",
    "tun_chr_close": "tun_fops",
    "snd_pcm_release": "snd_pcm_f_ops",
    "evdev_release": "evdev_fops",
    "fuse_dev_release": "fuse_dev_operations",
    "vhost_vsock_dev_release": "vhost_vsock_fops",
    "kvm_vm_release": "kvm_vm_fops",
    "kvm_vcpu_release": "kvm_vcpu_fops",
    "devkmsg_release": "kmsg_fops",
    "proc_reg_release": "proc_reg_file_ops",
    "mem_release": "proc_mem_operations",
    "pidfd_release": "pidfd_fops",
    "dma_buf_file_release": "dma_buf_fops",
    "sync_file_release": "sync_file_fops",
    "posix_clock_release": "posix_clock_file_operations",
}
"""Release functions that belong to one table."""

BY_READ: Final = {
    "read_null": "null_fops",
    "read_iter_null": "null_fops",
    "random_read_iter": "random_fops",
    "urandom_read_iter": "urandom_fops",
    "ext4_file_read_iter": "ext4_file_operations",
    "shmem_file_read_iter": "shmem_file_operations",
    "hugetlbfs_read_iter": "hugetlbfs_file_operations",
    "xfs_file_read_iter": "xfs_file_operations",
    "btrfs_file_read_iter": "btrfs_file_operations",
    "ovl_read_iter": "ovl_file_operations",
    "fuse_file_read_iter": "fuse_file_operations",
    "nfs_file_read": "nfs_file_operations",
    "mqueue_read_file": "mqueue_file_operations",
    "hung_up_tty_read": "hung_up_tty_fops",
    "read_mem": "mem_fops",
    "read_port": "port_fops",
    "uhid_char_read": "uhid_fops",
    "proc_sys_read": "proc_sys_file_operations",
}
"""Functions that read (or read_iter) of one table."""

BY_SHOW_FDINFO: Final = {"pidfd_show_fdinfo": "pidfs_file_operations"}
BY_POLL: Final = {
    "pidfd_poll": "pidfs_file_operations",
    "mqueue_poll_file": "mqueue_file_operations",
}
BY_IOCTL: Final = {"ns_ioctl": "ns_file_operations"}
BY_OPEN: Final = {
    "no_open": "no_open_fops",
    "chrdev_open": "def_chr_fops",
    "proc_reg_open": "proc_reg_file_ops",
}
BY_ITERATE: Final = {
    "ext4_readdir": "ext4_dir_operations",
    "dcache_readdir": "simple_dir_operations",
    "ovl_iterate": "ovl_dir_operations",
    "kernfs_fop_readdir": "kernfs_dir_fops",
    "proc_root_readdir": "proc_root_operations",
    "proc_readdir": "proc_dir_operations",
    "xfs_file_readdir": "xfs_dir_file_operations",
    "btrfs_real_readdir": "btrfs_dir_file_operations",
    "offset_readdir": "simple_offset_dir_operations",
}
EMPTY: Final = "empty_fops"
"""Table of a file opened with O_PATH."""

BY_FAULT: Final = {
    "special_mapping_fault": "special_mapping_vmops",
    "shmem_fault": "shmem_vm_ops",
    "ext4_filemap_fault": "ext4_file_vm_ops",
    "filemap_fault": "generic_file_vm_ops",
    "hugetlb_vm_op_fault": "hugetlb_vm_ops",
    "shm_fault": "shm_vm_ops",
    "secretmem_fault": "secretmem_vm_ops",
    "xfs_filemap_fault": "xfs_file_vm_ops",
    "perf_mmap_fault": "perf_mmap_vmops",
}
"""Page fault functions of areas."""


def name_f_op(
    release: str,
    read_iter: str,
    read: str,
    write: str,
    poll: str,
    open_: str,
    ioctl: str,
    iterate: str,
    show_fdinfo: str,
) -> str:
    """Return a table's name from the names of its functions ("" for a null pointer)."""
    functions = (release, read_iter, read, write, poll, open_, ioctl, iterate, show_fdinfo)
    if not any(functions):
        return EMPTY
    if "read_iter_zero" in (read_iter, read) or read == "read_zero":
        return "full_fops" if write == "write_full" else "zero_fops"
    return (
        BY_READ.get(read_iter)
        or BY_READ.get(read)
        or BY_RELEASE.get(release)
        or BY_ITERATE.get(iterate)
        or BY_SHOW_FDINFO.get(show_fdinfo)
        or BY_POLL.get(poll)
        or BY_IOCTL.get(ioctl)
        or BY_OPEN.get(open_)
        or f"ops:{next(name for name in functions if name)}"
    )


def name_vm_ops(fault: str) -> str:
    """Return the name of an area's operations from that of its fault function."""
    return BY_FAULT.get(fault) or (f"ops:{fault}" if fault else "ops:")
