"""Stores of batches on QStash that fail, or do not answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path

import httpx
import pytest

from batchflow.batch.bound import Workflow
from batchflow.core.message import ClaimResult
from batchflow.core.settlement import Settlement, SettleResult
from batchflow.core.store import Store
from batchflow.errors import StoreUnavailable
from batchflow.qstash import batches, relay, worker
from batchflow.qstash.engine import QStashEngine
from batchflow.testing.faults import StoreProxy
from tests.qstash.batch_programs import Greet, Greeting, Params, nothing
from tests.qstash.stage import APP_URL, WireStage
from tests.stores.kinds import Kind, made

CALLED_EVERY_MS = 300_000


class Failing(StoreProxy):
    """A store whose settlements or deliveries fail, whose claims get no answer, or which does not let a worker leave.

    It removes ten of its `old_rows` at a time.
    """

    settles = answers_claims = lets_leave = delivers = True

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.old_rows = 0
        self.repairs: list[bool] = []
        """Whether each looked at all that is open."""

    def settle(self, settlement: Settlement) -> Awaitable[SettleResult]:
        return self._settle(settlement)

    async def _settle(self, settlement: Settlement) -> SettleResult:
        if not self.settles:
            raise StoreUnavailable("the store was away for a moment")
        return await self.store.settle(settlement)

    async def claim(self, worker: str, destinations: Sequence[str], limit: int) -> ClaimResult:
        claimed = await self.store.claim(worker, destinations, limit)
        if not self.answers_claims:
            await asyncio.Event().wait()
        return claimed

    async def claim_one(self, worker: str, id: str, fence: int) -> ClaimResult:
        if not self.delivers:
            raise StoreUnavailable("the store is away")
        return await self.store.claim_one(worker, id, fence)

    async def reconcile(self, destinations: Sequence[str], *, deep: bool = False) -> int:
        self.repairs.append(deep)
        return await self.store.reconcile(destinations, deep=deep)

    async def prune(self, retention_ms: int) -> int:
        removed = min(self.old_rows, 10)
        self.old_rows -= removed
        return removed

    async def deregister(self, worker: str) -> None:
        if not self.lets_leave:
            await asyncio.Event().wait()
        await self.store.deregister(worker)


class Away(httpx.AsyncBaseTransport):
    """A way to QStash that may be interrupted."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner
        self.is_away = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.is_away:
            raise httpx.ConnectError("no route")
        return await self.inner.handle_async_request(request)


class Scene:
    """An app whose store and whose way to QStash fail when told to."""

    def __init__(self, stage: WireStage, store: Failing, way: Away) -> None:
        self.stage = stage
        self.store = store
        self.way = way
        self.greet: Workflow[Params, Greeting] = stage.flow.add(Greet(5, nothing))

    @property
    def engine(self) -> QStashEngine:
        engine = self.stage.flow.engine
        assert isinstance(engine, QStashEngine)
        return engine

    async def succeeded(self) -> int:
        (batch,) = await self.stage.flow.batches()
        return (await batch.status()).counts.succeeded


@pytest.fixture(params=["sqlite", "fakeredis"])
async def scene(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    kind: Kind = request.param
    async with WireStage(kind) as stage:
        store, way = Failing(made(kind, stage.clock)), Away(stage.transport)
        stage.flow = stage.again(store=store, transport=way)
        scene = Scene(stage, store, way)
        await stage.open()
        yield scene


async def test_what_could_not_be_given_while_the_store_failed_too_is_given_with_the_next_batch(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    await scene.engine.give_due()
    scene.way.is_away, scene.store.settles = True, False
    await scene.greet.trigger()
    # The first error is the reason.
    assert "(ConnectError)" in caplog.text
    assert "away for a moment" not in caplog.text
    scene.way.is_away, scene.store.settles = False, True
    await scene.engine.give_due()
    await scene.stage.drive(ms=5_000)
    assert await scene.succeeded() == 5


async def test_what_qstash_has_and_the_store_did_not_learn_of_is_executed(scene: Scene) -> None:
    scene.store.settles = False
    await scene.greet.trigger()
    scene.store.settles = True
    await scene.engine.give_due()
    await scene.stage.drive(ms=5_000)
    assert await scene.succeeded() == 5


async def test_what_a_trigger_that_is_cancelled_has_claimed_is_given_with_the_next_batch(scene: Scene) -> None:
    scene.store.answers_claims = False
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await scene.greet.trigger()
    scene.store.answers_claims = True
    await scene.engine.give_due()
    await scene.stage.drive(ms=5_000)
    assert await scene.succeeded() == 5


async def test_a_store_that_does_not_answer_does_not_hold_up_the_end_of_the_app(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (relay, worker):
        monkeypatch.setattr(module, "DEREGISTER_TIMEOUT_S", 0.01)
    await scene.greet.trigger()
    scene.store.lets_leave = False
    assert scene.engine.batches is not None
    async with asyncio.timeout(60):
        await scene.engine.batches.close(0)
    scene.store.lets_leave = True


async def test_a_regular_call_removes_all_that_retention_has_passed_up_to_a_limit(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.engine.give_due()
    scene.store.old_rows = 35
    await scene.stage.drive(ms=CALLED_EVERY_MS)
    assert scene.store.old_rows == 0
    monkeypatch.setattr(batches, "MOST_PRUNED", 3)
    scene.store.old_rows = 35
    await scene.stage.drive(ms=CALLED_EVERY_MS)
    assert scene.store.old_rows == 5
    await scene.stage.drive(ms=CALLED_EVERY_MS)
    assert scene.store.old_rows == 0


async def test_what_is_open_is_repaired_once_after_the_store_was_away(scene: Scene) -> None:
    await scene.engine.give_due()
    await scene.stage.drive(ms=CALLED_EVERY_MS)
    assert scene.store.repairs == [False]
    scene.store.delivers = False
    await scene.greet.trigger()
    await scene.stage.drive(ms=1_000)
    scene.store.delivers = True
    await scene.stage.drive(ms=2 * CALLED_EVERY_MS)
    assert scene.store.repairs == [False, True, False]
    assert await scene.succeeded() == 5


@pytest.mark.parametrize("is_durable", [False, True])
async def test_an_app_whose_batches_are_in_memory_says_so_when_it_starts(
    is_durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage(store=f"sqlite:///{tmp_path}/batches.db" if is_durable else "sqlite://") as stage:
        await stage.open()
        assert ("store of batches is in memory" in caplog.text) is not is_durable
        assert stage.flow.engine.is_durable is is_durable
