"""Descriptors as HTML: who shares an open file, and which ends belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.debug.html_text import Html, counted, element, joined, number, ranges, safe, short, table
from ckpt.debug.session_files import Fds, flag_names, kind_of
from ckpt.objects.file_kinds.common import FileRecord
from ckpt.objects.file_kinds.epoll import EpollFile
from ckpt.objects.file_kinds.pipe import Pipe, PipeFile
from ckpt.objects.file_kinds.socketpair import SocketFile
from ckpt.objects.files import FileTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.objects.base import ProcessRecord, Records
    from ckpt.objects.files import Descriptor

_MAX_ROWS: Final = 250
_MAX_TIES: Final = 60
_MAX_CHIPS: Final = 6
_MAX_WATCHED: Final = 8
_ACCESS: Final = 3
_READ_ONLY, _WRITE_ONLY = 0, 1


class Open(NamedTuple):
    """One open file, or several that differ in nothing that can be seen here."""

    numbers: list[int]
    cloexec: int
    """How many of the numbers close on exec."""
    kind: str
    text: str
    flags: str
    files: int
    at: str


class Files:
    """The open files of one process, and how to name a descriptor that leads to them."""

    def __init__(self, records: Records, process: ProcessRecord) -> None:
        """Take the table of `process`."""
        self._fds = Fds(records, process)
        entries: dict[int, Descriptor] = {}
        for record in records.of(FileTable):
            if record.ref == process.files:
                # A hostile table may have a number twice; the page's links cannot.
                entries = {entry.fd: entry for entry in record.descriptors}
        self.records = {one.ref: one for one in records if isinstance(one, FileRecord)}
        self.pipes = {one.ref: one for one in records.of(Pipe)}
        self.numbers: dict[int, list[int]] = {}
        """Descriptors by objref of their file."""
        self._cloexec: dict[int, int] = {}
        for _, entry in sorted(entries.items()):
            self.numbers.setdefault(entry.file, []).append(entry.fd)
            self._cloexec[entry.file] = self._cloexec.get(entry.file, 0) + entry.cloexec

    @property
    def count(self) -> int:
        """How many descriptors there are."""
        return sum(map(len, self.numbers.values()))

    def open_files(self) -> list[Open]:
        """Return the open files, by number; many that look the same are one."""
        found: dict[object, Open] = {}
        for ref, numbers in self.numbers.items():
            one = self._describe(ref, numbers)
            # A file that two descriptors share stands alone: that is worth seeing.
            key = ref if len(numbers) > 1 else (one.kind, one.text, one.flags, one.at)
            known = found.get(key)
            if known is None:
                found[key] = one
            else:
                known.numbers.extend(numbers)
                found[key] = known._replace(
                    files=known.files + 1, cloexec=known.cloexec + one.cloexec
                )
        return list(found.values())

    def _describe(self, ref: int, numbers: list[int]) -> Open:
        record = self.records.get(ref)
        if record is None:
            return Open(list(numbers), 0, "missing", "no record of its file", "", 1, "")
        position, kind = getattr(record, "pos", None), kind_of(record)
        return Open(
            list(numbers),
            self._cloexec[ref],
            kind,
            self._fds.describe(record).removeprefix(f"{kind} "),
            flag_names(record.flags),
            1,
            "" if position is None else number(position),
        )

    def chips(self, ref: int) -> Html:
        """Return the descriptors of an open file, as links to its row."""
        numbers = self.numbers.get(ref)
        if not numbers:
            return element("span", "in nobody's table", class_="fd none")
        shown = numbers[:_MAX_CHIPS]
        parts = [element("a", str(fd), class_="fd", href=f"#fd-{fd}") for fd in shown]
        more = len(numbers) - _MAX_CHIPS
        if more > 0:
            parts.append(element("span", f"+{more:,}", class_="quiet"))
        return joined(parts)


def render_files(records: Records, process: ProcessRecord) -> Html:
    """Return what is tied together, then every open file."""
    files = Files(records, process)
    if not files.count:
        return element("p", "The image has no descriptors.", class_="quiet")
    opened = files.open_files()
    shared = sum(len(numbers) > 1 for numbers in files.numbers.values())
    text = (
        f"{counted(files.count, 'descriptor')} lead to {counted(len(files.numbers), 'open file')}"
    )
    text += f"; {counted(shared, 'open file')} have more than one (dup)." if shared else "."
    return joined((element("p", text, class_="lead"), _render_ties(files), _render_table(opened)))


def _render_ties(files: Files) -> Html:
    ties = [*_pipes(files), *_sockets(files), *_watches(files)]
    if not ties:
        return Html("")
    parts = [element("h3", "What belongs together")]
    parts.append(element("ul", *ties[:_MAX_TIES], class_="ties"))
    if len(ties) > _MAX_TIES:
        parts.append(element("p", f"and {len(ties) - _MAX_TIES:,} more", class_="quiet"))
    return joined(parts)


def _tie(left: Html, what: str, right: Html, arrow: str, words: str) -> Html:
    """Return one line: ends, and what lies between them."""
    return element(
        "li",
        element("span", left, class_="end"),
        element("span", element("span", what), class_=f"wire {arrow}", title=words),
        element("span", right, class_="end"),
        title=words,
    )


def _pipes(files: Files) -> Iterator[Html]:
    ends: dict[int, list[PipeFile]] = {}
    for ref in files.numbers:
        record = files.records.get(ref)
        if isinstance(record, PipeFile):
            ends.setdefault(record.pipe, []).append(record)
    for ref, members in ends.items():
        pipe = files.pipes.get(ref)
        writers = [one.ref for one in members if one.flags & _ACCESS != _READ_ONLY]
        readers = [one.ref for one in members if one.flags & _ACCESS != _WRITE_ONLY]
        waiting = sum(map(len, pipe.chunks)) if pipe else 0
        what = "FIFO" if pipe and pipe.path else "pipe"
        what += f", {counted(waiting, 'byte')} waiting" if waiting else ""
        words = f"{what}: what is written on the left is read on the right"
        yield _tie(_ends(files, writers), what, _ends(files, readers), "to", words)


def _ends(files: Files, refs: Iterable[int]) -> Html:
    found = [files.chips(ref) for ref in refs]
    return joined(found) if found else element("span", "closed", class_="fd none")


def _sockets(files: Files) -> Iterator[Html]:
    done: set[int] = set()
    for ref in files.numbers:
        record = files.records.get(ref)
        if not isinstance(record, SocketFile) or ref in done:
            continue
        peer = files.records.get(record.peer)
        done.update((ref, record.peer))
        waiting = sum(len(message.data) for message in record.received)
        if isinstance(peer, SocketFile):
            waiting += sum(len(message.data) for message in peer.received)
        what = "socket pair" + (f", {counted(waiting, 'byte')} waiting" if waiting else "")
        right = files.chips(record.peer) if record.peer else _ends(files, ())
        yield _tie(files.chips(ref), what, right, "both", "connected to each other")


def _watches(files: Files) -> Iterator[Html]:
    for ref in files.numbers:
        record = files.records.get(ref)
        if isinstance(record, EpollFile):
            shown = [files.chips(watch.file) for watch in record.watches[:_MAX_WATCHED]]
            more = len(record.watches) - _MAX_WATCHED
            if more > 0:
                shown.append(element("span", f"+{more:,}", class_="quiet"))
            what = f"epoll, {counted(len(record.watches), 'watch').replace('watchs', 'watches')}"
            yield _tie(files.chips(ref), what, joined(shown), "to", "watches what is on the right")


def _render_table(opened: list[Open]) -> Html:
    rows = [_row(one) for one in opened[:_MAX_ROWS]]
    head = ("descriptors", "kind", "what", "flags", "#position")
    parts = [element("div", table(head, rows, "Open files"), class_="scroll")]
    rest = sum(one.files for one in opened[_MAX_ROWS:])
    if rest:
        parts.append(element("p", f"and {counted(rest, 'open file')} more", class_="quiet"))
    return joined(parts)


def _row(one: Open) -> list[Html]:
    if one.files > 1:
        numbers = element("span", ranges(one.numbers), class_="mono")
        who = joined((element("b", f"{one.files:,} files "), numbers))
        first = element("td", who, id=f"fd-{one.numbers[0]}")
    else:
        chips = [element("span", str(fd), class_="fd", id=f"fd-{fd}") for fd in one.numbers[:24]]
        more = len(one.numbers) - len(chips)
        shared = element("span", "shared", class_="chip") if len(one.numbers) > 1 else Html("")
        rest = element("span", f"+{more:,}", class_="quiet") if more else Html("")
        first = element("td", *chips, rest, shared)
    flags = one.flags.replace("O_", "").lower().replace("|", " ")
    if one.cloexec:
        flags += " cloexec" if one.cloexec == len(one.numbers) else f" cloexec ({one.cloexec})"
    kind = element("span", one.kind.replace("_", " "), class_="chip kind")
    at = element("td", one.at, class_="num")
    return [first, kind, short(one.text, 90), safe(flags), at]
