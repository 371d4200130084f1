"""CPython, perl, bash and gawk go on where they were, by their own output."""

import hashlib
import os
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from tests.apps.harness import PROGRAMS, App

pytestmark = pytest.mark.apps

BEFORE = 30
AFTER = 30
PAUSE_S = 3.0
# A sleep of 10 ms may be late on a busy machine, but not by as long as the process did not exist.
MAX_TICK_S = 2.0
MODULUS = 4294967291


def program(name: str) -> str:
    """Return the interpreter, or skip the test by name."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed; scripts/test installs it")
    return path


def run_through(app: App, mode: str) -> int:
    """Snapshot the app in the middle, let it go on, end it; return its ticks at the snapshot."""
    app.wait_for_lines(BEFORE)
    app.pass_through(mode)
    at_snapshot = len(app.lines())
    app.wait_for_lines(at_snapshot + AFTER)
    status = app.finish()
    assert status == 0, app.err.read_text()
    assert app.err.read_text() == ""
    return at_snapshot


def ticks(lines: list[str]) -> list[list[str]]:
    """Return the words of the tick lines, which have to count without gap or repeat."""
    found = [line.split()[1:] for line in lines if line.startswith("tick ")]
    assert [int(words[0]) for words in found] == list(range(len(found)))
    return found


def assert_locked(database: Path) -> None:
    """Check that somebody else's transaction holds the database and is invisible."""
    other = sqlite3.connect(database, isolation_level=None, timeout=0)
    try:
        assert other.execute("SELECT count(*) FROM ticks").fetchone() == (0,)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
    finally:
        other.close()


def worker_line(name: int, jobs: list[int]) -> str:
    """Return what one worker thread has to say after exactly these jobs in this order."""
    digest = b""
    for job in jobs:
        digest = hashlib.sha256(digest + str(job).encode()).digest()
    return f"worker {name} {len(jobs)} {digest.hex()}"


def check_cpython(app: App, database: Path) -> None:
    """Check ticks, workers, timers and rows, all of which say the same count in their own way."""
    lines = app.lines()
    count = len(ticks(lines))
    assert lines[-2:] == ["integrity ok", "DONE"]
    for worker in range(4):
        assert worker_line(worker, list(range(worker, count, 4))) in lines
    rows = sqlite3.connect(database).execute("SELECT n, square FROM ticks ORDER BY n").fetchall()
    assert rows == [(n, n * n) for n in range(count)]


def test_cpython(tmp_path: Path, mode: str) -> None:
    """Threads, asyncio timers, and a transaction whose lock nobody else gets at any time."""
    database = tmp_path / "ticks.db"
    with App(tmp_path, ["/usr/bin/python3", PROGRAMS / "counting.py"]) as app:
        app.wait_for_lines(BEFORE)
        assert_locked(database)
        if mode == "restored":
            app.snapshot()
            time.sleep(PAUSE_S)  # the absence itself is under test: clocks must not show it
            app.restore()
        else:
            app.snapshot("--leave-running")
        assert_locked(database)
        at_snapshot = len(app.lines())
        app.wait_for_lines(at_snapshot + AFTER)
        assert app.finish() == 0, app.err.read_text()
        check_cpython(app, database)
        assert max(float(words[1]) for words in ticks(app.lines())) < MAX_TICK_S


def check_sums(app: App, at_snapshot: int) -> list[list[str]]:
    """Check the running checksums of perl and bash; return the words of all ticks."""
    found = ticks(app.lines())
    sum_ = 0
    for words in found:
        sum_ = (sum_ * 31 + int(words[0]) * 7 + 1) % MODULUS
        assert int(words[2]) == sum_
    assert app.lines()[-1].split()[:3] == ["DONE", str(len(found)), str(sum_)]
    # What counts beside the main loop (alarms, time-outs) went on after the snapshot, too.
    assert int(found[-1][1]) > int(found[at_snapshot - 1][1])
    return found


def test_perl(tmp_path: Path, mode: str) -> None:
    """A sleeping loop and an interval timer's signal handler."""
    with App(tmp_path, [program("perl"), PROGRAMS / "counting.pl"]) as app:
        at_snapshot = run_through(app, mode)
        check_sums(app, at_snapshot)


def test_bash(tmp_path: Path, mode: str) -> None:
    """A loop of builtins with `read -t`, fed by itself through a pipe of its own."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    script = f"exec 9>&{writer} {writer}>&-; . {PROGRAMS / 'counting.bash'}"
    argv = [program("bash"), "-c", script]
    with App(tmp_path, argv, stdin=reader, pass_fds=[writer]) as app:
        os.close(reader)
        os.close(writer)
        at_snapshot = run_through(app, mode)
        found = check_sums(app, at_snapshot)
        # Exactly one time-out a round: none was cut short or counted twice.
        assert [int(words[1]) for words in found] == list(range(1, len(found) + 1))


def write_squares(path: Path, count: int) -> None:
    """Write the input of counting.awk."""
    with path.open("w") as file:
        file.writelines(f"{n} {n * n}\n" for n in range(count))


def test_gawk(tmp_path: Path, mode: str) -> None:
    """A large file read once from start to end."""
    count = 3_000_000
    big = tmp_path / "big"
    write_squares(big, count)
    with App(tmp_path, [program("gawk"), "-f", PROGRAMS / "counting.awk", big]) as app:
        app.wait_for_lines(200)
        app.pass_through(mode)
        at_snapshot = len(app.lines())
        assert at_snapshot < count // 1000, "gawk was done before the snapshot"
        assert app.wait(60) == 0, app.err.read_text()
        check_awk(app, count)
    big.unlink()


def check_awk(app: App, count: int) -> None:
    """Check every thousandth running sum, and the end."""
    found = ticks(app.lines())
    sum_ = 0
    for n in range(count):
        sum_ = (sum_ * 31 + n * n) % MODULUS
        if n % 1000 == 999:
            assert int(found[n // 1000][1]) == sum_
    assert app.lines()[-1] == f"DONE {count} {sum_} 5000"
