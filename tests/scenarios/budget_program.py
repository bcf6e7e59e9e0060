"""A worker whose items fail at first: `python -m tests.scenarios.budget_program URL FOLDER`, until killed."""

import asyncio
import os
import sys
from pathlib import Path

from batchflow import Batchflow, BatchWorkflow, FailureBudget, FlowControl, NoParams, Page, RetryPolicy
from batchflow.batch.bound import Workflow
from tests.scenarios.working import shorten_leases, working

COUNT = 60
PARALLELISM = 4
MAX_FAILURES = 5


class Check(BatchWorkflow[NoParams, str, str]):
    """Items that fail while there is a file `down` in the folder."""

    entity = "user"
    entry_flow = paginate_flow = None
    execute_flow = FlowControl(parallelism=PARALLELISM)
    page_size = COUNT
    retry = RetryPolicy(retries=0)
    failure_budget = FailureBudget(max_failures=MAX_FAILURES)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # One write per line with O_APPEND: a kill never leaves half a line.
        self.lines = os.open(folder / "calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=[f"u{number:02d}" for number in range(COUNT)])

    async def execute(self, item: str) -> str:
        os.write(self.lines, f"{os.getpid()} {item}\n".encode())
        if (self.folder / "down").exists():
            raise ConnectionError("the service is down")
        return item


class Probe(BatchWorkflow[NoParams]):
    """Other work of the same workers."""

    entity = "probe"
    entry_flow = paginate_flow = execute_flow = None

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=["p1"])

    async def execute(self, item: str) -> None:
        pass


def make(url: str, folder: Path) -> tuple[Batchflow, Workflow[NoParams, str], Workflow[NoParams, None]]:
    """The app with both workflows."""
    flow = Batchflow(url)
    return flow, flow.add(Check(folder)), flow.add(Probe())


async def main(url: str, folder: str) -> None:
    """Work until killed."""
    shorten_leases()
    flow, _, _ = make(url, Path(folder))
    async with working(flow):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
