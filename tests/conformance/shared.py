"""Several stores on one place, as several processes have them."""

import asyncio

from batchflow.core.breaker import Breaker, BreakerChange
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.flow import FlowControl
from batchflow.core.store import Store
from batchflow.testing.clock import ManualClock
from tests.conformance.scene import LEASE_MS, Scene, TwoProcesses, message, names, ran, renewed


class SharedCases(TwoProcesses):
    """What one process does is true for all."""

    async def test_open_at_the_same_moment_sets_up_once(self, clock: ManualClock) -> None:
        """Processes that start together do not get in each other's way."""
        stores: list[Store] = [self.make_store(clock) for _ in range(4)]
        await asyncio.gather(*(store.open() for store in stores))
        answers = await asyncio.gather(*(store.publish([message("a")]) for store in stores))
        assert sorted(answer[0] for answer in answers) == [False, False, False, True]
        for store in stores:
            await store.close()

    async def test_open_finds_what_was_there(self, scene: Scene, clock: ManualClock) -> None:
        """What was stored outlives the process; what it held comes back as a loss."""
        claim = await scene.leased("a")
        await scene.store.record("a", claim.fence, ran(1, "one"))
        await scene.store.close()
        store = self.make_store(clock)
        await store.open()
        scene.clock.advance(f"{LEASE_MS}ms")
        await store.expire()
        await store.register("w2", LEASE_MS)
        again = await Scene(store, clock, worker="w2").claim_one("a")
        assert (again.journal, again.losses) == ((ran(1, "one"),), 1)
        await store.close()

    async def test_publish_is_seen_by_other_processes(self, scene: Scene, second: Scene) -> None:
        """Claimed there, known there."""
        await scene.publish("a")
        assert await second.publish("a") == [False]
        claim = await second.claim_one("a")
        assert await scene.claim() == []
        assert not (await second.done(claim)).stale

    async def test_claim_gives_each_message_to_one_process(self, scene: Scene, second: Scene) -> None:
        """Also when they claim at the same moment."""
        await scene.publish(*(f"m{number:03d}" for number in range(100)))
        ones: list[str] = []
        twos: list[str] = []
        for _ in range(10):
            one, two = await asyncio.gather(scene.claim(5), second.claim(5))
            ones += names(one)
            twos += names(two)
        assert len(ones) + len(twos) == len({*ones, *twos}) == 100

    async def test_claim_one_gives_a_message_to_one_process(self, scene: Scene, second: Scene) -> None:
        """Also when they ask for it, or claim it, at the same moment."""
        ids = [f"m{number:02d}" for number in range(20)]
        await scene.publish(*ids)
        for claim in await scene.claim():
            await scene.suspend(claim, until=scene.now + 5)
        scene.clock.advance("5ms")
        await second.store.register("w3", LEASE_MS)
        asked = [there.store.claim_one(there.worker, id, 1) for id in ids for there in (scene, second)]
        found = await asyncio.gather(*asked[:20], second.claimed(3, worker="w3"), *asked[20:])
        assert sorted(claim.id for claimed in found for claim in claimed.claims) == ids
        assert (await scene.flow()).in_use == 20

    async def test_claim_keeps_the_limits_over_all_processes(self, scene: Scene, second: Scene) -> None:
        """A key's places are counted once."""
        await scene.publish(*"abcd", flow=FlowControl(key="two", parallelism=2))
        one, two = await asyncio.gather(scene.claim(), second.claim())
        assert len(one) + len(two) == 2

    async def test_settle_of_a_claim_that_another_process_took_over_is_stale(self, scene: Scene, second: Scene) -> None:
        """A process that was suspended and comes back changes nothing."""
        claim = await scene.leased("a")
        scene.clock.advance(f"{LEASE_MS}ms")
        await second.store.register("w2", LEASE_MS)
        assert await second.store.expire() == 1
        taken = await second.claim_one("a")
        assert await scene.store.record("a", claim.fence, ran(1, "one")) == "stale"
        assert (await scene.done(claim)).stale
        assert not await renewed(scene.store)
        assert not (await second.done(taken)).stale

    async def test_expire_leaves_the_claims_of_living_processes(self, scene: Scene, second: Scene) -> None:
        """Whose lease goes on."""
        claim = await scene.leased("a")
        assert await second.store.expire() == 0
        assert not (await scene.done(claim)).stale

    async def test_cancel_batch_reaches_other_processes(self, scene: Scene, second: Scene) -> None:
        """Within one claim cycle."""
        await scene.start(["u1", "u2"])
        (claim,) = await scene.items(1)
        assert await second.store.cancel_batch("bat_a")
        assert await scene.items() == []
        assert await scene.store.record(claim.id, claim.fence, ran(1, "one")) == "cancelled"

    async def test_settle_ends_a_batch_once_over_all_processes(self, scene: Scene, second: Scene) -> None:
        """One of them ends it, one completion is published."""
        await scene.start(["u1", "u2"])
        (one,) = await scene.items(1)
        (two,) = await second.items(1)
        answers = await asyncio.gather(scene.done(one), second.done(two))
        assert sorted(answer.ended_batch or "" for answer in answers) == ["", "bat_a"]
        assert len(await scene.completions()) + len(await second.completions()) == 1

    async def test_pin_reaches_other_processes(self, scene: Scene, second: Scene) -> None:
        """An operator's command is a process of its own."""
        await scene.publish("a")
        await second.store.pause("free")
        assert await scene.claim() == []
        await second.store.resume("free")
        await scene.claim_one("a")

    async def test_prune_leaves_no_trace_in_other_processes(self, scene: Scene, second: Scene) -> None:
        """What a process remembers of a batch that another one removed is never taken for a later batch's."""
        await scene.start(["u1"], params="1", complete=None)
        await scene.done((await scene.items())[0])
        scene.clock.advance("2d")
        await scene.store.register("w1", LEASE_MS)
        while await second.store.prune(1_000):
            pass
        await second.store.register("w2", LEASE_MS)
        await second.start(["u2"], id="bat_b", params="2", workflow="farewell", complete=None)
        (claim,) = await scene.items()
        assert (claim.batch, claim.params) == ("bat_b", "2")
        await scene.done(claim)
        assert await scene.store.processed("farewell", ["u2"]) == {"u2"}

    async def test_on_change_tells_of_other_processes(self, scene: Scene, second: Scene) -> None:
        """Within 100 ms, and that it was another's."""
        woken = asyncio.Event()
        scene.store.on_change(lambda foreign: woken.set() if foreign else None)
        await second.publish("a")
        async with asyncio.timeout(60):
            await woken.wait()

    async def test_on_change_tells_of_other_processes_while_busy(self, scene: Scene, second: Scene) -> None:
        """A process that writes without a pause is told as well."""
        woken = asyncio.Event()
        async with asyncio.timeout(60):
            # The first look around after the opening tells of the past.
            scene.store.on_change(lambda foreign: woken.set() if foreign else None)
            await woken.wait()
            woken.clear()
            await second.publish("a")
            number = 0
            while not woken.is_set():
                number += 1
                await scene.publish(f"busy{number}")
                # Time passes for the process as it does for everyone.
                scene.clock.advance("1ms")

    async def test_notify_wakes_the_runs_of_other_processes(self, scene: Scene, second: Scene) -> None:
        """Whoever began the wait: the one who tells of the event may be any, and whoever claims first goes on."""
        await scene.waits("a")
        assert [waiter.run for waiter in await second.store.waiters("paid")] == ["a"]
        async with asyncio.timeout(60):
            woken = asyncio.Event()
            # The first look around after the opening tells of the past.
            scene.store.on_change(lambda foreign: woken.set() if foreign else None)
            await woken.wait()
            woken.clear()
            assert list(await second.store.notify("paid", "1")) == ["a"]
            await woken.wait()
        assert await scene.came("a") == [(1, "done", 1, "1")]

    async def test_settle_of_a_child_wakes_a_parent_of_another_process(self, scene: Scene, second: Scene) -> None:
        """Also where that one suspends at this moment."""
        parent = await scene.leased("p")
        await scene.invoke(parent, "c")
        child = await second.claim_one("c")
        await asyncio.gather(scene.suspend(parent), second.done(child))
        assert await second.came("p") == [(1, "done", 1, '"ok"')]

    async def test_cancel_run_reaches_children_in_other_processes(self, scene: Scene, second: Scene) -> None:
        """At their next step."""
        await scene.parent("c")
        child = await second.claim_one("c")
        assert await scene.store.cancel_run("p")
        assert await second.store.record("c", child.fence, ran(1, "one")) == "cancelled"

    async def test_settle_changes_the_breaker_of_all_processes(self, scene: Scene, second: Scene) -> None:
        """One opens it, another one tries and is lost with that, and a third closes it after all have restarted."""
        await scene.start(
            "abc", flow=FlowControl(key="one"), failure_budget=FailureBudget(max_in_a_row=1, open_for="30s")
        )
        (claim,) = await scene.items(1)
        await scene.dead(claim)
        scene.clock.advance("30s")
        await scene.store.register("w1", 2 * LEASE_MS)
        await second.store.register("w2", LEASE_MS)
        (trial,) = await second.claim()
        assert await scene.claim() == []
        await scene.store.close()
        await second.store.close()
        store = self.make_store(scene.clock)
        await store.open()
        third = Scene(store, scene.clock)
        assert (await third.flow("one")).breaker == Breaker(1, 30_000, trial.id)
        scene.clock.advance(f"{LEASE_MS}ms")
        assert await store.expire() == 1
        await store.register("w1", LEASE_MS)
        (trial,) = await third.claim()
        assert (await third.done(trial)).breaker == BreakerChange("one", 1, 0)
        await store.close()
