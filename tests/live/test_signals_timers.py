"""Signals and timers in rarer states: queued, ignored, without siginfo, faults, dates, CPU."""

from __future__ import annotations

import pytest

from tests.live.harness import Case, Mode, Run

CASES = [Case("signal_corners"), Case("timer_corners")]


@pytest.mark.parametrize("mode", [Mode.UNTOUCHED, Mode.LEFT_RUNNING, Mode.RESTORED])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_corners(run: Run, case: Case, mode: Mode) -> None:
    run(case, mode)
