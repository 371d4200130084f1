"""The one list of every C layout and constant that this project writes down by hand.

Add a line to LAYOUTS for each ctypes structure and each ``struct`` format that mirrors a C type,
and to CONSTANTS for each block of numbers; ``test_abi.py`` compiles a C program against the
installed headers and compares. What is newer than Linux 6.1 is registered with ``since=(6, 8)``,
the first version whose headers have it; with older ones it is not among the tests.
"""

import ctypes
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ckpt.arch.x86_64 import (
    cpu,
    debugregs,
    rearm,
    regs,
    restart,
    rseq,
    timeouts,
    tls,
    xstate,
)
from ckpt.debug import call_flags, core_elf, core_notes
from ckpt.host import terminal
from ckpt.objects import (
    altstack,
    dispositions,
    itimers,
    robust,
    session,
    siginfo,
    timer_ids,
    timers,
)
from ckpt.objects import rseq as rseq_object


class Layout(NamedTuple):
    """What we believe about one C type: its size and where its members lie."""

    c_type: str
    headers: tuple[str, ...]
    size: int
    offsets: dict[str, int]
    """C member (``a.b[1]`` works) to offset in bytes."""
    since: tuple[int, int] = (0, 0)


class Constants(NamedTuple):
    """Names of C constants, or any C expressions, and the values that we wrote down."""

    headers: tuple[str, ...]
    values: dict[str, int]
    since: tuple[int, int] = (0, 0)


def of_ctypes(
    structure: type[ctypes.Structure],
    c_type: str,
    *headers: str,
    rename: Mapping[str, str] | None = None,
    since: tuple[int, int] = (0, 0),
) -> Layout:
    """Describe a ctypes structure; ``rename`` maps our field names to C members.

    A field renamed to the empty string (padding) has no C member.
    """
    names = {field[0]: field[0] for field in structure._fields_} | dict(rename or {})
    offsets = {c: getattr(structure, ours).offset for ours, c in names.items() if c}
    return Layout(c_type, headers, ctypes.sizeof(structure), offsets, since)


def of_format(
    form: struct.Struct | str,
    c_type: str,
    members: Sequence[str],
    *headers: str,
    since: tuple[int, int] = (0, 0),
) -> Layout:
    """Describe a ``struct`` format; ``members`` has one C member a value, "" for none."""
    codes = form.format if isinstance(form, struct.Struct) else form
    offsets: dict[str, int] = {}
    for offset, member in zip(_value_offsets(codes), members, strict=True):
        if member:
            offsets[member] = offset
    return Layout(c_type, headers, struct.calcsize(codes), offsets, since)


def _value_offsets(codes: str) -> list[int]:
    """Find the offset of each value that unpacking yields."""
    order, body = (codes[0], codes[1:]) if codes[0] in "@=<>!" else ("@", codes)
    prefix, count, offsets = order, "", []
    for code in body:
        if code.isdigit():
            count += code
            continue
        repeat = 1 if code == "s" else int(count or 1)
        for _ in range(repeat):
            item = f"{count}s" if code == "s" else code
            prefix += item
            if code != "x":
                offsets.append(struct.calcsize(prefix) - struct.calcsize(order + item))
        count = ""
    return offsets


USER = "sys/user.h"
USER_DESC = ("entry_number", "base_addr", "limit", "")
# node_id and mm_cid are newer than 6.1; the size has not changed.
RSEQ = ("cpu_id_start", "cpu_id", "rseq_cs", "flags", "", "")
SIGNED_DR7_RESERVED = debugregs.DR7_RESERVED - (1 << 64)
PRCTL = ("asm/prctl.h",)


ELF_EHDR = (
    *("e_ident", "e_type", "e_machine", "e_version", "e_entry", "e_phoff", "e_shoff"),
    *("e_flags", "e_ehsize", "e_phentsize", "e_phnum", "e_shentsize", "e_shnum", "e_shstrndx"),
)
ELF_PHDR = (
    *(
        "p_type",
        "p_flags",
        "p_offset",
        "p_vaddr",
        "p_paddr",
        "p_filesz",
        "p_memsz",
        "p_align",
    ),
)
ELF_SHDR = (
    *("sh_name", "sh_type", "sh_flags", "sh_addr", "sh_offset", "sh_size"),
    *("sh_link", "sh_info", "sh_addralign", "sh_entsize"),
)
PROCFS = "sys/procfs.h"
PIDS = ("pr_pid", "pr_ppid", "pr_pgrp", "pr_sid")
PRSTATUS = (
    *("pr_info.si_signo", "pr_info.si_code", "pr_info.si_errno", "pr_cursig"),
    *("pr_sigpend", "pr_sighold", *PIDS),
    *(f"pr_{k}time.tv_{part}" for k in ("u", "s", "cu", "cs") for part in ("sec", "usec")),
    *("pr_reg", "pr_fpvalid"),
)
PRPSINFO = (
    *("pr_state", "pr_sname", "pr_zomb", "pr_nice", "pr_flag", "pr_uid", "pr_gid"),
    *(*PIDS, "pr_fname", "pr_psargs"),
)


