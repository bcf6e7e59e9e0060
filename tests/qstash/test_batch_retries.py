"""Deliveries of a batch that nobody answers come again: within seconds at first, and for half an hour."""

import json
from collections import Counter
from collections.abc import Callable

import pytest

from batchflow.engine.push_client import PushError, PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.engine.worker import LEASE_MS
from batchflow.errors import ConfigurationError
from batchflow.qstash.deliveries import RETRIED
from tests.qstash.batch_programs import DELIVERIES, Greet, delivered, nothing, start
from tests.qstash.stage import APP_URL, WireStage
from tests.stores.kinds import Kind

COUNT = 12


@pytest.fixture(autouse=True)
def app_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")


class AwayClient:
    """An app that is away while `is_away` says so."""

    def __init__(self, stage: WireStage, is_away: Callable[[PushRequest], bool]) -> None:
        self.inner = stage.client
        self.is_away = is_away

    async def send(self, request: PushRequest) -> PushResponse:
        if self.is_away(request):
            raise PushError("the app is away", status=503)
        return await self.inner.send(request)

    async def close(self) -> None:
        """Nothing is kept open."""


@pytest.mark.parametrize(("outage_s", "costs_s"), [(1, 2), (10, 26), (60, 86), (1_800, 1_886)], ids=lambda it: f"{it}s")
@pytest.mark.parametrize("kind", ["sqlite", "fakeredis"])
async def test_an_outage_of_seconds_costs_seconds_and_one_of_half_an_hour_loses_nothing_without_a_schedule(
    kind: Kind, outage_s: int, costs_s: int
) -> None:
    executed: Counter[str] = Counter()
    ended: list[int] = []
    stage = WireStage(kind, batches=True, relay_cron=None)

    async def execute(id: str) -> None:
        executed[id] += 1
        ended.append(stage.clock.now())

    async with stage:
        batch = await start(stage, Greet(COUNT, execute))
        back_at = stage.clock.now() + 1000 * outage_s
        began = stage.clock.now()
        stage.qstash.engine.push_client = AwayClient(stage, lambda _: stage.clock.now() < back_at)
        await stage.drive()
        assert (await batch.status()).counts.succeeded == COUNT
        assert executed == {f"u{number}": 1 for number in range(COUNT)}
        assert ended[-1] - began <= 1000 * costs_s + 2_000


async def test_items_whose_delivery_qstash_has_given_up_come_again_under_the_limits_of_their_key() -> None:
    executed: Counter[str] = Counter()
    limits: set[tuple[str | None, int | None]] = set()
    stage = WireStage(batches=True, relay_cron=None)

    async def execute(id: str) -> None:
        executed[id] += 1
        limits.update((it.limits.key, it.limits.parallelism) for it in await stage.qstash.engine.store.flows())

    async with stage:
        batch = await start(stage, Greet(COUNT, execute))
        # Of each item only the failure callback arrives.
        client = AwayClient(stage, lambda it: b".r0" in (it.body or b""))
        stage.qstash.engine.push_client = client
        await stage.drive()
        assert (await batch.status()).counts.succeeded == COUNT
        assert executed == {f"u{number}": 1 for number in range(COUNT)}
        assert ("qstash.acme.greet.execute", 2) in limits
        callbacks = [it for it in stage.client.requests if b"sourceBody" in (it.body or b"")]
        assert len(callbacks) == COUNT
        assert not [it for it in delivered(stage) if b".r0" in (it.body or b"")]


@pytest.mark.parametrize("kind", ["sqlite", "fakeredis"])
async def test_an_item_whose_process_was_killed_goes_on_when_its_lease_ends_without_a_schedule(kind: Kind) -> None:
    times: list[int] = []
    killed: list[PushRequest] = []
    stage = WireStage(kind, batches=True, relay_cron=None)

    async def execute(_: str) -> None:
        times.append(stage.clock.now())

    async with stage:
        batch = await start(stage, workflow := Greet(1, execute))
        store = stage.flow.engine.store
        bound = stage.flow.workflows[workflow.name or ""]

        async def killing(request: PushRequest) -> PushResponse:
            if b".r0" in (request.body or b"") and not killed:
                killed.append(request)
                named = json.loads(request.body or b"")
                await store.register("dead", LEASE_MS, 1, [it.route for it in bound.endpoints])
                assert (await store.claim_one("dead", named["message"], named["fence"])).claims
                raise PushError("the connection is broken", status=503)
            return await stage.client.send(request)

        client = AwayClient(stage, lambda _: False)
        client.send = killing  # type: ignore[method-assign]
        stage.qstash.engine.push_client = client
        began = stage.clock.now()
        await stage.drive(ms=3_600_000)
        assert (await batch.status()).counts.succeeded == 1
        assert len(times) == 1
        assert LEASE_MS <= times[0] - began <= LEASE_MS + 20_000
        # The one that came again, and one that looked after the lease.
        of_qstash = [it for it in stage.client.requests if it.url == DELIVERIES]
        assert len([it for it in of_qstash if dict(it.headers).get(RETRIED.title(), "0") != "0"]) == 1
        assert len([it for it in of_qstash if b"message" not in (it.body or b"")]) == 1


async def test_qstash_waits_for_the_answer_of_an_item_as_long_as_its_workflow_says() -> None:
    stage = WireStage(batches=True)

    class Slow(Greet):
        name = "slow"
        item_timeout = "2h"

    async with stage:
        for workflow in (Slow(1, nothing), Greet(1, nothing)):
            stage.client.requests.clear()
            await start(stage, workflow)
            await stage.drive(ms=60_000)
            limits = {it.timeout_ms for it in delivered(stage)}
            assert limits == {7_260_000 if workflow.name == "slow" else 900_000}

    class Endless(Greet):
        name = "endless"
        item_timeout = "13h"

    with pytest.raises(
        ConfigurationError, match="'item_timeout' of 'endless' is 13h, and QStash waits no longer than 12h"
    ):
        stage.flow.add(Endless(1, nothing))
