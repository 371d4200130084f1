"""Formats of what bpf/trace.bpf.c writes; a unit test compares them with bpf/trace.h."""

from __future__ import annotations

import struct
from typing import Final

HEAD: Final = struct.Struct("<IiiIQ16s")
"""struct trace_head: kind, tid, tgid, padding, time_ns, comm."""
FORK: Final = struct.Struct("<ii")
"""struct trace_fork, as all below without the head: child_tid, child_tgid."""
EXEC: Final = struct.Struct("<iI128s")
"""struct trace_exec: old_tid, padding, path."""
EXIT: Final = struct.Struct("<iI")
"""struct trace_exit: exit_code, is_last."""
CALL: Final = struct.Struct("<iIq6QiI")
"""struct trace_call: nr, is_compat, result, args, signo, padding; trace_restart goes on."""
SIGNAL: Final = struct.Struct("<2i5QiIQ2i16s")
"""struct trace_signal: signo, code, handler, sa_flags, fault_address, altstack, altstack_bytes,
info_pid, bits, sent_ns, sender_tid, sender_tgid, sender_comm."""
ROBUST: Final = struct.Struct("<Q4I")
"""struct trace_robust: futex, word, status, is_pi, is_pending."""
FUTEX: Final = struct.Struct("<2Qq2I")
"""struct trace_futex: futex, began_ns, result, op, was_before."""
WAIT: Final = struct.Struct("<2Q3I2iI16s")
"""struct trace_wait: futex, began_ns, op, was_before, is_interrupted, tid, tgid, padding, comm."""
RESTARTING: Final = struct.Struct("<I")
"""struct trace_restarting: is_entered."""
TARGET: Final = struct.Struct("<iiI")
"""struct trace_target: host_tid, host_tgid, reader_level."""

# enum trace_kind
FORK_KIND: Final = 1
EXEC_KIND: Final = 2
EXIT_KIND: Final = 3
ARMED_KIND: Final = 4
ENTERED_KIND: Final = 5
RESULT_KIND: Final = 6
EINTR_KIND: Final = 7
SIGNAL_KIND: Final = 8
ALTSTACK_KIND: Final = 9
ROBUST_KIND: Final = 10
FUTEX_KIND: Final = 11

# enum trace_signal_bits
SENDER_SEEN: Final = 0x1
TO_PROCESS: Final = 0x2
ON_ALTSTACK: Final = 0x4
FATAL: Final = 0x8

# enum trace_count
COUNT_LOST: Final = 0
COUNT_UNWATCHED: Final = 1

RESTARTS_NOTED: Final = 1 << 32
"""TRACE_RESTARTS_NOTED"""
