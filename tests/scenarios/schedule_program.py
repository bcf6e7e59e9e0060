"""A worker of schedules that is killed: `python -m tests.scenarios.schedule_program URL LOG` works until then."""

import asyncio
import os
import sys
from typing import Any

from batchflow import Batchflow, RetryPolicy, WorkflowContext
from tests.scenarios.working import shorten_leases, working


def make(url: str, log: str) -> Batchflow:
    """The app: a function that writes one line for each of its runs."""
    flow = Batchflow(url)
    # One write per line with O_APPEND: a kill never leaves half a line.
    lines = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @flow.serve("/tick", retry=RetryPolicy(retries=3, delay="1000"))
    async def tick(ctx: WorkflowContext[Any]) -> str:
        await ctx.run("note", lambda: os.write(lines, f"{ctx.headers['Upstash-Schedule-Id']}\n".encode()))
        return "done"

    return flow


async def main(url: str, log: str) -> None:
    """Work until killed."""
    shorten_leases()
    async with working(make(url, log)):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
