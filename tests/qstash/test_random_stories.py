"""Random programs of all that can be waited for end on QStash as they do elsewhere, whatever is lost or dies."""

import json
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from itertools import pairwise
from operator import itemgetter
from typing import Any, NamedTuple, cast

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from batchflow.engine.push_client import PushError, PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.wire.submissions import own_id
from tests.qstash.mortal_stage import MortalStage
from tests.qstash.stage import APP_URL
from tests.serve.app_stage import Stage
from tests.serve.stories import CERTAIN, OPEN, Call, Do, Fork, Limit, Nap, Story, expected
from tests.serve.story_players import Context, Part, Players, StoryStage
from tests.stores.kinds import Kind, left
from tests.stores.redis_server import Server, served

TOGETHER = 50
"""The stories that are played at a time: it takes as long to make a stage as to play some of them."""

FOR_GOOD = 4
"""A step that fails more often than this fails always."""


class AtArrival(NamedTuple):
    """What was known when a delivery arrived: the number of its entries, its failed attempts, the recorded steps."""

    entries: int
    retried: int
    recorded: frozenset[tuple[str, str]]


_AT_ARRIVAL: ContextVar[AtArrival] = ContextVar("at_arrival")


class WireStoryStage(MortalStage):
    """An app that plays stories on QStash; `resent` are the recorded steps that were executed again."""

    def __init__(self, kind: Kind, seed: object, **options: Any) -> None:
        super().__init__(kind, seed, **options)
        self.recorded: set[tuple[str, str]] = set()
        self.resent: list[tuple[str, str]] = []

    def note(self, request: httpx.Request, response: httpx.Response) -> None:
        """Note the executed steps that QStash has recorded, by run and name."""
        if request.url.path == "/v2/batch" and response.is_success:
            for item in json.loads(request.content):
                match json.loads(item["body"] or "null"):
                    case {"stepId": int(number), "stepType": "Run", "stepName": str(name)} if number:
                        self.recorded.add((own_id(item["headers"]["upstash-workflow-runid"]), name))
                    case _:
                        pass

    def on_arrival(self, request: PushRequest) -> None:
        """Note what is known."""
        entries: Any = json.loads(request.body or "null")
        count = len(cast("list[Any]", entries)) if isinstance(entries, list) else 0
        _AT_ARRIVAL.set(AtArrival(count, retried(request), frozenset(self.recorded)))

    async def failures_of(self, run: str, step: str) -> int:
        """See `StoryStage`; the app dies in some steps."""
        await self.live_on(self.life, "step", run, step)
        return min(FOR_GOOD, _AT_ARRIVAL.get().retried)

    def is_recorded(self, run: str, step: str) -> bool:
        """See `StoryStage`."""
        if is_recorded := (run, step) in _AT_ARRIVAL.get().recorded:
            self.resent.append((run, step))
        return is_recorded


class WirePlayers(Players):
    """Deliveries of QStash come in any order: notes the number of entries that each has."""

    def __init__(self, stage: StoryStage, story: Story) -> None:
        super().__init__(stage, story)
        self.entries: dict[str, list[int]] = {}

    async def part(self, ctx: Context) -> str:
        self.entries.setdefault(ctx.run_id, []).append(_AT_ARRIVAL.get().entries)
        return await super().part(ctx)

    def check(self, lost: int) -> None:
        """Fail if a step was executed too often, or code has seen different things."""
        for key, count in self.executed.items():
            assert count <= 3 + lost + sum(self.trips.values()), f"{key} is executed once an attempt"
        for run, seen in self.seen.items():
            in_order = sorted(zip(self.entries[run], seen, strict=True), key=itemgetter(0))
            for (_, before), (_, after) in pairwise(in_order):
                shared = min(len(before), len(after))
                assert before[:shared] == after[:shared], "more entries are seen as fewer, and go on"


async def play(stories: Sequence[Story], seed: int | None, on: Kind = "sqlite", url: str | None = None) -> list[str]:
    """Play stories at the same time; with a seed much is lost, and processes die. Returns their results."""
    stage = WireStoryStage(on, seed, url=url)
    stage.client.elsewhere = answer_call
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APP_URL", f"{APP_URL}/")
        async with stage:
            await stage.open()
            players = WirePlayers(stage, ())
            players.parts = {f"story {number}:": story for number, story in enumerate(stories)}
            stage.declare = players.on
            runs = [await players.play_part.trigger(Part(path=path)) for path in players.parts]
            if seed is not None:
                stage.disturb()
            await stage.drive()
            stage.calm()
            ended = [await stage.life.flow.run(run.id).status() for run in runs]
            assert {it.state for it in ended} == {"completed"}, list(zip(stories, ended, strict=True))
            assert stage.resent == []
            players.check(stage.lost + 2 * stage.doubled + stage.deaths + stage.server_deaths)
            assert await left(stage.durable) == {}
            return [json.loads(it.result or "") for it in ended]


