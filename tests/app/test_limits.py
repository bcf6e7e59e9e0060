"""Payloads, results and what comes from outside have a limit, which is kept where they are made."""

import base64
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from batchflow import Batchflow, BatchWorkflow, NoParams, Page, WorkflowContext
from batchflow.core.call import CallRequest
from batchflow.errors import TooLarge
from batchflow.testing import Environment

LIMIT = 2_048
OVER = "x" * LIMIT


def told(what: str, size: int = LIMIT + 2) -> str:
    """The sentence; a string has two quotes."""
    return (
        f"{what}: {size:,} bytes are more than BATCHFLOW_MAX_VALUE allows ({LIMIT:,}); "
        "store it elsewhere and pass a reference on, or raise the setting"
    )


def by_step(step: str, why: str) -> str:
    return f"StepFailed: step '{step}' failed after 1 attempt: TooLarge: {why}"


def sentence(error: str | None) -> str:
    """An error without its traceback."""
    return (error or "").partition("\n")[0]


class Params(BaseModel):
    note: str = ""


class Work(BatchWorkflow[Params, str, str]):
    """`load` and `execute` give what an item's id says."""

    name = "work"
    entity = "item"
    entry_flow = paginate_flow = execute_flow = None
    page_size = 500

    async def fetch(self, params: Params, cursor: str | None, limit: int) -> Page:
        return Page([f"{number:020}" for number in range(300)])

    async def load(self, item_id: str) -> str:
        return OVER if item_id == "large" else item_id

    async def execute(self, item: str) -> str:
        return OVER if item == "grows" else "x" * (LIMIT - 2)


class Joining(BatchWorkflow[NoParams, str, str]):
    """Makes a result of two steps that is larger than each."""

    name = "joining"
    entity = "item"
    entry_flow = paginate_flow = execute_flow = None

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(["a"])

    async def execute(self, item: str) -> str:
        return item

    async def process(self, ctx: WorkflowContext[NoParams], item: str) -> str:
        return await ctx.run("half", lambda: OVER[:1_500]) * 2


class App:
    """Functions that are as large as their payload says, in one place or another."""

    def __init__(self) -> None:
        self.flow = flow = Batchflow("sqlite://", worker=False)
        self.work, self.joining = flow.add(Work()), flow.add(Joining())
        self.attempts = 0

        @flow.serve("/step")
        async def step(ctx: WorkflowContext[int]) -> int:
            return len(await ctx.run("make", self.make, ctx.payload))

        @flow.serve("/result")
        async def result(ctx: WorkflowContext[int]) -> str:
            return self.make(ctx.payload)

        @flow.serve("/child")
        async def child(ctx: WorkflowContext[str]) -> int:
            return len(ctx.payload)

        @flow.serve("/parent")
        async def parent(ctx: WorkflowContext[int]) -> int:
            return await ctx.invoke("ask", child, "x" * ctx.payload)

        @flow.serve("/notify")
        async def notify(ctx: WorkflowContext[int]) -> None:
            await ctx.notify("tell", "news", "x" * ctx.payload)

        @flow.serve("/call")
        async def call(ctx: WorkflowContext[int]) -> int:
            body = "x" * ctx.payload if ctx.payload else None
            return len((await ctx.call("ask", "https://api.test/x", body=body)).content)

        self.step, self.result, self.child, self.parent = step, result, child, parent
        self.notify, self.call = notify, call

    def make(self, size: int) -> str:
        self.attempts += 1
        return "x" * size


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> App:
    """With a small limit."""
    monkeypatch.setenv("BATCHFLOW_MAX_VALUE", str(LIMIT))
    return App()


async def test_a_payload_over_the_limit_is_refused_by_the_trigger(app: App) -> None:
    """Nothing is started, of several not even those that are small enough; one that is just as large is fine."""
    async with Environment(app.flow) as env:
        for payloads in ([OVER], ["a", OVER]):
            with pytest.raises(TooLarge) as caught:
                await app.flow.trigger_many(app.child, payloads)
            assert str(caught.value) == told("the payload of '/child'")
        assert (await app.flow.runs()).runs == []
        assert (await env.run(app.child, OVER[2:])).result == LIMIT - 2


async def test_parameters_over_the_limit_are_refused_by_the_trigger(app: App) -> None:
    """No batch is opened. The ids that a trigger names are not a value, and may be as many as they like."""
    async with Environment(app.flow) as env:
        with pytest.raises(TooLarge) as caught:
            await app.work.trigger(Params(note=OVER))
        assert str(caught.value) == told("the parameters of 'work'", LIMIT + len('{"note":""}'))
        assert await app.work.batches() == []
        ids = [f"item-{number:05}" for number in range(1_000)]
        assert (await env.run(app.work, Params(), ids=ids)).summary.counts.succeeded == 1_000


async def test_a_result_of_a_step_over_the_limit_fails_it_at_once(app: App) -> None:
    """Another attempt would give the same."""
    async with Environment(app.flow) as env:
        run = await env.run(app.step, LIMIT - 1)
        assert run.state == "failed"
        assert sentence(run.error) == by_step("make", told("step 'make'", LIMIT + 1))
        assert app.attempts == 1
        assert (await env.run(app.step, LIMIT - 2)).result == LIMIT - 2


