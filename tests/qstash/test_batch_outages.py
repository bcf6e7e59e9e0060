"""What a batch does when a service is away, on QStash: the budget of failures, the circuit breaker, and its retry."""

from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from batchflow import (
    BatchWorkflow,
    FailureBudget,
    FlowControl,
    ItemFailure,
    NonRetryable,
    NoParams,
    Page,
    RetryPolicy,
)
from tests.qstash.stage import APP_URL, WireStage

COUNT = 30


@pytest.fixture(params=["sqlite", "fakeredis"])
async def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage(request.param, batches=True) as stage:
        yield stage


class Check(BatchWorkflow[NoParams, str, str], abstract=True):
    """Items that fail while `error` says so."""

    entry_flow = paginate_flow = None
    execute_flow = FlowControl(parallelism=2)
    page_size = COUNT
    retry = RetryPolicy.none()

    def __init__(self) -> None:
        self.executed: Counter[str] = Counter()
        self.error: Callable[[str], Exception | None] = lambda item: ConnectionError("the service is down")
        self.failed: list[str] = []

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=[f"u{number:02d}" for number in range(COUNT)])

    async def execute(self, item: str) -> str:
        self.executed[item] += 1
        if (error := self.error(item)) is not None:
            raise error
        return item

    async def on_item_failure(self, failure: ItemFailure[NoParams]) -> None:
        self.failed.append(failure.item_id)


class Budgeted(Check):
    """Pauses after five failures."""

    failure_budget = FailureBudget(max_failures=5)


class Broken(Check):
    """Stops asking a service that is down."""

    failure_budget = FailureBudget(max_in_a_row=3, open_for="1m")
    retry = RetryPolicy(retries=20, first="1m", factor=1)


class Retried(Check):
    """Fails for good."""


async def test_a_batch_that_fails_too_often_pauses_and_goes_on_when_it_is_resumed(stage: WireStage) -> None:
    check = Budgeted()
    bound = stage.flow.add(check)
    await stage.open()
    batch = await bound.trigger()
    await stage.drive(ms=600_000)
    assert (await batch.status()).paused
    # Those that were under way with the last failure.
    assert 5 <= sum(check.executed.values()) <= 7
    check.error = lambda item: None
    await batch.resume()
    await stage.drive(ms=600_000)
    counts = (await batch.status()).counts
    assert counts.succeeded + counts.failed == COUNT
    assert set(check.executed.values()) == {1}
    assert len(check.failed) == counts.failed == len(set(check.failed))


async def test_a_service_that_is_down_is_asked_by_one_item_at_a_time_until_it_answers(stage: WireStage) -> None:
    check = Broken()
    bound = stage.flow.add(check)
    await stage.open()
    batch = await bound.trigger()
    await stage.drive(ms=600_000)
    asked = sum(check.executed.values())
    assert asked <= 3 + 2 + 10
    check.error = lambda item: None
    await stage.drive(ms=3_600_000)
    counts = (await batch.status()).counts
    assert (counts.succeeded, counts.failed) == (COUNT, 0)


async def test_a_retry_runs_the_failed_items_of_a_batch_and_no_others(stage: WireStage) -> None:
    check = Retried()
    check.error = lambda item: NonRetryable("closed") if item < "u05" else None
    bound = stage.flow.add(check)
    await stage.open()
    batch = await bound.trigger()
    await stage.drive(ms=600_000)
    assert (await batch.status()).counts.failed == 5
    assert sorted(check.failed) == [f"u{number:02d}" for number in range(5)]
    check.error = lambda item: None
    assert (await batch.retry()).resumed == 5
    await stage.drive(ms=600_000)
    assert (await batch.status()).counts.succeeded == COUNT
    assert check.executed == {f"u{number:02d}": 2 if number < 5 else 1 for number in range(COUNT)}
