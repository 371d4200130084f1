"""Credentials of each thread: ids, groups, capabilities, securebits, no_new_privs.

Owns struct cred except its keyrings, which nobody can see from outside, and LSM labels, which are
recorded for the warning only. Threads share nothing of their credentials after clone; they are
kept together here, one record for all that are alike.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, ClassVar, Final

from ckpt.host.facts import U32, Credentials
from ckpt.host.status import parse_credentials
from ckpt.objects.base import Record
from ckpt.objects.statuses import Statuses, read_statuses
from ckpt.objects.steps import (
    Blob,
    Call,
    Expect,
    Token,
    born,
    creds_set,
    fds_placed,
    fs_set,
    limits_set,
    memory_filled,
    mm_fields_set,
    seccomp_set,
    session_set,
    threads_exist,
    timers_armed,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.objects.base import Builder, Process, ProcessRecord, Records

# `arch/x86/entry/syscalls/syscall_64.tbl`, 6.18.
SYS_SETRESUID: Final = 117
SYS_SETRESGID: Final = 119
SYS_SETGROUPS: Final = 116
SYS_SETFSUID: Final = 122
SYS_SETFSGID: Final = 123
SYS_CAPSET: Final = 126
SYS_PRCTL: Final = 157

# `include/uapi/linux/prctl.h`, 6.18.
PR_CAPBSET_DROP: Final = 24
PR_SET_SECUREBITS: Final = 28
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_RAISE: Final = 2
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

SECBIT_NO_SETUID_FIXUP: Final = 1 << 2
"""`include/uapi/linux/securebits.h`"""
CAP_SETGID: Final = 6
CAP_SETUID: Final = 7
CAP_SETPCAP: Final = 8
CAPABILITY_VERSION_3: Final = 0x20080522
"""`include/uapi/linux/capability.h`"""

_NO_LABEL = frozenset({"", "unconfined", "kernel"})


class CredsRecord(Record, frozen=True, tag="creds"):
    """The credentials that all of `tids` have."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset()

    tgid: int
    tids: list[int]
    credentials: Credentials
    securebits: U32 | None
    """SECBIT_*; None: could not be seen, taken as what the restorer has."""
    label: str
    """LSM label of the process (/proc/PID/attr/current), "" where there is none."""


RECORDS = (CredsRecord,)


def capture(process: Process) -> tuple[Statuses, str]:
    """Read status files and the LSM label."""
    return read_statuses(process), _read_label(process)


def _read_label(process: Process) -> str:
    try:
        return process.read("attr/current").rstrip(b"\0\n").decode("utf-8", "replace")
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP):
            return ""  # No security module answers here.
        raise


def finish(raw: tuple[Statuses, str], process: Process) -> Iterable[CredsRecord]:
    """Make one record for each set of threads that are alike."""
    statuses, label = raw
    groups: dict[tuple[Credentials, int | None], list[int]] = {}
    for tids, fields in statuses.groups((b"Uid", b"NStgid"), (b"CapInh", b"Seccomp")):
        credentials = parse_credentials(fields)
        for tid in tids:
            view = process.thread_views.get(tid)
            bits = view.securebits if view else None
            groups.setdefault((credentials, bits), []).append(tid)
    _warn_of_gaps(process, label, groups)
    return [
        CredsRecord(
            tgid=process.tgid, tids=tids, credentials=credentials, securebits=bits, label=label
        )
        for (credentials, bits), tids in groups.items()
    ]


def _warn_of_gaps(
    process: Process, label: str, groups: Iterable[tuple[Credentials, int | None]]
) -> None:
    where = f"process {process.tgid}"
    if any(bits is None for _, bits in groups):
        process.warn(where, "securebits and keep-capabilities not seen: taken as the restorer's")
    if label not in _NO_LABEL:
        process.warn(
            where,
            f"security label '{label}' is not restored",
            "run restore under the same label",
        )


def plan(records: Records, build: Builder) -> None:
    """Give every thread its credentials, after everything that needs privileges."""
    processes = {process.tgid: process for process in records.processes}
    for record in records.of(CredsRecord):
        if not _check(record, build):
            continue
        calls = tuple(build_calls(record, build))
        if not calls:
            continue
        after = _after(processes[record.tgid])
        for tid in record.tids:
            build.tape(
                tid,
                calls,
                f"credentials of uid {record.credentials.uids[1]}",
                needs=(born(tid),),
                after=(*after, *(token(tid) for token in _AFTER_OF_THREAD)),
                provides=(creds_set(tid),),
            )


def _sched_set(tid: int) -> Token:
    return Token("sched", tid)


def _attributes_set(tgid: int) -> Token:
    return Token("attributes", tgid)


_AFTER_OF_THREAD: Final = (seccomp_set, _sched_set)


def _after(process: ProcessRecord) -> tuple[Token, ...]:
    tgid = process.tgid
    return (
        threads_exist(tgid),
        memory_filled(tgid),
        mm_fields_set(tgid),
        fds_placed(process.files),
        fs_set(tgid),
        session_set(tgid),
        timers_armed(tgid),
        limits_set(tgid),
        _attributes_set(tgid),
    )


