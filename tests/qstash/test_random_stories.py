"""Random programs of all that can be waited for end on QStash as they do elsewhere, whatever is lost on the way."""

import json
from collections.abc import Sequence
from contextvars import ContextVar
from itertools import pairwise
from operator import itemgetter
from random import Random
from typing import Any, NamedTuple, cast

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from batchflow.engine.push_client import PushClient, PushError, PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.wire.submissions import own_id
from tests.qstash.losses import LossyClient, LossyTransport
from tests.qstash.stage import APP_URL, WireStage
from tests.serve.stories import CERTAIN, OPEN, Call, Do, Fork, Limit, Nap, Story, expected
from tests.serve.story_players import Context, Part, Players, StoryStage
from tests.stores.kinds import Kind

TOGETHER = 8
# One stage for several stories, and none is made smaller: it takes a second to make one.
LITTLE = settings(
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=(HealthCheck.data_too_large, HealthCheck.too_slow),
    max_examples=6,
)


class AtArrival(NamedTuple):
    """What was known when a delivery arrived: the number of its entries, its failed attempts, the recorded steps."""

    entries: int
    retried: int
    recorded: frozenset[tuple[str, str]]


_AT_ARRIVAL: ContextVar[AtArrival] = ContextVar("at_arrival")


class WatchedTransport(httpx.AsyncBaseTransport):
    """The way of an app to QStash; notes the executed steps that QStash has recorded, by run and name."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner
        self.recorded: set[tuple[str, str]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self.inner.handle_async_request(request)
        if request.url.path == "/v2/batch" and response.is_success:
            for item in json.loads(request.content):
                match json.loads(item["body"] or "null"):
                    case {"stepId": int(number), "stepType": "Run", "stepName": str(name)} if number:
                        self.recorded.add((own_id(item["headers"]["upstash-workflow-runid"]), name))
                    case _:
                        pass
        return response


class WatchedClient:
    """The way of QStash to an app; notes what is known when a delivery arrives."""

    def __init__(self, inner: PushClient, transport: WatchedTransport) -> None:
        self.inner = inner
        self.transport = transport

    async def send(self, request: PushRequest) -> PushResponse:
        entries: Any = json.loads(request.body or "null")
        count = len(cast("list[Any]", entries)) if isinstance(entries, list) else 0
        _AT_ARRIVAL.set(AtArrival(count, retried(request), frozenset(self.transport.recorded)))
        return await self.inner.send(request)

    async def close(self) -> None:
        await self.inner.close()


class WireStoryStage(WireStage):
    """An app that plays stories on QStash; `again` are the recorded steps that were executed again."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.resent: list[tuple[str, str]] = []

    async def failures_of(self, run: str, step: str) -> int:
        """See `StoryStage`."""
        return _AT_ARRIVAL.get().retried

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


async def play(stories: Sequence[Story], seed: int | None, on: Kind = "sqlite") -> list[str]:
    """Play stories at the same time; with a seed much is lost. Returns their results."""
    random = Random(seed)
    stage = WireStoryStage(on)
    transport = WatchedTransport(stage.transport)
    client = WatchedClient(stage.client, transport)
    lossy, lossy_client = LossyTransport(transport, random), LossyClient(client, random)
    stage.transport = lossy
    stage.qstash.engine.push_client = client if seed is None else lossy_client
    stage.client.elsewhere = answer_call
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APP_URL", f"{APP_URL}/")
        async with stage:
            players = WirePlayers(stage, ())
            players.parts = {f"story {number}:": story for number, story in enumerate(stories)}
            await stage.open()
            runs = [await players.play_part.trigger(Part(path=path)) for path in players.parts]
            lossy.loses = seed is not None
            await stage.drive()
            lossy.loses = False
            ended = [await run.status() for run in runs]
    assert {it.state for it in ended} == {"completed"}, ended
    assert stage.resent == []
    players.check(lossy.lost + 2 * lossy_client.lost)
    return [json.loads(it.result or "") for it in ended]


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


def together(stories: st.SearchStrategy[Story]) -> st.SearchStrategy[list[Story]]:
    return st.lists(stories, min_size=TOGETHER, max_size=TOGETHER)


WRITTEN: list[Story] = [
    # A step is recorded, and the answer of its delivery is lost while the run sleeps.
    (Do(0, 0), Nap(3_600), Do(0, 1), Nap(3_600)),
    (Fork("gather", ((Do(0, 0), Nap(3_600)), (Do(3, 1), Nap(5), Do(0, 5)), (Call(1, True), Nap(5), Do(0, 0)))),),
    (Limit((Fork("first", ((Do(0, 0), Nap(1)), (Nap(0), Do(0, 0)))), Nap(5)), "ample"),),
]


@pytest.mark.parametrize("on", ["sqlite", "fakeredis"])
@pytest.mark.parametrize("seed", [None, 1, 2])
async def test_written_stories_end_as_they_are_written(seed: int | None, on: Kind) -> None:
    assert await play(WRITTEN, seed, on) == [expected(story) for story in WRITTEN]


@LITTLE
@given(together(CERTAIN))
async def test_stories_end_as_elsewhere(stories: list[Story]) -> None:
    assert await play(stories, None) == [expected(story) for story in stories]


@LITTLE
@given(together(CERTAIN), st.integers(0, 2**32))
async def test_disturbed_stories_end_as_undisturbed(stories: list[Story], seed: int) -> None:
    """No loss changes a result, and no recorded step is executed again."""
    assert await play(stories, seed) == [expected(story) for story in stories]


@settings(LITTLE, max_examples=2)
@given(together(CERTAIN), st.integers(0, 2**32))
async def test_disturbed_stories_end_as_undisturbed_on_redis(stories: list[Story], seed: int) -> None:
    """Few of them: it is slow."""
    assert await play(stories, seed, "fakeredis") == [expected(story) for story in stories]


@settings(LITTLE, max_examples=3)
@given(together(OPEN), st.integers(0, 2**32))
async def test_open_races_are_decided_once(stories: list[Story], seed: int) -> None:
    """The first wait is the same for each delivery, and so is everything that follows."""
    assert await play(stories, seed)
