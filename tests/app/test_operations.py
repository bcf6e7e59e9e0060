"""The operations of an app on its runs: start, find, notify and cancel them, from async code and from outside of it."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from batchflow import Batchflow, FlowControl, NoParams, RetryPolicy, WorkflowContext
from batchflow.errors import (
    ConfigurationError,
    InputError,
    NotFoundError,
    RunFailed,
    StoreUnavailable,
    UnserializableError,
)
from batchflow.serve.functions import ServedFunction
from batchflow.serve.runs import RunHandle
from batchflow.testing import FaultyStore, ManualClock, drive
from tests.waiting import DEADLINE_S


class Order(BaseModel):
    number: int = 0


class Shop:
    """An app with two functions: one that is done at once, one that waits for payment."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.flow = Batchflow("sqlite://", clock=self.clock, worker=False)
        self.ship: ServedFunction[Order, int] = self.flow.serve("/ship", label="shipping")(_ship)
        self.pay: ServedFunction[Order, str] = self.flow.serve("/pay")(_pay)

    async def drive(self) -> None:
        await drive(self.flow, self.clock)


async def _ship(ctx: WorkflowContext[Order]) -> int:
    return await ctx.run("pack", lambda: ctx.payload.number * 2)


async def _pay(ctx: WorkflowContext[Order]) -> str:
    paid = await ctx.wait_for_event("paid", f"paid:{ctx.payload.number}", data=str)
    return paid.data


@pytest.fixture
async def shop() -> AsyncGenerator[Shop]:
    made = Shop()
    await made.flow.start()
    yield made
    await made.flow.stop()


# Starting


async def test_a_trigger_starts_a_run_and_its_handle_knows_the_type_of_the_result(shop: Shop) -> None:
    run = await shop.flow.trigger(shop.ship, Order(number=3))
    await shop.drive()
    assert await run.wait() == 6
    assert await shop.flow.run(run.id).wait() == 6