def _check(record: CredsRecord, build: Builder) -> bool:
    """Refuse what the restorer has not got to give; True when nothing was refused."""
    own, want = build.host.inherited.credentials, record.credentials
    where = f"tid {record.tids[0]}" + (f" and {len(record.tids) - 1} more" * (len(record.tids) > 1))
    before = len(build.findings)
    missing = (want.permitted | want.ambient) & ~own.permitted
    if missing:
        names = ", ".join(f"{number}" for number in _bits(missing))
        hint = "restore with at least the capabilities that the process had"
        build.refuse(where, f"needs capabilities that restore lacks: numbers {names}", hint)
    if set(want.uids) != set(own.uids) and not build.host.has_capability(CAP_SETUID):
        build.refuse(where, f"belongs to uid {want.uids[0]}", "restore as that user or as root")
    changes_gids = set(want.gids) != set(own.gids) or want.groups != own.groups
    if changes_gids and not build.host.has_capability(CAP_SETGID):
        build.refuse(where, f"has gid {want.gids[0]} or groups that we have not", "restore as root")
    if _needs_setpcap(record, build) and not build.host.has_capability(CAP_SETPCAP):
        build.refuse(where, "bounding set or securebits differ", "restore with CAP_SETPCAP")
    if own.no_new_privs and not want.no_new_privs:
        build.warn(where, "no_new_privs is set here and stays set")
    if want.bounding & ~own.bounding:
        build.warn(where, "the bounding set becomes smaller: restore's own lacks capabilities")
    return len([f for f in build.findings[before:] if f.blocker]) == 0


def _needs_setpcap(record: CredsRecord, build: Builder) -> bool:
    own, want = build.host.inherited, record.credentials
    keeps_caps = bool(want.permitted) and set(want.uids) != set(own.credentials.uids)
    return (
        keeps_caps
        or bool(own.credentials.bounding & ~want.bounding)
        or _securebits(record, build) != own.securebits
    )


def _securebits(record: CredsRecord, build: Builder) -> int:
    return build.host.inherited.securebits if record.securebits is None else record.securebits


def _bits(mask: int) -> Iterator[int]:
    return (number for number in range(64) if mask >> number & 1)


def build_calls(record: CredsRecord, build: Builder) -> Iterator[Call]:
    """Yield the calls that turn what a thread inherits from us into `record`; none if the same.

    The order keeps CAP_SETPCAP until everything that needs it is done, and lets no change of ids
    touch the capabilities (SECBIT_NO_SETUID_FIXUP); see `security/commoncap.c`, 6.18.
    """
    own, want = build.host.inherited.credentials, record.credentials
    securebits, final = build.host.inherited.securebits, _securebits(record, build)
    if want.groups != own.groups:
        groups = Blob(struct.pack(f"<{len(want.groups)}I", *want.groups)) if want.groups else 0
        yield Call(SYS_SETGROUPS, (len(want.groups), groups))
    if (want.uids, want.gids) != (own.uids, own.gids):
        if build.host.has_capability(CAP_SETPCAP):
            securebits |= SECBIT_NO_SETUID_FIXUP
            yield Call(SYS_PRCTL, (PR_SET_SECUREBITS, securebits))
        yield from _id_calls(want)
    caps_differ = _capability_sets(own) != _capability_sets(want)
    if want.inheritable & ~own.inheritable:
        # Raised while the bounding set still allows it; the ambient set needs it there.
        yield _capset(own.effective, own.permitted, want.inheritable | own.inheritable)
    yield from _ambient_calls(own.ambient, want.ambient)
    for number in _bits(own.bounding & ~want.bounding):
        yield Call(SYS_PRCTL, (PR_CAPBSET_DROP, number))
    if securebits != final:
        yield Call(SYS_PRCTL, (PR_SET_SECUREBITS, final))
    if caps_differ:
        yield _capset(want.effective, want.permitted, want.inheritable)
    if want.no_new_privs and not own.no_new_privs:
        yield Call(SYS_PRCTL, (PR_SET_NO_NEW_PRIVS, 1))


def _capability_sets(of: Credentials) -> tuple[int, int, int]:
    return of.effective, of.permitted, of.inheritable


def _id_calls(want: Credentials) -> Iterator[Call]:
    yield Call(SYS_SETRESGID, want.gids[:3])
    yield Call(SYS_SETRESUID, want.uids[:3])
    # These two return the old value and no error: asking with -1 shows whether it worked.
    for nr, ids in ((SYS_SETFSGID, want.gids), (SYS_SETFSUID, want.uids)):
        if ids[3] != ids[1]:
            yield Call(nr, (ids[3],), expect=Expect.ANY)
            yield Call(nr, (0xFFFF_FFFF,), ids[3])


def _ambient_calls(own: int, want: int) -> Iterator[Call]:
    if own & ~want:
        yield Call(SYS_PRCTL, (PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL))
        own = 0
    for number in _bits(want & ~own):
        yield Call(SYS_PRCTL, (PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number))


def _capset(effective: int, permitted: int, inheritable: int) -> Call:
    header = Blob(struct.pack("<Ii", CAPABILITY_VERSION_3, 0))
    words = [
        (mask >> shift) & 0xFFFF_FFFF
        for shift in (0, 32)
        for mask in (effective, permitted, inheritable)
    ]
    return Call(SYS_CAPSET, (header, Blob(struct.pack("<6I", *words))))
