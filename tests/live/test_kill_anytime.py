"""SIGKILL to the tool at any of its steps: the target runs on, or the whole process is restored.

The steps are the system-call stops of the tool's main thread. What cannot be helped is measured:
calls that our stop ended with EINTR when the tool dies before it has rewound them, and the moment
between the image's name and the kill of the process, in which there are both.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.harness import Build
from tests.live.stepping import choose_stops, run_stepped
from tests.live.tickers import Ticker, end_process, process_exists, run_tool, tracers, wait_for

EARLY, LATE, AT_PTRACE = 4, 20, 20
pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def ticker(build: Build) -> Iterator[Ticker]:
    """A running ticker."""
    with Ticker(build.binary("ticker")) as found:
        yield found


def files_of(ticker: Ticker) -> list[str]:
    return sorted(os.listdir(ticker.folder))


def is_whole(image: Path) -> bool:
    """Tell whether an image is whole; the pid that it needs may be taken."""
    return run_tool("show", str(image)).returncode == 0


def has_ended(pid: int) -> bool:
    """Reap a killed process, a child of ours by adoption; tell whether it is gone."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return not process_exists(pid)


@pytest.mark.parametrize("mode", ["--leave-running", "killed"])
def test_a_snapshot_killed_at_any_step(ticker: Ticker, tmp_path: Path, mode: str) -> None:
    """The target is whole, as it was, and runs; under the final name is nothing, or all of it."""
    args = ["snapshot", str(ticker.pid), "-o", str(ticker.image), "--log", str(tmp_path / "log")]
    whole = run_stepped([*args, "--leave-running"], name_calls=True)
    assert whole.exit_code == 0, whole.said
    ticker.image.unlink()
    before = files_of(ticker)
    stops = choose_stops(whole.calls, EARLY, LATE, AT_PTRACE)
    kills: Counter[str] = Counter()
    eintrs: Counter[str] = Counter()
    images: Counter[str] = Counter()
    for at in stops:
        seen = sum(ticker.eintrs().values())
        (tmp_path / "log").unlink(missing_ok=True)
        run = run_stepped([*args, mode] if mode.startswith("--") else args, kill_at=at)
        # None: killed. A shorter run than the first may be over before.
        assert run.exit_code in (0, None), run.said
        step = last_step(tmp_path / "log")
        kills[step] += 1
        if ticker.image.exists():
            images[step] += 1
            assert is_whole(ticker.image)
            ticker.image.unlink()
            if mode == "killed" and ticker.has_ended_within(0.2):
                break
        assert files_of(ticker) == before, f"killed at stop {at}"
        ticker.check_untouched(eintrs=len(stops))
        eintrs[step] += sum(ticker.eintrs().values()) - seen
    for step, count in kills.items():
        found = f"{eintrs[step]} calls ended with EINTR, {images[step]} with an image"
        print(f"killed {count} times in '{step}': {found}")
    assert set(+eintrs) <= {"stop every thread"}
    assert set(images) <= {"write the image", "done"}


def last_step(log: Path) -> str:
    """Return what the tool said last that it did."""
    lines = log.read_text().splitlines() if log.exists() else []
    return lines[-1].split("] ", 1)[1].split(",")[0] if lines else "start"


def test_the_window_in_which_a_kill_may_show(ticker: Ticker, tmp_path: Path) -> None:
    """Measure how long it takes from the first stop until the last call has been rewound."""
    times = []
    for number in range(5):
        log = tmp_path / f"log{number}"
        args = ("-o", str(ticker.image), "--leave-running", "--log", str(log))
        assert run_tool("snapshot", str(ticker.pid), *args).returncode == 0
        lines = log.read_text().splitlines()
        at = {line.split("] ", 1)[1].split(",")[0]: float(line[17:26]) for line in lines}
        times.append((at["capture"] - at["stop every thread"]) % 60)
    shown = ", ".join(f"{time_s * 1000:.1f}" for time_s in times)
    print(f"milliseconds from the first stop to the last rewind, {len(ticker.shape.tids)} threads:")
    print(f"  {shown}")
    ticker.check_untouched()
    assert min(times) < 0.1


def test_a_restore_killed_at_any_step(ticker: Ticker) -> None:
    """There is the whole process, running, or nobody of that number."""
    done = run_tool("snapshot", str(ticker.pid), "-o", str(ticker.image))
    assert done.returncode == 0, done.stderr
    ticker.reap()
    args = ["restore", str(ticker.image), "--detach"]
    whole = run_stepped(args, name_calls=True)
    assert whole.exit_code == 0, whole.said
    ticker.check_ticks()
    assert not ticker.eintrs()
    end_process(ticker.pid)
    before = files_of(ticker)
    outcomes: Counter[str] = Counter()
    stops = choose_stops(whole.calls, EARLY, LATE, AT_PTRACE)
    for at in stops:
        run = run_stepped(args, kill_at=at)
        assert run.exit_code in (0, None), run.said
        outcome = settle(ticker)
        outcomes[outcome] += 1
        assert files_of(ticker) == before, f"killed at stop {at}"
        if outcome == "running":
            assert not tracers(ticker.pid)
            ticker.check_ticks()
            assert len(os.listdir(f"/proc/{ticker.pid}/task")) == len(ticker.shape.tids)
            end_process(ticker.pid)
    print(f"{len(stops)} kills: {dict(outcomes)}, EINTR: {ticker.eintrs()}")
    assert outcomes["nothing"] > 0
    assert outcomes["running"] > 0
    assert not ticker.eintrs()


def settle(ticker: Ticker) -> str:
    """Wait until it is clear whether there is a process: `nothing` or `running`."""
    start = ticker.counters()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if has_ended(ticker.pid):
            wait_for("an end", lambda: not process_exists(ticker.pid), 5)
            return "nothing"
        now = ticker.counters()
        if all(b.rounds > a.rounds for a, b in zip(start, now, strict=True)):
            return "running"
        time.sleep(0.005)
    raise AssertionError(f"half a process: {ticker.counters()} after {start}")
