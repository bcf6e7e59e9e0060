"""Posts, queues and documents of several processes on one place."""

import asyncio

import pytest

from batchflow.core import settlement
from batchflow.core.posts import Posted
from batchflow.core.wire_runs import WAIT_TIMEOUT
from batchflow.testing.clock import ManualClock
from tests.conformance.run_scene import HEAD, RunScene, adds, awaits, begins
from tests.conformance.scene import LEASE_MS, Scene, TwoProcesses
from tests.conformance.wire import TENANT, WireCases, WireScene, new_post


class SharedPostCases(TwoProcesses, WireCases):
    """What one process has posted is true for all."""

    @pytest.fixture
    def other(self, second: Scene) -> WireScene:
        """The second process, whose store keeps posts."""
        return WireScene(second.store, second.clock, second.worker)

    async def test_post_is_known_to_other_processes(self, wire: WireScene, other: WireScene) -> None:
        """By its id and by its key; it is claimed there, and all have its log."""
        await wire.post("a", dedup="k")
        assert await other.post("a") == [Posted("a")]
        assert await other.post("b", dedup="k") == [Posted("a", True)]
        await other.deliver(await other.claim_one("a"))
        assert await wire.history("a") == ["CREATED", "DELIVERED"]
        assert await wire.open_ids() == []

    async def test_post_with_a_queue_begins_wherever_its_place_is_freed(
        self, wire: WireScene, other: WireScene
    ) -> None:
        """The order holds over processes."""
        (claim,) = await wire.posted("c", "b", queue="q")
        await other.post("a", queue="q")
        for id in ("c", "b", "a"):
            assert claim.id == id
            assert await other.claim() == await wire.claim() == []
            await wire.deliver(claim)
            claim, wire, other = next(iter(await other.claim()), claim), other, wire
        assert [it.lag for it in await wire.wire.queues(TENANT)] == [0]

    async def test_cancel_posts_reaches_those_that_another_process_has_claimed(
        self, wire: WireScene, other: WireScene
    ) -> None:
        """They end when that process settles them."""
        (claim,) = await wire.posted("a")
        assert await other.wire.cancel_posts(TENANT, ["a"]) == ["a"]
        await wire.store.settle(settlement.cancelled(claim))
        assert await other.history("a") == ["CREATED", "CANCEL_REQUESTED", "CANCELED"]

    async def test_post_of_a_run_is_for_the_run_that_another_process_has_begun(
        self, wire: WireScene, other: WireScene
    ) -> None:
        """Its entries have one order, events reach its waits, and its end cancels what another one delivers."""
        here, there = RunScene(wire.store, wire.clock), RunScene(other.store, other.clock, other.worker)
        claim = await here.begun("a")
        await asyncio.gather(*((here, there)[it % 2].link(f"s{it + 2}", adds(f"{it}")) for it in range(10)))
        bodies = await there.bodies()
        assert sorted(bodies[1:]) == [f"{it}" for it in range(10)]
        for message, number in await here.members():
            assert await there.delivered(message) == bodies[:number]
        await there.link("w", awaits(), not_before=wire.now + 1_000)
        assert await here.notify("}") == ["w"]
        assert await there.end()
        assert await here.link("late", adds("b")) == Posted("late", refused="ended")
        await here.try_again(claim)
        assert await there.claim() == await here.claim() == []
        assert (await there.history("s1"))[-1] == "CANCELED"

    async def test_log_has_one_order_over_processes(self, wire: WireScene, other: WireScene) -> None:
        """Each entry has a key of its own, above those that were there."""
        scenes = [wire, other]
        await asyncio.gather(
            *(scenes[it % 2].wire.log([wire.entry("a", "ERROR", detail=f"{it}")]) for it in range(100))
        )
        found = await wire.wire.log_entries(TENANT, limit=200)
        keys = [key for key, _ in found]
        assert len(keys) == 100
        assert keys == sorted(set(keys), reverse=True)
        for parity in (0, 1):
            details = [int(entry.detail) for _, entry in reversed(found)]
            assert [it for it in details if it % 2 == parity] == list(range(parity, 100, 2))

    async def test_notify_event_and_claim_entry_of_one_moment_make_one_entry(
        self, wire: WireScene, other: WireScene
    ) -> None:
        """Whichever comes first; the post delivers that entry."""
        await wire.wire.post([new_post("s1", link=begins("a", run="r"))])
        for number in range(10):
            await wire.wire.post([new_post(f"w{number}", link=awaits())])
            notified, claimed = await asyncio.gather(
                other.wire.notify_event(TENANT, "paid", "}"), wire.wire.claim_entry(TENANT, "r", f"w{number}")
            )
            assert claimed is not None
            assert claimed[-1].body.text == HEAD + ("}" if notified else WAIT_TIMEOUT)
            assert list(await wire.wire.run_entries(TENANT, "r")) == list(claimed)
            assert len(claimed) == number + 2

    async def test_put_document_of_several_processes_is_done_by_one(self, wire: WireScene, other: WireScene) -> None:
        """Of those that expect the same version."""
        answers = await asyncio.gather(
            *(it.wire.put_document("keys", "a", it.worker, expected=0) for it in (wire, other))
        )
        (made,) = [answer for answer in answers if answer is not None]
        assert await wire.wire.document("keys", "a") == await other.wire.document("keys", "a") == made

    async def test_open_finds_the_posts_that_were_there(self, wire: WireScene, clock: ManualClock) -> None:
        """Those that wait in queues, the log, the keys and the documents."""
        await wire.post("a", "b", queue="q")
        await wire.post("c", dedup="k")
        await wire.wire.put_document("keys", "a", "{}")
        await wire.store.close()
        store = self.make_store(clock)
        await store.open()
        await store.register("w2", LEASE_MS)
        later = WireScene(store, clock, "w2")
        assert await later.open_ids() == ["a", "b", "c"]
        assert await later.post("d", dedup="k") == [Posted("c", True)]
        assert await later.wire.document("keys", "a") is not None
        for claim in await later.claim():
            await later.deliver(claim)
        await later.claim_one("b")
        await store.close()
