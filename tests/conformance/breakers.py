"""The circuit breaker of a flow key: failed attempts in a row park it, and one message at a time is tried."""

import asyncio
from collections.abc import Sequence

from batchflow.core import settlement
from batchflow.core.batch import Failure
from batchflow.core.breaker import CLOSED, Breaker, BreakerChange
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim
from batchflow.core.settlement import FinishEntry, RecordPage, SettleResult, StartItems
from tests.conformance.scene import LEASE_MS, Cases, Scene, names

KEY = FlowControl(key="one", parallelism=4)
BUDGET = FailureBudget(max_in_a_row=2, open_for="30s")
ITEMS = "abcdef"
OPENED, CLOSED_AGAIN = BreakerChange("one", 2, 30_000), BreakerChange("one", 2, 0)


async def begin(scene: Scene, items: Sequence[str] = ITEMS, id: str = "bat_a", budget: FailureBudget = BUDGET) -> None:
    """A batch with a circuit breaker whose items are these."""
    await scene.start(items, id, flow=KEY, failure_budget=budget)


async def fail(scene: Scene, claim: Claim, *, after_ms: int = 1_000) -> SettleResult:
    """The attempt of an item fails and is tried again."""
    failures = (Failure("ConnectionError", "shop.py:1 in execute", "ConnectionError: refused"),)
    retry = settlement.retry(claim, scene.now + after_ms, "ConnectionError: refused", failures=failures)
    return await scene.store.settle(retry)


async def opened(scene: Scene, *, held: int = 0) -> list[Claim]:
    """The breaker of a batch is open; `held` items of it were in flight then."""
    await begin(scene)
    claims = await scene.items(2 + held)
    assert [(await fail(scene, claim)).breaker for claim in claims[:2]] == [None, OPENED]
    return claims[2:]


async def half_open(scene: Scene) -> Claim:
    """The one item that is tried once the breaker was open for its time."""
    await opened(scene)
    scene.clock.advance("30s")
    (claim,) = await scene.items()
    return claim


