"""A journal as the code asks for it again: numbers, names, order, and what does not fit."""

import pytest

from batchflow.core.run import Replay, Step, StepKind
from batchflow.errors import ReplayError

CURE = (
    "the code between steps has changed or does not do the same on every attempt: keep names and order of steps while "
    "runs are under way, and take time, chance and outside data into steps"
)


def done(number: int, name: str, position: int, kind: StepKind = "run") -> Step:
    return Step(number, name, kind, "done", position, "null")


def pending(number: int, name: str, due: int, kind: StepKind = "run") -> Step:
    return Step(number, name, kind, "pending", failures=1, due=due)


def test_new_steps_are_numbered_in_the_order_they_are_asked_for() -> None:
    """1, 2, … whatever their kind, and pending."""
    replay = Replay()
    assert replay.request("a", "run") == Step(1, "a", "run", "pending")
    assert replay.request("b", "sleep") == Step(2, "b", "sleep", "pending")
    assert replay.request_fresh("c") == 3


@pytest.mark.parametrize(
    ("journal", "asked", "numbers"),
    [
        pytest.param([done(1, "a", 1)], ["a", "b"], [1, 2], id="recorded first"),
        pytest.param([done(2, "b", 1)], ["a", "b", "c"], [1, 2, 3], id="recorded second"),
        pytest.param([done(2, "b", 1)], ["a", "c", "b"], [1, 3, 2], id="asked for in another order"),
        pytest.param([done(1, "b", 1), done(2, "c", 2)], ["a", "b", "c"], [3, 1, 2], id="a new one before"),
        pytest.param([pending(1, "a", 5)], ["a", "b"], [1, 2], id="pending"),
    ],
)
def test_recorded_steps_keep_their_numbers(journal: list[Step], asked: list[str], numbers: list[int]) -> None:
    """No two steps of a run have one number, in whatever order the code asks for them now."""
    replay = Replay(journal)
    assert [replay.request(name, "run").number for name in asked] == numbers


def test_outcomes_come_back_in_recorded_order() -> None:
    """By position, not by number, and without what is pending."""
    replay = Replay([done(1, "a", 3), pending(2, "b", 9), done(3, "c", 1), done(4, "d", 2)])
    handed: list[str] = []
    while replay.next_outcome is not None:
        handed.append(replay.take_next().name)
    assert handed == ["c", "d", "a"]


def test_positions_go_on_after_the_last_recorded_one() -> None:
    """Also after a gap that a crash has left."""
    replay = Replay([done(1, "a", 1), done(2, "b", 4)])
    assert [replay.next_position(), replay.next_position()] == [5, 6]


def test_a_step_is_asked_for_as_it_is_recorded() -> None:
    """Outcome or retry to come, the code gets the recorded step."""
    steps = [done(1, "a", 1), pending(2, "b", 9)]
    replay = Replay(steps)
    assert [replay.request("a", "run"), replay.request("b", "run")] == steps


@pytest.mark.parametrize("journal", [[], [done(1, "charge", 1)]])
def test_a_name_is_used_once(journal: list[Step]) -> None:
    """The second request of a name is refused, recorded or not."""
    replay = Replay(journal)
    replay.request("charge", "run")
    assert replay.request_fresh("charge") == 0
    with pytest.raises(ReplayError) as caught:
        replay.request("charge", "run")
    assert str(caught.value) == (
        "step 'charge' is asked for twice in one run; give every step a name of its own, "
        "in a loop for example f'charge:{id}'"
    )


def test_a_step_of_another_kind_is_refused() -> None:
    """The message has the recorded kind, the new one, and the cure."""
    with pytest.raises(ReplayError) as caught:
        Replay([done(1, "pause", 1, "sleep")]).request("pause", "run")
    assert str(caught.value) == (
        "step 'pause' is recorded as a sleep and the code now asks for it as a run; give the new step another name"
    )


def test_only_a_run_without_a_journal_begins() -> None:
    """`begin` leaves everything else to `ask`."""
    assert Replay([pending(1, "a", 5)]).request_fresh("b") == 0


@pytest.mark.parametrize(
    ("waiting", "said"),
    [(["b"], "'b'"), (["b", "c"], "'b' and 'c'"), (list("bcdefgh"), "'b', 'c', 'd', 'e', 'f' and 2 more")],
)
def test_a_mismatch_names_both_sides(waiting: list[str], said: str) -> None:
    """The message has the next recorded step, and the steps that the code waits for instead."""
    assert str(Replay([done(1, "a", 7)]).mismatch_error(waiting)) == (
        f"step 'a' is recorded next, at position 7, but the code does not ask for it and waits for {said}; {CURE}"
    )


def test_recorded_steps_nobody_asked_for_are_found() -> None:
    """At the end every recorded outcome has been asked for; what is pending does not count."""
    replay = Replay([done(1, "a", 1), done(2, "b", 2), done(3, "c", 3), pending(4, "d", 9)])
    replay.request("a", "run")
    assert [step.name for step in replay.unrequested_steps()] == ["b", "c"]
    assert str(replay.unrequested_error("returned")) == (
        f"steps 'b' and 'c' are recorded, but the function returned without asking for them; {CURE}"
    )
    replay.mark_requested("b")
    assert str(replay.unrequested_error("raised")) == (
        f"step 'c' is recorded, but the function raised without asking for it; {CURE}"
    )
    replay.request("c", "run")
    assert replay.unrequested_error("returned") is None


def test_only_what_has_changed_is_written() -> None:
    """A pending step that stands in the journal just so is left out; the rest comes by number."""
    old = pending(1, "a", 5)
    replay = Replay([old, pending(2, "b", 5)])
    assert replay.changed_steps([pending(3, "c", 9), old, pending(2, "b", 6)]) == (
        pending(2, "b", 6),
        pending(3, "c", 9),
    )
