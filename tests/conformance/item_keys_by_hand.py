"""Items with a flow key of their own, and what operators and maintenance do with both keys."""

from batchflow.core import settlement
from batchflow.core.flow import FlowControl
from batchflow.core.settlement import FinishEntry, RecordPage, StartItems
from tests.conformance.item_keys import LAYER, items, start, tenant
from tests.conformance.scene import Cases, Scene, message


class ItemKeyOperationCases(Cases):
    """Verbs of operators, for items whose start has limits of its own."""

    # Operators

    async def test_pause_holds_either_key(self, scene: Scene) -> None:
        """That of a tenant only his items, that of the batch all of them."""
        await start(scene, ["a1", "a2", "b1", "b2"])
        await scene.store.pause("tenant-a")
        (held,) = await scene.items()
        assert held.item == "b1"
        await scene.store.resume("tenant-a")
        await scene.store.pause("layer")
        await scene.done(held)
        assert await scene.items() == []
        assert await scene.next_due() is None
        await scene.store.resume("layer")
        assert items(await scene.items()) == ["a1", "b2"]

    async def test_pin_widens_either_key(self, scene: Scene) -> None:
        """A pinned limit is in force at the next claim."""
        await start(scene, ["a1", "a2", "a3", "b1"], layer=FlowControl(key="layer", parallelism=2))
        held = await scene.items()
        assert items(held) == ["a1", "b1"]
        await scene.store.pin(FlowControl(key="tenant-a", parallelism=2))
        assert await scene.items() == []
        await scene.store.pin(FlowControl(key="layer", parallelism=4))
        assert items(await scene.items()) == ["a2"]
        await scene.store.unpin("tenant-a")
        await scene.done(held[0])
        assert await scene.items() == []

    async def test_flow_holders_are_those_of_both_keys(self, scene: Scene) -> None:
        """A leased item holds a place of each."""
        await start(scene, ["a1", "b1"])
        await scene.items()
        assert sorted(it.item for it in await scene.store.flow_holders("layer")) == ["a1", "b1"]
        assert [it.item for it in await scene.store.flow_holders("tenant-a")] == ["a1"]

    async def test_flows_counts_what_waits_for_both(self, scene: Scene) -> None:
        """An item that waits is counted by its own key and by that of its batch."""
        await start(scene, ["a1", "a2", "a3", "b1", "-1"])
        assert (await scene.flow("layer")).waiting == 5
        assert (await scene.flow("tenant-a")).waiting == 3
        await scene.items()
        assert (await scene.flow("layer")).waiting == 2
        assert (await scene.flow("tenant-a")).waiting == 2
        assert (await scene.flow("tenant-b")).waiting == 0

    async def test_open_messages_names_the_key_of_an_item(self, scene: Scene) -> None:
        """Its own, whether it waits or runs."""
        await start(scene, ["a1", "a2", "-1"])
        found = {it.item: it.flow_key for it in await scene.store.open_messages("bat_a")}
        assert found == {"a1": "tenant-a", "a2": "tenant-a", "-1": "layer"}
        await scene.items(2)
        assert {it.item: it.flow_key for it in await scene.store.open_messages("bat_a")} == found

    async def test_pause_batch_holds_items_of_all_keys(self, scene: Scene) -> None:
        """And those of another batch under the same key go on."""
        await start(scene, ["a1", "b1"])
        await start(scene, ["a2"], "bat_b")
        await scene.store.pause_batch("bat_a")
        (held,) = await scene.items()
        assert held.item == "a2"
        await scene.done(held)
        assert await scene.next_due() is None
        await scene.store.resume_batch("bat_a")
        assert items(await scene.items()) == ["a1", "b1"]

    async def test_pause_batch_holds_items_that_start_later(self, scene: Scene) -> None:
        """Under keys that nothing has waited under before."""
        entry = await scene.enter(flow=LAYER)
        page = message("bat_a.p1", destination="entry", batch="bat_a")
        await scene.done(entry, FinishEntry("bat_a"), settlement.Publish((page,)))
        (walk,) = await scene.claim()
        await scene.store.pause_batch("bat_a")
        await scene.done(walk, RecordPage("bat_a", 1), StartItems("bat_a", 0, ("a1",), flows=(tenant("a"),)))
        assert await scene.items() == []
        await scene.store.resume_batch("bat_a")
        assert items(await scene.items()) == ["a1"]

    async def test_cancel_batch_frees_the_keys(self, scene: Scene) -> None:
        """Waiting items end at once, leased ones at their next step; other batches go on."""
        await start(scene, [f"{name}{number}" for name in "ab" for number in range(3)])
        await start(scene, ["a9"], "bat_b")
        held = [claim for claim in await scene.items() if claim.batch == "bat_a"]
        assert await scene.store.cancel_batch("bat_a")
        assert (await scene.counts()).cancelled == 6 - len(held)
        for claim in held:
            await scene.store.settle(settlement.cancelled(claim))
        assert (await scene.batch()).state == "cancelled"
        assert (await scene.flow("tenant-b")).in_use == (await scene.flow("tenant-b")).waiting == 0
        if not (await scene.flow("tenant-a")).in_use:
            assert items(await scene.items()) == ["a9"]
        assert (await scene.flow("layer")).waiting == 0

    async def test_redrive_of_an_item_takes_both_keys(self, scene: Scene) -> None:
        """Its own key is full: it waits."""
        await start(scene, ["a1", "a2"])
        (first,) = await scene.items()
        await scene.dead(first)
        (second,) = await scene.items()
        assert await scene.store.redrive(first.id)
        assert await scene.items() == []
        await scene.done(second)
        (again,) = await scene.items()
        assert again.item == first.item
        assert (await scene.flow("layer")).in_use == (await scene.flow("tenant-a")).in_use == 1
        await scene.done(again)
        assert (await scene.batch()).state == "completed"
        assert (await scene.flow("layer")).in_use == 0

    async def test_redrive_of_an_item_under_another_key_keeps_that_of_its_batch(self, scene: Scene) -> None:
        """The new limits take the place of the item's own."""
        await start(scene, ["a1", "a2"])
        (first,) = await scene.items()
        await scene.dead(first)
        assert await scene.store.redrive(first.id, flow=tenant("z"))
        assert items(await scene.items()) == ["a1", "a2"]
        assert (await scene.flow("tenant-z")).in_use == 1
        assert (await scene.flow("layer")).in_use == 2

    # Keys that nothing uses

    async def test_expire_removes_keys_of_items_that_have_ended(self, scene: Scene) -> None:
        """While their batch goes on, and they come back with the next item."""
        names = [f"{name}1" for name in "abcd"] + ["z1", "z2"]
        await start(scene, names)
        for claim in await scene.items():
            await scene.done(claim)
        await scene.store.expire()
        assert {flow.limits.key for flow in await scene.store.flows()} & {f"tenant-{it}" for it in "abcdz"} == {
            "tenant-z"
        }
        assert (await scene.batch()).state in ("open", "sealed")
        await start(scene, ["a2"], "bat_b")
        assert items(await scene.items()) == ["a2", "z2"]

    async def test_expire_keeps_the_key_of_a_batch_while_items_are_dead_under_it(self, scene: Scene) -> None:
        """An item can be redriven whenever."""
        await start(scene, ["a1"])
        (first,) = await scene.items()
        await scene.dead(first)
        await scene.store.expire()
        assert await scene.store.redrive(first.id)
        assert items(await scene.items()) == ["a1"]
        assert (await scene.flow("layer")).in_use == 1
