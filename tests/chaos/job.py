"""What the workers work for: `batchflow worker tests.chaos.job:flow`.

Its surroundings say where it leaves its traces, and as whom: CHAOS_FOLDER, CHAOS_WORKER, CHAOS_ITEMS.
"""

import asyncio
import contextlib
import os
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import cast
from unittest import mock

from pydantic import BaseModel

from batchflow import Batchflow, BatchSummary, BatchWorkflow, FlowControl, NoParams, Page, WorkflowContext
from batchflow.engine.worker import Heartbeat
from batchflow.serve.context import LayerContext
from tests.chaos.traces import Writer

LEASE_MS = 3_000
PARALLELISM = 90
CONCURRENCY = 64
PAGE_SIZE = 500
TIMES, TIME_S = 6, 0.015
LONG, LONG_S = 150, 4.0
STEPS = ("first", "second", "third")
LAST_WORD = "on-complete.began"

FENCE: ContextVar[int] = ContextVar("fence", default=0)


def work_s(item_id: str) -> float:
    """How long the work of a step takes: so that a fault meets some in the middle, some at their record, and a few
    outlast it."""
    number = int(item_id.partition("-")[2])
    return LONG_S if number % LONG == LONG - 1 else number % TIMES * TIME_S


class Made(BaseModel):
    """The result of an item: which executions of its steps made it."""

    first: str
    second: str


class Chaos(BatchWorkflow[NoParams, str, Made]):
    """Three durable steps per item: two are recorded, and the third goes with the settlement."""

    name = "chaos"
    page_size, chunk_size = PAGE_SIZE, 50
    # Each with places that a worker that dies holds on to.
    entry_flow = FlowControl(parallelism=1)
    paginate_flow = FlowControl(parallelism=4)
    execute_flow = FlowControl(parallelism=PARALLELISM)

    def __init__(self, folder: Path, worker: str, items: int) -> None:
        self._folder = folder
        self._items = items
        self._traces = Writer(folder, worker)

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        start = int(cursor or 0)
        end = min(start + limit, self._items)
        self._traces.began("fetch", str(start), 0)
        return Page([f"item-{number}" for number in range(start, end)], str(end) if end < self._items else None)

    async def process(self, ctx: WorkflowContext[NoParams], item_id: str) -> Made:
        fence = cast("LayerContext[NoParams]", ctx).claim.fence
        FENCE.set(fence)
        made: list[str] = []
        for step in STEPS[:2]:
            made.append(await ctx.run(step, self._executed, step, item_id, fence))
            self._traces.came(step, item_id, fence, made[-1])
        return Made(first=made[0], second=made[1])

    async def _executed(self, step: str, item_id: str, fence: int) -> str:
        execution = self._traces.began(step, item_id, fence)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(work_s(item_id)):
                await asyncio.get_running_loop().create_future()
        return execution

    async def save(self, item_id: str, result: Made) -> None:
        self._traces.began(STEPS[2], item_id, FENCE.get())

    async def on_complete(self, summary: BatchSummary) -> None:
        self._traces.began("on-complete", summary.id, 0)
        try:
            (self._folder / LAST_WORD).touch(exist_ok=False)
        except FileExistsError:
            return
        # The first of them is killed here.
        await asyncio.get_running_loop().create_future()


def _of_surroundings() -> Batchflow:
    flow = Batchflow()
    given = os.environ
    flow.add(Chaos(Path(given["CHAOS_FOLDER"]), given["CHAOS_WORKER"], int(given["CHAOS_ITEMS"])))
    # A lease of 30 seconds would make a run of an hour.
    mock.patch("batchflow.engine.engine.LEASE_MS", LEASE_MS).start()
    mock.patch.multiple(
        "batchflow.engine.worker", EXPIRE_EVERY=1, Heartbeat=partial(Heartbeat, lease_ms=LEASE_MS)
    ).start()
    return flow


if "CHAOS_WORKER" in os.environ:
    flow = _of_surroundings()
