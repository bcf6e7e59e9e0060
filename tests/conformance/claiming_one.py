"""Leasing one message by its id and its fence, which somebody else has handed over."""

import asyncio

import pytest

from batchflow.core import settlement
from batchflow.core.batch import Canary, Failure
from batchflow.core.breaker import Breaker, BreakerChange
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim, ClaimResult
from batchflow.core.run import NEVER
from batchflow.core.settlement import FinishEntry, FinishWalk, Publish, RecordPage, StartItems
from tests.conformance.scene import LEASE_MS, Cases, Scene, message, names, ran, sleeping

HOUR_MS = 3_600_000
OTHER = "w9"


async def hand_over(scene: Scene, claim: Claim) -> int:
    """The claim ends, and whoever has its id and fence may have the message within an hour."""
    await scene.suspend(claim, until=scene.now + HOUR_MS)
    return claim.fence


async def handed_over(scene: Scene, id: str = "a", **changes: object) -> int:
    """A message is published, claimed and handed over; its fence."""
    return await hand_over(scene, await scene.leased(id, **changes))


async def claim_one(scene: Scene, id: str, fence: int, *, worker: str = OTHER) -> list[Claim]:
    """The claims that another worker gets, which is registered."""
    await scene.store.register(OTHER, LEASE_MS)
    found = await scene.store.claim_one(worker, id, fence)
    assert found == ClaimResult(found.claims, None, scene.now)
    return list(found.claims)


async def in_use(scene: Scene, *keys: str) -> list[int]:
    """The places that are taken of these keys."""
    return [(await scene.flow(key)).in_use for key in keys]


