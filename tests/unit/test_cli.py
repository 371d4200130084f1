"""Arguments, exit codes and messages: what needs no process to be stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ckpt
from ckpt import cli
from ckpt.debug.report import Reporter
from ckpt.errors import CkptError, Finding, InterruptError, RefusedError, TimeLimitError
from ckpt.host import watch
from ckpt.host.watch import Watch, held, released

SNAPSHOT = "ckpt.snapshot"
WRONG = [
    (),
    ("fly",),
    ("snapshot",),
    ("snapshot", "x"),
    ("snapshot", "0"),
    ("snapshot", "-1"),
    ("snapshot", "²"),
    ("snapshot", "99999999999"),
    ("snapshot", "1", "--timeout", "0"),
    ("snapshot", "1", "--timeout", "nan"),
    ("snapshot", "1", "--deadline", "-3"),
    ("snapshot", "1", "--leave-running", "--leave-stopped"),
    ("restore", "a", "b"),
    ("show",),
    ("verify",),
    ("check", "x"),
]


@pytest.mark.parametrize("args", WRONG, ids=" ".join)
def test_wrong_usage_is_2(args: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(args))
    assert caught.value.code == 2
    assert "usage: ckpt-bpf" in capsys.readouterr().err


def test_the_contract_of_arguments() -> None:
    parse = cli.build_parser().parse_args
    args = parse(
        [
            "snapshot",
            "1",
            "-o",
            "-",
            "--leave-running",
            "--no-bpf",
            "--timeout",
            "5",
            "--deadline",
            "9",
            "--log",
            "L",
            "-v",
        ]
    )
    assert (args.pid, args.output, args.timeout, args.deadline) == (1, "-", 5.0, 9.0)
    assert parse(["snapshot", "1"]).timeout == 30.0
    restore = (
        "restore F --detach --pidfile P --dry-run --verify --stopped --no-timens --trust-image"
    )
    assert parse([*restore.split(), "--json", "--log", "L", "-v"]).pidfile == "P"
    assert parse(["restore"]).image is None
    for command in (["show", "F"], ["verify", "F"], ["check"]):
        assert parse([*command, "--json"]).json


def test_a_refusal_is_1_and_lists_everything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    findings = [
        Finding("fd 3", "socket \x1b[31mAF_INET: not supported", "close it"),
        Finding("tid 7", "has a child"),
    ]

    def refuse(*_: object) -> None:
        raise RefusedError("process 5 cannot be snapshotted", findings, hint="all\nof it")

    monkeypatch.setattr(sys.modules[load(SNAPSHOT)], "snapshot", refuse)
    log = tmp_path / "log"
    assert cli.main(["snapshot", "5", "--json", "--log", str(log)]) == 1
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "ckpt-bpf: process 5 cannot be snapshotted",
        "  fd 3: socket \\x1b[31mAF_INET: not supported",
        "    hint: close it",
        "  tid 7: has a child",
        "  hint: all\\x0aof it",
    ]
    assert [row["where"] for row in json.loads(out)["findings"]] == ["fd 3", "tid 7"]
    assert "failed: process 5 cannot be snapshotted" in log.read_text()
    assert "\x1b" not in log.read_text()


def load(name: str) -> str:
    """Import a module of ours and return its name."""
    __import__(name)
    return name


@pytest.mark.parametrize("verbose", [False, True])
def test_a_bug_of_ours_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    verbose: bool,
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("\x1b[2J")

    monkeypatch.setattr(sys.modules[load(SNAPSHOT)], "snapshot", fail)
    log = tmp_path / "log"
    args = ["snapshot", "5", "--log", str(log), *(["-v"] if verbose else [])]
    assert cli.main(args) == 1
    err = capsys.readouterr().err
    assert err.startswith("ckpt-bpf: internal error, please report it: KeyError: ")
    assert ("Traceback" in err) == verbose
    assert len(err.splitlines()) == 1 or verbose
    assert "\x1b" not in err
    assert "Traceback" in log.read_text()


def test_a_reader_that_goes_is_no_bug() -> None:
    """`ckpt-bpf show FILE | head -1`: no traceback, no message."""
    command = [sys.executable, "-m", "ckpt.cli", "check", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tool:
        assert tool.stdout is not None
        tool.stdout.close()
        assert tool.stderr is not None
        said = tool.stderr.read()
    assert (tool.returncode, said) == (1, b"")


def test_the_newest_image_of_the_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(["b.ckpt", "a.ckpt", "c.ckpt"]):
        Path(name).touch()
        os.utime(name, (1000 - age, 1000 - age))
    Path("d.txt").touch()
    assert cli.main(["restore", "--dry-run"]) == 1
    err = capsys.readouterr().err
    assert "restoring b.ckpt" in err
    assert "b.ckpt: empty file, not an image" in err


def test_the_package_has_functions_where_it_has_modules() -> None:
    for name in ("ckpt.snapshot", "ckpt.restore", "ckpt.verify"):
        load(name)
    assert callable(ckpt.snapshot)
    assert callable(ckpt.restore)
    assert ckpt.open_image.__module__ == "ckpt.restore"
    assert issubclass(ckpt.CkptError, Exception)
    assert set(ckpt.__all__) <= {name for name in ckpt.__all__ if hasattr(ckpt, name)}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ckpt.nonsense


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, ckpt; print([n for n in sys.modules if n.startswith('ckpt.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.fixture
def no_alarm() -> Iterator[None]:
    """Check that no alarm and no handler is left behind."""
    before = signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGINT)
    yield
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert (signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.usefixtures("no_alarm")
def test_a_deadline_ends_what_waits() -> None:
    start = time.monotonic()
    with pytest.raises(TimeLimitError, match=r"not done within 0.1 s: sleep") as caught:  # noqa: SIM117
        with Watch(30, 0.1) as guard:
            guard.step("sleep")
            with released():
                time.sleep(20)
    assert time.monotonic() - start < 5
    assert caught.value.hint == "raise --deadline"


@pytest.mark.usefixtures("no_alarm")
def test_progress_keeps_the_timeout_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_GRACE_S", 0.0)
    with pytest.raises(TimeLimitError, match=r"no progress for 0.3 s: copy"):  # noqa: SIM117
        with Watch(0.3) as guard:
            guard.step("copy")
            for part in range(8):
                time.sleep(0.1)
                guard.advance(part, 8)
            with released():
                time.sleep(20)


@pytest.mark.usefixtures("no_alarm")
def test_a_signal_waits_for_a_safe_point() -> None:
    done = []
    with pytest.raises(InterruptError, match="interrupted by SIGINT"):  # noqa: SIM117
        with Watch() as guard:
            os.kill(os.getpid(), signal.SIGINT)
            done.append("whole")
            guard.step("next")
            done.append("not reached")
    assert done == ["whole"]


@pytest.mark.usefixtures("no_alarm")
def test_a_second_signal_does_not_cut_cleaning_up_short() -> None:
    done = []
    with pytest.raises(InterruptError), Watch() as guard:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            guard.step("next")
        finally:
            with released():
                os.kill(os.getpid(), signal.SIGINT)
            with held():
                done.append("cleaned")
    assert done == ["cleaned"]


def test_what_is_done_is_logged_with_its_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Reporter(str(log)) as report:
        report("survey\x1b[2J of 3", 0, 0)
        report("survey", 10, 20)
    [line] = log.read_text().splitlines()
    assert line.endswith(f"[{os.getpid()}] survey\\x1b[2J of 3")
    assert line[:4].isdigit()
    assert line[10] == "T"
    assert log.stat().st_mode & 0o777 == 0o600
    with pytest.raises(CkptError, match="log cannot be opened"):
        Reporter(str(tmp_path))
