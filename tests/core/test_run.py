"""Journals: what has come for a run by the time it is claimed."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflow.core.run import Arrival, Run, Step, StepKind, apply_arrivals, last_position, merge_steps

NOW = 1_000


def pending(number: int, kind: StepKind = "wait", due: int = 0) -> Step:
    return Step(number, f"s{number}", kind, "pending", due=due)


def recorded(number: int, position: int) -> Step:
    return Step(number, f"s{number}", "run", "done", position, "1", at=5)


def came(number: int, at: int, value: str = "1") -> Arrival:
    return Arrival(number, "done", value, None, at)


def seen(steps: Sequence[Step]) -> list[tuple[int, str, int, str | None]]:
    """Number, state, position and value, in the order they were recorded."""
    return [(step.number, step.state, step.position, step.value) for step in steps]


CASES: dict[str, tuple[list[Step], list[Arrival], list[tuple[int, str, int, str | None]]]] = {
    "nothing is pending": ([recorded(1, 1)], [], []),
    "a timer that is due": ([pending(1, "sleep", NOW)], [], [(1, "done", 1, "null")]),
    "a timer that is not due": ([pending(1, "sleep", NOW + 1)], [], []),
    "a wait whose time has come": ([pending(1, "wait", NOW)], [], [(1, "timeout", 1, "null")]),
    "a wait without a time": ([pending(1)], [], []),
    "a retry that is due is left to the run": ([pending(1, "run", 5)], [], []),
    "calls and children do not time out": ([pending(1, "call", 5), pending(2, "invoke", 5)], [], []),
    "an event": ([pending(1)], [came(1, 9, "7")], [(1, "done", 1, "7")]),
    "an answer": ([pending(1, "call")], [came(1, 9)], [(1, "done", 1, "1")]),
    "an arrival before the timeout": ([pending(1, due=20)], [came(1, 19)], [(1, "done", 1, "1")]),
    "an arrival after the timeout": ([pending(1, due=20)], [came(1, 21)], [(1, "timeout", 1, "null")]),
    "the first of two arrivals": ([pending(1)], [came(1, 9, "7"), came(1, 9, "8")], [(1, "done", 1, "7")]),
    "for a step with an outcome": ([recorded(1, 1)], [came(1, 9)], []),
    "for a step that is not there": ([pending(1)], [came(2, 9)], []),
    "in time order, not by number": (
        [recorded(4, 3), pending(1), pending(2, "sleep", 20), pending(3, "invoke")],
        [came(1, 30), came(3, 10)],
        [(3, "done", 4, "1"), (2, "done", 5, "null"), (1, "done", 6, "1")],
    ),
    "at one time what arrived, as it came, before timers": (
        [pending(2), pending(1, "sleep", 10), pending(3)],
        [came(3, 10), came(2, 10)],
        [(3, "done", 1, "1"), (2, "done", 2, "1"), (1, "done", 3, "null")],
    ),
    "what comes from the future comes now": (
        [pending(1), pending(2, "sleep", NOW)],
        [came(1, NOW + 500)],
        [(1, "done", 1, "1"), (2, "done", 2, "null")],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_apply_arrivals_records_what_has_come(case: str) -> None:
    """Arrivals and due timers, in time order; the first that came for a step counts."""
    journal, arrivals, expected = CASES[case]
    assert seen(apply_arrivals(journal, NOW, arrivals)) == expected


def test_apply_arrivals_keeps_what_an_arrival_says() -> None:
    """State, value and error; the rest of the step is as it was, and its time is now."""
    step = Step(3, "child", "invoke", "pending", failures=2, due=7, at=4)
    arrived = Arrival(3, "failed", "null", "Boom: no", 9)
    expected = step._replace(state="failed", position=1, value="null", error="Boom: no", at=NOW)
    assert apply_arrivals([step], NOW, [arrived]) == [expected]
    (cancelled,) = apply_arrivals([step], NOW, [Arrival(3, "cancelled", None, None, 9)])
    assert (cancelled.state, cancelled.value, cancelled.error) == ("cancelled", None, None)


NUMBERS = st.integers(1, 8)
TIMES = st.integers(1, NOW + 50)
KINDS: st.SearchStrategy[StepKind] = st.sampled_from(["run", "sleep", "call", "invoke", "wait"])


@st.composite
def journals(draw: st.DrawFn) -> list[Step]:
    """Some steps with outcomes, in positions from 1 on, and some that are pending."""
    numbers = draw(st.lists(NUMBERS, unique=True))
    split = draw(st.integers(0, len(numbers)))
    outcomes = [recorded(number, position) for position, number in enumerate(numbers[:split], 1)]
    waits = [pending(number, draw(KINDS), draw(st.just(0) | TIMES)) for number in numbers[split:]]
    return draw(st.permutations([*outcomes, *waits]))


# In the order they came, as a store has them.
ARRIVALS = st.lists(st.builds(came, NUMBERS, TIMES, st.sampled_from("123")), max_size=12).map(
    lambda arrivals: sorted(arrivals, key=lambda arrival: arrival.at)
)


def times(step: Step, arrivals: Sequence[Arrival]) -> list[tuple[int, bool, int]]:
    """When what came for a step did, of what has come by now; of one moment arrivals first, in the order they came."""
    found = [(min(one.at, NOW), False, place) for place, one in enumerate(arrivals) if one.number == step.number]
    timed = step.kind in {"sleep", "wait"} and 0 < step.due <= NOW
    return [*found, *([(step.due, True, step.number)] if timed else [])]


@given(journals(), ARRIVALS)
def test_apply_arrivals_goes_on_in_time_order(journal: list[Step], arrivals: list[Arrival]) -> None:
    """Each pending step for which something came, once, in the order of the first that did; positions go on."""
    was = {step.number: step for step in journal}
    expected = sorted(
        (min(times(step, arrivals)), step.number)
        for step in journal
        if step.state == "pending" and times(step, arrivals)
    )
    ripe = apply_arrivals(journal, NOW, arrivals)
    assert [step.number for step in ripe] == [number for _, number in expected]
    begin = last_position(journal) + 1
    assert [step.position for step in ripe] == list(range(begin, begin + len(ripe)))
    for step in ripe:
        assert step._replace(state="pending", position=0, value=None, at=0) == was[step.number]
        assert (step.state != "pending", step.at) == (True, NOW)


@given(journals(), ARRIVALS)
def test_apply_arrivals_takes_the_first_that_came(journal: list[Step], arrivals: list[Arrival]) -> None:
    """An arrival where it was there before the time had come, else what time makes of the step."""
    for step in apply_arrivals(journal, NOW, arrivals):
        first = next((arrival for arrival in arrivals if arrival.number == step.number), None)
        if first is not None and min(first.at, NOW) == min(times(step, arrivals))[0] != step.due:
            assert (step.state, step.value) == (first.state, first.value)
        elif first is None:
            assert (step.state, step.value) == ("done" if step.kind == "sleep" else "timeout", "null")


@given(journals(), ARRIVALS)
def test_apply_arrivals_again_changes_nothing(journal: list[Step], arrivals: list[Arrival]) -> None:
    """A recorded outcome stays, whatever else arrives for its step."""
    after = merge_steps(journal, apply_arrivals(journal, NOW, arrivals))
    assert apply_arrivals(after, NOW, arrivals) == []
    assert {step.number for step in after} == {step.number for step in journal}


def test_what_a_run_that_has_ended_did_not_wait_for_any_more_is_abandoned() -> None:
    """It is shown so, and recorded as it was."""
    journal = (Step(1, "won", "run", "done", 1, "1"), Step(2, "lost", "sleep", "pending", due=9))
    run = Run(id="r", destination="/f", state="waiting", created_at=1, journal=journal)
    assert run.steps == journal
    ended = replace(run, state="completed")
    assert ended.journal == journal
    assert [(step.state, step.due) for step in ended.steps] == [("done", 0), ("abandoned", 0)]
