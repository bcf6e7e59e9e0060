"""Batches with a higher priority start first: at the trigger, on the class, while they run, and from a parent."""

from typing import Any

import pytest

from batchflow import Batchflow, BatchWorkflow, FlowControl, NoParams, Page, WorkflowContext
from batchflow.errors import ConfigurationError, InputError
from batchflow.testing import Environment

WRONG = (-1, 10, True, 1.0, "high", "1")


class Job(BatchWorkflow[NoParams, str, None]):
    """Items one at a time, of which it notes the batch."""

    entry_flow = paginate_flow = None
    execute_flow = FlowControl(parallelism=1)

    def __init__(self) -> None:
        self.ran: list[str] = []

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=["1", "2", "3"])

    async def filter(self, params: NoParams, ids: Any) -> Any:
        return ids

    async def execute(self, item_id: str) -> None:
        self.ran.append(self.headers["as"])


class Urgent(Job):
    priority = 7


@pytest.fixture
def flow() -> Batchflow:
    return Batchflow("sqlite://")


async def test_a_batch_with_a_higher_priority_runs_first(flow: Batchflow) -> None:
    """Those with the same one share."""
    made = Job()
    job = flow.add(made)
    async with Environment(flow) as env:
        for name, priority in (("a", None), ("b", 3), ("c", 9), ("d", 3)):
            await job.trigger(headers={"as": name}, priority=priority, ids=[f"{name}{it}" for it in range(3)])
        await env.drive()
    assert made.ran[:3] == ["c", "c", "c"]
    assert sorted(made.ran[3:9]) == ["b", "b", "b", "d", "d", "d"]
    assert made.ran[3:9] not in (["b", "b", "b", "d", "d", "d"], ["d", "d", "d", "b", "b", "b"])
    assert made.ran[9:] == ["a", "a", "a"]


async def test_the_priority_of_a_class_is_that_of_its_batches(flow: Batchflow) -> None:
    """Unless the trigger names one, 0 too; the status has it."""
    urgent = flow.add(Urgent())
    async with Environment(flow):
        found = [await urgent.trigger(priority=given) for given in (None, 0, 9)]
        assert [(await batch.status()).priority for batch in found] == [7, 0, 9]


async def test_the_priority_of_a_function_is_an_option(flow: Batchflow) -> None:
    """As all other options of a class."""

    @flow.batch(ids=["a"], priority=4)
    async def greet(user_id: str) -> None: ...

    async with Environment(flow):
        assert (await (await greet.trigger()).status()).priority == 4


async def test_set_priority_changes_a_batch_that_runs(flow: Batchflow) -> None:
    """From the next item on."""
    made = Job()
    job = flow.add(made)
    async with Environment(flow) as env:
        first = await job.trigger(headers={"as": "a"}, ids=["a1", "a2"])
        late = await job.trigger(headers={"as": "b"}, ids=["b1", "b2"])
        assert await late.set_priority(1)
        assert (await late.status()).priority == 1
        await env.drive()
        assert made.ran == ["b", "b", "a", "a"]
        assert not await first.set_priority(2)


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_priority_is_refused_in_one_sentence(flow: Batchflow, wrong: Any) -> None:
    """Nothing is started or changed."""
    job = flow.add(Job())
    async with Environment(flow):
        with pytest.raises(InputError, match="write a whole number from 0 to 9, of which the highest is first"):
            await job.trigger(priority=wrong)
        assert await flow.batches() == []
        batch = await job.trigger()
        with pytest.raises(InputError, match="'priority' cannot be"):
            await batch.set_priority(wrong)
        assert (await batch.status()).priority == 0


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_priority_of_a_class_is_refused_when_it_is_made(wrong: Any) -> None:
    """It names the class and what to write."""
    with pytest.raises(ConfigurationError, match=r"Wrong\.priority cannot be .*; write a whole number from 0 to 9"):
        type("Wrong", (Job,), {"priority": wrong})


async def test_a_child_batch_has_the_priority_of_its_invocation(flow: Batchflow) -> None:
    """Or that of its class, whatever its parent's is."""
    urgent = flow.add(Urgent())

    @flow.serve("/parent")
    async def parent(ctx: WorkflowContext[None]) -> None:
        await ctx.invoke("one", urgent, NoParams(), priority=2, headers={"as": "a"})
        await ctx.invoke("two", urgent, NoParams(), headers={"as": "b"}, force=True)

    async with Environment(flow) as env:
        await parent.trigger(None)
        await env.drive()
        assert [(await batch.status()).priority for batch in await flow.batches()] == [7, 2]


async def test_a_function_takes_no_priority(flow: Batchflow) -> None:
    """It is a batch's."""

    @flow.serve("/child")
    async def child(ctx: WorkflowContext[None]) -> None: ...

    @flow.serve("/parent")
    async def parent(ctx: WorkflowContext[None]) -> str:
        with pytest.raises(ConfigurationError) as caught:
            await ctx.invoke("child", child, None, priority=3)
        return str(caught.value)

    async with Environment(flow) as env:
        run = await parent.trigger(None)
        await env.drive()
        assert await run.wait(5) == "'child' takes no option 'priority': that is a batch's, and this is a function"
