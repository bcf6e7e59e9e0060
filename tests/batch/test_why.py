"""Why a batch is not done: the sentence and the tables that answer an operator, for each reason."""

from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from batchflow import Batchflow, BatchSummary, BatchWorkflow, FailureBudget, FlowControl, Page
from batchflow.batch.handle import BatchHandle
from batchflow.batch.workflow import NoParams
from batchflow.core.batch import Failure
from batchflow.core.flow import FlowStatus
from batchflow.core.message import Claim
from batchflow.core.run import NEVER, Step
from batchflow.core.settlement import Settlement, dead, done, parked, suspended
from batchflow.testing import ManualClock, drive

BOOM = (Failure("Boom", "", "Boom: no"),)


class Orders(BatchWorkflow[NoParams]):
    """Orders on two pages."""

    entity = "order"
    execute_flow = None

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=["o1", "o2"], next_cursor=None if cursor else "2")

    async def execute(self, order_id: str) -> None:
        pass

    async def on_complete(self, summary: BatchSummary) -> None:
        pass


class Desk:
    """An app without a worker of its own; the test is the worker `mail-1`."""

    def __init__(self, flow: Batchflow, clock: ManualClock) -> None:
        self.flow, self.clock = flow, clock
        self.store = flow.engine.store
        self.workflow = flow.add(Orders())
        self.routes = self.workflow.definition.routes
        self.key = self.workflow.definition.execute_flow.key or ""

    async def register(self, lease_ms: int = 600_000) -> None:
        await self.store.register("mail-1", lease_ms, 8, self.routes)

    async def start(self, *ids: str) -> BatchHandle[Any]:
        """A batch whose items wait for the worker, which is there."""
        handle = await self.workflow.trigger(ids=list(ids))
        await self.store.pause(self.key)
        await drive(self.flow, self.clock)
        await self.store.resume(self.key)
        await self.register()
        return handle

    async def claim(self, count: int = 9) -> list[Claim]:
        return list((await self.store.claim("mail-1", list(self.routes), count)).claims)

    async def fail(self, claim: Claim, seconds: int) -> None:
        due = self.clock.now() + seconds * 1000
        await self.store.settle(Settlement(claim.id, claim.fence, "retry", error="Boom: no", due=due, failures=BOOM))


@pytest.fixture
async def desk() -> AsyncGenerator[Desk]:
    clock = ManualClock()
    async with Batchflow("sqlite://", clock=clock, worker=False) as flow:
        yield Desk(flow, clock)


async def test_why_tells_items_that_are_tried_again(desk: Desk) -> None:
    """With the next attempt, and each with its error, those tried again soonest first."""
    handle = await desk.start("o1", "o2", "o3")
    first, second, third = await desk.claim()
    await desk.fail(first, 60)
    await desk.fail(second, 8)
    await desk.fail(third, 30)
    report = await handle.why()
    assert report.sentence.startswith("it waits for 3 items that are tried again, the next in 8s (")
    assert [(it.item, it.state, it.error) for it in report.items] == [
        (id, "retrying", "Boom: no") for id in ("o2", "o3", "o1")
    ]
    desk.clock.advance("20s")
    report = await handle.why()
    assert "the next as soon as there is room" in str(report)


async def test_why_puts_retries_before_running_and_waiting_items(desk: Desk) -> None:
    """And says how long the oldest has run, and the limit for which the rest waits."""
    handle = await desk.start(*[f"o{number}" for number in range(1, 7)])
    await desk.store.pin(FlowControl(key=desk.key, parallelism=3))
    first, *_ = await desk.claim()
    await desk.fail(first, 60)
    desk.clock.advance("10s")
    await desk.claim()
    report = await handle.why()
    assert [it.state for it in report.items] == ["retrying", *["running"] * 3, *["waiting"] * 2]
    assert "1 item that is tried again, in 50s" in report.sentence
    assert "3 items that have run for at most 10s" in report.sentence
    assert "2 items to start (limit: parallelism 3)" in report.sentence
    (key,) = report.keys
    assert (key.status.limits.key, key.status.in_use) == (desk.key, 3)
    assert [it.item for it in key.holders] == ["o2", "o3", "o4"]
    assert [it.name for it in report.workers] == ["mail-1"]


async def test_why_tells_what_suspended_items_wait_for(desk: Desk) -> None:
    """A step that waits for an event, or a sleep with its end."""
    handle = await desk.start("o1", "o2")
    first, second = await desk.claim()
    nap = desk.clock.now() + 90_000
    await desk.store.settle(suspended(first, nap, (Step(1, "nap", "sleep", "pending", due=nap),)))
    await desk.store.settle(suspended(second, NEVER, (Step(1, "approved", "wait", "pending"),)))
    report = await handle.why()
    assert [(it.item, it.state, report.steps[it.id]) for it in report.items] == [
        ("o1", "suspended", "sleep 'nap'"),
        ("o2", "suspended", "wait 'approved'"),
    ]
    assert "it waits for 2 items suspended, the first in sleep 'nap'" in report.sentence


