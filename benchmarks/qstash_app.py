"""Functions and a batch on QStash that are measured; the same as in tests/sdk/js/benchmark.mjs."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import JSONResponse

from batchflow import Batchflow, FlowControl, QStash, WorkflowContext
from batchflow.engine.push_client import HttpPushClient, PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.qstash import rest_client
from benchmarks.app import quiet_logs

STEPS = 10
ITEMS = 500


class Counting(HttpPushClient):
    """Counts the requests to QStash."""

    sent = 0

    async def send(self, request: PushRequest) -> PushResponse:
        Counting.sent += 1
        return await super().send(request)


rest_client.HttpPushClient = Counting
quiet_logs(Path(os.environ["BENCHMARK_FOLDER"]))
flow = Batchflow(QStash())
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


HAS_BATCH = "BATCHFLOW_STORE" in os.environ
if HAS_BATCH:

    @flow.batch(ids=[f"item-{number}" for number in range(ITEMS)], flow=FlowControl(parallelism=20))
    async def measured(item_id: str) -> int:
        return _end(len(item_id))


def _end(total: int) -> int:
    global ended  # noqa: PLW0603
    ended += 1
    return total


api = FastAPI(lifespan=flow.lifespan)
api.include_router(flow.router)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The app, whose POSTs are counted; a GET answers with the counts."""
    global got  # noqa: PLW0603
    if scope.get("method") == "GET":
        counts = JSONResponse({"got": got, "sent": Counting.sent, "ended": ended, "has_batch": HAS_BATCH})
        await counts(scope, receive, send)
        return
    got += scope.get("method") == "POST"
    await api(scope, receive, send)


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, fd=int(sys.argv[1]), log_level="critical", access_log=False)
