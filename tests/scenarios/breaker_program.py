"""A worker that calls a service that is down: `python -m tests.scenarios.breaker_program URL FOLDER`, until killed."""

import asyncio
import os
import sys
from pathlib import Path

from batchflow import Batchflow, BatchWorkflow, FailureBudget, FlowControl, NoParams, Page
from batchflow.batch.bound import Workflow
from tests.scenarios.working import shorten_leases, working
from tests.waiting import wait_until

COUNT = 24


class Check(BatchWorkflow[NoParams, str, str]):
    """Items that fail while there is a file `down` in the folder, and that hang while there is one named `hangs`."""

    entity = "user"
    entry_flow = paginate_flow = None
    execute_flow = FlowControl(parallelism=4)
    failure_budget = FailureBudget(max_in_a_row=5, open_for="300ms")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # One write per line with O_APPEND: a kill never leaves half a line.
        self.lines = os.open(folder / "calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=[f"u{number:02d}" for number in range(COUNT)])

    async def execute(self, item: str) -> str:
        os.write(self.lines, f"{os.getpid()} {item}\n".encode())
        await wait_until(lambda: not (self.folder / "hangs").exists(), description="the service answers", timeout=600)
        if (self.folder / "down").exists():
            raise ConnectionError("the service is down")
        return item


def make(url: str, folder: Path) -> tuple[Batchflow, "Workflow[NoParams, str]"]:
    """The app with its one workflow."""
    flow = Batchflow(url)
    return flow, flow.add(Check(folder))


async def main(url: str, folder: str) -> None:
    """Work until killed."""
    shorten_leases()
    flow, _ = make(url, Path(folder))
    async with working(flow):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