async def test_why_tells_pages_that_are_not_walked(desk: Desk) -> None:
    """With the error of the page that is tried again."""
    await desk.register()
    handle = await desk.workflow.trigger()
    assert "its first layer, which waits to start" in str(await handle.why())
    (entry,) = await desk.claim()
    assert "its first layer, which has run for" in str(await handle.why())
    await desk.fail(entry, 5)
    report = await handle.why()
    assert "its first layer, which is tried again in 5s" in report.sentence
    assert report.sentence.endswith("after Boom: no")
    assert [(it.id, it.error) for it in report.layers] == [(entry.id, "Boom: no")]


async def test_why_names_what_stops_the_batch(desk: Desk) -> None:
    """A pause of it or of its key, its start time, a key that is parked."""
    later = await desk.workflow.trigger(not_before=datetime(2999, 12, 31, 12, tzinfo=UTC))
    assert "its start time, 2999-12-31 12:00:00 UTC, has not come" in str(await later.why())
    await later.cancel()
    handle = await desk.start("o1", "o2")
    await handle.pause()
    assert str(await handle.why()).startswith("an operator has paused the batch; it waits for 2 items to start")
    await handle.resume()
    await desk.store.pause(desk.key)
    report = await handle.why()
    assert report.sentence.startswith(f"an operator has paused the flow key '{desk.key}'")
    assert [key.status.paused for key in report.keys] == [True]
    await desk.store.resume(desk.key)
    (claim,) = await desk.claim(1)
    await desk.store.settle(parked(claim, desk.clock.now() + 12_000, "RateLimited: slow down"))
    report = await handle.why()
    assert f"the flow key '{desk.key}' is parked for 12s" in report.sentence
    assert [it.state for it in report.items] == ["parked", "waiting"]


async def test_why_names_the_failure_budget_that_has_paused_the_batch(desk: Desk) -> None:
    """Before what waits because of it, and though no worker lives."""
    handle = await desk.start("o1", "o2")
    await handle.set_failure_budget(FailureBudget(max_failures=0))
    (claim,) = await desk.claim(1)
    await desk.store.settle(dead(claim, "Boom: no", failures=BOOM))
    desk.clock.advance(3_600_000)
    report = await handle.why()
    assert report.reason is not None
    assert report.reason.code == "failure_budget"
    assert report.sentence.startswith("1 of 1 items failed, over the failure budget: at most 0; ")


async def test_why_tells_that_no_live_worker_serves_the_batch(desk: Desk) -> None:
    """Where none is there, where the one that holds its items is lost, and where the others serve something else."""
    handle = await desk.workflow.trigger()
    report = await handle.why()
    assert report.sentence.startswith("no live worker serves it")
    assert [it.destination for it in report.unserved] == [desk.routes.process]
    await desk.register(5_000)
    assert not str(await handle.why()).startswith("no live worker")
    await desk.claim()
    desk.clock.advance("6s")
    report = await handle.why()
    assert report.sentence.startswith("no live worker serves it")
    assert [(it.name, it.lost) for it in report.workers] == [("mail-1", True)]
    await desk.store.expire()
    await desk.store.register("web-1", 60_000, 8, ("/other",))
    assert (await handle.why()).workers == []
    assert [it.state for it in (await handle.why()).layers] == ["lost"]


async def test_why_of_a_batch_that_is_cancelled_tells_what_ends(desk: Desk) -> None:
    """Until the last item has ended."""
    handle = await desk.start("o1", "o2")
    await desk.claim(1)
    await handle.cancel()
    report = await handle.why()
    assert report.sentence.startswith("it is being cancelled, and what is under way ends at its next step")
    assert [(it.item, it.state) for it in report.items] == [("o1", "running")]


async def test_why_of_a_batch_whose_items_have_ended_tells_its_on_complete(desk: Desk) -> None:
    """Until it has ended; then the batch is done since the end of its last item."""
    handle = await desk.start("o1")
    (item,) = await desk.claim()
    await desk.store.settle(done(item, "null"))
    assert str(await handle.why()) == "it waits for its on_complete, which waits to start"
    desk.clock.advance("3s")
    (completion,) = await desk.claim()
    desk.clock.advance("2s")
    assert str(await handle.why()) == "it waits for its on_complete, which has run for 2s"
    await desk.store.settle(dead(completion, "Boom: no"))
    assert "but its on_complete failed: Boom: no" in str(await handle.why())


async def test_why_of_a_batch_that_is_done_says_since_when(desk: Desk) -> None:
    """And lists nothing."""
    handle = await desk.workflow.trigger(ids=["o1"])
    await desk.register()
    await drive(desk.flow, desk.clock)
    report = await handle.why()
    assert report.sentence.startswith("it is done: completed since 20")
    assert (report.items, report.layers, report.keys, report.workers) == ((), (), (), ())


async def test_why_reads_a_bounded_number_of_items(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands that are open it lists twenty; the others are known from the batch, and not counted by the store."""
    flows, counted = desk.store.flows, list[bool]()

    async def observed(keys: Sequence[str] | None = None, *, waiting: bool = True) -> Sequence[FlowStatus]:
        counted.append(waiting)
        return await flows(keys, waiting=waiting)

    handle = await desk.start(*[f"o{number:04d}" for number in range(3_000)])
    for claim in await desk.claim(50):
        await desk.fail(claim, 60)
    monkeypatch.setattr(desk.store, "flows", observed)
    report = await handle.why()
    assert [it.state for it in report.items] == ["retrying"] * 20
    assert "50 items that are tried again" in report.sentence
    assert "2,950 items to start" in report.sentence
    assert set(counted) == {False}