def _itimer(unit: str) -> tuple[str, ...]:
    """Name the four members of struct itimerspec or itimerval."""
    kinds = ("it_interval", "it_value")
    return tuple(f"{kind}.tv_{part}" for kind in kinds for part in ("sec", unit))


LAYOUTS: list[Layout] = [
    of_format(core_elf.EHDR, "Elf64_Ehdr", ELF_EHDR, "elf.h"),
    of_format(core_elf.PHDR, "Elf64_Phdr", ELF_PHDR, "elf.h"),
    of_format(core_elf.SHDR, "Elf64_Shdr", ELF_SHDR, "elf.h"),
    of_format(core_notes.PRSTATUS, "struct elf_prstatus", PRSTATUS, PROCFS),
    of_format(core_notes.PRPSINFO, "struct elf_prpsinfo", PRPSINFO, PROCFS),
    of_format(
        core_notes.SIGINFO, "siginfo_t", ("si_signo", "si_errno", "si_code"), "signal.h", "stddef.h"
    ),
    of_ctypes(regs.UserRegs, "struct user_regs_struct", USER),
    of_format(regs._REGS, "struct user_regs_struct", regs.REG_NAMES, USER),
    # The C structure's bit fields have no offsets.
    of_format(tls.USER_DESC, "struct user_desc", USER_DESC, "asm/ldt.h"),
    of_format(rseq.RSEQ, "struct rseq", RSEQ, "linux/rseq.h"),
    of_format(rseq.RSEQ_CS, "struct rseq_cs", rseq.RseqCs._fields, "linux/rseq.h"),
    of_format(
        rseq_object.RSEQ_CONFIGURATION,
        "struct ptrace_rseq_configuration",
        ("rseq_abi_pointer", "rseq_abi_size", "signature", "flags", "pad"),
        "linux/ptrace.h",
    ),
    # The kernel's own struct sigaction, not the C library's.
    of_format(
        dispositions.SIGACTION,
        "struct sigaction",
        ("sa_handler", "sa_flags", "sa_restorer", "sa_mask"),
        "linux/types.h",
        "asm/signal.h",
    ),
    of_format(altstack.STACK_T, "stack_t", ("ss_sp", "ss_flags", "ss_size"), "signal.h"),
    of_format(timers.ITIMERSPEC, "struct itimerspec", _itimer("nsec"), "time.h"),
    of_format(itimers.ITIMERVAL, "struct itimerval", _itimer("usec"), "sys/time.h"),
    of_format(
        timer_ids.SIGEVENT,
        "struct sigevent",
        ("sigev_value", "sigev_signo", "sigev_notify", "_sigev_un._tid"),
        "signal.h",
    ),
]

