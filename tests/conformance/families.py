"""Cancelling a parent, whose children are cancelled with it."""

import asyncio

import pytest

from batchflow.core import settlement
from batchflow.core.run import Step
from batchflow.core.settlement import FinishEntry, Listen, Publish, RecordPage, StartItems
from tests.conformance.scene import Cases, Scene, message, names, ran, waiting


class FamilyCases(Cases):
    """`cancel_run` of a run that waits for children, calls and batches."""

    async def test_cancel_run_takes_waiting_children_along(self, scene: Scene) -> None:
        """And theirs, at once; nobody else's."""
        await scene.parent("c1", "c2", keep=True)
        first, _ = await scene.claim()
        await scene.invoke(first, "g", keep=True)
        await scene.suspend(first)
        await scene.publish("other")
        assert await scene.store.cancel_run("p")
        assert [(await scene.run(id)).state for id in ("c1", "g")] == ["cancelled"] * 2
        assert (await scene.run("c2")).state == "running"
        assert names(await scene.claim()) == ["other"]

    async def test_cancel_run_ends_leased_children_at_their_next_step(self, scene: Scene) -> None:
        """And what these wait for with them."""
        await scene.parent("c")
        child = await scene.claim_one("c")
        await scene.invoke(child, "g")
        assert await scene.store.cancel_run("p")
        assert await scene.store.record("c", child.fence, ran(2, "two")) == "cancelled"
        assert (await scene.run("g")).state == "waiting"
        await scene.suspend(child)
        assert await scene.store.run("c") is None
        assert await scene.store.run("g") is None
        assert await scene.next_due() is None

    @pytest.mark.parametrize("ends", ["cancelled", "suspended", "lost", "deregistered"])
    async def test_cancel_run_of_a_leased_parent_reaches_its_children(self, scene: Scene, ends: str) -> None:
        """Once it has ended, in whatever way it does; its batch has ended as well."""
        parent = await scene.leased("p")
        await scene.invoke(parent, "c", not_before=scene.now + 99_999)
        await scene.invoke_batch(parent, "bat_a", number=2)
        assert await scene.store.cancel_run("p")
        assert (await scene.run("c")).state == "waiting"
        match ends:
            case "lost":
                await scene.lose()
            case "deregistered":
                await scene.store.deregister("w1")
                await scene.store.register("w1", 30_000)
            case "suspended":
                await scene.suspend(parent)
            case _:
                await scene.store.settle(settlement.cancelled(parent))
        assert await scene.store.run("p") is None
        assert await scene.store.run("c") is None
        assert (await scene.batch()).state == "cancelled"

    async def test_cancel_run_takes_batches_along(self, scene: Scene) -> None:
        """Waiting items are cancelled, leased ones at their next step; the last one ends the batch."""
        parent = await scene.leased("p")
        await scene.invoke_batch(parent, "bat_a")
        await scene.suspend(parent)
        (entry,) = await scene.claim(destinations=("entry",))
        await scene.done(
            entry, FinishEntry("bat_a"), RecordPage("bat_a", 2, chunks=1), StartItems("bat_a", 0, ("u1", "u2"))
        )
        (item,) = await scene.items(1)
        assert await scene.store.cancel_run("p")
        assert (await scene.batch()).state == "cancelling"
        assert await scene.store.record(item.id, item.fence, ran(1, "one")) == "cancelled"
        assert (await scene.store.settle(settlement.cancelled(item))).ended_batch == "bat_a"
        assert await scene.states() == [("u1", "cancelled"), ("u2", "cancelled")]
        assert len(await scene.completions()) == 1

    async def test_settle_of_a_cancelled_parent_counts_what_ended_at_the_same_moment_once(self, scene: Scene) -> None:
        """An item of its batch that is settled in the same group has ended as it says."""
        parent = await scene.leased("p")
        await scene.invoke_batch(parent, "bat_a")
        (entry,) = await scene.claim(destinations=("entry",))
        await scene.done(
            entry, FinishEntry("bat_a"), RecordPage("bat_a", 2, chunks=1), StartItems("bat_a", 0, ("u1", "u2"))
        )
        (item,) = await scene.items(1)
        await asyncio.gather(scene.done(item), scene.store.settle(settlement.cancelled(parent)))
        counts = await scene.counts()
        assert (counts.open, counts.succeeded, counts.cancelled) == (0, 1, 1)
        assert (await scene.batch()).state == "cancelled"

    async def test_cancel_run_reaches_the_deepest_child(self, scene: Scene) -> None:
        """A hundred deep."""
        claim = await scene.leased("c0")
        for depth in range(1, 101):
            await scene.invoke(claim, f"c{depth}")
            await scene.suspend(claim)
            claim = await scene.claim_one(f"c{depth}")
            assert claim.depth == depth
        await scene.suspend(claim)
        assert await scene.store.cancel_run("c0")
        assert await scene.store.run("c100") is None

    async def test_cancel_run_takes_thousands_of_children_along(self, scene: Scene) -> None:
        """Waiting or leased."""
        parent = await scene.leased("p")
        many = [f"c{number:04d}" for number in range(3_000)]
        children = tuple(message(id, parent=("p", number), keep=True) for number, id in enumerate(many, 1))
        await scene.record(parent, waiting(1), Publish(children))
        await scene.suspend(parent)
        leased = await scene.claim(1_200)
        assert await scene.store.cancel_run("p")
        assert await scene.next_due() is None
        await asyncio.gather(*(scene.store.settle(settlement.cancelled(claim)) for claim in leased))
        assert {(await scene.run(id)).state for id in (many[0], many[1_199], many[1_200], many[-1])} == {"cancelled"}
        assert (await scene.flow()).waiting == (await scene.flow()).in_use == 0

    async def test_cancel_run_of_a_parent_in_one_group_with_its_child(self, scene: Scene) -> None:
        """A child that suspends in this moment is not forgotten, nor what it starts."""
        parent = await scene.leased("p")
        await scene.invoke(parent, "c")
        child = await scene.claim_one("c")
        begun: tuple[Step, ...] = (waiting(1), waiting(2, "g", "invoke"))
        effects = (Listen(1, "paid"), Publish((message("g", parent=("c", 2)),)))
        await asyncio.gather(
            scene.store.settle(settlement.cancelled(parent)),
            scene.store.settle(settlement.suspended(child, scene.now + 5, begun, effects)),
        )
        for id in ("p", "c", "g"):
            assert await scene.store.run(id) is None, id
        assert list(await scene.store.waiters("paid")) == []
        assert list(await scene.store.notify("paid", "1")) == []
