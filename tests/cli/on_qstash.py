"""A QStash of ours, and an app that it calls, on an event loop in a thread: for commands that run beside them."""

import asyncio
import os
import threading
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import httpx
from fastapi import FastAPI

from batchflow import Batchflow
from tests.qstash.invocations import served

T = TypeVar("T")

PROGRAM = """
from pathlib import Path

from pydantic import BaseModel

from batchflow import Batchflow, FlowControl, NonRetryable, WorkflowContext

flow = Batchflow()


class Order(BaseModel):
    id: str


def check(id: str) -> str:
    if id.startswith("lost") and not Path("found").exists():
        raise NonRetryable(f"order '{id}' is nowhere")
    return id.upper()


@flow.serve("/orders/ship", retries=0, flow_control=FlowControl(parallelism=5))
async def ship(ctx: WorkflowContext[Order]) -> str:
    if ctx.payload.id.startswith("held"):
        await ctx.wait_for_event("release", f"release:{ctx.payload.id}")
    return await ctx.run("check", check, ctx.payload.id)


@flow.batch(ids=["scheduled"], flow=FlowControl(parallelism=10))
async def welcome(id: str) -> str:
    return check(id)
"""


class QStashScene:
    """A server with an account for `environment`, and the app of `PROGRAM`; `async with` opens both.

    The files are in `folder`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.environment: dict[str, str] = {}
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        qstash = Batchflow(f"sqlite:///{self._folder}/server.db")
        server = qstash.server
        url = await self._stack.enter_async_context(served(server))
        await self._stack.enter_async_context(qstash)
        token = await server.tokens.create("acme")
        self.environment = {"BATCHFLOW_URL": "qstash://", "QSTASH_URL": url, "QSTASH_TOKEN": token}
        async with self.console() as http:
            keys = (await http.get("/v2/keys")).json()
        app, store = FastAPI(), f"sqlite:///{self._folder}/batches.db"
        self.environment |= {
            "QSTASH_CURRENT_SIGNING_KEY": keys["current"],
            "QSTASH_NEXT_SIGNING_KEY": keys["next"],
            "BATCHFLOW_STORE": store,
            "APP_URL": await self._stack.enter_async_context(served(app)) + "/",
        }
        os.environ |= self.environment
        namespace: dict[str, Any] = {"__name__": "elsewhere"}
        exec(PROGRAM, namespace)
        self._flow: Batchflow = namespace["flow"]
        app.include_router(self._flow.router)
        await self._stack.enter_async_context(self._flow)

    async def close(self) -> None:
        await self._stack.aclose()

    def console(self) -> httpx.AsyncClient:
        """A client of the server with the token of the account."""
        headers = {"authorization": f"Bearer {self.environment['QSTASH_TOKEN']}"}
        return httpx.AsyncClient(base_url=self.environment["QSTASH_URL"], headers=headers)

    async def start_batch(self, ids: list[str], *, canary: int) -> str:
        """Start a batch that waits for approval after its canary; its id."""
        return (await self._flow.workflows["welcome"].trigger(ids=ids, canary=canary)).id

    async def start_elsewhere(self, url: str) -> str:
        """Start a run of a function of another app, which cannot be reached; its id."""
        async with self.console() as http:
            answer = await http.post(f"/v2/trigger/{url}", headers={"upstash-retries": "0"})
        return answer.json()["workflowRunId"]


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work` there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
