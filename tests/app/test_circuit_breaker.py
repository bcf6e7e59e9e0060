"""A circuit breaker in an app: it stops an outage from using up attempts, and is said in log, status and commands."""

import re
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from structlog.testing import capture_logs

from batchflow import Batchflow, BatchWorkflow, FailureBudget, FlowControl, NonRetryable, NoParams, Page, RetryPolicy
from batchflow.core.breaker import CLOSED
from batchflow.errors import ConfigurationError
from batchflow.http.schemas.flow_keys import FlowKeyInfo
from batchflow.testing import ManualClock, drive

KEY = "check.execute"
COUNT = 60


class Check(BatchWorkflow[NoParams, str, str]):
    """Sixty items that call a service, which is down until a time."""

    entity = "user"
    entry_flow = paginate_flow = None
    execute_flow = FlowControl(parallelism=4)
    page_size = 100
    retry = RetryPolicy(retries=3, first="1s", jitter=0)
    failure_budget = FailureBudget(max_in_a_row=5, open_for="30s")

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.up_at = clock.now() + 100_000
        self.calls: list[int] = []

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=[f"u{number:02d}" for number in range(COUNT)])

    async def execute(self, item: str) -> str:
        self.calls.append(self.clock.now())
        if self.clock.now() < self.up_at:
            raise ConnectionError("the service is down")
        return item


@pytest.fixture
async def stage() -> AsyncGenerator[tuple[Batchflow, ManualClock]]:
    clock = ManualClock()
    async with Batchflow("sqlite://", clock=clock, worker=False) as flow:
        yield flow, clock


async def test_circuit_breaker_bridges_an_outage(stage: tuple[Batchflow, ManualClock]) -> None:
    """A service that is down for 100 s is tried a few times, and no item fails; begin and end are in the log, once."""
    flow, clock = stage
    job = Check(clock)
    with capture_logs() as lines:
        batch = await flow.add(job).trigger()
        await drive(flow, clock)
    status = await batch.status()
    assert (status.counts.succeeded, status.counts.failed) == (COUNT, 0)
    in_vain = [at for at in job.calls if at < job.up_at]
    # Those in flight as it opened, and one every 30 s.
    assert 5 + 2 <= len(in_vain) <= 5 + 4 + 3
    assert (await flow.limits.get(KEY)).breaker == CLOSED
    opened = [line for line in lines if "Circuit breaker open" in line["event"]]
    closed = [line for line in lines if "Circuit breaker closed" in line["event"]]
    assert [line["log_level"] for line in opened + closed] == ["warning", "info"]
    assert re.match(r"\[check:execute\] .*: 5 attempts in a row have failed; .* 30s, then one", opened[0]["event"])
    assert (opened[0]["flow_key"], opened[0]["batch"]) == (KEY, batch.id)


async def test_open_circuit_breaker_is_said(stage: tuple[Batchflow, ManualClock]) -> None:
    """As the reason of the wait, with its own code, and in the document of the key; a reset closes it."""
    flow, clock = stage
    job = flow.add(Check(clock))
    batch = await job.trigger()
    await drive(flow, clock, until=clock.now() + 5_000)
    reason = (await batch.status()).wait_reason
    assert reason is not None
    assert reason.code == "breaker_open"
    assert re.search(rf"'{KEY}' is open after 5 failed attempts in a row: one is tried in \d+s", reason.sentence)
    document = FlowKeyInfo.of(await flow.limits.get(KEY), clock.now()).document()
    assert document["circuitBreaker"] == {"state": "open", "failedInARow": 5, "openFor": "30s", "trialRunId": None}
    assert document["parkedUntil"] is not None
    store = flow.engine.store
    clock.advance("30s")
    await store.register("w", 60_000, 8, job.definition.routes)
    (trial,) = (await store.claim("w", list(job.definition.routes), 9)).claims
    reason = (await batch.status()).wait_reason
    assert reason is not None
    assert f"nothing else starts until '{trial.id}' has ended" in reason.sentence
    document = FlowKeyInfo.of(await flow.limits.get(KEY), clock.now()).document()
    assert (document["circuitBreaker"]["trialRunId"], document["parkedUntil"]) == (trial.id, None)
    assert (await flow.limits.reset(KEY)).breaker == CLOSED


async def test_item_that_fails_for_good_counts_for_the_circuit_breaker(stage: tuple[Batchflow, ManualClock]) -> None:
    """So does one that is not tried again; with limits of failures beside it, each does its own."""
    flow, clock = stage

    class Refused(Check):
        name = "refused"

        async def execute(self, item: str) -> str:
            raise NonRetryable("no")

    job = flow.add(Refused(clock))
    batch = await job.trigger(failure_budget=FailureBudget(max_failures=9, max_in_a_row=3, open_for="1m"))
    await drive(flow, clock, until=clock.now() + 1_000)
    breaker = (await flow.limits.get("refused.execute")).breaker
    assert (breaker.in_a_row, breaker.open_for) == (3, 60_000)
    await drive(flow, clock)
    status = await batch.status()
    assert (status.stop_reason, status.counts.failed) == ("failure_budget", 10)


@pytest.mark.parametrize(
    ("given", "option", "phrase"),
    [
        ({"max_in_a_row": 5}, "max_in_a_row", "give open_for= too"),
        ({"open_for": "30s"}, "open_for", "give max_in_a_row= too"),
        ({"max_failures": 5, "open_for": "30s"}, "open_for", "give max_in_a_row= too"),
        ({"max_in_a_row": 0, "open_for": "30s"}, "max_in_a_row", "a whole number from 1"),
        ({"max_in_a_row": True, "open_for": "30s"}, "max_in_a_row", "a whole number from 1"),
        ({"max_in_a_row": 5, "open_for": "0s"}, "open_for", "such as '30s'"),
        ({"max_in_a_row": 5, "open_for": "soon"}, "open_for", "duration"),
        ({"max_in_a_row": 5, "open_for": "30s", "action": "pause"}, "action", "leave it out"),
        ({"max_in_a_row": 5, "open_for": "30s", "min_items": 0}, "min_items", "a whole number from 1"),
    ],
)
def test_failure_budget_refuses_a_circuit_breaker_that_cannot_be(given: Any, option: str, phrase: str) -> None:
    """In one sentence, when it is made."""
    with pytest.raises(ConfigurationError, match=phrase) as raised:
        FailureBudget(**given)
    assert raised.value.option == option


def test_failure_budget_may_be_a_circuit_breaker_alone() -> None:
    """Equal durations are equal, its text says what it does, and it survives being stored."""
    budget = FailureBudget(max_in_a_row=5, open_for="60s")
    assert budget == FailureBudget(max_in_a_row=5, open_for=60)
    assert (budget.action, str(budget)) == (None, "parked for 1m after 5 failed attempts in a row")
    assert FailureBudget.of_text(budget.to_text()) == budget
    both = FailureBudget(max_failures=3, max_in_a_row=5, open_for="30s")
    assert (both.action, FailureBudget.of_text(both.to_text())) == ("pause", both)
