"""Makes text from a target or an image safe to print on a terminal.

Names, paths, arguments and command lines are chosen by somebody else: they may hold escape
sequences, line breaks that forge output, and characters that reverse the order of what follows.
"""

from __future__ import annotations

import re
from typing import Final

_UNSAFE: Final = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0 and C1 controls, ESC and CSI among them
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"  # invisible
    "\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"  # subtending marks
    "\u200b-\u200f"  # zero width, left-to-right and right-to-left marks
    "\u2028-\u202e"  # line and paragraph separators, bidi embeddings and overrides
    "\u2060-\u206f"  # word joiner, bidi isolates, deprecated format characters
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff"
    "\ud800-\udfff"  # surrogates: bytes that were not UTF-8 (surrogateescape)
    "\ue000-\uf8ff"  # private use: whatever the terminal's font makes of it
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U00013430-\U00013455"
    "\U000e0000-\U0010ffff"  # tags, variation selectors, private planes
    "]"
)


def escape(text: str) -> str:
    r"""Return `text` with everything that is not plainly visible as `\xNN`, `\uNNNN`.

    A lone byte that was not UTF-8 (surrogateescape) becomes its `\xNN`. A backslash that would
    read like one of these escapes stays as it is: the result is for eyes, not for parsing.
    """
    return _UNSAFE.sub(_escape_one, text)


def escape_bytes(data: bytes) -> str:
    """Return bytes from the kernel (a path, a comm, argv) as safe text."""
    return escape(data.decode("utf-8", "surrogateescape"))


def escape_lines(text: str) -> str:
    """Return text of ours that holds foreign parts: as `escape`, but line feeds stay."""
    return "\n".join(map(escape, text.split("\n")))


def shorten(text: str, width: int) -> str:
    """Return `escape(text)`, cut to `width` characters with `...` at the end."""
    safe = escape(text[: width + 1])
    return safe if len(safe) <= width and len(text) <= width else safe[: max(width - 3, 0)] + "..."


def _escape_one(match: re.Match[str]) -> str:
    code = ord(match.group())
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