async def test_a_run_is_waited_for_while_the_store_is_away(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a failover; asked how it stands, it is told."""
    run = await shop.flow.trigger(shop.ship, Order(number=3))
    await shop.drive()
    monkeypatch.setattr("batchflow.engine.watchers.FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(shop.flow.engine, "store", FaultyStore(shop.flow.engine.store, fail="run", times=4))
    with pytest.raises(StoreUnavailable):
        await run.status()
    assert await run.wait(timeout=DEADLINE_S) == 6


@pytest.mark.parametrize("options", [{"run_id": "order-7"}, {"dedup_id": "order 7"}])
async def test_a_second_trigger_of_the_same_id_starts_nothing(shop: Shop, options: dict[str, Any]) -> None:
    """And what was stored for the first one stays, also once that has ended."""
    first = await shop.ship.trigger(Order(number=1), **options)
    second = await shop.ship.trigger(Order(number=2), **options)
    await shop.drive()
    third = await shop.ship.trigger(Order(number=3), **options)
    await shop.drive()
    assert first.id == second.id == third.id
    assert await third.wait() == 2
    assert len((await shop.flow.runs()).runs) == 1


async def test_the_id_of_another_functions_run_is_refused(shop: Shop) -> None:
    """Its handle would read the result as that of this one."""
    await shop.ship.trigger(Order(number=1), run_id="order-7")
    with pytest.raises(InputError, match=r"^'run_id' cannot be 'order-7', which is a run of '/ship'$"):
        await shop.pay.trigger(Order(number=1), run_id="order-7")


async def test_dedup_ids_are_each_functions_own(shop: Shop) -> None:
    one = await shop.ship.trigger(Order(), dedup_id="x")
    other = await shop.pay.trigger(Order(), dedup_id="x")
    assert one.id != other.id


@pytest.mark.parametrize("as_time", [False, True])
async def test_a_run_starts_after_its_delay(shop: Shop, as_time: bool) -> None:
    begun = shop.clock.now()
    when = datetime.fromtimestamp(begun / 1000, UTC) + timedelta(days=30)
    run = await (shop.ship.trigger(Order(), not_before=when) if as_time else shop.ship.trigger(Order(), delay="30d"))
    assert (await run.status()).state == "waiting"
    await shop.drive()
    status = await run.status()
    assert status.started_at == begun + 30 * 86_400_000
    assert status.created_at == begun


async def test_many_runs_are_started_together(shop: Shop) -> None:
    runs = await shop.flow.trigger_many(shop.ship, [Order(number=number) for number in range(5)], label="bulk")
    await shop.drive()
    assert [await run.wait() for run in runs] == [0, 2, 4, 6, 8]
    assert {run.id for run in (await shop.flow.runs(label="bulk")).runs} == {run.id for run in runs}
    assert await shop.flow.trigger_many(shop.ship, []) == []


async def test_of_many_runs_all_are_started_or_none(shop: Shop) -> None:
    payloads: list[Any] = [Order(), "no order"]
    with pytest.raises(UnserializableError, match="the payload of '/ship'"):
        await shop.flow.trigger_many(shop.ship, payloads)
    assert (await shop.flow.runs()).runs == []


async def test_retries_and_limits_of_a_trigger_take_the_place_of_the_functions() -> None:
    clock = ManualClock()
    flow = Batchflow("sqlite://", clock=clock, worker=False)
    calls: list[int] = []
    own = FlowControl(key="own", parallelism=1)

    @flow.serve("/fails", retries=1, retry_delay="1000 * (1 + retried)")
    async def fails(ctx: WorkflowContext[NoParams]) -> None:
        def fail() -> None:
            calls.append(clock.now())
            raise ConnectionError("down")

        await ctx.run("fail", fail)

    async with flow:
        cases: list[tuple[dict[str, Any], list[int]]] = [
            ({}, [0, 1]),
            ({"retries": 2, "retry_delay": "5s", "flow_control": own}, [0, 5, 10]),
        ]
        for options, waits in cases:
            calls.clear()
            begun = clock.now()
            run = await fails.trigger(NoParams(), **options)
            await drive(flow, clock)
            assert [(at - begun) // 1000 for at in calls] == waits
            with pytest.raises(RunFailed, match="ConnectionError: down"):
                await run.wait()
        (status,) = await flow.engine.store.flows(["own"])
        assert status.limits == own


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"run_id": "a.b"}, "'run_id' cannot be 'a.b'"),
        ({"run_id": "bat_x"}, "ids of batches begin so"),
        ({"run_id": "a", "dedup_id": "b"}, "'run_id' and 'dedup_id' exclude each other"),
        ({"dedup_id": ""}, "'dedup_id' is empty"),
        ({"delay": "1s", "not_before": 5}, "'delay' and 'not_before' exclude each other"),
        ({"not_before": "tomorrow"}, "'not_before' cannot be 'tomorrow'"),
        ({"delay": "soon"}, "delay"),
        ({"label": ""}, "a label has 1 to 200 characters, not 0"),
        ({"flow_control": FlowControl(rate=1)}, "names no key"),
        ({"retries": -1}, "retries"),
    ],
)
async def test_a_wrong_option_is_one_sentence_and_nothing_starts(
    shop: Shop, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises((InputError, ConfigurationError), match="(?s).*") as raised:
        await shop.ship.trigger(Order(), **options)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)
    assert (await shop.flow.runs()).runs == []


async def test_one_id_names_one_run(shop: Shop) -> None:
    with pytest.raises(InputError, match="name one run; trigger several without them"):
        await shop.flow.trigger_many(shop.ship, [Order(), Order()], run_id="a")


# Finding


async def test_runs_are_found_by_state_function_and_label_page_by_page(shop: Shop) -> None:
    shipped: list[RunHandle[int]] = []
    for _ in range(3):
        shipped.append(await shop.ship.trigger(Order()))
        shop.clock.advance("1ms")
    await shop.flow.trigger_many(shop.pay, [Order(number=1), Order(number=2)])
    await shop.drive()
    assert {run.state for run in (await shop.flow.runs(function=shop.ship)).runs} == {"completed"}
    assert len((await shop.flow.runs(state="waiting", function="/pay")).runs) == 2
    assert (await shop.flow.runs(state="failed")).runs == []
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await shop.flow.runs(label="shipping", limit=2, cursor=cursor)
        found += [run.id for run in page.runs]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == [run.id for run in reversed(shipped)]


async def test_a_run_shows_its_steps_and_when_they_were_recorded(shop: Shop) -> None:
    run = await shop.pay.trigger(Order(number=1))
    await shop.drive()
    begun = shop.clock.now()
    shop.clock.advance("5m")
    await shop.flow.notify("paid:1", "card")
    await shop.drive()
    status = await run.status()
    (step,) = status.journal
    assert (step.name, step.kind, step.state, step.value, step.at - begun) == (
        "paid",
        "wait",
        "done",
        '"card"',
        300_000,
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"state": "asleep"}, "'state' cannot be 'asleep'"),
        ({"cursor": "x"}, "'cursor' cannot be 'x'"),
        ({"limit": 0}, "'limit' cannot be 0"),
    ],
)
async def test_a_wrong_question_is_one_sentence(shop: Shop, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        await shop.flow.runs(**options)


async def test_a_function_that_is_not_served_is_named_with_those_that_are(shop: Shop) -> None:
    with pytest.raises(NotFoundError, match="no function is served at '/shp'; there are: /pay, /ship"):
        await shop.flow.runs(function="/shp")


# Notifying


async def test_notify_reaches_who_waits_and_waiters_names_them(shop: Shop) -> None:
    run = await shop.pay.trigger(Order(number=1))
    await shop.drive()
    (waiter,) = await shop.flow.waiters("paid:1")
    assert (waiter.run, waiter.step, waiter.until) == (run.id, "paid", None)
    assert await shop.flow.notify("paid:2", "x") == []
    assert await shop.flow.notify("paid:1", "cash") == [run.id]
    assert await shop.flow.waiters("paid:1") == []
    await shop.drive()
    assert await run.wait() == "cash"


async def test_notify_of_one_run_is_kept_until_it_waits(shop: Shop) -> None:
    run = await shop.pay.trigger(Order(number=1), delay="1d")
    assert await shop.flow.notify("paid:1", "early", run.id) == [run.id]
    assert await shop.flow.notify("paid:1", "nobody", "run_x") == []
    await shop.drive()
    assert await run.wait() == "early"


@pytest.mark.parametrize("event", ["", "x" * 501, "batchflow:webhook:1"])
async def test_a_wrong_event_id_is_refused(shop: Shop, event: str) -> None:
    with pytest.raises(InputError, match="event id"):
        await shop.flow.notify(event)


# Cancelling


async def test_runs_are_cancelled_by_id_label_and_function(shop: Shop) -> None:
    waiting = await shop.flow.trigger_many(shop.pay, [Order(number=number) for number in range(4)], label="a")
    await shop.flow.trigger_many(shop.pay, [Order(number=9)])
    await shop.drive()
    assert await shop.flow.cancel(waiting[0].id) == 1
    assert await shop.flow.cancel([waiting[0].id, waiting[1].id, "run_x"]) == 1
    assert await shop.flow.cancel(label="a", function=shop.ship) == 0
    assert await shop.flow.cancel(label="a") == 2
    assert await shop.flow.cancel(function=shop.pay) == 1
    assert {run.state for run in (await shop.flow.runs()).runs} == {"cancelled"}
    with pytest.raises(RunFailed, match="was cancelled"):
        await waiting[0].wait()


async def test_what_to_cancel_has_to_be_said(shop: Shop) -> None:
    with pytest.raises(InputError, match="say what to cancel"):
        await shop.flow.cancel()
    with pytest.raises(InputError, match="exclude each other"):
        await shop.flow.cancel("run_x", label="a")


# From outside of async code


def test_a_plain_script_triggers_without_an_event_loop(tmp_path: Path) -> None:
    """The run is stored when the call returns, and a worker that comes later carries it out."""
    flow = Batchflow(f"sqlite:///{tmp_path / 'runs.db'}")
    ship = flow.serve("/ship")(_ship)
    handle = flow.trigger_sync(ship, Order(number=4), label="script")

    async def work() -> int:
        async with flow:
            return await handle.wait(timeout=DEADLINE_S)

    assert asyncio.run(work()) == 8


def test_a_plain_script_is_told_that_memory_would_lose_its_run() -> None:
    ship = (flow := Batchflow("sqlite://")).serve("/ship")(_ship)
    with pytest.raises(InputError, match=r"start the app before, or give it a URL such as sqlite:///batchflow\.db"):
        flow.trigger_sync(ship, Order(number=4))


async def test_a_sync_step_triggers_through_the_running_app() -> None:
    flow = Batchflow("sqlite://")
    ship = flow.serve("/ship")(_ship)

    @flow.serve("/order")
    async def order(ctx: WorkflowContext[Order]) -> str:
        return await ctx.run("start", lambda: flow.trigger_sync(ship, ctx.payload, run_id="child").id)

    async with flow:
        assert await (await order.trigger(Order(number=5))).wait(timeout=DEADLINE_S) == "child"
        assert await ship.run("child").wait(timeout=DEADLINE_S) == 10


async def test_trigger_sync_does_not_block_an_event_loop(shop: Shop) -> None:
    with pytest.raises(InputError, match=r"write 'await flow.trigger\(…\)'"):
        shop.flow.trigger_sync(shop.ship, Order())


# Options of serve


def test_options_of_serve_that_are_wrong_are_refused(shop: Shop) -> None:
    with pytest.raises(ConfigurationError, match="'failure_url' cannot be 'nowhere'"):
        shop.flow.serve("/a", failure_url="nowhere")
    with pytest.raises(ConfigurationError, match="'retry' is a whole policy"):
        shop.flow.serve("/a", retry=RetryPolicy(), retries=3)


async def test_a_wait_without_an_end_leaves_the_run_due_never(shop: Shop) -> None:
    """So that an idle worker sleeps on."""
    await shop.pay.trigger(Order(number=1))
    await shop.drive()
    store = shop.flow.engine.store
    await store.register("w", 1_000)
    claimed = await store.claim("w", ["/pay"], 10)
    assert (list(claimed.claims), claimed.next_due) == ([], None)
