"""XSAVE areas: synthetic ones of other machines, and this machine's own layout."""

import random
import struct
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt.arch.x86_64 import cpuid
from ckpt.arch.x86_64 import xstate as x
from ckpt.arch.x86_64.xstate import Component, Feature, Layout

AVX = Component(2, 576, 256)
# Offsets as CPUID gives them: an Intel server with AMX, an Intel one without, AMD Zen 3 with PKU.
INTEL_AMX = Layout(
    0x602E7,
    11008,
    0xFFFF,
    (
        AVX,
        Component(5, 1088, 64),
        Component(6, 1152, 512),
        Component(7, 1664, 1024),
        Component(9, 2688, 8),
        Component(17, 2752, 64),
        Component(18, 2816, 8192),
    ),
)
INTEL = Layout(0x2E7, 2696, 0xFFFF, INTEL_AMX.components[:5])
AMD_PKU = Layout(0x207, 840, 0x2FFFF, (AVX, Component(9, 832, 8)))
AMD = Layout(0x7, 832, 0x2FFFF, (AVX,))
LAYOUTS = [INTEL_AMX, INTEL, AMD_PKU, AMD]
NAMES = ["intel-amx", "intel", "amd-pku", "amd"]


def make_area(layout: Layout, used: int, seed: int = 1, mxcsr: int = x.MXCSR_DEFAULT) -> bytes:
    noise = random.Random(seed)
    area = bytearray(layout.size_bytes)
    area[:416] = noise.randbytes(416)
    struct.pack_into("<II", area, x.MXCSR_OFFSET, mxcsr, layout.mxcsr_mask)
    struct.pack_into("<Q", area, x.SW_RESERVED_OFFSET, layout.features)
    struct.pack_into("<Q", area, 512, used)
    for part in layout.components:
        if used >> part.number & 1:
            area[part.offset : part.offset + part.size_bytes] = noise.randbytes(part.size_bytes)
    return bytes(area)


@pytest.mark.parametrize("layout", LAYOUTS, ids=NAMES)
def test_layouts_and_full_areas_are_sound(layout: Layout) -> None:
    area = make_area(layout, layout.features)
    assert x.check_layout(layout) == []
    assert x.check_area(area, layout) == []
    assert x.check_fits_host(area, layout, layout) == []
    assert x.convert_area(area, layout, layout) == area
    assert x.parse_features(area) == x.parse_enabled_features(area) == layout.features
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(layout), type=Layout) == layout


def test_only_components_in_use_matter() -> None:
    small = make_area(INTEL_AMX, Feature.X87 | Feature.SSE | Feature.AVX)
    assert x.check_fits_host(small, INTEL_AMX, AMD) == []
    used = Feature.AVX | Feature.AVX512_ZMM_HI256 | Feature.PKRU
    problems = x.check_fits_host(make_area(INTEL_AMX, used), INTEL_AMX, AMD)
    assert problems == ["the thread uses AVX512_ZMM_HI256, PKRU, which this CPU or kernel lacks"]


def test_components_move_to_where_the_host_has_them() -> None:
    used = Feature.SSE | Feature.AVX | Feature.PKRU
    area = make_area(INTEL, used)
    assert x.check_fits_host(area, INTEL, AMD_PKU) == []
    moved = x.convert_area(area, INTEL, AMD_PKU)
    assert len(moved) == AMD_PKU.size_bytes
    assert moved[832:840] == area[2688:2696]
    assert x.check_area(moved, AMD_PKU) == []
    assert x.parse_enabled_features(moved) == AMD_PKU.features
    assert x.split_area(moved, AMD_PKU) == x.split_area(area, INTEL)


@given(
    st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), st.integers(0, 0x602E7), st.integers(0, 99)
)
def test_conversion_there_and_back(one: Layout, two: Layout, used: int, seed: int) -> None:
    used &= one.features & two.features
    area = make_area(one, used, seed)
    assert x.check_fits_host(area, one, two) == []
    there = x.convert_area(area, one, two)
    assert x.check_area(there, two) == []
    assert x.split_area(x.convert_area(there, two, one), one) == x.split_area(area, one)


