"""The ledger of processed items: asked and seeded from outside, and beside an engine that keeps its state elsewhere."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar

import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from batchflow import Batchflow, NoParams, Page
from batchflow.batch.bound import Workflow
from batchflow.batch.workflow import BatchWorkflow
from batchflow.errors import ConfigurationError, InputError, NonRetryable, StoreError, StoreUnavailable
from batchflow.stores.redis import RedisLedger, RedisStore
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing import Environment, FaultyStore, FixedEntropy, ManualClock, ProcessCrashed, drive
from tests.stores.redis_server import free_port

KEY = "bf:{batchflow}:l:greet"


class Greet(BatchWorkflow[NoParams, str, str]):
    """Seventy ids on two pages, of which "user-13" cannot be greeted."""

    entry_flow = paginate_flow = execute_flow = None
    processed_ttl = "30d"

    def __init__(self) -> None:
        self.executed: Counter[str] = Counter()

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        start = int(cursor or 0)
        end = min(start + limit, 70)
        return Page([f"user-{number}" for number in range(start, end)], str(end) if end < 70 else None)

    async def execute(self, item_id: str) -> str:
        self.executed[item_id] += 1
        if item_id == "user-13":
            raise NonRetryable("nobody greets it")
        return f"hello {item_id}"


class Away:
    """A ledger that is away for so many calls of each verb."""

    def __init__(self, ledger: RedisLedger, *, calls: int) -> None:
        self._ledger = ledger
        self._left = {"processed": calls, "mark": calls}
        self.open, self.close = ledger.open, ledger.close

    def _check(self, verb: str) -> None:
        self._left[verb] -= 1
        if self._left[verb] >= 0:
            raise StoreUnavailable("redis://ledger cannot be reached: no route; it is tried again")

    async def processed(self, workflow: str, ids: Sequence[str]) -> frozenset[str]:
        self._check("processed")
        return await self._ledger.processed(workflow, ids)

    async def mark(self, workflow: str, ids: Sequence[str], ttl_ms: int | None) -> None:
        self._check("mark")
        await self._ledger.mark(workflow, ids, ttl_ms)

    async def forget(self, workflow: str, ids: Sequence[str] | None = None) -> int:
        return await self._ledger.forget(workflow, ids)


class Stage:
    """An app on SQLite in virtual time whose ledger is on Redis, and a plain client to look at that."""

    def __init__(self, *, always_replay: bool = False, away: int = 0) -> None:
        self.clock = ManualClock()
        place = FakeServer()
        self.redis: Any = FakeAsyncRedis(server=place, decode_responses=True)
        ledger = RedisLedger(FakeAsyncRedis(server=place), clock=self.clock)
        self.store = SqliteStore(":memory:", clock=self.clock)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("BATCHFLOW_ALWAYS_REPLAY", str(always_replay))
            self.flow = Batchflow(
                self.store,
                ledger=Away(ledger, calls=away) if away else ledger,
                clock=self.clock,
                worker=False,
                entropy=FixedEntropy(),
            )
        self.job = Greet()
        self.greet: Workflow[NoParams, str] = self.flow.add(self.job)

    async def run(self) -> Any:
        """Trigger a batch, and drive it to its end."""
        await self.flow.start()
        batch = await self.greet.trigger()
        await drive(self.flow, self.clock)
        return await batch.wait()

    async def marked(self) -> set[str]:
        return set(await self.redis.zrange(KEY, 0, -1))


@pytest.fixture(params=[False, True], ids=["direct", "always_replay"])
async def stage(request: Any) -> AsyncIterator[Stage]:
    made = Stage(always_replay=request.param)
    yield made
    await made.flow.stop()
    await made.redis.aclose()


async def test_a_ledger_beside_the_engine_knows_what_has_succeeded(stage: Stage) -> None:
    """A failed item is not marked and is tried again by the next batch, which skips all the others."""
    first = await stage.run()
    assert (first.counts.succeeded, first.counts.failed) == (69, 1)
    assert await stage.marked() == {f"user-{number}" for number in range(70)} - {"user-13"}
    assert {float(score) for _, score in await stage.redis.zrange(KEY, 0, -1, withscores=True)} == {
        float(stage.clock.now() + 30 * 86_400_000)
    }
    second = await stage.run()
    assert (second.counts.already_processed, second.counts.failed) == (69, 1)
    assert stage.job.executed == {f"user-{number}": 1 for number in range(70)} | {"user-13": 2}


async def test_a_ledger_is_seeded_with_plain_commands(stage: Stage) -> None:
    """A mark with a time to come counts, for ever or until then; one that is over does not."""
    now = stage.clock.now()
    await stage.redis.zadd(KEY, {"user-1": "+inf", "user-2": now + 60_000, "user-3": now - 1})
    await stage.flow.start()
    assert (await stage.greet.dry_run()).to_process == 68
    assert await stage.greet.processed(["user-1", "user-2", "user-3"]) == {"user-1", "user-2"}
    await stage.redis.zrem(KEY, "user-1")
    await stage.greet.mark(["user-4"])
    assert await stage.marked() == {"user-2", "user-4"}, "what has expired goes with the next mark"
    assert await stage.greet.forget() == 2
    assert (await stage.greet.dry_run()).to_process == 70


@pytest.mark.parametrize("death", ["die_before", "die_after"])
async def test_a_mark_is_there_before_the_item_has_ended(stage: Stage, death: str) -> None:
    """A process that dies between the two loses no mark, and nothing that was recorded is executed again."""
    plan: dict[str, Any] = {death: "settle"}
    # Where each step is an attempt, settlements of the first steps come before those of the last ones.
    nth = 120 if stage.flow.settings.always_replay else 30
    stage.flow.engine.store = FaultyStore(stage.store, nth=nth, **plan)
    await stage.flow.start()
    batch = await stage.greet.trigger()
    with pytest.raises(ProcessCrashed):
        await drive(stage.flow, stage.clock)
    succeeded = {item.id for item in await stage.store.items(batch.id, state="succeeded", limit=100)}
    assert succeeded
    assert succeeded <= await stage.marked()
    stage.flow.engine.store = stage.store
    await drive(stage.flow, stage.clock)
    assert (await batch.wait()).counts.succeeded == 69
    assert stage.job.executed == {f"user-{number}": 1 for number in range(70)}
    assert len(await stage.marked()) == 69


@pytest.mark.parametrize("always_replay", [False, True])
async def test_a_ledger_that_is_away_is_waited_for(always_replay: bool) -> None:
    """By pages and by items; no attempt is counted, and nothing is executed again."""
    stage = Stage(always_replay=always_replay, away=12)
    begun = stage.clock.now()
    summary = await stage.run()
    assert (summary.counts.succeeded, summary.counts.failed) == (69, 1)
    assert stage.job.executed == {f"user-{number}": 1 for number in range(70)}
    assert len(await stage.marked()) == 69
    assert stage.clock.now() - begun >= 5_000
    await stage.flow.stop()
    await stage.redis.aclose()


async def test_a_page_is_filtered_in_one_round_trip() -> None:
    """However many ids it has."""

    class Counting(FakeAsyncRedis):
        sent: ClassVar[Counter[str]] = Counter()

        async def execute_command(self, *args: Any, **options: Any) -> Any:
            self.sent[args[0]] += 1
            parent: Any = super()
            return await parent.execute_command(*args, **options)

    client = Counting(server=FakeServer())
    ledger = RedisLedger(client)
    await ledger.open()
    ids = [f"user-{number}" for number in range(2_500)]
    await ledger.mark("greet", ids[:1_200], None)
    client.sent.clear()
    assert await ledger.processed("greet", ids) == set(ids[:1_200])
    assert client.sent == {"FCALL": 1}
    marks = [ledger.mark("greet", [id], 1_000) for id in ids[:100]]
    client.sent.clear()
    await asyncio.gather(*marks)
    assert client.sent == {"FCALL": 1}
    await ledger.close()
    await client.aclose()


async def test_a_store_and_a_ledger_of_one_namespace_are_the_same_ledger() -> None:
    """So that an engine can be exchanged for another, and what is done stays done."""
    place, clock = FakeServer(), ManualClock()
    store = RedisStore(FakeAsyncRedis(server=place), clock=clock)
    ledger = RedisLedger(FakeAsyncRedis(server=place), clock=clock)
    await store.open()
    await ledger.open()
    await store.mark("greet", ["a"], 1_000)
    await ledger.mark("greet", ["b"], None)
    assert await store.processed("greet", ["a", "b", "c"]) == await ledger.processed("greet", ["a", "b", "c"])
    clock.advance("1s")
    assert await ledger.processed("greet", ["a", "b", "c"]) == {"b"}
    await ledger.close()
    await store.close()
    with pytest.raises(StoreUnavailable, match=r"^the ledger redis://.* is not open; use it while the app runs"):
        await ledger.processed("greet", ["a"])


async def test_marks_of_a_workflow_are_its_own_on_every_store() -> None:
    """Asked, made and taken away by the workflow, without a batch."""
    flow = Batchflow("sqlite://", worker=False)
    greet = flow.add(Greet())
    async with flow:
        await greet.mark(["user-1", "user-2"])
        assert await greet.processed(["user-1", "user-3"]) == {"user-1"}
        assert (await greet.dry_run()).to_process == 68
        assert await greet.forget(["user-1", "user-9"]) == 1
        assert await greet.forget() == 1
        for wrong, said in (
            ("user-1", "'ids' cannot be 'user-1'; write a list of ids"),
            ([""], "'ids' holds '', and an id is a non-empty string, an int or a UUID"),
        ):
            with pytest.raises(InputError) as caught:
                await greet.mark(wrong)
            assert str(caught.value) == said


# Where it is


async def test_a_ledger_is_named_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is the same; what names no ledger is refused when the app is made."""
    monkeypatch.setenv("BATCHFLOW_LEDGER", f"redis://127.0.0.1:{free_port()}")
    flow = Batchflow("sqlite://", worker=False)
    assert isinstance(flow.engine.ledger, RedisLedger)
    with pytest.raises(StoreError, match=r"cannot be reached: .*; start the server, or correct the URL$"):
        await flow.start()
    assert flow.engine.loop is None
    await flow.stop()
    with pytest.raises(ConfigurationError) as caught:
        Batchflow("sqlite://", ledger="sqlite:///ledger.db")
    assert str(caught.value) == "'sqlite:///ledger.db' names no ledger; write redis://HOST:PORT"


async def test_a_test_environment_leaves_the_ledger_alone(stage: Stage) -> None:
    """Items of a batch in it are marked in its own store."""
    async with Environment(stage.flow) as env:
        batch = await env.run(stage.greet)
        assert batch.summary.counts.succeeded == 69
        assert len(await stage.greet.processed([f"user-{number}" for number in range(70)])) == 69
    assert await stage.marked() == set()
    assert stage.flow.engine.ledger is not None
