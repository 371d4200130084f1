"""General registers: encoding and what is refused."""

import ctypes

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt.arch.x86_64 import regs as r

SOUND = r.X86Regs(
    **dict.fromkeys(r.REG_NAMES, 0)
    | {"cs": r.USER_CS, "ss": r.USER_DS, "rip": 0x401000, "rsp": 0x7FFC_0000_0000, "eflags": 0x246}
)


@given(st.binary(min_size=r.REGS_SIZE, max_size=r.REGS_SIZE))
def test_bytes_round_trip(data: bytes) -> None:
    regs = r.parse_regs(data)
    assert r.encode_regs(regs) == data
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(regs), type=r.X86Regs) == regs
    structure = r.UserRegs.from_buffer_copy(data)
    assert all(getattr(structure, name) == getattr(regs, name) for name in r.REG_NAMES)


def test_size() -> None:
    assert ctypes.sizeof(r.UserRegs) == r.REGS_SIZE == 216


def test_sound_registers_pass() -> None:
    assert r.check_regs(SOUND) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rip", 0xFFFF_FFFF_8100_0000),
        ("rsp", 1 << 63),
        ("fs_base", r.ADDRESS_END_5LEVEL),
        ("gs_base", (1 << 64) - 1),
        ("cs", 0x10),
        ("cs", 0),
        ("ss", 0x18),
        ("ds", 0x10033),
        ("gs", 0x08),
        ("eflags", 0x3246),
        ("eflags", 1 << 17 | 0x246),
        ("eflags", 1 << 40),
    ],
)
def test_one_bad_register_is_one_problem(field: str, value: int) -> None:
    problems = r.check_regs(msgspec.structs.replace(SOUND, **{field: value}))
    assert len(problems) == 1
    assert problems[0].startswith(field)


def test_address_end_of_the_host_decides() -> None:
    regs = msgspec.structs.replace(SOUND, rsp=1 << 50)
    assert r.check_regs(regs) == []
    assert len(r.check_regs(regs, r.ADDRESS_END_4LEVEL)) == 1


@pytest.mark.parametrize("changed", [{"rip": -1}, {"extra": 1}, {"rip": "1"}, {"rip": 1.5}])
def test_decoding_is_strict(changed: dict[str, object]) -> None:
    packed = msgspec.msgpack.encode(msgspec.structs.asdict(SOUND) | changed)
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(packed, type=r.X86Regs)


def test_signed() -> None:
    assert r.signed((1 << 64) - 516) == -516
    assert r.signed(5) == 5
