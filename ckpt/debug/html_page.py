"""An image as one page: no network, no other files, nothing that runs but our few lines of script.

The page's own Content-Security-Policy says so too: the only script is the one with our hash.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ckpt.debug.html_areas import AreaMap
from ckpt.debug.html_files import Files, render_files
from ckpt.debug.html_memory import render_map
from ckpt.debug.html_text import (
    TIMES,
    Html,
    counted,
    duration,
    element,
    joined,
    number,
    ranges,
    safe,
    short,
    size,
)
from ckpt.debug.html_threads import render_threads
from ckpt.debug.html_time import render_time
from ckpt.debug.symbols import AddressSpace
from ckpt.debug.text import escape, escape_bytes
from ckpt.objects.base import Records
from ckpt.objects.creds import CredsRecord
from ckpt.objects.mm import MmRecord
from ckpt.objects.session import SessionRecord
from ckpt.objects.task import ThreadRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.debug.html_areas import Block
    from ckpt.image.reader import ImageFile
    from ckpt.objects.base import ProcessRecord

_MAX_ARGS_BYTES: Final = 4096
_MAX_PROCESSES: Final = 200
_MAX_LEAVES: Final = 40
_SECTIONS: Final = (
    ("tree", "Process"),
    ("memory", "Memory"),
    ("threads", "Threads"),
    ("files", "Descriptors"),
    ("freeze", "The freeze"),
    ("image", "The image"),
)


def build_page(image: ImageFile) -> str:
    """Return the whole page; its size is bounded, whatever the image holds."""
    records = Records(image.records)
    blocks = AreaMap(image, records).blocks()
    with AddressSpace(image, records) as space:
        title = _title(records)
        body = element(
            "body",
            _header(image, records, space, title, blocks),
            element(
                "main",
                _section("tree", _tree(records)),
                _section("memory", render_map(blocks)),
                _section("threads", render_threads(records, space)),
                _section("files", _files(records)),
                _section("freeze", render_time(image.timings)),
                _section("image", _about_image(image)),
            ),
            element("footer", f"made by ckpt-bpf from {os.path.basename(image.path)}"),
            element("script", Html(_asset("report.js"))),
        )
    page = element("html", _head(title), body, lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _head(title: str) -> Html:
    script = hashlib.sha256(_asset("report.js").encode()).digest()
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{base64.b64encode(script).decode()}'"
    )
    return element(
        "head",
        element("meta", charset="utf-8"),
        Html('<meta http-equiv="Content-Security-Policy" content="' + policy + '">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(_asset("report.css"))),
    )


def _title(records: Records) -> str:
    if not records.processes:
        return "an image without a process"
    return f"{_name(records, records.processes[0])} · {records.processes[0].tgid}"


def _name(records: Records, process: ProcessRecord) -> str:
    """Return the name of a process's main thread, or of the first that lives."""
    names = {one.tid: one.comm for one in records.of(ThreadRecord)}
    first = process.tgid if process.tgid in names else next(iter(process.tids), 0)
    return escape_bytes(names.get(first, b"?"))


def _header(
    image: ImageFile, records: Records, space: AddressSpace, title: str, blocks: list[Block]
) -> Html:
    links = (element("a", words, href=f"#{name}") for name, words in _SECTIONS)
    name, _, pid = title.rpartition(" · ")
    command = _command_line(records, space)
    return element(
        "header",
        element("p", "checkpoint of a process", class_="over"),
        element("h1", short(name or title, 60), element("small", f"pid {pid}") if name else ""),
        element("p", short(command, 200), class_="mono command") if command else "",
        element("p", _origin(image), class_="quiet"),
        element("dl", *_tiles(image, records, blocks), class_="tiles"),
        element("nav", *links, aria_label="sections"),
    )


def _command_line(records: Records, space: AddressSpace) -> str:
    """Return the arguments as they stand in the process's memory."""
    for mm in records.of(MmRecord)[:1]:
        length = min(mm.arg_end - mm.arg_start, _MAX_ARGS_BYTES)
        if length > 0:
            words = space.read(mm.arg_start, length).rstrip(b"\0").split(b"\0")
            return " ".join(map(escape_bytes, words))
    return ""


