"""The functions whose journals are recorded. They are never edited: a change is a new function of another name."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from pydantic import BaseModel

from batchflow import BatchWorkflow, NoParams, Page, WorkflowContext
from batchflow.errors import ChildCancelled, ChildFailed, NonRetryable, StepFailed
from batchflow.serve.functions import ServedFunction
from batchflow.serve.waits import WebhookRequest, webhook_event_id, webhook_request_codec
from tests.scenarios.scenario_app import Scene, json_answer


class Order(BaseModel):
    id: str = "o1"
    amount: int = 3


@dataclass
class Receipt:
    order: Order
    lines: list[str]


class Items(BatchWorkflow[NoParams]):
    name = "recorded-items"

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(["a", "b"])

    async def execute(self, item: str) -> None:
        return None


Context: TypeAlias = WorkflowContext[Order]
Function: TypeAlias = Callable[[Context], Awaitable[object]]


class Functions:
    """Served on a scene; `executed` counts what is executed."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        scene.calls.answer = lambda request: json_answer('{"id": "o2", "amount": 7}', 201)
        self.items = scene.flow.add(Items())
        self.child = self._serve("/child", self._child)
        self.served = {name: self._serve(f"/{name}", function) for name, function in self._all().items()}

    def _serve(self, route: str, function: Function) -> ServedFunction[Order, Any]:
        @self.scene.flow.serve(route, retries=1, base_url="https://app.test")
        async def served(ctx: WorkflowContext[Order]) -> Any:
            return await function(ctx)

        return served

    def _all(self) -> dict[str, Function]:
        return {name: getattr(self, name) for name in vars(Functions) if not name.startswith("_")}

    async def _child(self, ctx: Context) -> int:
        if ctx.payload.id == "fails":
            raise NonRetryable("as it is wanted")
        if ctx.payload.id == "cancels":
            ctx.cancel()
        return ctx.payload.amount * 2

    async def run(self, ctx: Context) -> list[str]:
        async def receipt(order: Order) -> Receipt:
            self.scene.executed["receipt"] += 1
            return Receipt(order, ["one", "two"])

        made = await ctx.run("receipt", receipt, ctx.payload)
        count = await ctx.run("count", self.scene.step("count", 2))
        return [type(made.order).__name__, *made.lines, str(count)]

    async def run_failed(self, ctx: Context) -> str:
        result = "through"
        try:
            await ctx.run("bad", self.scene.step("bad", error=ValueError("bad")))
        except StepFailed as failed:
            result = f"{failed} {failed.attempts}"
        return result

    async def run_failed_for_good(self, ctx: Context) -> None:
        await ctx.run("good", self.scene.step("good"))
        await ctx.run("bad", self.scene.step("bad", error=NonRetryable("bad")))

    async def sleep(self, ctx: Context) -> str:
        await ctx.sleep("duration", "3d")
        await ctx.sleep_until("moment", datetime(2024, 1, 1, tzinfo=UTC))
        await ctx.sleep("nothing", 0)
        return ctx.now().isoformat()

    async def call(self, ctx: Context) -> list[object]:
        typed = await ctx.call("typed", "https://x.test/orders", body=ctx.payload, response=Order)
        plain = await ctx.call("plain", "https://x.test/orders")
        return [typed.status, typed.body.id, plain.body]

    async def invoke(self, ctx: Context) -> list[str]:
        said = [str(await ctx.invoke("returns", self.child, Order(amount=4)))]
        for how in ("fails", "cancels"):
            try:
                await ctx.invoke(how, self.child, Order(id=how))
            except (ChildFailed, ChildCancelled) as error:
                said.append(f"{type(error).__name__}: {error}")
        return said

    async def invoke_batch(self, ctx: Context) -> str:
        summary = await ctx.invoke("items", self.items, NoParams())
        return f"{summary.state} {summary.counts.succeeded}"

    async def wait(self, ctx: Context) -> list[object]:
        await ctx.notify("tell", "paid", {"id": "o3", "amount": 1}, run_id=ctx.run_id)
        paid = await ctx.wait_for_event("paid", "paid", data=Order)
        late = await ctx.wait_for_event("late", "late", timeout="1h")
        return [paid.data.id, late.timed_out]

    async def webhook(self, ctx: Context) -> str:
        webhook = await ctx.create_webhook("webhook")

        async def send() -> None:
            self.scene.executed["send"] += 1
            request = webhook_request_codec().encode(WebhookRequest(method="POST", headers={"a": "b"}, query="c=d"))
            await self.scene.flow.engine.notify(webhook_event_id(webhook.token), request, ctx.run_id)

        await ctx.run("send", send)
        sent = await ctx.wait_for_webhook("request", webhook)
        return f"{sent.data.method} {sent.data.query} {webhook.url.startswith('https://app.test/webhooks/')}"

    async def first(self, ctx: Context) -> list[int]:
        place, _ = await ctx.first(ctx.wait_for_event("event", "never"), ctx.sleep("patience", "1h"))
        again, _ = await ctx.first(ctx.sleep("long", "2h"), ctx.invoke("child", self.child, Order()))
        await ctx.sleep("after all", "3h")
        return [place, again]

    async def timeout(self, ctx: Context) -> list[str]:
        said: list[str] = []
        for name, event in (("outer", "never"), ("ample", "here")):
            await ctx.notify(f"{name} tell", "here", run_id=ctx.run_id)
            try:
                async with ctx.timeout(name, "1h"):
                    await ctx.wait_for_event(f"{name} event", event)
                    said.append("came")
            except TimeoutError as error:
                said.append(str(error))
        return said

    async def branches(self, ctx: Context) -> list[object]:
        async def slow(name: str, turns: int) -> str:
            self.scene.executed[name] += 1
            for _ in range(turns):
                await asyncio.sleep(0)
            return name

        gathered = await asyncio.gather(ctx.run("a", slow, "a", 9), ctx.run("b", slow, "b", 1), ctx.sleep("c", 60))
        tasks = [asyncio.create_task(ctx.run(name, slow, name, turns)) for name, turns in (("d", 90), ("e", 1))]
        done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        winners = [task.result() for task in done]
        await asyncio.wait(left)
        result = "group ended"
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.run("f", self.scene.step("f", error=NonRetryable("f"))))
                group.create_task(ctx.sleep("g", "1d"))
        except* StepFailed:
            result = "group failed"
        return [*gathered, *winners, result]

    async def chance(self, ctx: Context) -> list[str]:
        drawn = [f"{ctx.random():.12f}", str(ctx.uuid())]
        await ctx.run("between", self.scene.step("between"))
        return [*drawn, f"{ctx.random():.12f}", ctx.now().isoformat()]
