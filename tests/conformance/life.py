"""Opening, closing, and telling of changes."""

import asyncio
from collections.abc import Awaitable

import pytest

from batchflow.errors import StoreUnavailable
from batchflow.testing.clock import ManualClock
from tests.conformance.scene import Cases, Scene, message


class LifeCases(Cases):
    """`open`, `close`, `on_change`, and what holds for every verb."""

    async def test_open_sets_up_an_empty_place(self, clock: ManualClock) -> None:
        """A store that was never there answers at once."""
        store = self.make_store(clock)
        await store.open()
        assert await store.batches() == []
        assert await store.flows() == []
        await store.close()

    async def test_open_may_be_repeated(self, scene: Scene) -> None:
        """Opening what is open changes nothing."""
        await scene.publish("a")
        await scene.store.open()
        assert await scene.publish("a") == [False]

    async def test_close_finishes_what_is_being_written(self, clock: ManualClock) -> None:
        """What was asked for before the close is carried out."""
        store = self.make_store(clock)
        await store.open()
        publishing = asyncio.ensure_future(store.publish([message("a")]))
        await asyncio.sleep(0)
        await store.close()
        assert await publishing == [True]

    async def test_close_may_be_repeated(self, clock: ManualClock) -> None:
        """Closing what is closed, or was never opened, does nothing."""
        store = self.make_store(clock)
        await store.close()
        await store.open()
        await store.close()
        await store.close()

    async def test_is_durable_says_whether_all_is_there_after_a_close(self, clock: ManualClock) -> None:
        """One that does not last says so, before anything is lost."""
        store = self.make_store(clock)
        await store.open()
        await store.publish([message("a")])
        await store.close()
        await store.open()
        assert await store.publish([message("a")]) == [not store.is_durable]
        await store.close()

    async def test_is_new_says_whether_the_data_was_there(self, clock: ManualClock) -> None:
        """Only the open that sets the database up finds it new, and what does not last is new each time."""
        store = self.make_store(clock)
        await store.open()
        assert store.is_new
        await store.close()
        await store.open()
        assert store.is_new is not store.is_durable
        await store.close()

    async def test_location_is_known_before_the_store_is_open(self, clock: ManualClock) -> None:
        """And the same afterwards."""
        store = self.make_store(clock)
        location = store.location
        assert location
        await store.open()
        assert store.location == location
        await store.close()

    async def test_close_leaves_a_store_that_says_so(self, clock: ManualClock) -> None:
        """A verb of a closed store raises `StoreUnavailable`."""
        store = self.make_store(clock)
        await store.open()
        await store.close()
        with pytest.raises(StoreUnavailable):
            await store.publish([message("a")])
        with pytest.raises(StoreUnavailable):
            await store.batches()

    async def test_on_change_tells_of_a_publish(self, scene: Scene) -> None:
        """Before the publish has returned, or in the next turns of the loop; and it was this process's."""
        told: list[bool] = []
        scene.store.on_change(told.append)
        await scene.publish("a")
        await asyncio.sleep(0)
        assert told
        assert not any(told)

    async def test_on_change_tells_of_what_became_due_or_ended(self, scene: Scene) -> None:
        """Of a settlement, a claim given back, a cancelled batch and its completion, a key that is free again."""
        told: list[bool] = []
        scene.store.on_change(told.append)
        claim = await scene.leased("a")
        assert await _tells(told, scene.done(claim))
        await scene.leased("b")
        assert await _tells(told, scene.store.deregister("w1"))
        await scene.store.register("w1", 1)
        assert await _tells(told, scene.store.unpin("free"))
        await scene.start(["u1"])
        assert await _tells(told, scene.store.cancel_batch("bat_a"))

    async def test_on_change_tells_after_the_last_change_of_a_cancel(self, scene: Scene) -> None:
        """Whoever claims when it is told finds the completion of a cancelled batch."""
        await scene.start(["u1"])
        found: list[str] = []

        async def look() -> None:
            found.extend(claim.id for claim in await scene.claim(destinations=("complete",)))

        looks: list[asyncio.Task[None]] = []
        scene.store.on_change(lambda _: looks.append(asyncio.ensure_future(look())))
        await scene.store.cancel_batch("bat_a")
        await asyncio.sleep(0)
        while not all(task.done() for task in looks):
            await asyncio.gather(*looks)
        assert found == ["bat_a.z"]

    async def test_on_change_ends_its_subscription(self, scene: Scene) -> None:
        """Who has unsubscribed is told no more."""
        told: list[bool] = []
        scene.store.on_change(told.append)()
        await scene.publish("a")
        await asyncio.sleep(0)
        assert told == []


async def _tells(told: list[bool], change: Awaitable[object]) -> bool:
    told.clear()
    await change
    await asyncio.sleep(0)
    return bool(told)
