"""Random programs, disturbed at random places, end as they do undisturbed."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from batchflow.core.settlement import Settlement
from tests.serve.programs import POLICY, Performance, Program, programs
from tests.serve.store_model import Fault, Model, endpoint

FAULTS: Sequence[Fault] = ("killed", "refused", "reply lost", "stale")
faults = st.dictionaries(st.integers(1, 25), st.sampled_from(FAULTS), max_size=6)


async def play(
    program: Program, *, faults: dict[int, Fault] | None = None, always_replay: bool = False
) -> tuple[Settlement, Performance]:
    model = Model(retry=POLICY, faults=faults or {}, always_replay=always_replay)
    performance = Performance(program, model)
    return await model.drive(endpoint(performance)), performance


def check(ending: Settlement, performance: Performance) -> None:
    assert ending.ending == "done", ending
    seen, model = performance.notes.seen, performance.model
    for before, after in pairwise(seen):
        shared = min(len(before), len(after))
        assert before[:shared] == after[:shared], "outcomes are handed out in the order they were"
    for name, calls in performance.notes.calls.items():
        failures = sum(step.failures for step in model.journal if step.name == name)
        assert calls <= failures + 1 + len(model.endings), f"'{name}' is called once an attempt"


@settings(deadline=None, max_examples=300)
@given(programs("gather", "group"), faults, st.booleans())
async def test_a_disturbed_program_ends_as_undisturbed(
    program: Program, faults: dict[int, Fault], always_replay: bool
) -> None:
    """No fault changes the result, and no recorded step is executed again."""
    undisturbed, first = await play(program)
    disturbed, second = await play(program, faults=faults, always_replay=always_replay)
    check(undisturbed, first)
    check(disturbed, second)
    assert disturbed.result == undisturbed.result


@settings(deadline=None, max_examples=300)
@given(programs("gather", "group", "race, cancel", "race, leave", "race, join"), faults, st.booleans())
async def test_a_race_is_decided_once(program: Program, faults: dict[int, Fault], always_replay: bool) -> None:
    """The winner of a race is the same after a crash, and so is everything that follows."""
    check(*await play(program, faults=faults, always_replay=always_replay))
