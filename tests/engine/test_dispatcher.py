"""The dispatcher: what it claims, how it ends claims, what it does when the store or a function fails."""

import asyncio

from structlog.testing import capture_logs

from batchflow.core.message import LOSS_LIMIT, Claim
from batchflow.core.ports import TIMEOUT_REASON, Runtime
from batchflow.core.settlement import Ending, Settlement, SettleResult
from batchflow.engine.dispatcher import HUNG_GRACE_S
from batchflow.errors import StoreError
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing.clock import ManualClock
from batchflow.testing.faults import FaultyStore
from tests.conformance.scene import message, renewed
from tests.engine.handlers import LEASE_MS, FakeHandler, dispatcher, running
from tests.waiting import DEADLINE_S, wait_until


class CancelledHandler(FakeHandler):
    """Its deliveries end in a cancellation that nobody asked for."""

    async def deliver(self, claim: Claim, runtime: Runtime) -> Settlement | None:
        await super().deliver(claim, runtime)
        raise asyncio.CancelledError("theirs")


class RefusingStore(FaultyStore):
    """Takes no settlement that ends in one of `refused`, and says that it never will."""

    def __init__(self, store: SqliteStore, *refused: Ending) -> None:
        super().__init__(store, fail="prune")
        self.refused = set(refused)

    async def settle(self, settlement: Settlement) -> SettleResult:
        if settlement.ending in self.refused:
            self.calls["settle"] += 1
            raise StoreError(f"a column is too small for '{settlement.ending}'")
        return await super().settle(settlement)


async def publish(store: SqliteStore, count: int = 1) -> None:
    await store.publish([message(f"m{number:03d}") for number in range(count)])


async def turns(count: int = 200) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# Claiming


async def test_concurrency_is_never_exceeded(store: SqliteStore, clock: ManualClock) -> None:
    """However much is due, and it is all delivered in the end."""
    handler = FakeHandler(held=True)
    dispatching = dispatcher(store, handler, clock, concurrency=5)
    await publish(store, 60)
    async with running(dispatching, store):
        await wait_until(lambda: handler.under_way == 5, description="all places are taken")
        await turns()
        assert dispatching.active_count == handler.most == 5
        handler.gate.set()
        await wait_until(lambda: dispatching.tally.settlements == 60, description="all are settled")
    assert handler.most == 5
    assert dispatching.tally.endings == {"done": 60}


async def test_a_publish_wakes_an_idle_dispatcher(store: SqliteStore, clock: ManualClock) -> None:
    """Nothing is polled for in between."""
    faulty = FaultyStore(store, fail="prune")
    dispatching = dispatcher(faulty, FakeHandler(), clock)
    async with running(dispatching, faulty):
        await wait_until(lambda: faulty.calls["claim"] > 0, description="it has looked once")
        await turns()
        idle = faulty.calls["claim"]
        await turns()
        assert faulty.calls["claim"] == idle <= 2
        await publish(store)
        await wait_until(lambda: dispatching.tally.settlements == 1, description="the message is settled")


async def test_a_full_key_does_not_make_it_spin(store: SqliteStore, clock: ManualClock) -> None:
    """A due message without a free slot does not make the worker claim again and again."""
    handler = FakeHandler(held=True)
    faulty = FaultyStore(store, fail="prune")
    one = message("a").flow.with_default_key("free")
    await store.pin(type(one)(key="free", parallelism=1))
    await publish(store, 10)
    async with running(dispatcher(faulty, handler, clock), faulty):
        await wait_until(lambda: handler.under_way == 1, description="one is under way")
        await turns()
        before = faulty.calls["claim"]
        await turns()
        assert faulty.calls["claim"] == before <= 3
        handler.gate.set()
        await wait_until(lambda: len(handler.begun) == 10, description="all have begun, one after the other")
    assert handler.most == 1


async def test_claim_once_starts_what_there_is_room_for(store: SqliteStore, clock: ManualClock) -> None:
    """And `join` waits until all of it is settled."""
    dispatching = dispatcher(store, FakeHandler(), clock, concurrency=3)
    await publish(store, 5)
    assert len((await dispatching.claim_once()).claims) == 3
    await dispatching.join()
    assert (dispatching.tally.claims, dispatching.tally.settlements, dispatching.active_count) == (3, 3, 0)


# A store that fails


async def test_a_failing_claim_is_repeated_and_told_once(store: SqliteStore, clock: ManualClock) -> None:
    """One line when it begins, one when it is over."""
    faulty = FaultyStore(store, fail="claim", times=3)
    dispatching = dispatcher(faulty, FakeHandler(), clock)
    await publish(store)
    with capture_logs() as logs:
        async with running(dispatching, faulty):
            await wait_until(lambda: dispatching.tally.settlements == 1, description="the store works again")
    assert [(line["log_level"], line["event"]) for line in logs] == [
        ("error", "[batchflow:error] The store fails; waiting for it"),
        ("info", "[batchflow] The store works again"),
    ]