def _origin(image: ImageFile) -> str:
    header = image.header
    try:
        taken = time.gmtime(header.clocks.realtime_ns // 10**9)
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", taken)
    except (OverflowError, ValueError, OSError):
        when = f"{header.clocks.realtime_ns} ns after 1970"
    return f"taken {when} on Linux {escape(header.kernel_release)} ({escape(header.arch)})"


def _tiles(image: ImageFile, records: Records, blocks: list[Block]) -> Iterator[Html]:
    stored = sum(item.length_bytes for item in image.pages.values())
    mapped = sum(block.size_bytes for block in blocks if block.kind != "reserved")
    process = records.processes[0] if records.processes else None
    fds = Files(records, process).count if process else 0
    frozen = image.timings.frozen if image.timings else []
    for words, value, more in (
        ("image", size(image.status.st_size), f"{size(stored)} of it pages"),
        ("memory", size(mapped), counted(sum(block.areas for block in blocks), "area")),
        ("threads", number(len(records.of(ThreadRecord))), _stopped(process)),
        ("descriptors", number(fds), ""),
        (
            "frozen for",
            duration(sum(phase.ns for phase in frozen if not phase.inside)) if frozen else "?",
            "" if frozen else "not recorded",
        ),
    ):
        yield element(
            "div", element("dt", words), element("dd", value, element("small", more or " "))
        )


def _stopped(process: ProcessRecord | None) -> str:
    if process is None:
        return ""
    if process.stopped_by:
        return f"stopped by signal {process.stopped_by}"
    return "" if process.leader_alive else "the main thread has exited"


def _section(name: str, content: Html) -> Html:
    words = dict(_SECTIONS)[name]
    heading = element("h2", words, id=f"{name}-title")
    return element("section", heading, content, id=name, aria_labelledby=f"{name}-title")


def _tree(records: Records) -> Html:
    """Return every process with its threads; the first is the root of the others."""
    if not records.processes:
        return element("p", "The image has no process.", class_="quiet")
    nodes = [_node(records, process) for process in records.processes[:_MAX_PROCESSES]]
    others = element("ul", *(element("li", node) for node in nodes[1:])) if nodes[1:] else Html("")
    more = len(records.processes) - len(nodes)
    rest = element("p", f"and {more:,} more", class_="quiet") if more else Html("")
    return joined((element("ul", element("li", nodes[0], others), class_="tree"), rest))


def _node(records: Records, process: ProcessRecord) -> Html:
    names = {one.tid: escape_bytes(one.comm) for one in records.of(ThreadRecord)}
    name = _name(records, process)
    facts = [f"pid {process.tgid}", *_session(records, process), *_user(records, process)]
    others = [tid for tid in process.tids if tid != process.tgid]
    by_name: dict[str, list[int]] = {}
    for tid in others:
        by_name.setdefault(names.get(tid, "?"), []).append(tid)
    leaves = [
        element(
            "li",
            element("b", f"{len(tids):,} {TIMES} " if len(tids) > 1 else "", short(words, 40)),
            element("span", ranges(tids, 4), class_="quiet mono"),
        )
        for words, tids in list(by_name.items())[:_MAX_LEAVES]
    ]
    if len(by_name) > _MAX_LEAVES:
        leaves.append(element("li", f"and {len(by_name) - _MAX_LEAVES:,} other names"))
    head = element(
        "div",
        element("b", short(name, 60)),
        element("span", " · ".join(facts), class_="quiet"),
        class_="node",
    )
    return joined((head, element("ul", *leaves, class_="leaves")) if leaves else (head,))


def _session(records: Records, process: ProcessRecord) -> Iterator[str]:
    for record in records.of(SessionRecord):
        if record.tgid == process.tgid:
            if record.sid == record.tgid:
                yield "leads a session"
            elif record.pgid == record.tgid:
                yield f"leads a group in session {record.sid}"
            else:
                yield f"group {record.pgid}, session {record.sid}"
            yield "has a terminal" if record.tty else "no terminal"


def _user(records: Records, process: ProcessRecord) -> Iterator[str]:
    found = [one.credentials.uids[1] for one in records.of(CredsRecord) if one.tgid == process.tgid]
    if found:
        yield "uid " + ", ".join(map(str, dict.fromkeys(found)))
    yield counted(len(process.tids), "thread")


def _files(records: Records) -> Html:
    if not records.processes:
        return element("p", "The image has no process.", class_="quiet")
    return render_files(records, records.processes[0])


def _about_image(image: ImageFile) -> Html:
    """Return what the file is made of."""
    frames: dict[str, tuple[int, int]] = {}
    for frame in image.iter_frames():
        count, length = frames.get(frame.name, (0, 0))
        frames[frame.name] = (count + 1, length + frame.length)
    rows = [
        element(
            "li",
            element(
                "span", f"{name}", element("span", f"{count:,}", class_="quiet"), class_="what"
            ),
            element("span", size(length), class_="num"),
        )
        for name, (count, length) in frames.items()
    ]
    header = image.header
    facts = [
        ("file", short(image.path, 120)),
        ("kernel", safe(f"{header.kernel_release} {header.kernel_version}")),
        ("page size", safe(size(header.page_size))),
    ]
    listed = (joined((element("dt", name), element("dd", value))) for name, value in facts)
    return joined(
        (
            element("dl", *listed, class_="facts"),
            element("ul", *rows, class_="ranks frames", aria_label="frames of the file"),
        )
    )
