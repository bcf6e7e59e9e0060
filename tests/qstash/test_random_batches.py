"""Random batches on QStash keep their promises, whatever is lost or dies."""

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, NamedTuple

import httpx
import pytest

from batchflow import Batchflow, BatchHandle
from batchflow.batch.dry_run import Statistics
from batchflow.core.batch import FINAL_STATES, Counts
from batchflow.core.ids import item_run_id
from batchflow.core.ports import RecordResult
from batchflow.core.run import Step
from batchflow.core.settlement import Effect, Settlement, SettleResult
from batchflow.core.store import Store
from batchflow.testing import FixedEntropy, ManualClock, drive
from batchflow.testing.faults import StoreProxy
from tests.qstash.batch_stories import BatchStory, World, drawn, workflow_of
from tests.qstash.mortal import MortalStore, Process
from tests.qstash.mortal_stage import Life, MortalStage, answer_of
from tests.qstash.stage import APP_URL
from tests.stores.kinds import Kind, left, made

TOGETHER = 25
"""The batches that are played at a time, by one app."""

MOMENTS_MS = (20, 100, 400, 1_500, 5_000)
"""The times at which something is done to batches."""

SLICE_MS = 600_000
MOST_SLICES = 100
"""The time in which all batches end, in slices."""


class NotingStore(MortalStore):
    """Notes what is durable of items and of what follows their ends."""

    def __init__(self, store: Store, process: Process, last: int | None, world: World, *, is_done: bool) -> None:
        super().__init__(store, process, last, is_done=is_done)
        self._world = world

    def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> Awaitable[RecordResult]:
        """See the protocol."""

        async def record() -> RecordResult:
            found = await self.store.record(claim, fence, step, effects)
            if found == "recorded" and step.position:
                self._world.recorded[claim].add(step.name)
            return found

        return self._call_verb("record", record)

    def settle(self, settlement: Settlement) -> Awaitable[SettleResult]:
        """See the protocol."""

        async def settle() -> SettleResult:
            found = await self.store.settle(settlement)
            if not found.stale and settlement.ending in ("done", "failed", "dead"):
                self._world.ended[settlement.id].append(settlement.ending)
            return found

        return self._call_verb("settle", settle)


class ClientTransport(httpx.AsyncBaseTransport):
    """The way to the QStash that lives of a program that triggers batches."""

    def __init__(self, stage: MortalStage) -> None:
        self._stage = stage

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        if (response := await self._stage.server_process.run(answer_of(self._stage.server, request))) is None:
            raise httpx.ReadError("the server has died")
        return response


class KeptStore(StoreProxy):
    """A store that others use too."""

    async def close(self) -> None:
        """It stays open for these."""


class BatchStage(MortalStage):
    """An app on QStash with batches, each life of which dies sooner or later."""

    def __init__(self, kind: Kind, seed: object) -> None:
        super().__init__(kind, seed, batches=True)
        self.world = World(self.clock)
        self.app_store = made(kind, self.clock)

    @asynccontextmanager
    async def outside(self) -> AsyncGenerator[Batchflow]:
        """Another program, which triggers batches and does not die."""
        transport, store = ClientTransport(self), KeptStore(self.app_store)
        async with self.again(transport=transport, entropy=FixedEntropy(999), store=store) as flow:
            yield flow

    async def __aexit__(self, *error: object) -> None:
        await super().__aexit__(*error)
        await self.app_store.close()

    def store_of(self, life: Life) -> MortalStore:
        """See the stage."""
        last = self._random.randint(*self.APP_LIFE) if self.disturbs else None
        return NotingStore(self.app_store, life, last, self.world, is_done=self._random.random() < 0.5)


class Played(NamedTuple):
    """What has come of a batch: its id, its dry run before it, its state, counts and items, and its pages."""

    id: str
    dry: Statistics | None
    state: str
    counts: Counts
    items: dict[str, tuple[str, str | None]]
    """The state and the result of each."""
    runs: dict[str, str]
    """The run of each."""
    pages: int

    @property
    def outcome(self) -> tuple[object, ...]:
        """What is the same on each engine."""
        return self.state, self.counts, self.items, self.pages


async def played(batch: BatchHandle[Any], dry: Statistics | None) -> Played:
    status = await batch.status()
    items = [it async for it in batch.items()]
    return Played(
        batch.id,
        dry,
        status.state,
        status.counts,
        {it.id: (it.state, it.result) for it in items},
        {it.id: item_run_id(batch.id, it.number) for it in items},
        status.pages,
    )


