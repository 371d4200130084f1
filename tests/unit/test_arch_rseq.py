"""Restartable sequences: the kernel's abort rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt.arch.x86_64.rseq import (
    RSEQ,
    RseqCs,
    check_rseq_cs,
    encode_rseq_cs,
    find_abort_ip,
    parse_rseq,
    parse_rseq_cs,
)

SECTION = RseqCs(0, 0, start_ip=0x401000, post_commit_offset=0x20, abort_ip=0x402000)
SIGNATURE = 0x53053053
BEFORE = SIGNATURE.to_bytes(4, "little")


@pytest.mark.parametrize(
    ("rip", "goes_on"),
    [
        (0x400FFF, None),
        (0x401000, 0x402000),
        (0x40101F, 0x402000),
        (0x401020, None),
        (0x402000, None),
        (0, None),
    ],
)
def test_abort_rule(rip: int, goes_on: int | None) -> None:
    assert find_abort_ip(rip, SECTION) == goes_on


@given(st.integers(0, (1 << 47) - 1), st.integers(0, 1 << 20), st.integers(0, (1 << 47) - 1))
def test_abort_is_membership(start: int, length: int, rip: int) -> None:
    section = RseqCs(0, 0, start, length, 1)
    assert (find_abort_ip(rip, section) == 1) == (start <= rip < start + length)


def test_sound_section() -> None:
    assert check_rseq_cs(SECTION, SIGNATURE, BEFORE) == []


@pytest.mark.parametrize(
    "section",
    [
        SECTION._replace(version=1),
        SECTION._replace(flags=1),
        SECTION._replace(start_ip=1 << 63),
        SECTION._replace(post_commit_offset=1 << 63),
        SECTION._replace(abort_ip=1 << 63),
        SECTION._replace(abort_ip=0x401010),
    ],
)
def test_sections_that_kill(section: RseqCs) -> None:
    assert check_rseq_cs(section, SIGNATURE, BEFORE)


def test_signature_is_checked() -> None:
    assert "signature" in check_rseq_cs(SECTION, SIGNATURE, b"\0\0\0\0")[0]
    assert check_rseq_cs(SECTION, SIGNATURE, b"")


def test_layouts() -> None:
    assert parse_rseq_cs(encode_rseq_cs(SECTION)) == SECTION
    data = RSEQ.pack(1, 2, 0x7000, 3, 4, 5) + bytes(8)
    assert parse_rseq(data) == (1, 2, 0x7000, 3, 4, 5)
