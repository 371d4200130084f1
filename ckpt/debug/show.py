"""`show`: every record of an image, readable, or as JSON; one line (or chunk) at a time.

Safe on hostile images: what is printed is bounded by the size of the file, and holds no control
character that the image chose.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import msgspec

from ckpt.debug.calls import describe_thread
from ckpt.debug.render import record_lines, render, render_bytes, title, to_plain
from ckpt.debug.show_blocks import Block, block_lines, list_parts
from ckpt.debug.show_maps import area_notes, permissions
from ckpt.debug.symbols import AddressSpace
from ckpt.debug.text import escape, escape_bytes
from ckpt.objects import record_types
from ckpt.objects.areas import AreasRecord
from ckpt.objects.base import Records
from ckpt.objects.task import ThreadRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.image.reader import ImageFile
    from ckpt.objects.areas import Area
    from ckpt.objects.base import Record


def show_lines(image: ImageFile) -> Iterator[str]:
    """Yield the image as lines for people."""
    yield from block_lines(record_blocks(image))


def record_blocks(image: ImageFile, section: str = "") -> Iterator[Block]:
    """Yield a block a record, the image's own facts before them; with `section` only its records.

    `section` is the name of a kind of record, or what stands before the dot of several
    (`file` of `file.pipe` and its like).
    """
    records = Records(image.records)
    if not section:
        lines = list(_header_lines(image))
        yield Block(lines[0], lines[1:], plain_header(image))
    with AddressSpace(image, records) as space:
        for record in records:
            if not section or is_in_section(record, section):
                lines = list(_lines_of(record, space))
                yield Block(lines[0], lines[1:], to_plain(record))


def is_in_section(record: Record, section: str) -> bool:
    """Tell whether a record is of the kind `section`."""
    tag = str(record.__struct_config__.tag)
    return section in (tag, tag.partition(".")[0])


def section_names() -> list[str]:
    """Return the name of every kind of record that an image may hold."""
    tags = {str(kind.__struct_config__.tag) for kind in record_types()}
    return sorted(tags | {tag.partition(".")[0] for tag in tags})


def _header_lines(image: ImageFile) -> Iterator[str]:
    header = image.header
    size = image.status.st_size
    yield f"image {escape(image.path)}: {size} bytes, {len(image.records)} records"
    yield f"  machine: {escape(header.arch)}, pages of {header.page_size} bytes"
    yield f"  kernel: {escape(header.kernel_release)} {escape(header.kernel_version)}"
    yield f"  taken: {_date(header.clocks.realtime_ns)}"
    for item in image.pages.values():
        count = len(item.extents) // 2
        yield f"  pages of object {item.ref}: {item.length_bytes} bytes in {count} extents"


def _date(realtime_ns: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(realtime_ns // 10**9))
    except (OverflowError, ValueError, OSError):
        return f"{realtime_ns} ns after 1970"


def _lines_of(record: Record, space: AddressSpace) -> Iterator[str]:
    if isinstance(record, ThreadRecord):
        yield from _thread_lines(record, space)
    elif isinstance(record, AreasRecord):
        yield from _area_lines(record)
    else:
        yield from record_lines(record, space.locate)


def _thread_lines(record: ThreadRecord, space: AddressSpace) -> Iterator[str]:
    call = describe_thread(record, space)
    yield call.line()
    yield f"  instruction: {call.instruction}"
    for name in ("rip", "rsp"):
        yield f"  {name}: {render(getattr(record.regs, name), name, space.locate)}"
    rest = [name for name in record.regs.__struct_fields__ if name not in ("rip", "rsp")]
    for i in range(0, len(rest), 5):
        part = rest[i : i + 5]
        yield "  " + "  ".join(
            f"{name} {render(getattr(record.regs, name), 'flags')}" for name in part
        )
    yield f"  clear_child_tid: {render(record.clear_child_tid, 'clear_child_tid', space.locate)}"
    details = msgspec.structs.asdict(record.interrupted)
    shown = {name: details[name] for name in ("nr", "entry", "timeout", "rearm") if details[name]}
    parts = [f"{name} {render(value, name, space.locate)}" for name, value in shown.items()]
    yield "  call: " + "; ".join(parts)


def _area_lines(record: AreasRecord) -> Iterator[str]:
    yield f"{title(record)}: {len(record.areas)} areas, {len(record.files)} files"
    for file in record.files:
        kept = f", content in object {file.content}" if file.content else ""
        build = f", build-id {render_bytes(file.build_id)}" if file.build_id else ""
        yield f"  file {escape(file.path)}: {file.size} bytes{build}{kept}"
    for area in record.areas:
        yield "  " + _area_line(area, record)
    for start, length in record.guards:
        yield f"  guard {start:#x}-{start + length:#x}"


def _area_line(area: Area, record: AreasRecord) -> str:
    name = escape_bytes(area.special or area.anon_name)
    if 0 <= area.file < len(record.files):
        name = escape(record.files[area.file].path)
    notes = area_notes(area)
    extra = f"  ({', '.join(notes)})" if notes else ""
    prot = permissions(area.flags)
    return f"{area.start:#x}-{area.end:#x} {prot} {area.offset:#x} {name}{extra}".rstrip()


def json_parts(image: ImageFile) -> Iterator[str]:
    """Yield the image as one JSON object, in parts: records one by one, so that memory stays small.

    Bytes are text with surrogate escapes; everything outside ASCII is escaped.
    """
    yield json.dumps(plain_header(image))[:-1] + ', "threads": ['
    records = Records(image.records)
    with AddressSpace(image, records) as space:
        calls = (describe_thread(record, space).plain() for record in records.of(ThreadRecord))
        yield from list_parts(calls)
    yield '], "records": ['
    yield from list_parts(to_plain(record) for record in records)
    yield "]}"


def plain_header(image: ImageFile) -> dict[str, Any]:
    """Return what an image says of itself, for JSON."""
    pages = [
        {"ref": item.ref, "bytes": item.length_bytes, "extents": len(item.extents) // 2}
        for item in image.pages.values()
    ]
    return {
        "path": image.path,
        "bytes": image.status.st_size,
        "header": msgspec.to_builtins(image.header),
        "pages": pages,
    }
