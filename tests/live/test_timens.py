"""Clocks of a process that is snapshotted, killed and restored again and again."""

from __future__ import annotations

import time

import pytest

from ckpt.host.clocks import clocks_ahead
from tests.live.harness import PAUSE_S, Build, Case, Mode, Target


@pytest.mark.parametrize("rounds", [1, 3])
def test_no_pause_shows(build: Build, rounds: int) -> None:
    with Target(Case("clocks"), build) as target:
        target.start()
        assert target.wait_ready()
        for _ in range(rounds):
            target.snapshot()
            time.sleep(PAUSE_S)  # what the clocks must not show
            target.restore()
        behind_ns = -clocks_ahead(target.pid)[0]
        assert behind_ns > rounds * PAUSE_S * 1e9
        target.go(Mode.RESTORED)
        outcome = target.wait_result()
        assert outcome.verdict == "PASS", outcome.text


def test_without_time_namespace_the_clocks_are_ours(build: Build) -> None:
    with Target(Case("clocks"), build) as target:
        target.start()
        assert target.wait_ready()
        target.snapshot()
        target.restore("--no-timens")
        assert clocks_ahead(target.pid) == (0, 0)


def test_offsets_stay_when_continuity_is_not_wanted(build: Build) -> None:
    with Target(Case("clocks"), build) as target:
        target.start()
        assert target.wait_ready()
        target.snapshot()
        target.restore()
        before = clocks_ahead(target.pid)
        target.snapshot()
        time.sleep(PAUSE_S)
        target.restore("--no-timens")
        assert clocks_ahead(target.pid) == before != (0, 0)
