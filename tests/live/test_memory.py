"""Memory areas: contents, protections, sharing, growth, locks, advice, policy, names."""

from __future__ import annotations

import pytest

from tests.live.harness import ALL_MODES, Build, Case, Mode, Run, Target, run_case

CASES = [
    Case("mem_anon"),
    Case("mem_sparse"),
    Case("mem_private_file"),
    Case("mem_shared_file"),
    Case("mem_shared_anon"),
    Case("mem_memfd"),
    Case("mem_stack"),
    Case("mem_reservation"),
    Case("mem_guards"),
    Case("mem_locked"),
    Case("mem_locked", ("all",)),
    Case("mem_madvise"),
    Case("mem_numa"),
    Case("mem_mseal"),
    Case("mem_names"),
    Case("mem_huge"),
    Case("mem_huge", ("hugetlb",)),
    Case("mem_vdso"),
    Case("mem_fork_flags"),
]


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_memory(run: Run, case: Case, mode: Mode) -> None:
    run(case, mode)


def test_only_pages_that_hold_something_are_stored(build: Build) -> None:
    """Sixty-four touched pages in 256 MiB make an image of a few MiB."""
    with Target(Case("mem_sparse"), build) as target:
        target.start()
        assert target.wait_ready()
        target.snapshot()
        assert target.image.stat().st_size < 2 << 20


@pytest.mark.usefixtures("huge_pages")
def test_shared_huge_pages_come_back_or_are_refused_by_name(build: Build) -> None:
    outcome = run_case(Case("mem_huge", ("shared",)), Mode.RESTORED, build)
    refused = outcome.text.startswith("snapshot: exit 1") and "huge pages" in outcome.text
    assert outcome.verdict == "PASS" or refused, outcome.text
