"""A pytest plugin of scripts/test: plain totals for each group of tests, scripts/check among them.

What to make of skips is the business of tests/conftest.py.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

OUTCOMES = ("passed", "failed", "skipped")

_totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
_seconds: defaultdict[str, float] = defaultdict(float)
_started = time.monotonic()


def group_of(nodeid: str) -> str:
    """Return the group that a test belongs to: unit, abi, live, apps or other."""
    parts = Path(nodeid.split("::")[0]).parts
    return parts[1] if len(parts) > 2 and parts[0] == "tests" else "other"


class CheckItem(pytest.Item):
    """Stands for scripts/check among the tests, so that the closing line counts its failure."""

    def runtest(self) -> None:
        """Fail; the item exists only when scripts/check did."""
        pytest.fail("scripts/check failed; its output stands before the tests", pytrace=False)


def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Add scripts/check to the tests when it failed before them."""
    if os.environ.get("CKPT_CHECK_FAILED", "0") != "0":
        items.append(CheckItem.from_parent(session, name="scripts/check"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count each test once, by what all other plugins have made of it."""
    report = yield
    group = group_of(report.nodeid)
    _seconds[group] += report.duration
    if report.when == "call" or report.outcome != "passed":
        _totals[group][report.outcome] += 1
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the totals; pytest's own closing line comes after them."""
    terminalreporter.section("summary")
    for group, counts in _totals.items():
        numbers = ", ".join(f"{counts[o]} {o}" for o in OUTCOMES if counts[o])
        terminalreporter.write_line(f"{group:6} {numbers}, {_seconds[group]:.1f} s")
    terminalreporter.write_line(f"tests took {time.monotonic() - _started:.0f} s")
