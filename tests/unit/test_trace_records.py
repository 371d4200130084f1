"""The records of bpf/trace.bpf.c, laid out as bpf/trace.h says."""

from __future__ import annotations

from pathlib import Path

from ckpt.host import bpf_trace_records as records
from tests.unit.test_btf import offsets_of, run_c

HEAD = "kind tid tgid padding time_ns comm"
LAYOUTS = {
    "trace_fork": (records.FORK, "child_tid child_tgid"),
    "trace_exec": (records.EXEC, "old_tid padding path"),
    "trace_exit": (records.EXIT, "exit_code is_last"),
    "trace_call": (
        records.CALL,
        "nr is_compat result args[0] args[1] args[2] args[3] args[4] args[5] signo padding",
    ),
    "trace_signal": (
        records.SIGNAL,
        "signo code handler sa_flags fault_address altstack altstack_bytes info_pid bits sent_ns "
        "sender_tid sender_tgid sender_comm",
    ),
    "trace_robust": (records.ROBUST, "futex word status is_pi is_pending"),
    "trace_futex": (records.FUTEX, "futex began_ns result op was_before"),
}
PLAIN = {
    "trace_head": (records.HEAD, HEAD),
    "trace_wait": (
        records.WAIT,
        "futex began_ns op was_before is_interrupted tid tgid padding comm",
    ),
    "trace_restarting": (records.RESTARTING, "is_entered"),
    "trace_target": (records.TARGET, "host_tid host_tgid reader_level"),
}
KINDS = {
    "TRACE_FORK": records.FORK_KIND,
    "TRACE_EXEC": records.EXEC_KIND,
    "TRACE_EXIT": records.EXIT_KIND,
    "TRACE_RESTART_ARMED": records.ARMED_KIND,
    "TRACE_RESTART_ENTERED": records.ENTERED_KIND,
    "TRACE_RESTART_RESULT": records.RESULT_KIND,
    "TRACE_EINTR": records.EINTR_KIND,
    "TRACE_SIGNAL": records.SIGNAL_KIND,
    "TRACE_ALTSTACK": records.ALTSTACK_KIND,
    "TRACE_ROBUST": records.ROBUST_KIND,
    "TRACE_FUTEX": records.FUTEX_KIND,
    "TRACE_SENDER_SEEN": records.SENDER_SEEN,
    "TRACE_TO_PROCESS": records.TO_PROCESS,
    "TRACE_ON_ALTSTACK": records.ON_ALTSTACK,
    "TRACE_FATAL": records.FATAL,
    "TRACE_COUNT_LOST": records.COUNT_LOST,
    "TRACE_COUNT_UNWATCHED": records.COUNT_UNWATCHED,
    "TRACE_RESTARTS_NOTED >> 32": records.RESTARTS_NOTED >> 32,
}


def test_layouts_and_constants(tmp_path: Path) -> None:
    """Offset of every field, size of every struct, value of every constant."""
    asked: dict[str, int] = dict(KINDS)
    for name, (layout, fields) in {**LAYOUTS, **PLAIN}.items():
        base = 0 if name in PLAIN else records.HEAD.size
        places = [base + offset for offset in offsets_of(layout.format)]
        names = fields.split()
        assert len(names) == len(places), name
        for field, place in zip(names, places, strict=True):
            asked[f"__builtin_offsetof(struct {name}, {field})"] = place
        asked[f"sizeof(struct {name})"] = base + layout.size
    asked["__builtin_offsetof(struct trace_restart, restart)"] = (
        records.HEAD.size + records.CALL.size
    )
    prints = "".join(f'printf("%d ", (int)({name}));' for name in asked)
    text = f"""
    #include <linux/types.h>
    #include <stdio.h>
    #include "trace.h"
    int main(void) {{ {prints} }}"""
    found = [int(word) for word in run_c(tmp_path, text).split()]
    assert dict(zip(asked, found, strict=True)) == asked
