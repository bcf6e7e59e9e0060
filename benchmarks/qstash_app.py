"""Functions on QStash that are measured; the same as in tests/sdk/js/benchmark.mjs."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from batchflow import Batchflow, QStash, WorkflowContext
from benchmarks.app import quiet_logs

STEPS = 10


class Counting(httpx.AsyncHTTPTransport):
    """Counts the requests to QStash."""

    sent = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.sent += 1
        return await super().handle_async_request(request)


quiet_logs(Path(os.environ["BENCHMARK_FOLDER"]))
transport = Counting()
flow = Batchflow(QStash(transport=transport))
got = ended = 0


async def step(number: int) -> int:
    return number


@flow.serve("/sequential")
async def sequential(ctx: WorkflowContext[None]) -> int:
    total = 0
    for number in range(STEPS):
        total += await ctx.run(f"step {number}", step, number)
    return _end(total)


@flow.serve("/parallel")
async def parallel(ctx: WorkflowContext[None]) -> int:
    return _end(sum(await asyncio.gather(*(ctx.run(f"step {number}", step, number) for number in range(STEPS)))))


def _end(total: int) -> int:
    global ended  # noqa: PLW0603
    ended += 1
    return total


api = FastAPI(lifespan=flow.lifespan)
api.include_router(flow.router)


@api.get("/figures")
async def figures() -> dict[str, int]:
    return {"got": got, "sent": transport.sent, "ended": ended}


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The app, whose POSTs are counted."""
    global got  # noqa: PLW0603
    got += scope.get("method") == "POST"
    await api(scope, receive, send)


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, fd=int(sys.argv[1]), log_level="critical", access_log=False)
