"""What belongs to a thread: registers, signals, scheduling, credentials, filters."""

from __future__ import annotations

import pytest

from tests.live.harness import ALL_MODES, Case, Mode, Run

PROGRAMS = (
    "thread_names",
    "many_threads",
    "leader_exited",
    "regs_general",
    "regs_fsgs",
    "xstate_x87",
    "xstate_avx",
    "xstate_avx512",
    "xstate_pkru",
    "xstate_amx",
    "tls_entries",
    "debug_registers",
    "signal_masks",
    "altstack",
    "pending_signals",
    "dispositions",
    "robust_list",
    "rseq_glibc",
    "rseq_own",
    "rseq_section",
    "clear_child_tid",
    "affinity",
    "sched_policy",
    "sched_deadline",
    "ioprio_slack",
    "creds_ids",
    "creds_user",
    "creds_caps",
    "creds_securebits",
    "seccomp_strict",
    "seccomp_filter",
    "seccomp_tight",
    "user_dispatch",
    "membarrier_reg",
    "speculation",
)
CASES = [Case(program) for program in PROGRAMS]


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_thread(run: Run, case: Case, mode: Mode) -> None:
    run(case, mode)
