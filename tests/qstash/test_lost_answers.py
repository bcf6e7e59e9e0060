"""Lost requests and answers change nothing but the number of deliveries: no recorded step is executed again."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import httpx
import pytest

from batchflow import WorkflowContext
from batchflow.engine.push_client import PushError, PushRequest
from batchflow.engine.push_response import PushResponse
from tests.qstash.stage import APP_URL, WireStage

SEEDS = range(12)


class LossyClient:
    """Loses some requests before the app has them, and the answers of others; delivers others twice at once."""

    def __init__(self, inner: Any, random: Random) -> None:
        self.inner = inner
        self.random = random
        self.lost = 0

    async def send(self, request: PushRequest) -> PushResponse:
        chance = self.random.random()
        if chance < 0.1:
            self.lost += 1
            raise PushError("the app is away", status=503)
        if chance < 0.2:
            self.lost += 1
            await asyncio.gather(self.inner.send(request), self.inner.send(request))
            raise PushError("the answer is lost", status=503)
        return await self.inner.send(request)

    async def close(self) -> None:
        await self.inner.close()


class LossyTransport(httpx.AsyncBaseTransport):
    """Loses some answers of QStash to the app."""

    def __init__(self, inner: httpx.AsyncBaseTransport, random: Random) -> None:
        self.inner = inner
        self.random = random
        self.lost = 0
        self.loses = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self.inner.handle_async_request(request)
        if self.loses and self.random.random() < 0.1:
            self.lost += 1
            await response.aread()
            raise httpx.ReadError("the answer is lost")
        return response


@pytest.mark.parametrize("seed", SEEDS)
async def test_lost_and_doubled_deliveries_and_answers_change_nothing(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    random = Random(seed)
    calls: Counter[str] = Counter()
    seen: dict[str, set[str]] = {}
    stage = WireStage()
    lossy = stage.qstash.engine.push_client = LossyClient(stage.client, random)
    transport = stage.transport = LossyTransport(stage.transport, random)
    async with stage:

        async def api(request: PushRequest) -> PushResponse:
            return PushResponse(200, (("Content-Type", "text/plain"),), b"answer")

        stage.client.elsewhere = api

        def step(name: str) -> Callable[[], Awaitable[str]]:
            async def execute() -> str:
                calls[name] += 1
                await asyncio.sleep(0)
                return f"{name} {calls[name]}"

            return execute

        @stage.flow.serve("/story", retries=20, retry_delay="1s")
        async def story(ctx: WorkflowContext[None]) -> list[str]:
            async def branch(name: str) -> str:
                first = await ctx.run(f"{name}1", step(f"{name}1"))
                await ctx.sleep(f"{name} sleeps", "5s")
                second = await ctx.run(f"{name}2", step(f"{name}2"))
                seen.setdefault(f"{name}1", set()).add(first)
                seen.setdefault(f"{name}2", set()).add(second)
                return f"{name}1 {name}2"

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(branch(name)) for name in ("a", "b", "c")]
            answer = await ctx.call("call", "https://api.test/x", retries=5)
            await ctx.first(ctx.wait_for_event("never", "never", timeout="1d"), ctx.sleep("nap", "10s"))
            last = await ctx.run("last", step("last"))
            seen.setdefault("last", set()).add(last)
            return [*(it.result() for it in tasks), answer.text, "last"]

        await stage.open()
        run = await story.trigger(None)
        transport.loses = True
        await stage.drive()
        transport.loses = False
        status = await run.status()
        assert (status.state, await run.wait()) == ("completed", ["a1 a2", "b1 b2", "c1 c2", "answer", "last"])
        assert all(len(values) == 1 for values in seen.values()), "every delivery sees the result that was recorded"
        # A doubled delivery may execute its step twice, and each loss costs one execution at most.
        assert sum(calls.values()) <= len(calls) + 2 * lossy.lost + transport.lost
