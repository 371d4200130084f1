"""The bytes of a frame: types, flags, limits, padding, checksum. No I/O.

Every integer is little-endian. A frame is a 24-byte header, a payload, and zeros up to the next
multiple of 8. The checksum is xxh3-64 of the payload without that padding.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

FORMAT_VERSION: Final = 1
MAGIC: Final = b"ckpt-bpf"

FRAME: Final = struct.Struct("<IIQQ")
"""u32 type, u32 flags, u64 length of the payload in bytes, u64 checksum of the payload."""

PAGES_ALIGN: Final = 4096
"""The payload of a pages frame starts at a multiple of this, whatever the target's page size."""

# Limits are checked before anything is allocated, and by the writer too, so that it never writes
# what the reader refuses.
MAX_HEADER_BYTES: Final = PAGES_ALIGN - 3 * FRAME.size
"""The header, a padding frame and the header of the first pages frame share the first 4 KiB."""
MAX_RECORD_BYTES: Final = 256 << 20
MAX_RECORDS_BYTES: Final = 512 << 20
MAX_TAIL_BYTES: Final = 512 << 20
MAX_ERROR_BYTES: Final = 64 << 10
MAX_OPTIONAL_BYTES: Final = 256 << 20
MAX_PADDING_BYTES: Final = PAGES_ALIGN
MAX_PAGES_BYTES: Final = 1 << 47
MAX_FRAMES: Final = 1 << 20


class FrameType(IntEnum):
    """The type of a frame; in a dump of the file each reads as four letters."""

    HEADER = int.from_bytes(b"CKPT", "little")
    RECORD = int.from_bytes(b"RECD", "little")
    PAGES = int.from_bytes(b"PAGE", "little")
    PADDING = int.from_bytes(b"PADD", "little")
    ERROR = int.from_bytes(b"EROR", "little")
    TIMINGS = int.from_bytes(b"TIME", "little")
    """Always optional, so its limit is not in `MAX_BYTES`: see `ckpt.image.timings`."""
    TAIL = int.from_bytes(b"TAIL", "little")


class FrameFlag(IntFlag):
    """Flags of a frame."""

    OPTIONAL = 1
    """A reader that does not know this type may skip the frame. Of known types, TIMINGS has it."""


MAX_BYTES: Final = {
    FrameType.HEADER: MAX_HEADER_BYTES,
    FrameType.RECORD: MAX_RECORD_BYTES,
    FrameType.PAGES: MAX_PAGES_BYTES,
    FrameType.PADDING: MAX_PADDING_BYTES,
    FrameType.ERROR: MAX_ERROR_BYTES,
    FrameType.TAIL: MAX_TAIL_BYTES,
}


class Frame(NamedTuple):
    """One frame header and where in the file it stands."""

    type: int
    flags: int
    length: int
    checksum: int
    offset: int
    """Of the frame header, in bytes from the start of the file."""

    @property
    def payload_offset(self) -> int:
        """Return where the payload starts."""
        return self.offset + FRAME.size


def type_name(frame_type: int) -> str:
    """Return the name of a frame type, in hex if it is not one of ours."""
    try:
        return FrameType(frame_type).name.lower()
    except ValueError:
        return f"{frame_type:#010x}"


def checksum(data: bytes | memoryview) -> int:
    """Return the one checksum of the format, xxh3-64."""
    return xxh3_64_intdigest(data)


def padding_bytes(length: int) -> int:
    """Return the zeros that follow a payload of `length` bytes."""
    return -length % 8


def encode_frame(frame_type: int, payload: bytes, flags: int = 0) -> bytes:
    """Return a whole frame: header, payload, padding."""
    length = len(payload)
    head = FRAME.pack(frame_type, flags, length, checksum(payload))
    return head + payload + bytes(padding_bytes(length))


def encode_gap(gap_bytes: int) -> bytes:
    """Return a padding frame that is `gap_bytes` long in all; nothing for a gap of zero."""
    if gap_bytes == 0:
        return b""
    return encode_frame(FrameType.PADDING, bytes(gap_bytes - FRAME.size))


def gap_before_pages(offset: int) -> int:
    """Return the length of the padding frame at `offset` that aligns the pages frame after it."""
    gap = -(offset + FRAME.size) % PAGES_ALIGN
    return gap + PAGES_ALIGN if 0 < gap < FRAME.size else gap
