"""Fixtures of the live tests: compiled programs, and cases that run a few at a time.

Most of a case is waiting, so the cases of all selected `run` tests go through a small pool in
collection order; a test only waits for its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.live.harness import Build, Case, Mode, Outcome, Run, become_subreaper, run_case

PARALLEL = 3
CASE_S = 100.0
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


@pytest.fixture(scope="session")
def outcomes(
    request: pytest.FixtureRequest, build: Build
) -> Iterator[dict[tuple[Case, Mode], Future[Outcome]]]:
    """Every selected case, started in order, a few at a time."""
    request.getfixturevalue("huge_pages")
    pool = ThreadPoolExecutor(PARALLEL)
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
