"""Rules for all tests: who may skip, and the list of what this machine could not run.

`CKPT_NO_SKIP=1` (CI) turns a skip into a failure, except a skip whose reason begins with
`not run:` -- a feature that this machine's CPU or kernel does not have.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

NOT_RUN = "not run: "
PRIVILEGED = ("live", "apps")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what needs root when we are not."""
    if os.geteuid() == 0:
        return
    needs_root = pytest.mark.skip(reason="needs root: it stops, kills and restores processes")
    for item in items:
        if any(item.get_closest_marker(name) for name in PRIVILEGED):
            item.add_marker(needs_root)


def _skip_reason(report: pytest.TestReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure under CKPT_NO_SKIP, unless the machine lacks the feature."""
    report = yield
    if not report.skipped or hasattr(report, "wasxfail"):
        return report
    reason = _skip_reason(report)
    if os.environ.get("CKPT_NO_SKIP") == "1" and not reason.startswith(NOT_RUN):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be skipped: {reason}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what this machine could not run."""
    reasons = [_skip_reason(report) for report in terminalreporter.stats.get("skipped", [])]
    lacking = sorted({reason for reason in reasons if reason.startswith(NOT_RUN)})
    if lacking:
        terminalreporter.section("not run on this machine")
        for reason in lacking:
            terminalreporter.line(reason.removeprefix(NOT_RUN))
