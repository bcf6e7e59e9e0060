"""Observers are notified in order, once, and at no cost to the work."""

import pytest
from structlog.testing import capture_logs

from batchflow import Batchflow, BatchWorkflow, NoParams, Page, RetryPolicy, WorkflowContext
from batchflow.core.message import Claim, Message
from batchflow.core.ports import EVENTS, FailedAttempt, Observer, Observers
from batchflow.core.run import Step
from batchflow.core.settlement import Settlement
from batchflow.engine.observers import CountingObserver, EngineLog
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing import ManualClock, drive
from batchflow.testing.faults import FaultyStore
from tests.conformance.scene import message
from tests.engine.handlers import LEASE_MS, FakeHandler, TalliedDispatcher
from tests.waiting import wait_until


class Story(Observer):
    """Writes down what it is told, by event."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def of(self, id: str) -> list[str]:
        return [event for event, about in self.told if about == id]

    def ids(self, event: str) -> list[str]:
        return [about for told, about in self.told if told == event]

    def published(self, message: Message) -> None:
        self.told.append(("published", message.id))

    def claimed(self, claim: Claim) -> None:
        self.told.append(("claimed", claim.id))

    def step_started(self, claim: Claim, name: str, beside: bool) -> None:
        self.told.append((f"{name} started", claim.id))

    def step_recorded(self, claim: Claim, step: Step) -> None:
        self.told.append((f"{step.name} {step.state}", claim.id))

    def attempt_failed(self, claim: Claim, attempt: FailedAttempt) -> None:
        self.told.append((f"{attempt.where} failed", claim.id))

    def settled(self, claim: Claim, settlement: Settlement) -> None:
        self.told.append((settlement.ending, claim.id))
        self.told.append(("settled", f"{claim.id}#{claim.fence}"))

    def lost(self, claim: Claim) -> None:
        self.told.append(("lost", claim.id))

    def store_unavailable(self, error: BaseException, starting: bool) -> None:
        self.told.append(("away", str(error)))

    def store_recovered(self, after_ms: int, starting: bool) -> None:
        self.told.append(("back", ""))

    def batch_ended(self, batch: str) -> None:
        self.told.append(("batch ended", batch))

    def budget_exceeded(self, batch: str) -> None:
        self.told.append(("budget exceeded", batch))

    def canary_ended(self, batch: str) -> None:
        self.told.append(("canary ended", batch))


class Raising(Observer):
    """Fails at all it is told."""

    def claimed(self, claim: Claim) -> None:
        raise ValueError(claim.id)

    def settled(self, claim: Claim, settlement: Settlement) -> None:
        raise SystemExit(1)

    def batch_ended(self, batch: str) -> None:
        raise KeyboardInterrupt


class Greeting(BatchWorkflow[NoParams, str, str]):
    entity = "user"
    page_size = chunk_size = 2
    retry = RetryPolicy(retries=1, first="1s")

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=["a", "b"], next_cursor="2") if cursor is None else Page(ids=["c"], next_cursor=None)

    async def execute(self, item: str) -> str:
        if item == "b":
            raise ValueError(item)
        return item


async def test_an_observer_is_told_the_whole_story_of_a_batch() -> None:
    """Each message, each claim with its steps and its ending, and the end of the batch are reported once."""
    clock, story, tally = ManualClock(), Story(), CountingObserver()
    async with Batchflow("sqlite://", clock=clock, worker=False) as flow:
        greeting = flow.add(Greeting())
        flow.engine.observers.add(story)
        with flow.engine.observers.observing(tally):
            batch = await greeting.trigger()
            driven = await drive(flow, clock)
        await greeting.trigger()
    entry, page, second = batch.run_id, f"{batch.id}.p000000000", f"{batch.id}.p000000001"
    assert story.of(entry) == ["published", "claimed", "done"]
    for id in (page, second):
        told = story.of(id)
        assert (told[0], told[-1]) == ("claimed", "done")
        assert told[1:3] == ["greeting:get-batch started", "greeting:get-batch done"]
    step = "greeting:process-item"
    assert story.of(f"{batch.id}.r000000000") == ["claimed", f"{step} started", f"{step} done", "done"]
    failing = ["claimed", f"{step} started", "step failed"]
    assert story.of(f"{batch.id}.r000000001") == [
        *failing,
        "suspended",
        *failing,
        f"{step} failed",
        "function failed",
        "dead",
    ]
    settled = story.ids("settled")
    assert len(settled) == len(set(settled)) == len(story.ids("claimed")) == driven.claimed
    assert story.ids("batch ended") == [batch.id]
    assert (tally.claims, tally.settlements, tally.stale) == (driven.claimed, driven.claimed, 0)
    assert tally.endings == driven.endings


async def test_an_observer_that_raises_costs_its_lines_and_never_the_work(
    store: SqliteStore, clock: ManualClock
) -> None:
    """The log says so once, others are told all the same, and only Ctrl-C gets through."""
    dispatching = TalliedDispatcher(store, FakeHandler(), clock)
    dispatching.observers.add(Raising())
    await store.publish([message(id) for id in ("a", "b", "c")])
    with capture_logs() as lines:
        await dispatching.claim_once()
        await dispatching.join()
    assert dispatching.tally.endings == {"done": 3}
    said = [(line["event"], line["observer"], line["event_name"]) for line in lines]
    failing = "[batchflow:error] An observer fails and misses the event"
    assert said == [(failing, "Raising", "claimed"), (failing, "Raising", "settled")]
    assert dispatching.observers.batch_ended is not None
    with pytest.raises(KeyboardInterrupt):
        dispatching.observers.batch_ended("bat_a")


def test_what_nobody_wants_to_hear_is_not_told() -> None:
    """So it costs no call; and who is told for a while is not told any more."""
    observers = Observers(EngineLog())
    wanted = {event for event in EVENTS if getattr(observers, event) is not None}
    of_the_store = {"store_unavailable", "store_recovered", "batch_ended", "breaker_changed"}
    assert wanted == {"attempt_failed", "settled", "lost"} | of_the_store
    assert all(getattr(Observers(), event) is None for event in EVENTS)
    with observers.observing(Story()):
        assert all(getattr(observers, event) is not None for event in EVENTS)
    assert {event for event in EVENTS if getattr(observers, event) is not None} == wanted


def test_an_observer_that_raises_is_left_out_where_nobody_wants_to_know() -> None:
    """Of nobody's log."""
    observers = Observers(Raising())
    claim = Claim(id="a", destination="work", body="", fence=1)
    assert observers.claimed is not None
    observers.claimed(claim)


