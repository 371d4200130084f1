"""Trials of features: what they report, and that they leave nothing behind."""

import errno
import os
import signal

import pytest

from ckpt.host.features import Trial, in_child, run_trial, try_all
from ckpt.host.probe import probe_host


def trial(attempt: object, *, child: bool = False) -> Trial:
    return Trial("x", attempt, "effect", "remedy", child)  # type: ignore[arg-type]


def fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("child", [False, True])
def test_outcomes(child: bool) -> None:
    there = run_trial(trial(lambda: "found", child=child))
    assert (there.ok, there.detail) == (True, "found")
    missing = run_trial(trial(lambda: fail(errno.EPERM), child=child))
    assert (missing.ok, missing.detail) == (False, "Operation not permitted")


def test_a_child_that_is_killed_is_a_failure() -> None:
    found = run_trial(trial(lambda: os.kill(os.getpid(), signal.SIGKILL), child=True))
    assert (found.ok, found.detail) == (False, "the attempt was ended by SIGKILL")


def test_a_bug_in_an_attempt_does_not_escape_from_the_child() -> None:
    def bug() -> None:
        raise TypeError

    with pytest.raises(OSError, match="could not be made"):
        in_child(bug)


def test_all_trials_leave_nothing_behind() -> None:
    def state() -> tuple[list[str], bytes]:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
            return sorted(os.listdir("/proc/self/fd")), file.read()

    before = state()
    features = try_all()
    assert state() == before
    assert len({feature.name for feature in features}) == len(features) > 30
    assert all(feature.effect and feature.remedy for feature in features)
    assert all(feature.detail for feature in features if not feature.ok)


def test_quick_probe_knows_us() -> None:
    facts = probe_host()
    assert facts.euid == os.geteuid()
    assert facts.inherited.credentials.uids[0] == os.getuid()
    assert len(facts.inherited.limits) == 16
    assert facts.online_cpus & facts.inherited.scheduling.cpus
    assert facts.monotonic_ns > 0
