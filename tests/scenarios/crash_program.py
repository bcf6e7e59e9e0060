"""A program that is killed over and over: it runs one batch and writes a line for whatever it executes.

`python -m tests.scenarios.crash_program URL LOG ITEMS HOOK`: starts the batch, or goes on with it, and ends with
it. HOOK is `execute`, or `execute_many` for calls of many items.
"""

import asyncio
import os
import sys
from collections.abc import Sequence

from pydantic import BaseModel

from batchflow import Batchflow, BatchSummary, BatchWorkflow, FlowControl, NoParams, Page
from tests.scenarios.working import shorten_leases, working

CONCURRENCY = 32
DEDUP = "the-one-batch"


class Item(BaseModel):
    """The item that `load` returns for an id."""

    id: str
    size: int


class Logged(BatchWorkflow[NoParams, Item, str], abstract=True):
    """Three steps per item, each of which leaves a line in the log before it returns."""

    name = "crashing"
    page_size, chunk_size = 40, 16
    entry_flow = paginate_flow = None
    execute_flow = FlowControl(parallelism=CONCURRENCY)

    def __init__(self, log: str, items: int) -> None:
        # One write per line with O_APPEND: a kill never leaves half a line.
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._items = items

    def note(self, step: str, item: str) -> None:
        """Say that a step was executed."""
        os.write(self._log, f"{step} {item}\n".encode())

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        start = int(cursor or 0)
        end = min(start + limit, self._items)
        return Page([f"item-{number}" for number in range(start, end)], str(end) if end < self._items else None)

    async def load(self, item_id: str) -> Item:
        self.note("get-item", item_id)
        return Item(id=item_id, size=len(item_id))

    async def save(self, item_id: str, result: str) -> None:
        self.note("save-result", item_id)

    async def on_complete(self, summary: BatchSummary) -> None:
        self.note("on-complete", summary.id)


class Crashing(Logged):
    """One call for each item."""

    async def execute(self, item: Item) -> str:
        self.note("process-item", item.id)
        return f"done {item.id}"


class CrashingGroups(Logged):
    """One call for a few items."""

    group_size = 8
    group_wait = "20ms"

    async def execute_many(self, items: Sequence[Item]) -> list[str]:
        for item in items:
            self.note("process-item", item.id)
        await asyncio.sleep(0)
        return [f"done {item.id}" for item in items]


async def main(url: str, log: str, items: int, hook: str) -> None:
    shorten_leases()
    flow = Batchflow(url, concurrency=CONCURRENCY)
    crashing = flow.add({"execute": Crashing, "execute_many": CrashingGroups}[hook](log, items))
    async with working(flow):
        batch = await crashing.trigger(dedup_id=DEDUP)
        await batch.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
