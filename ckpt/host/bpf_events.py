"""Forks, execs, exits and restarts of watched processes, while a ``with`` lasts.

Attaching patches kernel text and takes milliseconds, so it belongs before the freeze.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from ckpt.host import bpf_records as records
from ckpt.host.bpf_decode_thread import decode_restart
from ckpt.host.kernel_view import TaskEvent

if TYPE_CHECKING:
    from ckpt.host.bpf_load import Libbpf, Loaded
    from ckpt.host.kallsyms import Symbols

# enum events_kind, bpf/events.h
_KINDS: Final = {1: "fork", 2: "exec", 3: "exit", 4: "restart_armed", 5: "restart_syscall"}
_FIRST_RESTART_KIND: Final = 4
_RESTART_TRACEPOINTS: Final = frozenset({"sys_enter", "sys_exit"})
_FIRST_RESTART_FIELD: Final = 7


class TaskEvents:
    """A running watch over a process and what it forks.

    ``host_tgid`` is the process in the initial pid namespace, ``pid_level`` the level of the
    namespace that events number tasks in. ``restarts`` also records armed restart blocks; this
    makes every system call of the machine a little slower meanwhile.
    """

    def __init__(
        self,
        lib: Libbpf,
        loaded: Loaded,
        symbols: Symbols,
        host_tgid: int,
        pid_level: int,
        *,
        restarts: bool,
    ) -> None:
        self._lib = lib
        self._symbols = symbols
        self._lost_fd = loaded.maps["lost"]
        self._lost_before = self._read_lost()
        self._samples: list[bytes] = []
        watched, key = loaded.maps["watched"], host_tgid.to_bytes(4, "little")
        with contextlib.ExitStack() as undo:
            lib.update_element(watched, key, pid_level.to_bytes(4, "little"))
            undo.callback(lib.delete_element, watched, key)
            self._ring = lib.open_ring(loaded.maps["ring"], self._samples.append)
            undo.callback(self._ring.close)
            for program, fd in loaded.programs.values():
                if restarts or program.attach not in _RESTART_TRACEPOINTS:
                    undo.callback(os.close, lib.attach_tracepoint(program, fd))
            self._undo = undo.pop_all()

    def __enter__(self) -> TaskEvents:
        return self

    def __exit__(self, *_reason: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach; what was not drained is gone."""
        self._undo.close()

    def _read_lost(self) -> int:
        return int.from_bytes(self._lib.lookup_element(self._lost_fd, bytes(4), 8), "little")

    @property
    def lost(self) -> int:
        """How many events did not fit into the ring buffer since the watch began."""
        return self._read_lost() - self._lost_before

    def drain(self) -> list[TaskEvent]:
        """Return the events since the last call, in the order in which they happened."""
        self._ring.consume()
        events = [self._decode(sample) for sample in self._samples]
        self._samples.clear()
        # Two CPUs may reserve their places in the ring in another order than they took the time.
        return sorted(events, key=lambda event: event.time_ns)

    def _decode(self, sample: bytes) -> TaskEvent:
        fields = records.EVENTS_RECORD.unpack(sample)
        record = records.EventsRecord(*fields)
        is_restart = record.kind >= _FIRST_RESTART_KIND
        return TaskEvent(
            kind=_KINDS[record.kind],
            time_ns=record.time_ns,
            tid=record.tid,
            tgid=record.tgid,
            other_tid=record.other_tid,
            other_tgid=record.other_tgid,
            syscall=record.syscall if is_restart else None,
            restart=decode_restart(fields[_FIRST_RESTART_FIELD:], self._symbols)
            if is_restart
            else None,
        )
