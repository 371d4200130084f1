"""`restore --dry-run` says the truth: the kernel sees the calls that it printed, and no others."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ckpt.objects.base import Record
from ckpt.objects.task import ThreadRecord
from tests.live.harness import Build, Case, Target
from tests.live.syscall_trace import Seen, read_calls, traced, tracefs
from tests.live.tickers import (
    TOOL,
    end_process,
    process_exists,
    refusal,
    rewrite_image,
    run_tool,
    tracers,
    wait_for,
)

Json = dict[str, Any]
SYS_EXECVEAT, SYS_MUNMAP, SYS_MREMAP = 322, 11, 25
WORD = (1 << 64) - 1
PROGRAMS = (
    "robust_list",
    "epolls",
    "unix_pairs",
    "signal_corners",
    "posix_timers",
    "creds_caps",
    "seccomp_filter",
    "mem_private_file",
    "leader_exited",
    "locks",
    "itimers",
    "interrupted",
)


@pytest.fixture(scope="module")
def events() -> Iterator[Path]:
    """The kernel's own trace of system calls."""
    with tracefs() as root:
        if root is None:
            pytest.skip("not run: this kernel has no trace events of system calls")
        yield root


def dry_run(image: Path) -> Json:
    """Return what the dry run says."""
    done = run_tool("restore", str(image), "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    found: Json = json.loads(done.stdout)
    return found


def arg_fits(arg: Json, value: int) -> bool:
    """Whether a register holds what was printed of it."""
    if "value" in arg:
        # What is declared as an int has no upper half.
        wanted = arg["value"] & WORD
        return wanted == value or (wanted >> 32 in (0, WORD >> 32) and wanted & WORD >> 32 == value)
    return "later" in arg or value != 0


def fits(call: Json, seen: Seen) -> bool:
    """Whether the kernel saw this call, and gave the result that was expected."""
    known = {
        "exact": call["value"] in (None, seen.result),
        "not_negative": seen.result is not None and seen.result >= 0,
        "any": True,
    }
    return (
        (call["tid"], call["nr"]) == (seen.tid, seen.nr)
        and known[call["expect"]]
        and all(arg_fits(arg, value) for arg, value in zip(call["args"], seen.args, strict=False))
    )


def take_moves(calls: list[Json], seen: list[Seen]) -> int:
    """Return how many calls moved vdso and vvar: as many as were said, to where it was said.

    The kernel has placed them by chance, so their order is not known; none may have to move.
    """
    count = next((i for i, s in enumerate(seen) if s.nr not in (SYS_MREMAP, SYS_MUNMAP)), len(seen))
    moved = [one.result for one in seen[:count] if one.nr == SYS_MREMAP]
    said = [call["value"] for call in calls if call["nr"] == SYS_MREMAP]
    assert len(moved) in (0, len(said))
    assert not moved or set(moved[len(moved) // 2 :]) == set(said) - {None}
    return count


def check_calls(steps: list[Json], seen: list[Seen]) -> None:
    """Check the calls one by one: each was printed, in this order, and none is missing."""
    at = 0
    for step in steps:
        if step["name"] == "move-vdso-and-vvar":
            at += take_moves(step["calls"], seen[at:])
            continue
        for call in step["calls"]:
            if at < len(seen) and fits(call, seen[at]):
                at += 1
                repeats = step["number"] == 0 and call["nr"] == SYS_MUNMAP
                while repeats and fits(call, seen[at]):
                    at += 1
            else:
                assert call["when"], (step["name"], call["text"], seen[at : at + 3])
    assert at == len(seen), seen[at : at + 3]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_kernel_sees_what_was_printed(program: str, build: Build, events: Path) -> None:
    with Target(Case(program), build) as target:
        target.start()
        assert target.wait_ready()
        target.snapshot()
        plan = dry_run(target.image)
        tids = [thread["tid"] for thread in plan["threads"]]
        with traced(events, {target.pid, *tids}) as instance:
            log = target.folder / "calls"
            stop = ("--stop-at", "commit", "--call-log", str(log))
            done = run_tool("restore", str(target.image), *stop)
            seen = read_calls(instance)
            end_process(target.pid)
        assert done.returncode == 0, done.stderr
        born = next(i for i, call in enumerate(seen) if call.nr == SYS_EXECVEAT)
        check_calls(plan["steps"], seen[born + 1 :])
        check_log(log.read_text(), seen[born + 3 :])


def check_log(text: str, seen: list[Seen]) -> None:
    """The call log has the same calls (the tape's own two areas come before it)."""
    lines = [line for line in text.splitlines() if line.startswith("[tid ")]
    assert [int(line[5:].partition("]")[0]) for line in lines] == [call.tid for call in seen]
    for line, call in zip(lines, seen, strict=True):
        shown = line.rpartition(" = ")[2]
        if call.result is not None and call.result >= 0:
            assert int(shown, 0) == call.result, (line, call)
        else:
            assert shown.startswith(("-1 E", "? ERESTART", "?")), (line, call)


def test_text_and_json_say_the_same(build: Build) -> None:
    with Target(Case("robust_list"), build) as target:
        target.start()
        assert target.wait_ready()
        target.snapshot()
        done = run_tool("restore", str(target.image), "--dry-run")
        assert done.returncode == 0, done.stderr
        plan = dry_run(target.image)
        lines = done.stdout.splitlines()
        heads = [f"step {step['number']} {step['name']} (" for step in plan["steps"]]
        shown = [line for line in lines if line.startswith("step ")]
        assert [line[: len(head)] for line, head in zip(shown, heads, strict=True)] == heads
        calls = [call["text"] for step in plan["steps"] for call in step["calls"]]
        assert [line for line in lines if line.startswith("[tid ")] == calls
        for wanted in (
            r"mmap\(0x[0-9a-f]+ \(heap\), \d+, PROT_READ\|PROT_WRITE, MAP_PRIVATE\|",
            r'prctl\(PR_SET_NAME, "robust_list"\) = 0 expected$',
            r"prlimit64\(0, RLIMIT_NOFILE, \{rlim_cur=\d+, rlim_max=\d+\}, NULL\) = 0 expected$",
            r"clone3\(\{flags=CLONE_VM\|.*, set_tid=\[\d+\]\}, 88\) = \d+ expected$",
            r"unshare\(CLONE_NEWTIME\) = 0 expected$",
            r"rt_sigaction\(SIGRTMIN\+1, \{sa_handler=0x[0-9a-f]+ \(libc\S* \S+\), sa_flags=SA_S",
        ):
            assert any(re.search(wanted, call) for call in calls), wanted
        needs = [line for line in lines if line.startswith("    needs born(")]
        assert needs


def test_it_touches_nothing(build: Build, tmp_path: Path) -> None:
    """No process is made, nothing is traced, killed, written or removed."""
    log = tmp_path / "strace"
    with Target(Case("robust_list"), build) as target:
        target.start()
        assert target.wait_ready()
        target.snapshot()
        calls = "clone,clone3,fork,vfork,ptrace,kill,tgkill,pidfd_send_signal,unlink,unlinkat,mkdir"
        calls += ",rename,renameat2,setns,unshare,mount,openat,open,creat"
        done = subprocess.run(
            ["strace", "-f", "-o", str(log), "-e", f"trace={calls}"]
            + [*TOOL, "restore", str(target.image), "--dry-run"],
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert not process_exists(target.pid)
    said = [line.partition(" ")[2].strip() for line in log.read_text().splitlines()]
    touching = [
        line
        for line in said
        if not line.startswith(("open", "+++", "---")) or re.search(r"O_(WRONLY|RDWR|CREAT)", line)
    ]
    assert touching == []


def test_a_call_that_nobody_can_arm(build: Build, tmp_path: Path) -> None:
    """A hostile image, whole and with good checksums, is refused in words."""

    def change(record: Record) -> Record:
        if not isinstance(record, ThreadRecord) or record.interrupted.rearm is None:
            return record
        facts = msgspec.structs.replace(
            record.interrupted.rearm, fn="alarm_timer_nsleep_restart", clockid=77
        )
        call = msgspec.structs.replace(record.interrupted, rearm=facts)
        return msgspec.structs.replace(record, interrupted=call)

    with Target(Case("robust_list"), build) as target:
        target.start()
        assert target.wait_ready()
        target.snapshot()
        other = tmp_path / "other.ckpt"
        rewrite_image(target.image, other, change)
        said = refusal("restore", str(other), "--dry-run", "--trust-image")
        assert "its call cannot be armed" in said


def test_a_call_log_that_cannot_be_written(build: Build, tmp_path: Path) -> None:
    """Nothing of the process is left, whichever way it would have gone on."""
    with Target(Case("robust_list"), build) as target:
        target.start()
        assert target.wait_ready()
        target.snapshot()
        for more in (["--detach"], ["--stop-at", "commit"], []):
            for log in ("/dev/full", str(tmp_path / "no" / "log")):
                said = refusal("restore", str(target.image), "--call-log", log, *more)
                assert f"{log}: call log cannot be " in said
                end_process(target.pid)
                assert not process_exists(target.pid)


def test_a_call_log_of_a_restore_that_stays(build: Build) -> None:
    """The command ends as its process does, and the log is whole all the same."""
    with Target(Case("robust_list"), build) as target:
        target.start()
        assert target.wait_ready()
        target.snapshot()
        log = target.folder / "calls"
        command = [*TOOL, "restore", str(target.image), "--call-log", str(log)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as tool:
            wait_for("the log", lambda: log.exists() and "munmap(0x10000" in log.read_text())
            wait_for("the commit", lambda: not tracers(target.pid))
            os.kill(target.pid, signal.SIGKILL)
            assert tool.wait(30) == -signal.SIGKILL
        lines = log.read_text().splitlines()
        assert lines[0] == "step 0 create"
        assert re.fullmatch(r"step \d+ \(ptrace, tid \d+\): signal mask.*", lines[-1])
        assert re.match(r"\[tid \d+\] close_range\(0, 2, 0\) = 0$", lines[2]), lines[:3]
