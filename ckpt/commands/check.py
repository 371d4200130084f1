"""`ckpt-bpf check`: what this kernel and this user can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckpt.commands.common import to_json
from ckpt.debug.text import escape

if TYPE_CHECKING:
    import argparse

    from ckpt.debug.report import Reporter


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""


def run(args: argparse.Namespace, _report: Reporter) -> int:
    """Run the command; return its exit code."""
    from ckpt.host.probe import check_features

    features = check_features()
    if args.json:
        print(to_json([feature._asdict() for feature in features]))
        return 0
    for feature in features:
        detail = f" ({feature.detail})" if feature.detail else ""
        print(escape(f"{'yes' if feature.ok else 'NO':3} {feature.name}{detail}"))
        if not feature.ok:
            print(escape(f"      without it: {feature.effect}"))
            print(escape(f"      remedy: {feature.remedy}"))
    return 0
