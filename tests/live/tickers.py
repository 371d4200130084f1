"""A process that shows whether anything has happened to it, and the tool run against it."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from ckpt.errors import Finding
from ckpt.image.header import Header
from ckpt.image.writer import ImageWriter
from ckpt.objects.base import Record
from ckpt.restore import open_image

TOOL = (sys.executable, "-m", "ckpt.cli")
ROOT = Path(__file__).resolve().parent.parent.parent
WAITS = ("nanosleep", "epoll_wait", "sigtimedwait", "futex", "poll")
_COUNTER = struct.Struct("<4Q")
LIMIT_S = 30.0


def run_tool(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run ckpt-bpf and return what it said."""
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [*TOOL, *args],
        **{"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 60}
        | options,
    )


def refusal(*args: str, **options: object) -> str:
    """Run ckpt-bpf, which must fail well, and return what it said on stderr."""
    done = run_tool(*args, **options)
    check_refusal(done.returncode, done.stderr)
    return done.stderr


def check_refusal(code: int, said: str) -> None:
    """Check that a failure was told as one."""
    assert code == 1, said
    assert said.startswith("ckpt-bpf: "), said
    assert "Traceback" not in said, said
    assert "internal error" not in said, said


def wait_for(what: str, condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Poll until `condition` holds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: did not happen within {limit_s:g} s"
        time.sleep(0.002)


class Counter(NamedTuple):
    """What one thread of `ticker` has counted."""

    rounds: int
    eintr: int
    wrong: int
    unused: int


class Shape(NamedTuple):
    """What others see of a process, and what must not change: threads, areas, descriptors."""

    tids: list[int]
    areas: list[str]
    fds: dict[str, str]


def read_shape(pid: int) -> Shape:
    """Look at a process. The heap's end may move by itself in no program that we use."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    fds = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    return Shape(sorted(map(int, os.listdir(f"/proc/{pid}/task"))), maps, fds)


def tracers(pid: int) -> set[int]:
    """Return who traces the threads of a process."""
    found = set()
    for tid in os.listdir(f"/proc/{pid}/task"):
        text = Path(f"/proc/{pid}/task/{tid}/status").read_text()
        found |= {int(number) for number in re.findall(r"^TracerPid:\s*(\d+)", text, re.M)}
    return found - {0}


class Ticker:
    """A running `ticker` in a folder of its own; use as a context manager."""

    def __init__(self, binary: Path, folder: Path | None = None) -> None:
        self._own = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="ckpt-ticker-"))
        self.image = self.folder / "image.ckpt"
        self._proc = subprocess.Popen(
            [binary, self.folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.pid = self._proc.pid
        wait_for("the ticker's start", (self.folder / "ready").exists)
        self.shape = read_shape(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        if self._own:
            for path in self.folder.iterdir():
                path.unlink()
            self.folder.rmdir()

    def counters(self) -> list[Counter]:
        """Return what each thread has counted so far."""
        data = (self.folder / "counters").read_bytes()
        return [Counter(*_COUNTER.unpack_from(data, i * _COUNTER.size)) for i in range(len(WAITS))]

    def check_ticks(self) -> None:
        """Check that every thread goes round."""
        before = self.counters()
        wait_for(
            "every thread's tick",
            lambda: all(
                now.rounds >= then.rounds + 3
                for now, then in zip(self.counters(), before, strict=True)
            ),
        )

    def eintrs(self) -> dict[str, int]:
        """Return how many EINTRs each kind of wait has seen, where there were any."""
        found = zip(WAITS, self.counters(), strict=True)
        assert all(counter.wrong == 0 for counter in self.counters()), self.counters()
        return {name: counter.eintr for name, counter in found if counter.eintr}

    def check_untouched(self, eintrs: int = 0) -> None:
        """Check that it runs, that nobody traces it, that it looks the same, and saw no EINTR.

        `eintrs` is how many each kind of wait may have seen for reasons that are not the tool's.
        """
        self.check_ticks()
        assert not tracers(self.pid)
        assert read_shape(self.pid) == self.shape
        assert all(count <= eintrs for count in self.eintrs().values()), self.eintrs()

    def is_still(self) -> bool:
        """Tell whether nothing is counted for as long as several rounds take."""
        before = self.counters()
        time.sleep(0.05)
        return self.counters() == before

    def reap(self) -> None:
        """Wait for the end of the process that a snapshot killed: its pid is free then."""
        self._proc.wait(LIMIT_S)

    def has_ended_within(self, limit_s: float) -> bool:
        """Tell whether it ends within a time."""
        try:
            self._proc.wait(limit_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> None:
        """Kill and reap it, started or restored (then a subreaper's child)."""
        if self._proc.poll() is None:
            self._proc.kill()
            self._proc.wait(LIMIT_S)
        end_process(self.pid)


def end_process(pid: int) -> None:
    """Kill and reap a child of ours, by adoption too; nothing if there is none."""
    try:
        if os.waitpid(pid, os.WNOHANG) == (0, 0):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    except (ChildProcessError, ProcessLookupError):
        pass


def process_exists(pid: int) -> bool:
    """Tell whether there is such a process, a zombie included."""
    return os.path.exists(f"/proc/{pid}")


@contextmanager
def started(*command: str | Path, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command and end it."""
    proc = subprocess.Popen(command, **options)  # type: ignore[call-overload]
    try:
        yield proc
    finally:
        proc.kill()
        proc.wait(LIMIT_S)
        for name in ("stdin", "stdout", "stderr"):
            if (stream := getattr(proc, name)) is not None:
                stream.close()


def rewrite_image(
    source: Path,
    out: Path,
    change: Callable[[Record], Record] = lambda record: record,
    header: Callable[[Header], Header] = lambda header: header,
) -> None:
    """Write `source` again with other records or another header, whole and with good checksums."""
    with open_image(str(source)) as image, ImageWriter.create(str(out)) as writer:
        for item in image.pages.values():
            offset = writer.pages.begin(item.ref, item.length_bytes)
            content = os.pread(image.fd, item.length_bytes, item.file_offset)
            writer.pages.write_at(offset, content)
            writer.pages.end(item.ref, item.extents)
        writer.write_header(header(image.header))
        writer.write_records(change(record) for record in image.records)
        writer.commit()


def texts(findings: Iterator[Finding]) -> list[str]:
    """Return findings as lines."""
    return [str(finding) for finding in findings]