async def test_a_failing_settlement_is_repeated(store: SqliteStore, clock: ManualClock) -> None:
    """The work is not done again."""
    handler = FakeHandler()
    dispatching = dispatcher(FaultyStore(store, fail="settle", times=2), handler, clock)
    await publish(store)
    await dispatching.claim_once()
    await dispatching.join()
    assert (dispatching.tally.settlements, dispatching.tally.stale, len(handler.begun)) == (1, 0, 1)


async def test_a_settlement_whose_reply_is_lost_counts_once(store: SqliteStore, clock: ManualClock) -> None:
    """The repeated one is stale, and nothing is delivered twice."""
    handler = FakeHandler()
    dispatching = dispatcher(FaultyStore(store, lose_reply="settle"), handler, clock)
    await publish(store)
    await dispatching.claim_once()
    await dispatching.join()
    assert (dispatching.tally.settlements, dispatching.tally.stale) == (0, 1)
    assert not (await dispatching.claim_once()).claims


async def test_a_delivery_that_breaks_is_tried_again(store: SqliteStore, clock: ManualClock) -> None:
    """Our own mistake does not leave a claim stuck: it is due a second later, and said."""
    handler = FakeHandler()
    handler.error = RuntimeError("ours")
    dispatching = dispatcher(store, handler, clock)
    await publish(store)
    with capture_logs() as logs:
        await dispatching.claim_once()
        await dispatching.join()
    assert [line["event"] for line in logs] == ["[batchflow:error] Delivery failed"]
    handler.error = None
    assert (await dispatching.claim_once()).next_due == clock.now() + 1_000
    clock.advance("1s")
    assert [claim.failures for claim in (await dispatching.claim_once()).claims] == [1]
    await dispatching.join()


async def test_a_cancellation_that_is_not_ours_is_a_failure(store: SqliteStore, clock: ManualClock) -> None:
    """It is tried again a second later, neither given back for ever nor taken for a loss."""
    dispatching = dispatcher(store, CancelledHandler(), clock)
    await publish(store)
    with capture_logs() as logs:
        assert len((await dispatching.claim_once()).claims) == 1
        await dispatching.join()
    assert [line["event"] for line in logs] == ["[batchflow:error] Delivery failed"]
    assert dispatching.tally.endings == {"retry": 1}
    assert (await dispatching.claim_once()).next_due == clock.now() + 1_000
    clock.advance("1s")
    (claim,) = (await store.claim("w1", ["work"], 1)).claims
    assert (claim.failures, claim.losses) == (1, 0)


async def test_cancellations_that_are_not_ours_come_to_an_end(store: SqliteStore, clock: ManualClock) -> None:
    """After as many as losses a dead letter is made, which names them."""
    handler = CancelledHandler()
    dispatching = dispatcher(store, handler, clock)
    await publish(store)
    with capture_logs() as logs:
        for _ in range(LOSS_LIMIT + 2):
            await dispatching.claim_once()
            await dispatching.join()
            clock.advance("1s")
    assert [claim.failures for claim in handler.begun] == list(range(LOSS_LIMIT))
    assert dispatching.tally.endings == {"retry": LOSS_LIMIT - 1, "dead": 1}
    (letter,) = await store.dead_letters()
    assert (letter.error, letter.failures) == ("CancelledError('theirs')", LOSS_LIMIT)
    assert [line["event"] for line in logs][LOSS_LIMIT - 1 :] == [
        "[batchflow:error] Delivery failed",
        "[batchflow:error] Dead letter",
    ]


async def test_a_settlement_that_is_refused_makes_a_dead_letter(store: SqliteStore, clock: ManualClock) -> None:
    """The dead letter names the reason; the work is not repeated, and the refusal is reported once."""
    handler = FakeHandler()
    dispatching = dispatcher(RefusingStore(store, "done"), handler, clock)
    await publish(store)
    with capture_logs() as logs:
        await dispatching.claim_once()
        await dispatching.join()
    assert [(line["log_level"], line["event"], line["run"], line["error"]) for line in logs] == [
        ("error", "[batchflow:error] Settlement was refused", "m000", "a column is too small for 'done'"),
        ("error", "[batchflow:error] Dead letter", "m000", "StoreError: a column is too small for 'done'"),
    ]
    assert dispatching.tally.endings == {"dead": 1}
    assert [letter.error for letter in await store.dead_letters()] == ["StoreError: a column is too small for 'done'"]
    assert (len(handler.begun), dispatching.active_count) == (1, 0)
    assert not (await dispatching.claim_once()).claims


async def test_a_refusal_is_told_once_however_often_it_is_met(store: SqliteStore, clock: ManualClock) -> None:
    """The dead letter is refused too, until somebody acts; the first reason is the one that is kept."""
    refusing = RefusingStore(store, "done", "dead")
    dispatching = dispatcher(refusing, FakeHandler(), clock)
    await publish(store)
    with capture_logs() as logs:
        await dispatching.claim_once()
        await wait_until(lambda: refusing.calls["settle"] >= 3, description="the dead letter was refused twice")
        refusing.refused.clear()
        await dispatching.join()
    assert [(line["event"], line["error"]) for line in logs] == [
        ("[batchflow:error] Settlement was refused", "a column is too small for 'done'"),
        ("[batchflow:error] Dead letter", "StoreError: a column is too small for 'done'"),
    ]


