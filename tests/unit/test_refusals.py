"""What is refused by name: children, tracers, namespaces; looked at in ourselves and children."""

import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from ckpt.errors import Finding
from ckpt.host.kernel_view import MmView, ThreadView
from ckpt.objects import ipc, namespaces
from ckpt.objects.base import Identities, Options, Process


def process_of(pid: int) -> Process:
    process = Process(pid, Options(), Identities())
    process.tids = [pid]
    return process


@pytest.fixture
def child() -> Iterator[int]:
    """A child that waits, and has ended (and been reaped) afterwards."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    yield pid
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def texts(findings: list[Finding]) -> list[str]:
    assert all(finding.blocker and finding.hint for finding in findings)
    return [str(finding) for finding in findings]


def test_a_process_alone_has_no_ties(child: int) -> None:
    assert list(ipc.survey(process_of(child))) == []


def test_children_are_named(child: int) -> None:
    found = texts([f for f in ipc.survey(process_of(os.getpid())) if str(child) in f.what])
    assert len(found) == 1
    assert "has a child" in found[0]


def test_zombies_are_told_apart(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    (found,) = texts([f for f in ipc.survey(process_of(os.getpid())) if str(child) in f.what])
    assert "was not waited for" in found


def view(**fields: object) -> ThreadView:
    plain = {
        "has_children": False,
        "tracer_tid": 0,
        "has_io_uring": False,
        "has_sysvsem_undo": False,
    }
    return cast(ThreadView, SimpleNamespace(**{**plain, **fields}))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"has_io_uring": True}, "uses io_uring"),
        ({"has_sysvsem_undo": True}, "SEM_UNDO"),
        ({"tracer_tid": os.getpid()}, f"is traced by process {os.getpid()}"),
    ],
)
def test_what_only_a_view_shows(child: int, fields: dict[str, object], text: str) -> None:
    process = process_of(child)
    process.before_views = {child: view(**fields)}
    (found,) = texts(list(ipc.survey(process)))
    assert text in found


def test_our_own_tracing_is_no_tie(child: int) -> None:
    process = process_of(child)
    process.thread_views = {child: view(tracer_tid=os.getpid())}
    ipc.capture(process)
    assert process.findings == []


def test_ties_found_when_frozen_are_refused(child: int) -> None:
    process = process_of(child)
    process.thread_views = {child: view(has_io_uring=True)}
    ipc.capture(process)
    assert [finding.blocker for finding in process.findings] == [True]


def test_aio_and_shared_memory_are_found_in_maps() -> None:
    maps = (
        b"7f00-7f01 rw-s 00000000 00:0f 5 /[aio] (deleted)\n"
        b"7f10-7f20 rw-s 00000000 00:01 6 /SYSV00000000 (deleted)\n"
        b"7f30-7f40 r--p 00000000 08:01 7 /home/SYSV/[aio]\n"
        b"7f50-7f60 rw-p 00000000 00:00 0\n"
    )
    process = cast(Process, SimpleNamespace(read=lambda _: maps))
    mm = cast(MmView, SimpleNamespace(aio_contexts=1))
    found = texts(list(ipc._areas(process, mm)))
    assert [line.split(":")[0] for line in found] == ["area 0x7f00", "area 0x7f10"]


def test_our_own_namespaces_are_not_foreign(child: int) -> None:
    assert list(namespaces.survey(process_of(child))) == []


def test_foreign_namespaces_are_named(child: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = namespaces.read_inode
    changed = {"net": 1, "pid_for_children": 2}

    def read_inode(base: str, kind: str) -> int:
        return changed.get(kind, real(base, kind)) if "task" in base else real(base, kind)

    monkeypatch.setattr(namespaces, "read_inode", read_inode)
    found = texts(list(namespaces.survey(process_of(child))))
    assert [line.partition("(")[2] for line in found] == ["net:[1])", "pid_for_children:[2])"]


def test_threads_of_one_nsproxy_are_looked_at_once() -> None:
    spaces = SimpleNamespace(
        mnt=1, net=1, ipc=1, uts=1, cgroup=1, pid_for_children=1, time=1, time_for_children=1
    )
    process = process_of(os.getpid())
    process.tids = [os.getpid(), os.getpid()]
    shared = SimpleNamespace(nsproxy=7, pid_ns=1, user_ns=1, namespaces=spaces)
    process.thread_views = {os.getpid(): cast(ThreadView, shared)}
    found = [finding.what for finding in namespaces.survey(process)]
    assert len(found) == 6
