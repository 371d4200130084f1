"""A pytest plugin: plain totals for each group of tests, and what to make of skips.

With CKPT_NO_SKIP=1 a skipped test fails, unless its reason names a feature that this CPU or this
kernel was built without ("cpu lacks avx512f", "not run: kernel FEATURE"): no set-up can add one.
Those are listed by name at the end, so nobody takes them for tested.
"""

import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

MISSING_FEATURE = re.compile(r"(?:not run: |SKIP: )?(cpu|kernel) (?:lacks )?(.+)")
NO_SKIP = os.environ.get("CKPT_NO_SKIP") == "1"
OUTCOMES = ("passed", "failed", "skipped")

_totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
_seconds: defaultdict[str, float] = defaultdict(float)
_missing_features: dict[tuple[str, str], list[str]] = defaultdict(list)
_started = time.monotonic()


def group_of(nodeid: str) -> str:
    """Return the group that a test belongs to: unit, abi, live, apps or other."""
    parts = Path(nodeid.split("::")[0]).parts
    return parts[1] if len(parts) > 2 and parts[0] == "tests" else "other"


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return what a skipped test says about itself, without pytest's prefix."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def judge_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure where skips are not allowed."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = skip_reason(report)
    if missing := MISSING_FEATURE.fullmatch(reason.strip()):
        _missing_features[missing[1], missing[2]].append(report.nodeid)
    elif NO_SKIP:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CKPT_NO_SKIP=1 forbids: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Judge each test's report and count it once."""
    report = yield
    judge_skip(report)
    group = group_of(report.nodeid)
    _seconds[group] += report.duration
    if report.when == "call" or report.outcome != "passed":
        _totals[group][report.outcome] += 1
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Judge modules that skip themselves as a whole."""
    report = yield
    judge_skip(report)
    return report


class CheckItem(pytest.Item):
    """Stands for scripts/check among the tests, so that the closing line counts its failure."""

    def runtest(self) -> None:
        """Fail; the item exists only when scripts/check did."""
        pytest.fail("scripts/check failed; its output stands before the tests", pytrace=False)


def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Add scripts/check to the tests when it failed before them."""
    if os.environ.get("CKPT_CHECK_FAILED", "0") != "0":
        items.append(CheckItem.from_parent(session, name="scripts/check"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the totals; pytest's own closing line comes after them."""
    write = terminalreporter.write_line
    terminalreporter.section("summary")
    for group, counts in _totals.items():
        numbers = ", ".join(f"{counts[o]} {o}" for o in OUTCOMES if counts[o])
        write(f"{group:6} {numbers}, {_seconds[group]:.1f} s")
    for (where, feature), nodeids in sorted(_missing_features.items()):
        write(f"NOT TESTED, this {where} lacks {feature}: {', '.join(nodeids)}")
    write(f"tests took {time.monotonic() - _started:.0f} s")
