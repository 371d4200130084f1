"""What a source of kernel views must offer: BPF is one, read-only calls on stopped threads another.

Implemented by `ckpt.host.bpf` and `ckpt.host.proc_view`; the views are `ckpt.host.kernel_view`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ckpt.host.kernel_view import FileView, KernelId, KernelView, TaskEvent, VmaView


class RawView(Protocol):
    """Bytes as read inside the frozen time; decode them after the thaw (once, or again)."""

    def decode(self) -> KernelView:
        """Turn the bytes into views; does no I/O on the target."""


class RawFiles(Protocol):
    """Undecoded descriptors of one thread's table."""

    def decode(self) -> list[FileView]:
        """Turn the bytes into views, ordered by fd."""


class RawAreas(Protocol):
    """Undecoded areas of one thread's memory."""

    def decode(self) -> list[VmaView]:
        """Turn the bytes into views, ordered by address."""


class Observer(Protocol):
    """A source of views. ``read_*`` is quick and for the frozen time; ``observe_*`` decodes too."""

    source: str

    def read_threads(self, tgid: int) -> RawView:
        """Read all threads of the process ``tgid``, its exited leader included."""

    def read_files(self, tid: int) -> RawFiles:
        """Read the descriptor table of the (living) thread ``tid``."""

    def read_areas(self, tid: int) -> RawAreas:
        """Read the areas of the (living) thread ``tid``."""

    def observe_threads(self, tgid: int) -> KernelView:
        """``read_threads(tgid).decode()``."""

    def observe_files(self, tid: int) -> list[FileView]:
        """``read_files(tid).decode()``."""

    def observe_areas(self, tid: int) -> list[VmaView]:
        """``read_areas(tid).decode()``."""

    def read_ready_watches(self, tid: int) -> dict[KernelId, frozenset[tuple[int, KernelId]]]:
        """Return (number, file) of the items that each epoll instance has to report, by its file.

        Empty without BPF.
        """

    def find_memory_sharers(self, tgid: int, mm: KernelId) -> list[tuple[int, str]]:
        """Return (pid, name) of the other processes that have this memory; empty without BPF."""

    def read_stack(self, tid: int) -> tuple[str, ...]:
        """Return the functions on the kernel stack of ``tid``, innermost first (for messages)."""

    def watch_tasks(
        self, tgid: int, *, restarts: bool = False
    ) -> AbstractContextManager[TaskWatch]:
        """Record forks, execs and exits (and restarts) of ``tgid`` and its descendants."""


class TaskWatch(Protocol):
    """Events of watched tasks since the watch began; complete only while ``lost`` is 0."""

    @property
    def lost(self) -> int:
        """How many events did not fit into the ring buffer."""

    def drain(self) -> list[TaskEvent]:
        """Return the events since the last call, in the order in which they happened."""
