"""Misbehaving user code: the dispatcher settles all the same, and waiting does not count against anybody."""

import asyncio

import pytest
from structlog.testing import capture_logs

from batchflow.core.ports import TIMEOUT_REASON
from batchflow.engine.dispatcher import HUNG_GRACE_S
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing.clock import ManualClock
from tests.conformance.scene import message
from tests.engine.handlers import FakeHandler, dispatcher
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
async def published(store: SqliteStore) -> None:
    """One message, for the one delivery of each test."""
    await store.publish([message("m")])


class Unspeakable(BaseException):
    """It cannot even be shown."""

    def __str__(self) -> str:
        raise SystemExit

    __repr__ = __str__


@pytest.mark.parametrize("error", [GeneratorExit(), SystemExit(3), BaseException("theirs"), Unspeakable()])
async def test_whatever_a_delivery_raises_its_claim_is_settled(
    store: SqliteStore, clock: ManualClock, error: BaseException
) -> None:
    """And its place is free, whether the log can be written or not."""
    handler = FakeHandler()
    handler.error = error
    dispatching = dispatcher(store, handler, clock, concurrency=1)
    with capture_logs() as logs:
        await dispatching.claim_once()
        await dispatching.join()
    assert [line["event"] for line in logs] == ["[batchflow:error] Delivery failed"]
    assert (dispatching.tally.endings, dispatching.active_count) == ({"retry": 1}, 0)
    clock.advance("1s")
    (claim,) = (await store.claim("w1", ["work"], 1)).claims
    assert (claim.failures, claim.losses) == (1, 0)


async def test_waiting_for_a_thread_is_not_the_time_of_an_attempt(store: SqliteStore, clock: ManualClock) -> None:
    """Neither the sweep nor what tells of hung claims counts it."""
    handler = FakeHandler(held=True, timeout=0)
    handler.waited = 3_600
    dispatching = dispatcher(store, handler, clock)
    (claim,) = (await dispatching.claim_once()).claims
    await wait_until(lambda: handler.under_way == 1, description="it is delivered")
    dispatching.cancel_overdue()
    await asyncio.sleep(0)
    now = asyncio.get_running_loop().time()
    assert (handler.under_way, dispatching.hung_claims(now + HUNG_GRACE_S + 1)) == (1, [])
    assert dispatching.hung_claims(now + HUNG_GRACE_S + 3_601) == [(claim.id, claim.fence)]
    handler.waited = 0
    dispatching.cancel_overdue()
    await dispatching.join()
    assert handler.cancelled_with == [TIMEOUT_REASON]
