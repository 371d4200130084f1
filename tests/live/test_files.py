"""Descriptors and what is behind them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.live.harness import ALL_MODES, Build, Case, CaseFailure, Mode, Run, Target, run_case

CASES = [
    Case("fd_regular"),
    Case("fd_deleted"),
    Case("fd_folders"),
    Case("fd_devices"),
    Case("fd_answers"),
    Case("fd_table"),
    Case("fd_async"),
    Case("pipes"),
    Case("pipe_packets"),
    Case("unix_pairs"),
    Case("unix_options"),
    Case("unix_passing"),
    Case("event_fds"),
    Case("timer_fds"),
    Case("epolls"),
    Case("locks"),
    Case("many_fds"),
    Case("fd_churn"),
]


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_descriptors(run: Run, case: Case, mode: Mode) -> None:
    run(case, mode)


def _read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as stream:
        return stream.read()


def test_streams_of_the_old_shell_become_those_of_the_restoring_command(build: Build) -> None:
    """A pipe to us is replaced by the restoring command's stdout, in its dups as well."""
    old_read, old_write = os.pipe()
    new_read, new_write = os.pipe()
    with Target(Case("std_streams"), build) as target:
        target.start(stdout=old_write)
        os.close(old_write)
        assert target.wait_ready()
        target.snapshot()
        assert _read_all(old_read) == b"before\n"
        pidfile = target.folder / "pid"
        target.tool(
            *("restore", str(target.image), "--detach", "--pidfile", str(pidfile)),
            stdout=new_write,
        )
        os.close(new_write)
        target.adopt(pidfile)
        target.go(Mode.RESTORED)
        assert target.wait_result().text == "PASS\n"
        assert _read_all(new_read).endswith(b"after\ndup\n")


def _change_grown(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"more")


def _change_shrunk(path: Path) -> None:
    os.truncate(path, 4)


def _change_replaced(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"another file")


def _change_gone(path: Path) -> None:
    path.unlink()


CHANGES = {
    "grown": _change_grown,
    "shrunk": _change_shrunk,
    "replaced": _change_replaced,
    "gone": _change_gone,
}


@pytest.mark.parametrize("change", ["shrunk", "replaced", "gone"])
def test_a_changed_file_is_refused_by_name(build: Build, change: str) -> None:
    """Nothing is restored over a file that cannot be the one that was open."""
    with Target(Case("fd_regular"), build) as target:
        target.start()
        assert target.wait_ready()
        target.snapshot()
        CHANGES[change](target.folder / "file 0\n")
        with pytest.raises(CaseFailure) as refusal:
            target.restore()
        assert "exit 1" in str(refusal.value)
        assert "file 0" in str(refusal.value)
        assert not target.is_running()


def test_a_grown_file_is_restored(build: Build) -> None:
    """A log that others append to is the common case: the position stays where it was."""
    with Target(Case("fd_regular"), build) as target:
        target.start()
        assert target.wait_ready()
        target.snapshot()
        _change_grown(target.folder / "file 1\n")
        target.restore()
        target.go(Mode.RESTORED)
        assert target.wait_result().text == "PASS\n"


# Not promised, but never lost in silence: it comes back, or the refusal names it.
RESTORED_OR_REFUSED = {
    "leases": "lease",
    "unix_inflight": "descriptor",
    "unshared": "fd table",
}


@pytest.mark.parametrize("program", RESTORED_OR_REFUSED)
def test_comes_back_or_is_refused_by_name(build: Build, program: str) -> None:
    outcome = run_case(Case(program), Mode.RESTORED, build)
    named = RESTORED_OR_REFUSED[program] in outcome.text
    refused = outcome.text.startswith("snapshot: exit 1") and named
    assert outcome.verdict == "PASS" or refused, outcome.text
