"""Retries: dead letters of a batch go on, and what is missing, or ids, run in a batch that is linked to it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from batchflow import Batchflow, BatchHandle, BatchSummary, BatchWorkflow, NonRetryable, NoParams, Page
from batchflow.batch.rollup import Totals
from batchflow.engine.clock import SystemClock
from batchflow.errors import BatchFailed, InputError
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing import Environment
from tests.batch.charging_job import Job


@pytest.fixture(params=[None, "fakeredis"], ids=["sqlite", "redis"])
def store(request: pytest.FixtureRequest) -> Any:
    """The place of the state."""
    return request.param


async def _ended(env: Environment, batch: BatchHandle[Any]) -> BatchSummary:
    await env.drive()
    return await batch.wait()


async def test_retry_lets_what_has_failed_go_on_from_its_recorded_steps(store: Any) -> None:
    """The counts of the batch move, and it completes once more."""
    job, flow = Job(), Batchflow("sqlite://")
    workflow = flow.add(job)
    async with Environment(flow, store=store) as env:
        batch = await workflow.trigger()
        assert (await _ended(env, batch)).counts.failed == 2
        job.bad.clear()
        job.charged.clear()
        retry = await batch.retry()
        assert (retry.resumed, retry.linked, (await batch.status()).state) == (2, None, "sealed")
        with pytest.raises(TimeoutError, match="8 of 10 items have ended"):
            await retry.wait("10ms")
        await env.drive()
        summary = await retry.wait(check=True)
        assert (summary.id, summary.counts.succeeded, summary.counts.failed) == (batch.id, 10, 0)
        assert (await batch.retry(failed=True)).resumed == 0
    assert job.charged == []
    assert [it.succeeded for it in job.ended] == [False, True]


async def test_retry_with_restart_runs_what_has_failed_from_the_beginning(store: Any) -> None:
    """Recorded steps are dropped."""
    job, flow = Job(), Batchflow("sqlite://")
    workflow = flow.add(job)
    async with Environment(flow, store=store) as env:
        batch = await workflow.trigger()
        await env.drive()
        job.charged.clear()
        assert (await batch.retry(restart=True)).resumed == 2
        await env.drive()
    assert sorted(job.charged) == ["i3", "i7"]


async def test_retry_runs_failed_items_without_a_dead_letter_in_a_linked_batch(store: Any) -> None:
    """As after retention: they are not left out in silence."""
    job, flow = Job(), Batchflow("sqlite://")
    workflow = flow.add(job)
    async with Environment(flow, store=store) as env:
        batch = await workflow.trigger()
        await env.drive()
        await flow.dead_letters.delete(all=True, batch_id=batch.id, item="i3")
        await workflow.mark(["i3"])
        job.bad.clear()
        retry, again = await asyncio.gather(batch.retry(failed=True), batch.retry(failed=True))
        assert (retry.resumed + again.resumed, retry.linked and retry.linked.id) == (
            1,
            again.linked and again.linked.id,
        )
        await env.drive()
        assert (await retry.wait()).counts.succeeded == 1
        status = await batch.status()
        assert (status.counts.succeeded, status.counts.failed) == (9, 1)
        assert status.totals == Totals(succeeded=10, recovered=1)


async def test_retry_of_a_batch_whose_walk_failed_walks_on(store: Any) -> None:
    """Its page goes on where it failed."""

    class Broken(Job):
        is_broken = True

        async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
            if self.is_broken and cursor == "4":
                raise NonRetryable("no source")
            return await super().fetch(params, cursor, limit)

    job, flow = Broken(), Batchflow("sqlite://")
    workflow = flow.add(job)
    job.bad.clear()
    async with Environment(flow, store=store) as env:
        batch = await workflow.trigger()
        assert (await _ended(env, batch)).state == "failed"
        job.is_broken = False
        assert (await batch.retry()).resumed == 1
        assert (await _ended(env, batch)).counts.succeeded == 10


async def test_retry_calls_on_complete_again_that_has_failed(store: Any) -> None:
    """If nothing else of the batch has."""

    class Told(Job):
        fails = True

        async def on_complete(self, summary: BatchSummary) -> None:
            if self.fails:
                raise NonRetryable("nobody listens")
            await super().on_complete(summary)

    job, flow = Told(), Batchflow("sqlite://")
    workflow = flow.add(job)
    async with Environment(flow, store=store) as env:
        job.bad.clear()
        batch = await workflow.trigger()
        assert "nobody listens" in ((await _ended(env, batch)).completion_error or "")
        job.fails = False
        retry = await batch.retry()
        await env.drive()
        assert (retry.resumed, (await retry.wait()).completion_error) == (1, None)
    assert len(job.ended) == 1


async def test_retry_of_what_is_missing_runs_it_once(store: Any) -> None:
    """Two operators at once get the same batch; what the first has failed or run is left alone."""
    job, flow = Job(), Batchflow("sqlite://")
    workflow = flow.add(job)
    async with Environment(flow, store=store) as env:
        batch = await workflow.trigger(label="nightly", headers={"x": "1"})
        await env.drive()
        job.ids[2:2] = ["n1", "n2"]
        job.ids += ["n3"]
        job.charged.clear()
        one, two = await asyncio.gather(batch.retry(missing=True), batch.retry(missing=True))
        assert one.linked is not None
        assert two.linked is not None
        assert one.linked.id == two.linked.id
        assert [one.linked.deduplicated, two.linked.deduplicated].count(True) == 1
        await env.drive()
        summary = await one.wait()
        assert (summary.counts.succeeded, summary.counts.eligible, summary.retry_of) == (3, 3, batch.id)
        assert (summary.label, (await one.linked.status()).retry_of) == ("nightly", batch.id)
        again = await batch.retry(missing=True)
        await env.drive()
        assert (await again.wait()).counts.started == 0
    assert sorted(job.charged) == ["n1", "n2", "n3"]


@pytest.mark.parametrize("forced", [False, True])
async def test_retry_of_what_is_missing_asks_the_ledger_unless_it_is_forced(store: Any, forced: bool) -> None:
    """Also if the batch itself was."""

    class First(Job):
        walk_first = True

        async def count(self, params: NoParams) -> int:
            return len(self.ids)

    job, flow = First(), Batchflow("sqlite://")
    workflow = flow.add(job)
    async with Environment(flow, store=store) as env:
        batch = await workflow.trigger(force=forced)
        await env.drive()
        job.ids += ["n1", "n2"]
        await workflow.mark(["n1"])
        retry = await batch.retry(missing=True)
        await env.drive()
        counts = (await retry.wait()).counts
        assert (counts.succeeded, counts.already_processed) == ((2, 0) if forced else (1, 1))
        job.ids += ["n3"]
        await workflow.mark(["n3"])
        retry = await batch.retry(missing=True, force=True)
        await env.drive()
        assert (await retry.wait()).counts.succeeded == (1 if forced else 2)


async def test_retry_of_what_is_missing_waits_for_the_walk(store: Any) -> None:
    """And a batch whose trigger listed its ids misses nothing."""
    job, flow = Job(), Batchflow("sqlite://")
    workflow = flow.add(job)
    async with Environment(flow, store=store) as env:
        batch = await workflow.trigger()
        with pytest.raises(InputError, match="still walks"):
            await batch.retry(missing=True)
        await env.drive()
        named = await workflow.trigger(ids=["i1"])
        await env.drive()
        with pytest.raises(InputError, match="listed"):
            await named.retry(missing=True)


async def test_retry_of_ids_skips_those_that_have_succeeded_unless_it_is_forced(store: Any) -> None:
    """Its counts are its own; those of the batch stay, and the totals are of both."""
    job, flow = Job(), Batchflow("sqlite://")
    workflow = flow.add(job)
    async with Environment(flow, store=store) as env:
        batch = await workflow.trigger()
        await env.drive()
        job.charged.clear()
        job.bad = {"i7"}
        retry = await batch.retry(ids=["i3", "i7", "i1"])
        await env.drive()
        summary = await retry.wait()
        assert (summary.counts.succeeded, summary.counts.failed, summary.counts.already_processed) == (1, 1, 1)
        assert (retry.skipped, sorted(job.charged)) == (1, ["i3", "i7"])
        parent = await batch.wait()
        assert (parent.counts.succeeded, parent.counts.failed, parent.recovered) == (8, 2, 1)
        assert parent.totals == Totals(succeeded=9, failed=1, recovered=1)
        assert [it.id for it in parent.retries] == [retry.linked and retry.linked.id]
        assert [it.id for it in await batch.retries()] == [it.id for it in parent.retries]
        with pytest.raises(BatchFailed):
            await batch.wait(check=True)
        job.charged.clear()
        nothing = await batch.retry(ids=["i1", "i3"])
        assert (nothing.skipped, nothing.linked) == (2, None)
        forced = await batch.retry(ids=["i1", "i7"], force=True)
        job.bad.clear()
        await env.drive()
        assert (await forced.wait()).counts.succeeded == 2
        assert sorted(job.charged) == ["i1", "i7"]
        last = await batch.wait(check=True)
        assert (last.counts.failed, last.totals) == (2, Totals(succeeded=10, recovered=2))


async def test_retry_of_ids_goes_past_the_ledger_only_if_it_is_forced(store: Any) -> None:
    """Or if the batch itself did: its trigger listed ids."""
    job, flow = Job(), Batchflow("sqlite://")
    workflow = flow.add(job)
    async with Environment(flow, store=store) as env:
        batch, named = await workflow.trigger(), await workflow.trigger(ids=["i7"])
        await env.drive()
        job.bad.clear()
        await workflow.mark(["i3", "i7"])
        retries = [await batch.retry(ids=["i3"]), await named.retry(ids=["i7"])]
        await env.drive()
        assert [(await it.wait()).counts.succeeded for it in retries] == [0, 1]
        forced = await batch.retry(ids=["i3"], force=True)
        await env.drive()
        assert (await forced.wait()).counts.succeeded == 1


async def test_retry_of_ids_asks_the_ledger_beside_the_store() -> None:
    """As the store's own: unless it is forced."""
    clock = SystemClock()
    job, flow = Job(), Batchflow("sqlite://", ledger=SqliteStore(":memory:", clock=clock))
    workflow = flow.add(job)
    async with Environment(flow) as env:
        batch = await workflow.trigger()
        await env.drive()
        job.bad.clear()
        await workflow.mark(["i3"])
        retry = await batch.retry(ids=["i3", "i7"])
        await env.drive()
        counts = (await retry.wait()).counts
        assert (counts.succeeded, counts.already_processed) == (1, 1)
        forced = await batch.retry(ids=["i3"], force=True)
        await env.drive()
        assert (await forced.wait()).counts.succeeded == 1


