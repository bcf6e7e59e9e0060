"""The measured job as a peer of the other job queues: an enqueue, a worker, and a shared counter of what was executed.

Run by `python -m benchmarks.peers`; the counter and the handshake come from the module `common` of its peers.
"""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import structlog
import uvloop

from batchflow import Batchflow
from benchmarks.job import Greet, Greeting, User

common: Any = __import__("common")
NOWHERE = Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process


class Counted(Greet):
    """Counts executions where all processes see it."""

    async def execute(self, user: User) -> Greeting:
        common.tick()
        return await super().execute(user)


def app(*, worker: bool) -> Batchflow:
    """One worker of 100 places, as the peers have it; lines from INFO on, written to where nobody looks."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.PrintLoggerFactory(NOWHERE),
    )
    return Batchflow(common.URL, worker=worker, concurrency=common.CONC)


def enqueue(n: int) -> None:
    """Trigger one batch of `n` items named by their ids."""

    async def go() -> None:
        flow = app(worker=False)
        bound = flow.add(Counted(n))
        ids = [f"user-{number:07d}" for number in range(n)]
        async with flow:
            begun, cpu = time.perf_counter(), time.process_time()
            await bound.trigger(ids=ids)
            common.report(begun, cpu, n)

    uvloop.run(go())


def work() -> None:
    """Work until killed."""

    async def go() -> None:
        flow = app(worker=True)
        flow.add(Counted(0))
        common.ready()
        async with flow:
            await asyncio.Event().wait()

    uvloop.run(go())


if __name__ == "__main__":
    common.main(enqueue, work)
