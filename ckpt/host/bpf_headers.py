"""Kernel headers for BCC, made up from the running kernel's BTF.

A BPF program names the members it reads through the macros of ``bpf/read.h``. This module scans the
program's text for them and declares structs with just these members at their true offsets, and the
handful of files that BCC expects of a kernel source tree. A member that the kernel lacks is placed
beyond ``KERNEL_ABSENT``, where the macros skip it, and is named in ``Headers.gaps``.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ckpt.errors import HostError
from ckpt.host.btf import Btf

KERNEL_ABSENT: Final = 1 << 24
"""No kernel struct is this large; an offset from here on means: the member does not exist."""

_COMMENT: Final = re.compile(r"/\*.*?\*/", re.S)
_DEFINE: Final = re.compile(r"^[ \t]*#define(?:[^\n]*\\\n)*[^\n]*$", re.M)
_VALUE: Final = re.compile(
    r"\b(?:READ|READ_AS|LOAD|LOAD_AS|COPY|ADDRESS)\(\s*(\w+)\s*,\s*[&\w.>-]+\s*,\s*(\w+(?:\.\w+)*)"
)
_LAYOUT: Final = re.compile(r"\b(?:OFFSET|MEMBER_BYTES)\(\s*(\w+)\s*,\s*(\w+(?:\.\w+)*)\s*\)")
_PRESENT: Final = re.compile(r"\bPRESENT\(\s*(\w+)\s*,\s*(\w+(?:\.\w+)*)\s*\)")
_BITS: Final = re.compile(r"\b(?:READ|LOAD)_BITS\(\s*(\w+)\s*,\s*[&\w.>-]+\s*,\s*(\w+)\s*\)")
_STRUCT: Final = re.compile(r"\bSTRUCT_BYTES\(\s*(\w+)\s*\)")
_SYMBOL: Final = re.compile(r"\bSYMBOL\(\s*(\w+)\s*\)")


class Uses(NamedTuple):
    """What a program's text asks of the kernel's layouts."""

    members: dict[str, set[str]]
    """Struct (perhaps with ___flavor) to paths."""
    optional: set[tuple[str, str]]
    """Members whose absence the program itself handles."""
    bits: set[tuple[str, str]]
    symbols: list[str]


class Headers(NamedTuple):
    """The synthesized text, and what could not be found."""

    text: str
    gaps: tuple[str, ...]
    symbols: tuple[str, ...]
    """Kernel functions whose addresses are loaded, see ``symbol_marker``."""


def symbol_marker(symbol: str) -> int:
    """Return the 64-bit constant that stands for a symbol's address in a compiled program.

    Markers have nothing in common: of two that differ in few bits the compiler would make one
    masked comparison.
    """
    return int.from_bytes(hashlib.sha256(symbol.encode()).digest()[:8], "little") | 1 << 63


def scan_program(text: str) -> Uses:
    """Collect the members, bit fields and symbols that a program's text names."""
    text = _DEFINE.sub("", _COMMENT.sub("", text))
    members: dict[str, set[str]] = {}
    for pattern in (_VALUE, _LAYOUT, _PRESENT):
        for struct_name, path in pattern.findall(text):
            members.setdefault(struct_name, set()).add(path)
    for struct_name in _STRUCT.findall(text):
        members.setdefault(struct_name, set())
    optional = set(_PRESENT.findall(text))
    return Uses(members, optional, set(_BITS.findall(text)), sorted(set(_SYMBOL.findall(text))))


def build_headers(btf: Btf, uses: Uses) -> Headers:
    """Declare everything in ``uses`` with this kernel's layout."""
    gaps: list[str] = []
    lines = ["#pragma once", "#include <linux/types.h>", f"#define KERNEL_ABSENT {KERNEL_ABSENT}"]
    for struct_name, paths in sorted(uses.members.items()):
        lines += _struct_text(btf, struct_name, paths)
        gaps += _missing(btf, struct_name, paths, uses.optional)
    for struct_name, member in sorted(uses.bits):
        lines += _bits_text(btf, struct_name, member, gaps)
    lines += [f"#define SYMBOL_{name} {symbol_marker(name):#x}ULL" for name in uses.symbols]
    return Headers("\n".join([*lines, _ITERATORS]), tuple(gaps), tuple(uses.symbols))


def _kernel_name(struct_name: str) -> str:
    """Strip the ___flavor, as CO-RE does."""
    return struct_name.split("___", 1)[0]


def _missing(
    btf: Btf, struct_name: str, paths: set[str], optional: set[tuple[str, str]]
) -> Iterator[str]:
    """Name the paths that this kernel lacks and that the program has no other way for."""
    if "___" in struct_name:
        return
    for path in sorted(paths):
        if (struct_name, path) not in optional and btf.locate(struct_name, path) is None:
            yield f"{struct_name}.{path}"


