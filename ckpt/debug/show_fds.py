"""`show --fds`: each process's descriptors, what they lead to, and who shares them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ckpt.debug.session_files import Fds, OpenFd
from ckpt.debug.show_blocks import Block
from ckpt.debug.text import escape
from ckpt.objects.file_kinds.epoll import EpollFile
from ckpt.objects.files import FileTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckpt.objects.base import ProcessRecord, Records
    from ckpt.objects.file_kinds.epoll import Watch

_EVENTS: Final = {
    0x1: "EPOLLIN",
    0x2: "EPOLLPRI",
    0x4: "EPOLLOUT",
    0x8: "EPOLLERR",
    0x10: "EPOLLHUP",
    0x2000: "EPOLLRDHUP",
    1 << 28: "EPOLLEXCLUSIVE",
    1 << 29: "EPOLLWAKEUP",
    1 << 30: "EPOLLONESHOT",
    1 << 31: "EPOLLET",
}
"""`include/uapi/linux/eventpoll.h`, 6.18."""
_COLUMNS: Final = ("FD", "KIND", "FLAGS", "POS")

Users = dict[int, list[tuple[int, int]]]
"""Objref of an open file -> (tgid, fd) of all descriptors that lead to it."""


def fd_blocks(records: Records) -> Iterator[Block]:
    """Yield a block a process: a line a descriptor, with those of its watch list below it."""
    users = _find_users(records)
    for process in records.processes:
        yield _process_block(process, records, users)


def _find_users(records: Records) -> Users:
    tables = {table.ref: table for table in records.of(FileTable)}
    users: Users = {}
    for process in records.processes:
        table = tables.get(process.files)
        for entry in table.descriptors if table else ():
            users.setdefault(entry.file, []).append((process.tgid, entry.fd))
    return users


def _process_block(process: ProcessRecord, records: Records, users: Users) -> Block:
    fds = Fds(records, process)
    texts = {ref: fds[entries[0]].text for ref, entries in _by_file(fds).items()}
    rows = [_plain(fds[fd], fds.ref(fd), process, users) for fd in fds]
    columns = zip(_COLUMNS, *map(_cells, rows), strict=True)
    widths = [max(map(len, column)) for column in columns]
    lines = [_line(_COLUMNS, widths, "TARGET")]
    lines += [_row_text(row, widths, texts) for row in rows]
    sharers = [one.tgid for one in records.processes if one.files == process.files]
    shared = f", table shared by processes {sharers}" if len(sharers) > 1 else ""
    head = f"process {process.tgid}: {len(rows)} descriptors{shared}"
    plain = {"tgid": process.tgid, "table": process.files, "descriptors": rows}
    return Block(f"{head}\n{lines[0]}" if rows else head, lines[1:], plain, ("descriptors",))


def _by_file(fds: Fds) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for fd in fds:
        found.setdefault(fds.ref(fd), []).append(fd)
    return found


def _plain(fd: OpenFd, ref: int, process: ProcessRecord, users: Users) -> dict[str, Any]:
    others = [(tgid, other) for tgid, other in users.get(ref, ()) if tgid != process.tgid]
    watches = fd.record.watches if isinstance(fd.record, EpollFile) else []
    return {
        "fd": fd.fd,
        "kind": fd.kind,
        "target": fd.text,
        "flags": fd.flags,
        "cloexec": fd.cloexec,
        "pos": fd.pos,
        "file": ref,
        "shared_with_fds": fd.shared_with,
        "shared_with_processes": [{"tgid": tgid, "fd": other} for tgid, other in others],
        "watches": [_watch_plain(watch) for watch in watches],
    }


def _watch_plain(watch: Watch) -> dict[str, Any]:
    return {
        "fd": watch.fd,
        "file": watch.file,
        "events": event_names(watch.events),
        "data": watch.data,
        "is_quiet": watch.is_quiet,
    }


def event_names(events: int) -> str:
    """Return EPOLL* of a mask, what has no name in hex."""
    names = [name for bit, name in _EVENTS.items() if events & bit]
    rest = events & ~sum(_EVENTS)
    return "|".join([*names, *([hex(rest)] if rest else [])]) or "0"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    flags = "|".join(filter(None, [row["flags"], "cloexec" if row["cloexec"] else ""]))
    pos = "-" if row["pos"] is None else str(row["pos"])
    return str(row["fd"]), escape(row["kind"]), flags, pos


def _line(cells: tuple[str, ...], widths: list[int], target: str) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return f"  {'  '.join(padded)}  {target}"


def _row_text(row: Mapping[str, Any], widths: list[int], texts: Mapping[int, str]) -> str:
    text = _line(_cells(row), widths, row["target"])
    if row["shared_with_fds"]:
        text += f"  (same open file as fd {', '.join(map(str, row['shared_with_fds']))})"
    for user in row["shared_with_processes"]:
        text += f"  (shared with process {user['tgid']} fd {user['fd']})"
    for watch in row["watches"]:
        target = texts.get(watch["file"], "a file that has no descriptor any more")
        quiet = ", reported already" if watch["is_quiet"] else ""
        data = f"{watch['events']}, data {watch['data']:#x}{quiet}"
        text += f"\n      watches fd {watch['fd']} {target}: {data}"
    return text
