"""Failures of steps and of the function: what is tried again, when, and what is final."""

import asyncio
from typing import Any

import pytest

from batchflow.core.retry import RetryPolicy
from batchflow.errors import ConfigurationError, NonRetryable, RateLimited, RetryAfter, StepFailed
from batchflow.serve.context import WorkflowContext
from tests.serve.store_model import Calls, Model, endpoint

Context = WorkflowContext[Any]


async def test_a_failed_step_is_tried_again_by_the_policy() -> None:
    """After 1 s, 4 s and 16 s; the code sees nothing of it, and recorded steps are not executed again."""
    calls = Calls()

    async def run(ctx: Context) -> Any:
        await ctx.run("before", calls("before"))
        return await ctx.run("charge", calls("charge", "paid", fails=3))

    model = Model()
    ending = await model.drive(endpoint(run))
    assert (ending.ending, ending.result) == ("done", '"paid"')
    assert calls.made == ["before", "charge", "charge", "charge", "charge"]
    assert [settled.due for settled in model.endings[:3] if settled] == [1_001_000, 1_005_000, 1_021_000]
    assert {settled.ending for settled in model.endings[:3] if settled} == {"suspended"}


async def test_a_retry_that_is_not_due_parks_again() -> None:
    """A claim that comes too early executes nothing and writes nothing."""
    calls = Calls()

    async def run(ctx: Context) -> Any:
        return await ctx.run("charge", calls("charge", fails=1))

    model = Model()
    first = await model.deliver(endpoint(run))
    model.clock.time -= 500
    second = await model.deliver(endpoint(run))
    assert first is not None
    assert second is not None
    assert (second.ending, second.due, second.steps) == ("suspended", first.due, ())
    assert calls.made == ["charge"]


@pytest.mark.parametrize("always_replay", [False, True])
async def test_a_final_failure_is_recorded_and_raised_alike_on_replay(always_replay: bool) -> None:
    """`StepFailed` names step, error and attempts, and user code may go on from there."""
    seen: list[tuple[str, str, int, str]] = []
    calls = Calls()

    async def run(ctx: Context) -> Any:
        try:
            await ctx.run("charge", calls("charge", fails=9))
        except StepFailed as error:
            seen.append((error.step, error.error, error.attempts, "".join(error.__notes__)))
        return await ctx.run("refund", calls("refund", 5))

    model = Model(always_replay=always_replay)
    ending = await model.drive(endpoint(run, retry=RetryPolicy(retries=1)))
    assert (ending.ending, ending.result, calls.made) == ("done", "5", ["charge", "charge", "refund"])
    assert len(seen) == (2 if always_replay else 1)
    assert {one[:3] for one in seen} == {("charge", "ConnectionError: charge is down", 2)}
    assert len(set(seen)) == 1
    assert "in call\n" in seen[0][3]


async def test_an_uncaught_final_failure_kills_the_run() -> None:
    """The dead letter says which step, how often and why, with the traceback of the cause."""

    async def run(ctx: Context) -> Any:
        return await ctx.run("charge", Calls()("charge", fails=9))

    ending = await Model().drive(endpoint(run, retry=RetryPolicy.none()))
    assert ending.ending == "dead"
    assert ending.error is not None
    assert ending.error.startswith(
        "StepFailed: step 'charge' failed after 1 attempt: ConnectionError: charge is down\n"
    )
    assert 'raise ConnectionError(f"{name} is down")' in ending.error


async def test_a_step_may_have_a_policy_of_its_own() -> None:
    """It replaces the run's; a message's policy replaces the endpoint's."""
    calls = Calls()

    async def run(ctx: Context) -> Any:
        await ctx.step(retry=RetryPolicy(retries=4, first="1ms")).run("own", calls("own", fails=4))
        return await ctx.run("charge", calls("charge", fails=1))

    model = Model(retry=RetryPolicy.none())
    ending = await model.drive(endpoint(run, retry=RetryPolicy(retries=9)))
    assert (ending.ending, calls.made.count("own"), calls.made.count("charge")) == ("dead", 5, 1)


