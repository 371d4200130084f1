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

_LIMITS = {int(frame_type): limit for frame_type, limit in MAX_BYTES.items()}
_PAGES = int(FrameType.PAGES)
_LAST = frozenset({int(FrameType.TAIL), int(FrameType.ERROR)})
_FIRST = frozenset({int(FrameType.HEADER), int(FrameType.ERROR)})


def walk_frames(source: Source) -> Iterator[Frame]:
    """Yield the frames of `source` up to the tail (or an error frame), which ends the file.

    Raises ImageError at the first frame that breaks a rule.
    """
    offset = 0
    for _ in range(MAX_FRAMES):
        frame, end = _read_frame(source, offset)
        yield frame
        if frame.type in _LAST:
            return
        offset = end
    what = f"more than {MAX_FRAMES} frames"
    raise ImageCorruptError(what, path=source.path, offset=offset)


def _read_frame(source: Source, offset: int) -> tuple[Frame, int]:
    # Records come by the ten thousand: the common case calls little and looks up no enum.
    if source.size - offset < FRAME.size:
        where = "before" if source.size == offset else "inside"
        what = f"incomplete: the file ends {where} a frame header, there is no tail"
        raise ImageIncompleteError(what, path=source.path, offset=source.size)
    frame_type, flags, length, digest = FRAME.unpack(source.read(offset, FRAME.size))
    frame = Frame(frame_type, flags, length, digest, offset)
    if flags or length > _LIMITS.get(frame_type, -1) or frame_type in _FIRST or offset == 0:
        _check_unusual(source, frame)
    payload_end = offset + FRAME.size + length
    padding = -length % 8
    end = payload_end + padding
    if end > source.size:
        what = f"incomplete: the file ends inside a {type_name(frame_type)} frame"
        raise ImageIncompleteError(what, path=source.path, offset=source.size)
    if padding and any(source.read(payload_end, padding)):
        what = f"bytes after the {type_name(frame_type)} frame are not zero"
        raise ImageCorruptError(what, path=source.path, offset=payload_end)
    if frame_type == _PAGES or frame_type in _LAST:
        _check_place(source, frame, end)
    return frame, end


def _check_unusual(source: Source, frame: Frame) -> None:
    if frame.offset == 0 and frame.type not in _FIRST:
        raise ImageCorruptError("not a ckpt-bpf image", path=source.path, offset=0)
    name = type_name(frame.type)
    is_known = frame.type in _LIMITS
    if is_known and frame.flags:
        what = f"{name} frame with flags {frame.flags:#x}, which this program does not know"
        raise ImageVersionError(what, path=source.path, offset=frame.offset)
    if not is_known and frame.flags != FrameFlag.OPTIONAL:
        what = f"frame type {name} (flags {frame.flags:#x}) is not known and not optional"
        raise ImageVersionError(what, path=source.path, offset=frame.offset)
    limit = _LIMITS.get(frame.type, MAX_OPTIONAL_BYTES)
    if frame.length > limit:
        what = f"{name} frame of {frame.length} bytes, more than {limit}"
        raise ImageCorruptError(what, path=source.path, offset=frame.offset)
    if frame.type == FrameType.HEADER and frame.offset:
        raise ImageCorruptError("a second header", path=source.path, offset=frame.offset)


def _check_place(source: Source, frame: Frame, end: int) -> None:
    if frame.type in _LAST and end != source.size:
        what = f"{source.size - end} bytes after the {type_name(frame.type)}"
        raise ImageCorruptError(what, path=source.path, offset=end)
    if frame.type == FrameType.PAGES and frame.payload_offset % PAGES_ALIGN:
        what = "pages do not start at a multiple of 4096"
        raise ImageCorruptError(what, path=source.path, offset=frame.offset)