async def test_retries_at_the_same_moment_run_each_item_once(store: Any) -> None:
    """Whatever the operators have chosen."""
    job, flow = Job(), Batchflow("sqlite://")
    workflow = flow.add(job)
    async with Environment(flow, store=store) as env:
        batch = await workflow.trigger()
        await env.drive()
        job.charged.clear()
        job.bad.clear()
        await asyncio.gather(
            batch.retry(restart=True),
            batch.retry(ids=["i3", "i7"], force=True),
            batch.retry(ids=["i7"]),
            batch.retry(failed=True, restart=True),
        )
        await env.drive()
        assert sorted(job.charged) == ["i3", "i7"]
        totals = (await batch.wait()).totals
        assert totals is not None
        assert (totals.succeeded, totals.failed, totals.open) == (10, 0, 0)


async def test_a_retry_of_a_retry_belongs_to_the_first_batch(store: Any) -> None:
    """`failed` of the first resumes what failed in its retries, where it failed last."""
    job, flow = Job(), Batchflow("sqlite://")
    workflow = flow.add(job)
    async with Environment(flow, store=store) as env:
        batch = await workflow.trigger()
        await env.drive()
        first = await batch.retry(ids=["i3"])
        await env.drive()
        assert first.linked is not None
        second = await first.linked.retry(ids=["i7", "i3"])
        await env.drive()
        assert second.linked is not None
        assert (await second.linked.status()).retry_of == batch.id
        job.charged.clear()
        job.bad.clear()
        last = await batch.retry(restart=True)
        assert (last.resumed, (await flow.dead_letters.resume(all=True)).count) == (2, 0)
        await env.drive()
        await last.wait()
        assert sorted(job.charged) == ["i3", "i7"]
        assert (await batch.wait(check=True)).totals == Totals(succeeded=10, recovered=2)


