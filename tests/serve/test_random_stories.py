"""Random programs of all that can be waited for, over the real store and killed at random places."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serve.players import Players
from tests.serve.stage import Disaster, Stage
from tests.serve.stories import CERTAIN, OPEN, Call, Child, Do, Event, Fork, Limit, Nap, Story, Trip, expected

DISASTERS = st.lists(
    st.builds(
        Disaster,
        st.sampled_from(["die_before", "die_after"]),
        st.sampled_from(["record", "record", "settle", "settle", "claim", "publish"]),
        st.integers(1, 8),
    )
    | st.builds(Disaster, st.sampled_from(["fail", "lose_reply"]), st.just("record"), st.integers(1, 8)),
    max_size=4,
).map(tuple)


async def play(story: Story, *disasters: Disaster, always_replay: bool = False) -> str:
    stage = Stage(always_replay=always_replay)
    players = Players(stage, story)
    try:
        result = await players.perform(*disasters)
        check(players, len(disasters))
        assert stage.left() == {}
    finally:
        await stage.close()
    return result


def check(players: Players, disasters: int) -> None:
    trips = sum(players.trips.values())
    for key, count in players.executed.items():
        assert count <= 3 + disasters + trips, f"{key} is executed once an attempt"
    for seen in players.seen.values():
        for before, after in pairwise(seen):
            shared = min(len(before), len(after))
            assert before[:shared] == after[:shared], "outcomes are handed out as they were"


WRITTEN: list[Story] = [
    # A group that a recorded failure ends, beside a step that is due again.
    (Fork("group", ((Do(0, 2),), (Call(5, False),))), Do(0, 2)),
    # A wait that is being recorded, or is parked, when the attempt fails outside of steps.
    (Fork("gather", ((Trip(1), Nap(0), Trip(1)), (Do(0, 0),), (Event(3_600),))),),
    (Fork("group", ((Event(3_600),), (Do(0, 0), Do(0, 0), Trip(2)))),),
    # A time limit over a group whose task fails.
    (Limit((Fork("group", ((Nap(0),), (Child((Do(0, 0),), True),))),), "endless"),),
]


@pytest.mark.parametrize("always_replay", [False, True])
@pytest.mark.parametrize("story", WRITTEN)
async def test_a_written_story_ends_as_it_is_written(story: Story, always_replay: bool) -> None:
    """Those that have found a defect."""
    assert await play(story, always_replay=always_replay) == expected(story)


@settings(deadline=None, max_examples=60)
@given(CERTAIN, DISASTERS, st.booleans())
async def test_a_disturbed_story_ends_as_undisturbed(
    story: Story, disasters: tuple[Disaster, ...], always_replay: bool
) -> None:
    """Whatever is lost on the way, the result is the same, and nothing is left in the store."""
    assert await play(story, *disasters, always_replay=always_replay) == expected(story)


@settings(deadline=None, max_examples=60)
@given(OPEN, DISASTERS, st.booleans())
async def test_an_open_race_is_decided_once(story: Story, disasters: tuple[Disaster, ...], always_replay: bool) -> None:
    """Who was first before a crash is first after it, and everything else follows."""
    assert await play(story, *disasters, always_replay=always_replay)
