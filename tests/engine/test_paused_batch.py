"""A paused batch of 200,000 items costs nothing, counted in commands and statements, on SQLite and real Redis."""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from batchflow import Batchflow, BatchWorkflow, NoParams, Page
from batchflow.core import ids, settlement
from batchflow.core.batch import NewBatch
from batchflow.core.flow import FlowControl
from batchflow.core.message import ClaimResult, Message
from batchflow.core.settlement import FinishEntry, RecordPage, StartItems
from batchflow.stores.redis import RedisStore
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing import ManualClock, drive
from tests.engine.test_costs import in_writer
from tests.stores.redis_server import Server, served

FEW, MANY = 200, 200_000
AT_ONCE = 10_000
LEASE_MS = 3_600_000
FLOW = FlowControl(key="resize.execute", parallelism=64)
KINDS = pytest.mark.parametrize("kind", ["sqlite", "redis"])


class Resize(BatchWorkflow[NoParams]):
    """Fifty items beside those that are paused."""

    entity = "image"
    entry_flow = paginate_flow = None
    execute_flow = FlowControl(parallelism=64)

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=[f"beside-{number}" for number in range(50)])

    async def execute(self, image_id: str) -> None:
        pass


class CountingSqlite(SqliteStore):
    claims = 0

    async def claim(self, worker: str, destinations: Sequence[str], limit: int) -> ClaimResult:
        self.claims += 1
        return await super().claim(worker, destinations, limit)


class CountingRedis(RedisStore):
    claims = 0

    async def claim(self, worker: str, destinations: Sequence[str], limit: int) -> ClaimResult:
        self.claims += 1
        return await super().claim(worker, destinations, limit)


@asynccontextmanager
async def paused_batch(
    kind: str, folder: Path, clock: ManualClock, count: int
) -> AsyncGenerator[tuple[CountingSqlite | CountingRedis, Server | None]]:
    """An open store with a paused batch of so many items, all of which wait."""
    if kind == "sqlite":
        store = CountingSqlite(str(folder / f"{count}.db"), clock=clock)
        await store.open()
        await pause_items(store, count)
        yield store, None
        await store.close()
        return
    with served(folder) as server:
        store = CountingRedis(server.url, clock=clock)
        await store.open()
        await pause_items(store, count)
        yield store, server
        await store.close()


async def pause_items(store: CountingSqlite | CountingRedis, count: int) -> None:
    """Start the items in slices, each in the settlement of a page."""
    batch = NewBatch(id="bat_paused", workflow="resize", execute="/resize/execute-image", flow=FLOW)
    pages = [
        Message(
            id=ids.page_id("bat_paused", page), destination="page", flow=FlowControl(key="page"), batch="bat_paused"
        )
        for page in range((count + AT_ONCE - 1) // AT_ONCE)
    ]
    assert await store.open_batch(batch, pages)
    await store.register("seeder", LEASE_MS)
    for page, claim in enumerate((await store.claim("seeder", ["page"], len(pages))).claims):
        numbers = range(page * AT_ONCE, min(count, (page + 1) * AT_ONCE))
        started = StartItems("bat_paused", numbers.start, tuple(f"image-{number}" for number in numbers))
        effects = (FinishEntry("bat_paused"), RecordPage("bat_paused", len(numbers), chunks=1), started)
        await store.settle(settlement.done(claim, "null", effects))
    await store.deregister("seeder")
    assert await store.pause_batch("bat_paused")
    found = await store.batch("bat_paused")
    assert found is not None
    assert found.counts.open == count


async def work_beside(store: CountingSqlite | CountingRedis) -> None:
    """Claim and settle what is not paused, eight at a time, until a claim finds nothing, and no time to come again."""
    await store.register("w", LEASE_MS, 8, ("/resize/execute-image",))
    flow = FlowControl(key="resize.execute", parallelism=64)
    await store.publish(
        [Message(id=f"run-{number:02}", destination="/resize/execute-image", flow=flow) for number in range(32)]
    )
    count, more = 0, True
    while more:
        claimed = await store.claim("w", ["/resize/execute-image"], 8)
        for claim in claimed.claims:
            await store.settle(settlement.done(claim, "null"))
        count, more = count + len(claimed.claims), bool(claimed.claims)
        assert more or claimed.next_due is None
    assert count == 32


async def spent(kind: str, folder: Path, count: int) -> Counter[str]:
    """The statements of SQLite, and hundreds of steps of its machine; or the commands of the Redis server."""
    found: Counter[str] = Counter()
    async with paused_batch(kind, folder, ManualClock(), count) as (store, server):
        if isinstance(store, CountingSqlite):

            def statement(text: str) -> None:
                found[text.split(None, 1)[0].upper()] += 1

            def step() -> int:
                found["steps"] += 1
                return 0

            def observe(tx: Any) -> None:
                tx.connection.set_trace_callback(statement)
                tx.connection.set_progress_handler(step, 100)

            await in_writer(store, observe)
            await work_beside(store)
            return found
        assert server is not None
        with server.client() as client:
            client.config_resetstat()
            await work_beside(store)
            told: dict[str, Any] = client.info("commandstats")
    return Counter({name: about["calls"] for name, about in told.items() if name != "cmdstat_info"})


@KINDS
async def test_paused_batch_of_200_000_items_costs_a_worker_nothing(tmp_path: Path, kind: str) -> None:
    """Claims and settlements beside it take the statements and commands that they take beside 200 paused items."""
    few, many = await spent(kind, tmp_path, FEW), await spent(kind, tmp_path, MANY)
    steps = few.pop("steps", 0), many.pop("steps", 0)
    assert many == few
    assert steps[1] <= steps[0] * 1.2 + 2


@KINDS
async def test_worker_sleeps_beside_a_paused_batch(tmp_path: Path, kind: str) -> None:
    """It comes as often as beside 200 paused items, and when the other batch is done it waits for a change alone."""
    claims: list[tuple[int, int]] = []
    for count in (FEW, MANY):
        clock = ManualClock()
        async with paused_batch(kind, tmp_path, clock, count) as (store, _):
            before = store.claims
            async with Batchflow(store, clock=clock) as flow:
                handle = await flow.add(Resize()).trigger()
                await drive(flow, clock)
                assert (await handle.status()).counts.succeeded == 50
                worked, started = store.claims - before, clock.now()
                await drive(flow, clock)
                assert clock.now() == started
                claims.append((worked, store.claims - before - worked))
                paused = await store.batch("bat_paused")
                assert paused is not None
                assert (paused.counts.open, paused.paused) == (count, True)
    few, many = claims
    # On a busy machine the same settlements come in more groups, after each of which the worker claims.
    assert many[0] <= 2 * few[0]
    assert many[1] <= few[1] + 2 <= 6
