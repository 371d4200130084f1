"""Fixtures of the live tests: compiled programs, and cases that run a few at a time.

Most of a case is waiting, so the cases of all selected `run` tests go through a small pool in
collection order; a test only waits for its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.live.harness import PAUSE_S, Build, Case, Mode, Outcome, Run, become_subreaper, run_case

PARALLEL = 2
CASE_S = 100.0
SLOW_S = (1.2, 3.0)
HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")
HUGE_PAGES_WANTED = 16
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder as live."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="session")
def build() -> Iterator[Build]:
    """The compiled programs; this process also becomes able to reap restored ones."""
    become_subreaper()
    build = Build()
    yield build
    build.remove()


@pytest.fixture(scope="session")
def huge_pages() -> Iterator[None]:
    """Reserve a few huge pages for the run, and give them back."""
    before = HUGE_PAGES.read_text()
    if int(before) < HUGE_PAGES_WANTED:
        HUGE_PAGES.write_text(str(HUGE_PAGES_WANTED))
    yield
    HUGE_PAGES.write_text(before)


def _selected_cases(session: pytest.Session) -> list[tuple[Case, Mode]]:
    selected = []
    for item in session.items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if "run" in getattr(item, "fixturenames", ()) and {"case", "mode"} <= params.keys():
            selected.append((params["case"], params["mode"]))
    return selected


def _choose_limit(pool: ThreadPoolExecutor, build: Build) -> str:
    """Time a few cases side by side; a call must outlast the snapshot that is to catch it.

    The programs have limits of 1.5, 5 and 15 s (tests/programs/blocked.h).
    """
    warm = Case("thread_names")
    pool.submit(run_case, warm, Mode.LEFT_RUNNING, build).result()  # fills the bytecode cache
    start = time.monotonic()
    for done in [pool.submit(run_case, warm, Mode.RESTORED, build) for _ in range(PARALLEL)]:
        done.result()
    took_s = time.monotonic() - start - PAUSE_S
    # Not the shortest, which is for one case at a time by hand: other tests run beside these.
    return str(max(1, sum(took_s > slow_s for slow_s in SLOW_S)))


@pytest.fixture(scope="session")
def outcomes(
    request: pytest.FixtureRequest, build: Build
) -> Iterator[dict[tuple[Case, Mode], Future[Outcome]]]:
    """Every selected case, started in order, a few at a time."""
    request.getfixturevalue("huge_pages")
    pool = ThreadPoolExecutor(PARALLEL)
    os.environ["CKPT_LIMIT"] = _choose_limit(pool, build)
    yield {
        (case, mode): pool.submit(run_case, case, mode, build)
        for case, mode in _selected_cases(request.session)
    }
    pool.shutdown(cancel_futures=True)


@pytest.fixture
def run(outcomes: dict[tuple[Case, Mode], Future[Outcome]]) -> Run:
    """Wait for a case and pass its verdict on to pytest."""

    def wait(case: Case, mode: Mode) -> None:
        outcome = outcomes[case, mode].result(CASE_S)
        if outcome.verdict == "SKIP":
            pytest.skip("not run: " + outcome.text.removeprefix("SKIP: ").strip())
        if outcome.verdict != "PASS":
            pytest.fail(outcome.text, pytrace=False)

    return wait
