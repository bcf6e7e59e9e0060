"""What is refused where a run waits or is triggered."""

from pydantic import BaseModel

from batchflow import Batchflow, BatchWorkflow, Page, WorkflowContext


class Order(BaseModel):
    id: str


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
async def child(ctx: WorkflowContext[Order]) -> int:
    return len(ctx.payload.id)


@flow.serve("/parent")
async def parent(ctx: WorkflowContext[Params]) -> None:
    # expect-error: "cannot be assigned to parameter"
    await ctx.invoke("child", child, Params())
    # expect-error: "cannot be assigned to parameter"
    await ctx.invoke("items", items, Order(id="o1"))
    # expect-error: "is not assignable to declared type"
    text: str = await ctx.invoke("again", child, Order(id="o1"))
    # expect-error: "cannot be assigned to parameter .prority. of type .Never."
    await ctx.invoke("third", child, Order(id="o1"), prority=3)
    # expect-error: "cannot be assigned to parameter .verb. of type .Never."
    await ctx.call("call", "https://x.test", verb="POST")
    # expect-error: "cannot be assigned to parameter"
    await ctx.call("call", 3)
    # expect-error: "is not assignable to declared type"
    order: Order = (await ctx.wait_for_event("event", "paid", data=int)).data
    # expect-error: "cannot be assigned to parameter"
    await ctx.wait_for_webhook("request", "https://x.test/webhooks/1")
    # expect-error: "cannot be assigned to parameter"
    await ctx.first(3)
    # expect-error: "does not correctly implement __enter__"
    # expect-error: "does not correctly implement __exit__"
    with ctx.timeout("limit", "1h"):
        del text, order


async def use() -> None:
    # expect-error: "cannot be assigned to parameter"
    await flow.trigger(child, Params())
    # expect-error: "No parameter named .lable."
    await flow.trigger(child, Order(id="o1"), lable="x")
    # expect-error: "cannot be assigned to parameter"
    await flow.trigger_many(child, [Params()])
    # expect-error: "cannot be assigned to parameter"
    await child.trigger(Order(id="o1"), delay=[])
    # expect-error: "is not assignable to declared type"
    result: str = await (await child.trigger(Order(id="o1"))).wait()
    del result
