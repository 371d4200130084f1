"""Segment descriptors: the program's form, the CPU's form, and what the kernel refuses."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt.arch.x86_64 import tls
from ckpt.arch.x86_64.tls import UserDesc

BITS = st.booleans()
U32 = st.integers(0, (1 << 32) - 1)
DESCS = st.builds(
    UserDesc,
    entry_number=U32,
    base_addr=U32,
    limit=st.integers(0, 0xFFFFF),
    seg_32bit=BITS,
    contents=st.integers(0, 3),
    read_exec_only=BITS,
    limit_in_pages=BITS,
    seg_not_present=BITS,
    useable=BITS,
    lm=BITS,
)
FLAT = UserDesc(12, 0, 0xFFFFF, seg_32bit=True, limit_in_pages=True, useable=True)


@given(DESCS)
def test_user_desc_round_trip(desc: UserDesc) -> None:
    data = tls.encode_user_desc(desc)
    assert len(data) == 16
    assert tls.parse_user_desc(data) == desc
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(desc), type=UserDesc) == desc


@given(DESCS)
def test_descriptor_round_trip_but_for_long_mode(desc: UserDesc) -> None:
    raw = tls.encode_descriptor(desc)
    short = msgspec.structs.replace(desc, lm=False)
    assert tls.parse_descriptor(raw, desc.entry_number) == short


def test_known_descriptor() -> None:
    """The flat writable data segment of DPL 3, as in every x86 manual."""
    assert tls.encode_descriptor(FLAT)[::-1].hex() == "00dff3000000ffff"
    assert tls.encode_descriptor(msgspec.structs.replace(FLAT, useable=False))[::-1].hex() == (
        "00cff3000000ffff"
    )


def test_ldt_leaves_unused_entries_out() -> None:
    raw = bytes(16) + tls.encode_descriptor(FLAT) + bytes(8)
    assert tls.parse_ldt(raw) == [msgspec.structs.replace(FLAT, entry_number=2)]
    assert tls.parse_ldt(raw + b"\x01\x02") == tls.parse_ldt(raw)


def test_empty_forms() -> None:
    assert tls.empty_desc(13).is_empty
    assert UserDesc(13).is_empty
    assert not FLAT.is_empty
    # What PTRACE_GET_THREAD_AREA answers for an entry that was never set.
    assert tls.parse_descriptor(bytes(8), 12) == tls.empty_desc(12)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"entry_number": 11}, "12 to 14"),
        ({"entry_number": 15}, "12 to 14"),
        ({"seg_32bit": False}, "32-bit"),
        ({"contents": 2}, "32-bit"),
        ({"seg_not_present": True}, "32-bit"),
    ],
)
def test_tls_entries_the_kernel_refuses(changes: dict[str, int], problem: str) -> None:
    assert tls.check_tls(FLAT) == []
    assert tls.check_tls(tls.empty_desc(14)) == []
    (text,) = tls.check_tls(msgspec.structs.replace(FLAT, **changes))
    assert problem in text


def test_ldt_entries_the_kernel_refuses() -> None:
    code = msgspec.structs.replace(FLAT, entry_number=3, contents=2)
    assert tls.check_ldt(code) == []
    assert tls.check_ldt(msgspec.structs.replace(code, entry_number=8192))
    assert tls.check_ldt(msgspec.structs.replace(code, contents=3))
    assert tls.check_ldt(msgspec.structs.replace(code, contents=3, seg_not_present=True)) == []
