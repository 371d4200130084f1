"""`show`: every record of an image, readable, or as JSON; one line (or chunk) at a time.

Safe on hostile images: what is printed is bounded by the size of the file, and holds no control
character that the image chose.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ckpt.debug.calls import describe_thread
from ckpt.debug.render import record_lines, render, render_bytes, title, to_plain
from ckpt.debug.symbols import AddressSpace
from ckpt.debug.text import escape, escape_bytes
from ckpt.objects.areas import AreasRecord
from ckpt.objects.base import Records
from ckpt.objects.task import ThreadRecord
from ckpt.objects.vma_flags import Vm, name_flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.image.reader import ImageFile
    from ckpt.objects.areas import Area
    from ckpt.objects.base import Record

_PROT: Final = Vm.READ | Vm.WRITE | Vm.EXEC | Vm.SHARED
_USUAL: Final = Vm.MAYREAD | Vm.MAYWRITE | Vm.MAYEXEC | Vm.MAYSHARE | Vm.ACCOUNT


def show_lines(image: ImageFile) -> Iterator[str]:
    """Yield the image as lines for people."""
    yield from _header_lines(image)
    records = Records(image.records)
    with AddressSpace(image, records) as space:
        for record in records:
            yield ""
            yield from _lines_of(record, space)


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
    flags = area.flags
    prot = "".join(
        letter if flags & bit else "-"
        for letter, bit in (("r", Vm.READ), ("w", Vm.WRITE), ("x", Vm.EXEC))
    )
    sharing = "s" if flags & Vm.MAYSHARE else "p"
    name = escape_bytes(area.special or area.anon_name)
    if 0 <= area.file < len(record.files):
        name = escape(record.files[area.file].path)
    more = name_flags(flags & ~(_PROT | _USUAL))
    more += [f"pkey {area.pkey}"] if area.pkey else []
    more += [f"pages of {area.page_kib} KiB"] if area.page_kib != 4 else []
    more += [escape(area.policy)] if area.policy else []
    extra = f"  ({', '.join(more)})" if more else ""
    return f"{area.start:#x}-{area.end:#x} {prot}{sharing} {area.offset:#x} {name}{extra}".rstrip()


def json_parts(image: ImageFile) -> Iterator[str]:
    """Yield the image as one JSON object, in parts: records one by one, so that memory stays small.

    Bytes are text with surrogate escapes; everything outside ASCII is escaped.
    """
    pages = [
        {"ref": item.ref, "bytes": item.length_bytes, "extents": len(item.extents) // 2}
        for item in image.pages.values()
    ]
    head = {
        "path": image.path,
        "bytes": image.status.st_size,
        "header": msgspec.to_builtins(image.header),
        "pages": pages,
    }
    yield json.dumps(head)[:-1] + ', "threads": ['
    records = Records(image.records)
    with AddressSpace(image, records) as space:
        calls = (describe_thread(record, space).plain() for record in records.of(ThreadRecord))
        yield from _listed(calls)
    yield '], "records": ['
    yield from _listed(to_plain(record) for record in records)
    yield "]}"


def _listed(items: Iterator[Any]) -> Iterator[str]:
    for index, item in enumerate(items):
        yield ("\n" if index == 0 else ",\n") + json.dumps(item)
