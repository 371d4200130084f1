"""What several commands share: kinds of arguments, and how results are printed."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ckpt.debug.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt.debug.report import Reporter
    from ckpt.errors import Finding


def seconds(text: str) -> float:
    """Parse a positive number of seconds."""
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text}: not a positive number of seconds")
    return value


def pid(text: str) -> int:
    """Parse the number of a process or thread."""
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 1 << 31):
        raise argparse.ArgumentTypeError(f"{text}: not a pid")
    return int(text)


def to_json(value: Any) -> str:
    """Return `value` as one line of JSON."""
    import json

    return json.dumps(value)


def plain_result(result: Any) -> dict[str, Any]:
    """Return a snapshot's or restore's result for JSON."""
    fields = dict(result._asdict())
    fields["warnings"] = [str(finding) for finding in fields["warnings"]]
    return fields


def plain_finding(finding: Finding) -> dict[str, Any]:
    """Return a finding for JSON."""
    return dict(finding._asdict())


def print_warnings(findings: Iterable[Finding], report: Reporter) -> None:
    """Print warnings on stderr, and note them in the log."""
    for finding in findings:
        print(f"ckpt-bpf: warning: {escape(str(finding))}", file=sys.stderr)
        report.note(f"warning: {finding}")
