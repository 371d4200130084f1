"""Session and rseq: records to steps, and what they parse."""

import os
import struct
import tempfile

import pytest

from ckpt.objects import rseq, session
from ckpt.objects.base import Builder, HostFacts, Options, ProcessRecord, Records
from ckpt.objects.steps import Expect, Step, fds_placed, memory_filled, session_set

PROCESS = ProcessRecord(
    tgid=100,
    tids=[100],
    leader_alive=True,
    stopped_by=0,
    mm=1,
    files=2,
    fs=3,
    sighand=4,
)


def plan_of(module: object, *records: object) -> Builder:
    build = Builder(HostFacts(), Options(), 3)
    module.plan(Records((PROCESS, *records)), build)  # type: ignore[attr-defined,arg-type]
    return build


def settled(pgid: int, sid: int, tty: int = 0, fds: tuple[int, ...] = ()) -> Builder:
    record = session.SessionRecord(
        tgid=100, pgid=pgid, sid=sid, tty=tty, is_foreground=False, tty_fds=list(fds)
    )
    return plan_of(session, record)


@pytest.mark.parametrize(
    ("pgid", "sid", "nr", "value"),
    [(100, 100, 112, 100), (100, 50, 109, 0), (60, 50, 39, 100)],
)
def test_what_a_process_was_it_becomes(pgid: int, sid: int, nr: int, value: int) -> None:
    (step,) = settled(pgid, sid).steps
    assert (step.calls[0].nr, step.calls[0].value) == (nr, value)
    assert step.provides == (session_set(100),)


def test_session_leader_asks_for_its_terminal_back() -> None:
    build = settled(100, 100, tty=0x8803, fds=(0, 1, 2, 255))
    step: Step = build.steps[1]
    assert [call.args for call in step.calls] == [(fd, 0x540E, 0) for fd in (0, 1, 2)]
    assert {call.expect for call in step.calls} == {Expect.ANY}
    assert set(step.after) == {fds_placed(2), session_set(100)}
    assert len(build.findings) == 1


def test_stat_with_an_awkward_name() -> None:
    raw = session.parse_stat(b"412 (a) S 9 (b) S 1 400 300 34819 400 4194304 100 0")
    assert raw == session.Raw(400, 300, 34819, 400)
    assert session._same_device(os.makedev(136, 3), 34819)


DESCRIPTOR = struct.pack("<IIQQQ", 0, 0, 0x1000, 0x20, 0x2004)


@pytest.mark.parametrize(
    ("signature", "ip", "expected"),
    [(0x53053053, 0x1008, 0x2004), (1, 0x1008, 0), (0x53053053, 0x1020, 0)],
)
def test_abort_is_taken_inside_and_behind_the_signature(
    signature: int, ip: int, expected: int
) -> None:
    with tempfile.TemporaryFile() as memory:
        os.pwrite(memory.fileno(), struct.pack("<IIQ", 0, 0, 0x3000), 0x500)
        os.pwrite(memory.fileno(), DESCRIPTOR, 0x3000)
        os.pwrite(memory.fileno(), struct.pack("<I", 0x53053053), 0x2000)
        assert rseq.read_abort_ip(memory.fileno(), 0x500, signature, ip) == expected


def test_unreadable_area_aborts_nothing() -> None:
    with tempfile.TemporaryFile() as memory:
        assert rseq.read_abort_ip(memory.fileno(), 0x500, 1, 0x1008) == 0


def test_rseq_registers_after_the_memory_is_there() -> None:
    record = rseq.RseqRecord(tid=100, address=0x7000, length=32, signature=0x53053053)
    (step,) = plan_of(rseq, record).steps
    assert (step.calls[0].nr, step.calls[0].args) == (334, (0x7000, 32, 0, 0x53053053))
    assert memory_filled(100) in step.needs


def test_thread_inside_a_critical_section_goes_on_at_its_abort_address() -> None:
    record = rseq.RseqRecord(tid=100, address=0x7000, length=32, signature=1, abort_ip=0x2004)
    assert plan_of(rseq, record).final_rips == {100: 0x2004}