def test_unused_bytes_of_the_image_do_not_travel() -> None:
    area = bytearray(make_area(INTEL, Feature.X87))
    area[1152:1664] = b"\xff" * 512
    wide = x.convert_area(bytes(area), INTEL, INTEL_AMX)
    assert not any(wide[x.EXTENDED_OFFSET :])


def damage(offset: int, value: int) -> bytes:
    area = bytearray(make_area(INTEL, 7))
    area[offset] = value
    return bytes(area)


@pytest.mark.parametrize(
    ("area", "problem"),
    [
        (make_area(INTEL, 7)[:-1], "has 2695 bytes"),
        (make_area(INTEL, 7) + b"\0", "has 2697 bytes"),
        (b"", "has 0 bytes"),
        (damage(514, 0x04), "XSTATE_BV"),
        (damage(520, 1), "XCOMP_BV"),
        (damage(527, 0x80), "XCOMP_BV"),
        (damage(528, 1), "reserved"),
        (damage(575, 1), "reserved"),
        (make_area(INTEL, 2, mxcsr=0x1_1F80), "mxcsr 0x11f80"),
    ],
)
def test_bad_areas_are_found(area: bytes, problem: str) -> None:
    problems = x.check_area(area, INTEL)
    assert len(problems) == 1
    assert problem in problems[0]


def test_mxcsr_is_checked_where_the_kernel_checks_it() -> None:
    misaligned_mode = make_area(AMD, 3, mxcsr=0x2_1F80)
    assert x.check_area(misaligned_mode, AMD) == []
    assert "mxcsr" in x.check_fits_host(misaligned_mode, AMD, INTEL)[0]
    assert x.check_fits_host(make_area(INTEL, Feature.PKRU, mxcsr=0xFFFF_FFFF), INTEL, INTEL) == []


def test_another_component_size_is_refused() -> None:
    other = msgspec.structs.replace(AMD_PKU, components=(AVX, Component(9, 832, 4)))
    problems = x.check_fits_host(make_area(AMD_PKU, Feature.PKRU), AMD_PKU, other)
    assert problems == ["PKRU has 8 bytes in the image, 4 here"]


@pytest.mark.parametrize(
    "layout",
    [
        Layout(7, 100, 0xFFFF, (AVX,)),
        Layout(7, 1 << 30, 0xFFFF, (AVX,)),
        Layout(7, 600, 0xFFFF, (AVX,)),
        Layout(7, 832, 0xFFFF, ()),
        Layout(7, 832, 0xFFFF, (AVX, AVX)),
        Layout(7, 832, 0xFFFF, (Component(2, 0, 256),)),
        Layout(7, 832, 0xFFFF, (Component(2, 576, -1),)),
        Layout(0x27, 900, 0xFFFF, (AVX, Component(5, 700, 64))),
        Layout(7, 832, 0xFFFF, (Component(1 << 60, 576, 256),)),
    ],
)
def test_bad_layouts_are_found(layout: Layout) -> None:
    assert x.check_layout(layout)


def test_zero_component_is_its_initial_state() -> None:
    area = bytearray(make_area(AMD, 7))
    area[576:832] = bytes(256)
    unused = bytearray(area)
    unused[512] = 3
    assert x.split_area(bytes(area), AMD) == x.split_area(bytes(unused), AMD)


def test_names_and_permissions() -> None:
    assert x.name_features(Feature.X87 | Feature.AVX | 1 << 30) == "X87, AVX, component 30"
    assert x.find_permissions(make_area(INTEL_AMX, 1 << 18 | 7)) == [18]
    assert x.find_permissions(make_area(INTEL_AMX, 1 << 17 | 7)) == []


needs_xsave = pytest.mark.skipif(
    " xsave " not in Path("/proc/cpuinfo").read_text(), reason="needs a CPU with XSAVE"
)


@needs_xsave
def test_this_machine_is_as_cpuid_says() -> None:
    host = x.read_host_layout()
    assert x.check_layout(host) == []
    assert host.size_bytes == cpuid.read_cpuid(0xD, 0).ebx
    flags = Path("/proc/cpuinfo").read_text().split()
    assert bool(host.features & Feature.AVX) == ("avx" in flags)
    assert bool(host.features & Feature.AVX512_OPMASK) == ("avx512f" in flags)
    assert bool(host.features & Feature.PKRU) == ("ospke" in flags)
    assert host.mxcsr_mask & 0xFFBF == 0xFFBF
