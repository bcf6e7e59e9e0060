"""Planning by a recorder: new steps start one by one, or in rounds."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

from batchflow.core.message import Claim
from batchflow.core.ports import Plan, Runtime
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import NEVER, Step
from batchflow.core.settlement import Settlement
from batchflow.serve.context import WorkflowContext
from batchflow.serve.endpoint import DirectRecorder
from tests.serve.store_model import Calls, Model, endpoint

Context = WorkflowContext[Any]
Asked = list[tuple[list[str], set[int]]]


class Planner(DirectRecorder):
    """Notes what it is asked, and lets start what is not named in `parked`."""

    def __init__(self, claim: Claim, runtime: Runtime, parked: Sequence[str]) -> None:
        super().__init__(claim, RetryPolicy(), runtime)
        self.parked = parked
        self.asked: Asked = []

    def plan(self, asked: Sequence[Step], settled: AbstractSet[int]) -> Sequence[Plan]:
        self.asked.append(([step.name for step in asked], set(settled)))
        return ["park" if step.name in self.parked else "execute" for step in asked]


async def attempt(
    model: Model, fn: Callable[[Context], Awaitable[object]], *, stops: bool = False, parked: Sequence[str] = ()
) -> tuple[Settlement, Asked]:
    """One attempt: how it ended, and what its recorder was asked."""
    claim, runtime = model.claim(), replace(model.runtime, always_replay=stops)
    planner = Planner(claim, runtime, parked)
    ending = await asyncio.create_task(endpoint(fn).deliver(claim, runtime, planner))
    assert ending is not None
    return ending, planner.asked


def three(calls: Calls) -> Callable[[Context], Awaitable[tuple[int, int]]]:
    """Two branches, the first of two steps."""

    async def run(ctx: Context) -> tuple[int, int]:
        async def sequence() -> int:
            await ctx.run("a", calls("a", 1))
            return await ctx.run("c", calls("c", 3))

        return await asyncio.gather(sequence(), ctx.run("b", calls("b", 2)))

    return run


async def test_a_fresh_run_without_siblings_asks_nothing() -> None:
    """Nearly all runs are such; they pay for no plans."""

    async def run(ctx: Context) -> int:
        await ctx.run("a", Calls()("a", 1))
        return await ctx.run("b", Calls()("b", 2))

    ending, asked = await attempt(Model(), run)
    assert (ending.ending, asked) == ("done", [])


async def test_what_siblings_ask_for_is_planned_as_they_ask() -> None:
    """So that it starts at once."""
    ending, asked = await attempt(Model(), three(Calls()))
    assert (ending.result, asked) == ("[3, 2]", [(["a"], set()), (["b"], set()), (["c"], set())])


async def test_a_replay_plans_a_round_once_the_code_rests() -> None:
    """All new steps at once, with those that were asked for before the last recorded outcome was handed out."""
    model, calls = Model(faults={2: "refused"}), Calls()
    fn = three(calls)
    assert await model.deliver(endpoint(fn)) is None
    assert model.names == ["a"]
    ending, asked = await attempt(model, fn)
    assert (ending.result, asked) == ("[3, 2]", [(["b", "c"], {2})])


async def test_a_recorder_that_stops_plans_rounds_from_the_start() -> None:
    """The attempt ends once they are recorded."""
    calls = Calls()
    ending, asked = await attempt(Model(), three(calls), stops=True)
    assert (ending.ending, asked, calls.made) == ("suspended", [(["a", "b"], set())], ["a", "b"])


async def test_what_is_parked_waits_for_another_attempt() -> None:
    """It does not execute, and the attempt ends as soon as nothing else does."""
    calls = Calls()
    ending, _ = await attempt(Model(), three(calls), parked=["b", "c"])
    assert (ending.ending, ending.due, ending.steps, calls.made) == ("suspended", NEVER, (), ["a"])
