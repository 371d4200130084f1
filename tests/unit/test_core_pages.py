"""What is copied of an inode that areas map in parts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ckpt.debug.core_pages import _intersect

Ranges = list[tuple[int, int]]
steps = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), max_size=6)
any_ranges = st.lists(st.tuples(st.integers(0, 25), st.integers(1, 8)), max_size=6)


def numbers(ranges: Ranges) -> list[int]:
    return [number for low, high in ranges for number in range(low, high)]


@given(steps, any_ranges)
def test_each_page_that_is_held_and_mapped_once(
    gaps: list[tuple[int, int]], spans: list[tuple[int, int]]
) -> None:
    """Data lie apart; areas may map the same bytes twice."""
    held: Ranges = []
    at = 0
    for gap, length in gaps:
        held.append((at + gap, at + gap + length))
        at += gap + length
    mapped = sorted((low, low + length) for low, length in spans)
    found = list(_intersect(iter(held), mapped))
    assert numbers(found) == sorted(set(numbers(held)) & set(numbers(mapped)))
    assert all(low < high for low, high in found)
