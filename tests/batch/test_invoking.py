"""`ctx.invoke` of a batch: the options of a trigger, and many of them at once."""

from inspect import signature
from typing import Any

import pytest

from batchflow import Batchflow, BatchWorkflow, NoParams, Page, WorkflowContext
from batchflow.batch.bound import Workflow
from batchflow.errors import ChildFailed, ConfigurationError, InputError
from batchflow.serve.functions import ServedFunction
from batchflow.testing import Environment


class Topics(BatchWorkflow[NoParams, str, str]):
    """Entry and pages have the default limits."""

    entity = "topic"
    execute_flow = None

    def __init__(self) -> None:
        self.headers_seen: list[str | None] = []

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=["a", "b", "c"])

    async def execute(self, topic_id: str) -> str:
        self.headers_seen.append(self.headers.get("trace"))
        return topic_id


@pytest.fixture
def flow() -> Batchflow:
    return Batchflow("sqlite://")


@pytest.mark.parametrize(
    ("options", "succeeded"),
    [({}, 2), ({"ids": ["b", "x", 7]}, 3), ({"limit": 1}, 1), ({"force": True}, 3), ({"force": True, "limit": 2}, 2)],
)
@pytest.mark.parametrize("always_replay", [False, True])
async def test_a_child_batch_takes_ids_limit_and_force(
    flow: Batchflow, options: dict[str, Any], succeeded: int, always_replay: bool
) -> None:
    """As a trigger does."""
    topics = flow.add(Topics())

    @flow.serve("/parent")
    async def parent(ctx: WorkflowContext[None]) -> int:
        return (await ctx.invoke("topics", topics, NoParams(), **options)).counts.succeeded

    async with Environment(flow, always_replay=always_replay) as env:
        await topics.mark(["b"])
        assert (await env.run(parent, None)).result == succeeded


async def test_a_child_batch_takes_label_headers_and_times(flow: Batchflow) -> None:
    """Its label finds it, its items see the headers, and it starts when it is told to."""
    made = Topics()
    topics = flow.add(made)

    @flow.serve("/parent")
    async def parent(ctx: WorkflowContext[None]) -> int:
        ended = await ctx.invoke("t", topics, NoParams(), label="r1", headers={"trace": "7"}, delay="1h")
        return ended.duration_ms

    async with Environment(flow) as env:
        run = await env.trigger(parent, None)
        await env.advance("59m")
        (batch,) = await flow.engine.store.batches()
        assert (batch.state, batch.label) == ("pending", "r1")
        await env.drive()
        assert run.result >= 3_600_000
        assert made.headers_seen == ["7"] * 3


async def test_a_child_function_takes_a_delay(flow: Batchflow) -> None:
    """As its trigger does."""

    @flow.serve("/child")
    async def child(ctx: WorkflowContext[None]) -> str:
        return "done"

    @flow.serve("/parent")
    async def parent(ctx: WorkflowContext[None]) -> str:
        return await ctx.invoke("child", child, None, delay="1h")

    async with Environment(flow) as env:
        run = await env.trigger(parent, None)
        await env.advance("59m")
        assert run.state == "waiting"
        await env.drive()
        assert run.result == "done"


async def test_child_batches_are_not_held_up_by_the_rate_of_triggers(flow: Batchflow) -> None:
    """A hundred users whose topics are batches of their own do not start one a second."""
    flow_key = "topics.invoked"
    topics = flow.add(Topics())

    class Users(BatchWorkflow[NoParams, str, int]):
        entity = "user"
        page_size = chunk_size = 100
        execute_flow = None

        async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
            return Page(ids=[f"u{number}" for number in range(100)])

        async def process(self, ctx: WorkflowContext[NoParams], item: str) -> int:
            return (await ctx.invoke("topics", topics, NoParams(), ids=[f"{item}/t"])).counts.succeeded

    users = flow.add(Users())
    async with Environment(flow) as env:
        batch = await env.run(users)
        assert set(batch.results.values()) == {1}
        # What is left is the rate of the chunks that name the topics, five a second.
        assert batch.summary.duration_ms < 25_000
        assert await flow.engine.store.flows([flow_key]) != []


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("dedup_id", "ctx.invoke takes no option 'dedup_id': the id of a child is derived from its step, and"),
        ("dedup", "ctx.invoke takes no option 'dedup': the id of a child is derived from its step, and"),
        ("batch_id", "ctx.invoke takes no option 'batch_id': the id of a child is derived from its step, and"),
        ("retries", "'topics' takes no option 'retries': a batch's retries and limits are its class's"),
        ("lable", "ctx.invoke takes no option 'lable'; did you mean 'label'?"),
    ],
)
async def test_an_option_that_no_child_batch_takes_is_refused(flow: Batchflow, option: str, sentence: str) -> None:
    """In one sentence, and no child is started."""
    topics = flow.add(Topics())

    @flow.serve("/parent")
    async def parent(ctx: WorkflowContext[None]) -> str:
        options: Any = {option: 3}
        try:
            await ctx.invoke("topics", topics, NoParams(), **options)
        except ConfigurationError as error:
            return str(error)
        return ""

    async with Environment(flow) as env:
        assert (await env.run(parent, None)).result.startswith(sentence)
        assert await topics.batches() == []


def test_invoke_takes_the_options_of_a_trigger() -> None:
    """But for those that would name the child, have it wait for an operator, or tell its end to another."""
    context: Any = WorkflowContext
    taken = {*signature(context.invoke).parameters}
    naming = {"dedup_id", "dedup", "batch_id", "run_id", "canary", "approve_under", "notify_url"}
    owners: tuple[Any, ...] = (Workflow, ServedFunction)
    for trigger in [it.trigger for it in owners]:
        options = {name for name, it in signature(trigger).parameters.items() if it.kind == it.KEYWORD_ONLY}
        assert options - taken <= naming
        assert not taken & naming


async def test_a_child_batch_has_no_canary(flow: Batchflow) -> None:
    """The run would wait for an operator."""
    topics = flow.add(Topics())

    @flow.serve("/parent")
    async def parent(ctx: WorkflowContext[None]) -> str:
        invoke: Any = ctx.invoke
        try:
            return await invoke("topics", topics, NoParams(), canary=3)
        except ConfigurationError as error:
            return str(error)

    async with Environment(flow) as env:
        assert (await env.run(parent, None)).result.endswith("trigger the batch in a step instead")


async def test_an_option_of_batches_is_refused_by_a_function(flow: Batchflow) -> None:
    """It says what it is."""

    @flow.serve("/child")
    async def child(ctx: WorkflowContext[None]) -> str:
        return "done"

    @flow.serve("/parent")
    async def parent(ctx: WorkflowContext[None]) -> str:
        try:
            return await ctx.invoke("child", child, None, limit=3)
        except (ConfigurationError, ChildFailed) as error:
            return str(error)

    async with Environment(flow) as env:
        result = (await env.run(parent, None)).result
        assert result == "'child' takes no option 'limit': that is a batch's, and this is a function"


async def test_a_wrong_option_of_a_child_batch_is_the_parents_error(flow: Batchflow) -> None:
    """Invalid options are rejected with the same message as by a trigger."""
    topics = flow.add(Topics())

    @flow.serve("/parent")
    async def parent(ctx: WorkflowContext[None]) -> str:
        try:
            await ctx.invoke("topics", topics, NoParams(), ids=[])
        except InputError as error:
            return str(error)
        return ""

    async with Environment(flow) as env:
        result = (await env.run(parent, None)).result
        assert result == "'ids' cannot be []; name one or more, or leave it out to fetch them"
