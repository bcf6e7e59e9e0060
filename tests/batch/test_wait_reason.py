"""The reason why a batch goes no further: in the bar of the command, and in the error of a wait that is over."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from batchflow import Batchflow, BatchWorkflow, Page
from batchflow.batch.handle import BatchHandle
from batchflow.batch.status import BatchStatus
from batchflow.batch.wait_reason import WaitReason, failing_text, find_wait_reason, format_groups
from batchflow.batch.workflow import NoParams
from batchflow.core.batch import Batch, Counts, ErrorGroup
from batchflow.testing.clock import ManualClock


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
        self.workflow = flow.add(Reviews())

    async def reason(self, handle: BatchHandle[Any]) -> WaitReason:
        store = self.flow.engine.store
        batch = await store.batch(handle.id)
        assert batch is not None
        return await find_wait_reason(store, self.workflow.definition, batch, self.clock.now())


@pytest.fixture
async def stage() -> AsyncGenerator[Stage]:
    clock = ManualClock()
    async with Batchflow("sqlite://", clock=clock, worker=False) as flow:
        yield Stage(flow, clock)


async def test_paused_batch_is_told(stage: Stage) -> None:
    """An operator has done that."""
    handle = await stage.workflow.trigger()
    await stage.flow.engine.store.pause_batch(handle.id)
    assert await stage.reason(handle) == WaitReason(sentence="an operator has paused the batch")


async def test_silent_worker_is_told_with_what_it_holds(stage: Stage) -> None:
    """Its claims go to others when its lease ends."""
    handle = await stage.workflow.trigger()
    store = stage.flow.engine.store
    await store.register("mail-1", 60_000)
    route = stage.workflow.definition.routes.process
    assert len((await store.claim("mail-1", [route], 10)).claims) == 1
    assert await stage.reason(handle) == WaitReason()
    stage.clock.advance(25)
    assert await stage.reason(handle) == WaitReason(sentence="the worker 'mail-1' holds 1 and has been silent for 25s")


async def test_start_time_that_has_not_come_is_told(stage: Stage) -> None:
    """A batch with a delay waits for it, and for no limit."""
    handle = await stage.workflow.trigger(delay="1h")
    await stage.flow.engine.store.register("mail-1", 60_000)
    stage.clock.advance(5)
    assert (await stage.reason(handle)).sentence == "its start time has not come"


async def test_timeout_of_a_wait_says_how_far_the_batch_is_and_why(stage: Stage) -> None:
    """Not only that it goes on, which it may not do."""
    handle = await stage.workflow.trigger()
    await stage.flow.engine.store.pause_batch(handle.id)
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
