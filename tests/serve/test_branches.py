"""Steps at the same time: order, rest, and races."""

import asyncio
from typing import Any

import pytest

from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Step
from batchflow.errors import StepFailed
from batchflow.serve.context import WorkflowContext
from tests.serve.store_model import Calls, Model, endpoint

Context = WorkflowContext[Any]
MINUTE = 60_000
MODES = pytest.mark.parametrize("always_replay", [False, True])


def recorded(number: int, name: str, position: int, value: str = "null") -> Step:
    return Step(number, name, "run", "done", position, value)


@MODES
async def test_gather_and_groups_work_and_replay(always_replay: bool) -> None:
    """Each comes to its own, in whatever order they are recorded; what is recorded is not executed again."""
    calls = Calls()

    async def run(ctx: Context) -> list[Any]:
        first = await asyncio.gather(*[ctx.run(name, calls(name, name, turns=3 - i)) for i, name in enumerate("abc")])
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ctx.run(name, calls(name, name))) for name in "de"]
        return [*first, *[task.result() for task in tasks]]

    model = Model(always_replay=always_replay)
    ending = await model.drive(endpoint(run))
    assert ending.result == '["a", "b", "c", "d", "e"]'
    # What was in flight when an attempt was given up is executed again, and nothing else is.
    assert len(calls.made) == (8 if always_replay else 5)
    assert sorted(model.names) == list("abcde")


@MODES
async def test_a_race_is_decided_again_as_it_was(always_replay: bool) -> None:
    """The outcome that was recorded first is handed out first, with rest in between."""
    calls = Calls()
    winners: list[str] = []

    async def run(ctx: Context) -> str:
        slow = asyncio.create_task(ctx.run("slow", calls("slow", turns=9)), name="slow")
        fast = asyncio.create_task(ctx.run("fast", calls("fast", turns=1)), name="fast")
        done, _ = await asyncio.wait([slow, fast], return_when=asyncio.FIRST_COMPLETED)
        winners.append(" ".join(task.get_name() for task in done))
        await ctx.run("between", calls("between", turns=20))
        await asyncio.wait([slow, fast])
        return winners[-1]

    model = Model(always_replay=always_replay)
    ending = await model.drive(endpoint(run))
    assert ending.result == '"fast"'
    assert set(winners) == {"fast"}
    assert model.names == ["fast", "slow", "between"]
    assert calls.made.count("fast") == 1


async def test_what_became_durable_first_comes_first() -> None:
    """Live, outcomes are handed out one at a time although both are durable in one turn."""
    order: list[str] = []

    async def branch(ctx: Context, name: str) -> None:
        await ctx.run(name, Calls()(name))
        # Were both handed out in one turn, the other branch would come in between.
        for _ in range(20):
            order.append(name)
            await asyncio.sleep(0)

    async def run(ctx: Context) -> None:
        await asyncio.gather(branch(ctx, "a"), branch(ctx, "b"))

    await Model().drive(endpoint(run))
    assert order == ["a"] * 20 + ["b"] * 20


async def test_no_new_step_starts_before_the_journal_is_through() -> None:
    """Steps that are asked for meanwhile wait, and start in the order in which they were asked for."""
    calls = Calls()
    states: list[str] = []

    async def run(ctx: Context) -> None:
        async def old() -> None:
            await ctx.run("recorded 1", calls("never"))
            states.append(f"1 with {calls.made}")
            await ctx.run("recorded 2", calls("never"))
            states.append(f"2 with {calls.made}")

        await asyncio.gather(ctx.run("new 1", calls("new 1")), ctx.run("new 2", calls("new 2")), old())

    model = Model(journal=(recorded(3, "recorded 1", 1), recorded(4, "recorded 2", 2)))
    await model.drive(endpoint(run))
    assert states == ["1 with []", "2 with []"]
    assert calls.made == ["new 1", "new 2"]
    assert [(step.number, step.name) for step in model.journal] == [
        (1, "new 1"),
        (2, "new 2"),
        (3, "recorded 1"),
        (4, "recorded 2"),
    ]


async def test_tasks_of_the_root_start_before_it_goes_on() -> None:
    """A root that asks first does not outrun the siblings that it has made."""
    seen: list[str] = []

    async def run(ctx: Context) -> None:
        sibling = asyncio.create_task(ctx.run("sibling", Calls()("sibling")))
        await ctx.run("own", Calls()("own"))
        seen.append(f"sibling {'done' if sibling.done() else 'open'}")
        await sibling

    model = Model(journal=(recorded(1, "own", 2), recorded(2, "sibling", 1)))
    await model.drive(endpoint(run))
    assert seen == ["sibling done"]


async def test_a_replay_may_await_other_things_where_the_root_is_alone() -> None:
    """Nothing is a mismatch before the code has asked for another step."""

    async def run(ctx: Context) -> None:
        await ctx.run("a", Calls()("a"))
        for _ in range(200):
            await asyncio.sleep(0)
        await ctx.run("b", Calls()("b"))

    ending = await Model(journal=(recorded(1, "a", 1), recorded(2, "b", 2))).drive(endpoint(run))
    assert ending.ending == "done"


