"""The extended state of a thread: the XSAVE area that NT_X86_XSTATE transfers.

Owns the area's format: what is in it, whether this CPU can hold it, and its translation between
CPUs that place components differently (AMD puts PKRU where Intel has AVX-512). The area is in the
standard, not the compacted, format, and untrusted when it comes from an image: everything for
which PTRACE_SETREGSET would answer EINVAL is found here first.

Sources: Intel SDM vol. 1 ch. 13; arch/x86/kernel/fpu/xstate.c and regset.c, Linux 6.x.
"""

import functools
from enum import IntFlag
from typing import Final

import msgspec

from ckpt.arch.x86_64 import cpuid
from ckpt.arch.x86_64.regs import U64
from ckpt.errors import HostError

NT_X86_XSTATE: Final = 0x202
LEGACY_SIZE: Final = 512
HEADER_SIZE: Final = 64
EXTENDED_OFFSET: Final = LEGACY_SIZE + HEADER_SIZE
MAX_AREA_SIZE: Final = 64 * 1024
MXCSR_OFFSET: Final = 24
MXCSR_MASK_OFFSET: Final = 28
SW_RESERVED_OFFSET: Final = 464
SW_RESERVED_SIZE: Final = 48
MXCSR_DEFAULT: Final = 0x1F80
_XSTATE_BV: Final = slice(512, 520)
_XCOMP_BV: Final = slice(520, 528)
_HEADER_RESERVED: Final = slice(528, 576)
_CPUID_XSAVE: Final = 0xD
_FIRST_EXTENDED: Final = 2
_LAST_FEATURE: Final = 62


class Feature(IntFlag):
    """Bits of XCR0 and XSTATE_BV: enum xfeature of arch/x86/include/asm/fpu/types.h."""

    X87 = 1 << 0
    SSE = 1 << 1
    AVX = 1 << 2
    BNDREGS = 1 << 3
    BNDCSR = 1 << 4
    AVX512_OPMASK = 1 << 5
    AVX512_ZMM_HI256 = 1 << 6
    AVX512_HI16_ZMM = 1 << 7
    PKRU = 1 << 9
    AMX_TILECFG = 1 << 17
    AMX_TILEDATA = 1 << 18
    APX = 1 << 19


_USES_MXCSR: Final = Feature.X87 | Feature.SSE | Feature.AVX
# A process must ask for these with ARCH_REQ_XCOMP_PERM before a thread of it may hold them.
PERMISSION_FEATURES: Final = Feature.AMX_TILEDATA


