"""Leasing messages to workers."""

import asyncio

import pytest

from batchflow.core import settlement
from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim
from batchflow.core.run import Step
from tests.conformance.scene import LEASE_MS, Cases, Scene, names, ran, sleeping, waiting


class ClaimCases(Cases):
    """`claim`, but for the limits of flow keys."""

    async def test_claim_leases_at_most_the_limit(self, scene: Scene) -> None:
        """And each message to one worker only."""
        await scene.publish("a", "b", "c")
        assert names(await scene.claim(2)) == ["a", "b"]
        assert names(await scene.claim(2)) == ["c"]
        assert await scene.claim(2) == []

    async def test_claim_tells_the_time_of_the_store(self, scene: Scene) -> None:
        """By which what it leases is due; also where it leases nothing."""
        assert (await scene.claimed()).now == scene.now
        await scene.publish("a", "b", not_before=scene.now + 5)
        scene.clock.advance("5ms")
        for _ in range(2):
            claimed = await scene.claimed(limit=1)
            assert (len(claimed.claims), claimed.now) == (1, scene.now)

    async def test_claim_of_nothing_leases_nothing(self, scene: Scene) -> None:
        """A limit of 0, or no destination."""
        await scene.publish("a")
        assert await scene.claim(0) == []
        assert await scene.claim(destinations=()) == []
        await scene.claim_one("a")

    async def test_claim_leases_for_its_destinations_only(self, scene: Scene) -> None:
        """Others are left to other workers, and are no reason to come again."""
        await scene.publish("a", destination="elsewhere")
        claimed = await scene.claimed(destinations=("work", "other"))
        assert (list(claimed.claims), claimed.next_due) == ([], None)
        assert names(await scene.claim(destinations=("other", "elsewhere"))) == ["a"]

    async def test_claim_gives_each_message_to_one_worker(self, scene: Scene) -> None:
        """Claims of two workers at the same moment have nothing in common."""
        await scene.store.register("w2", 30_000)
        await scene.publish(*(f"m{number:02d}" for number in range(20)))
        ones, twos = await asyncio.gather(scene.claim(15), scene.claim(15, worker="w2"))
        assert len(ones) + len(twos) == 20
        assert not set(names(ones)) & set(names(twos))

    async def test_claim_gives_a_new_fence_each_time(self, scene: Scene) -> None:
        """Fences of a message only grow."""
        fences: list[int] = []
        await scene.publish("a")
        for _ in range(4):
            claim = await scene.claim_one("a")
            fences.append(claim.fence)
            await scene.store.settle(settlement.released(claim))
        assert fences == sorted(set(fences))

    async def test_claim_takes_what_is_fresh_by_its_id(self, scene: Scene) -> None:
        """Ids sort in the order they are made; when what was to begin later became due does not matter."""
        for id, due in (("c", 30), ("b", 10), ("d", 10), ("a", 20)):
            await scene.publish(id, not_before=scene.now + due)
        await scene.publish("bb")
        scene.clock.advance("1s")
        assert [(await scene.claim(1))[0].id for _ in range(5)] == ["a", "b", "bb", "c", "d"]

    async def test_claim_takes_what_has_started_before_what_is_fresh(self, scene: Scene) -> None:
        """A retry that is due does not wait behind the backlog; by the time they are due."""
        await scene.publish("x", "y")
        for claim, wait in zip(await scene.claim(), (20, 10), strict=True):
            await scene.store.settle(settlement.retry(claim, scene.now + wait, "Boom: no"))
        await scene.publish(*"abc")
        assert names(await scene.claim(1)) == ["a"]
        scene.clock.advance("1s")
        assert names(await scene.claim(3)) == ["y", "x", "b"]

    async def test_claim_gives_fresh_work_one_in_eight(self, scene: Scene) -> None:
        """However much of what has started is due, one at a time as well as many at once."""
        started = [f"s{number:02d}" for number in range(40)]
        await scene.publish(*started)
        for claim in await scene.claim():
            await scene.store.settle(settlement.released(claim))
        await scene.publish(*(f"f{number}" for number in range(9)))
        one_by_one = [(await scene.claim(1))[0].id for _ in range(16)]
        assert [place for place, id in enumerate(one_by_one) if id.startswith("f")] == [7, 15]
        together = names(await scene.claim(16))
        assert sorted(id for id in together if id.startswith("f")) == ["f2", "f3"]

    async def test_claim_serves_lanes_of_batches_in_turn(self, scene: Scene) -> None:
        """The older of two batches under one key does not starve the newer."""
        await scene.start([f"a{number}" for number in range(8)])
        await scene.start([f"b{number}" for number in range(8)], id="bat_b")
        found = [(await scene.items(1))[0].batch for _ in range(8)]
        assert found.count("bat_a") == found.count("bat_b") == 4

    async def test_claim_finds_what_is_due_though_the_clock_steps_back(self, scene: Scene) -> None:
        """What was published, given back or woken for now is due whatever the clock says next."""
        await scene.publish("given back", "suspended", "woken")
        given_back, suspended, woken = await scene.claim()
        await scene.listen(woken)
        await scene.suspend(woken)
        await scene.suspend(suspended, until=scene.now)
        await scene.store.settle(settlement.released(given_back))
        await scene.store.notify("paid", "1")
        await scene.publish("fresh")
        await scene.start(["u1"])
        scene.clock.move_to(scene.now - 3_600_000)
        assert set(names(await scene.claim())) >= {"given back", "suspended", "woken", "fresh", "bat_a.r000000000"}

    async def test_claim_takes_what_was_lost_twice_alone(self, scene: Scene) -> None:
        """After a wait that grows; and beside it the worker gets nothing, until it has recorded a step."""
        await scene.publish(*"abc")
        for _ in range(2):
            assert len(await scene.claim()) == 3
            scene.clock.advance(f"{LEASE_MS}ms")
            await scene.store.expire()
            await scene.store.register(scene.worker, LEASE_MS)
        await scene.publish("d")
        assert names(await scene.claim()) == ["d"]
        assert await scene.claim() == []
        scene.clock.advance("1s")
        alone = await scene.claim_one("a")
        assert alone.losses == 2
        assert await scene.claim() == []
        await scene.record(alone, ran(1, "one"))
        other = await scene.claim_one("b")
        await scene.done(other)
        await scene.claim_one("c")

    async def test_expire_counts_one_that_is_claimed_alone_alone(self, scene: Scene) -> None:
        """What its worker had beside it is due at once, without a loss."""
        await scene.publish("poison")
        for _ in range(2):
            await scene.claim_one("poison")
            await scene.lose()
        await scene.publish("other", destination="other")
        await scene.claim(destinations=("other",))
        await scene.claim_one("poison")
        scene.clock.advance(f"{LEASE_MS}ms")
        await scene.store.expire()
        await scene.store.register(scene.worker, LEASE_MS)
        assert (await scene.claim_one("other")).losses == 0
        assert await scene.claim() == []
        scene.clock.advance("2s")
        assert (await scene.claim_one("poison")).losses == 3

    async def test_claim_takes_the_oldest_of_a_key_whatever_its_destination(self, scene: Scene) -> None:
        """Destinations that share a key are served in one order."""
        for id, due, destination in (("c", 30, "work"), ("b", 20, "other"), ("a", 10, "work"), ("d", 40, "other")):
            await scene.publish(id, not_before=scene.now + due, destination=destination)
        scene.clock.advance("1s")
        assert [(await scene.claim(1))[0].id for _ in range(4)] == ["a", "b", "c", "d"]

    async def test_claim_picks_keys_in_turn(self, scene: Scene) -> None:
        """A hot key does not starve a quiet one: each gets its turn although the hot key's messages are older."""
        await scene.publish(*(f"hot{number}" for number in range(20)), flow=FlowControl(key="hot"))
        scene.clock.advance("1s")
        await scene.publish("quiet1", "quiet2", flow=FlowControl(key="quiet"))
        first = names(await scene.claim(1)) + names(await scene.claim(1))
        assert sorted(first) == ["hot0", "quiet1"]
        assert "quiet2" in names(await scene.claim(1)) + names(await scene.claim(1))

    async def test_claim_shares_its_limit_between_keys(self, scene: Scene) -> None:
        """One large claim takes from every key, and all of the limit while there is enough."""
        for key in ("k1", "k2", "k3"):
            await scene.publish(*(f"{key}-{number}" for number in range(20)), flow=FlowControl(key=key))
        await scene.publish("only", flow=FlowControl(key="k4"))
        taken = names(await scene.claim(12))
        assert len(taken) == 12
        assert {name.split("-")[0] for name in taken} == {"k1", "k2", "k3", "only"}
        assert len(await scene.claim(100)) == 49

    async def test_claim_serves_a_quiet_key_among_many_hot_ones(self, scene: Scene) -> None:
        """However many keys have work, a further one waits no longer than one turn of all of them."""
        for key in range(80):
            await scene.publish(*(f"k{key}-{number}" for number in range(5)), flow=FlowControl(key=f"k{key}"))
        scene.clock.advance("1s")
        await scene.publish("quiet", flow=FlowControl(key="quiet"))
        taken = [names(await scene.claim(1))[0] for _ in range(81)]
        assert "quiet" in taken

    async def test_claim_says_when_there_may_be_more(self, scene: Scene) -> None:
        """The next time at which something is due; none where only a publish or an end helps."""
        assert (await scene.claimed()).next_due is None
        await scene.publish("a", not_before=scene.now + 70)
        await scene.publish("b", not_before=scene.now + 50)
        assert (await scene.claimed()).next_due == scene.now + 50
        scene.clock.advance("50ms")
        assert names(await scene.claim()) == ["b"]
        assert await scene.next_due() == scene.now + 20

    async def test_claim_that_was_limited_says_to_come_again(self, scene: Scene) -> None:
        """What is due and did not fit in is due now."""
        await scene.publish("a", "b")
        next_due = (await scene.claimed(1)).next_due
        assert next_due is not None
        assert next_due <= scene.now

    async def test_claim_brings_the_journal(self, scene: Scene) -> None:
        """Recorded steps, by number, with all that was recorded of them."""
        claim = await scene.leased("a")
        failed = ran(2, "two", state="failed", value=None, error="Boom: no", failures=4)
        await scene.store.record("a", claim.fence, failed)
        await scene.store.record("a", claim.fence, ran(1, "one", position=3))
        await scene.store.settle(settlement.released(claim))
        assert (await scene.claim_one("a")).journal == (ran(1, "one", position=3), failed)

    async def test_claim_records_due_timers_in_time_order(self, scene: Scene) -> None:
        """Those due go on after the last recorded position; those to come stay pending."""
        claim = await scene.leased("a")
        now = scene.now
        timers = (sleeping(2, "late", now + 30), sleeping(3, "early", now + 10), sleeping(4, "far", now + 99))
        await scene.store.settle(settlement.suspended(claim, now + 30, (ran(1, "one"), *timers)))
        scene.clock.advance("30ms")
        claim = await scene.claim_one("a")
        assert [(step.name, step.state, step.position) for step in claim.journal] == [
            ("one", "done", 1),
            ("late", "done", 3),
            ("early", "done", 2),
            ("far", "pending", 0),
        ]

    async def test_claim_records_a_due_timer_for_good(self, scene: Scene) -> None:
        """A later claim, at which another timer is due, finds it in its old place."""
        claim = await scene.leased("a")
        now = scene.now
        steps = (sleeping(1, "first", now + 20), sleeping(2, "second", now + 30))
        await scene.store.settle(settlement.suspended(claim, now + 20, steps))
        scene.clock.advance("20ms")
        claim = await scene.claim_one("a")
        assert [step.position for step in claim.journal] == [1, 0]
        await scene.store.settle(settlement.suspended(claim, now + 30, ()))
        scene.clock.advance("10ms")
        claim = await scene.claim_one("a")
        assert [(step.state, step.position, step.value) for step in claim.journal] == [
            ("done", 1, "null"),
            ("done", 2, "null"),
        ]

    async def test_claim_leaves_a_pending_retry_to_the_run(self, scene: Scene) -> None:
        """Only timers ripen; a step that is to be tried again stays pending."""
        claim = await scene.leased("a")
        again = ran(1, "one", state="pending", position=0, value=None, failures=1, due=scene.now + 5)
        await scene.store.settle(settlement.suspended(claim, scene.now + 5, (again,)))
        scene.clock.advance("5ms")
        assert (await scene.claim_one("a")).journal == (again,)

    @pytest.mark.parametrize("timer", ["sleep", "timeout", "sleep of an item"])
    async def test_claim_of_a_due_timer_starts_failures_and_losses_again(self, scene: Scene, timer: str) -> None:
        """As an outcome that a worker records does, for good; a timer that is not due leaves them."""
        due = scene.now + 60_000
        step = waiting(due=due) if timer == "timeout" else sleeping(1, "nap", due)
        if timer == "sleep of an item":
            await scene.start(["u1"])
            (claim,) = await scene.items()
        else:
            claim = await scene.leased("a")
        claim = await self._counted(scene, claim, step)
        await scene.suspend(claim, until=due)
        scene.clock.move_to(due)
        await scene.store.register(scene.worker, 30_000)
        await self._starts_again(scene, claim.id, "timeout" if timer == "timeout" else "done")

    async def test_claim_after_each_of_many_timers_has_all_attempts(self, scene: Scene) -> None:
        """One failure after each of them is the first one each time."""
        await scene.publish("a")
        for number in range(1, 7):
            claim = await scene.claim_one("a")
            await scene.suspend(claim, sleeping(number, f"nap{number}", scene.now + 5), until=scene.now + 5)
            scene.clock.advance("5ms")
            claim = await scene.claim_one("a")
            assert (claim.failures, len(claim.journal)) == (0, number)
            await scene.store.settle(settlement.retry(claim, scene.now, "Boom: no"))
        assert (await scene.claim_one("a")).failures == 1

    @pytest.mark.parametrize("what", ["event", "child"])
    async def test_claim_of_what_arrived_starts_failures_and_losses_again(self, scene: Scene, what: str) -> None:
        """The event that was waited for, or the end of a child; so does what arrives while the run is leased."""
        claim = await scene.leased("a")
        if what == "event":
            await scene.listen(claim)
        else:
            await scene.invoke(claim, "c", not_before=scene.now + 60_000)
        claim = await self._counted(scene, claim)
        if what == "event":
            await scene.store.notify("paid", "1")
        else:
            await scene.store.cancel_run("c")
        assert (await scene.run("a")).failures == 1
        await scene.suspend(claim)
        await self._starts_again(scene, "a", "done" if what == "event" else "cancelled")

    async def test_claim_composes_an_item_from_its_batch(self, scene: Scene) -> None:
        """Batch, number, id and parameters; the body of an item is stored nowhere twice."""
        await scene.start(["u1", "u2"], params='{"paid":true}')
        one, two = await scene.items()
        assert (one.id, one.batch, one.number, one.item) == ("bat_a.r000000000", "bat_a", 0, "u1")
        assert (two.id, two.batch, two.number, two.item) == ("bat_a.r000000001", "bat_a", 1, "u2")
        assert one.params == two.params == '{"paid":true}'
        assert one.destination == "execute"

    async def test_claim_leases_nothing_of_a_cancelled_batch(self, scene: Scene) -> None:
        """Neither items nor layer messages; others of the same key go on."""
        await scene.start(["u1", "u2"])
        await scene.publish("a", destination="execute")
        await scene.store.cancel_batch("bat_a")
        assert names(await scene.items()) == ["a"]

    async def test_claim_gives_an_unknown_worker_nothing(self, scene: Scene) -> None:
        """It enlists first."""
        await scene.publish("a")
        assert await scene.claim(worker="stranger") == []
        await scene.claim_one("a")

    async def test_claim_gives_a_dismissed_worker_nothing(self, scene: Scene) -> None:
        """Until it enlists again."""
        await scene.publish("a")
        await scene.store.deregister("w1")
        assert await scene.claim() == []
        await scene.store.register("w1", 30_000)
        await scene.claim_one("a")

    async def test_claim_says_since_when_the_message_runs(self, scene: Scene) -> None:
        """Since its first claim, whatever happened after it."""
        begun = scene.now
        claim = await scene.leased("a")
        assert (claim.started_at, claim.depth) == (begun, 0)
        await scene.suspend(claim, until=begun + 5)
        scene.clock.advance("5ms")
        claim = await scene.claim_one("a")
        await scene.lose()
        assert (await scene.claim_one("a")).started_at == claim.started_at == begun

    async def test_claim_brings_the_depth(self, scene: Scene) -> None:
        """Of a message its own, of an item its batch's."""
        assert (await scene.leased("a", depth=7)).depth == 7
        await scene.start(["u1"], depth=3)
        assert [claim.depth for claim in await scene.items()] == [3]

    async def test_claim_says_nothing_of_what_time_does_not_make_due(self, scene: Scene) -> None:
        """Who waits without a limit is no reason to come again."""
        await scene.waits("a")
        assert await scene.next_due() is None
        await scene.waits("b", until=scene.now + 50)
        assert await scene.next_due() == scene.now + 50

    async def test_claim_times_out_waits_for_good(self, scene: Scene) -> None:
        """Those whose time has come, in time order with timers; not those without one, nor steps of other kinds."""
        claim = await scene.leased("a")
        now = scene.now
        await scene.listen(claim, until=now + 20)
        await scene.listen(claim, number=2)
        steps = (sleeping(3, "nap", now + 10), waiting(4, "child", "invoke", due=now + 5))
        await scene.suspend(claim, *steps, until=now + 10)
        scene.clock.advance("30ms")
        claim = await scene.claim_one("a")
        assert [(step.state, step.position) for step in claim.journal] == [
            ("timeout", 2),
            ("pending", 0),
            ("done", 1),
            ("pending", 0),
        ]
        await scene.store.settle(settlement.released(claim))
        assert (await scene.claim_one("a")).journal == claim.journal

    async def test_claim_records_what_arrived_for_good(self, scene: Scene) -> None:
        """A later claim finds it in its old place, and what came after it behind."""
        claim = await scene.leased("a")
        await scene.listen(claim, "one")
        await scene.listen(claim, "two", number=2)
        await scene.suspend(claim)
        await scene.store.notify("two", "2")
        assert await scene.came("a") == [(1, "pending", 0, None), (2, "done", 1, "2")]
        await scene.store.notify("one", "1")
        await scene.lose()
        assert await scene.came("a") == [(1, "done", 2, "1"), (2, "done", 1, "2")]

    async def _counted(self, scene: Scene, claim: Claim, *steps: Step) -> Claim:
        """The same run, claimed again with a failure and a loss."""
        await scene.store.settle(settlement.retry(claim, scene.now, "Boom: no", steps))
        await scene.claim_one(claim.id)
        await scene.lose()
        claim = await scene.claim_one(claim.id)
        assert (claim.failures, claim.losses, claim.journal[0].state) == (1, 1, "pending")
        return claim

    async def _starts_again(self, scene: Scene, id: str, state: str) -> None:
        for _ in range(2):
            claim = await scene.claim_one(id)
            assert (claim.failures, claim.losses, claim.journal[0].state) == (0, 0, state)
            assert (await scene.run(id)).failures == 0
            await scene.store.settle(settlement.released(claim))
