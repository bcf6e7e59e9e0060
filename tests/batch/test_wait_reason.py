"""The reason why a batch goes no further: in the bar of the command, and in the error of a wait that is over."""

import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

import pytest

from batchflow import Batchflow, BatchWorkflow, FlowControl, Page
from batchflow.batch.handle import BatchHandle
from batchflow.batch.status import BatchStatus, WaitReason
from batchflow.batch.wait_reason import WaitReasons, failing_text, find_wait_reason, format_groups
from batchflow.batch.workflow import NoParams
from batchflow.core.batch import Batch, Counts, ErrorGroup
from batchflow.core.settlement import parked
from batchflow.testing import ManualClock, drive


class Reviews(BatchWorkflow[NoParams]):
    """Two items, for which nobody works here."""

    entity = "review"

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=["r1", "r2"])

    async def execute(self, review_id: str) -> None:
        pass


class Stage:
    """An app without a worker, and its one batch."""

    def __init__(self, flow: Batchflow, clock: ManualClock) -> None:
        self.flow, self.clock = flow, clock
        self.store = flow.engine.store
        self.workflow = flow.add(Reviews())
        self.key = self.workflow.definition.execute_flow.key or ""

    async def reason(self, handle: BatchHandle[Any]) -> WaitReason | None:
        return (await handle.status()).wait_reason

    async def serve(self) -> None:
        """Walk the pages, so that the items wait for a worker, which is there."""
        await self.store.pause(self.key)
        await drive(self.flow, self.clock)
        await self.store.resume(self.key)
        await self.store.register("mail-1", 600_000, 8, self.workflow.definition.routes)


@pytest.fixture
async def stage() -> AsyncGenerator[Stage]:
    clock = ManualClock()
    async with Batchflow("sqlite://", clock=clock, worker=False) as flow:
        yield Stage(flow, clock)


async def test_paused_batch_is_told(stage: Stage) -> None:
    """An operator has done that."""
    handle = await stage.workflow.trigger()
    await stage.store.pause_batch(handle.id)
    assert await stage.reason(handle) == ("paused", "an operator has paused the batch")


async def test_silent_worker_is_told_with_what_it_holds(stage: Stage) -> None:
    """Its claims go to others when its lease ends."""
    handle = await stage.workflow.trigger()
    await stage.store.register("mail-1", 60_000)
    route = stage.workflow.definition.routes.process
    assert len((await stage.store.claim("mail-1", [route], 10)).claims) == 1
    assert await stage.reason(handle) is None
    stage.clock.advance(25)
    silent = ("worker_silent", "the worker 'mail-1' holds 1 and has been silent for 25s")
    assert await stage.reason(handle) == silent


async def test_start_time_that_has_not_come_is_told(stage: Stage) -> None:
    """With the time; a batch with a delay waits for it, and for no worker or limit."""
    handle = await stage.workflow.trigger(not_before=datetime(2999, 12, 31, 12, tzinfo=UTC))
    assert await stage.reason(handle) == (
        "not_before",
        "its start time, 2999-12-31 12:00:00 UTC, has not come",
    )


async def test_batch_that_nobody_serves_is_told(stage: Stage) -> None:
    """Until a worker is there that does."""
    handle = await stage.workflow.trigger()
    assert await stage.reason(handle) == ("unserved", "nobody serves '/reviews/process-reviews'")
    await stage.store.register("mail-1", 60_000, 8, stage.workflow.definition.routes)
    assert await stage.reason(handle) is None


async def test_paused_and_parked_keys_are_told(stage: Stage) -> None:
    """With the key, under which other workflows may run as well."""
    handle = await stage.workflow.trigger(ids=["r1", "r2"])
    await stage.serve()
    await stage.store.pause(stage.key)
    assert await stage.reason(handle) == ("key_paused", f"an operator has paused the flow key '{stage.key}'")
    await stage.store.pause(stage.key, stage.clock.now() + 3_600_000)
    code, sentence = await stage.reason(handle) or ("", "")
    assert code == "key_paused"
    assert re.search(r" until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$", sentence)
    await stage.store.resume(stage.key)
    (claim,) = (await stage.store.claim("mail-1", [stage.workflow.definition.routes.execute], 1)).claims
    await stage.store.settle(parked(claim, stage.clock.now() + 12_000, "RateLimited: slow down"))
    reason = await stage.reason(handle)
    assert reason == ("key_parked", f"a service limits its rate: the flow key '{stage.key}' is parked for 12s")