class BreakerCases(Cases):
    """`settle` and `claim` under a circuit breaker."""

    # It opens

    async def test_settle_opens_the_breaker_after_failures_in_a_row(self, scene: Scene) -> None:
        """The key is parked for the time of the batch, and the settlement that did it says so."""
        await opened(scene)
        status = await scene.flow("one")
        assert status.breaker == Breaker(2, 30_000)
        assert status.parked_until == scene.now + 30_000
        assert await scene.next_due() == scene.now + 30_000

    async def test_claim_starts_nothing_of_a_key_whose_breaker_is_open(self, scene: Scene) -> None:
        """Neither other items nor other batches and messages of the key; other keys go on."""
        await opened(scene)
        await begin(scene, "xy", "bat_b")
        await scene.publish("m", flow=KEY)
        await scene.publish("free")
        scene.clock.advance("29s")
        assert names(await scene.claim()) == ["free"]

    async def test_settle_counts_failures_of_every_ending(self, scene: Scene) -> None:
        """Those of steps, those that are tried again, and those that are final; each attempt counts."""
        await begin(scene, budget=FailureBudget(max_in_a_row=5, open_for="1s"))
        first, second, third, fourth = await scene.items(4)
        failure = Failure("ValueError", "", "ValueError: no")
        await scene.store.settle(settlement.suspended(first, scene.now + 1_000, (), failures=(failure,)))
        await scene.dead(second)
        await scene.store.settle(settlement.failed(third, "NotFound: gone", "null"))
        assert (await scene.flow("one")).breaker == Breaker(3)
        end = await scene.store.settle(settlement.dead(fourth, "ValueError: no", failures=(failure, failure)))
        assert end.breaker == BreakerChange("one", 5, 1_000)

    async def test_settle_begins_to_count_again_after_a_success(self, scene: Scene) -> None:
        """On the fast path of items too, and in one group with others."""
        await begin(scene)
        for _ in range(2):
            first, second, third = await scene.items(3)
            assert (await fail(scene, first)).breaker is None
            assert (await scene.flow("one")).breaker == Breaker(1)
            assert (await scene.done(second)).breaker is None
            assert (await scene.flow("one")).breaker == CLOSED
            assert (await fail(scene, third)).breaker is None
            await scene.store.reset("one")
        assert (await scene.flow("one")).parked_until == 0

    async def test_settle_counts_nothing_that_did_not_fail(self, scene: Scene) -> None:
        """A rate limit, a wait, a claim that is given back or lost, and a cancellation."""
        await begin(scene, budget=FailureBudget(max_in_a_row=1, open_for="1s"))
        rated, waits, back, gone = await scene.items(4)
        await scene.store.settle(settlement.parked(rated, scene.now, "RateLimited: later"))
        await scene.suspend(waits)
        await scene.store.settle(settlement.released(back))
        await scene.store.settle(settlement.cancelled(gone))
        assert len(await scene.items()) == 4
        await scene.lose()
        assert (await scene.flow("one")).breaker == CLOSED
        (cancelled, *_) = await scene.items()
        await scene.store.cancel_run(cancelled.id)
        assert (await scene.dead(cancelled)).breaker is None
        assert (await scene.flow("one")).breaker == CLOSED

    async def test_settle_counts_only_for_batches_with_a_breaker(self, scene: Scene) -> None:
        """Neither items of other batches nor layers and other messages; but their success is one of the key."""
        await scene.start("abc", "bat_b", flow=KEY)
        for claim in await scene.items(2):
            assert (await fail(scene, claim)).breaker is None
        (other,) = await scene.items(1)
        await scene.publish("m", flow=KEY)
        await scene.store.settle(settlement.retry(await scene.claim_one("m"), scene.now + 9_000, "ValueError: no"))
        assert (await scene.flow("one")).breaker == CLOSED
        await begin(scene, "xyz")
        (own, *_) = await scene.items(1)
        await fail(scene, own)
        await scene.done(other)
        assert (await scene.flow("one")).breaker == CLOSED

    async def test_settle_lets_what_was_in_flight_end_as_it_does(self, scene: Scene) -> None:
        """Its failures do not park the key for longer, and its success does not close the breaker."""
        bad, good = await opened(scene, held=2)
        until = scene.now + 30_000
        scene.clock.advance("10s")
        assert (await fail(scene, bad)).breaker is None
        assert (await scene.done(good)).breaker is None
        status = await scene.flow("one")
        assert (status.breaker, status.parked_until, status.in_use) == (Breaker(2, 30_000), until, 0)
        assert await scene.items() == []

    async def test_settle_is_stale_and_counts_nothing(self, scene: Scene) -> None:
        """A claim that is not held any more says nothing about its key."""
        await begin(scene)
        (claim,) = await scene.items(1)
        await fail(scene, claim)
        assert (await fail(scene, claim)) == SettleResult(stale=True)
        assert (await scene.flow("one")).breaker == Breaker(1)

    # It tries one

    async def test_claim_tries_one_message_of_a_breaker_that_was_open(self, scene: Scene) -> None:
        """Whatever the parallelism and the number of workers; nothing else starts until it has ended."""
        trial = await half_open(scene)
        await scene.store.register("w2", LEASE_MS)
        status = await scene.flow("one")
        assert status.breaker == Breaker(2, 30_000, trial.id)
        assert (status.parked_until, status.in_use) == (0, 1)
        scene.clock.advance("10m")
        assert await scene.claim(worker="w2") == []
        assert await scene.next_due() is None

    async def test_claim_tries_one_message_of_all_lanes(self, scene: Scene) -> None:
        """Of several batches and destinations under the key one is tried, not one of each."""
        await opened(scene)
        await begin(scene, "xyz", "bat_b")
        await scene.publish("m", "n", flow=KEY)
        scene.clock.advance("30s")
        assert len(await scene.claim()) == 1

    async def test_claim_tries_one_while_others_are_still_in_flight(self, scene: Scene) -> None:
        """What was in flight as the breaker opened does not delay the trial, and its end is not that of the trial."""
        bad, good = await opened(scene, held=2)
        scene.clock.advance("30s")
        (trial,) = await scene.items()
        assert (await fail(scene, bad)).breaker is None
        assert (await scene.done(good)).breaker is None
        assert (await scene.flow("one")).breaker.trial == trial.id
        assert await scene.items() == []
        assert (await scene.done(trial)).breaker == CLOSED_AGAIN

    async def test_settle_closes_the_breaker_with_the_success_of_the_trial(self, scene: Scene) -> None:
        """The limits of the key are in force again, and failures are counted from none."""
        trial = await half_open(scene)
        assert (await scene.done(trial)).breaker == CLOSED_AGAIN
        status = await scene.flow("one")
        assert (status.breaker, status.parked_until) == (CLOSED, 0)
        claims = await scene.items()
        assert len(claims) == 4
        assert (await fail(scene, claims[0])).breaker is None

    async def test_settle_parks_the_key_again_with_the_failure_of_the_trial(self, scene: Scene) -> None:
        """As often as it fails, each time for as long, from then on."""
        trial = await half_open(scene)
        for count in (3, 4):
            scene.clock.advance("5s")
            assert (await fail(scene, trial)).breaker is None
            status = await scene.flow("one")
            assert (status.breaker, status.parked_until) == (Breaker(count, 30_000), scene.now + 30_000)
            scene.clock.advance("29999ms")
            assert await scene.items() == []
            scene.clock.advance("1ms")
            (trial,) = await scene.items()

    async def test_settle_ends_a_trial_that_says_nothing(self, scene: Scene) -> None:
        """Another message is tried at once, after a rate limit once that is over; the breaker stays open."""
        trial = await half_open(scene)
        await scene.store.settle(settlement.released(trial))
        (trial,) = await scene.items()
        await scene.suspend(trial)
        (trial,) = await scene.items()
        await scene.store.settle(settlement.cancelled(trial))
        (trial,) = await scene.items()
        await scene.store.settle(settlement.parked(trial, scene.now + 7_000, "RateLimited: later"))
        status = await scene.flow("one")
        assert (status.breaker, status.parked_until) == (Breaker(2, 30_000), scene.now + 7_000)
        scene.clock.advance("7s")
        (trial,) = await scene.items()
        assert (await scene.done(trial)).breaker == CLOSED_AGAIN

    async def test_expire_ends_a_trial_whose_worker_is_lost(self, scene: Scene) -> None:
        """Another one is made, and only one."""
        await half_open(scene)
        assert await scene.lose() == 1
        (trial,) = await scene.items()
        assert (await scene.flow("one")).breaker == Breaker(2, 30_000, trial.id)
        assert (await scene.done(trial)).breaker == CLOSED_AGAIN

    async def test_deregister_ends_a_trial_of_the_worker(self, scene: Scene) -> None:
        """A deploy in the middle of a trial does not wait for it."""
        await half_open(scene)
        await scene.store.deregister("w1")
        await scene.store.register("w1", LEASE_MS)
        assert len(await scene.items()) == 1

    async def test_claim_tries_a_message_that_is_claimed_alone(self, scene: Scene) -> None:
        """A suspect is a trial as well, and nothing else starts beside it."""
        trial = await half_open(scene)
        for _ in range(3):
            assert await scene.lose() == 1
            (trial,) = await scene.items()
        await scene.store.register("w2", LEASE_MS)
        assert await scene.claim(worker="w2") == []
        assert (await scene.done(trial)).breaker == CLOSED_AGAIN

    async def test_settle_takes_the_time_of_the_batch_whose_item_was_tried(self, scene: Scene) -> None:
        """And of a message without a breaker that of the one that opened it."""
        await opened(scene)
        await scene.publish("m", flow=KEY)
        await scene.store.cancel_batch("bat_a")
        scene.clock.advance("30s")
        (trial,) = await scene.claim(destinations=("work",))
        await scene.store.settle(settlement.retry(trial, scene.now, "ValueError: no"))
        assert (await scene.flow("one")).parked_until == scene.now + 30_000
        await begin(scene, "x", "bat_b", FailureBudget(max_in_a_row=9, open_for="5s"))
        await scene.store.cancel_run("m")
        scene.clock.advance("30s")
        (trial,) = await scene.items()
        await fail(scene, trial)
        assert (await scene.flow("one")).parked_until == scene.now + 5_000

    async def test_set_failure_budget_changes_the_breaker(self, scene: Scene) -> None:
        """Of the batch, at the next failure: what was counted stays, and one that is open opens for the new time."""
        await begin(scene)
        claims = await scene.items(4)
        await fail(scene, claims[0])
        await scene.store.set_failure_budget("bat_a", FailureBudget(max_failures=9))
        await fail(scene, claims[1])
        assert (await scene.flow("one")).breaker == Breaker(1)
        await scene.store.set_failure_budget("bat_a", FailureBudget(max_in_a_row=3, open_for="10s"))
        assert (await fail(scene, claims[2])).breaker is None
        assert (await fail(scene, claims[3])).breaker == BreakerChange("one", 3, 10_000)
        await scene.store.set_failure_budget("bat_a", FailureBudget(max_in_a_row=3, open_for="20s"))
        scene.clock.advance("10s")
        (trial,) = await scene.items()
        await fail(scene, trial)
        assert (await scene.flow("one")).parked_until == scene.now + 20_000

    # It is closed by hand

    async def test_reset_closes_the_breaker(self, scene: Scene) -> None:
        """Full limits at the next claim; the end of a trial or of what was in flight is then one like any other."""
        await opened(scene)
        await scene.store.reset("one")
        assert (await scene.flow("one")).breaker == CLOSED
        claims = await scene.items()
        assert len(claims) == 4
        assert [(await fail(scene, claim)).breaker for claim in claims[:2]] == [None, OPENED]
        scene.clock.advance("30s")
        (trial,) = await scene.items()
        await scene.store.reset("one")
        assert len(await scene.items()) == 1
        assert (await fail(scene, trial)).breaker is None
        assert (await scene.flow("one")).breaker == Breaker(1)

    async def test_settle_counts_for_a_breaker_in_the_order_of_a_group(self, scene: Scene) -> None:
        """Settlements that are written together open it once."""
        await begin(scene, [f"i{number}" for number in range(4)])
        ends = [fail(scene, claim) for claim in await scene.items()]
        changes = [end.breaker for end in await asyncio.gather(*ends)]
        assert changes == [None, OPENED, None, None]

    async def test_settle_changes_the_breaker_of_the_batchs_key(self, scene: Scene) -> None:
        """Also if its items have keys of their own: all of them wait, and one of them is tried."""
        own = [FlowControl(key=f"own-{number % 3}", parallelism=2) for number in range(6)]
        entry = await scene.enter(flow=KEY, failure_budget=BUDGET)
        page = RecordPage("bat_a", eligible=6, chunks=1)
        start = StartItems("bat_a", 0, tuple(ITEMS), flows=tuple(own))
        await scene.done(entry, FinishEntry("bat_a"), page, start)
        claims = await scene.items(2)
        assert [(await fail(scene, claim)).breaker for claim in claims] == [None, OPENED]
        assert await scene.items() == []
        scene.clock.advance("30s")
        (trial,) = await scene.items()
        assert (await scene.flow("one")).breaker.trial == trial.id
        assert await scene.items() == []
        await scene.lose()
        (trial,) = await scene.items()
        assert (await scene.done(trial)).breaker == CLOSED_AGAIN
        assert len(await scene.items()) == 4
        assert [flow.breaker for flow in await scene.store.flows(["own-0", "own-1", "own-2"])] == [CLOSED] * 3
