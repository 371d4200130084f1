"""The order of steps: every token before who needs it, stable, and never a silent cycle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt.errors import PlanError
from ckpt.objects.base import Records
from ckpt.objects.files import Descriptor, FileTable
from ckpt.objects.steps import Call, Executor, Step, Token, born, thread_done
from ckpt.plan import Plan, _with_thread_done, choose_socket_fd, order_steps

A, B, C = Token("a"), Token("b"), Token("c", 7)


def step(why: str, tid: int = 1, executor: Executor = Executor.TAPE, **tokens: object) -> Step:
    """Return a step with nothing in it but its place in the graph."""
    return Step(executor, tid, why, **tokens)  # type: ignore[arg-type]


def whys(steps: tuple[Step, ...]) -> list[str]:
    return [item.why for item in steps]


def test_who_provides_comes_before_who_needs() -> None:
    steps = [
        step("last", needs=(B,)),
        step("first", provides=(A,)),
        step("mid", needs=(A,), provides=(B,)),
    ]
    assert whys(order_steps(steps)) == ["first", "mid", "last"]


def test_a_token_is_there_when_all_its_providers_are_done() -> None:
    steps = [step("user", needs=(A,)), step("one", provides=(A,)), step("two", provides=(A,))]
    assert whys(order_steps(steps)) == ["one", "two", "user"]


def test_order_is_kept_where_nothing_else_orders() -> None:
    names = [f"step {i}" for i in range(20)]
    assert whys(order_steps([step(name) for name in names])) == names


def test_steps_of_one_thread_stay_together() -> None:
    """Each run of them is one tape, and a tape is one stop of the thread."""
    steps = [step(f"{tid}.{i}", tid) for i in range(3) for tid in (1, 2)]
    runs = list(Plan(order_steps(steps), (), 3).runs())
    assert [[item.why for item in run] for run in runs] == [
        ["1.0", "1.1", "1.2"],
        ["2.0", "2.1", "2.2"],
    ]


def test_other_steps_are_runs_of_their_own() -> None:
    steps = (step("a"), step("b", executor=Executor.PTRACE), step("c"), step("d"))
    runs = [[item.why for item in run] for run in Plan(steps, (), 3).runs()]
    assert runs == [["a"], ["b"], ["c", "d"]]


def test_a_token_that_nobody_provides_is_a_bug() -> None:
    with pytest.raises(PlanError, match=r"step 'x' needs c\(7\), which nothing provides"):
        order_steps([step("x", needs=(C,))])


def test_given_tokens_need_no_provider() -> None:
    assert whys(order_steps([step("x", needs=(C,))], [C])) == ["x"]


def test_after_orders_only_if_somebody_provides() -> None:
    assert whys(order_steps([step("x", after=(A,))])) == ["x"]
    assert whys(order_steps([step("x", after=(A,)), step("y", provides=(A,))])) == ["y", "x"]


def test_a_cycle_prints_its_path() -> None:
    steps = [
        step("free"),
        step("one", needs=(A,), provides=(B,)),
        step("two", needs=(B,), provides=(A,)),
    ]
    with pytest.raises(PlanError, match="steps wait for each other: one <- two <- one"):
        order_steps(steps)


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.sets(st.integers(0, 200), max_size=4)),
        min_size=1,
        max_size=40,
    ),
    st.randoms(use_true_random=False),
)
def test_any_graph_without_cycle_is_ordered(
    nodes: list[tuple[int, set[int]]], random: object
) -> None:
    """Node i needs some of the nodes before it; the list comes shuffled."""
    steps = [
        step(
            str(i),
            tid,
            needs=tuple(Token("t", ref % i) for ref in sorted(refs)) if i else (),
            provides=(Token("t", i),),
        )
        for i, (tid, refs) in enumerate(nodes)
    ]
    random.shuffle(steps)  # type: ignore[attr-defined]
    ordered = order_steps(steps)
    assert sorted(whys(ordered)) == sorted(whys(tuple(steps)))
    done: set[Token] = set()
    for item in ordered:
        assert set(item.needs) <= done
        done |= set(item.provides)
    assert order_steps(steps) == ordered


def test_the_socket_takes_a_number_that_the_target_leaves_free() -> None:
    table = FileTable(ref=2, descriptors=[Descriptor(fd, False, 9) for fd in (0, 1, 3, 4, 6)])
    assert choose_socket_fd(Records([table])) == 5
    assert choose_socket_fd(Records([])) == 3


def test_tapes_end_before_their_thread_is_done() -> None:
    call = Call(39)
    tape = Step(Executor.TAPE, 5, "t", (call,))
    last = Step(Executor.PTRACE, 5, "park", needs=(thread_done(5),))
    ordered = order_steps([last, _with_thread_done(tape)], [born(5)])
    assert whys(ordered) == ["t", "park"]
