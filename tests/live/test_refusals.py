"""What is not restored yet is refused by name, and the target goes on as if nobody had asked."""

from __future__ import annotations

import subprocess

import pytest

from tests.live.harness import TOOL, Build, Case, Mode, Target

REFUSED = {
    "child": "has a child: ",
    "zombie": "has a child that ended and was not waited for: ",
    "aio": "an asynchronous I/O context",
    "io_uring": "io_uring",
    "shm": "System V shared memory",
    "undo": "SEM_UNDO",
    "netns": "another net namespace",
    "utsns": "another uts namespace",
    "listener": "user notification",
    "shared_mm": "shares its memory with process ",
    "timens": "has made a time namespace for its children",
}
ONLY_BPF = {"undo", "shared_mm"}


def _attempt(target: Target, *options: str) -> str:
    """Return what a snapshot that must fail prints."""
    command = [*TOOL, "snapshot", str(target.pid), "-o", str(target.image), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not target.image.exists()
    return done.stderr


CASES = [
    (name, source)
    for name in REFUSED
    for source in ("bpf", "no_bpf")
    if source == "bpf" or name not in ONLY_BPF
]


@pytest.mark.parametrize(("name", "source"), CASES)
def test_refused(build: Build, name: str, source: str) -> None:
    with Target(Case("refused_ties", (name,)), build) as target:
        target.start()
        if not target.wait_ready():
            outcome = target.wait_result()
            assert outcome.verdict == "SKIP", outcome.text
            pytest.skip(outcome.text)
        said = _attempt(target, *(["--no-bpf"] if source == "no_bpf" else []))
        assert REFUSED[name] in said
        target.go(Mode.LEFT_RUNNING)
        outcome = target.wait_result()
        assert outcome.verdict == "PASS", outcome.text
