"""Switches about memory, and filters that threads share: more than one kernel object apart."""

from __future__ import annotations

import pytest

from tests.live.harness import Case, Mode, Run

CASES = [Case("process_memory_switches"), Case("seccomp_shared")]


@pytest.mark.parametrize("mode", [Mode.UNTOUCHED, Mode.LEFT_RUNNING, Mode.RESTORED])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_attribute(run: Run, case: Case, mode: Mode) -> None:
    run(case, mode)
