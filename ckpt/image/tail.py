"""The tail: proof that an image is whole, and the index of its pages.

u64 total length of the file, u64 digest (xxh3-64 over the headers of all frames before the tail),
u64 number of counts, u64 number of page objects, u64 number of extents; then
counts (u64 frame type, u64 frames), page objects (u64 objref, u64 file offset of the payload,
u64 length, u64 number of extents), and the extents (u64 start, u64 length) of all, in that order.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.image.extents import from_little_endian, to_little_endian
from ckpt.image.format import FRAME, padding_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FIXED: Final = struct.Struct("<5Q")
_COUNT: Final = struct.Struct("<2Q")
_OBJECT: Final = struct.Struct("<4Q")
_EXTENT_BYTES: Final = 16
_MAX_COUNTS: Final = 64


class PageObject(NamedTuple):
    """The pages of one memory object."""

    ref: int
    """The objref of the mm or shared object."""
    file_offset: int
    """Of the first byte of the first extent; the extents' bytes follow each other without gap."""
    length_bytes: int
    extents: array[int]
    """Flat (start, length_bytes) pairs; see `ckpt.image.extents`."""


class Tail(NamedTuple):
    """The last frame of an image."""

    total_length: int
    digest: int
    counts: Mapping[int, int]
    """Frame type -> frames before the tail."""
    objects: Sequence[PageObject]


def build_tail(
    offset: int, digest: int, counts: Mapping[int, int], objects: Sequence[PageObject]
) -> list[bytes | array[int]]:
    """Return the payload of a tail frame at `offset`, in pieces so that extents are not copied."""
    extents = sum(len(item.extents) // 2 for item in objects)
    length = _payload_bytes(len(counts), len(objects), extents)
    total_length = offset + FRAME.size + length + padding_bytes(length)
    pieces = [_FIXED.pack(total_length, digest, len(counts), len(objects), extents)]
    pieces += [_COUNT.pack(*item) for item in sorted(counts.items())]
    pieces += [
        _OBJECT.pack(item.ref, item.file_offset, item.length_bytes, len(item.extents) // 2)
        for item in objects
    ]
    return [b"".join(pieces), *(to_little_endian(item.extents) for item in objects)]


def parse_tail(payload: memoryview, pages_frames: int) -> Tail:
    """Return the tail in `payload` of an image that has `pages_frames` pages frames.

    Raises ValueError, which says what is wrong with the structure.
    """
    if len(payload) < _FIXED.size:
        raise ValueError("tail is too short")
    total_length, digest, n_counts, n_objects, n_extents = _FIXED.unpack_from(payload)
    if len(payload) != _payload_bytes(n_counts, n_objects, n_extents):
        raise ValueError("tail does not have the length that its numbers say")
    if n_objects != pages_frames or n_counts > _MAX_COUNTS:
        raise ValueError(f"tail names {n_objects} page objects, the image has {pages_frames}")
    objects_at = _FIXED.size + n_counts * _COUNT.size
    extents_at = objects_at + n_objects * _OBJECT.size
    pairs = list(_COUNT.iter_unpack(payload[_FIXED.size : objects_at]))
    if pairs != sorted(set(pairs)) or len(dict(pairs)) != len(pairs):
        raise ValueError("counts of the tail are not in order")
    objects = _parse_objects(payload[objects_at:extents_at], payload[extents_at:])
    return Tail(total_length, digest, dict(pairs), objects)


def _payload_bytes(n_counts: int, n_objects: int, n_extents: int) -> int:
    return (
        _FIXED.size + n_counts * _COUNT.size + n_objects * _OBJECT.size + n_extents * _EXTENT_BYTES
    )


def _parse_objects(entries: memoryview, extents: memoryview) -> list[PageObject]:
    objects = []
    start = 0
    seen = set()
    for ref, file_offset, length, n_extents in _OBJECT.iter_unpack(entries):
        end = start + n_extents * _EXTENT_BYTES
        if end > len(extents):
            raise ValueError(f"index of page object {ref} reaches beyond the tail")
        if ref in seen:
            raise ValueError(f"page object {ref} is there twice")
        seen.add(ref)
        part = from_little_endian(extents[start:end])
        objects.append(PageObject(ref, file_offset, length, part))
        start = end
    if start != len(extents):
        raise ValueError("extents that belong to no page object")
    return objects
