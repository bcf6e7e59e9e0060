"""A module of durable functions for the command's tests, and what they do with it."""

import asyncio
from typing import Any

from batchflow import Batchflow
from batchflow.core.run import Run
from tests.cli.command_line import CommandLine
from tests.waiting import wait_until

FUNCTIONS = """
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from batchflow import Batchflow, NonRetryable, WorkflowContext


class Order(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    id: str
    item_count: int = Field(1, alias="itemCount")
    tags: list[str] = []


flow = Batchflow()


@flow.serve("/orders/ship", label="shipping")
async def ship(ctx: WorkflowContext[Order]) -> dict[str, Any]:
    order = ctx.payload
    if order.id == "lost":
        raise NonRetryable("order 'lost' is nowhere")
    parcel = await ctx.run("pack", str.upper, order.id)
    if order.id == "held":
        released = await ctx.wait_for_event("release", "release:held/1")
        return {"released": released.data}
    return {"parcel": parcel, "items": order.item_count, "tags": order.tags}


def lines(text: str) -> list[str]:
    if text == "none":
        raise ValueError("there are no lines")
    return text.split()


@flow.serve("/count", initial_payload_parser=lines)
async def count(ctx: WorkflowContext[list[str]]) -> int:
    return len(ctx.payload)
"""


def trigger_run(shop: CommandLine, id: str, *options: str) -> str:
    """A run that waits for a worker."""
    answer = shop("runs", "trigger", shop.target, "/orders/ship", "-p", f"id={id}", "--json", *options)
    document = answer.document
    assert document.keys() == {"success", "workflowRunId", "deduplicated"}
    return document["workflowRunId"]


def work_until(state: str, run: str) -> Run:
    """Work for the functions of another module until a run has come so far."""

    async def work() -> Run:
        namespace: dict[str, Any] = {"__name__": "elsewhere"}
        exec(FUNCTIONS, namespace)
        flow: Batchflow = namespace["flow"]
        async with flow:
            handle = flow.run(run)

            async def come() -> bool:
                found = await handle.status()
                return found.state == state and (state != "waiting" or bool(await flow.waiters("release:held/1")))

            await wait_until(come, description=f"the run is {state}")
            return await handle.status()

    return asyncio.run(work())
