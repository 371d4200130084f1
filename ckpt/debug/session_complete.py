"""Tab completion in a session: as Python's own, and behind `tasks[4242].` and `threads[0].` too."""

from __future__ import annotations

import re
import rlcompleter
from typing import Any, Final

DELIMITERS: Final = " \t\n`~!@#$%^&*()-=+{}\\|;:,<>/?"
"""Python's, without what stands in a subscript."""
_CHAIN: Final = re.compile(
    r"""(?P<object>\w+(?:\.\w+|\[(?:\d+|"[^"\\]*"|'[^'\\]*')\])*)\.(?P<start>\w*)\Z"""
)


class Completer(rlcompleter.Completer):
    """Completes attributes of what names, attributes and constant subscripts lead to.

    Nothing is called: only attributes and items of objects are looked at.
    """

    def attr_matches(self, text: str) -> list[str]:
        """Return the completions of `text`, in which there is a dot."""
        chain = _CHAIN.search(text)
        if chain is None:
            return []
        try:
            value = eval(chain["object"], self.namespace)  # type: ignore[attr-defined]
        except Exception:
            return []  # There is no such object: nothing to complete.
        return [text[: chain.start("start")] + name for name in names_of(value, chain["start"])]


def names_of(value: Any, start: str) -> list[str]:
    """Return the public attributes that begin with `start`; others if it begins with `_`."""
    return sorted(
        name
        for name in dir(value)
        if name.startswith(start) and (start.startswith("_") or not name.startswith("_"))
    )


def install(namespace: dict[str, Any]) -> bool:
    """Let the tab key complete names of `namespace`; False where there is no readline."""
    try:
        import readline
    except ImportError:
        return False
    readline.set_completer_delims(DELIMITERS)
    readline.set_completer(Completer(namespace).complete)
    readline.parse_and_bind("tab: complete")
    return True
