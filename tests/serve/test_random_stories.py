"""Random programs of all that can be waited for, over the real stores and killed at random places."""

import json
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serve.app_stage import Disaster, Stage
from tests.serve.stories import CERTAIN, OPEN, Call, Child, Do, Event, Fork, Limit, Nap, Story, Trip, expected
from tests.serve.story_players import Part, Players
from tests.stores.kinds import Kind
from tests.stores.redis_server import Server, served

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


async def play(
    story: Story, *disasters: Disaster, always_replay: bool = False, on: Kind = "sqlite", url: str | None = None
) -> str:
    stage = Stage(on, url, always_replay=always_replay)
    players = Players(stage, story)
    try:
        result = await perform(stage, players, *disasters)
        check(players, len(disasters))
        assert await stage.left() == {}
    finally:
        await stage.close()
    return result


async def perform(stage: Stage, players: Players, *disasters: Disaster) -> str:
    await stage.flow.start()
    run = await players.play_part.trigger(Part())
    await stage.drive(*disasters)
    ended = await run.status()
    assert ended.state == "completed", ended
    assert ended.result is not None
    return json.loads(ended.result)


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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.mark.parametrize("always_replay", [False, True])
@pytest.mark.parametrize("story", WRITTEN)
@pytest.mark.parametrize("on", ["sqlite", "fakeredis", "redis"])
async def test_a_written_story_ends_as_it_is_written(
    story: Story, always_replay: bool, on: Kind, request: pytest.FixtureRequest
) -> None:
    """Those that have found a defect."""
    url = request.getfixturevalue("server").url if on == "redis" else None
    assert await play(story, always_replay=always_replay, on=on, url=url) == expected(story)


@settings(deadline=None, max_examples=60)
@given(CERTAIN, DISASTERS, st.booleans())
async def test_a_disturbed_story_ends_as_undisturbed(
    story: Story, disasters: tuple[Disaster, ...], always_replay: bool
) -> None:
    """No fault changes the result, and nothing is left in the store."""
    assert await play(story, *disasters, always_replay=always_replay) == expected(story)


@settings(deadline=None, max_examples=60)
@given(OPEN, DISASTERS, st.booleans())
async def test_an_open_race_is_decided_once(story: Story, disasters: tuple[Disaster, ...], always_replay: bool) -> None:
    """The first wait is the same after a crash, and so is everything that follows."""
    assert await play(story, *disasters, always_replay=always_replay)


@settings(deadline=None, max_examples=10)
@given(CERTAIN, DISASTERS, st.booleans())
async def test_a_disturbed_story_ends_as_undisturbed_on_fakeredis(
    story: Story, disasters: tuple[Disaster, ...], always_replay: bool
) -> None:
    """Few of them: it is slow, and carries out the script that the server carries out as well."""
    assert await play(story, *disasters, always_replay=always_replay, on="fakeredis") == expected(story)


@settings(deadline=None, max_examples=60)
@given(CERTAIN, DISASTERS, st.booleans())
async def test_a_disturbed_story_ends_as_undisturbed_on_redis(
    server: Server, story: Story, disasters: tuple[Disaster, ...], always_replay: bool
) -> None:
    """On a server, with a namespace for each of them."""
    assert await play(story, *disasters, always_replay=always_replay, on="redis", url=server.url) == expected(story)


@settings(deadline=None, max_examples=60)
@given(OPEN, DISASTERS, st.booleans())
async def test_an_open_race_is_decided_once_on_redis(
    server: Server, story: Story, disasters: tuple[Disaster, ...], always_replay: bool
) -> None:
    """Order in time is the order of what was recorded there, too."""
    assert await play(story, *disasters, always_replay=always_replay, on="redis", url=server.url)