async def test_an_observer_is_told_of_what_goes_wrong_beside_the_functions(
    store: SqliteStore, clock: ManualClock
) -> None:
    """Deliveries that raise, claims that are lost, a store that is away."""
    story, handler = Story(), FakeHandler()
    dispatching = TalliedDispatcher(FaultyStore(store, fail="settle", times=2), handler, clock)
    dispatching.observers.add(story)
    handler.error = RuntimeError("no endpoint")
    await store.publish([message("a")])
    await dispatching.claim_once()
    await dispatching.join()
    assert story.of("a") == ["claimed", "delivery failed", "retry"]
    assert story.ids("away") == ["'settle' fails, as the test wants it"]
    handler.error = None
    handler.gate.clear()
    clock.advance("5s")
    await dispatching.claim_once()
    clock.advance(f"{LEASE_MS + 1}ms")
    await wait_until(lambda: len(handler.begun) == 2, description="it is under way")
    await store.expire()
    handler.gate.set()
    await dispatching.join()
    assert story.of("a")[-2:] == ["claimed", "lost"]


async def test_what_was_known_before_is_not_told_as_published(store: SqliteStore) -> None:
    """A trigger that has started nothing is not reported."""
    story = Story()
    flow = Batchflow(store, worker=False)
    greeting = flow.add(Greeting())

    @flow.serve("/f")
    async def f(ctx: WorkflowContext[int]) -> int:
        return ctx.payload

    async with flow:
        flow.engine.observers.add(story)
        runs = [await f.trigger(1, run_id="order-1") for _ in range(2)]
        batches = [await greeting.trigger(batch_id="bat_1") for _ in range(2)]
    assert [it.deduplicated for it in (*runs, *batches)] == [False, True, False, True]
    assert story.ids("published") == ["order-1", "bat_1.e"]
