"""Batches under limits, which look themselves whether these hold: `batchflow worker tests.chaos.limited_job:flow`."""

import asyncio
import contextlib
import os
from typing import Any, cast

from redis.asyncio import Redis

from batchflow import Batchflow, BatchWorkflow, FlowControl, NoParams, Page, WorkflowContext
from batchflow.serve.context import LayerContext

ITEMS = 600
PARALLELISM = 12
RATE = 200
WORK_S = 0.02
COUNTER = "under-way"


class Listed(BatchWorkflow[NoParams, str, int], abstract=True):
    """Items by number, and a walk that is in nobody's way."""

    page_size = chunk_size = ITEMS
    entry_flow = paginate_flow = None

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page([f"item-{number}" for number in range(ITEMS)])


class AtOnce(Listed):
    """Items that count how many of them are under way, themselves included, over all workers."""

    name = "at-once"
    execute_flow = FlowControl(parallelism=PARALLELISM)

    def __init__(self, url: str) -> None:
        # Untyped, as much of redis-py is.
        self._counter: Any = Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]

    async def execute(self, item_id: str) -> int:
        under_way: int = await self._counter.incr(COUNTER)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WORK_S):
                    await asyncio.get_running_loop().create_future()
            return under_way
        finally:
            await self._counter.decr(COUNTER)


class Rated(Listed):
    """Items that say when the server let them start."""

    name = "rated"
    execute_flow = FlowControl(rate=RATE)

    async def process(self, ctx: WorkflowContext[NoParams], item_id: str) -> int:
        return cast("LayerContext[NoParams]", ctx).claim.started_at


def limited(url: str) -> Batchflow:
    """The program, whether it works or asks."""
    made = Batchflow(url)
    made.add(AtOnce(url))
    made.add(Rated())
    return made


if "CHAOS_WORKER" in os.environ:
    flow = limited(os.environ["BATCHFLOW_URL"])
