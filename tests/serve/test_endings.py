"""Endings of an attempt: abandoned, suspended, failed, refused. None leaves tasks behind."""

import asyncio
import contextlib
import gc
import json
from typing import Any

import pytest

from batchflow.errors import InputError
from batchflow.serve.context import WorkflowContext
from batchflow.serve.endpoint import FailureResult
from tests.serve.store_model import Calls, Fault, Model, endpoint, first_line

Context = WorkflowContext[Any]
CURE = "catch Exception where it says 'except:', 'except BaseException' or 'except CancelledError', or raise it again"


@pytest.mark.parametrize("fault", ["killed", "refused", "reply lost", "stale"])
@pytest.mark.parametrize("siblings", [False, True])
async def test_a_lost_record_is_no_exception_in_user_code(fault: Fault, siblings: bool) -> None:
    """The attempt is given up; the next one goes on at the first step that is missing."""
    seen: list[str] = []
    calls = Calls()

    async def one(ctx: Context, name: str) -> None:
        try:
            await ctx.run(name, calls(name))
        except Exception:
            seen.append(name)

    async def run(ctx: Context) -> None:
        await one(ctx, "before")
        if siblings:
            await asyncio.gather(one(ctx, "a"), one(ctx, "b"))
        else:
            await one(ctx, "a")
            await one(ctx, "b")

    model = Model(faults={2: fault})
    ending = await model.drive(endpoint(run))
    assert (ending.ending, seen, model.lost) == ("done", [], 1)
    assert sorted(model.names) == ["a", "b", "before"]
    assert calls.made.count("before") == 1


async def test_a_fault_that_no_store_promises_is_seen_by_the_engine() -> None:
    """It goes out of `deliver`, and user code sees nothing of it."""
    seen: list[Exception] = []

    class Broken(Model):
        async def record(self, claim: str, fence: int, step: Any, effects: Any = ()) -> Any:
            raise ZeroDivisionError("a bug")

    async def run(ctx: Context) -> None:
        try:
            await ctx.run("a", Calls()("a"))
        except Exception as error:
            seen.append(error)

    with pytest.raises(ZeroDivisionError):
        await Broken().deliver(endpoint(run))
    assert seen == []


async def test_suspension_passes_except_exception_and_runs_finally() -> None:
    """Blocks that clean up run, and a step that one of them asks for waits for the time when it is meant."""
    trail: list[str] = []
    calls = Calls()

    async def run(ctx: Context) -> str:
        try:
            await ctx.sleep("pause", 10)
            trail.append("slept")
        except Exception:
            trail.append("caught")
        finally:
            trail.append("finally")
            await ctx.run("clean up", calls("clean up"))
        return "through"

    ending = await Model().drive(endpoint(run))
    assert (ending.ending, trail, calls.made) == ("done", ["finally", "slept", "finally"], ["clean up"])


@pytest.mark.parametrize("siblings", [False, True])
async def test_code_that_swallows_its_suspension_and_returns_is_found_out(siblings: bool) -> None:
    """The run dies with what to write instead."""

    async def run(ctx: Context) -> str:
        try:
            if siblings:
                await asyncio.gather(ctx.sleep("pause", 10), ctx.sleep("other", 10))
            await ctx.sleep("pause", 10)
        except BaseException:  # the subject of the test
            return "too early"
        return "through"

    ending = await Model().drive(endpoint(run))
    assert ending.ending == "dead"
    assert first_line(ending) == (
        f"ReplayError: the run was suspended, but its function caught the cancellation and returned; {CURE}"
    )


async def test_code_that_swallows_its_suspension_and_asks_on_is_found_out() -> None:
    """The step is not executed."""
    calls = Calls()

    async def run(ctx: Context) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await ctx.sleep("pause", 10)
        await ctx.run("next", calls("next"))

    ending = await Model().drive(endpoint(run))
    assert (ending.ending, calls.made) == ("dead", [])
    assert first_line(ending) == (
        "ReplayError: the run was suspended, but its function caught the cancellation and asked for step 'next'; "
        f"{CURE}"
    )


async def test_an_answer_is_a_failure_without_a_dead_letter() -> None:
    """The handler says how it ended, and what a caller gets."""

    async def run(ctx: Context) -> FailureResult:
        return FailureResult("Item not found", '{"success":false}')

    ending = await Model().drive(endpoint(run))
    assert (ending.ending, ending.error, ending.result) == ("failed", "Item not found", '{"success":false}')


async def test_a_payload_that_does_not_fit_kills_the_run_at_once() -> None:
    """An `InputError` becomes the dead letter's message; any other exception has its traceback."""

    async def run(ctx: Context) -> None:
        raise AssertionError("not called")

    def refuse(claim: Any) -> Any:
        raise InputError(f"'{claim.body}' is no order")

    ending = await Model(payload="7").drive(endpoint(run, payload=refuse))
    assert (ending.ending, ending.error) == ("dead", "InputError: '7' is no order")
    ending = await Model(payload="{").drive(endpoint(run, payload=lambda claim: json.loads(claim.body)))
    assert ending.ending == "dead"
    assert first_line(ending).startswith("JSONDecodeError: ")


async def test_a_plain_run_leaves_no_cycles() -> None:
    """At thousands of runs a second the garbage collector would have to take them apart."""

    async def run(ctx: Context) -> None:
        await ctx.run("a", Calls()("a"))
        await ctx.run("b", Calls()("b"))

    model, served = Model(), endpoint(run)
    gc.collect()
    gc.disable()
    try:
        await model.deliver(served)
        model.task = None
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [found for found in gc.garbage if type(found).__module__.startswith("batchflow")]
        assert left == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