# Time limits


async def test_the_sweep_cancels_what_takes_too_long(store: SqliteStore, clock: ManualClock) -> None:
    """With `TIMEOUT`, by which the endpoint knows it from a shutdown; once."""
    handler = FakeHandler(held=True, stubborn=True, timeout=0)
    dispatching = dispatcher(store, handler, clock)
    await publish(store)
    await dispatching.claim_once()
    await turns(3)
    for _ in range(3):
        dispatching.cancel_overdue()
        await turns(3)
    assert handler.cancelled_with == [TIMEOUT_REASON]
    handler.gate.set()
    await dispatching.join()


async def test_the_sweep_leaves_what_has_time(store: SqliteStore, clock: ManualClock) -> None:
    """Or no limit at all."""
    for timeout in (60_000, None):
        handler = FakeHandler(held=True, timeout=timeout)
        dispatching = dispatcher(store, handler, clock)
        await publish(store)
        await dispatching.claim_once()
        await turns(3)
        dispatching.cancel_overdue()
        await turns(3)
        assert handler.under_way == 1
        handler.gate.set()
        await dispatching.join()


async def test_hung_claims_are_named(store: SqliteStore, clock: ManualClock) -> None:
    """Those that even the cancellation has not ended, some time after it."""
    handler = FakeHandler(held=True, stubborn=True, timeout=0)
    dispatching = dispatcher(store, handler, clock)
    await publish(store)
    (claim,) = (await dispatching.claim_once()).claims
    now = asyncio.get_running_loop().time()
    assert dispatching.hung_claims(now) == []
    assert dispatching.hung_claims(now + HUNG_GRACE_S + 1) == [(claim.id, claim.fence)]
    handler.gate.set()
    await dispatching.join()
    assert dispatching.hung_claims(now + HUNG_GRACE_S + 1) == []


async def test_a_claim_that_is_given_up_leaves_its_place(store: SqliteStore, clock: ManualClock) -> None:
    """To whoever comes next, itself included; so that what hangs does not stop the worker."""
    handler = FakeHandler(held=True, stubborn=True, timeout=0)
    dispatching = dispatcher(store, handler, clock, concurrency=1)
    await publish(store, 2)
    await dispatching.claim_once()
    assert list((await dispatching.claim_once()).claims) == []
    dispatching.hung_claims(asyncio.get_running_loop().time() + HUNG_GRACE_S + 1)
    assert len((await dispatching.claim_once()).claims) == 1
    handler.gate.set()
    await dispatching.join()
    assert dispatching.active_count == 0
    await publish(store, 4)
    assert len((await dispatching.claim_once()).claims) == 1
    await dispatching.join()


async def test_a_hung_claim_that_was_taken_back_is_stale(store: SqliteStore, clock: ManualClock) -> None:
    """Its late settlement is said and changes nothing."""
    handler = FakeHandler(held=True, timeout=0)
    dispatching = dispatcher(store, handler, clock)
    await publish(store)
    (claim,) = (await dispatching.claim_once()).claims
    await renewed(store, "w1", LEASE_MS, [(claim.id, claim.fence)])
    with capture_logs() as logs:
        handler.gate.set()
        await dispatching.join()
    assert [line["event"] for line in logs] == ["[batchflow] Claim was lost before it could be settled"]
    assert dispatching.tally.stale == 1


# The end


async def test_stopping_lets_what_is_under_way_end(store: SqliteStore, clock: ManualClock) -> None:
    """Within the grace."""
    handler = FakeHandler(held=True)
    dispatching = dispatcher(store, handler, clock)
    await publish(store)
    await dispatching.claim_once()
    await turns(3)
    stopping = asyncio.create_task(dispatching.stop(30))
    await turns(3)
    handler.gate.set()
    assert await stopping == 0
    assert dispatching.tally.endings == {"done": 1}


async def test_stopping_gives_the_rest_back_without_an_attempt(store: SqliteStore, clock: ManualClock) -> None:
    """As if it had not been claimed."""
    handler = FakeHandler(held=True)
    dispatching = dispatcher(store, handler, clock)
    await publish(store, 2)
    await dispatching.claim_once()
    await turns(3)
    assert await dispatching.stop(0) == 2
    assert dispatching.tally.endings == {"released": 2}
    claims = (await store.claim("w1", ["work"], 10)).claims
    assert [(claim.failures, claim.losses) for claim in claims] == [(0, 0), (0, 0)]


async def test_stopping_is_bounded(store: SqliteStore, clock: ManualClock) -> None:
    """Code that does not let itself be cancelled is left behind."""
    handler = FakeHandler(held=True, stubborn=True)
    dispatching = dispatcher(store, handler, clock)
    await publish(store)
    await dispatching.claim_once()
    await turns(3)
    async with asyncio.timeout(DEADLINE_S):
        assert await dispatching.stop(0.01) == 1
    handler.gate.set()
    await dispatching.join()
