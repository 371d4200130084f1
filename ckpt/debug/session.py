"""An image as Python objects, for a debugging session.

    from ckpt.debug.session import open_session

    with open_session("4242.ckpt") as img:
        thread = img.tasks[4242].threads[0]
        print(thread.restart_block, thread.regs.rip)
        counter = img.memory.u32(img.memory.symbol("counter"))
        for line in thread.backtrace():
            print(line)

`Session(ckpt.open_image(path))` is the same for an image that is open already.
`python -m ckpt.debug IMAGE` opens an interpreter with `img` at hand. Nothing here changes an image
or a process. What an image holds was chosen by somebody else: the texts of these objects (`repr`,
`comm`, `path`, ...) are safe to print, `record` fields and bytes of memory are not.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from ckpt.debug.session_tasks import Task
from ckpt.debug.session_views import View
from ckpt.debug.text import escape
from ckpt.objects.base import ProcessRecord, Records
from ckpt.objects.consistency import check_records
from ckpt.restore import open_image

if TYPE_CHECKING:
    from typing import Self

    from ckpt.debug.session_memory import Memory
    from ckpt.debug.session_threads import Thread
    from ckpt.errors import Finding
    from ckpt.image.header import Header
    from ckpt.image.reader import ImageFile
    from ckpt.objects.base import Record


class Session:
    """One open image; use as a context manager, or `close` it.

    img.tasks[4242]              a process, by pid (an image of today holds one)
    img.threads[4243]            a thread of any process, by tid
    img.task, img.memory         the first process, and its memory
    img.records                  every record; img.of("posix_timer") those of one type
    img.header                   machine, kernel, clocks and options of the snapshot
    img.check()                  whether the records fit together
    img.verify()                 whether all pages are as they were written
    """

    def __init__(self, image: ImageFile) -> None:
        """Take over `image`, as `ckpt.open_image` returns it."""
        self.image = image
        self.path = escape(image.path)
        """Safe to print."""
        self.raw = Records(image.records)
        """The records themselves."""
        tasks: dict[int, Task] = {}
        for record in self.raw.processes:
            tasks.setdefault(record.tgid, Task(self, record))
        self.tasks: Mapping[int, Task] = tasks
        """Every process, by pid."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        tasks = ", ".join(f"{task.pid} ({task.comm})" for task in [*self.tasks.values()][:4])
        more = ", ..." if len(self.tasks) > 4 else ""
        return f"<image {self.path}: task {tasks}{more}, taken {self.taken}>"

    def close(self) -> None:
        """Close the image and the mapped files. May be called twice."""
        for task in self.tasks.values():
            if "memory" in vars(task):
                task.memory.close()
        self.image.close()

    @cached_property
    def by_tid(self) -> Mapping[int, list[Record]]:
        """The records about threads, by tid; one about several threads that are alike is each's."""
        found: dict[int, list[Record]] = {}
        for record in self.raw:
            if not isinstance(record, ProcessRecord):
                tids = {getattr(record, "tid", 0), *getattr(record, "tids", ())} - {0}
                for tid in tids:
                    found.setdefault(tid, []).append(record)
        return found

    @property
    def task(self) -> Task:
        """The first process of the image; LookupError if it holds none."""
        for task in self.tasks.values():
            return task
        raise LookupError(f"{self.path} holds no process")

    @property
    def memory(self) -> Memory:
        """The memory of the first process."""
        return self.task.memory

    @property
    def threads(self) -> Mapping[int, Thread]:
        """Every thread of every process, by tid."""
        return {thread.tid: thread for task in self.tasks.values() for thread in task.threads}

    @property
    def header(self) -> Header:
        """Machine, kernel, clocks at the freeze, options."""
        return self.image.header

    @property
    def taken(self) -> str:
        """When the image was taken, in UTC."""
        taken_ns = self.header.clocks.realtime_ns
        try:
            return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(taken_ns // 10**9))
        except (OverflowError, ValueError, OSError):
            return f"{taken_ns} ns after 1970"

    @property
    def records(self) -> list[View]:
        """Every record, in the order of the image."""
        return [self._view(record) for record in self.raw]

    def of(self, tag: str) -> list[View]:
        """Return every record of one type: `posix_timer`, `file.pipe`, `areas`, ..."""
        return [self._view(one) for one in self.raw if one.__struct_config__.tag == tag]

    def check(self) -> list[Finding]:
        """Return in what the records contradict each other; an image of ours in nothing."""
        return list(check_records(self.raw, self.image.pages))

    def verify(self) -> None:
        """Check the contents of all pages against their checksums; ImageError."""
        self.image.verify_pages()

    def parent_of(self, task: Task) -> Task | None:
        """Return the parent of a task, if the image says it and holds it."""
        return self.tasks.get(getattr(task.record, "parent", 0))

    def _view(self, record: object) -> View:
        locate = self.task.memory.locate if self.tasks else None
        return View(record, locate) if locate else View(record)


def open_session(path: str) -> Session:
    """Open the image at `path` (`-`: standard input) for a debugging session.

    Its structure and its records are checked; the contents of pages are not (`Session.verify`).

    Raises:
        ImageError: it is not a whole image.
    """
    image = open_image(path)
    try:
        return Session(image)
    except BaseException:
        image.close()
        raise
