"""Workers: leases, losses, leaving."""

import asyncio

from batchflow.core import settlement
from batchflow.core.flow import FlowControl
from batchflow.core.message import LOSS_LIMIT, UnservedWork
from tests.conformance.scene import LEASE_MS, Cases, Scene, names, ran, renewed

ONE = FlowControl(key="one", parallelism=1)


class WorkerCases(Cases):
    """`register`, `renew`, `expire`, `deregister`, `workers`."""

    async def test_register_may_be_repeated(self, scene: Scene) -> None:
        """It extends the lease and keeps the claims."""
        claim = await scene.leased("a")
        scene.clock.advance(f"{LEASE_MS - 1}ms")
        await scene.store.register("w1", LEASE_MS)
        scene.clock.advance(f"{LEASE_MS - 1}ms")
        assert await scene.store.expire() == 0
        assert not (await scene.done(claim)).stale

    async def test_register_makes_claims_the_workers_own_until_the_lease_ends(self, scene: Scene) -> None:
        """Up to the last millisecond nobody takes them back."""
        await scene.leased("a")
        scene.clock.advance(f"{LEASE_MS - 1}ms")
        assert await scene.store.expire() == 0
        scene.clock.advance("1ms")
        assert await scene.store.expire() == 1

    async def test_renewing_extends_the_lease(self, scene: Scene) -> None:
        """From now on, by what is given."""
        claim = await scene.leased("a")
        for _ in range(3):
            scene.clock.advance(f"{LEASE_MS - 1}ms")
            assert await _renew(scene)
            assert await scene.store.expire() == 0
        assert not (await scene.done(claim)).stale

    async def test_renewing_answers_false_once_the_claims_were_taken_back(self, scene: Scene) -> None:
        """The worker enlists again and goes on; what it held is stale."""
        claim = await scene.leased("a")
        scene.clock.advance(f"{LEASE_MS}ms")
        assert await scene.store.expire() == 1
        assert not await _renew(scene)
        await scene.store.register("w1", LEASE_MS)
        assert (await scene.done(claim)).stale
        assert await _renew(scene)

    async def test_renewing_answers_false_to_a_stranger(self, scene: Scene) -> None:
        """Who was never registered has no lease."""
        assert not await renewed(scene.store, "stranger", LEASE_MS)

    async def test_renewing_takes_hung_claims_back_as_losses(self, scene: Scene) -> None:
        """At once, and those only; the lease goes on for the others."""
        await scene.publish("hung", "fine")
        hung, fine = sorted(await scene.claim(), key=lambda claim: claim.id == "fine")
        assert await _renew(scene, (hung.id, hung.fence))
        assert (await scene.done(hung)).stale
        assert not (await scene.done(fine)).stale
        assert (await scene.claim_one("hung")).losses == 1

    async def test_renewing_ignores_hung_claims_of_old(self, scene: Scene) -> None:
        """A fence of the past takes nothing back, however often it is named."""
        hung = await scene.leased("a")
        assert await _renew(scene, (hung.id, hung.fence))
        again = await scene.claim_one("a")
        assert await _renew(scene, (hung.id, hung.fence))
        assert not (await scene.done(again)).stale

    async def test_renewing_tells_of_what_it_took_back(self, scene: Scene) -> None:
        """It is due at once, so whoever waits for work is woken."""
        hung = await scene.leased("a")
        told: list[bool] = []
        scene.store.on_change(told.append)
        await _renew(scene, (hung.id, hung.fence))
        await asyncio.sleep(0)
        assert told

    async def test_expire_makes_a_lost_claim_due_at_once(self, scene: Scene) -> None:
        """It counts as a loss, not as an attempt, and gives its place back."""
        await scene.leased("a", flow=ONE)
        assert await scene.lose() == 1
        assert (await scene.flow("one")).in_use == 0
        claim = await scene.claim_one("a")
        assert (claim.losses, claim.failures) == (1, 0)

    async def test_expire_counts_what_it_took_back(self, scene: Scene) -> None:
        """All claims of all workers whose lease has ended; the second time there is nothing left."""
        await scene.publish("a", "b", "c")
        await scene.claim(2)
        await scene.store.register("w2", LEASE_MS * 10)
        await scene.claim(2, worker="w2")
        scene.clock.advance(f"{LEASE_MS}ms")
        assert await scene.store.expire() == 2
        assert await scene.store.expire() == 0

    async def test_expire_keeps_what_was_recorded(self, scene: Scene) -> None:
        """The next claim replays the steps of the one that was lost."""
        claim = await scene.leased("a")
        await scene.store.record("a", claim.fence, ran(1, "one"))
        await scene.lose()
        assert (await scene.claim_one("a")).journal == (ran(1, "one"),)

    async def test_expire_buries_a_message_that_kills_its_workers(self, scene: Scene) -> None:
        """As many losses in a row as the limit make a dead letter that says why."""
        await scene.publish("a", flow=ONE)
        for losses in range(LOSS_LIMIT):
            assert (await scene.claim_one("a")).losses == losses
            assert await scene.lose() == 1
        assert await scene.claim() == []
        (letter,) = await scene.store.dead_letters()
        assert (letter.id, letter.losses) == ("a", LOSS_LIMIT)
        assert f"{LOSS_LIMIT} workers" in letter.error
        assert (await scene.flow("one")).in_use == 0

    async def test_expire_counts_losses_from_the_last_recorded_step(self, scene: Scene) -> None:
        """A run that gets on is never buried for its workers' deaths."""
        await scene.publish("a")
        for round in range(LOSS_LIMIT + 2):
            claim = await scene.claim_one("a")
            assert claim.losses == min(round, 1)
            await scene.store.record("a", claim.fence, ran(round + 1, f"step{round}"))
            assert await scene.lose() == 1
        assert await scene.store.dead_letters() == []

    async def test_expire_fails_the_item_that_it_buries(self, scene: Scene) -> None:
        """And ends its batch, when it was the last."""
        await scene.start(["u1"])
        for _ in range(LOSS_LIMIT):
            await scene.items()
            await scene.lose()
        assert await scene.states() == [("u1", "failed")]
        assert (await scene.batch()).state == "completed"
        assert len(await scene.completions()) == 1

    async def test_expire_ends_what_was_cancelled_meanwhile(self, scene: Scene) -> None:
        """A cancelled run is not delivered again because its worker died."""
        await scene.leased("a", keep=True)
        await scene.store.cancel_run("a")
        await scene.lose()
        assert await scene.claim() == []
        run = await scene.store.run("a")
        assert run is not None
        assert run.state == "cancelled"

    async def test_deregister_gives_claims_back_without_a_loss(self, scene: Scene) -> None:
        """Due at once, with its place in the flow key, as if it had not been claimed."""
        await scene.leased("a", flow=ONE)
        await scene.store.deregister("w1")
        assert (await scene.flow("one")).in_use == 0
        await scene.store.register("w1", LEASE_MS)
        claim = await scene.claim_one("a")
        assert (claim.losses, claim.failures) == (0, 0)

    async def test_deregister_makes_open_claims_stale(self, scene: Scene) -> None:
        """Whatever the worker still says of them."""
        claim = await scene.leased("a")
        await scene.store.deregister("w1")
        assert (await scene.done(claim)).stale
        assert await scene.store.record("a", claim.fence, ran(1, "one")) == "stale"

    async def test_deregister_keeps_losses_and_failures(self, scene: Scene) -> None:
        """What was counted before still counts."""
        claim = await scene.leased("a")
        await scene.store.settle(settlement.retry(claim, scene.now, "Boom: no"))
        await scene.claim_one("a")
        await scene.lose()
        await scene.claim_one("a")
        await scene.store.deregister("w1")
        await scene.store.register("w1", LEASE_MS)
        claim = await scene.claim_one("a")
        assert (claim.failures, claim.losses) == (1, 1)

    async def test_deregister_may_be_repeated(self, scene: Scene) -> None:
        """And a stranger may leave as well."""
        await scene.store.deregister("w1")
        await scene.store.deregister("w1")
        await scene.store.deregister("stranger")
        assert not await _renew(scene)

    async def test_workers_come_by_name_with_what_was_told_of_them(self, scene: Scene) -> None:
        """How many claims each means to have, and until when its lease goes."""
        await scene.store.register("w3", 1)
        await scene.store.register("w2", LEASE_MS, 7)
        found = [(it.name, it.concurrency, it.lease_until, it.lost) for it in await scene.store.workers()]
        ends = scene.now + LEASE_MS
        assert found == [("w1", 0, ends, False), ("w2", 7, ends, False), ("w3", 0, scene.now + 1, False)]

    async def test_workers_are_known_since_they_were_enlisted(self, scene: Scene) -> None:
        """To register again changes that as little as a heartbeat does; both are the last that was heard of it."""
        began = scene.now
        await scene.store.register("w1", LEASE_MS, 3)
        scene.clock.advance("1s")
        await _renew(scene)
        (worker,) = await scene.store.workers()
        assert (worker.since, worker.seen_at, worker.lease_until) == (began, scene.now, scene.now + LEASE_MS)
        scene.clock.advance("1s")
        await scene.store.register("w1", LEASE_MS, 9)
        (worker,) = await scene.store.workers()
        assert (worker.since, worker.seen_at, worker.concurrency) == (began, scene.now, 9)

    async def test_workers_show_how_many_of_their_threads_hang(self, scene: Scene) -> None:
        """As the last heartbeat told; to register again is none."""
        (worker,) = await scene.store.workers()
        assert worker.hanging == 0
        assert await renewed(scene.store, "w1", LEASE_MS, (), 3)
        await scene.store.register("w1", LEASE_MS, 9)
        (worker,) = await scene.store.workers()
        assert (worker.concurrency, worker.hanging) == (9, 3)
        assert await renewed(scene.store)
        (worker,) = await scene.store.workers()
        assert worker.hanging == 0

    async def test_workers_show_what_they_hold_by_destination(self, scene: Scene) -> None:
        """Items as well as messages, from the claim to the settlement, whichever that is; what waits is nobody's."""
        await scene.store.register("w2", LEASE_MS)
        await scene.publish("a", "b", "c")
        await scene.publish("d", destination="other")
        claims = await scene.claim()
        (back,) = [claim for claim in claims if claim.id == "c"]
        await scene.store.settle(settlement.released(back))
        await scene.start(["u1", "u2", "u3"])
        items = await scene.claim(2, worker="w2", destinations=["execute"])
        first, second = await scene.store.workers()
        assert (first.holds, first.held) == ({"work": 2, "other": 1}, 3)
        assert (second.holds, second.held) == ({"execute": 2}, 2)
        for claim in (*claims, *items):
            await scene.done(claim)
        assert [(it.holds, it.held) for it in await scene.store.workers()] == [({}, 0), ({}, 0)]

    async def test_workers_show_who_is_lost_until_its_claims_are_taken_back(self, scene: Scene) -> None:
        """From the end of its lease on. Looking takes nothing back; then it is known no more."""
        claim = await scene.leased("a")
        scene.clock.advance(f"{LEASE_MS - 1}ms")
        assert [it.lost for it in await scene.store.workers()] == [False]
        scene.clock.advance("1ms")
        for _ in range(2):
            assert [(it.name, it.lost, it.held) for it in await scene.store.workers()] == [("w1", True, 1)]
        assert not (await scene.done(claim)).stale
        await scene.store.expire()
        assert list(await scene.store.workers()) == []
        scene.clock.advance("1s")
        await scene.store.register("w1", LEASE_MS)
        assert [it.since for it in await scene.store.workers()] == [scene.now]

    async def test_workers_leave_out_who_was_dismissed_and_who_was_never_there(self, scene: Scene) -> None:
        """A stranger that renews is none."""
        await renewed(scene.store, "stranger", LEASE_MS)
        await scene.store.deregister("w1")
        assert list(await scene.store.workers()) == []

    async def test_workers_tell_what_they_serve(self, scene: Scene) -> None:
        """By name; a worker that registers again may serve something else."""
        await scene.store.register("w1", LEASE_MS, 1, ("work", "entry"))
        await scene.store.register("w1", LEASE_MS)
        (status,) = await scene.store.workers()
        assert status.serves == ("entry", "work")
        await scene.store.register("w1", LEASE_MS, 1, ("other", "work"))
        (status,) = await scene.store.workers()
        assert status.serves == ("other", "work")

    async def test_unserved_is_due_work_that_no_worker_serves(self, scene: Scene) -> None:
        """By destination, with the number of its messages; what is not due yet does not count."""
        await scene.store.register("w1", LEASE_MS, 1, ("work",))
        await scene.publish("a", "b", destination="other")
        await scene.publish("c", destination="third", not_before=scene.now + 1_000)
        await scene.publish("d")
        assert list(await scene.store.unserved()) == [UnservedWork("other", 2)]
        scene.clock.advance("1s")
        assert list(await scene.store.unserved()) == [UnservedWork("other", 2), UnservedWork("third", 1)]
        assert list(await scene.store.unserved(1)) == [UnservedWork("other", 2)]
        await scene.store.register("w2", LEASE_MS, 1, ("other", "third"))
        assert list(await scene.store.unserved()) == []
        await scene.store.deregister("w2")
        assert [work.destination for work in await scene.store.unserved()] == ["other", "third"]

    async def test_unserved_counts_items_with_their_batch(self, scene: Scene) -> None:
        """Fresh ones, and those that have started; a paused or cancelled batch waits for something else."""
        await scene.start([f"u{number}" for number in range(200)])
        (claim, *_) = await scene.items(3)
        await scene.store.settle(settlement.retry(claim, scene.now, "Boom: no"))
        await scene.store.register("w1", LEASE_MS, 1, ("work",))
        assert list(await scene.store.unserved()) == [UnservedWork("execute", 198, "bat_a")]
        await scene.store.pause_batch("bat_a")
        assert list(await scene.store.unserved()) == []
        await scene.store.resume_batch("bat_a")
        await scene.start(["v1"], id="bat_b")
        assert list(await scene.store.unserved()) == [UnservedWork("execute", 199)]

    async def test_unserved_is_all_due_work_without_a_worker(self, scene: Scene) -> None:
        """Also once the lease of the last one has ended; a paused key is not waited for by a worker."""
        await scene.store.register("w1", LEASE_MS, 1, ("work",))
        await scene.publish("a")
        await scene.publish("b", destination="other", flow=FlowControl(key="closed"))
        await scene.store.pause("closed")
        assert list(await scene.store.unserved()) == []
        scene.clock.advance(f"{LEASE_MS}ms")
        assert list(await scene.store.unserved()) == [UnservedWork("work", 1)]

    async def test_unserved_counts_work_that_a_rate_delays(self, scene: Scene) -> None:
        """A worker would start it in its turn; what is parked waits for the service."""
        flow = FlowControl(key="slow", rate=1, period="1h")
        await scene.publish("a", "b", "c", destination="other", flow=flow)
        await scene.store.register("w2", LEASE_MS, 9, ("other",))
        assert names((await scene.store.claim("w2", ["other"], 9)).claims) == ["a"]
        await scene.store.register("w1", LEASE_MS, 1, ("work",))
        await scene.store.deregister("w2")
        assert list(await scene.store.unserved()) == [UnservedWork("other", 3)]

    async def test_unserved_is_nothing_while_a_worker_has_not_reported(self, scene: Scene) -> None:
        """An older version does not; it may serve anything."""
        await scene.publish("a", destination="other")
        assert list(await scene.store.unserved()) == []


async def _renew(scene: Scene, *hung: tuple[str, int]) -> bool:
    return await renewed(scene.store, scene.worker, LEASE_MS, hung)