class Component(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where one component beyond the legacy area lies, in the standard format."""

    number: int
    offset: int
    size_bytes: int


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine's XSAVE area. The image's header holds that of the machine it was made on."""

    features: U64
    """XCR0: what the kernel has enabled."""
    size_bytes: int
    mxcsr_mask: int
    components: tuple[Component, ...]


@functools.cache
def read_host_layout() -> Layout:
    """Read this machine's layout.

    Raises:
        HostError: the CPU has no XSAVE, or the kernel does not use it.
    """
    if not cpuid.has_xsave():
        raise HostError("this CPU or kernel has no XSAVE", hint="xsave may be off by noxsave")
    features = cpuid.read_xcr0()
    components = []
    for number in range(_FIRST_EXTENDED, _LAST_FEATURE + 1):
        if features >> number & 1:
            leaf = cpuid.read_cpuid(_CPUID_XSAVE, number)
            components.append(Component(number, leaf.ebx, leaf.eax))
    size = max((c.offset + c.size_bytes for c in components), default=EXTENDED_OFFSET)
    return Layout(features, size, cpuid.read_mxcsr_mask(), tuple(components))


def parse_features(area: bytes) -> Feature:
    """Return XSTATE_BV: the components that are not in their initial state."""
    return Feature(int.from_bytes(area[_XSTATE_BV], "little"))


def parse_enabled_features(area: bytes) -> Feature:
    """Return XCR0 as the kernel stored it in the area it gave us (sw_reserved)."""
    return Feature(int.from_bytes(area[SW_RESERVED_OFFSET : SW_RESERVED_OFFSET + 8], "little"))


def parse_mxcsr(area: bytes) -> int:
    """Return the SSE control and status register."""
    return int.from_bytes(area[MXCSR_OFFSET : MXCSR_OFFSET + 4], "little")


def name_features(features: int) -> str:
    """Name features for people: ``X87, SSE, AVX``; unknown ones by their number."""
    names = []
    for number in range(features.bit_length()):
        bit = 1 << number
        if features & bit:
            names.append(Feature(bit).name or f"component {number}")
    return ", ".join(names)


def check_layout(layout: Layout) -> list[str]:
    """List what is wrong with a layout from an image."""
    if not EXTENDED_OFFSET <= layout.size_bytes <= MAX_AREA_SIZE:
        return [f"xsave area of {layout.size_bytes} bytes"]
    problems, end, seen = [], EXTENDED_OFFSET, 0
    for part in sorted(layout.components, key=lambda part: part.offset):
        if not _FIRST_EXTENDED <= part.number <= _LAST_FEATURE or seen >> part.number & 1:
            problems.append(f"xsave component {part.number} twice or unknown")
            continue
        seen |= 1 << part.number
        if part.size_bytes <= 0 or part.offset < end:
            problems.append(f"xsave component {part.number} overlaps another")
        end = max(end, part.offset + part.size_bytes)
    if end > layout.size_bytes:
        problems.append(f"xsave components end at {end}, the area at {layout.size_bytes}")
    if seen != layout.features & ~3:
        problems.append(f"xsave features {layout.features:#x} do not match the components")
    return problems


def check_area(area: bytes, layout: Layout) -> list[str]:
    """List what makes an area invalid for the layout (a sound one) that it was made with."""
    if len(area) != layout.size_bytes:
        return [f"xsave area has {len(area)} bytes, not {layout.size_bytes}"]
    problems = []
    used = parse_features(area)
    if used & ~layout.features:
        problems.append(f"XSTATE_BV {int(used):#x} has bits that the machine did not have")
    if any(area[_XCOMP_BV]):
        problems.append("XCOMP_BV is not 0: compacted format")
    if any(area[_HEADER_RESERVED]):
        problems.append("reserved bytes of the xsave header are not 0")
    return problems + _check_mxcsr(area, layout.mxcsr_mask)


def check_fits_host(area: bytes, layout: Layout, host: Layout) -> list[str]:
    """List the components in use that this CPU or kernel cannot hold.

    Components that the image's machine had and the thread did not use do not matter.
    """
    used = parse_features(area)
    lacking = used & ~host.features
    problems = []
    if lacking:
        names = name_features(lacking)
        problems.append(f"the thread uses {names}, which this CPU or kernel lacks")
    ours = {part.number: part for part in host.components}
    for part in _used_components(used & host.features, layout):
        size = ours[part.number].size_bytes
        if size != part.size_bytes:
            name = name_features(1 << part.number)
            problems.append(f"{name} has {part.size_bytes} bytes in the image, {size} here")
    return problems + _check_mxcsr(area, host.mxcsr_mask)


def convert_area(area: bytes, layout: Layout, host: Layout) -> bytes:
    """Rebuild a checked area in the host's layout, component by component."""
    if layout == host:
        return area
    used = parse_features(area)
    room = bytearray(host.size_bytes)
    room[:SW_RESERVED_OFFSET] = area[:SW_RESERVED_OFFSET]
    room[MXCSR_MASK_OFFSET : MXCSR_MASK_OFFSET + 4] = host.mxcsr_mask.to_bytes(4, "little")
    room[SW_RESERVED_OFFSET : SW_RESERVED_OFFSET + 8] = host.features.to_bytes(8, "little")
    room[_XSTATE_BV] = int(used).to_bytes(8, "little")
    ours = {part.number: part for part in host.components}
    for part in _used_components(used, layout):
        to = ours[part.number].offset
        room[to : to + part.size_bytes] = area[part.offset : part.offset + part.size_bytes]
    return bytes(room)


def split_area(area: bytes, layout: Layout) -> dict[str, bytes]:
    """Take a sound area apart into the components in use, by name, to show and to compare.

    Legacy components are always in it: their bytes hold the initial state when unused. Of the
    others the initial state is all zeros, and whether such a one counts as in use is chance.
    """
    parts = {
        "X87": area[:MXCSR_OFFSET] + area[32:160],
        "MXCSR": area[MXCSR_OFFSET : MXCSR_OFFSET + 4],
        "SSE": area[160:416],
    }
    for part in _used_components(parse_features(area), layout):
        content = area[part.offset : part.offset + part.size_bytes]
        if any(content):
            parts[name_features(1 << part.number)] = content
    return parts


def find_permissions(area: bytes) -> list[int]:
    """List the feature numbers that ARCH_REQ_XCOMP_PERM must be called with before loading."""
    needed = parse_features(area) & PERMISSION_FEATURES
    return [number for number in range(needed.bit_length()) if needed >> number & 1]


def _used_components(used: int, layout: Layout) -> list[Component]:
    return [part for part in layout.components if used >> part.number & 1]


def _check_mxcsr(area: bytes, mask: int) -> list[str]:
    """Check MXCSR as the kernel does: only when a component that uses it is in use."""
    mxcsr = parse_mxcsr(area)
    if parse_features(area) & _USES_MXCSR and mxcsr & ~mask:
        return [f"mxcsr {mxcsr:#x} has bits outside of {mask:#x}"]
    return []
