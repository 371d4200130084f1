"""The plan: a graph of steps made from records and facts about the host, and its order.

A pure function: no I/O, no clock. What cannot be restored is refused here, all of it at once.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.errors import Finding, PlanError
from ckpt.objects import modules
from ckpt.objects.base import Builder, HostFacts, Options, Records, raise_blockers
from ckpt.objects.steps import Executor, Step, Token, born, thread_done

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Plan(NamedTuple):
    """Steps in an order that respects every token, and what will differ."""

    steps: tuple[Step, ...]
    warnings: tuple[Finding, ...]
    socket_fd: int

    def runs(self, end: int | None = None) -> Iterator[tuple[Step, ...]]:
        """Yield neighbouring tape steps of one thread together: each run is one tape.

        Only the first `end` steps, if it is given.
        """
        run: list[Step] = []
        for step in self.steps[:end]:
            if run and not (step.executor is Executor.TAPE and step.tid == run[0].tid):
                yield tuple(run)
                run = []
            run.append(step)
            if step.executor is not Executor.TAPE:
                yield tuple(run)
                run = []
        if run:
            yield tuple(run)


COMMIT: Final = "commit"
"""What comes behind the last step: the process is let go."""
_MAX_NAME: Final = 40
_NAME_ENDS: Final = re.compile(r"[:(]|(?:^|\s)b?['\"]")
_NO_NAME: Final = re.compile(r"[^a-z0-9]+")


def name_steps(steps: Sequence[Step]) -> list[str]:
    """Return a name for each step, by which `restore --stop-at` knows it: plain, unique, no spaces.

    It is made from `Step.why`; a thread's id (`@412`) and then a count (`.2`) make it unique.
    """
    plain = [_plain_name(step.why) for step in steps]
    often = Counter(plain)
    names = [
        f"{name}@{step.tid}" if often[name] > 1 and step.tid else name
        for name, step in zip(plain, steps, strict=True)
    ]
    often, seen = Counter(names), Counter[str]()
    for index, name in enumerate(names):
        seen[name] += 1
        if often[name] > 1:
            names[index] = f"{name}.{seen[name]}"
    return names


def _plain_name(why: str) -> str:
    """Cut what a target has named (a path in quotes) and the details behind a colon."""
    words = _NO_NAME.sub("-", _NAME_ENDS.split(why.lower())[0][: 2 * _MAX_NAME].replace("'", ""))
    if len(words) > _MAX_NAME:
        words = words[:_MAX_NAME].rpartition("-")[0] or words[:_MAX_NAME]
    name = words.strip("-")
    # A number is a step's number, and these two are not steps of a plan.
    return f"step-{name or 0}" if name.isdecimal() or name in ("", "create", COMMIT) else name


def find_step(plan: Plan, text: str) -> int:
    """Return the index of the step of this number (from 1) or name; `len(plan.steps)` is commit.

    Raises:
        PlanError: there is no such step; the hint names those that are meant perhaps.
    """
    names = [*name_steps(plan.steps), COMMIT]
    if text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= len(names):
        return int(text) - 1
    if text in names:
        return names.index(text)
    from difflib import get_close_matches

    near = get_close_matches(text, names, 8, 0.4)
    near += [name for name in names if name.partition("@")[0] == text and name not in near]
    meant = f"did you mean {', '.join(near[:_MAX_NEAR])}? " if near else ""
    raise PlanError(
        f"no step {text!r} in the plan of this image ({len(names)} steps)",
        hint=f"{meant}restore --dry-run prints every step's number and name",
    )


_MAX_NEAR: Final = 12


def build_plan(records: Records, host: HostFacts, options: Options) -> Plan:
    """Make the plan that restores `records` on the machine that `host` describes.

    Raises:
        RefusedError: this machine, or this version, cannot hold what the image has.
        PlanError: the records contradict each other.
    """
    builder = Builder(host, options, choose_socket_fd(records))
    for module in modules():
        if hasattr(module, "plan"):
            module.plan(records, builder)
    raise_blockers(builder.findings, "cannot be restored here")
    given = [born(process.tgid) for process in records.processes]
    steps = order_steps([_with_thread_done(step) for step in builder.steps], given)
    return Plan(steps, tuple(builder.findings), builder.socket_fd)


def choose_socket_fd(records: Records) -> int:
    """Return the lowest number from 3 on that no descriptor of the target has."""
    used: set[int] = set()
    for module in modules():
        if hasattr(module, "reserved_fds"):
            used.update(module.reserved_fds(records))
    number = 3
    while number in used:
        number += 1
    return number


def _with_thread_done(step: Step) -> Step:
    """Make every tape step of a thread come before that thread is done with tapes."""
    done = thread_done(step.tid)
    if step.executor is not Executor.TAPE or done in step.needs or done in step.after:
        return step
    return step._replace(provides=(*step.provides, done))


class _Graph:
    """Steps and tokens as nodes; a step that needs a token waits for all its providers."""

    def __init__(self, steps: Sequence[Step], given: Iterable[Token]) -> None:
        self.steps = steps
        self.providers: dict[Token, list[int]] = {}
        for index, step in enumerate(steps):
            for token in step.provides:
                self.providers.setdefault(token, []).append(index)
        self.missing = {token: len(indices) for token, indices in self.providers.items()}
        self.waiters: dict[Token, list[int]] = {}
        self.waits = [0] * len(steps)
        known = set(given)
        for index, step in enumerate(steps):
            self._add_waits(index, step, known)

    def _add_waits(self, index: int, step: Step, given: set[Token]) -> None:
        for token in step.needs:
            if token not in self.providers and token not in given:
                raise PlanError(f"step '{step.why}' needs {token}, which nothing provides")
        for token in {*step.needs, *step.after}:
            if token in self.providers:
                self.waiters.setdefault(token, []).append(index)
                self.waits[index] += 1

    def finish(self, index: int) -> Iterator[int]:
        """Note that a step is done; yield the steps that have become ready."""
        for token in self.steps[index].provides:
            self.missing[token] -= 1
            if self.missing[token] == 0:
                for waiter in self.waiters.get(token, ()):
                    self.waits[waiter] -= 1
                    if self.waits[waiter] == 0:
                        yield waiter

    def find_cycle(self, done: set[int]) -> str:
        """Return one cycle among the steps that never became ready, as text."""
        index = next(i for i in range(len(self.steps)) if i not in done)
        path: list[int] = []
        while index not in path:
            path.append(index)
            step = self.steps[index]
            index = next(
                provider
                for token in (*step.needs, *step.after)
                for provider in self.providers.get(token, ())
                if provider not in done
            )
        cycle = [*path[path.index(index) :], index]
        return " <- ".join(self.steps[i].why for i in cycle)


class _Ready:
    """Steps that may go now: those of the thread at work first, then the lowest index."""

    def __init__(self) -> None:
        self._heaps: dict[tuple[Executor, int], list[int]] = {}
        self._all: list[tuple[int, tuple[Executor, int]]] = []
        self._key: tuple[Executor, int] | None = None

    def push(self, index: int, step: Step) -> None:
        key = (step.executor, step.tid)
        heapq.heappush(self._heaps.setdefault(key, []), index)
        heapq.heappush(self._all, (index, key))

    def pop(self) -> int | None:
        """Return the next step; an entry of `_all` that its own heap no longer has is stale."""
        if self._key is not None and self._heaps.get(self._key):
            return heapq.heappop(self._heaps[self._key])
        while self._all:
            index, key = heapq.heappop(self._all)
            heap = self._heaps[key]
            if heap and heap[0] <= index:
                self._key = key
                return heapq.heappop(heap)
        return None


def order_steps(steps: Sequence[Step], given: Iterable[Token] = ()) -> tuple[Step, ...]:
    """Return the steps in a stable topological order, a thread's steps together where possible.

    Raises:
        PlanError: a needed token has no provider, or there is a cycle (its path is in the text).
    """
    graph = _Graph(steps, given)
    ready = _Ready()
    for index, step in enumerate(steps):
        if graph.waits[index] == 0:
            ready.push(index, step)
    order: list[int] = []
    while (index := ready.pop()) is not None:  # type: ignore[assignment]
        order.append(index)
        for freed in graph.finish(index):
            ready.push(freed, steps[freed])
    if len(order) < len(steps):
        raise PlanError(f"steps wait for each other: {graph.find_cycle(set(order))}")
    return tuple(steps[index] for index in order)