@pytest.mark.parametrize(
    "error", [NonRetryable("no"), ConfigurationError("no")], ids=lambda error: type(error).__name__
)
async def test_some_failures_are_final_at_once(error: Exception) -> None:
    """The step fails on its first attempt."""

    async def fail() -> None:
        raise error

    async def run(ctx: Context) -> Any:
        await ctx.run("charge", fail)

    model = Model()
    ending = await model.drive(endpoint(run))
    assert (ending.ending, len(model.endings)) == ("dead", 1)


async def test_a_value_that_does_not_survive_fails_its_step() -> None:
    """The sentence names the step; no attempt is repeated."""

    async def strange() -> Any:
        return object()

    async def run(ctx: Context) -> str:
        try:
            await ctx.run("strange", strange)
        except StepFailed as error:
            return error.error
        return "nothing"

    model = Model()
    ending = await model.drive(endpoint(run))
    assert ending.result is not None
    assert ending.result.startswith("\"UnserializableError: step 'strange': object does not survive JSON")
    assert len(model.endings) == 1


async def test_retry_after_is_obeyed_in_a_step() -> None:
    """The next attempt is made when the code said, and it counts."""

    async def busy() -> None:
        raise RetryAfter(90)

    async def run(ctx: Context) -> Any:
        await ctx.run("call", busy)

    model = Model()
    ending = await model.drive(endpoint(run, retry=RetryPolicy(retries=1)))
    assert (ending.ending, model.clock.now()) == ("dead", 1_090_000)


async def test_a_rate_limit_parks_the_flow_key_and_burns_no_attempt() -> None:
    """However often it happens, in a step or outside of one."""
    limits = iter(range(5))

    async def busy() -> str:
        if next(limits, None) is not None:
            raise RateLimited(10, "slow down")
        return "through"

    outside = iter(range(2))

    async def run(ctx: Context) -> Any:
        result = await ctx.run("call", busy)
        if next(outside, None) is not None:
            raise RateLimited(20)
        return result

    model = Model()
    ending = await model.drive(endpoint(run, retry=RetryPolicy.none()))
    assert ending.result == '"through"'
    assert [settled.ending for settled in model.endings if settled] == ["parked"] * 7 + ["done"]
    first = model.endings[0]
    assert first is not None
    assert (first.due, first.error, first.steps) == (1_010_000, "RateLimited: slow down", ())
    assert model.clock.now() == 1_090_000


async def test_a_step_that_takes_too_long_is_cancelled_and_tried_again() -> None:
    """Its `TimeoutError` counts as any failure."""
    attempts: list[int] = []

    async def slow() -> int:
        attempts.append(len(attempts))
        if len(attempts) < 3:
            await asyncio.Event().wait()
        return len(attempts)

    async def run(ctx: Context) -> int:
        return await ctx.step(timeout="5ms").run("slow", slow)

    model = Model()
    ending = await model.drive(endpoint(run))
    assert ending.result == "3"
    first = model.endings[0]
    assert first is not None
    assert [step.error for step in first.steps] == ["TimeoutError: took longer than 5ms"]


async def test_a_failure_outside_steps_retries_the_run() -> None:
    """It counts on the message, and each recorded step starts the count anew."""
    calls = Calls()
    attempts: list[int] = []

    async def run(ctx: Context) -> Any:
        attempts.append(ctx.attempt)
        await ctx.run("a", calls("a"))
        if len(attempts) < 3:
            raise ValueError("not yet")
        await ctx.run("b", calls("b"))
        raise ValueError("never")

    model = Model()
    ending = await model.drive(endpoint(run, retry=RetryPolicy(retries=2, first="1s", factor=2)))
    assert (ending.ending, calls.made) == ("dead", ["a", "b"])
    # The third attempt records a step, so its failure is a first one.
    assert attempts == [1, 2, 3, 2, 3]
    assert [settled.due for settled in model.endings if settled] == [1_001_000, 1_003_000, 1_004_000, 1_006_000, 0]
    retried = model.endings[0]
    assert retried is not None
    assert (retried.ending, retried.error) == ("retry", "ValueError: not yet")