async def play_directly(stories: Sequence[Story]) -> list[str]:
    """Play stories on the embedded engine."""
    stage = Stage()
    players = Players(stage, ())
    players.parts = {f"story {number}:": story for number, story in enumerate(stories)}
    await stage.flow.start()
    try:
        runs = [await players.play_part.trigger(Part(path=path)) for path in players.parts]
        await stage.drive()
        return [json.loads((await run.status()).result or "") for run in runs]
    finally:
        await stage.close()


def retried(request: PushRequest) -> int:
    return next(int(value) for name, value in request.headers if name.lower() == "upstash-retried")


async def answer_call(request: PushRequest) -> PushResponse:
    """`https://calls.test/FAILS/HOW` fails so often before it says "hello"."""
    *_, fails, how = request.url.split("/")
    if retried(request) >= int(fails):
        return PushResponse(200, (("Content-Type", "text/plain"),), b"hello")
    if how == "answered":
        return PushResponse(500, (("Content-Type", "text/plain"),), b"")
    raise PushError("nobody there")


def drawn(stories: st.SearchStrategy[Story], number: int, count: int = TOGETHER) -> list[Story]:
    """So many random stories, no two alike; the same for the same number."""
    found: dict[Story, None] = {}

    @seed(number)
    @settings(
        database=None,
        deadline=None,
        max_examples=2 * count,
        phases=(Phase.generate,),
        suppress_health_check=(HealthCheck.data_too_large, HealthCheck.too_slow),
    )
    @given(stories)
    def draw(story: Story) -> None:
        found[story] = None

    draw()
    return list(found)[:count]


WRITTEN: list[Story] = [
    # A step is recorded, and the answer of its delivery is lost while the run sleeps.
    (Do(0, 0), Nap(3_600), Do(0, 1), Nap(3_600)),
    (Fork("gather", ((Do(0, 0), Nap(3_600)), (Do(3, 1), Nap(5), Do(0, 5)), (Call(1, True), Nap(5), Do(0, 0)))),),
    (Limit((Fork("first", ((Do(0, 0), Nap(1)), (Nap(0), Do(0, 0)))), Nap(5)), "ample"),),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.mark.parametrize("on", ["sqlite", "fakeredis"])
@pytest.mark.parametrize("seed", [None, 1, 2])
async def test_written_stories_end_as_they_are_written(seed: int | None, on: Kind) -> None:
    assert await play(WRITTEN, seed, on) == [expected(story) for story in WRITTEN]


async def test_stories_end_as_in_direct_mode() -> None:
    stories = drawn(CERTAIN, 1_000)
    assert await play(stories, None) == await play_directly(stories) == [expected(story) for story in stories]


@pytest.mark.parametrize("number", range(20))
async def test_stories_end_as_in_direct_mode_whatever_is_lost_and_whoever_dies(number: int) -> None:
    """A thousand of them: no result is other than in direct mode, no recorded step is executed again, nothing is left.

    The number of a test gives its stories, and what befalls them.
    """
    stories = drawn(CERTAIN, number)
    assert len(stories) == TOGETHER
    found, wanted = await play(stories, number), await play_directly(stories)
    assert wanted == [expected(story) for story in stories]
    assert [it for it in zip(stories, found, wanted, strict=True) if it[1] != it[2]] == []


async def test_disturbed_stories_end_as_undisturbed_on_fakeredis() -> None:
    """Few of them: it is slow."""
    stories = drawn(CERTAIN, 2_000, 16)
    assert await play(stories, 1, "fakeredis") == [expected(story) for story in stories]


async def test_disturbed_stories_end_as_undisturbed_on_redis(server: Server) -> None:
    """On a server."""
    stories = drawn(CERTAIN, 3_000)
    assert await play(stories, 1, "redis", server.url) == [expected(story) for story in stories]


@pytest.mark.parametrize("number", range(2))
async def test_open_races_are_decided_once(number: int) -> None:
    """The first wait is the same for each delivery, and so is everything that follows."""
    assert await play(drawn(OPEN, number), number)
