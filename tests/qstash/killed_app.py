"""An app on QStash that a test kills: it writes down what it executes and what QStash has recorded of it.

It is an app of bad luck: some answers are lost, and some requests come twice at once.
"""

import asyncio
import json
import os
import time
from contextvars import ContextVar
from random import Random
from typing import Any

import httpx
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batchflow import Batchflow, QStash, WorkflowContext
from batchflow.wire.submissions import own_id
from tests.waiting import take_a_while

LOSSES = 0.1
_ARRIVED: ContextVar[int] = ContextVar("arrived")
_EVIDENCE = os.open(os.environ["EVIDENCE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_RANDOM = Random(os.getpid())


class Child(BaseModel):
    """The payload of a run that another one invokes."""

    parent: str
    number: int


def write(what: str, run: str, step: str, **more: int) -> None:
    """Write down that something has happened; a kill does not undo it."""
    line = {"what": what, "run": run, "step": step, "at": time.time_ns(), **more}
    os.write(_EVIDENCE, f"{json.dumps(line)}\n".encode())


class WritingTransport(httpx.AsyncHTTPTransport):
    """Writes down the executed steps that QStash has recorded."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if request.url.path == "/v2/batch" and response.is_success:
            for item in json.loads(request.content):
                match json.loads(item["body"] or "null"):
                    case {"stepId": int(number), "stepType": "Run", "stepName": str(name)} if number:
                        write("recorded", own_id(item["headers"]["upstash-workflow-runid"]), name)
                    case _:
                        pass
        return response


class BadLuck:
    """Loses some answers, and delivers some requests twice at once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _ARRIVED.set(time.time_ns())
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        chance = _RANDOM.random()
        others = [self._app({**scope, "state": {}}, _receiving(body), _ignore)] if chance < LOSSES else []
        is_lost = LOSSES <= chance < 2 * LOSSES
        await asyncio.gather(self._app(scope, _receiving(body), _ignore if is_lost else send), *others)
        if is_lost:
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b""})


def _receiving(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _ignore(message: Message) -> None:
    pass


flow = Batchflow(QStash(transport=WritingTransport(retries=0)))
OPTIONS: dict[str, Any] = {"retries": 20, "retry_delay": "1000 * (1 + retried)"}


async def step(ctx: WorkflowContext[Any], name: str) -> str:
    """A step that takes a while."""

    async def execute() -> str:
        write("executed", ctx.run_id, name, arrived=_ARRIVED.get())
        await take_a_while(0.03)
        return name

    return await ctx.run(name, execute)


@flow.serve("/sequence", **OPTIONS)
async def sequence(ctx: WorkflowContext[int]) -> str:
    """Steps and sleeps, one after the other."""
    done = [await step(ctx, f"step {number}") for number in range(4)]
    await ctx.sleep("sleep", 0.2)
    return f"{ctx.payload}: {', '.join([*done, await step(ctx, 'last')])}"


@flow.serve("/branches", **OPTIONS)
async def branches(ctx: WorkflowContext[int]) -> str:
    """Sequences at the same time."""

    async def branch(name: str) -> str:
        before = await step(ctx, f"{name} before")
        await ctx.sleep(f"{name} sleeps", 0.1)
        return f"{before}, {await step(ctx, f'{name} after')}"

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(branch(name)) for name in ("left", "right")]
    return f"{ctx.payload}: {', '.join([it.result() for it in tasks])}"


@flow.serve("/races", **OPTIONS)
async def races(ctx: WorkflowContext[int]) -> str:
    """What ends first, and what ends in time."""

    async def never() -> str:
        await ctx.wait_for_event("never", f"never {ctx.run_id}", timeout="1h")
        return "never"

    place, won = await ctx.first(never(), step(ctx, "won"))
    async with ctx.timeout("ample", "1h"):
        in_time = await step(ctx, "in time")
    try:
        async with ctx.timeout("tight", 1):
            await never_again(ctx)
    except TimeoutError:
        return f"{ctx.payload}: {place} {won}, {in_time}, {await step(ctx, 'too late')}"
    return "it has ended"


async def never_again(ctx: WorkflowContext[int]) -> None:
    """Waits for what does not come."""
    await ctx.wait_for_event("never again", f"never again {ctx.run_id}", timeout="1h")


@flow.serve("/child", **OPTIONS)
async def child(ctx: WorkflowContext[Child]) -> str:
    """Sends an event to the run that has invoked it."""
    await ctx.notify("tell", f"told {ctx.payload.parent}", ctx.payload.number, run_id=ctx.payload.parent)
    return await step(ctx, "child")


@flow.serve("/talk", **OPTIONS)
async def talk(ctx: WorkflowContext[int]) -> str:
    """Calls, invokes and waits for an event."""
    answer = await ctx.call(
        "call", f"{ctx.env['APP_URL']}hello", method="GET", retries=20, retry_delay="1000 * (1 + retried)"
    )
    async with asyncio.TaskGroup() as group:
        told = group.create_task(ctx.wait_for_event("told", f"told {ctx.run_id}", timeout="1h", data=int))
        invoked = group.create_task(ctx.invoke("invoke", child, Child(parent=ctx.run_id, number=ctx.payload)))
    return f"{ctx.payload}: {answer.text}, {told.result().data}, {invoked.result()}, {await step(ctx, 'last')}"


EXPECTED = {
    "sequence": "{0}: step 0, step 1, step 2, step 3, last",
    "branches": "{0}: left before, left after, right before, right after",
    "races": "{0}: 1 won, in time, too late",
    "talk": "{0}: hello, {0}, child, last",
}
PROGRAMS = {"sequence": sequence, "branches": branches, "races": races, "talk": talk}


def _app() -> ASGIApp:
    served = FastAPI(lifespan=flow.lifespan)
    served.include_router(flow.router)

    @served.get("/hello", response_class=PlainTextResponse)
    async def hello() -> str:
        return "hello"

    return BadLuck(served)


app = _app()
