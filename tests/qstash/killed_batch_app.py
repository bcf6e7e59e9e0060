"""An app with a batch on QStash that a test kills: it writes down what it executes, and which steps are recorded."""

import json
import os
import time

import httpx
from fastapi import FastAPI

from batchflow import (
    Batchflow,
    BatchSummary,
    BatchWorkflow,
    FlowControl,
    NoParams,
    Page,
    QStash,
    RetryPolicy,
    WorkflowContext,
)
from batchflow.qstash import engine as qstash_engine
from batchflow.qstash import relay
from tests.waiting import take_a_while

IDS = [f"i{number}" for number in range(60)]
PARALLELISM = 4
STEPS = ("first", "second")
_EVIDENCE = os.open(os.environ["EVIDENCE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def write(what: str, id: str, step: str = "") -> None:
    """Write down that something has happened; a kill does not undo it."""
    line = {"what": what, "id": id, "step": step, "at": time.time_ns(), "process": os.getpid()}
    os.write(_EVIDENCE, f"{json.dumps(line)}\n".encode())


def result_of(id: str) -> str:
    """The result of an item."""
    return ", ".join(f"{step} of {id}" for step in STEPS)


class Killed(BatchWorkflow[NoParams, str, str]):
    """Two pages of items, with two durable steps for each."""

    page_size = 30
    chunk_size = 10
    entry_flow = FlowControl(parallelism=1)
    paginate_flow = FlowControl(parallelism=1)
    execute_flow = FlowControl(parallelism=PARALLELISM)
    retry = RetryPolicy(retries=0)

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        first = int(cursor or 0)
        last = first + limit
        return Page(ids=IDS[first:last], next_cursor=str(last) if last < len(IDS) else None)

    async def process(self, ctx: WorkflowContext[NoParams], item: str, /) -> str:
        return ", ".join([await self._step(ctx, item, step) for step in STEPS])

    async def _step(self, ctx: WorkflowContext[NoParams], item: str, step: str) -> str:
        async def execute() -> str:
            write("executed", item, step)
            await take_a_while(0.05)
            return f"{step} of {item}"

        result = await ctx.run(step, execute)
        write("recorded", item, step)
        return result

    async def on_complete(self, summary: BatchSummary, /) -> None:
        write("completed", summary.id)


class Patient(httpx.AsyncHTTPTransport):
    """Has QStash deliver each message again after seconds: by default it waits for minutes after a few failures."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v2/batch":
            items = json.loads(request.content)
            for item in items:
                item["headers"] |= {"upstash-retries": "20", "upstash-retry-delay": "1000 * (1 + retried)"}
            headers = {name: value for name, value in request.headers.items() if name != "content-length"}
            request = httpx.Request(
                request.method, request.url, headers=headers, json=items, extensions=request.extensions
            )
        return await super().handle_async_request(request)


# So that what a dead process held is soon due again.
qstash_engine.LEASE_MS = 10_000
relay.RELAY_LEASE_MS = 10_000

flow = Batchflow(QStash(store=os.environ["STORE"], transport=Patient()))
killed = flow.add(Killed())
app = FastAPI(lifespan=flow.lifespan)
app.include_router(flow.router)
