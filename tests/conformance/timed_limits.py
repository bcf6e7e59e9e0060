"""Pins and pauses of flow keys that end by themselves, `reset`, and the holders of a key."""

from batchflow.core import settlement
from batchflow.core.flow import FlowControl
from tests.conformance.scene import LEASE_MS, Cases, Scene, names

ONE = FlowControl(key="one", parallelism=1)


class TimedLimitCases(Cases):
    """`pin` and `pause` with `until`, `reset`, `flow_holders`."""

    async def test_pin_ends_at_its_time(self, scene: Scene) -> None:
        """Each limit at its own, with the code's in force at the next claim, though nobody publishes."""
        await scene.store.declare([FlowControl(key="one", parallelism=3, rate=9)])
        await scene.publish(*"abcd", flow=ONE)
        await scene.store.pin(FlowControl(key="one", parallelism=1, rate=1, period="1d"), scene.now + 5_000)
        await scene.store.pin(FlowControl(key="one", parallelism=1), scene.now + 9_000)
        status = await scene.flow("one")
        assert (status.parallelism_until, status.rate_until) == (scene.now + 9_000, scene.now + 5_000)
        await scene.claim_one("a")
        assert await scene.next_due() == scene.now + 5_000
        scene.clock.advance("5s")
        status = await scene.flow("one")
        assert status.limits == FlowControl(key="one", parallelism=1, rate=9)
        assert (status.pinned_parallelism, status.pinned_rate, status.rate_until) == (True, False, None)
        assert await scene.next_due() == scene.now + 4_000
        scene.clock.advance("4s")
        status = await scene.flow("one")
        assert (status.limits.parallelism, status.pinned, status.parallelism_until) == (3, False, None)
        assert len(await scene.claim()) == 1
        scene.clock.advance("1s")
        assert len(await scene.claim()) == 1
        assert await scene.next_due() is None

    async def test_pin_again_sets_another_end(self, scene: Scene) -> None:
        """Later, sooner, or none; that of the other limit stays."""
        await scene.store.pin(FlowControl(key="one", parallelism=1, rate=1), scene.now + 5_000)
        await scene.store.pin(FlowControl(key="one", rate=2), scene.now + 1_000)
        await scene.store.pin(FlowControl(key="one", parallelism=2))
        status = await scene.flow("one")
        assert (status.parallelism_until, status.rate_until) == (None, scene.now + 1_000)
        scene.clock.advance("9s")
        assert await scene.next_due() is None
        assert (await scene.flow("one")).limits == FlowControl(key="one", parallelism=2)

    async def test_pin_of_a_new_key_ends_too(self, scene: Scene) -> None:
        """Nothing of it is left, so that the key is removed."""
        await scene.store.pin(FlowControl(key="one", parallelism=1), scene.now + 5_000)
        scene.clock.advance("4s")
        await scene.store.expire()
        assert (await scene.flow("one")).pinned
        scene.clock.advance("1s")
        await scene.store.expire()
        assert await scene.store.flows(["one"]) == []

    async def test_unpin_and_declare_leave_nothing_to_end(self, scene: Scene) -> None:
        """What is pinned anew after an unpin lasts."""
        await scene.store.pin(FlowControl(key="one", parallelism=1, rate=1), scene.now + 5_000)
        await scene.store.declare([FlowControl(key="one", parallelism=7)])
        await scene.store.unpin("one")
        await scene.store.pin(FlowControl(key="one", parallelism=2))
        assert await scene.next_due() is None
        scene.clock.advance("6s")
        assert await scene.claim() == []
        assert (await scene.flow("one")).limits.parallelism == 2

    async def test_pause_ends_at_its_time(self, scene: Scene) -> None:
        """The next claim finds what waits, and knows when to come, though nobody publishes."""
        await scene.publish("a", "b")
        await scene.publish("free", flow=FlowControl(key="other"))
        await scene.store.pause("free", scene.now + 5_000)
        assert (await scene.flow()).paused_until == scene.now + 5_000
        await scene.claim_one("free")
        assert await scene.next_due() == scene.now + 5_000
        scene.clock.advance("4s")
        assert await scene.claim() == []
        scene.clock.advance("1s")
        status = await scene.flow()
        assert (status.paused, status.paused_until) == (False, None)
        assert names(await scene.claim()) == ["a", "b"]

    async def test_pause_again_sets_another_end(self, scene: Scene) -> None:
        """The latest counts, and resume takes it off."""
        await scene.publish("a")
        await scene.store.pause("free", scene.now + 1_000)
        await scene.store.pause("free", scene.now + 5_000)
        scene.clock.advance("2s")
        assert await scene.claim() == []
        await scene.store.pause("free")
        assert await scene.next_due() is None
        scene.clock.advance("9s")
        assert await scene.claim() == []
        await scene.store.pause("free", scene.now + 1_000)
        await scene.store.resume("free")
        assert (await scene.flow()).paused_until is None
        assert len(await scene.claim()) == 1
        assert await scene.next_due() is None

    async def test_pause_that_has_ended_counts_as_unserved_work(self, scene: Scene) -> None:
        """Nobody has claimed since, and nobody will."""
        await scene.store.register(scene.worker, LEASE_MS, 4, ("work",))
        await scene.publish("a", destination="other")
        await scene.store.pause("free", scene.now + 1_000)
        assert await scene.store.unserved() == []
        scene.clock.advance("1s")
        assert [work.destination for work in await scene.store.unserved()] == ["other"]

    async def test_reset_removes_all_that_holds_a_key_back(self, scene: Scene) -> None:
        """Pins, the pause, parking and the next start; the code's limits and what runs stay."""
        await scene.store.declare([FlowControl(key="one", parallelism=2, rate=1, period="1d")])
        await scene.publish("a", "b", "c", flow=ONE)
        claim = await scene.claim_one("a")
        await scene.store.settle(settlement.parked(claim, scene.now + 500_000, "RateLimited: later"))
        await scene.store.pin(FlowControl(key="one", parallelism=1, rate=1, period="2d"), scene.now + 1_000)
        await scene.store.pause("one", scene.now + 1_000)
        await scene.store.reset("one")
        status = await scene.flow("one")
        assert status.limits == FlowControl(key="one", parallelism=2, rate=1, period="1d")
        assert (status.pinned, status.paused, status.parked_until, status.paused_until) == (False, False, 0, None)
        assert len(await scene.claim()) == 1
        assert (await scene.flow("one")).in_use == 1

    async def test_reset_of_starts_only_begins_the_rate_anew(self, scene: Scene) -> None:
        """Pins and the pause stay."""
        await scene.publish("a", "b", flow=FlowControl(key="one", parallelism=5, rate=1, period="1d"))
        assert len(await scene.claim()) == 1
        assert (await scene.flow("one")).next_start > scene.now
        await scene.store.pin(FlowControl(key="one", parallelism=2))
        await scene.store.pause("one")
        await scene.store.reset("one", starts_only=True)
        status = await scene.flow("one")
        assert (status.next_start, status.pinned_parallelism, status.paused) == (0, True, True)
        await scene.store.resume("one")
        assert len(await scene.claim()) == 1

    async def test_reset_of_an_unknown_key_does_nothing(self, scene: Scene) -> None:
        """And makes none."""
        await scene.store.reset("nobody")
        assert await scene.store.flows(["nobody"]) == []

    async def test_flow_holders_are_the_claims_of_a_key(self, scene: Scene) -> None:
        """Those that started first before the others, up to the limit; those of other keys are not among them."""
        assert await scene.store.flow_holders("free") == []
        await scene.publish("b")
        await scene.claim()
        began = scene.now
        scene.clock.advance("1s")
        await scene.publish("a", "c")
        await scene.publish("other", flow=ONE)
        await scene.claim()
        found = await scene.store.flow_holders("free")
        assert [(it.id, it.started_at) for it in found] == [("b", began), ("a", scene.now), ("c", scene.now)]
        assert {(it.destination, it.worker, it.batch, it.item) for it in found} == {("work", scene.worker, None, "")}
        assert await scene.store.flow_holders("free", 1) == found[:1]

    async def test_flow_holders_name_the_items(self, scene: Scene) -> None:
        """With their batch."""
        await scene.start(["i1", "i2"])
        held = await scene.items()
        key = (await scene.batch()).flow_key
        found = await scene.store.flow_holders(str(key))
        assert [(it.id, it.batch, it.item) for it in found] == [(claim.id, "bat_a", claim.item) for claim in held]
        assert [claim.item for claim in held] == ["i1", "i2"]
