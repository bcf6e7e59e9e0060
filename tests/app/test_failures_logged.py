"""What fails can be seen in the log while it fails, and a batch has one line at its start and one at its end."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from batchflow import (
    Batchflow,
    BatchSummary,
    BatchWorkflow,
    FlowControl,
    NoParams,
    Page,
    RateLimited,
    RetryPolicy,
    WorkflowContext,
)
from batchflow.core.message import LOSS_LIMIT
from batchflow.testing import ManualClock, drive


def of(lines: Sequence[Any], *levels: str) -> list[str]:
    return [line["event"] for line in lines if line["log_level"] in levels]


class Reviews(BatchWorkflow[NoParams, str, str]):
    """Every item fails twice, and one for good; another meets a rate limit."""

    entity = "review"
    execute_flow = None
    retry = RetryPolicy(retries=3, first="1s", jitter=0)

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=[f"r{number}" for number in range(10)])

    async def execute(self, item: str) -> str:
        self.seen[item] = self.seen.get(item, 0) + 1
        if item == "r5":
            raise ValueError("no\nsense")
        if self.seen[item] <= 2:
            raise ConnectionError("down")
        if item == "r7" and self.seen[item] == 3:
            raise RateLimited(2)
        return item


async def test_the_log_of_a_batch_that_fails_in_parts() -> None:
    """In virtual time: the first of each kind, the sum, the item that failed for good, the end."""
    clock = ManualClock()
    async with Batchflow("sqlite://", clock=clock, worker=False) as flow:
        reviews = flow.add(Reviews())
        with capture_logs() as lines:
            await reviews.trigger()
            await drive(flow, clock)
            await flow.stop()
    first, second, limit, *sums = of(lines, "warning")
    assert first == "[reviews:execute] Attempt 1 of 4 failed, again in 1 s: ConnectionError: down"
    assert second == "[reviews:execute] Attempt 1 of 4 failed, again in 1 s: ValueError: no sense"
    assert limit == "[reviews:execute] Rate limit, parked for 2 s: RateLimited: try again after 2 s"
    kinds = "17 × ConnectionError, 2 × ValueError"
    assert sums == [f"[reviews:execute] 19 attempts failed in 21 s, again in 1 s to 16 s: {kinds}"]
    assert of(lines, "error") == ["[reviews:execute:error] Failed: ValueError: no sense"]
    assert of(lines, "info") == ["[reviews:process] Starting with payload", "[reviews:process] Batch ended"]
    (end,) = [line for line in lines if line["event"].endswith("Batch ended")]
    assert (end["state"], end["succeeded"], end["failed"]) == ("completed", 9, 1)


async def test_a_start_is_logged_once() -> None:
    """Also if `count` is tried again; each attempt has its warning."""
    clock, failures = ManualClock(), iter([OSError("away"), OSError("away")])

    class Counting(Reviews):
        async def count(self, params: NoParams) -> int:
            if (error := next(failures, None)) is not None:
                raise error
            return 10

        async def execute(self, item: str) -> str:
            return item

    async with Batchflow("sqlite://", clock=clock, worker=False) as flow:
        counting = flow.add(Counting())
        with capture_logs() as lines:
            await counting.trigger()
            await drive(flow, clock)
            await flow.stop()
    assert of(lines, "info") == [
        "[counting:process] Starting with payload",
        "[counting:process] Total eligible items",
        "[counting:process] Batch ended",
    ]
    assert of(lines, "warning") == [
        "[counting:process] Attempt 1 of 4 failed, again in 1 s: OSError: away",
        "[counting:process] Attempt 2 of 4 failed, again in 4 s: OSError: away",
    ]


class Completing(Reviews):
    """Its completion fails at first, or for good."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    async def execute(self, item: str) -> str:
        return item

    async def on_complete(self, summary: BatchSummary) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise OSError("no mail")


async def log_of_completion(failures: int) -> list[Any]:
    clock = ManualClock()
    async with Batchflow("sqlite://", clock=clock, worker=False) as flow:
        completing = flow.add(Completing(failures))
        with capture_logs() as lines:
            await completing.trigger()
            await drive(flow, clock)
            await flow.stop()
    return list(lines)


async def test_the_end_of_a_batch_is_logged_once() -> None:
    """Also if `on_complete` is tried again."""
    lines = await log_of_completion(2)
    assert of(lines, "info") == ["[completing:process] Starting with payload", "[completing:process] Batch ended"]
    assert of(lines, "error") == []
    assert of(lines, "warning")[0].startswith("[completing:process] Attempt 1 of 4 failed, again in 1 s: OSError")


async def test_a_completion_that_fails_for_good_is_one_error() -> None:
    """It tells others of the batch, so somebody has to know."""
    lines = await log_of_completion(4)
    assert of(lines, "error") == ["[completing:process:error] on_complete failed for good: OSError: no mail"]