async def test_results_and_export_have_the_latest_outcome_of_each_item(store: Any, tmp_path: Path) -> None:
    """Those that only a retry has run come last."""
    job, flow = Job(), Batchflow("sqlite://")
    workflow = flow.add(job)
    async with Environment(flow, store=store) as env:
        batch = await workflow.trigger()
        await env.drive()
        job.bad = {"n1"}
        job.ids += ["n1", "n2"]
        await batch.retry(ids=["i3"])
        await batch.retry(missing=True)
        await env.drive()
        found = [id async for id, _ in batch.results()]
        assert found == ["i0", "i1", "i2", "i3", "i4", "i5", "i6", "i8", "i9", "n2"]
        manifest = await batch.export(tmp_path)
        assert (manifest.rows, manifest.outcomes, len(manifest.retries)) == (12, {"failed": 2, "succeeded": 10}, 2)
        failed = await batch.export(tmp_path / "failed", "csv", "failed")
        assert failed.outcomes == {"failed": 2}
        assert [it.id async for it in batch.items("failed")] == ["i3", "i7"]


async def test_retry_of_items_that_pages_have_brought_is_that_of_dead_letters(store: Any) -> None:
    """Their data is with the dead letter: without one they are lost, and said to be."""

    class Brought(BatchWorkflow[NoParams, dict[str, int], int]):
        async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page[dict[str, int]]:
            return Page(items={"a": {"n": 0}, "b": {"n": 2}, "c": {"n": 0}})

        async def execute(self, item: dict[str, int]) -> int:
            if not item["n"]:
                raise NonRetryable("nothing")
            return item["n"]

    flow = Batchflow("sqlite://")
    workflow = flow.add(Brought())
    async with Environment(flow, store=store) as env:
        batch = await workflow.trigger()
        await env.drive()
        await flow.dead_letters.delete(all=True, item="a", batch_id=batch.id)
        retry = await batch.retry()
        assert (retry.resumed, retry.lost, retry.linked) == (1, 1, None)
        with pytest.raises(InputError, match="has no load"):
            await batch.retry(ids=["a"])
