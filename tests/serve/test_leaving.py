"""Ways out of a step or a function that would take more along than they should."""

import asyncio
import sys
from typing import Any

import pytest
from structlog.testing import capture_logs

from batchflow.core.retry import RetryPolicy
from batchflow.errors import StepFailed
from batchflow.serve.context import WorkflowContext
from tests.serve.model import Calls, Model, endpoint, first_line

Context = WorkflowContext[Any]
TWICE = RetryPolicy(retries=1, first="1s")


async def async_exit() -> None:
    sys.exit(3)


@pytest.mark.parametrize("step", [async_exit, lambda: sys.exit(3)], ids=["async", "plain"])
async def test_a_step_that_leaves_the_process_is_a_failed_one(step: Any) -> None:
    """`sys.exit` would end the worker, and the next one that takes the run."""
    caught: list[str] = []

    async def run(ctx: Context) -> str:
        try:
            await ctx.run("leave", step)
        except StepFailed as failed:
            caught.append(failed.error)
        return "here"

    ending = await Model(retry=TWICE).drive(endpoint(run))
    assert (ending.result, caught) == ('"here"', ["SystemExit: 3"])


async def test_a_function_that_leaves_the_process_is_a_failed_attempt() -> None:
    """Outside of steps as well."""

    async def run(ctx: Context) -> None:
        sys.exit(3)

    model = Model(retry=TWICE)
    ending = await model.drive(endpoint(run))
    assert (ending.ending, first_line(ending), len(model.endings)) == ("dead", "SystemExit: 3", 2)


async def test_a_plain_step_that_raises_stop_iteration_is_a_failed_one() -> None:
    """No future takes it, and the run would wait for ever."""

    def first() -> int:
        return next(iter(list[int]()))

    async def run(ctx: Context) -> str:
        try:
            return str(await ctx.run("first", first))
        except StepFailed as failed:
            return failed.error

    ending = await Model(retry=TWICE).drive(endpoint(run))
    assert ending.result is not None
    assert ending.result.startswith('"RuntimeError: <function')
    assert ending.result.endswith('raised StopIteration"')


async def test_a_step_that_nobody_awaits_is_told_of_when_its_function_returns() -> None:
    """It is cut off, or not begun: the log names it."""
    tasks: list[asyncio.Task[Any]] = []

    async def cut_off(ctx: Context) -> None:
        tasks.append(asyncio.create_task(ctx.run("charge", asyncio.Event().wait)))
        await ctx.run("own", Calls()("own", turns=3))

    async def not_begun(ctx: Context) -> None:
        tasks.append(asyncio.create_task(ctx.run("charge", Calls()("charge"))))

    with capture_logs() as lines:
        assert (await Model().drive(endpoint(cut_off))).ending == "done"
        assert (await Model().drive(endpoint(not_begun))).ending == "done"
        await asyncio.wait(tasks)
    assert [(line["log_level"], line["event"], line.get("steps") or line["step"]) for line in lines] == [
        (
            "warning",
            "[batchflow] Steps are cut off, since their function has returned without awaiting them",
            ["charge"],
        ),
        (
            "warning",
            "[batchflow] A step is not executed, since its function had returned before it was asked for; await it",
            "charge",
        ),
    ]


async def test_a_step_that_was_cancelled_by_the_code_is_no_surprise() -> None:
    """Who cancels the loser of a race knows what becomes of it."""

    async def run(ctx: Context) -> None:
        loser = asyncio.create_task(ctx.run("loser", asyncio.Event().wait))
        await ctx.run("winner", Calls()("winner", turns=3))
        loser.cancel()

    with capture_logs() as lines:
        assert (await Model().drive(endpoint(run))).ending == "done"
    assert lines == []


@pytest.mark.parametrize("how", ["finally", "raise", "raise another", "raise from"])
async def test_a_function_that_cleaned_up_on_its_way_out_is_not_tried_again(how: str) -> None:
    """That step is done; a second attempt might not come to it, and would not fit its journal."""
    calls = Calls()

    def fails() -> None:
        raise ConnectionError("outside of steps")

    async def at_last(ctx: Context) -> None:
        await ctx.run("charge", calls("charge"))
        try:
            fails()
        finally:
            await ctx.run("release", calls("release"))

    async def caught(ctx: Context) -> None:
        await ctx.run("charge", calls("charge"))
        try:
            fails()
        except ConnectionError as error:
            await ctx.run("release", calls("release"))
            if how == "raise":
                raise
            if how == "raise from":
                raise ConnectionError("outside of steps") from error
            raise ConnectionError("outside of steps")  # noqa: B904

    run = at_last if how == "finally" else caught
    model = Model(retry=RetryPolicy(retries=3))
    ending = await model.drive(endpoint(run))
    assert (ending.ending, calls.made, len(model.endings)) == ("dead", ["charge", "release"], 1)
    assert first_line(ending) == (
        "ConnectionError: outside of steps (not tried again, since step 'release' was executed on the way out)"
    )


async def test_a_failure_that_was_handled_with_a_step_is_no_way_out() -> None:
    """What fails afterwards is tried again."""
    calls = Calls()
    tries: list[int] = []

    async def run(ctx: Context) -> str:
        try:
            raise ConnectionError("handled")
        except ConnectionError:
            await ctx.run("note", calls("note"))
        tries.append(len(tries))
        if len(tries) < 2:
            raise TimeoutError("later")
        return "through"

    ending = await Model(retry=RetryPolicy(retries=3)).drive(endpoint(run))
    assert (ending.result, calls.made, tries) == ('"through"', ["note"], [0, 1])
