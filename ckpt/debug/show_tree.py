"""`show --tree`: the processes of an image and their threads: names, and what each was doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ckpt.debug.calls import describe_thread
from ckpt.debug.show_blocks import Block
from ckpt.debug.symbols import AddressSpace
from ckpt.debug.text import escape, escape_bytes
from ckpt.objects import siginfo
from ckpt.objects.mm import MmRecord
from ckpt.objects.session import SessionRecord
from ckpt.objects.task import ThreadRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.debug.calls import ThreadCall
    from ckpt.image.reader import ImageFile
    from ckpt.objects.base import ProcessRecord, Records

_MAX_ARGUMENT_BYTES: Final = 4096


def tree_blocks(image: ImageFile, records: Records) -> Iterator[Block]:
    """Yield a block a process, the root first: a line a thread."""
    threads = {record.tid: record for record in records.of(ThreadRecord)}
    for process in records.processes:
        with AddressSpace(image, records, process) as space:
            mine = [threads[tid] for tid in process.tids if tid in threads]
            calls = [describe_thread(record, space) for record in mine]
            yield _process_block(process, records, space, calls)


def _process_block(
    process: ProcessRecord, records: Records, space: AddressSpace, calls: list[ThreadCall]
) -> Block:
    session = next((r for r in records.of(SessionRecord) if r.tgid == process.tgid), None)
    mm = next((r for r in records.of(MmRecord) if r.ref == process.mm), None)
    exe = escape(mm.exe.path) if mm is not None else ""
    name = calls[0].comm if calls and process.leader_alive else exe.rpartition("/")[2]
    arguments = read_arguments(mm, space)
    parts = [f"{process.tgid} ({name})", _process_state(process), f"{len(process.tids)} threads"]
    parts += [f"group {session.pgid}, session {session.sid}"] if session is not None else []
    parts += [f"exe {exe}"] if exe else []
    lines = [f"  arguments: {' '.join(map(escape_bytes, arguments))}"] if arguments else []
    ends = ["├─"] * (len(calls) - 1) + ["└─"]
    lines += [f"  {end} {_thread_line(call)}" for end, call in zip(ends, calls, strict=False)]
    plain = {
        "tgid": process.tgid,
        "name": name,
        "state": _process_state(process),
        "exe": mm.exe.path if mm is not None else None,
        "arguments": [text.decode("utf-8", "surrogateescape") for text in arguments],
        "pgid": session.pgid if session is not None else None,
        "sid": session.sid if session is not None else None,
        "threads": [_thread_plain(call) for call in calls],
    }
    return Block(", ".join(parts), lines, plain, ())


def read_arguments(mm: MmRecord | None, space: AddressSpace) -> list[bytes]:
    """Return argv as it stands in memory, cut to a few KiB."""
    if mm is None or not 0 < mm.arg_start < mm.arg_end:
        return []
    text = space.read(mm.arg_start, min(mm.arg_end - mm.arg_start, _MAX_ARGUMENT_BYTES))
    return text.removesuffix(b"\0").split(b"\0") if text else []


def _process_state(process: ProcessRecord) -> str:
    if process.stopped_by:
        return f"stopped by {siginfo.name_of(process.stopped_by)}"
    return "running" if process.leader_alive else "its main thread has exited"


def _thread_state(call: ThreadCall) -> str:
    if not call.call:
        return f"running at {call.location}" if call.location else "running"
    left = "" if call.remaining_s is None else f", {call.remaining_s:.3f} s left"
    return f"in {call.call}{left}"


def _thread_line(call: ThreadCall) -> str:
    return f"{call.tid} ({call.comm}): {_thread_state(call)}"


def _thread_plain(call: ThreadCall) -> dict[str, Any]:
    return {"tid": call.tid, "name": call.comm, "state": _thread_state(call), "call": call.call}
