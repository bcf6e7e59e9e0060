"""The app of the uvicorn tests: `quick` ends at once, `stuck` waits for BEGUN/gate, `hooked` for its webhook."""

import os
from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI

from batchflow import Batchflow, BatchWorkflow, NoParams, Page, WorkflowContext
from tests.waiting import wait_until

IDS = [f"u{number}" for number in range(25)]
BEGUN = Path(os.environ["BEGUN"])
GATE = BEGUN / "gate"


class Quick(BatchWorkflow[NoParams, str, str]):
    """Every item ends at once."""

    name = "quick"
    entity = "user"
    entry_flow = paginate_flow = execute_flow = None

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        start = int(cursor or 0)
        end = start + limit
        return Page(ids=IDS[start:end], next_cursor=str(end) if end < len(IDS) else None)

    async def filter(self, params: NoParams, ids: Sequence[str]) -> Sequence[str]:
        return ids

    async def execute(self, user_id: str) -> str:
        return user_id.upper()


class Stuck(Quick):
    """Its items wait."""

    name = "stuck"

    async def execute(self, user_id: str) -> str:
        BEGUN.joinpath(user_id).touch()
        await wait_until(GATE.exists, description="the gate is open", timeout=600)
        return user_id


flow = Batchflow()
flow.add(Quick())
flow.add(Stuck())


@flow.serve("/hooked")
async def hooked(ctx: WorkflowContext[None]) -> str:
    """Returns the request to its webhook."""
    webhook = await ctx.create_webhook("make")
    await ctx.run("give away", (BEGUN / "url").write_text, webhook.url)
    return (await ctx.wait_for_webhook("request", webhook)).data.text


app = FastAPI(lifespan=flow.lifespan)
app.include_router(flow.router, prefix="/api")
