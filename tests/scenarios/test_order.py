"""An order: reserved, paid for within a day or not, shipped, and taken back where one of them fails."""

import pytest
from pydantic import BaseModel

from batchflow import WorkflowContext
from batchflow.core.retry import RetryPolicy
from batchflow.errors import NonRetryable, StepFailed
from batchflow.serve.functions import ServedFunction
from tests.scenarios.scenario_app import DAY, Scene


class Order(BaseModel):
    id: str = "o1"


class Payment(BaseModel):
    amount: int


def fulfilment(scene: Scene, *, courier_fails: bool = False) -> ServedFunction[Order, str]:
    down = ConnectionError("the courier is down") if courier_fails else None

    @scene.flow.serve("/order", retry=RetryPolicy(retries=2, first="1s", factor=2))
    async def order(ctx: WorkflowContext[Order]) -> str:
        id = ctx.payload.id
        await ctx.run("reserve", scene.step("reserve"))
        paid = await ctx.wait_for_event("paid", f"paid:{id}", timeout="1d", data=Payment)
        if paid.timed_out:
            await ctx.run("release", scene.step("release"))
            return "not paid"
        try:
            await ctx.run("ship", scene.step("ship", error=down))
        except StepFailed as failed:
            await ctx.run("refund", scene.step("refund"))
            await ctx.run("release", scene.step("release"))
            return f"refunded {paid.data.amount}: {failed.error}"
        return f"shipped for {paid.data.amount}"

    return order


async def test_order_that_is_paid_is_shipped(both: Scene) -> None:
    """The payment wakes the run that waits for it, with what was paid."""
    order = fulfilment(both)
    run = await both.start(order.trigger(Order()))
    # An event of another order is not this one's.
    pay = await both.flow.trigger(later(both), "paid:o1", delay="2h")
    await both.drive()
    assert (await run.status()).result == '"shipped for 30"'
    assert (await pay.status()).state == "completed"
    assert both.executed == {"reserve": 1, "ship": 1}


async def test_order_that_is_not_paid_is_released(both: Scene) -> None:
    """After a day, and an event that comes then wakes nobody."""
    order = fulfilment(both)
    begun = both.clock.now()
    ended = await both.to_the_end(order.trigger(Order()))
    assert ended.result == '"not paid"'
    assert both.clock.now() - begun == DAY
    assert await both.flow.notify("paid:o1", {"amount": 30}) == []
    assert both.executed == {"reserve": 1, "release": 1}


async def test_order_that_cannot_be_shipped_is_taken_back(both: Scene) -> None:
    """The last failure reaches the code, which makes good what was done."""
    order = fulfilment(both, courier_fails=True)
    run = await both.start(order.trigger(Order()))
    await both.flow.trigger(later(both), "paid:o1", delay="2h")
    await both.drive()
    assert (await run.status()).result == '"refunded 30: ConnectionError: the courier is down"'
    assert both.executed == {"reserve": 1, "ship": 3, "refund": 1, "release": 1}


async def test_order_with_a_compensation_that_fails_is_a_failed_run(scene: Scene) -> None:
    """The journal of what was done goes with it."""

    @scene.flow.serve("/hopeless")
    async def hopeless(ctx: WorkflowContext[Order]) -> None:
        await ctx.run("reserve", scene.step("reserve"))
        await ctx.run("release", scene.step("release", error=NonRetryable("locked")))

    ended = await scene.to_the_end(hopeless.trigger(Order()))
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error.startswith("StepFailed: step 'release' failed after 1 attempt: NonRetryable: locked")
    assert [(step.name, step.state) for step in ended.journal] == [("reserve", "done"), ("release", "failed")]
    assert scene.executed == {"reserve": 1, "release": 1}


@pytest.mark.parametrize("moment", ["before", "same", "after"])
async def test_order_paid_around_the_last_moment_is_either_paid_or_not(scene: Scene, moment: str) -> None:
    """At the very end of the wait the time is over; a millisecond before it is not."""
    order = fulfilment(scene)
    run = await scene.start(order.trigger(Order()))
    delay = DAY + {"before": -1, "same": 0, "after": 1}[moment]
    await scene.flow.trigger(later(scene), "paid:o1", not_before=scene.clock.now() + delay)
    await scene.drive()
    assert (await run.status()).result == ('"shipped for 30"' if moment == "before" else '"not paid"')


def later(scene: Scene) -> ServedFunction[str, None]:
    """Notifies an event when it is its time."""

    @scene.flow.serve("/later")
    async def notify(ctx: WorkflowContext[str]) -> None:
        await ctx.notify("tell", ctx.payload, Payment(amount=30))

    return notify
