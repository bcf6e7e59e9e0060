"""Steps one after the other: their results, and durable waits."""

from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, assert_type

import pytest

from batchflow.serve.context import WorkflowContext
from tests.serve.store_model import Calls, ManualClock, Model, endpoint

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
