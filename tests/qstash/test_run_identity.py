"""A run that has ended does nothing to a later run with its id."""

from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from batchflow import WorkflowContext
from tests.qstash.invoking_programs import Wire
from tests.qstash.stage import APP_URL, WireStage


@pytest.fixture(params=["sqlite", "fakeredis"])
async def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage(request.param) as stage:
        yield stage


async def in_a_step(ctx: WorkflowContext[str], replace: Callable[[], Awaitable[None]]) -> str:
    async def pay() -> str:
        await replace()
        return ctx.payload

    paid = await ctx.run("pay", pay)
    await ctx.sleep("a while", "1h")
    return paid


async def in_a_branch(ctx: WorkflowContext[str], replace: Callable[[], Awaitable[None]]) -> str:
    return (await ctx.first(in_a_step(ctx, replace), ctx.sleep("limit", "1d")))[1] or ""


async def at_the_end(ctx: WorkflowContext[str], replace: Callable[[], Awaitable[None]]) -> str:
    await replace()
    return ctx.payload


async def before_a_sleep(ctx: WorkflowContext[str], replace: Callable[[], Awaitable[None]]) -> str:
    await replace()
    await ctx.sleep("a while", "1h")
    return ctx.payload


async def before_a_wait(ctx: WorkflowContext[str], replace: Callable[[], Awaitable[None]]) -> str:
    await replace()
    await ctx.wait_for_event(f"wait {ctx.payload}", "never", timeout="1h")
    return ctx.payload


async def before_it_cancels_itself(ctx: WorkflowContext[str], replace: Callable[[], Awaitable[None]]) -> str:
    await replace()
    if ctx.payload == "old":
        ctx.cancel()
    return ctx.payload


@pytest.mark.parametrize(
    "program", [in_a_step, in_a_branch, at_the_end, before_a_sleep, before_a_wait, before_it_cancels_itself]
)
async def test_a_run_that_was_cancelled_and_replaced_changes_nothing_of_the_later_run_with_its_id(
    stage: WireStage, program: Callable[[WorkflowContext[str], Callable[[], Awaitable[None]]], Awaitable[str]]
) -> None:
    replaced: list[str] = []

    @stage.flow.serve("/orders")
    async def orders(ctx: WorkflowContext[str]) -> str:
        async def replace() -> None:
            if ctx.payload == "old" and not replaced:
                replaced.append(ctx.payload)
                await run.cancel()
                stage.clock.advance(1)
                await orders.trigger("new", dedup_id="order-1", dedup="open")

        return await program(ctx, replace)

    await stage.open()
    run = await orders.trigger("old", dedup_id="order-1", dedup="open")
    await stage.drive()
    assert replaced
    status = await run.status()
    assert (status.state, status.result, status.error) == ("completed", '"new"', None)
    assert set(stage.client.answers) == {200}, "the deliveries of the earlier run end without a failure"


async def test_a_run_of_which_a_request_says_that_it_has_ended_sends_nothing_more(stage: WireStage) -> None:
    wire = Wire(stage)

    @stage.flow.serve("/orders")
    async def orders(ctx: WorkflowContext[None]) -> None:
        async def pay() -> None:
            await run.cancel()
            wire.requests.clear()

        await ctx.run("pay", pay)

    await stage.open()
    run = await orders.trigger(None, run_id="order-1")
    await stage.drive()
    outcome, goes_on = "POST /v2/batch", "GET /v2/workflows/runs/wfr_order-1"
    assert wire.requests == [outcome, goes_on]


class Requests(Wire):
    """Keeps the requests to QStash with their headers and bodies."""

    def __init__(self, stage: WireStage) -> None:
        super().__init__(stage)
        self.kept: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.kept.append(request)
        return await super().handle_async_request(request)


async def test_every_request_of_a_run_says_when_the_run_began(stage: WireStage) -> None:
    wire = Requests(stage)

    @stage.flow.serve("/child")
    async def child(ctx: WorkflowContext[int]) -> int:
        return ctx.payload

    @stage.flow.serve("/orders")
    async def orders(ctx: WorkflowContext[int]) -> int:
        async def pay() -> int:
            return 1

        await ctx.run("pay", pay)
        await ctx.sleep("a while", "1h")
        await ctx.first(ctx.wait_for_event("wait", "never", timeout="1h"), ctx.sleep("two", "2h"))
        await ctx.call("call", f"{APP_URL}/nowhere", retries=0)
        return await ctx.invoke("child", child, 7)

    await stage.open()
    begun = stage.clock.now()
    run = await orders.trigger(1)
    wire.kept.clear()
    stage.clock.advance(1)
    await stage.drive()
    assert (await run.status()).result == "7"
    told = [f"{it.method} {it.url.path} {it.headers} {it.content.decode()}" for it in wire.kept if it.method != "GET"]
    end = f"DELETE /v2/workflows/runs/wfr_{run.id}"
    of_run = [it for it in told if run.id in it and not it.startswith(f"{end}.")]
    assert len(of_run) == 8
    assert of_run[-1].startswith(f"{end} ")
    assert [it for it in of_run if str(begun) not in it] == []


async def test_no_run_is_found_as_running_and_qstash_is_not_asked_for_any(stage: WireStage) -> None:
    wire = Wire(stage)

    @stage.flow.serve("/orders")
    async def orders(ctx: WorkflowContext[None]) -> None:
        await ctx.wait_for_event("wait", "never")

    await stage.open()
    await orders.trigger(None)
    wire.requests.clear()
    assert not (await stage.flow.runs(state="running")).runs
    assert not wire.requests
    assert len((await stage.flow.runs(state="waiting")).runs) == 1


async def test_the_runs_of_another_app_of_the_account_are_none_of_a_function_with_the_same_route(
    stage: WireStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def orders(ctx: WorkflowContext[None]) -> None:
        await ctx.wait_for_event("wait", "never")

    function = stage.flow.serve("/orders")(orders)
    await stage.open()
    own = await function.trigger(None, run_id="own")
    monkeypatch.setenv("APP_URL", "https://preview.example.com/")
    preview = stage.again()
    async with preview:
        other = await preview.serve("/orders")(orders).trigger(None, run_id="other")
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    assert [it.id for it in (await stage.flow.runs(function=function)).runs] == [own.id]
    found = {it.id: it.destination for it in (await stage.flow.runs()).runs}
    assert found == {own.id: "/orders", other.id: "https://preview.example.com/orders"}
