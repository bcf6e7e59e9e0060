"""The failure budget of a class, a function and a trigger, in an app with a real worker."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from batchflow import (
    Batchflow,
    BatchWorkflow,
    FailureBudget,
    FlowControl,
    NonRetryable,
    NoParams,
    Page,
    WorkflowContext,
)
from batchflow.batch.handle import BatchHandle
from batchflow.batch.status import BatchSummary
from batchflow.errors import BatchFailed, BatchflowError, ConfigurationError, InputError
from batchflow.testing import Environment
from tests.waiting import wait_until

PARALLELISM = 4


def never(number: int) -> bool:
    """No item fails."""
    return False


class Failing(BatchWorkflow[NoParams, str, str]):
    """Two hundred items, of which those fail for good that `fails` names."""

    entry_flow = paginate_flow = None
    execute_flow = FlowControl(parallelism=PARALLELISM)
    page_size = 200
    failure_budget = FailureBudget(max_failures=10)

    def __init__(self, fails: Callable[[int], bool] = lambda number: True) -> None:
        self.fails = fails
        self.begun: list[str] = []
        self.failed_at: list[int] = []
        self.told: list[BatchSummary] = []

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=[f"u{number:03d}" for number in range(200)])

    async def execute(self, item_id: str) -> str:
        self.begun.append(item_id)
        await asyncio.sleep(0)
        if self.fails(int(item_id[1:])):
            self.failed_at.append(len(self.begun))
            raise NonRetryable(f"no placeholders for {item_id}")
        return item_id

    async def on_failure(self, summary: BatchSummary) -> None:
        self.told.append(summary)


class Many(BatchWorkflow[NoParams, str, str]):
    """All of a group fail."""

    entry_flow = paginate_flow = None
    execute_flow = FlowControl(parallelism=20)
    page_size = 200
    group_size = 5
    group_wait = "10ms"
    failure_budget = FailureBudget(max_failures=10)

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=[f"u{number:03d}" for number in range(200)])

    async def execute_many(self, items: list[str]) -> list[str | BaseException]:
        return [NonRetryable(f"no placeholders for {item}") for item in items]


async def stopped(flow: Batchflow, handle: BatchHandle[Any]) -> None:
    """Wait until the budget has stopped a batch and what was under way has ended."""

    async def is_stopped() -> bool:
        holds = [sum(worker.holds.values()) for worker in await flow.engine.store.workers()]
        return (await handle.status()).stop_reason == "failure_budget" and not sum(holds)

    await wait_until(is_stopped, description="the failure budget has stopped the batch")


async def test_at_most_parallelism_items_start_after_a_failure_budget_is_exceeded() -> None:
    """The settlement of the failure that is one too many stops the batch; all others stay open until it is resumed."""
    async with Batchflow("sqlite://") as flow:
        job = Failing()
        batch = await flow.add(job).trigger()
        await stopped(flow, batch)
        status = await batch.status()
        assert len(job.begun) <= job.failed_at[10] + PARALLELISM
        assert (status.state, status.paused, status.counts.open) == ("sealed", True, 200 - status.counts.failed)
        assert 11 <= status.counts.failed == len(job.begun)
        assert status.wait_reason is not None
        assert status.wait_reason.code == "failure_budget"
        sentence = f"{len(job.begun)} of {len(job.begun)} items failed, over the failure budget: at most 10"
        assert status.wait_reason.sentence.startswith(sentence)


async def test_a_failure_budget_counts_the_items_of_groups() -> None:
    """A call of `execute_many` fails each of its items, and at most `parallelism` of these are beyond the budget."""
    async with Batchflow("sqlite://") as flow:
        job = Many()
        batch = await flow.add(job).trigger()
        await stopped(flow, batch)
        assert 11 <= (await batch.status()).counts.failed <= 11 + 2 * 20


async def test_a_resumed_batch_spends_its_failure_budget_anew() -> None:
    """It is paused a second time; without failures it ends."""
    async with Batchflow("sqlite://") as flow:
        job = Failing()
        batch = await flow.add(job).trigger()
        await stopped(flow, batch)
        first = (await batch.status()).counts.failed
        assert await batch.resume()
        await stopped(flow, batch)
        assert (await batch.status()).counts.failed >= first + 11
        job.fails = never
        assert await batch.resume()
        summary = await batch.wait("20s")
        assert (summary.state, summary.stop_reason, summary.counts.open) == ("completed", None, 0)


async def test_a_failure_budget_is_changed_while_the_batch_runs() -> None:
    """Raised or removed, the batch goes on after a resume; a budget for one that had none stops it."""
    async with Batchflow("sqlite://") as flow:
        job = Failing()
        batch = await flow.add(job).trigger()
        await stopped(flow, batch)
        assert await batch.set_failure_budget(FailureBudget(max_failures=20))
        status = await batch.status()
        assert (status.stop_reason, status.failure_budget) == ("failure_budget", FailureBudget(max_failures=20))
        assert await batch.resume()
        await stopped(flow, batch)
        assert (await batch.status()).counts.failed >= 32
        assert await batch.set_failure_budget(None)
        assert await batch.resume()
        assert (await batch.wait("20s")).counts.failed == 200
        assert not await batch.set_failure_budget(FailureBudget(max_failures=1))
        with pytest.raises(InputError, match="failure_budget"):
            await batch.set_failure_budget(5)  # type: ignore[arg-type]


async def test_a_budget_that_cancels_says_why_to_everybody_who_is_told_of_the_end() -> None:
    """`wait`, its check, the hook and `str`; the items that were not run are cancelled."""
    async with Batchflow("sqlite://") as flow:
        job = Failing()
        budget = FailureBudget(max_rate=0.05, min_items=20, action="cancel")
        batch = await flow.add(job).trigger(failure_budget=budget)
        summary = await batch.wait("20s")
        counts = summary.counts
        assert (summary.state, summary.stop_reason) == ("cancelled", "failure_budget")
        assert 20 <= counts.failed <= 20 + PARALLELISM
        assert counts.failed + counts.cancelled == 200
        assert summary.error is not None
        assert summary.error.startswith(f"{counts.failed} of {counts.failed} items failed, over the failure budget")
        assert job.told == [summary]
        assert summary.error in str(summary)
        with pytest.raises(BatchFailed, match="over the failure budget"):
            await batch.wait(check=True)


async def test_a_retry_within_a_cancelled_batch_does_not_make_it_succeed() -> None:
    """What the cancellation has left out is not run, and nobody is told otherwise."""
    job = Failing(lambda number: True)
    async with Batchflow("sqlite://") as flow:
        batch = await flow.add(job).trigger(failure_budget=FailureBudget(max_failures=0, action="cancel"))
        await batch.wait("20s")
        job.fails = never
        retry = await batch.retry(failed=True)
        summary = await retry.wait("20s")
        assert (summary.state, summary.succeeded, summary.counts.failed) == ("failed", False, 0)
        with pytest.raises(BatchFailed, match="it was cancelled"):
            await batch.wait(check=True)


async def test_a_paused_batch_whose_failures_were_retried_is_not_said_to_be_over_its_budget() -> None:
    """The sentence has the numbers of now, and says that the budget had been exceeded."""
    job = Failing()
    async with Batchflow("sqlite://") as flow:
        batch = await flow.add(job).trigger(failure_budget=FailureBudget(max_failures=2))
        await stopped(flow, batch)
        await batch.retry(failed=True)
        reason = (await batch.status()).wait_reason
        assert reason is not None
        assert reason.code == "failure_budget"
        assert "by now 0 of 0 items have failed" in reason.sentence


@pytest.mark.parametrize("action", ["pause", "cancel"])
async def test_a_failure_budget_that_is_exceeded_is_one_warning(action: Any) -> None:
    """Whatever else fails while the batch comes to rest."""
    with capture_logs() as logs:
        async with Batchflow("sqlite://") as flow:
            budget = FailureBudget(max_failures=10, action=action)
            batch = await flow.add(Failing()).trigger(failure_budget=budget)
            await (stopped(flow, batch) if action == "pause" else batch.wait("20s"))
    said = [it for it in logs if "over the failure budget" in it["event"]]
    assert [(it["log_level"], it["batch"]) for it in said] == [("warning", batch.id)]
    how = "Paused" if action == "pause" else "Cancelled"
    assert said[0]["event"].startswith(f"[failing:process] {how}: ")


async def test_a_budget_within_which_a_batch_stays_changes_nothing() -> None:
    """As many failures as it allows, and a rate below its own."""
    async with Batchflow("sqlite://") as flow:
        job = flow.add(Failing(lambda number: number % 20 == 0))
        counted = await job.trigger()
        assert (await counted.wait("20s")).state == "completed"
        rated = await job.trigger(force=True, failure_budget=FailureBudget(max_rate=0.1))
        assert (await rated.wait("20s")).counts.failed == 10


async def test_an_operator_keeps_their_pause_when_the_budget_is_exceeded() -> None:
    """The wait says who did it."""
    async with Environment(Batchflow("sqlite://")) as env:
        job = env.app.add(Failing())
        batch = await job.trigger()
        await env.app.engine.store.pause_batch(batch.id)
        status = await batch.status()
        assert (status.paused, status.stop_reason) == (True, None)
        assert status.wait_reason == ("paused", "an operator has paused the batch")


async def test_a_dry_run_spends_no_failure_budget() -> None:
    """It counts the items, and starts none."""
    async with Batchflow("sqlite://", worker=False) as flow:
        found = await flow.add(Failing()).dry_run()
        assert found.to_process == 200
        assert await flow.engine.store.batches() == []


async def test_a_function_and_a_child_have_failure_budgets() -> None:
    """By the option of the decorator, and of `ctx.invoke`, where the child's own comes first."""
    async with Batchflow("sqlite://") as flow:

        @flow.batch(ids=[f"u{number}" for number in range(50)], failure_budget=FailureBudget(max_failures=3))
        async def failing(user_id: str) -> None:
            raise NonRetryable("no")

        batch = await failing.trigger()
        await stopped(flow, batch)
        assert (await batch.status()).failure_budget == FailureBudget(max_failures=3)
        await batch.cancel()

        @flow.serve("/parent")
        async def parent(ctx: WorkflowContext[None]) -> str:
            budget = FailureBudget(max_failures=0, action="cancel")
            return (await ctx.invoke("child", failing, NoParams(), failure_budget=budget)).state

        assert await (await parent.trigger(None)).wait("20s") == "cancelled"