async def test_a_result_of_a_function_over_the_limit_fails_the_run_at_once(app: App) -> None:
    """The function is not called again."""
    async with Environment(app.flow) as env:
        run = await env.run(app.result, LIMIT)
        assert (run.state, app.attempts) == ("failed", 1)
        assert sentence(run.error) == "TooLarge: " + told("the result of 'result'")


async def test_a_payload_of_a_child_over_the_limit_fails_its_parent(app: App) -> None:
    """And so does what is sent with an event, by a run or from outside."""
    async with Environment(app.flow) as env:
        run = await env.run(app.parent, LIMIT)
        assert sentence(run.error) == "TooLarge: " + told("the payload of '/child'")
        run = await env.run(app.notify, LIMIT)
        assert sentence(run.error) == "TooLarge: " + told("the data of event 'news'")
        with pytest.raises(TooLarge) as caught:
            await env.notify("news", OVER)
        assert str(caught.value) == told("the data of event 'news'")


async def test_a_call_with_too_large_a_request_is_not_made(app: App) -> None:
    """Its step fails when it is asked for."""
    async with Environment(app.flow) as env:
        env.answer_call("ask", body="hello")
        run = await env.run(app.call, LIMIT)
        assert run.state == "failed"
        assert (run.error or "").startswith("TooLarge: the request of call 'ask': ")
        assert (await env.run(app.call, 10)).result == 5


@pytest.mark.parametrize("times", [1, 3])
async def test_a_call_with_too_large_an_answer_fails_its_step(app: App, times: int) -> None:
    """By what is stored of it: bytes that are not text take a third more."""
    large = bytes([255]) * (LIMIT * times - 400)

    def answer(_: CallRequest) -> bytes:
        return large

    async with Environment(app.flow) as env:
        env.answer_call("ask", body=answer)
        run = await env.run(app.call, 0)
        assert run.state == "failed"
        start = "StepFailed: step 'ask' failed after 1 attempt: the answer of call 'ask' (https://api.test/x): "
        assert (run.error or "").startswith(start)
        size = int((run.error or "").removeprefix(start).partition(" bytes")[0].replace(",", ""))
        assert len(base64.b64encode(large)) < size < len(base64.b64encode(large)) + 200


async def test_an_item_over_the_limit_fails_alone(app: App) -> None:
    """Whichever step it is that gives too much. Pages of ids are not a value: their sizes bound them."""
    async with Environment(app.flow) as env:
        batch = await env.run(app.work, Params(), ids=["large", "grows", "fine"])
        items = {item.id: item async for item in batch.handle.items()}
        assert {id: item.state for id, item in items.items()} == {
            "large": "failed",
            "grows": "failed",
            "fine": "succeeded",
        }
        for id, step in (("large", "'work:get-item' (load)"), ("grows", "'work:process-item' (execute)")):
            assert sentence(items[id].error) == "TooLarge: " + told(f"step {step}")
        assert (await env.run(app.work, Params())).summary.counts.succeeded == 300


async def test_a_result_that_an_items_steps_add_up_to_is_held_to_the_limit(app: App) -> None:
    """The sentence names workflow and item."""
    async with Environment(app.flow) as env:
        batch = await env.run(app.joining, NoParams())
        (item,) = [item async for item in batch.handle.items()]
        assert sentence(item.error) == "TooLarge: " + told("the result of item 'a' of 'joining'", 3_002)


async def test_a_value_that_was_stored_under_a_higher_limit_is_read(
    app: App, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run goes on whose journal is larger than what is allowed now."""
    monkeypatch.setenv("BATCHFLOW_MAX_VALUE", "4096")
    url = f"sqlite:///{tmp_path}/batchflow.db"

    async def grow(ctx: WorkflowContext[None]) -> int:
        made = await ctx.run("make", lambda: OVER)
        await ctx.sleep("nap", "1h")
        return len(made)

    before, after = Batchflow("sqlite://", worker=False), app.flow
    first, second = before.serve("/grow")(grow), after.serve("/grow")(grow)
    async with Environment(before, store=url) as env:
        run = await env.trigger(first, None)
        await env.advance("1s")
    async with Environment(after, store=url) as env:
        await env.advance("2h")
        assert await after.run(run.id).wait(timeout=5) == LIMIT
        with pytest.raises(TooLarge):
            await app.child.trigger(OVER)
    assert second.endpoint.limit.max_bytes == LIMIT


async def test_a_body_over_http_may_have_what_a_value_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it is said otherwise; a payload that is too large all the same is 413, too."""
    monkeypatch.setenv("BATCHFLOW_MAX_VALUE", "2000000")
    assert (await posted("x" * 1_900_000)).status_code == 202
    assert (await posted("x" * 2_000_000)).status_code == 413
    monkeypatch.setenv("BATCHFLOW_MAX_VALUE", str(LIMIT))
    monkeypatch.setenv("BATCHFLOW_MAX_BODY", "100000")
    answer = await posted(OVER)
    assert (answer.status_code, answer.json()["error"]) == (413, told("the payload of '/child'"))


async def posted(body: str) -> httpx.Response:
    app, asgi = App(), FastAPI()
    asgi.include_router(app.flow.router)
    async with app.flow, httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url="http://test") as http:
        return await http.post("/child", json=body)