CONSTANTS: list[Constants] = [
    Constants(
        ("elf.h",),
        {
            "NT_PRPSINFO": core_notes.NT_PRPSINFO,
            "NT_PRFPREG": core_notes.NT_PRFPREG,
            "NT_AUXV": core_notes.NT_AUXV,
            "NT_FILE": core_notes.NT_FILE,
            "NT_SIGINFO": core_notes.NT_SIGINFO,
            "NT_386_TLS": core_notes.NT_386_TLS,
            "NT_X86_XSTATE": core_notes.NT_X86_XSTATE,
            "PN_XNUM": core_elf.PN_XNUM,
            "ET_CORE": core_elf.ET_CORE,
            "EM_X86_64": core_elf.EM_X86_64,
            "PT_LOAD": core_elf.PT_LOAD,
            "PT_NOTE": core_elf.PT_NOTE,
        },
    ),
    Constants(("elf.h",), {"NT_PRSTATUS": regs.NT_PRSTATUS, "NT_X86_XSTATE": xstate.NT_X86_XSTATE}),
    Constants(
        (USER, "stddef.h"),
        {
            "offsetof(struct user, u_debugreg)": debugregs.DEBUGREG_OFFSET,
            "offsetof(struct user, u_debugreg[7])": debugregs.debugreg_offset(7),
            "offsetof(struct user_fpregs_struct, mxcsr)": xstate.MXCSR_OFFSET,
            "offsetof(struct user_fpregs_struct, mxcr_mask)": xstate.MXCSR_MASK_OFFSET,
            "offsetof(struct user_fpregs_struct, st_space)": 32,
            "offsetof(struct user_fpregs_struct, xmm_space)": 160,
            "offsetof(struct user_fpregs_struct, padding)": 416,
            "sizeof(struct user_fpregs_struct)": xstate.LEGACY_SIZE,
        },
    ),
    Constants(
        ("asm/sigcontext.h",),
        {
            "offsetof(struct _fpstate_64, sw_reserved)": xstate.SW_RESERVED_OFFSET,
            "sizeof(struct _fpx_sw_bytes)": xstate.SW_RESERVED_SIZE,
            "sizeof(struct _header)": xstate.HEADER_SIZE,
        },
    ),
    Constants(("asm/debugreg.h",), {"(unsigned)DR_STATUS": debugregs.DR_STATUS, "DR_CONTROL": 7}),
    Constants(("asm/debugreg.h",), {"(long long)DR_CONTROL_RESERVED": SIGNED_DR7_RESERVED}),
    Constants(("asm/ldt.h",), {"LDT_ENTRIES": 8192, "LDT_ENTRY_SIZE": tls.LDT_ENTRY_SIZE}),
    Constants(
        ("asm/ptrace-abi.h",),
        {"PTRACE_GET_THREAD_AREA": 25, "PTRACE_SET_THREAD_AREA": tls.PTRACE_SET_THREAD_AREA},
    ),
    Constants(PRCTL, {f"ARCH_{code.name}": code for code in cpu.ArchPrctl if code < 0x4000}),
    Constants(PRCTL, {f"ARCH_{c.name}": c for c in cpu.ArchPrctl if c >= 0x4000}, since=(6, 6)),
    Constants(
        ("linux/prctl.h",),
        {
            "PR_GET_TSC": cpu.PR_GET_TSC,
            "PR_SET_TSC": cpu.PR_SET_TSC,
            "PR_TSC_ENABLE": cpu.TscMode.ENABLE,
            "PR_TSC_SIGSEGV": cpu.TscMode.SIGSEGV,
        },
    ),
    Constants(
        ("linux/audit.h",),
        {"AUDIT_ARCH_X86_64": cpu.AUDIT_ARCH_X86_64, "AUDIT_ARCH_I386": cpu.AUDIT_ARCH_I386},
    ),
    Constants(
        ("linux/futex.h",),
        {
            "FUTEX_WAIT": timeouts.FUTEX_WAIT,
            "FUTEX_LOCK_PI": timeouts.FUTEX_LOCK_PI,
            "FUTEX_WAIT_BITSET": timeouts.FUTEX_WAIT_BITSET,
            "FUTEX_WAIT_REQUEUE_PI": timeouts.FUTEX_WAIT_REQUEUE_PI,
            "FUTEX_LOCK_PI2": timeouts.FUTEX_LOCK_PI2,
            "FUTEX_CLOCK_REALTIME": timeouts.FUTEX_CLOCK_REALTIME,
        },
    ),
    Constants(
        ("linux/net.h",),
        {f"SYS_{name.upper()}": number for number, name in timeouts._SOCKETCALLS.items()},
    ),
    Constants(
        ("linux/ipc.h",), {name.upper(): number for number, name in timeouts._IPC_CALLS.items()}
    ),
    Constants(
        ("time.h",),
        {
            "CLOCK_REALTIME": timeouts.CLOCK_REALTIME,
            "CLOCK_MONOTONIC": timeouts.CLOCK_MONOTONIC,
            "TIMER_ABSTIME": timeouts.TIMER_ABSTIME,
            "CLOCK_REALTIME_ALARM": rearm._ALARM_CLOCKS[0],
            "CLOCK_BOOTTIME_ALARM": rearm._ALARM_CLOCKS[1],
        },
    ),
    Constants(("errno.h",), {"EINTR": restart.EINTR}),
    Constants(
        ("signal.h", "time.h", "stddef.h"),
        {
            "SS_DISABLE": altstack.SS_DISABLE,
            "SI_USER": siginfo.SI_USER,
            "SI_KERNEL": siginfo.SI_KERNEL,
            "SI_TIMER": siginfo.SI_TIMER,
            "sizeof(siginfo_t)": siginfo.SIGINFO_BYTES,
            "offsetof(siginfo_t, si_pid)": 16,
            "offsetof(siginfo_t, si_timerid)": 16,
            "SIGEV_NONE": timers.SIGEV_NONE,
            "SIGEV_THREAD_ID": timers.SIGEV_THREAD_ID,
            "CLOCK_BOOTTIME": timers.CLOCK_BOOTTIME,
            "CLOCK_TAI": timers.CLOCK_TAI,
            "CLOCK_THREAD_CPUTIME_ID": timer_ids.CLOCK_THREAD_CPUTIME_ID,
        },
    ),
    Constants(("linux/futex.h",), {"sizeof(struct robust_list_head)": robust.HEAD_BYTES}),
    Constants(("asm/ioctls.h",), {"TIOCSCTTY": session.TIOCSCTTY}),
    Constants(("linux/capability.h",), {"CAP_WAKE_ALARM": timers.CAP_WAKE_ALARM}),
    Constants(("sys/wait.h",), {"__WALL": terminal._WALL}),
    *(
        Constants(
            names.headers,
            {names.prefix + name: value for name, value in names.values.items()},
            names.since,
        )
        for names in call_flags.SETS.values()
    ),
]
