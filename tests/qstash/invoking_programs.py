"""A function that invokes a batch, for tests and the way of its app to QStash, which loses what a test says."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from batchflow import BatchSummary, BatchWorkflow, NonRetryable, Page, RetryPolicy, WorkflowContext
from batchflow.qstash.engine import QStashEngine
from batchflow.serve.functions import ServedFunction
from tests.qstash.batch_programs import Params
from tests.qstash.stage import WireStage

ITEMS = ["ada", "bob", "eve"]


class Welcome(BatchWorkflow[Params, str, str]):
    """Welcomes all but "eve"; counts what was executed."""

    retry = RetryPolicy(retries=1, first="2s")

    def __init__(self, ids: Sequence[str] = ITEMS) -> None:
        self.ids = ids
        self.executed: Counter[str] = Counter()
        self.completed: list[str] = []
        self.on_item: Callable[[str], None] = lambda item: None

    async def fetch(self, params: Params, cursor: str | None, limit: int) -> Page:
        return Page(self.ids)

    async def filter(self, params: Params, ids: Sequence[str]) -> Sequence[str]:
        return ids

    async def execute(self, item: str) -> str:
        self.executed[item] += 1
        await asyncio.sleep(0)
        self.on_item(item)
        if item == "eve":
            raise NonRetryable("she has left")
        return f"welcome {item}"

    async def on_complete(self, summary: BatchSummary, /) -> None:
        self.completed.append(summary.id)


class Sleepers(BatchWorkflow[Params, str, None]):
    """Items that take a day."""

    async def fetch(self, params: Params, cursor: str | None, limit: int) -> Page:
        return Page(["a", "b"])

    async def process(self, ctx: WorkflowContext[Any], item: str, /) -> None:
        await ctx.sleep("a day", "1d")

    async def execute(self, item: str) -> None:
        raise AssertionError("it is not asked for")


def engine_of(stage: WireStage) -> QStashEngine:
    engine = stage.flow.engine
    assert isinstance(engine, QStashEngine)
    return engine


async def opened(stage: WireStage) -> None:
    """Start the app, which has QStash call it each five minutes."""
    await stage.open()
    await engine_of(stage).give_due()


def parent_of(stage: WireStage, workflow: BatchWorkflow[Params, Any, Any], **options: Any) -> ServedFunction[None, str]:
    """A function that invokes the batch between two steps."""
    batch = stage.flow.add(workflow)
    executed: Counter[str] = workflow.executed if isinstance(workflow, Welcome) else Counter[str]()

    def step(name: str) -> None:
        executed[name] += 1

    @stage.flow.serve("/parent", **options)
    async def parent(ctx: WorkflowContext[None]) -> str:
        await ctx.run("before", step, "before")
        summary = await ctx.invoke("welcome all", batch, Params(), force=True)
        await ctx.run("after", step, "after")
        counts = summary.counts
        return f"{summary.state} {counts.succeeded} {counts.failed}"

    return parent


Lost = Callable[[int, httpx.Request], bool]


class Wire(httpx.AsyncBaseTransport):
    """The way of the app to QStash: counts the requests, and loses some of them, or their answers."""

    def __init__(self, stage: WireStage) -> None:
        self.inner = stage.transport
        self.requests: list[str] = []
        self.loses_request: Lost = lambda number, request: False
        self.loses_answer: Lost = lambda number, request: False
        for rest in engine_of(stage).directory.rests:
            vars(rest)["_transport"] = self

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        number = len(self.requests)
        self.requests.append(f"{request.method} {request.url.path}")
        if self.loses_request(number, request):
            raise httpx.ConnectError("QStash is away")
        response = await self.inner.handle_async_request(request)
        if self.loses_answer(number, request):
            await response.aread()
            raise httpx.ReadError("the answer is lost")
        return response
