"""A process's descriptors: which numbers lead to which open files, and the files themselves.

A `struct files_struct` is one `FileTable`; a `struct file` is one record of its kind's module in
`file_kinds/`, however many descriptors lead to it. At a restore ckpt-bpf opens the files, sends
them over the task's socket and lets the task place them; what needs the descriptors at their
numbers (watch lists, SIGIO owners) follows.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

from ckpt.errors import Finding
from ckpt.host.syscalls import KCMP_FILES, kcmp_same
from ckpt.objects.base import Plain, Record
from ckpt.objects.file_kinds import kinds
from ckpt.objects.file_kinds.common import (
    O_PATH,
    Fd,
    FileRecord,
    OpenFile,
    Opening,
    Placed,
    Table,
    file_key,
)
from ckpt.objects.file_kinds.inode import InodeContent, captured_contents, plan_contents
from ckpt.objects.file_kinds.owners import plan_owners, survey_owners
from ckpt.objects.file_kinds.placing import Batch, Target, place_all
from ckpt.objects.file_kinds.streams import external_refs, split_streams
from ckpt.objects.passing import SendFds
from ckpt.objects.steps import (
    Token,
    fds_placed,
    memory_filled,
    memory_mapped,
    mm_fields_set,
    timens_entered,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import ModuleType

    from ckpt.objects.base import Builder, Options, Process, ProcessRecord, Records, Restorer
    from ckpt.objects.steps import Action


_SHOWN = 8
"""Files that the line of one step names."""


class Descriptor(Plain, frozen=True):
    """One number of a table."""

    fd: Fd
    cloexec: bool
    file: int
    """Objref of its `FileRecord`."""


class FileTable(Record, tag="files", frozen=True, kw_only=True):
    """One struct files_struct."""

    ref: int
    descriptors: list[Descriptor]


RECORDS: tuple[type[Record], ...] = (
    FileTable,
    InodeContent,
    *(record for kind in kinds() for record in kind.RECORDS),
)


class _Raw(NamedTuple):
    table: Table
    found: list[tuple[ModuleType, Any]]


def survey(process: Process) -> Iterable[Finding]:
    """Look at every descriptor while the target runs."""
    with _OpenTable(process) as table:
        return [*_survey_table(table), *_find_unshared(process)]


def capture(process: Process) -> _Raw:
    """Look again, now that nothing changes, and record every file with what is in it."""
    with _OpenTable(process) as table:
        process.findings.extend([*_survey_table(table), *_find_unshared(process)])
        found = []
        for kind, files in _by_kind(table).items():
            raw = kind.capture(files, table)
            # Kinds of which there are many make their records after the thaw.
            found.append((kind, raw if hasattr(kind, "finish") else list(raw)))
        return _Raw(table, found)


def finish(raw: _Raw, process: Process) -> Iterator[Record]:
    """Yield the table, its files, and the inodes whose content is in the image."""
    yield _record_table(raw.table)
    for kind, found in raw.found:
        yield from kind.finish(found) if hasattr(kind, "finish") else found
    yield from captured_contents(process)


def preflight(records: Records, options: Options) -> Iterable[Finding]:
    """Find which files are no longer what they were, all of them, before anything is made."""
    for kind in kinds():
        if hasattr(kind, "preflight"):
            yield from kind.preflight(records, options)


def reserved_fds(records: Records) -> Iterable[int]:
    """Return every number that a table uses."""
    for table in records.of(FileTable):
        yield from (entry.fd for entry in table.descriptors)
    for kind in kinds():
        if hasattr(kind, "reserved_fds"):
            yield from kind.reserved_fds(records)


def plan(records: Records, build: Builder) -> None:
    """Open each file, pass and place it, then settle what needs the numbers."""
    plan_contents(records, build)
    openings: dict[int, Opening] = {}
    for kind in kinds():
        for opening in kind.plan(records, build):
            openings.update(dict.fromkeys(opening.refs, opening))
    tables = {table.ref: table for table in records.of(FileTable)}
    for process in records.processes:
        if process.files in tables:
            _plan_table(process, tables[process.files], openings, records, build)


class _OpenTable:
    """The table of a process with its /proc folders held open."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.folders: list[int] = []

    def __enter__(self) -> Table:
        for name in ("fd", "fdinfo"):
            path = self.process.path(name)
            self.folders.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        return split_streams(Table(self.process, group_files(self.process), *self.folders))

    def __exit__(self, *exc: object) -> None:
        for fd in self.folders:
            os.close(fd)