def _struct_text(btf: Btf, struct_name: str, paths: set[str]) -> list[str]:
    """Declare one struct as a union of padded members, so that offsets need no sorting."""
    kernel_name = _kernel_name(struct_name)
    size = btf.struct_size(kernel_name) or 1
    body = _members_text(btf, kernel_name, "", 0, paths)
    return [f"struct {struct_name} {{ union {{ char size_[{size}];", *body, "}; };"]


def _members_text(btf: Btf, struct_name: str, prefix: str, base: int, paths: set[str]) -> list[str]:
    """Declare the members below ``prefix``, which starts ``base`` bytes into the struct."""
    lines = []
    for name in sorted({path.split(".", 1)[0] for path in paths}):
        full = f"{prefix}{name}"
        found = btf.locate(struct_name, full)
        offset = KERNEL_ABSENT if found is None else found.offset_bytes - base
        inner = {path.split(".", 1)[1] for path in paths if path.startswith(f"{name}.")}
        lines.append(f"struct {{ char pad_{name}[{offset}];")
        if inner:
            below = _members_text(btf, struct_name, f"{full}.", base + offset, inner)
            lines += ["struct { union {", *below, f"}}; }} {name};"]
        elif found is None or found.c_type:
            lines.append(f"{'__u64' if found is None else found.c_type} {name};")
        else:
            lines.append(f"char {name}[{found.size_bytes}];")
        lines.append("} __attribute__((packed));")
    return lines


def _bits_text(btf: Btf, struct_name: str, member: str, gaps: list[str]) -> list[str]:
    """Define where a bit field lies; a width of 0 says that there is none."""
    found = btf.locate(struct_name, member)
    if found is None:
        gaps.append(f"{struct_name}.{member}")
    offset, shift, width = (
        (0, 0, 0)
        if found is None
        else (found.offset_bytes, found.offset_bits % 8, found.bits or found.size_bytes * 8)
    )
    name = f"{struct_name}__{member}"
    return [
        f"#define {name}__OFFSET {offset}",
        f"#define {name}__SHIFT {shift}",
        f"#define {name}__WIDTH {width}",
        f"#define {name}__MASK {(1 << width) - 1:#x}u",
    ]


_ITERATORS: Final = """
struct seq_file;
struct file;
struct task_struct;
struct vm_area_struct;
struct bpf_iter_meta { struct seq_file *seq; __u64 session_id; __u64 seq_num; };
struct bpf_iter__task { struct bpf_iter_meta *meta; struct task_struct *task; };
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta; struct task_struct *task; __u32 fd; struct file *file;
} __attribute__((aligned(8)));
struct bpf_iter__task_vma {
	struct bpf_iter_meta *meta; struct task_struct *task; struct vm_area_struct *vma;
};
"""
"""Contexts of the iterators, kernel/bpf/{task_iter,bpf_iter}.c: an ABI of 8-byte fields."""

_TYPES: Final = """#pragma once
typedef unsigned char __u8, u8, uint8_t;
typedef unsigned short __u16, u16, uint16_t, __be16, __le16, __sum16;
typedef unsigned int __u32, u32, uint32_t, __be32, __le32, __wsum;
typedef unsigned long long __u64, u64, uint64_t, __be64, __le64;
typedef signed char __s8, s8, int8_t;
typedef short __s16, s16, int16_t;
typedef int __s32, s32, int32_t, pid_t;
typedef long long __s64, s64, int64_t;
typedef unsigned long uintptr_t, size_t;
typedef _Bool bool;
#define NULL ((void *)0)
#define PAGE_SIZE 4096
#define __bitwise
#define __aligned_u64 __u64 __attribute__((aligned(8)))
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
"""


def write_source_tree(root: Path) -> None:
    """Write the files that BCC insists on finding in a kernel source tree."""
    empty = ("log2.h",)
    empty_uapi = ("bpf.h", "if_packet.h", "if_ether.h", "types.h")
    files = {
        "include/linux/kconfig.h": "#define CONFIG_BPF_SYSCALL 1\n",
        "include/linux/types.h": _TYPES,
        "include/linux/version.h": _version_text(platform.release()),
        "include/uapi/linux/bpf_common.h": "#include <linux/types.h>\n",
        "include/linux/bpf_common.h": "#include <linux/types.h>\n",
        "arch/x86/include/asm/page.h": "",
        **{f"include/linux/{name}": "" for name in empty},
        **{f"include/uapi/linux/{name}": "" for name in empty_uapi},
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _version_text(release: str) -> str:
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    if not found:
        raise HostError(f"not a kernel release: {release!r}", where="uname")
    major, minor, patch = (int(part or 0) for part in found.groups())
    code = major << 16 | minor << 8 | min(patch, 255)
    return (
        f"#define LINUX_VERSION_CODE {code}\n"
        "#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))\n"
    )