def test_a_failure_budget_needs_a_limit_that_can_be() -> None:
    """One sentence that names the option."""
    cases: list[tuple[str, dict[str, Any]]] = [
        ("max_failures", {}),
        ("max_failures", {"max_failures": -1}),
        ("max_failures", {"max_failures": True}),
        ("max_rate", {"max_rate": 5}),
        ("max_rate", {"max_rate": "5%"}),
        ("min_items", {"max_rate": 0.1, "min_items": 0}),
        ("action", {"max_failures": 1, "action": "stop"}),
    ]
    for named, options in cases:
        with pytest.raises(ConfigurationError, match=named):
            FailureBudget(**options)


def test_a_failure_budget_of_a_class_is_one() -> None:
    """Anything else, and a limit beside it, is refused when the class is made."""
    slips: list[tuple[str, Any, str]] = [
        ("failure_budget", 10, r"FailureBudget\(max_failures=100\)"),
        ("max_failures", 10, r"failure_budget = FailureBudget\(max_failures=10\)"),
        ("max_failure_rate", 0.05, r"failure_budget = FailureBudget\(max_rate=0.05\)"),
        ("failure_budgets", FailureBudget(max_failures=1), "did you mean 'failure_budget'"),
    ]
    for name, value, meant in slips:
        with pytest.raises(ConfigurationError, match=meant):
            type("Slip", (Failing,), {name: value})


async def test_a_failure_budget_of_a_trigger_is_one() -> None:
    """Nothing was started."""
    async with Batchflow("sqlite://", worker=False) as flow:
        job = flow.add(Failing())
        wrong: Any = 10
        with pytest.raises(InputError, match="failure_budget"):
            await job.trigger(failure_budget=wrong)
        with pytest.raises(BatchflowError, match="max_failures"):
            await job.trigger(max_failures=10)  # type: ignore[call-arg]
        assert await flow.engine.store.batches() == []
