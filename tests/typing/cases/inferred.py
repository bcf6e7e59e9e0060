"""What is inferred of workflows, steps and served functions."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import assert_type
from uuid import uuid4

from pydantic import BaseModel

from batchflow import (
    Batchflow,
    BatchHandle,
    BatchWorkflow,
    FlowControl,
    NonRetryable,
    NoParams,
    Page,
    RetryPolicy,
    Workflow,
    WorkflowContext,
)
from batchflow.batch.function import BatchFunction


class Params(BaseModel):
    paid_only: bool = False


class User(BaseModel):
    id: str


class Welcome(BatchWorkflow[Params, User, list[str]]):
    async def fetch(self, params: Params, cursor: str | None, limit: int) -> Page:
        assert_type(self.params, Params)
        return Page([])

    def load(self, user_id: str) -> User | None:
        return None

    def execute(self, user: User) -> list[str]:
        return [user.id]

    def save(self, user_id: str, result: list[str]) -> None:
        return None


class Brought(BatchWorkflow[Params, User, str]):
    async def fetch(self, params: Params, cursor: str | None, limit: int) -> Page[User]:
        page = Page(items={"u1": User(id="u1")})
        assert_type(page, Page[User])
        return page if cursor is None else Page(items={uuid4(): User(id="u2")}, next_cursor="1")

    async def execute(self, user: User) -> str:
        return user.id


class Embedded(BatchWorkflow[Params, User, list[float]], ids_only=True):
    group_size = 100
    group_wait = "500ms"
    group_parallelism = 4

    async def load(self, item_id: str) -> User | None:
        return User(id=item_id)

    async def execute_many(self, items: Sequence[User]) -> list[list[float] | NonRetryable]:
        return [[float(len(user.id))] if user.id else NonRetryable("empty") for user in items]


class Counted(BatchWorkflow[Params, str, int], ids_only=True):
    def execute_many(self, ids: list[str]) -> tuple[int, ...]:
        return tuple(len(id) for id in ids)


class Numbers(BatchWorkflow):
    def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=[1, 2]) if cursor is None else Page(ids=[uuid4()])

    def execute(self, item_id: str) -> None:
        return None


class OnlyIds(BatchWorkflow[Params]):
    async def fetch(self, params: Params, cursor: str | None, limit: int) -> Page:
        return Page([])

    async def execute(self, item_id: str) -> None:
        return None


flow = Batchflow("sqlite://")
welcome = flow.add(Welcome())
assert_type(welcome, Workflow[Params, list[str]])
assert_type(flow.add(OnlyIds()), Workflow[Params, None])


@flow.batch
async def greet(user_id: str) -> str:
    return user_id


@flow.batch(ids=["a"])
def count(user_id: str) -> int:
    return len(user_id)


assert_type(greet, BatchFunction[str, Awaitable[str]])
assert_type(count, BatchFunction[int, int])
either: Workflow[NoParams, str] = greet


@flow.batch
async def embed(user_ids: list[str]) -> list[list[float]]:
    return [[float(len(id))] for id in user_ids]


@flow.batch(ids=["a"], group_size=100, group_wait="1s", group_parallelism=2)
def measure(ids: Sequence[str]) -> list[int | Exception]:
    return [len(id) or ValueError(id) for id in ids]


@flow.batch
async def gathered(ids: list[str]) -> list[str | BaseException]:
    return await asyncio.gather(*(greet(id) for id in ids), return_exceptions=True)


vectors: Workflow[NoParams, list[float]] = embed
texts: Workflow[NoParams, str] = gathered
measured: Workflow[NoParams, int] = measure


async def call_many() -> None:
    """A function of many ids is called with a list of them."""
    first = (await embed(["ada"]))[0]
    assert_type(first, list[float] | Exception | BaseException)
    assert_type((await vectors.trigger()).id, str)
    assert_type(measure(["ada"])[0], int | Exception | BaseException)


async def call() -> None:
    """A function is called as it is written."""
    assert_type(await greet("ada"), str)
    assert_type(count("ada"), int)


@flow.batch(
    ids=["a"],
    name="fine",
    entity="user",
    entity_plural="people",
    execute_verb="greet",
    page_size=1_000,
    chunk_size=100,
    flow=None,
    entry_flow=None,
    paginate_flow=FlowControl(rate=5),
    retry=RetryPolicy(retries=1),
    timeout="5s",
    processed_ttl="7d",
    walk_first=True,
)
async def with_options(user_id: str) -> str:
    return user_id


async def charge(amount: int, *, currency: str) -> User:
    return User(id=f"{amount}{currency}")


def add(one: int, other: int) -> int:
    return one + other


@flow.serve("/onboarding")
async def onboarding(ctx: WorkflowContext[Params]) -> User:
    assert_type(ctx.payload, Params)
    assert_type(await ctx.run("charge", charge, 3, currency="EUR"), User)
    assert_type(await ctx.run("add", add, 1, 2), int)
    assert_type(await ctx.step(timeout="5s").run("add again", add, 1, 2), int)
    assert_type(await ctx.sleep("a while", "3d"), None)
    return User(id="1")


async def use() -> None:
    batch = await welcome.trigger(Params(paid_only=True))
    assert_type(batch, BatchHandle[list[str]])
    results: AsyncIterator[tuple[str, list[str]]] = batch.results()
    del results
    run = await onboarding.trigger(Params())
    assert_type(await run.wait(), User)
