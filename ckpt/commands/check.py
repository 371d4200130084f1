"""`ckpt-bpf check`: what this kernel and this user can do, and whether a process can be taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckpt.commands.common import pid, plain_finding, to_json
from ckpt.debug.text import escape, escape_bytes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from ckpt.debug.estimate import Estimate
    from ckpt.debug.feasibility import Feasibility
    from ckpt.debug.report import Reporter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    text = "can this process be snapshotted and restored here? (nothing is stopped)"
    parser.add_argument("pid", type=pid, metavar="PID", nargs="?", help=text)
    parser.add_argument("--no-bpf", action="store_true", help="look without BPF (with PID)")


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Run the command; return its exit code."""
    return _check_machine(args) if args.pid is None else _check_process(args, report)


def _check_machine(args: argparse.Namespace) -> int:
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


def _check_process(args: argparse.Namespace, report: Reporter) -> int:
    from ckpt.debug.feasibility import assess
    from ckpt.objects.base import Options

    report(f"check of process {args.pid}", 0, 0)
    found = assess(args.pid, Options(no_bpf=args.no_bpf))
    if args.json:
        print(to_json(_plain(found)))
    else:
        for line in _lines(found):
            print(line)
    return 0 if found.possible else 1


def _plain(found: Feasibility) -> dict[str, Any]:
    return {
        **found._asdict(),
        "comm": found.comm.decode("utf-8", "surrogateescape"),
        "findings": list(map(plain_finding, found.findings)),
        "estimate": None if found.estimate is None else found.estimate._asdict(),
    }


def _lines(found: Feasibility) -> Iterator[str]:
    for finding in found.findings:
        yield escape(f"{'' if finding.blocker else 'warning: '}{finding}")
        if finding.hint:
            yield escape(f"  hint: {finding.hint}")
    for text in found.unseen:
        yield escape(f"not seen: {text}")
    blockers = sum(finding.blocker for finding in found.findings)
    warnings = len(found.findings) - blockers
    name = f"process {found.pid} ({escape_bytes(found.comm)})"
    told = f"{warnings} warning{'s' * (warnings != 1)}"
    if found.possible:
        yield f"{name}: can be snapshotted and restored here, {told}"
    else:
        reasons = f"{blockers} thing{'s' * (blockers != 1)} in the way"
        yield f"{name}: cannot be snapshotted and restored here: {reasons}, {told}"
    if found.estimate is not None:
        yield _describe(found.estimate)


def _describe(estimate: Estimate) -> str:
    return (
        f"  {estimate.threads} threads, {estimate.areas} areas, {estimate.descriptors} "
        f"descriptors: an image of about {_size(estimate.image_bytes)}, frozen for about "
        f"{_duration(estimate.frozen_s)} (with --leave-running)"
    )


def _size(size_bytes: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes} bytes"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
