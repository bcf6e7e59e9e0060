"""Lost requests and answers change nothing but the number of deliveries: no recorded step is executed again."""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from random import Random

import httpx
import pytest

from batchflow import WorkflowContext
from batchflow.engine.push_client import PushError, PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.errors import StoreUnavailable
from tests.qstash.losses import LossyClient, LossyTransport
from tests.qstash.stage import APP_URL, WireStage
from tests.stores.kinds import Kind

SEEDS = range(12)


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


@pytest.mark.parametrize("lost", [PushError("no answer"), StoreUnavailable("the server is dead")])
@pytest.mark.parametrize("kind", ["sqlite", "fakeredis"])
async def test_a_recorded_step_is_not_executed_again_though_the_answer_of_its_delivery_is_lost(
    kind: Kind, lost: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all first deliveries; it makes no difference whether the failure is counted, or the server dies with it."""
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    calls, known = Counter[str](), set[str]()

    async def step(name: str) -> str:
        calls[name] += 1
        return name

    def lose(request: PushRequest, response: PushResponse) -> PushResponse:
        id = dict(request.headers)["Upstash-Message-Id"]
        if id in known:
            return response
        known.add(id)
        raise lost

    async with WireStage(kind) as stage:

        @stage.flow.serve("/steps", retries=1)
        async def steps(ctx: WorkflowContext[None]) -> str:
            async def branch(name: str) -> None:
                await ctx.run(name, step, name)
                await ctx.sleep(f"{name} sleeps", "1h")

            await branch("first")
            async with asyncio.TaskGroup() as group:
                group.create_task(branch("left"))
                group.create_task(branch("right"))
            await branch("last")
            return "done"

        await stage.open()
        stage.client.after = lose
        run = await steps.trigger(None)
        await stage.drive()
        assert await run.wait() == "done"
    assert set(stage.client.answers) == {200}
    assert calls == {"first": 1, "left": 1, "right": 1, "last": 1}


@pytest.mark.parametrize("kind", ["sqlite", "fakeredis"])
async def test_a_third_party_is_called_once_though_the_answer_to_the_submission_of_the_call_is_lost(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    called: list[str] = []
    lost: list[str] = []
    repeated = defaultdict[str, asyncio.Event](asyncio.Event)

    async def api(request: PushRequest) -> PushResponse:
        called.append(request.url)
        # Until the submission comes again.
        async with asyncio.timeout(30):
            await repeated[request.url].wait()
        return PushResponse(200, (), b"answer")

    class Losing(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await inner.handle_async_request(request)
            if b"toCallback" in request.content:
                (item,) = json.loads(request.content)
                if item["destination"] in lost:
                    repeated[item["destination"]].set()
                    return response
                lost.append(item["destination"])
                await response.aread()
                raise httpx.ReadError("the answer is lost")
            return response

    stage = WireStage(kind)
    inner, stage.transport = stage.transport, Losing()
    stage.client.elsewhere = api
    async with stage:

        @stage.flow.serve("/caller", retries=3, retry_delay="0 * retried")
        async def caller(ctx: WorkflowContext[None]) -> list[str]:
            first = await ctx.call("first", "https://api.test/first")
            async with asyncio.TaskGroup() as group:
                both = [group.create_task(ctx.call(it, f"https://api.test/{it}")) for it in ("left", "right")]
            return [first.text, *(it.result().text for it in both)]

        await stage.open()
        run = await caller.trigger(None)
        await stage.drive()
        assert await run.wait() == ["answer"] * 3
    assert sorted(lost) == sorted(called) == [f"https://api.test/{it}" for it in ("first", "left", "right")]
