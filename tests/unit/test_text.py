"""Text from targets and images on its way to a terminal."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt.debug.text import escape, escape_bytes, escape_lines, shorten


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain /usr/bin/ä 漢字 😀", "plain /usr/bin/ä 漢字 😀"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J", "\\x9b2J"),
        ("a\nb\r\t\x00\x7f", "a\\x0ab\\x0d\\x09\\x00\\x7f"),
        ("abc\u202etxt.exe", "abc\\u202etxt.exe"),
        ("\u2066x\u2069\u200f", "\\u2066x\\u2069\\u200f"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
    ],
)
def test_escape(text: str, safe: str) -> None:
    assert escape(text) == safe


def test_bytes_that_are_not_utf8() -> None:
    assert escape_bytes(b"a\xff\x1b\xc3\xa4") == "a\\xff\\x1bä"


def test_lines_keep_line_feeds_only() -> None:
    assert escape_lines("a\nb\x1b\r\n") == "a\nb\\x1b\\x0d\n"


_BAD = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def _bad_characters(text: str) -> list[str]:
    return [c for c in text if unicodedata.category(c) in _BAD]


def test_no_control_or_format_character_is_left() -> None:
    safe = escape("".join(map(chr, range(sys.maxunicode + 1))))
    assert _bad_characters(safe) == []
    safe.encode("utf-8")


@given(st.binary())
def test_bytes_always_print(data: bytes) -> None:
    assert _bad_characters(escape_bytes(data)) == []


@given(st.text(), st.integers(3, 40))
def test_shorten(text: str, width: int) -> None:
    short = shorten(text, width)
    assert len(short) <= width
    assert short == escape(text) or short.endswith("...")