def group_files(process: Process) -> list[OpenFile]:
    """Return every struct file once, in the order of its lowest descriptor."""
    files: dict[int, OpenFile] = {}
    for fd, view in sorted(process.file_views.items()):
        known = files.get(view.file)
        if known is None:
            ref = process.identities.ref("file", view.file)
            files[view.file] = OpenFile(ref, view)
        else:
            known.fds.append(fd)
    return list(files.values())


def _find_unshared(process: Process) -> Iterator[Finding]:
    """Refuse threads that have left the process's table (unshare), and others that are in it."""
    view = process.thread_views.get(process.living_tid)
    count = view.files_count if view is not None and process.is_frozen else None
    if count is not None and count > len(process.tids):
        what = f"its fd table has {count} users, {len(process.tids)} of them its own threads"
        yield Finding(f"process {process.tgid}", what, "end the process made with CLONE_FILES")
    for tid in process.tids:
        if tid != process.living_tid and not _shares_table(process, tid):
            yield Finding(
                f"tid {tid}",
                "has an fd table of its own: not supported",
                "let the thread end first",
            )


def _shares_table(process: Process, tid: int) -> bool:
    views = process.thread_views
    if tid in views and process.living_tid in views:
        ids = (views[tid].files, views[process.living_tid].files)
        if None not in ids and 0 not in ids:
            return ids[0] == ids[1]
    try:
        return kcmp_same(process.living_tid, tid, KCMP_FILES)
    except ProcessLookupError:
        return True  # It has ended meanwhile.


def _by_kind(table: Table) -> dict[ModuleType, list[OpenFile]]:
    known = table.kept.get("kinds")
    if isinstance(known, dict):
        return known
    found: dict[ModuleType, list[OpenFile]] = {}
    alike: dict[tuple[object, ...], ModuleType] = {}
    external = external_refs(table)
    for file in table.files:
        view = file.view
        # Ten thousand files are of a few sorts: each sort is looked at once. Sockets are told apart
        # by their peers.
        about = (view.f_op, view.anon_name, view.mode, view.dev, view.rdev)
        flags = (view.f_flags & O_PATH, not view.nlink, file.ref in external)
        sort = (about, flags, file.ref if stat.S_ISSOCK(view.mode) else 0)
        kind = alike.get(sort)
        if kind is None:
            kind = alike[sort] = next(kind for kind in kinds() if kind.claims(file, table))
        found.setdefault(kind, []).append(file)
    table.kept["kinds"] = found
    return found


def _survey_table(table: Table) -> list[Finding]:
    findings: list[Finding] = []
    for kind, files in _by_kind(table).items():
        if table.process.is_frozen:
            findings.extend(kind.survey(files, table))
        else:
            findings.extend(_survey_running(kind, files, table))
    findings.extend(survey_owners(table))
    return sorted(findings, key=_number_of)


def _number_of(finding: Finding) -> int:
    """Return the descriptor that a finding is about, to list findings in its order."""
    _, _, number = finding.where.partition(" fd ")
    return int(number.split(",")[0] or 0)


def _survey_running(kind: ModuleType, files: Iterable[OpenFile], table: Table) -> Iterator[Finding]:
    """Yield what a kind finds, but for files that the target closes or reopens meanwhile.

    What two looks, each from the start, both find is there.
    """
    for file in files:
        try:
            found = list(kind.survey([file], table))
            if found and not table.is_still(file):
                continue
            if found:
                second = Table(table.process, table.files, table.folder_fd, table.info_fd)
                second.kept["external"] = table.kept["external"]
                same = set(kind.survey([file.unknown()], second))
                found = [finding for finding in found if finding in same]
        except OSError:
            # Closed, or another file already: whatever it is will be looked at when frozen.
            continue
        if found and table.is_still(file):
            yield from found


