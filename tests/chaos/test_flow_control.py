"""Limits hold over all workers: real processes, whose items look themselves."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from batchflow import Batchflow, BatchHandle
from batchflow.core.flow import CATCH_UP_MS
from tests.chaos.crew import Crew
from tests.chaos.limited_job import COUNTER, ITEMS, PARALLELISM, RATE, limited
from tests.stores.redis_server import Server, served
from tests.waiting import wait_until

WORKERS = 3
CONCURRENCY = 5  # so that it takes all three to have as many under way as may be
SECOND = 1_000


@asynccontextmanager
async def worked_on(folder: Path) -> AsyncGenerator[tuple[Server, Batchflow]]:
    """A server, three workers on it, and a flow that only asks."""
    with served(folder) as server:
        crew = Crew("tests.chaos.limited_job:flow", [server.url] * WORKERS, folder, CONCURRENCY, {})
        asking = limited(server.url)
        await asking.start(worker=False)
        try:
            crew.start()

            async def all_work() -> bool:
                return len(await asking.engine.store.workers()) == WORKERS

            await wait_until(all_work, description="all workers are at work", timeout=60)
            yield server, asking
            assert await asyncio.to_thread(crew.end) == [0] * WORKERS
            assert crew.left == []
        finally:
            await asking.stop()
            crew.clear()


async def results(batch: BatchHandle[Any]) -> list[int]:
    """The results of a batch once it has ended."""
    await batch.wait(timeout=120, check=True)
    return [result async for _, result in batch.results()]


def test_the_busiest_second_is_found() -> None:
    """It need not begin with a second of the clock."""
    assert busiest([0, 10, 900, 1_005, 1_009, 2_100]) == 4


def busiest(starts: list[int]) -> int:
    """How many start within any one second."""
    return max(sum(start <= other < start + SECOND for other in starts) for start in starts)


async def test_limits_hold_over_all_workers(tmp_path: Path) -> None:
    """Never more at once than may be, nor more in any second than the rate and the little it may catch up."""
    async with worked_on(tmp_path) as (server, asking):
        at_once, rated = [await asking.workflows[name].trigger() for name in ("at-once", "rated")]
        under_way, starts = await asyncio.gather(results(at_once), results(rated))
        assert {status.in_use for status in await asking.engine.store.flows()} == {0}
        with server.client() as client:
            assert client.get(COUNTER) == "0"
    assert len(under_way) == len(starts) == ITEMS
    assert max(under_way) == PARALLELISM
    assert busiest(starts) <= RATE * (SECOND + CATCH_UP_MS) / SECOND + 1 <= RATE * 1.02
    assert max(starts) - min(starts) >= (ITEMS - 1) * SECOND / RATE - CATCH_UP_MS
