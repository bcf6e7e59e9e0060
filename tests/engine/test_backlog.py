"""Large values that wait to be written: their number is bounded, whatever runs at once."""

import asyncio
from pathlib import Path

from batchflow import Batchflow, BatchWorkflow, NoParams, Page
from batchflow.core.message import Claim
from batchflow.core.ports import Observer
from batchflow.core.settlement import Settlement
from batchflow.engine.backlog import MAX_CHARS, WriteBacklog

ITEMS = 120
SIZE = 500_000


class Large(BatchWorkflow[NoParams, str, str]):
    """Items whose results are large."""

    name = "large"
    entry_flow = paginate_flow = execute_flow = None
    page_size = chunk_size = ITEMS

    def __init__(self, size: int) -> None:
        self.size = size
        self.begun = 0

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page([f"id-{number}" for number in range(ITEMS)])

    async def load(self, item_id: str) -> str:
        return item_id

    async def execute(self, item: str) -> str:
        self.begun += 1
        return "x" * self.size


class HeldResults(Observer):
    """Counts the results that are made and not settled yet."""

    def __init__(self, workflow: Large) -> None:
        self.workflow = workflow
        self.settled_count = 0
        self.most = 0

    def settled(self, claim: Claim, settlement: Settlement) -> None:
        """See the protocol."""
        if claim.number >= 0:
            self.most = max(self.most, self.workflow.begun - self.settled_count)
            self.settled_count += 1


async def most_held(folder: Path, size: int) -> int:
    """The most results that are held at once."""
    workflow = Large(size)
    flow = Batchflow(f"sqlite:///{folder / 'jobs.db'}")
    flow.engine.observers.add(held := HeldResults(workflow))
    async with flow:
        summary = await (await flow.add(workflow).trigger()).wait(check=True)
    assert summary.counts.succeeded == ITEMS
    return held.most


async def test_large_results_wait_in_bounded_memory(tmp_path: Path) -> None:
    """As many as fill the backlog, and some that were on their way; the others begin when these are written."""
    assert await most_held(tmp_path, SIZE) <= 2 * MAX_CHARS // SIZE


async def test_small_results_are_not_held_back(tmp_path: Path) -> None:
    """All that there is room for begin at once."""
    assert await most_held(tmp_path, 10) > 2 * MAX_CHARS // SIZE


async def test_backlog_lets_one_after_the_other_continue() -> None:
    """The first one that fills it holds back the next."""
    backlog, begun = WriteBacklog(10), list[int]()

    async def begin(number: int) -> None:
        await backlog.wait()
        begun.append(number)
        backlog.add(10)

    backlog.add(10)
    async with asyncio.TaskGroup() as tasks:
        for number in range(3):
            tasks.create_task(begin(number))
        for number in range(3):
            await asyncio.sleep(0)
            assert len(begun) == number
            backlog.remove(10)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    assert begun == [0, 1, 2]


async def test_one_that_is_cancelled_while_it_waits_holds_nobody_back() -> None:
    """The others continue."""
    backlog = WriteBacklog(10)
    backlog.add(10)
    first, second = asyncio.create_task(backlog.wait()), asyncio.create_task(backlog.wait())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    backlog.remove(10)
    await second
    assert first.cancelled()
