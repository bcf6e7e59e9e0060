"""Steps one after the other: their results, failures, retries and limits."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, assert_type

import pytest

from batchflow.core.codec import Codec
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import Publish
from batchflow.errors import ConfigurationError, NonRetryable, RateLimited, RetryAfter, StepFailed
from batchflow.serve.context import WorkflowContext
from tests.serve.model import Calls, ManualClock, Model, endpoint

Context = WorkflowContext[Any]


@dataclass
class Order:
    id: int
    words: tuple[str, ...]


async def load(id: int, *, loud: bool = False) -> Order:
    return Order(id, ("A" if loud else "a",))


def compute(order: Order) -> int:
    return order.id + len(order.words)


def either(order: Order) -> Order | Awaitable[Order]:
    return order


def hook(order: Order) -> int | Awaitable[int]:
    return order.id


@pytest.mark.parametrize("always_replay", [False, True])
async def test_results_keep_their_types(always_replay: bool) -> None:
    """A dataclass stays one, on the first pass and on every replay; pyright infers what a step returns."""
    seen: list[Order] = []

    async def run(ctx: Context) -> int:
        order = await ctx.run("load", load, 3, loud=True)
        assert_type(order, Order)
        seen.append(order)
        count = await ctx.run("count", compute, order)
        assert_type(count, int)
        assert_type(await ctx.run("hook", hook, order), int)
        assert_type(await ctx.step(timeout="1m").run("again", load, 3), Order)
        assert_type(await ctx.step(timeout="1m").run("count again", compute, order), int)
        return count

    model = Model(always_replay=always_replay)
    ending = await model.drive(endpoint(run))
    assert (ending.ending, ending.result) == ("done", "4")
    # The first attempt of the second mode is given up before it has seen anything.
    assert seen == [Order(3, ("A",))] * (5 if always_replay else 1)
    assert len(model.endings) == (6 if always_replay else 1)


async def test_a_fresh_run_is_done_in_one_attempt() -> None:
    """Steps are recorded one by one, in order, and executed once."""
    calls = Calls()

    async def run(ctx: Context) -> list[int]:
        return [await ctx.run(name, calls(name, number)) for number, name in enumerate("abc")]

    model = Model()
    ending = await model.drive(endpoint(run))
    assert (ending.result, calls.made, model.names) == ("[0, 1, 2]", ["a", "b", "c"], ["a", "b", "c"])
    assert [(step.number, step.position) for step in model.journal] == [(1, 1), (2, 2), (3, 3)]
    assert ending.steps == ()


async def test_the_context_knows_its_message() -> None:
    """Payload, id, headers and attempt come from the claim."""
    seen: list[object] = []

    async def run(ctx: Context) -> None:
        seen.append((ctx.payload, ctx.run_id, dict(ctx.headers), ctx.attempt))
        if ctx.attempt < 3:
            raise ConnectionError

    model = Model(payload='{"a": 1}', headers={"trace": "7"})
    await model.drive(endpoint(run))
    assert seen == [({"a": 1}, "run_1", {"trace": "7"}, attempt) for attempt in (1, 2, 3)]


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


async def test_sleeping_takes_no_place() -> None:
    """The run is given back until the time has come, counted from the first time the code came there."""

    async def run(ctx: Context) -> None:
        await ctx.sleep("a while", "1h")
        await ctx.sleep_until("a date", datetime.fromtimestamp(8_000, UTC))
        await ctx.sleep_until("past", 5)
        await ctx.sleep("nothing", 0)

    model = Model(clock=ManualClock(0))
    await model.drive(endpoint(run))
    assert [(settled.ending, settled.due) for settled in model.endings if settled] == [
        ("suspended", 3_600_000),
        ("suspended", 8_000_000),
        ("done", 0),
    ]
    assert model.names == ["a while", "a date", "past", "nothing"]


@pytest.mark.parametrize("when", [datetime(2030, 1, 1), "tomorrow", 1.5, True], ids=str)  # noqa: DTZ001
async def test_a_time_without_a_zone_is_refused(when: Any) -> None:
    """The sentence says what to write."""

    async def run(ctx: Context) -> None:
        await ctx.sleep_until("a date", when)

    ending = await Model().drive(endpoint(run))
    assert ending.error is not None
    assert ending.error.startswith(
        f"ConfigurationError: 'when' cannot be {when!r}; write a datetime with its time zone, such as "
        f"datetime(2030, 1, 1, tzinfo=timezone.utc), or milliseconds since the epoch"
    )


TEXT = Codec.of(str)


async def shout(word: str) -> str:
    return word.upper()


async def test_the_last_step_rides_with_the_settlement() -> None:
    """It is not recorded on its own, and a run that is done drops it."""
    model = Model()

    async def run(ctx: Context) -> str:
        first = await ctx.step_as("first", TEXT, shout, "a")
        return first + await ctx.step_as("save", TEXT, shout, "b", last=True)

    ending = await model.drive(endpoint(run))
    assert (ending.result, ending.steps, model.records) == ('"AB"', (), 1)


async def test_the_last_step_is_kept_when_the_run_is_not_done() -> None:
    """Its outcome is in the settlement's steps, and is not executed again."""
    calls = Calls()
    attempts: list[int] = []

    async def run(ctx: Context) -> str:
        attempts.append(1)
        result = await ctx.step_as("save", TEXT, calls("save", "b"), last=True)
        if len(attempts) == 1:
            raise ValueError
        return result

    model = Model()
    ending = await model.drive(endpoint(run))
    assert (ending.result, calls.made, model.records) == ('"b"', ["save"], 0)
    first = model.endings[0]
    assert first is not None
    assert [(step.name, step.position, step.value) for step in first.steps] == [("save", 1, '"b"')]


async def test_the_last_step_fails_as_any_other() -> None:
    """It is tried again, and its final failure stands in the dead letter's journal."""
    calls = Calls()

    async def run(ctx: Context) -> str:
        return await ctx.step_as("save", TEXT, calls("save", "b", fails=9), last=True)

    model = Model()
    ending = await model.drive(endpoint(run, retry=RetryPolicy(retries=1)))
    assert (ending.ending, calls.made) == ("dead", ["save", "save"])
    assert [(step.name, step.state, step.failures) for step in ending.steps] == [("save", "failed", 2)]


async def test_nothing_follows_the_last_step() -> None:
    """What is not durable yet must not be built on."""

    async def run(ctx: Context) -> str:
        await ctx.step_as("save", TEXT, shout, "b", last=True)
        return await ctx.step_as("more", TEXT, shout, "b")

    ending = await Model().drive(endpoint(run))
    assert ending.error is not None
    assert ending.error.startswith(
        "ReplayError: step 'more' is asked for after step 'save', which was asked for as the last one"
    )


async def test_effects_go_with_the_settlement_of_a_done_run() -> None:
    """What an attempt that was given up had collected is gone with it."""

    async def run(ctx: Context) -> None:
        ctx.effects.append(Publish(()))
        await ctx.run("a", Calls()("a"))
        ctx.effects.append(Publish(()))

    ending = await Model(faults={1: "reply lost"}).drive(endpoint(run))
    assert ending.effects == (Publish(()), Publish(()))
