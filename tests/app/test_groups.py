"""`execute_many` in a worker: a group that nothing can join any more, stops, time limits, and the names in the log."""

import asyncio
from datetime import timedelta
from typing import Any, ClassVar

from structlog.testing import capture_logs

from batchflow import Batchflow, BatchWorkflow, NoParams, RetryPolicy
from batchflow.core.duration import Duration
from batchflow.core.flow import FlowControl
from batchflow.engine.dispatcher import Dispatcher
from tests.waiting import wait_until


class Texts(BatchWorkflow[NoParams, str, str], ids_only=True):
    """A group waits for an hour; a call ends when the test lets it."""

    group_size = 10
    group_wait: ClassVar[Duration] = "1h"
    execute_flow: ClassVar[FlowControl | None] = None
    entry_flow = paginate_flow = None
    retry = RetryPolicy(retries=1, first="10m")

    def __init__(self, *, is_open: bool = True) -> None:
        self.calls: list[list[str]] = []
        self.cancelled = 0
        self.gate = asyncio.Event()
        if is_open:
            self.gate.set()

    async def execute_many(self, items: list[str]) -> list[str]:
        self.calls.append(items)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [item.upper() for item in items]


async def test_a_group_is_called_when_every_place_of_the_worker_waits() -> None:
    """With four places a group of ten can never be full, and does not wait for that."""
    texts = Texts()
    async with Batchflow("sqlite://", concurrency=4) as flow:
        with capture_logs() as lines:
            batch = await flow.add(texts).trigger(ids=[f"t{number}" for number in range(8)])
            summary = await batch.wait(timeout=30)
    assert summary.counts.succeeded == 8
    assert [len(call) for call in texts.calls] == [4, 4]
    (warning,) = [line["event"] for line in lines if line["log_level"] == "warning"]
    assert warning == (
        "[texts:execute] A group of 10 can never be full, since this worker executes 4 at once; write group_size = 4, "
        "or raise BATCHFLOW_CONCURRENCY"
    )


async def test_a_stop_calls_the_groups_that_wait() -> None:
    """Nothing can join them any more: they end within the grace."""
    texts = Texts()
    flow = Batchflow("sqlite://", grace=timedelta(seconds=20))
    bound = flow.add(texts)
    await flow.start()
    worker: Any = vars(flow.engine)["_worker"]
    dispatcher: Dispatcher = worker.dispatcher
    await bound.trigger(ids=["a", "b", "c"])
    await wait_until(lambda: dispatcher.groups.waiting == 3, description="the items wait in their group")
    assert texts.calls == []
    await flow.stop()
    assert texts.calls == [["a", "b", "c"]]
    assert dispatcher.groups.waiting == 0


async def test_a_stop_without_grace_cancels_the_call_and_costs_no_attempt() -> None:
    """The items are released, and the call of another worker processes them."""
    texts = Texts(is_open=False)
    flow = Batchflow("sqlite://", worker=False)
    bound = flow.add(texts)
    await flow.start()
    batch = await bound.trigger(ids=["a", "b", "c"])
    dispatcher = await _items_in_call(flow, texts)
    await dispatcher.stop(0)
    assert (texts.cancelled, dispatcher.groups.calls, dispatcher.groups.waiting) == (1, {}, 0)
    texts.gate.set()
    texts.calls.clear()
    later = await _items_in_call(flow, texts)
    await later.join()
    assert texts.calls == [["a", "b", "c"]]
    assert [(item.state, item.attempts) async for item in batch.items()] == [("succeeded", 1)] * 3
    await flow.stop()


async def test_the_time_limit_of_items_is_that_of_their_call() -> None:
    """When it is over for all of them, the call is cancelled; waiting in a group does not count."""

    class Slow(Texts, ids_only=True):
        item_timeout = "20ms"

    slow = Slow(is_open=False)
    flow = Batchflow("sqlite://", worker=False)
    bound = flow.add(slow)
    await flow.start()
    batch = await bound.trigger(ids=["a", "b"])
    dispatcher = await _items_waiting(flow)
    loop = asyncio.get_running_loop()
    waited_from = loop.time()
    await wait_until(lambda: loop.time() > waited_from + 0.05, description="more than the time limit has passed")
    dispatcher.cancel_overdue()
    dispatcher.groups.call_all()
    await wait_until(lambda: slow.calls == [["a", "b"]], description="both items are called")

    def is_over() -> bool:
        dispatcher.cancel_overdue()
        return slow.cancelled == 1

    await wait_until(is_over, description="the call is cancelled")
    await dispatcher.join()
    errors = [item.error async for item in batch.items()]
    assert all("took longer than 20ms (item_timeout)" in str(error) for error in errors)
    assert all("step 'slow:process-items' (execute_many)" in str(error) for error in errors)
    assert (dispatcher.groups.calls, dispatcher.groups.waiting) == ({}, 0)
    await flow.stop()


async def test_the_task_of_a_call_has_the_prefix_of_its_workflow() -> None:
    """As the warning about code that blocks the event loop needs it."""
    texts = Texts(is_open=False)
    flow = Batchflow("sqlite://", worker=False)
    bound = flow.add(texts)
    await flow.start()
    await bound.trigger(ids=["a", "b", "c"])
    dispatcher = await _items_in_call(flow, texts)
    (task,) = dispatcher.groups.calls
    assert dispatcher.log_prefix_of(task) == "texts:execute"
    texts.gate.set()
    await dispatcher.join()
    await flow.stop()


async def test_a_step_cannot_wait_for_its_own_app_in_a_call() -> None:
    """It would keep the places that the other batch may need; the error names the hook."""
    flow = Batchflow("sqlite://", worker=False)

    class Waiting(BatchWorkflow[NoParams, str, str], ids_only=True):
        retry = RetryPolicy(retries=0)

        async def execute_many(self, items: list[str]) -> list[str]:
            await batch.wait()
            return items

    waiting = flow.add(Waiting())
    await flow.start()
    batch = await waiting.trigger(ids=["a"])
    dispatcher = await _items_waiting(flow)
    dispatcher.groups.call_all()
    await dispatcher.join()
    (error,) = [str(item.error) async for item in batch.items()]
    assert "step 'waiting:process-items' (execute_many) cannot wait for" in error
    await flow.stop()


async def _items_waiting(flow: Batchflow) -> Dispatcher:
    """Deliver until the items of the batch wait in their group."""
    worker = "a-worker"
    await flow.engine.store.register(worker, 60_000)
    dispatcher = flow.engine.make_dispatcher(worker)
    while not dispatcher.groups.waiting:
        await dispatcher.claim_once()
        await dispatcher.join()
    return dispatcher


async def _items_in_call(flow: Batchflow, texts: Texts) -> Dispatcher:
    dispatcher = await _items_waiting(flow)
    dispatcher.groups.call_all()
    await wait_until(lambda: bool(texts.calls), description="the items are called")
    return dispatcher
