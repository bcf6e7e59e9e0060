"""A step of a workflow goes by its own name and by its hook's, in what a test writes and in what it reads."""

from collections.abc import AsyncGenerator

import pytest

from batchflow import Batchflow, BatchSummary, BatchWorkflow, NonRetryable, NoParams, Page, WorkflowContext
from batchflow.errors import HOOK_STEPS, NotFoundError, StepFailed, hook_name, hook_step
from batchflow.testing import Environment, FlowEnv, Unanswered, Unused

CALLED: list[str] = []


class Reviews(BatchWorkflow[NoParams, str, str]):
    """All hooks with an effect."""

    entry_flow = paginate_flow = execute_flow = None

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(["r1", "r2"])

    async def load(self, item_id: str) -> str:
        CALLED.append("load")
        return item_id

    async def execute(self, item: str) -> str:
        CALLED.append("execute")
        raise NonRetryable("no model here")

    async def save(self, item_id: str, result: str) -> None:
        CALLED.append("save")

    async def on_complete(self, summary: BatchSummary) -> None:
        CALLED.append("on_complete")


flow = Batchflow("sqlite://")
reviews = flow.add(Reviews())


@flow.serve("/ask")
async def ask(ctx: WorkflowContext[str]) -> str:
    return await ctx.run("answer", str.upper, ctx.payload)


@flow.batch
def sync_block(item_id: str) -> str:
    return item_id


@pytest.fixture
async def env(flow_env: FlowEnv) -> AsyncGenerator[Environment]:
    CALLED.clear()
    async with flow_env(flow) as made:
        yield made


def test_each_hook_has_one_step() -> None:
    """There and back; other names stay as they are."""
    for hook, step in HOOK_STEPS.items():
        assert (hook_step(f"a:b:{hook}"), hook_name(f"a:b:{step}")) == (f"a:b:{step}", f"a:b:{hook}")
    assert (hook_step("execute"), hook_step("reviews:send"), hook_name("send")) == ("execute", "reviews:send", "send")


async def test_a_stub_names_a_hook(env: Environment) -> None:
    """As well as its step; the records have the steps' names."""
    env.answer("reviews:execute", "good")
    env.fail("reviews:get-item", OSError("away"))
    batch = await env.run(reviews)
    assert batch.results == {"r1": "good", "r2": "good"}
    env.assert_ran("reviews:execute", times=2)
    env.assert_ran("reviews:load", times=3)
    env.assert_not_ran("reviews:count")
    item = next(run for run in env.runs if run.item == "r1")
    assert item.step("reviews:save").name == "reviews:save-result"
    env.assert_steps(item, ["reviews:load", "reviews:process-item", "reviews:save"])
    assert "reviews:process-item (execute)" in str(env)


async def test_a_crash_names_a_hook(env: Environment) -> None:
    env.answer("reviews:process-item", "good")
    env.crash_after("reviews:load")
    batch = await env.run(reviews)
    assert batch.summary.counts.succeeded == 2


def test_an_error_names_the_hook_beside_the_step() -> None:
    error = StepFailed("reviews:process-item", "no model here", attempts=1)
    assert "step 'reviews:process-item' (execute) failed" in str(error)
    assert "step 'ask' failed" in str(StepFailed("ask", "why", attempts=1))


async def test_a_slip_is_answered_in_the_word_that_was_written(flow_env: FlowEnv) -> None:
    """The hook for a hook, the step for a step."""
    for written, meant in (("reviews:exceute", "reviews:execute"), ("reviews:proces-item", "reviews:process-item")):
        with pytest.raises(Unused, match=f"no step '{written}' was requested; did you mean '{meant}'"):
            async with flow_env(flow) as env:
                env.answer(written, "good")
                await env.run(reviews)


async def test_strict_wants_an_answer_for_every_step_with_effects(flow_env: FlowEnv) -> None:
    """None of the app's code executes but what reads the pages; each step is named once, with what to write."""
    CALLED.clear()
    async with flow_env(flow, strict=True) as env:
        with pytest.raises(Unanswered) as caught:
            await env.run(reviews)
        said = "step 'reviews:get-item' (load) has no answer; write env.answer('reviews:load', …), or leave strict out"
        assert str(caught.value).splitlines().count(said) == 1
        assert "env.answer('reviews:on_complete', …)" in str(caught.value)
        env.answer("reviews:load", "text")
        env.answer("reviews:execute", "good")
        env.answer("reviews:save", None)
        env.answer("reviews:on_complete", None)
        batch = await env.run(reviews)
        batch.assert_completed()
        with pytest.raises(Unanswered, match=r"step 'answer' has no answer; write env.answer\('answer', …\)"):
            await env.run(ask, "why")
    assert CALLED == []


@pytest.mark.parametrize("name", ["sync-block", "sync_block", "SyncBlock"])
def test_a_workflow_is_found_as_it_is_written(name: str) -> None:
    """With its own name, or that of its function or class."""
    assert flow.find_workflow(name) is sync_block


def test_a_workflow_that_there_is_not_suggests_one() -> None:
    with pytest.raises(NotFoundError, match="there is no workflow 'sink-block'; did you mean 'sync-block'"):
        flow.find_workflow("sink-block")
