"""A plan for people, and as JSON: `restore --dry-run`. Tapes read like the output of strace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckpt.debug.text import escape
from ckpt.objects.steps import Executor
from ckpt.tape import describe_call

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.objects.steps import Step
    from ckpt.plan import Plan


def plan_lines(plan: Plan) -> Iterator[str]:
    """Yield every step in order; the calls of a tape are below its step."""
    tapes = sum(run[0].executor is Executor.TAPE for run in plan.runs())
    calls = sum(len(step.calls) for step in plan.steps)
    yield f"plan: {len(plan.steps)} steps, {calls} system calls on {tapes} tapes"
    for number, step in enumerate(plan.steps, 1):
        yield f"{number:4d} {_head(step)}"
        for call in step.calls:
            yield f"       {escape(describe_call(call))}"


def _head(step: Step) -> str:
    who = f"{step.executor.value} {step.tid}" if step.tid else step.executor.value
    what = step.why if step.action is None else f"{step.why}: {step.action.describe()}"
    return f"{who}: {escape(what)}"


def plan_json(plan: Plan) -> Iterator[dict[str, Any]]:
    """Yield every step as values of JSON's types."""
    for step in plan.steps:
        yield {
            "executor": step.executor.value,
            "tid": step.tid,
            "why": step.why,
            "action": None if step.action is None else escape(step.action.describe()),
            "calls": [escape(describe_call(call)) for call in step.calls],
        }
