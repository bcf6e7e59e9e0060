"""Batch workflows for tests on QStash, and what QStash has delivered of them."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel

from batchflow import BatchSummary, BatchWorkflow, FlowControl, Page, RetryPolicy, WorkflowContext
from batchflow.engine.push_client import PushRequest
from tests.qstash.stage import APP_URL, WireStage

DELIVERIES = f"{APP_URL}/deliveries"


class Params(BaseModel):
    paid_only: bool = False


class User(BaseModel):
    id: str


class Greeting(BaseModel):
    text: str


class Greet(BatchWorkflow[Params, User, Greeting]):
    """Greets `count` users; `on_execute` is called for each."""

    entity = "user"
    name = "greet"
    page_size = 10
    chunk_size = 5
    paginate_flow = FlowControl(parallelism=1)
    execute_flow = FlowControl(parallelism=2, rate=50)
    retry = RetryPolicy(retries=2, first="4s")

    def __init__(self, count: int, on_execute: Callable[[str], Awaitable[None]]) -> None:
        self.size = count
        self.on_execute = on_execute
        self.completed = 0

    async def fetch(self, params: Params, cursor: str | None, limit: int) -> Page[User]:
        first = int(cursor or 0)
        last = min(self.size, first + limit)
        items = {f"u{number}": User(id=f"u{number}") for number in range(first, last)}
        return Page(items=items, next_cursor=str(last) if last < self.size else None)

    async def execute(self, user: User) -> Greeting:
        await self.on_execute(user.id)
        return Greeting(text=f"Hello {user.id}")

    async def on_complete(self, summary: BatchSummary, /) -> None:
        self.completed += 1


class Onboard(BatchWorkflow[Params, User, str]):
    """Several durable steps for each user."""

    entity = "user"
    name = "onboard"

    def __init__(self, steps: Counter[str]) -> None:
        self.steps = steps

    async def fetch(self, params: Params, cursor: str | None, limit: int) -> Page:
        return Page([])

    def load(self, id: str) -> User:
        return User(id=id)

    async def process(self, ctx: WorkflowContext[Params], item: User, /) -> str:
        async def step(name: str) -> None:
            self.steps[f"{name} {item.id}"] += 1

        await ctx.run("mail", step, "mail")
        await ctx.sleep("wait", "3d")
        found = await ctx.wait_for_event("answer", f"answer-{item.id}", timeout="7d", data=str)
        if not self.steps[f"flaky {item.id}"]:
            await step("flaky")
            raise ConnectionError("once")
        await ctx.run("end", step, "end")
        return "nothing" if found.timed_out else found.data


async def start(stage: WireStage, workflow: Any, **options: Any) -> Any:
    """Add a workflow and start a batch of it; its handle."""
    bound = stage.flow.add(workflow)
    await stage.open()
    return await bound.trigger(**options)


async def nothing(_: str) -> None:
    """Do nothing."""


def delivered(stage: WireStage) -> list[PushRequest]:
    """The requests of QStash about messages."""
    return [it for it in stage.client.requests if it.url == DELIVERIES and b"message" in (it.body or b"")]
