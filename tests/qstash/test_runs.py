"""Runs of served functions on a QStash of ours, step by step."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from batchflow import NonRetryable, RunFailure, StepFailed, WorkflowContext
from batchflow.engine.push_client import PushRequest
from batchflow.engine.push_response import PushResponse
from tests.qstash.stage import APP_URL, WireStage


@pytest.fixture(params=["sqlite", "fakeredis"])
async def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage(request.param) as stage:
        yield stage


async def test_a_run_executes_each_step_once_in_a_request_of_its_own(stage: WireStage) -> None:
    calls: list[str] = []

    @stage.flow.serve("/onboarding")
    async def onboarding(ctx: WorkflowContext[str]) -> str:
        async def greet() -> str:
            calls.append("greet")
            return f"hello {ctx.payload}"

        async def remind() -> str:
            calls.append("remind")
            return "reminded"

        greeting = await ctx.run("greet", greet)
        await ctx.sleep("three days", "3d")
        return f"{greeting}, {await ctx.run('remind', remind)}"

    await stage.open()
    begun = stage.clock.now()
    run = await onboarding.trigger("ada")
    await stage.drive()
    assert calls == ["greet", "remind"]
    assert stage.client.answers == [200] * 4
    assert stage.clock.now() - begun >= 3 * 86_400_000
    status = await run.status()
    assert (status.state, status.result, status.destination) == ("completed", '"hello ada, reminded"', "/onboarding")
    assert [(it.name, it.kind, it.state) for it in status.steps] == [
        ("greet", "run", "done"),
        ("three days", "sleep", "done"),
        ("remind", "run", "done"),
    ]
    assert await run.wait() == "hello ada, reminded"


async def test_branches_execute_their_steps_in_requests_of_their_own_and_go_on_alone(stage: WireStage) -> None:
    calls: list[str] = []

    async def step(name: str) -> str:
        calls.append(name)
        return name

    async def branch(ctx: WorkflowContext[None], name: str, pause: str) -> str:
        first = await ctx.run(f"{name}1", step, f"{name}1")
        await ctx.sleep(f"{name} sleeps", pause)
        return first + await ctx.run(f"{name}2", step, f"{name}2")

    @stage.flow.serve("/branches")
    async def branches(ctx: WorkflowContext[None]) -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(branch(ctx, *it)) for it in (("slow", "1h"), ("fast", "1m"))]
        return [it.result() for it in tasks]

    await stage.open()
    run = await branches.trigger(None)
    await stage.drive()
    assert sorted(calls) == ["fast1", "fast2", "slow1", "slow2"]
    assert calls.index("fast2") < calls.index("slow2")
    assert await run.wait() == ["slow1slow2", "fast1fast2"]


async def test_the_first_of_two_waits_wins_at_its_time(stage: WireStage) -> None:
    @stage.flow.serve("/race")
    async def race(ctx: WorkflowContext[None]) -> str:
        index, _ = await ctx.first(ctx.wait_for_event("paid", "paid", timeout="30d"), ctx.sleep("three days", "3d"))
        await ctx.sleep("one more", "10d")
        return "paid" if index == 0 else "late"

    await stage.open()
    late, paid = await race.trigger(None), await race.trigger(None)
    await stage.drive(ms=86_400_000)
    assert await stage.flow.notify("paid", {"by": "ada"}, paid.id) == [paid.id]
    await stage.drive(ms=86_400_000)
    # The event comes after the wait was withdrawn: it must not end the sleep that has begun since.
    await stage.drive(ms=2 * 86_400_000)
    await stage.flow.notify("paid", None)
    await stage.drive(ms=86_400_000)
    assert (await late.status()).state == "waiting"
    await stage.drive()
    assert (await paid.wait(), await late.wait()) == ("paid", "late")


async def test_a_failing_step_is_tried_again_by_its_policy_and_its_failure_can_be_caught(stage: WireStage) -> None:
    calls: list[int] = []

    @stage.flow.serve("/retries", retries=2, retry_delay="10s")
    async def retries(ctx: WorkflowContext[None]) -> str:
        async def fails() -> None:
            calls.append(stage.clock.now())
            raise ConnectionError("down")

        try:
            await ctx.run("fails", fails)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "done"

    await stage.open()
    run = await retries.trigger(None)
    await stage.drive()
    assert len(calls) == 3
    assert [later - earlier for earlier, later in itertools.pairwise(calls)] == [10_000, 10_000]
    assert (await run.wait()).startswith("StepFailed")


async def test_a_failed_run_calls_its_failure_function_once(stage: WireStage) -> None:
    failures: list[RunFailure[str]] = []

    async def report(failure: RunFailure[str]) -> str:
        failures.append(failure)
        return "reported"

    @stage.flow.serve("/fails", failure_function=report)
    async def fails(ctx: WorkflowContext[str]) -> None:
        async def step() -> None:
            raise NonRetryable("no such user")

        await ctx.run("step", step)

    await stage.open()
    run = await fails.trigger("ada", headers={"x-user": "ada"})
    await stage.drive()
    assert (await run.status()).state == "failed"
    (failure,) = failures
    assert (failure.run_id, failure.payload) == (run.id, "ada")
    assert "no such user" in failure.response


async def test_a_call_is_made_by_qstash_and_its_answer_is_the_result(stage: WireStage) -> None:
    asked: list[PushRequest] = []

    async def api(request: PushRequest) -> PushResponse:
        asked.append(request)
        return PushResponse(201, (("Content-Type", "application/json"),), b'{"text":"hi"}')

    stage.client.elsewhere = api

    @stage.flow.serve("/ask")
    async def ask(ctx: WorkflowContext[None]) -> str:
        answer = await ctx.call("ask", "https://api.example.com/ask", body={"q": 1}, headers={"authorization": "x"})
        return f"{answer.status} {answer.body['text']}"

    await stage.open()
    run = await ask.trigger(None)
    await stage.drive()
    assert await run.wait() == "201 hi"
    (request,) = asked
    assert (request.method, request.body) == ("POST", b'{"q":1}')
    assert dict(request.headers)["authorization"] == "x"


async def test_a_run_invokes_another_function_and_gets_its_result(stage: WireStage) -> None:
    @stage.flow.serve("/child")
    async def child(ctx: WorkflowContext[int]) -> int:
        await ctx.sleep("pause", "1h")
        return ctx.payload * 2

    @stage.flow.serve("/parent")
    async def parent(ctx: WorkflowContext[None]) -> int:
        return await ctx.invoke("child", child, 21) + 0

    await stage.open()
    run = await parent.trigger(None)
    await stage.drive()
    assert await run.wait() == 42


async def test_a_webhook_of_a_run_is_answered_by_qstash(stage: WireStage) -> None:
    urls: list[str] = []

    @stage.flow.serve("/hook")
    async def hook(ctx: WorkflowContext[None]) -> str:
        webhook = await ctx.create_webhook("hook")

        async def send() -> None:
            urls.append(webhook.url)

        await ctx.run("send", send)
        result = await ctx.wait_for_webhook("wait", webhook, timeout="1d")
        return f"{result.data.method} {result.data.query} {result.data.json()}"

    await stage.open()
    run = await hook.trigger(None)
    await stage.drive(ms=60_000)
    import httpx

    async with httpx.AsyncClient(transport=httpx.ASGITransport(stage.server)) as http:
        assert (await http.put(f"{urls[0]}?a=1", json={"b": 2})).status_code == 200
    await stage.drive()
    assert await run.wait() == "PUT a=1 {'b': 2}"


async def test_a_cancelled_run_executes_nothing_more(stage: WireStage) -> None:
    calls: list[str] = []

    @stage.flow.serve("/cancelled")
    async def cancelled(ctx: WorkflowContext[None]) -> None:
        await ctx.sleep("pause", "1h")

        async def step() -> None:
            calls.append("step")

        await ctx.run("step", step)

    await stage.open()
    run = await cancelled.trigger(None)
    await stage.drive(ms=60_000)
    assert await run.cancel()
    assert not await run.cancel()
    await stage.drive()
    assert not calls
    assert (await run.status()).state == "cancelled"


async def test_cancelling_no_run_cancels_none(stage: WireStage) -> None:
    """QStash takes a request without a filter for all runs."""

    @stage.flow.serve("/kept")
    async def kept(ctx: WorkflowContext[None]) -> None:
        await ctx.sleep("pause", "1h")

    await stage.open()
    run = await kept.trigger(None)
    assert await stage.flow.cancel(["bat_unknown"]) == 0
    await stage.drive()
    assert (await run.status()).state == "completed"


async def test_a_trigger_may_set_other_retries_than_its_function(stage: WireStage) -> None:
    calls: list[int] = []

    @stage.flow.serve("/other", retries=3, retry_delay="1s")
    async def other(ctx: WorkflowContext[None]) -> str:
        async def fails() -> None:
            calls.append(1)
            raise ConnectionError("down")

        try:
            await ctx.run("fails", fails)
        except StepFailed:
            return "handled"
        return "done"

    await stage.open()
    for retries in (0, 5):
        calls.clear()
        run = await other.trigger(None, retries=retries)
        await stage.drive()
        assert (len(calls), (await run.status()).result) == (retries + 1, '"handled"')


async def test_what_qstash_refuses_fails_the_run_with_its_reason(stage: WireStage) -> None:
    """QStash answers 400 then, as it does for a run that has ended."""

    @stage.flow.serve("/refused", retries=0)
    async def refused(ctx: WorkflowContext[None]) -> None:
        await ctx.call("ask", "https://api.example.com/ask", headers={"x" * 300: "1"})

    await stage.open()
    run = await refused.trigger(None)
    await stage.drive()
    status = await run.status()
    assert status.state == "failed"
    assert "is not the name of a header" in (status.error or "")