async def test_a_task_made_after_a_step_is_a_branch() -> None:
    """Only what runs inside of the step's function counts as inside."""

    async def run(ctx: Context) -> int:
        await ctx.run("a", Calls()("a"))
        return sum(await asyncio.gather(ctx.run("b", Calls()("b", 1)), ctx.run("c", Calls()("c", 2))))

    assert (await Model().drive(endpoint(run))).result == "3"


async def test_a_failure_in_a_group_cancels_the_others_and_they_are_not_recorded() -> None:
    """The group's error is final, as the step's is."""
    calls = Calls()

    async def run(ctx: Context) -> str:
        result = "through"
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.run("bad", calls("bad", fails=9)))
                group.create_task(ctx.run("long", calls("long", turns=500)))
        except* StepFailed:
            result = "failed"
        return result

    model = Model()
    ending = await model.drive(endpoint(run, retry=RetryPolicy.none()))
    assert (ending.ending, ending.result, model.names) == ("done", '"failed"', ["bad"])


async def test_an_uncaught_group_is_as_final_as_its_members() -> None:
    """A `StepFailed` in it kills the run without another attempt."""

    async def run(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.run("bad", Calls()("bad", fails=9)))

    ending = await Model().drive(endpoint(run, retry=RetryPolicy.none()))
    assert ending.ending == "dead"
    assert ending.error is not None
    assert ending.error.startswith("StepFailed: step 'bad' failed after 1 attempt: ConnectionError: bad is down")


async def test_one_branch_waits_while_the_others_work() -> None:
    """The attempt ends when nothing executes any more, with the earliest time anything is due."""
    calls = Calls()

    async def nap(ctx: Context, name: str, seconds: int) -> None:
        await ctx.sleep(name, seconds)
        await ctx.run(f"after {name}", calls(f"after {name}"))

    async def run(ctx: Context) -> None:
        await asyncio.gather(nap(ctx, "long", 60), nap(ctx, "short", 20), ctx.run("work", calls("work", turns=300)))

    model = Model()
    first = await model.deliver(endpoint(run))
    assert first is not None
    assert (first.ending, first.due, calls.made) == ("suspended", 1_020_000, ["work"])
    assert [(step.name, step.state, step.due) for step in first.steps] == [
        ("long", "pending", 1_060_000),
        ("short", "pending", 1_020_000),
    ]
    await model.drive(endpoint(run))
    assert calls.made == ["work", "after short", "after long"]
    assert model.names == ["work", "short", "after short", "long", "after long"]


async def test_a_cancelled_sleep_is_forgotten() -> None:
    """A timer that nobody waits for any more neither wakes the run nor keeps it."""

    async def run(ctx: Context) -> None:
        timer = asyncio.create_task(ctx.sleep("timer", 5))
        await ctx.run("a", Calls()("a"))
        timer.cancel()
        await ctx.sleep("pause", 60)

    model = Model()
    first = await model.deliver(endpoint(run))
    assert first is not None
    assert (first.due, [step.name for step in first.steps]) == (1_060_000, ["pause"])


@pytest.mark.parametrize("how", ["both in branches", "the root sleeps"])
async def test_a_sleep_beside_work_ends_when_it_was_to_end_however_often_workers_die(how: str) -> None:
    """It is durable as soon as it is asked for, since the work beside it may take long."""
    woken: list[int] = []
    model = Model(faults={2: "refused", 3: "refused"})

    async def work() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        model.clock.time += 25 * MINUTE

    async def run(ctx: Context) -> None:
        async def nap() -> None:
            await ctx.sleep("an hour", "1h")
            woken.append(model.clock.now())

        if how == "both in branches":
            await asyncio.gather(nap(), ctx.run("work", work))
        else:
            working = asyncio.create_task(ctx.run("work", work))
            await nap()
            await working

    begun = model.clock.now()
    ending = await model.drive(endpoint(run))
    assert (ending.ending, model.lost) == ("done", 2)
    # The work was done three times, and twice nobody got to know.
    assert woken[-1] - begun == 75 * MINUTE


@MODES
async def test_nobody_overtakes_a_step_that_is_being_cancelled(always_replay: bool) -> None:
    """Its end takes no time on a replay, where it never begins."""
    seen: list[list[str]] = []

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(300):
                await asyncio.sleep(0)

    async def run(ctx: Context) -> list[str]:
        order: list[str] = []
        seen.append(order)

        async def race() -> None:
            await ctx.first(ctx.run("fast", Calls()("fast", turns=50)), ctx.run("slow", slow))
            order.append("race")

        async def other() -> None:
            await ctx.run("other", Calls()("other", turns=150))
            order.append("other")

        await asyncio.gather(race(), other())
        await ctx.sleep("nap", 60)
        return order

    ending = await Model(always_replay=always_replay).drive(endpoint(run))
    assert ending.ending == "done"
    assert next(order for order in seen if len(order) == 2) == seen[-1]