async def play_embedded(stories: Sequence[BatchStory]) -> list[Played]:
    """What comes of these batches on the embedded engine, if nothing is done to them."""
    clock = ManualClock()
    world = World(clock)
    async with Batchflow(made("sqlite", clock), clock=clock, worker=False, entropy=FixedEntropy()) as flow:
        workflows = [flow.add(workflow_of(story, number, world)) for number, story in enumerate(stories)]
        dry = [await it.dry_run() for it in workflows]
        batches = [await it.trigger() for it in workflows]
        await drive(flow, clock)
        return [await played(it, dry[number]) for number, it in enumerate(batches)]


async def play(stories: Sequence[BatchStory], seed: int, on: Kind = "sqlite") -> tuple[World, list[list[Played]]]:
    """What comes of these batches on QStash, much of which is lost: of each story the batches that were triggered."""
    stage = BatchStage(on, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APP_URL", f"{APP_URL}/")
        async with stage:
            stage.declare = lambda flow: [
                flow.add(workflow_of(story, number, stage.world)) for number, story in enumerate(stories)
            ]
            await stage.open()
            async with stage.outside() as flow:
                workflows = [flow.add(workflow_of(story, number, stage.world)) for number, story in enumerate(stories)]
                dry = [await it.dry_run() for it in workflows]
                assert await flow.batches() == []
                stage.disturb()
                batches = [[await it.trigger()] for it in workflows]
                await stage.drive(ms=Random(f"moment {seed}").choice(MOMENTS_MS))
                for number, story in enumerate(stories):
                    if story.command == "pause":
                        await batches[number][0].pause()
                    elif story.command == "cancel":
                        await batches[number][0].cancel()
                    elif story.command == "again":
                        batches[number].append(await workflows[number].trigger())
                await stage.drive(ms=60_000)
                for number, story in enumerate(stories):
                    if story.command == "pause":
                        await batches[number][0].resume()
                every = [it for some in batches for it in some]
                for _ in range(MOST_SLICES):
                    await stage.drive(ms=SLICE_MS)
                    if {(await it.status()).state for it in every} <= FINAL_STATES:
                        break
                stage.calm()
                await stage.drive(ms=6 * SLICE_MS)
                found = [[await played(it, dry[number]) for it in some] for number, some in enumerate(batches)]
                assert stage.lost
                assert stage.doubled
                assert stage.deaths + stage.server_deaths
                assert await left(stage.app_store) == {}
                assert await left(stage.durable) == {}
    return stage.world, found


def check(story: BatchStory, found: Sequence[Played], wanted: Played, world: World) -> None:
    """Fail if batches of a story have broken a promise; `wanted` is what comes of it undisturbed."""
    assert found[0].dry == wanted.dry
    for batch in found:
        counts = batch.counts
        assert counts.open == 0
        ended = counts.succeeded + counts.failed + counts.cancelled
        others = counts.already_processed + counts.in_flight + counts.duplicates + counts.left_out
        assert counts.eligible == ended + others, "each item is counted once"
        assert Counter(state for state, _ in batch.items.values()) == Counter(
            {"succeeded": counts.succeeded, "failed": counts.failed, "cancelled": counts.cancelled}
        )
        assert all(len(world.ended[run]) <= 1 for run in batch.runs.values()), "an item ends once"
        assert world.ended[f"{batch.id}.z"] == ["done"], "on_complete is called once"
        assert world.executed[batch.id, "complete"] >= 1
        for id, (state, result) in batch.items.items():
            assert state == "cancelled" or (state, result) == wanted.items[id]
            if state == "failed" and story.command != "cancel":
                told = [ends for message, ends in world.ended.items() if message.startswith(f"{batch.runs[id]}.x")]
                assert told == [["done"]], "on_item_failure is called once"
    if story.command in ("", "pause"):
        assert found[0].outcome == wanted.outcome
    if story.command == "again":
        for id, (state, _) in wanted.items.items():
            times = sum(batch.items.get(id, ("", ""))[0] == state for batch in found)
            assert times == 1 if state == "succeeded" else times >= 1, "an item is processed once"


@pytest.mark.parametrize("number", range(8))
async def test_batches_end_as_on_the_embedded_engine_whatever_is_lost_and_whoever_dies(number: int) -> None:
    """200 of them. The number of a test gives its batches, and what befalls them."""
    await compare(drawn(number, TOGETHER), number, "sqlite")


async def test_batches_end_as_on_the_embedded_engine_on_redis() -> None:
    """Few of them: it is slow."""
    await compare(drawn("redis", 8), 1, "fakeredis")


async def compare(stories: Sequence[BatchStory], number: int, on: Kind) -> None:
    """Fail unless each batch keeps its promises on QStash."""
    wanted = await play_embedded(stories)
    world, found = await play(stories, number, on)
    assert world.again == [], "no recorded step is executed again"
    broken: list[tuple[BatchStory, str]] = []
    for story, some, one in zip(stories, found, wanted, strict=True):
        try:
            check(story, some, one, world)
        except AssertionError as error:
            broken.append((story, f"{error}: {some}, and not {one}"))
    assert broken == []
