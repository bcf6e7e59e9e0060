"""Cancelling: of a run by others and by itself, of an attempt from outside, of a step by the code around it."""

import asyncio
import contextlib
from typing import Any

import pytest

from batchflow.core.ports import STOP_REASON, TIMEOUT_REASON
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import Settlement
from batchflow.serve.context import WorkflowContext
from batchflow.serve.endpoint import Endpoint
from batchflow.serve.execution import MAX_LATE_REQUESTS
from tests.serve.store_model import Calls, Model, endpoint, first_line
from tests.waiting import wait_until

Context = WorkflowContext[Any]


async def interrupted(model: Model, endpoint: Endpoint, started: asyncio.Event, why: str) -> Settlement:
    """The ending of an attempt that the engine interrupts once it has started."""
    claim, runtime = model.claim(), model.runtime
    task = asyncio.create_task(endpoint.deliver(claim, runtime))
    await started.wait()
    runtime.interrupts.request(claim, why)
    task.cancel(why)
    ending = await task
    assert ending is not None
    return ending


async def test_a_run_that_is_cancelled_ends_at_its_next_step() -> None:
    """For every reaction of the code."""
    calls = Calls()

    async def run(ctx: Context) -> str:
        for name in "abc":
            await ctx.run(name, calls(name))
        return "through"

    ending = await Model(faults={2: "cancelled"}).drive(endpoint(run))
    assert (ending.ending, calls.made) == ("cancelled", ["a", "b"])


@pytest.mark.parametrize("where", ["root", "branch", "swallowed"])
async def test_a_run_can_cancel_itself(where: str) -> None:
    """`cancel` does not return, and `except Exception` does not catch it."""
    went_on: list[str] = []

    async def run(ctx: Context) -> None:
        async def leave() -> None:
            try:
                ctx.cancel()
            except Exception:
                went_on.append("caught")
            went_on.append("returned")

        await ctx.run("a", Calls()("a"))
        if where == "branch":
            await asyncio.gather(leave(), ctx.run("long", Calls()("long", turns=500)))
        try:
            await leave()
        except asyncio.CancelledError:
            if where != "swallowed":
                raise

    ending = await Model().drive(endpoint(run))
    assert (ending.ending, went_on) == ("cancelled", [])


async def test_tasks_left_over_end_with_the_attempt() -> None:
    """Shielded, raced or never awaited: they are cancelled, and `deliver` waits for them."""
    ended: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def branch(ctx: Context, name: str) -> None:
        try:
            await ctx.run(name, asyncio.Event().wait)
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    async def run(ctx: Context) -> None:
        tasks.extend(asyncio.create_task(branch(ctx, name)) for name in "ab")
        shielded = asyncio.shield(tasks[0])
        shielded.add_done_callback(lambda done: done.cancelled())
        await ctx.run("own", Calls()("own", turns=3))

    ending = await Model().drive(endpoint(run))
    assert (ending.ending, sorted(ended)) == ("done", ["a", "b"])


async def test_a_task_that_comes_late_gets_nothing() -> None:
    """A step that is asked for after the function has returned is not executed."""
    calls = Calls()
    late: list[asyncio.Task[Any]] = []

    async def run(ctx: Context) -> None:
        late.append(asyncio.create_task(ctx.run("late", calls("late"))))

    model = Model()
    ending = await model.drive(endpoint(run))
    await asyncio.wait(late)
    assert (ending.ending, late[0].cancelled(), calls.made, model.records) == ("done", True, [], 0)


@pytest.mark.parametrize("siblings", [False, True])
async def test_cancelling_from_outside_comes_out(siblings: bool) -> None:
    """Once the function's own tasks have ended; the step that was cut off is not recorded."""
    started, ended = asyncio.Event(), list[str]()

    async def long(name: str) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    async def run(ctx: Context) -> None:
        if siblings:
            tasks = [asyncio.create_task(ctx.run(name, long, name)) for name in "ab"]
            await asyncio.wait(tasks)
        await ctx.run("c", long, "c")

    model = Model()
    task = asyncio.create_task(endpoint(run).deliver(model.claim(), model.runtime))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(ended) == (["a", "b"] if siblings else ["c"])
    assert model.records == 0


@pytest.mark.parametrize("how", ["alone", "gather", "group", "wait"])
async def test_an_attempt_that_takes_too_long_is_a_failed_one(how: str) -> None:
    """The engine's sign becomes a `TimeoutError` that the policy counts."""
    started = asyncio.Event()

    async def long() -> None:
        started.set()
        await asyncio.Event().wait()

    async def run(ctx: Context) -> None:
        match how:
            case "gather":
                await asyncio.gather(ctx.run("a", long), ctx.run("b", long))
            case "group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(ctx.run("a", long))
            case "wait":
                await asyncio.wait([asyncio.create_task(ctx.run("a", long))])
            case _:
                await ctx.run("a", long)

    for retries, kind in ((1, "retry"), (0, "dead")):
        model = Model(retry=RetryPolicy(retries=retries))
        started.clear()
        ending = await interrupted(model, endpoint(run), started, TIMEOUT_REASON)
        assert ending.ending == kind
        assert first_line(ending).startswith("TimeoutError: the attempt took longer than 1h (timeout)")