async def test_batches_that_end_otherwise_have_a_line_too() -> None:
    """An empty one, a cancelled one, one whose walk failed."""
    clock = ManualClock()
    async with Batchflow("sqlite://", clock=clock, worker=False) as flow:

        @flow.batch(ids=[])
        async def empty(id: str) -> str:
            return id

        @flow.batch(ids=["a"])
        async def cancelled(id: str) -> str:
            return id

        def broken_ids() -> list[str]:
            raise ValueError("no list")

        @flow.batch(ids=broken_ids, retry=RetryPolicy.none())
        async def broken(id: str) -> str:
            return id

        with capture_logs() as lines:
            await empty.trigger()
            await broken.trigger()
            await drive(flow, clock)
            await (await cancelled.trigger()).cancel()
            await flow.stop()
    ends = {line["event"]: line["state"] for line in lines if line["event"].endswith("Batch ended")}
    assert ends == {
        "[empty:process] Batch ended": "completed",
        "[broken:process] Batch ended": "failed",
        "[cancelled:process] Batch ended": "cancelled",
    }
    (error,) = of(lines, "error")
    assert error.startswith("[broken:paginate:error] The walk failed for good: ")


async def test_batch_that_ends_by_a_loss_or_with_its_parent_has_one_line() -> None:
    """No settlement of its own was the last: the verb that ended it tells."""
    clock = ManualClock()
    async with Batchflow("sqlite://", clock=clock, worker=False) as flow:

        @flow.batch(ids=["a"])
        async def lost(id: str) -> str:
            return id

        @flow.batch(ids=["a"])
        async def child(id: str) -> str:
            return id

        @flow.serve("/parent")
        async def parent(ctx: WorkflowContext[None]) -> None:
            await ctx.invoke("batch", child, NoParams(), delay="1h")

        store, route = flow.engine.store, lost.definition.routes.execute
        with capture_logs() as lines:
            await lost.trigger()
            await store.pause("lost.execute")
            await drive(flow, clock)
            await store.resume("lost.execute")
            for number in range(LOSS_LIMIT):
                await store.register(f"w{number}", 1_000)
                assert len((await store.claim(f"w{number}", [route], 1)).claims) == 1
                clock.advance("10m")
                await store.expire()
                clock.advance("1h")
            run = await parent.trigger(None)
            await drive(flow, clock, until=clock.now() + 1_000)
            assert await run.cancel()
            await flow.stop()
    ends = sorted((line["event"], line["state"]) for line in lines if line["event"].endswith("Batch ended"))
    assert ends == [("[child:process] Batch ended", "cancelled"), ("[lost:process] Batch ended", "completed")]


async def test_batch_that_one_process_cancels_and_another_ends_has_one_line(tmp_path: Path) -> None:
    """That of the process whose settlement was the last."""
    url, begun, may_end = f"sqlite:///{tmp_path / 'a.db'}", asyncio.Event(), asyncio.Event()

    def app(*, worker: bool) -> tuple[Batchflow, Any]:
        flow = Batchflow(url, worker=worker)

        @flow.batch(ids=["a", "b"], flow=FlowControl(parallelism=1))
        async def slow(id: str) -> str:
            begun.set()
            await may_end.wait()
            return id

        return flow, slow

    working, slow = app(worker=True)
    other, same = app(worker=False)
    with capture_logs() as lines:
        async with working, other:
            handle = await slow.trigger()
            await asyncio.wait_for(begun.wait(), 30)
            assert await same.batch(handle.id).cancel()
            may_end.set()
            await handle.wait(30)
            await other.stop()
    (end,) = [line for line in lines if line["event"].endswith("Batch ended")]
    assert (end["state"], end["cancelled"]) == ("cancelled", 1)


async def test_a_function_that_fails_is_logged_under_its_name() -> None:
    """Its attempts as warnings, and one error."""
    clock = ManualClock()
    async with Batchflow("sqlite://", clock=clock, worker=False) as flow:

        @flow.serve("/hello", retry=RetryPolicy(retries=1, first="1s", jitter=0))
        async def hello(ctx: WorkflowContext[str]) -> str:
            raise LookupError(ctx.payload)

        with capture_logs() as lines:
            run = await hello.trigger("ada")
            await drive(flow, clock)
    assert of(lines, "warning") == ["[batchflow:hello] Attempt 1 of 2 failed, again in 1 s: LookupError: ada"]
    (error,) = [line for line in lines if line["log_level"] == "error"]
    assert (error["event"], error["run"], error["attempts"]) == (
        "[batchflow:hello:error] Failed: LookupError: ada",
        run.id,
        2,
    )
