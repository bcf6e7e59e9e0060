"""Promise 14: an item is processed once, however many triggers overlap, and again where somebody says so."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest

from batchflow import Batchflow, BatchWorkflow, FlowControl, NoParams, Page
from batchflow.testing import Environment, ManualClock, drive

IDS = ["a", "b", "c", "d", "e"]


class Job(BatchWorkflow[NoParams, str, str]):
    """Five ids on a page of three chunks, of which one starts a second."""

    chunk_size = 2
    entry_flow = execute_flow = None
    paginate_flow = FlowControl(rate=1)

    def __init__(self) -> None:
        self.executed: Counter[str] = Counter()

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=IDS)

    async def execute(self, item_id: str) -> str:
        self.executed[item_id] += 1
        return item_id


class Again(Job):
    """Its filter names everything, whatever was processed."""

    name = "job"

    async def filter(self, params: NoParams, ids: Sequence[str]) -> list[str]:
        return list(ids)


@pytest.mark.parametrize("gap", ["0s", "1s", "2s", "3s"])
async def test_batches_that_overlap_execute_an_item_once(gap: str) -> None:
    """Items that another batch finished after the page was filtered are left out as already processed."""
    flow, made = Batchflow("sqlite://"), Job()
    job = flow.add(made)
    async with Environment(flow) as env:
        first = await env.trigger(job)
        await env.advance(gap)
        second = await env.run(job)
        assert made.executed == dict.fromkeys(IDS, 1)
        for batch in (first, second):
            counts = batch.summary.counts
            assert counts.eligible == counts.succeeded + counts.already_processed + counts.in_flight == 5


async def test_a_filter_that_takes_its_time_starts_nothing_that_was_done_meanwhile() -> None:
    """Marks made while a filter of one's own works are not what it means, and its answer is not trusted over them."""
    flow = Batchflow("sqlite://")

    class Slow(Job):
        async def filter(self, params: NoParams, ids: Sequence[str]) -> list[str]:
            left = await self.unprocessed(ids)
            await slow.mark(["b", "e"])
            return left

    slow = flow.add(Slow())
    async with Environment(flow) as env:
        batch = await env.run(slow)
        assert sorted(batch.results) == ["a", "c", "d"]
        assert batch.summary.counts.already_processed == 2


@pytest.mark.parametrize("always_replay", [False, True])
async def test_a_filter_may_name_what_is_processed(always_replay: bool) -> None:
    """Ids that the ledger holds and a filter of one's own names all the same run again, those of later chunks too."""
    flow = Batchflow("sqlite://")
    job = flow.add(Again())
    async with Environment(flow, always_replay=always_replay) as env:
        await job.mark(["a", "d"])
        batch = await env.run(job)
        assert batch.summary.counts.succeeded == 5
        assert (await env.run(job)).summary.counts.succeeded == 5


async def test_ids_that_a_trigger_names_run_whatever_was_processed() -> None:
    """Names and force are said on purpose."""
    flow = Batchflow("sqlite://")
    job = flow.add(Job())
    async with Environment(flow) as env:
        await job.mark(IDS)
        assert (await env.run(job)).summary.counts.already_processed == 5
        assert (await env.run(job, ids=["a", "b", "c"])).summary.counts.succeeded == 3
        assert (await env.run(job, force=True)).summary.counts.succeeded == 5


class Beside:
    """A ledger beside the engine, in memory."""

    def __init__(self) -> None:
        self.held: set[str] = set()

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def processed(self, workflow: str, ids: Sequence[str]) -> frozenset[str]:
        return frozenset(self.held.intersection(ids))

    async def mark(self, workflow: str, ids: Sequence[str], ttl_ms: int | None) -> None:
        self.held.update(ids)

    async def forget(self, workflow: str, ids: Sequence[str] | None = None) -> int:
        gone = self.held.copy() if ids is None else self.held.intersection(ids)
        self.held -= gone
        return len(gone)


class Elsewhere:
    """An app in virtual time whose ledger is beside its store."""

    def __init__(self, job: Job) -> None:
        self.clock = ManualClock()
        self.ledger = Beside()
        self.flow = Batchflow("sqlite://", ledger=self.ledger, clock=self.clock, worker=False)
        self.job = self.flow.add(job)


@pytest.fixture
async def elsewhere() -> AsyncIterator[Elsewhere]:
    made = Elsewhere(Job())
    async with made.flow:
        yield made


async def test_a_ledger_beside_the_engine_is_asked_again_when_a_chunk_starts(elsewhere: Elsewhere) -> None:
    """Items that another program marked after the page was filtered are left out, and counted as already processed."""
    batch = await elsewhere.job.trigger()
    await drive(elsewhere.flow, elsewhere.clock, until=elsewhere.clock.now())
    elsewhere.ledger.held |= {"d", "e"}
    await drive(elsewhere.flow, elsewhere.clock)
    counts = (await batch.wait()).counts
    assert (counts.eligible, counts.succeeded, counts.already_processed) == (5, 3, 2)


async def test_a_ledger_beside_the_engine_may_forget(elsewhere: Elsewhere) -> None:
    """Items that it has forgotten run again, though the store's own ledger contains them."""
    await elsewhere.job.trigger()
    await drive(elsewhere.flow, elsewhere.clock)
    elsewhere.ledger.held -= {"a", "e"}
    batch = await elsewhere.job.trigger()
    await drive(elsewhere.flow, elsewhere.clock)
    counts = (await batch.wait()).counts
    assert (counts.succeeded, counts.already_processed) == (2, 3)


async def test_force_is_stronger_than_a_ledger_beside_the_engine(elsewhere: Elsewhere) -> None:
    """It holds for chunks that start later too, and so do names."""
    elsewhere.ledger.held = set(IDS)
    for batch in (await elsewhere.job.trigger(force=True), await elsewhere.job.trigger(ids=IDS)):
        await drive(elsewhere.flow, elsewhere.clock)
        assert (await batch.wait()).counts.succeeded == 5