async def test_binding_limit_is_told(stage: Stage) -> None:
    """A limit that an operator has set holds back as that of the code does."""
    handle = await stage.workflow.trigger(ids=["r1", "r2"])
    await stage.serve()
    await stage.store.pin(FlowControl(key=stage.key, parallelism=1))
    assert len((await stage.store.claim("mail-1", [stage.workflow.definition.routes.execute], 9)).claims) == 1
    assert await stage.reason(handle) == ("limit", "limit: parallelism 1")


async def test_batch_with_a_higher_priority_is_told(stage: Stage) -> None:
    """Beside the limit that both share, while it has open items and is not paused."""
    low = await stage.workflow.trigger(ids=["r1", "r2"], priority=2)
    high = await stage.workflow.trigger(ids=["r3", "r4"], priority=5)
    await stage.serve()
    await stage.store.pin(FlowControl(key=stage.key, parallelism=1))
    assert len((await stage.store.claim("mail-1", [stage.workflow.definition.routes.execute], 9)).claims) == 1
    told = f"limit: parallelism 1; batch '{high.id}' goes first, whose priority is 5"
    assert await stage.reason(low) == ("limit", told)
    assert await stage.reason(high) == ("limit", "limit: parallelism 1")
    await high.pause()
    assert await stage.reason(low) == ("limit", "limit: parallelism 1")


async def test_reason_is_found_without_the_app_of_the_batch(stage: Stage) -> None:
    """As an operator's command does, which has only the store."""
    handle = await stage.workflow.trigger()
    batch = await stage.store.batch(handle.id)
    assert batch is not None
    found = await find_wait_reason(stage.store, None, batch, stage.clock.now())
    assert found == ("unserved", "nobody serves '/reviews/process-reviews'")


async def test_reason_is_kept_for_a_second(stage: Stage) -> None:
    """The store counts what waits each time that it is asked."""
    handle = await stage.workflow.trigger()
    reasons = WaitReasons(stage.flow.engine, stage.workflow.definition)
    batch = await stage.store.batch(handle.id)
    assert batch is not None
    first = await reasons.find(batch)
    await stage.store.register("mail-1", 60_000, 8, stage.workflow.definition.routes)
    assert (first, await reasons.find(batch)) == (first, first)
    stage.clock.advance(1)
    assert await reasons.find(batch) is None


async def test_timeout_of_a_wait_says_how_far_the_batch_is_and_why(stage: Stage) -> None:
    """Not only that it goes on, which it may not do."""
    handle = await stage.workflow.trigger()
    await stage.store.pause_batch(handle.id)
    with pytest.raises(TimeoutError, match="0 of 0 items have ended; an operator has paused the batch"):
        await handle.wait(0)


def _batch(*groups: ErrorGroup, retrying: int = 0) -> BatchStatus:
    batch = Batch(id="bat_1", workflow="w", state="open", counts=Counts(open=9, retrying=retrying), errors=groups)
    return BatchStatus.of(batch, 1_000)


def test_failures_are_one_line() -> None:
    """A single kind has its message and place; of many kinds the most frequent are named."""
    refused = ErrorGroup("ConnectError", "reviews.py:41 in execute", 1_500, 0, "ConnectError: refused")
    kinds = [ErrorGroup(f"Error{n}", "", 9 - n, 0, f"Error{n}: x") for n in range(5)]
    assert failing_text(_batch(refused, retrying=1_200)) == (
        "1,200 retrying: 1,500 × ConnectError: refused (reviews.py:41 in execute)"
    )
    assert failing_text(_batch(refused)) == ""
    assert format_groups(kinds) == "9 × Error0, 8 × Error1, 7 × Error2 and 2 more kinds"