@pytest.mark.parametrize("how", ["finally", "except", "gather", "swallowed"])
@pytest.mark.parametrize(("why", "ends"), [(STOP_REASON, "released"), (TIMEOUT_REASON, "retry")])
async def test_an_attempt_that_is_interrupted_starts_no_step_as_it_unwinds(how: str, why: str, ends: str) -> None:
    """Neither a compensation in `finally` nor what follows a caught cancellation; the next attempt does all again."""
    started, calls = asyncio.Event(), Calls()
    hold = True

    async def charge() -> str:
        started.set()
        if hold:
            await asyncio.Event().wait()
        return "charged"

    async def run(ctx: Context) -> str:
        if how == "gather":
            await asyncio.gather(ctx.run("charge", charge), guarded(ctx), return_exceptions=True)
            return str(await ctx.run("after", calls("after", "through")))
        try:
            charged = await ctx.run("charge", charge)
        except asyncio.CancelledError:
            if how == "swallowed":
                return "swallowed"
            if how == "except":
                await ctx.run("release", calls("release"))
            raise
        finally:
            if how == "finally":
                await ctx.run("release", calls("release"))
        return charged

    async def guarded(ctx: Context) -> None:
        try:
            await ctx.run("long", charge)
        finally:
            await ctx.run("release", calls("release"))

    model = Model(retry=RetryPolicy(retries=3, first="1s"))
    ending = await interrupted(model, endpoint(run), started, why)
    assert (ending.ending, calls.made, model.names) == (ends, [], [])
    hold = False
    ending = await model.drive(endpoint(run))
    assert (ending.ending, ending.result) == ("done", '"through"' if how == "gather" else '"charged"')


async def test_an_attempt_that_is_interrupted_keeps_the_failures_of_its_steps() -> None:
    """Given back in good order, a step is not tried more often than its policy says."""
    started = asyncio.Event()

    async def long() -> None:
        started.set()
        await asyncio.Event().wait()

    async def run(ctx: Context) -> None:
        await asyncio.gather(ctx.run("flaky", Calls()("flaky", fails=9)), ctx.run("long", long))

    ending = await interrupted(Model(retry=RetryPolicy(retries=1)), endpoint(run), started, STOP_REASON)
    assert [(step.name, step.failures) for step in ending.steps] == [("flaky", 1)]


async def test_code_that_catches_every_cancellation_does_not_keep_the_event_loop() -> None:
    """It gets no answer any more, and others go on."""
    tries, goes_on = 0, True

    async def run(ctx: Context) -> None:
        nonlocal tries
        while goes_on:
            tries += 1
            try:
                await ctx.sleep(f"nap {tries}", 60)
            except BaseException:
                continue

    model = Model()
    task = asyncio.create_task(endpoint(run).deliver(model.claim(), model.runtime))
    await wait_until(lambda: tries > MAX_LATE_REQUESTS, description="it gets no answer any more")
    for _ in range(100):
        await asyncio.sleep(0)
    assert not task.done()
    assert tries <= MAX_LATE_REQUESTS + 5
    goes_on = False
    task.cancel()
    await asyncio.wait([task])


async def test_a_cancellation_of_the_codes_own_is_a_failure() -> None:
    """Awaiting a task that was cancelled is no sign from outside, and must not be taken for one."""

    async def run(ctx: Context) -> None:
        await ctx.run("a", Calls()("a"))
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()
        await task

    model = Model()
    ending = await model.drive(endpoint(run, retry=RetryPolicy(retries=1)))
    assert (ending.ending, first_line(ending), len(model.endings)) == ("dead", "CancelledError", 2)


async def test_a_timeout_around_a_step_cuts_it_off() -> None:
    """User code's own timeout: the step is not recorded, and the code goes on."""
    calls = Calls()

    async def run(ctx: Context) -> str:
        try:
            async with asyncio.timeout(0.005):
                await ctx.run("long", asyncio.Event().wait)
        except TimeoutError:
            return str(await ctx.run("short", calls("short", "instead")))
        return "through"

    model = Model()
    ending = await model.drive(endpoint(run))
    assert (ending.result, model.names) == ('"instead"', ["short"])


async def aborting(ctx: Context, started: asyncio.Event) -> None:
    """A group that keeps cancellations to itself, since it waits for the cleanup of its tasks, which takes long."""

    async def held() -> None:
        try:
            await ctx.run("held", asyncio.Event().wait)
        finally:
            started.set()
            await ctx.run("cleanup", asyncio.Event().wait)

    async def fails() -> None:
        await ctx.run("fails", Calls()("fails", fails=1))

    async with asyncio.TaskGroup() as group:
        group.create_task(held())
        group.create_task(fails())


@pytest.mark.parametrize(("why", "ends"), [(STOP_REASON, "released"), (TIMEOUT_REASON, "dead")])
async def test_an_interruption_gets_through_a_group_that_is_aborting(why: str, ends: str) -> None:
    """Its tasks are cancelled too, as the group does not let it out."""
    started = asyncio.Event()

    async def run(ctx: Context) -> None:
        await aborting(ctx, started)

    ending = await interrupted(Model(retry=RetryPolicy.none()), endpoint(run), started, why)
    assert ending.ending == ends


async def test_a_fault_gets_through_a_group_that_is_aborting() -> None:
    """A name that is used twice, for example: the run ends, and does not hang."""

    async def run(ctx: Context) -> None:
        async def twice() -> None:
            await asyncio.sleep(0)
            await started.wait()
            await ctx.run("cleanup", Calls()("cleanup"))

        started = asyncio.Event()
        await asyncio.gather(aborting(ctx, started), twice())

    ending = await Model(retry=RetryPolicy.none()).drive(endpoint(run))
    assert (ending.ending, first_line(ending)[:44]) == ("dead", "ReplayError: step 'cleanup' is asked for twi")


async def test_code_that_suppresses_its_interruption_starts_nothing() -> None:
    """Not the next step either."""
    started, calls = asyncio.Event(), Calls()

    async def long() -> None:
        started.set()
        await asyncio.Event().wait()

    async def run(ctx: Context) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await ctx.run("long", long)
        return str(await ctx.run("next", calls("next")))

    ending = await interrupted(Model(), endpoint(run), started, STOP_REASON)
    assert (ending.ending, calls.made) == ("released", [])
