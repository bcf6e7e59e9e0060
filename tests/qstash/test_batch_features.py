"""What a command or the end of something makes due in a batch on QStash is given to QStash at once."""

import asyncio

import httpx
import pytest

from batchflow import FailureBudget, FlowControl, ItemFailure, RateLimited, RetryPolicy
from batchflow.batch.why import WaitReport
from batchflow.core.breaker import CLOSED
from batchflow.qstash import relay
from tests.qstash.batch_programs import Greet, Params, nothing, start
from tests.qstash.invocations import OtherLoop
from tests.qstash.stage import APP_URL, WireStage
from tests.stores.kinds import Kind


@pytest.fixture(autouse=True)
def app_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")


class Failing(Greet):
    """Two of its users fail at the first attempt, which is their only one."""

    name = "failing"
    retry = RetryPolicy(retries=0)

    def __init__(self, count: int) -> None:
        self.attempts: list[str] = []
        self.reported: list[str] = []
        super().__init__(count, self.fail_once)

    async def fail_once(self, id: str) -> None:
        self.attempts.append(id)
        if id in ("u3", "u4") and self.attempts.count(id) == 1:
            raise ConnectionError("the mail server is away")

    async def on_item_failure(self, failure: ItemFailure[Params], /) -> None:
        self.reported.append(failure.item_id)


@pytest.mark.parametrize("kind", ["sqlite", "fakeredis"])
async def test_dead_letters_of_items_go_on_at_once(kind: Kind) -> None:
    # No schedule: only what is given to QStash by the command itself can run.
    stage = WireStage(kind, batches=True, relay_cron=None)
    async with stage:
        batch = await start(stage, workflow := Failing(6))
        await stage.drive()
        assert (await batch.status()).counts.failed == 2
        await stage.flow.dead_letters.callback(all=True)
        await stage.drive()
        assert sorted(workflow.reported) == ["u3", "u3", "u4", "u4"]
        assert (await stage.flow.dead_letters.resume(f"{batch.id}.r000000003")).count == 1
        await stage.drive()
        assert (await batch.status()).counts.failed == 1
        assert (await batch.retry()).resumed == 1
        await stage.drive()
        status = await batch.status()
        assert (status.state, status.counts.succeeded) == ("completed", 6)


class Outage(Greet):
    """Every attempt fails until `ended`; its circuit breaker stays open for long."""

    name = "outage"
    retry = RetryPolicy(retries=1, first="1s")
    failure_budget = FailureBudget(max_in_a_row=2, open_for="10d")
    ended = False

    def __init__(self) -> None:
        super().__init__(6, self.fail)

    async def fail(self, _: str) -> None:
        if not self.ended:
            raise ConnectionError("the mail server is away")


@pytest.mark.parametrize("kind", ["sqlite", "fakeredis"])
async def test_a_reset_closes_the_circuit_breaker_of_a_batch_and_its_items_start_at_once(kind: Kind) -> None:
    stage = WireStage(kind, batches=True, relay_cron=None)
    async with stage:
        batch = await start(stage, workflow := Outage())
        await stage.drive(ms=60_000)
        shown = await stage.flow.limits.get("outage.execute")
        assert shown.breaker.open_for == 10 * 86_400_000
        assert shown.parked_until > stage.clock.now()
        workflow.ended = True
        assert (await stage.flow.limits.reset("outage.execute")).breaker == CLOSED
        await stage.drive(ms=60_000)
        assert (await batch.status()).counts.succeeded == 6


async def test_a_delivery_that_no_relay_has_written_is_refused_and_not_asked_for_again() -> None:
    stage = WireStage(batches=True, verify=False)
    async with stage:
        await start(stage, Failing(1))
        transport = httpx.ASGITransport(stage.client.app or (lambda *_: None))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url=APP_URL) as http:
            for body in (b"", b"[]", b"\xff", b'{"message": 1}', b'{"message": "m", "fence": %d}' % 2**63, b'{"a": 1}'):
                assert (await http.post("/deliveries", content=body)).status_code == 400
            assert (await http.post("/deliveries", json={"message": "m", "fence": 2**63 - 1})).status_code == 200


async def test_items_that_end_together_are_replaced_by_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "WAITING_FOR_EACH", 1)
    stage = WireStage(batches=True, relay_cron=None)
    together = asyncio.Barrier(10)

    class Ten(Greet):
        name = "ten"
        page_size = chunk_size = 100
        execute_flow = FlowControl(parallelism=10)

    async with stage:
        stage.transport = counting = OtherLoop(stage.transport)
        stage.flow = stage.again()
        batch = await start(stage, Ten(100, lambda _: meet(together)))
        await stage.drive()
        assert (await batch.status()).counts.succeeded == 100
        # Of each ten the first one and the nine others.
        assert counting.paths.count("/v2/batch") < 100 // 10 * 2 + 5


async def meet(barrier: asyncio.Barrier) -> None:
    await barrier.wait()


async def test_a_key_with_much_left_takes_no_place_of_one_that_is_faster() -> None:
    stage = WireStage(batches=True, relay_cron=None)

    class Quick(Greet):
        name = "quick"
        page_size = chunk_size = 100
        execute_flow = FlowControl(parallelism=1)

    class Slow(Quick):
        name = "slow"
        execute_flow = FlowControl(rate=1, period="10m")

    async with stage:
        slow, quick = stage.flow.add(Slow(100, nothing)), stage.flow.add(Quick(100, nothing))
        await stage.open()
        await slow.trigger()
        batch = await quick.trigger()
        await stage.drive(ms=60_000)
        assert (await batch.status()).counts.succeeded == 100


async def test_a_batch_says_which_key_is_paused_or_pinned_in_qstash_and_whom_it_waits_for() -> None:
    reports: list[WaitReport] = []
    stage = WireStage(batches=True)

    async def execute(_: str) -> None:
        reports.append(await batch.why())

    async with stage:
        greet = stage.flow.add(Greet(3, execute))
        await stage.open()
        await stage.flow.limits.pin("greet.execute", parallelism=1)
        await stage.flow.limits.pause("greet.execute")
        batch = await greet.trigger()
        await stage.drive(ms=60_000)
        report = await batch.why()
        assert "an operator has paused the flow key 'greet.execute'" in report.sentence
        (key,) = report.keys
        status = key.status
        assert (status.limits.key, status.paused, status.pinned_parallelism) == ("greet.execute", True, True)
        await stage.flow.limits.resume("greet.execute")
        await stage.drive(ms=60_000)
        assert (await batch.status()).counts.succeeded == 3
        (key,) = reports[0].keys
        assert (key.status.pinned_parallelism, key.status.in_use) == (True, 1)
        assert reports[0].reason is not None
        assert reports[0].reason.sentence == "limit: parallelism 1"


async def test_a_key_without_limits_that_a_service_has_parked_is_shown() -> None:
    stage = WireStage(batches=True)

    class Free(Greet):
        name = "free"
        execute_flow = None

    async def execute(_: str) -> None:
        raise RateLimited(600)

    async with stage:
        batch = await start(stage, Free(3, execute))
        await stage.drive(ms=60_000)
        (key,) = [it for it in await stage.flow.engine.flow_keys.flows() if it.parked_until]
        assert key.limits.key == "free.execute"
        assert "free.execute" in (await batch.why()).sentence
