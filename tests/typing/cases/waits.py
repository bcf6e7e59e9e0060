"""What is inferred of everything a run can wait for, and of triggers."""

from typing import Any, assert_type

from pydantic import BaseModel

from batchflow import Batchflow, BatchSummary, BatchWorkflow, Page, WorkflowContext
from batchflow.core.run import Run
from batchflow.serve.calls import CallResponse
from batchflow.serve.runs import RunHandle
from batchflow.serve.waits import EventResult, Webhook, WebhookRequest


class Order(BaseModel):
    id: str


class Receipt(BaseModel):
    lines: list[str]


class Params(BaseModel):
    paid_only: bool = False


class Items(BatchWorkflow[Params]):
    async def fetch(self, params: Params, cursor: str | None, limit: int) -> Page:
        return Page([])

    async def execute(self, item_id: str) -> None:
        return None


flow = Batchflow("sqlite://")
items = flow.add(Items())


@flow.serve("/child")
async def child(ctx: WorkflowContext[Order]) -> Receipt:
    return Receipt(lines=[ctx.payload.id])


@flow.serve("/parent")
async def parent(ctx: WorkflowContext[Params]) -> int:
    called = await ctx.call("call", "https://x.test", response=Order)
    assert_type(called, CallResponse[Order])
    assert_type(called.body, Order)
    assert_type(called.status, int)
    assert_type((await ctx.call("text", "https://x.test", response=str)).body, str)

    assert_type(await ctx.invoke("child", child, Order(id="o1")), Receipt)
    assert_type(await ctx.invoke("items", items, Params(), label="all"), BatchSummary)

    event = await ctx.wait_for_event("event", "paid", data=Order, timeout="1d")
    assert_type(event, EventResult[Order])
    assert_type(event.data, Order)
    assert_type(event.timed_out, bool)
    assert_type(await ctx.notify("notify", "paid", Order(id="o1")), None)

    webhook = await ctx.create_webhook("webhook")
    assert_type(webhook, Webhook)
    assert_type((await ctx.wait_for_webhook("request", webhook)).data, WebhookRequest)

    assert_type(await ctx.first(ctx.sleep("long", "1d"), ctx.sleep("short", "1h")), tuple[int, None])
    place, what = await ctx.first(ctx.invoke("a", child, Order(id="a")), ctx.invoke("b", child, Order(id="b")))
    assert_type(place, int)
    assert_type(what, Receipt)
    async with ctx.timeout("limit", "1h"):
        pass
    assert_type(ctx.random(), float)
    return 1


async def use() -> None:
    assert_type(await flow.trigger(child, Order(id="o1"), delay="1h"), RunHandle[Receipt])
    assert_type(await flow.trigger_many(child, [Order(id="o1")], label="many"), list[RunHandle[Receipt]])
    assert_type(await child.trigger(Order(id="o1"), run_id="mine"), RunHandle[Receipt])
    assert_type(child.run("id"), RunHandle[Receipt])
    assert_type(await child.run("id").wait(), Receipt)
    assert_type(flow.run("id"), RunHandle[Any])
    assert_type(await flow.run("id").status(), Run)
    assert_type(flow.trigger_sync(child, Order(id="o1")), RunHandle[Receipt])
