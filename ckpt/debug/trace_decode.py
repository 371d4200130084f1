"""Turns the records of bpf/trace.bpf.c into events: names for numbers, symbols for addresses.

Symbols and descriptors are looked up while the traced process runs on, when an event is decoded;
one that has ended meanwhile leaves its addresses without names.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

from ckpt.debug.call_args import CallDecoder
from ckpt.debug.call_flags import name_value
from ckpt.debug.fd_names import FdNames
from ckpt.debug.inspect_restart import restart_arguments, time_left_ns
from ckpt.debug.text import escape_bytes
from ckpt.debug.trace_events import (
    AnyEvent,
    Armed,
    Eintr,
    Exec,
    Exit,
    Fork,
    FutexWait,
    RestartEntered,
    RestartResult,
    Robust,
)
from ckpt.debug.trace_places import Places
from ckpt.debug.trace_signals import decode_altstack, decode_signal
from ckpt.host import bpf_trace_records as records
from ckpt.host.bpf_decode_thread import decode_restart
from ckpt.host.bpf_records import RESTART
from ckpt.objects.siginfo import name_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt.host.bpf_trace import StillWaiting
    from ckpt.host.kallsyms import Symbols

_ERESTART_RESTARTBLOCK: Final = -516
_ERESTARTSYS: Final = -512
_AGAIN: Final = {
    _ERESTARTSYS: "made once more",
    -513: "made once more",
    -514: "made once more",
    _ERESTART_RESTARTBLOCK: "interrupted again",
}
_OWNER_DIES: Final = 0
_PROBLEMS: Final = {
    1: "the rest cannot be read at the moment",
    2: "there are more than the tracer follows",
    3: "the memory is gone already",
}
"""enum trace_robust_status, bpf/trace.h."""
_FUTEX_WAITERS: Final = 0x80000000
_MAX_ERRNO: Final = 4095


class Decoder:
    """Decodes the records of one trace. Use as a context manager."""

    def __init__(self, symbols: Symbols) -> None:
        self._symbols = symbols
        self._places = Places()
        self._kinds: dict[int, Callable[[dict[str, Any], bytes], AnyEvent]] = {
            records.FORK_KIND: _fork,
            records.EXEC_KIND: self._exec,
            records.EXIT_KIND: self._exit,
            records.ARMED_KIND: self._armed,
            records.ENTERED_KIND: self._restart_entered,
            records.RESULT_KIND: _restart_result,
            records.EINTR_KIND: self._eintr,
            records.SIGNAL_KIND: lambda head, body: decode_signal(head, body, self._places),
            records.ALTSTACK_KIND: lambda head, body: decode_altstack(head, body, self._places),
            records.ROBUST_KIND: self._robust,
            records.FUTEX_KIND: self._futex,
        }

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._places.close()

    def decode(self, record: bytes) -> AnyEvent:
        """Return the event of one record."""
        kind, tid, tgid, _, time_ns, comm = records.HEAD.unpack_from(record)
        head = {"time_ns": time_ns, "tid": tid, "tgid": tgid, "comm": _text(comm)}
        return self._kinds[kind](head, record[records.HEAD.size :])

    def still_waiting(self, wait: StillWaiting, now_ns: int) -> FutexWait:
        """Return the event of a wait that has not ended."""
        return FutexWait(
            time_ns=now_ns,
            tid=wait.tid,
            tgid=wait.tgid,
            comm=_text(wait.comm),
            futex=wait.futex,
            place=self._places.locate(wait.tgid, wait.futex),
            operation=name_value("futex", wait.op),
            began_ns=wait.began_ns,
            lasted_ns=now_ns - wait.began_ns,
            result=None,
            meaning="",
            was_before=wait.was_before,
        )

    def _exec(self, head: dict[str, Any], body: bytes) -> AnyEvent:
        old_tid, _, path = records.EXEC.unpack_from(body)
        self._places.forget(head["tgid"])
        return Exec(**head, path=_text(path), old_tid=old_tid)

    def _exit(self, head: dict[str, Any], body: bytes) -> AnyEvent:
        code, is_last = records.EXIT.unpack_from(body)
        signo = code & 0x7F
        if is_last:
            self._places.forget(head["tgid"])
        return Exit(
            **head,
            status=None if signo else code >> 8 & 0xFF,
            signal=name_of(signo) if signo else None,
            has_dumped_core=bool(code & 0x80),
            is_last=bool(is_last),
        )

    def _call(self, head: dict[str, Any], body: bytes) -> tuple[str, int, int, int]:
        """Return the call as text, its number, its result and the signal that ended it."""
        nr, is_compat, result, *args, signo, _ = records.CALL.unpack_from(body)
        with FdNames(head["tgid"], head["tid"]) as names:
            decoder = CallDecoder(self._places.pointers(head["tgid"]), names.name)
            text = decoder.decode(nr, tuple(args), is_i386=bool(is_compat)).text
        return text, nr, result, signo

    def _restart(self, head: dict[str, Any], body: bytes) -> tuple[str, dict[str, str], int | None]:
        """Return function, arguments and time left of the restart_block in a record."""
        block = decode_restart(RESTART.unpack_from(body, records.CALL.size), self._symbols)
        if block is None:
            return "do_no_restart_syscall", {}, None
        pointers = self._places.pointers(head["tgid"])
        arguments, clockid, expires_ns = restart_arguments(block, pointers.name)
        left_ns = None if clockid is None else time_left_ns(clockid, expires_ns, head["time_ns"])
        return block.fn, arguments, left_ns

    def _armed(self, head: dict[str, Any], body: bytes) -> AnyEvent:
        call, nr, _, _ = self._call(head, body)
        function, arguments, left_ns = self._restart(head, body)
        return Armed(
            **head, call=call, nr=nr, function=function, arguments=arguments, left_ns=left_ns
        )

    def _restart_entered(self, head: dict[str, Any], body: bytes) -> AnyEvent:
        function, arguments, left_ns = self._restart(head, body)
        return RestartEntered(**head, function=function, arguments=arguments, left_ns=left_ns)

    def _eintr(self, head: dict[str, Any], body: bytes) -> AnyEvent:
        call, nr, _, signo = self._call(head, body)
        return Eintr(**head, call=call, nr=nr, signal=name_of(signo) if signo else None)

    def _robust(self, head: dict[str, Any], body: bytes) -> AnyEvent:
        futex, word, status, is_pi, is_pending = records.ROBUST.unpack_from(body)
        return Robust(
            **head,
            futex=futex,
            place=self._places.locate(head["tgid"], futex),
            word=word,
            has_waiters=bool(word & _FUTEX_WAITERS),
            is_pi=bool(is_pi),
            is_pending=bool(is_pending),
            problem="" if status == _OWNER_DIES else _PROBLEMS[status],
        )

    def _futex(self, head: dict[str, Any], body: bytes) -> AnyEvent:
        futex, began_ns, result, op, was_before = records.FUTEX.unpack_from(body)
        return FutexWait(
            **head,
            futex=futex,
            place=self._places.locate(head["tgid"], futex),
            operation=name_value("futex", op),
            began_ns=began_ns,
            lasted_ns=head["time_ns"] - began_ns,
            result=result,
            meaning=meaning_of(result),
            was_before=bool(was_before),
        )


def _text(raw: bytes) -> str:
    return escape_bytes(raw.split(b"\0", 1)[0])


def _fork(head: dict[str, Any], body: bytes) -> AnyEvent:
    child_tid, child_tgid = records.FORK.unpack_from(body)
    return Fork(**head, child_tid=child_tid, child_tgid=child_tgid)


def _restart_result(head: dict[str, Any], body: bytes) -> AnyEvent:
    _, _, result, *_ = records.CALL.unpack_from(body)
    return RestartResult(**head, result=result, meaning=meaning_of(result))


def meaning_of(result: int) -> str:
    """Return what the result of a call says beyond its number; empty for a success."""
    import errno

    if result in _AGAIN:
        return _AGAIN[result]
    if not -_MAX_ERRNO <= result < 0:
        return ""
    return errno.errorcode.get(-result, os.strerror(-result))


def now_ns() -> int:
    """Return the clock that events tell."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
