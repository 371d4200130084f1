"""A plan for people, and as JSON: `restore --dry-run`. Tapes read like the output of strace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckpt.debug.tape_actions import Facts, calls_of, creation_calls, parts_of
from ckpt.debug.tape_text import TapeText
from ckpt.debug.text import escape
from ckpt.objects.steps import Executor
from ckpt.plan import COMMIT, name_steps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.debug.tape_text import PlannedCall
    from ckpt.objects.steps import Step
    from ckpt.plan import Plan

_CREATE = "create"
_CREATE_WHY = "clone3 with the pid, a seed of one page, a tape, a socket to the restorer"
_COMMIT_WHY = "pages are known good; nobody kills the process any more, every thread is let go"


def plan_lines(plan: Plan, text: TapeText, facts: Facts) -> Iterator[str]:
    """Yield every step in order with what it needs; the calls it leads to are below it."""
    tapes = sum(run[0].executor is Executor.TAPE for run in plan.runs())
    calls = sum(len(step.calls) for step in plan.steps)
    # The commit is a step as well: `--stop-at` counts it.
    yield f"plan: {len(plan.steps) + 1} steps, {calls} system calls on {tapes} tapes"
    yield f"step 0 {_CREATE} (host): {_CREATE_WHY}"
    yield from _call_lines(creation_calls(facts), text)
    for number, (name, step) in enumerate(zip(name_steps(plan.steps), plan.steps, strict=True), 1):
        yield ""
        yield f"step {number} {name} ({describe_executor(step)}): {describe_step(step)}"
        for what, tokens in _tokens(step).items():
            if tokens:
                yield f"    {what} {', '.join(tokens)}"
        for part in parts_of(step):
            yield f"    makes {escape(part)}"
        yield from _call_lines(calls_of(step, facts), text)
    yield ""
    yield f"step {len(plan.steps) + 1} {COMMIT} (host): {_COMMIT_WHY}"


def _call_lines(calls: Iterator[tuple[int, PlannedCall]], text: TapeText) -> Iterator[str]:
    for tid, call in calls:
        yield escape(text.line(tid, call))


def describe_executor(step: Step) -> str:
    """Return who carries a step out."""
    return f"{step.executor.value}, tid {step.tid}" if step.tid else step.executor.value


def describe_step(step: Step) -> str:
    """Return what a step is for, and what its action does; safe to print."""
    what = step.why if step.action is None else f"{step.why}: {step.action.describe()}"
    return escape(what)


def _tokens(step: Step) -> dict[str, list[str]]:
    """Return what orders a step: `after` counts only if anybody provides it."""
    return {
        "needs": [str(token) for token in step.needs],
        "after": [str(token) for token in step.after],
        "provides": [str(token) for token in step.provides],
    }


def step_json(number: int, name: str, step: Step | None) -> dict[str, Any]:
    """Return one step (None: the commit) without its calls, as values of JSON's types."""
    if step is None:
        return _host_json(number, name, _COMMIT_WHY)
    return {
        "number": number,
        "name": name,
        "executor": step.executor.value,
        "tid": step.tid,
        "why": escape(step.why),
        "action": None if step.action is None else escape(step.action.describe()),
        "parts": list(map(escape, parts_of(step))),
        **_tokens(step),
    }


def _host_json(number: int, name: str, why: str) -> dict[str, Any]:
    none: dict[str, list[str]] = {"needs": [], "after": [], "provides": []}
    what: dict[str, Any] = {"executor": "host", "tid": 0, "why": why, "action": None, "parts": []}
    return {"number": number, "name": name, **what, **none}


def plan_json(plan: Plan, text: TapeText, facts: Facts) -> Iterator[dict[str, Any]]:
    """Yield every step, creation first and commit last, as values of JSON's types."""
    created = _calls_json(creation_calls(facts), text)
    yield {**_host_json(0, _CREATE, _CREATE_WHY), "calls": created}
    for number, (name, step) in enumerate(zip(name_steps(plan.steps), plan.steps, strict=True), 1):
        yield {**step_json(number, name, step), "calls": _calls_json(calls_of(step, facts), text)}
    yield {**step_json(len(plan.steps) + 1, COMMIT, None), "calls": []}


def _calls_json(calls: Iterator[tuple[int, PlannedCall]], text: TapeText) -> list[dict[str, Any]]:
    return [text.plain(tid, call) for tid, call in calls]