def _record_table(table: Table) -> FileTable:
    views = table.process.file_views
    descriptors = [
        Descriptor(fd, views[fd].cloexec, file.ref) for fd, file in sorted(table.by_fd.items())
    ]
    ref = table.process.identities.ref("files", table.process.tgid)
    return FileTable(ref=ref, descriptors=descriptors)


def _plan_table(
    process: ProcessRecord,
    table: FileTable,
    openings: Mapping[int, Opening],
    records: Records,
    build: Builder,
) -> None:
    numbers: dict[int, list[tuple[int, bool]]] = {}
    for entry in table.descriptors:
        numbers.setdefault(entry.file, []).append((entry.fd, entry.cloexec))
    if len({entry.fd for entry in table.descriptors}) < len(table.descriptors):
        build.refuse(f"process {process.tgid}", "the image has a descriptor twice")
        return
    lost = [entry.fd for entry in table.descriptors if entry.file not in openings]
    for fd in lost:
        build.refuse(f"process {process.tgid} fd {fd}", "the image has no record of its file")
    targets = [Target(ref, tuple(fds)) for ref, fds in numbers.items() if ref in openings]
    _plan_batches(process, place_all(targets, build.socket_fd), openings, build)
    placed = Placed(
        process.tgid,
        {ref: [fd for fd, _ in fds] for ref, fds in numbers.items()},
        frozenset({build.socket_fd, *(entry.fd for entry in table.descriptors)}),
        frozenset(entry.fd for entry in table.descriptors if entry.cloexec),
        Token("files-taken", process.files),
        fds_placed(process.files),
    )
    for kind in kinds():
        if hasattr(kind, "settle"):
            kind.settle(records, placed, build)
    files = [record for record in records if isinstance(record, FileRecord)]
    plan_owners(files, placed, process, build)


def _plan_batches(
    process: ProcessRecord,
    batches: Iterable[Batch],
    openings: Mapping[int, Opening],
    build: Builder,
) -> None:
    """Open, send and place batch by batch, so that never more than one piles up with us."""
    done: set[int] = set()
    tgid = process.tgid
    # Others pass descriptors of theirs, at numbers that they expect to be free.
    before = [memory_filled(tgid), mm_fields_set(tgid), timens_entered(tgid)]
    placed, all_taken = fds_placed(process.files), Token("files-taken", process.files)
    for index, batch in enumerate(batches):
        made = Token(f"files-made:{index}", process.files)
        sent = Token(f"files-sent:{index}", process.files)
        taken = Token(f"files-taken:{index}", process.files)
        due = list(_due(batch.refs, openings, done))
        build.host_step(
            MakeFiles([opening.action for opening in due]),
            "open files",
            needs=dict.fromkeys(token for opening in due for token in opening.needs),
            after=before,
            provides=[made],
        )
        build.host_step(
            SendFds([file_key(ref) for ref in batch.refs]),
            "pass files",
            needs=[made, memory_mapped(tgid)],
            provides=[sent],
        )
        build.tape(
            tgid,
            batch.calls,
            "place descriptors",
            needs=[sent],
            provides=[taken, all_taken, placed],
        )
        before = [taken]


def _due(refs: Sequence[int], openings: Mapping[int, Opening], done: set[int]) -> Iterator[Opening]:
    """Yield each opening whose files are not open yet; a pipe's opens both ends at once."""
    for ref in refs:
        if ref not in done:
            done.update(openings[ref].refs)
            yield openings[ref]


class MakeFiles:
    """Open the files of one batch."""

    def __init__(self, actions: Sequence[Action]) -> None:
        self.actions = tuple(actions)

    def perform(self, restorer: Restorer) -> None:
        """Open one after the other; the first that fails ends the restore."""
        for action in self.actions:
            action.perform(restorer)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        shown = "; ".join(action.describe() for action in self.actions[:_SHOWN])
        more = len(self.actions) - _SHOWN
        return f"{shown}; and {more} more" if more > 0 else shown
