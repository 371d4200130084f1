"""Walks the frames of a file: every frame header, every padding byte, in file order.

Reads no payload. What it yields lies inside the file, has a known type and flags, and a length
below the limit of its type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckpt.image.errors import ImageCorruptError, ImageIncompleteError, ImageVersionError
from ckpt.image.format import (
    FRAME,
    MAX_BYTES,
    MAX_FRAMES,
    MAX_OPTIONAL_BYTES,
    PAGES_ALIGN,
    Frame,
    FrameFlag,
    FrameType,
    type_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.image.source import Source

_KNOWN = frozenset(int(frame_type) for frame_type in FrameType)
_LAST = frozenset({int(FrameType.TAIL), int(FrameType.ERROR)})


def walk_frames(source: Source) -> Iterator[Frame]:
    """Yield the frames of `source` up to the tail (or an error frame), which ends the file.

    Raises ImageError at the first frame that breaks a rule.
    """
    offset = 0
    for _ in range(MAX_FRAMES):
        frame = _read_frame(source, offset)
        _check_order(source, frame)
        yield frame
        offset = frame.end
        if frame.type in _LAST:
            return
    what = f"more than {MAX_FRAMES} frames"
    raise ImageCorruptError(what, path=source.path, offset=offset)


def _read_frame(source: Source, offset: int) -> Frame:
    left = source.size - offset
    if left < FRAME.size:
        where = "before" if left == 0 else "inside"
        what = f"incomplete: the file ends {where} a frame header, there is no tail"
        raise ImageIncompleteError(what, path=source.path, offset=source.size)
    frame = Frame._make((*FRAME.unpack(source.read(offset, FRAME.size)), offset))
    _check_type(source, frame)
    if frame.end > source.size:
        what = f"incomplete: the file ends inside a {type_name(frame.type)} frame"
        raise ImageIncompleteError(what, path=source.path, offset=source.size)
    padding = frame.end - frame.payload_end
    if padding and any(source.read(frame.payload_end, padding)):
        what = f"bytes after the {type_name(frame.type)} frame are not zero"
        raise ImageCorruptError(what, path=source.path, offset=frame.payload_end)
    return frame


def _check_type(source: Source, frame: Frame) -> None:
    limit = MAX_BYTES[FrameType(frame.type)] if frame.type in _KNOWN else MAX_OPTIONAL_BYTES
    if frame.offset == 0 and frame.type not in (FrameType.HEADER, FrameType.ERROR):
        raise ImageCorruptError("not a ckpt-bpf image", path=source.path, offset=0)
    name = type_name(frame.type)
    if frame.type in _KNOWN and frame.flags:
        what = f"{name} frame with flags {frame.flags:#x}, which this program does not know"
        raise ImageVersionError(what, path=source.path, offset=frame.offset)
    if frame.type not in _KNOWN and frame.flags != FrameFlag.OPTIONAL:
        what = f"frame type {name} (flags {frame.flags:#x}) is not known and not optional"
        raise ImageVersionError(what, path=source.path, offset=frame.offset)
    if frame.length > limit:
        what = f"{name} frame of {frame.length} bytes, more than {limit}"
        raise ImageCorruptError(what, path=source.path, offset=frame.offset)


def _check_order(source: Source, frame: Frame) -> None:
    if frame.type in _LAST and frame.end != source.size:
        what = f"{source.size - frame.end} bytes after the {type_name(frame.type)}"
        raise ImageCorruptError(what, path=source.path, offset=frame.end)
    if frame.type == FrameType.HEADER and frame.offset:
        raise ImageCorruptError("a second header", path=source.path, offset=frame.offset)
    if frame.type == FrameType.PAGES and frame.payload_offset % PAGES_ALIGN:
        what = "pages do not start at a multiple of 4096"
        raise ImageCorruptError(what, path=source.path, offset=frame.offset)
