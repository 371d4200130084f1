"""The ways in which a file is not a whole image, below `ckpt.errors.ImageError`.

Text that comes out of an image (a field's name, an error frame) enters a message through `quoted`
only, so that no control character of a hostile file reaches a terminal or a log.
"""

from __future__ import annotations

from ckpt.errors import ImageError, ImageWriteError


class ImageIncompleteError(ImageError):
    """The file ends before its tail: a write that was cut short, or a copy that was."""


class ImageCorruptError(ImageError):
    """Bytes that no writer writes: a checksum, a length or a reference does not hold."""


class ImageVersionError(ImageError):
    """A whole image, of a format or an architecture that this program does not read."""


class ImageFailedError(ImageError):
    """The snapshot that wrote this image failed, and says so in an error frame."""


class ImageStalledError(ImageWriteError):
    """The reader of the stream took nothing for the whole stall timeout."""


def quoted(text: str, limit: int = 200) -> str:
    """Return `text` in printable ASCII, shortened to `limit` characters."""
    shortened = text if len(text) <= limit else text[:limit] + "..."
    return ascii(shortened)[1:-1]