class ClaimOneCases(Cases):
    """`claim_one`."""

    # What it leases

    async def test_claim_one_leases_a_message_before_its_due_time(self, scene: Scene) -> None:
        """With a new fence; until it is settled nobody else gets it."""
        fence = await handed_over(scene)
        assert await scene.next_due() == scene.now + HOUR_MS
        (claim,) = await claim_one(scene, "a", fence)
        assert claim == Claim("a", fence + 1, "work", '"a"', started_at=claim.started_at)
        assert (await scene.run("a")).state == "running"
        assert await scene.next_due() is None
        scene.clock.advance(f"{HOUR_MS}ms")
        assert await scene.claim() == []
        assert not (await scene.done(claim)).stale
        assert await scene.store.run("a") is None

    async def test_claim_one_leases_a_message_that_is_due(self, scene: Scene) -> None:
        """Also one that was never claimed, due or not, whose fence is 0; and others of its lane stay."""
        fence = await handed_over(scene, "a")
        scene.clock.advance(f"{HOUR_MS}ms")
        await scene.store.register("w1", LEASE_MS)
        await scene.publish("b", "c")
        await scene.publish("d", not_before=scene.now + 5)
        for id, latest in (("a", fence), ("c", 0), ("d", 0)):
            assert names(await claim_one(scene, id, latest)) == [id]
        await scene.claim_one("b")
        scene.clock.advance("5ms")
        assert await scene.next_due() is None

    async def test_claim_one_leases_a_message_once(self, scene: Scene) -> None:
        """To one of the workers that ask at the same moment; a fence that is not the latest leases nothing."""
        fence = await handed_over(scene)
        await scene.store.register(OTHER, LEASE_MS)
        asked = [scene.store.claim_one(worker, "a", fence) for worker in ("w1", OTHER)]
        (claim,) = [claim for found in await asyncio.gather(*asked) for claim in found.claims]
        assert await claim_one(scene, "a", fence - 1) == []
        await hand_over(scene, claim)
        for other in (fence - 1, fence, fence + 2):
            assert await claim_one(scene, "a", other) == []
        assert len(await claim_one(scene, "a", fence + 1)) == 1

    async def test_claim_one_takes_a_message_from_the_worker_that_hands_it_over(self, scene: Scene) -> None:
        """Who names its fence may come before that worker has settled it, which is stale then; no place is lost."""
        await scene.start(["u1", "u2"], flow=FlowControl(key="one", parallelism=2))
        first, second = await scene.items()
        (claim,) = await claim_one(scene, first.id, first.fence)
        assert (claim.id, claim.fence) == (first.id, first.fence + 1)
        assert (await scene.store.settle(settlement.suspended(first, scene.now + HOUR_MS, ()))).stale
        assert await in_use(scene, "one") == [2]
        # Nor has that worker what another has by its own claim_one, or what it has lost.
        assert await claim_one(scene, first.id, first.fence, worker="w1") == []
        scene.clock.advance(f"{LEASE_MS}ms")
        await scene.store.register(OTHER, LEASE_MS)
        await scene.store.expire()
        assert not (await scene.done(claim)).stale
        assert (await scene.done(second)).stale
        assert await in_use(scene, "one") == [0]

    async def test_claim_one_does_not_take_what_is_cancelled_from_its_worker(self, scene: Scene) -> None:
        """That ends it."""
        await scene.start(["u1"], flow=FlowControl(key="one", parallelism=1))
        (claim,) = await scene.items()
        await scene.store.cancel_batch("bat_a")
        assert await claim_one(scene, claim.id, claim.fence) == []
        await scene.suspend(claim, until=scene.now + HOUR_MS)
        assert (await scene.batch()).state == "cancelled"

    async def test_claim_one_of_an_unknown_message_leases_nothing(self, scene: Scene) -> None:
        """Nor of one that has ended, or is a dead letter; and an unknown worker gets nothing."""
        fence = await handed_over(scene)
        assert await claim_one(scene, "a", fence, worker="stranger") == []
        (claim,) = await claim_one(scene, "a", fence)
        await scene.dead(claim)
        await scene.done(await scene.leased("b", keep=True))
        for id, known in (("a", fence + 1), ("b", 1), ("c", 0), ("bat_x.r000000000", 0)):
            assert await claim_one(scene, id, known) == []

    async def test_claim_one_may_be_repeated_after_a_lost_reply(self, scene: Scene) -> None:
        """The worker gets the same claim again, with what was recorded meanwhile, and takes no more room."""
        await scene.start(["u1"], flow=FlowControl(key="one", parallelism=1))
        fence = await hand_over(scene, (await scene.items())[0])
        (claim,) = await claim_one(scene, "bat_a.r000000000", fence)
        assert await claim_one(scene, claim.id, fence) == [claim]
        await scene.record(claim, ran(1, "one"))
        await scene.record(claim, sleeping(2, "nap", scene.now))
        (again,) = await claim_one(scene, claim.id, fence)
        assert again == claim._replace(journal=(ran(1, "one"), sleeping(2, "nap", scene.now)))
        assert await in_use(scene, "one") == [1]
        assert not (await scene.done(again)).stale
        assert await in_use(scene, "one") == [0]
        assert await claim_one(scene, claim.id, fence) == []

    # The claim

    async def test_claim_one_brings_the_journal_up_to_now(self, scene: Scene) -> None:
        """Timers that are due and what has arrived are recorded in time order; failures and losses start again."""
        claim = await scene.leased("a")
        await scene.store.settle(settlement.retry(claim, scene.now, "Boom: no"))
        claim = await scene.claim_one("a")
        await scene.listen(claim, number=1)
        await scene.suspend(claim, sleeping(2, "nap", scene.now + 5), until=scene.now + HOUR_MS)
        scene.clock.advance("9ms")
        await scene.store.notify("paid", "7", "a")
        (claim,) = await claim_one(scene, "a", claim.fence)
        assert [(it.number, it.state, it.position, it.value) for it in claim.journal] == [
            (1, "done", 2, "7"),
            (2, "done", 1, "null"),
        ]
        assert claim.failures == 0
        assert list(await scene.store.waiters("paid")) == []
        assert (await scene.run("a")).journal == claim.journal

    async def test_claim_one_composes_an_item_as_claim_does(self, scene: Scene) -> None:
        """Batch, headers, parameters, data; it waits for no reason any more."""
        entry = await scene.enter(params='{"p":2}', headers={"h": "1"}, depth=3)
        start = StartItems("bat_a", 0, ("u1", "u2"), data=('{"id":"u1"}', '{"id":"u2"}'))
        await scene.done(entry, FinishEntry("bat_a"), RecordPage("bat_a", eligible=2, chunks=1), start)
        first, second = await scene.items()
        began = scene.now
        scene.clock.advance("5ms")
        failures = (Failure("Boom", "job.py:1 in execute", "Boom: no"),)
        await scene.store.settle(settlement.retry(first, scene.now + 60_000, "Boom: no", failures=failures))
        await scene.store.settle(settlement.parked(second, scene.now, "RateLimited: later"))
        assert ((await scene.counts()).retrying, (await scene.counts()).parked) == (1, 1)
        (claim,) = await claim_one(scene, first.id, first.fence)
        assert claim == first._replace(fence=first.fence + 1, failures=1, started_at=began)
        assert (claim.item, claim.data, claim.params, claim.headers) == ("u1", '{"id":"u1"}', '{"p":2}', {"h": "1"})
        assert claim.depth == 3
        await claim_one(scene, second.id, second.fence)
        assert ((await scene.counts()).retrying, (await scene.counts()).parked) == (0, 0)

    async def test_claim_one_leases_an_item_that_nobody_has_claimed(self, scene: Scene) -> None:
        """From the middle of the others, which are all claimed after it, each once."""
        await scene.start(["u1", "u2", "u3"])
        (claim,) = await claim_one(scene, "bat_a.r000000001", 0)
        assert (claim.item, claim.fence, claim.number, claim.started_at) == ("u2", 1, 1, scene.now)
        assert [it.item for it in await scene.items()] == ["u1", "u3"]
        await scene.done(claim)
        assert [it[1] for it in await scene.states()] == ["open", "succeeded", "open"]

    # Room of its keys

    async def test_claim_one_takes_room_of_its_keys_whatever_their_limits(self, scene: Scene) -> None:
        """Of its own key and of its batch's, as many places as claims, which their ends give back; and no start."""
        rated = FlowControl(key="own", parallelism=1, rate=1, period="1h")
        entry = await scene.enter(flow=FlowControl(key="layer", parallelism=1))
        start = StartItems("bat_a", 0, ("u1", "u2"), flows=(rated, rated))
        await scene.done(entry, FinishEntry("bat_a"), RecordPage("bat_a", eligible=2, chunks=1), start)
        (first,) = await scene.items()
        starts = [(await scene.flow(key)).next_start for key in ("own", "layer")]
        (second,) = await claim_one(scene, "bat_a.r000000001", 0)
        assert await in_use(scene, "own", "layer") == [2, 2]
        await hand_over(scene, first)
        assert await in_use(scene, "own", "layer") == [1, 1]
        (first,) = await claim_one(scene, first.id, first.fence)
        assert await in_use(scene, "own", "layer") == [2, 2]
        await scene.done(second)
        await scene.store.deregister(OTHER)
        assert await in_use(scene, "own", "layer") == [0, 0]
        assert [(await scene.flow(key)).next_start for key in ("own", "layer")] == starts
        assert [(await scene.flow(key)).waiting for key in ("own", "layer")] == [1, 1]

    async def test_claim_one_fills_a_key_for_claim(self, scene: Scene) -> None:
        """The place that it takes is given to nobody else, until it is free again."""
        fence = await handed_over(scene, flow=FlowControl(key="one", parallelism=1))
        await scene.publish("b", flow=FlowControl(key="one", parallelism=1))
        (claim,) = await claim_one(scene, "a", fence)
        assert await scene.next_due() is None
        await scene.done(claim)
        await scene.claim_one("b")

    async def test_claim_one_is_the_trial_of_a_half_open_key(self, scene: Scene) -> None:
        """Nothing else of the key starts beside it, and its end closes the circuit breaker."""
        budget = FailureBudget(max_in_a_row=1, open_for="30s")
        await scene.start(["u1", "u2"], flow=FlowControl(key="one"), failure_budget=budget)
        first, second = await scene.items()
        await hand_over(scene, second)
        await scene.store.settle(settlement.retry(first, scene.now, "Boom: no"))
        scene.clock.advance("30s")
        await scene.store.register("w1", LEASE_MS)
        (trial,) = await claim_one(scene, second.id, second.fence)
        assert (await scene.flow("one")).breaker == Breaker(1, 30_000, trial.id)
        assert await scene.items() == []
        assert await claim_one(scene, first.id, first.fence) == []
        assert (await scene.done(trial)).breaker == BreakerChange("one", 1, 0)
        assert len(await scene.items()) == 1

    # What was lost often

    async def test_claim_one_leases_what_was_lost_twice_beside_others(self, scene: Scene) -> None:
        """The worker may hold others and get more; if it is lost, all of them are."""
        await scene.publish("a")
        for _ in range(2):
            await scene.claim_one("a")
            await scene.lose()
        fence = await hand_over(scene, await scene.claim_one("a"))
        await scene.publish("b", "c")
        assert len(await scene.claim(1, worker="w1")) == 1
        (claim,) = await claim_one(scene, "a", fence, worker="w1")
        assert claim.losses == 2
        assert len(await scene.claim()) == 1
        assert await scene.lose() == 3
        assert (await scene.claim_one("a")).losses == 3
        await scene.store.register(OTHER, LEASE_MS)
        assert [it.losses for it in await scene.claim(worker=OTHER)] == [1, 1]

    # What may not start now

    @pytest.mark.parametrize("why", ["key paused", "batch paused", "parked", "layer paused", "breaker open"])
    async def test_claim_one_makes_due_what_may_not_start_now(self, scene: Scene, why: str) -> None:
        """Nothing is leased; `claim` leases it as soon as it may start, though its own due time is later."""
        entry = await scene.enter(
            flow=FlowControl(key="layer"), failure_budget=FailureBudget(max_in_a_row=1, open_for="5s")
        )
        start = StartItems("bat_a", 0, ("u1", "u2"), flows=(FlowControl(key="own"), None))
        await scene.done(entry, FinishEntry("bat_a"), RecordPage("bat_a", eligible=2, chunks=1), start)
        one, other = sorted(await scene.items())
        fence = await hand_over(scene, one)
        match why:
            case "key paused":
                await scene.store.pause("own", scene.now + 5_000)
            case "layer paused":
                await scene.store.pause("layer", scene.now + 5_000)
            case "batch paused":
                await scene.store.pause_batch("bat_a")
            case "breaker open":
                await scene.store.settle(settlement.retry(other, scene.now + HOUR_MS, "Boom: no"))
            case _:
                await scene.store.settle(settlement.parked(other, scene.now + 5_000, "RateLimited: later"))
        for _ in range(2):
            assert await claim_one(scene, one.id, fence) == []
        assert (await scene.run(one.id)).due_at is None
        assert await scene.items() == []
        scene.clock.advance("5s")
        await scene.store.resume_batch("bat_a")
        assert one.item in [it.item for it in await scene.items()]

    async def test_claim_one_leases_what_a_pause_holds_back_no_more(self, scene: Scene) -> None:
        """As soon as the pause of its key has ended by itself."""
        fence = await handed_over(scene)
        await scene.store.pause("free", scene.now + 5_000)
        scene.clock.advance("5s")
        assert len(await claim_one(scene, "a", fence)) == 1

    async def test_claim_one_makes_due_what_is_held_back(self, scene: Scene) -> None:
        """Until the walk has ended, or a canary is approved; that of a batch that is cancelled is not leased at all."""
        entry = await scene.enter()
        await scene.done(entry, FinishEntry("bat_a"), Publish((message("bat_a.c", batch="bat_a", held=True),)))
        assert await claim_one(scene, "bat_a.c", 0) == []
        await scene.publish("bat_a.d", batch="bat_a", held=True, not_before=scene.now + HOUR_MS)
        assert await claim_one(scene, "bat_a.d", 0) == []
        await scene.done(await scene.leased("bat_a.w", batch="bat_a"), FinishWalk("bat_a", 0))
        first, second = await scene.claim()
        assert (first.id, second.id) == ("bat_a.c", "bat_a.d")
        fence = await hand_over(scene, first)
        await scene.store.cancel_batch("bat_a")
        assert await claim_one(scene, first.id, fence) == []
        await scene.enter("bat_b", canary=Canary(1))
        await scene.publish("bat_b.c", batch="bat_b", held=True)
        assert await claim_one(scene, "bat_b.c", 0) == []
        assert await scene.claim() == []
        assert await scene.store.approve_batch("bat_b")
        assert len(await claim_one(scene, "bat_b.c", 0)) == 1

    async def test_claim_one_wakes_nothing_with_another_fence(self, scene: Scene) -> None:
        """Its due time stays, also while its key is paused; and so does one that waits without an end."""
        claim = await scene.leased("a")
        await scene.suspend(claim, until=NEVER)
        await scene.store.pause("free")
        assert await claim_one(scene, "a", claim.fence - 1) == []
        assert await claim_one(scene, "a", claim.fence, worker="stranger") == []
        await scene.store.resume("free")
        assert await scene.next_due() is None
