"""Priorities of batches."""

import pytest

from batchflow.core import ids, settlement
from batchflow.core.batch import MAX_PRIORITY
from batchflow.core.flow import FlowControl
from tests.conformance.scene import FREE, LEASE_MS, Cases, Scene, message, new_batch, ran

ONE = FlowControl(key="one", parallelism=1)


def letters(prefix: str, count: int) -> list[str]:
    """Ids of items."""
    return [f"{prefix}{number}" for number in range(count)]


async def batches_of(scene: Scene, *limits: int) -> list[str]:
    """The batches of the items that claims with these limits lease, in order, without their prefix."""
    return [(claim.batch or "")[4:] for limit in limits for claim in await scene.items(limit)]


async def lose_twice(scene: Scene) -> None:
    """Lose the next item with its worker, twice: it waits to be claimed alone."""
    for _ in range(2):
        assert await batches_of(scene, 1) == ["b"]
        scene.clock.advance(f"{LEASE_MS}ms")
        assert await scene.store.expire() == 1
        await scene.store.register(scene.worker, LEASE_MS)


class PriorityCases(Cases):
    """`priority` of a new batch, and `set_batch_priority`."""

    async def test_claim_takes_the_batch_with_the_higher_priority_first(self, scene: Scene) -> None:
        """One at a time and many at once, whatever was triggered first; then the others."""
        await scene.start(letters("a", 6))
        await scene.start(letters("b", 6), id="bat_b", priority=2)
        await scene.start(letters("c", 6), id="bat_c", priority=1)
        assert await batches_of(scene, 1, 1, 6, 10) == [*"bbbbbb", *"cccccc", *"aaaaaa"]

    async def test_claim_shares_between_batches_of_one_priority(self, scene: Scene) -> None:
        """Equal priorities take turns, as batches without one do."""
        await scene.start(letters("a", 8), priority=3)
        await scene.start(letters("b", 8), id="bat_b", priority=3)
        await scene.start(letters("c", 8), id="bat_c")
        found = await batches_of(scene, 1, 1, 1, 1, 4)
        assert (found.count("a"), found.count("b")) == (4, 4)

    async def test_claim_takes_a_retry_of_a_higher_priority_before_fresh_items(self, scene: Scene) -> None:
        """As soon as it is due, and until then the others go on."""
        await scene.start(letters("a", 4))
        await scene.start(["b"], id="bat_b", priority=1)
        (failed,) = await scene.items(1)
        await scene.store.settle(settlement.retry(failed, scene.now + 1_000, "Boom: no"))
        assert await batches_of(scene, 2) == ["a", "a"]
        scene.clock.advance("1s")
        assert await batches_of(scene, 2) == ["b", "a"]

    async def test_claim_takes_the_walk_of_a_higher_priority_first(self, scene: Scene) -> None:
        """All messages of a batch have its priority, not its items alone."""
        for id, priority in (("bat_a", 0), ("bat_b", 1)):
            first = message(ids.entry_id(id), destination="entry", batch=id)
            assert await scene.store.open_batch(new_batch(id, priority=priority), [first])
        (entry,) = await scene.claim(1, destinations=("entry",))
        assert entry.batch == "bat_b"

    async def test_claim_keeps_the_turns_of_flow_keys(self, scene: Scene) -> None:
        """A priority counts among the batches of one key, so that the batches of another key do not wait for it."""
        await scene.start(letters("a", 4), flow=FlowControl(key="quiet"))
        await scene.start(letters("b", 8), id="bat_b", priority=MAX_PRIORITY)
        found = await batches_of(scene, 1, 1, 1, 1)
        assert (found.count("a"), found.count("b")) == (2, 2)

    async def test_claim_gives_the_free_place_of_a_key_to_the_higher_priority(self, scene: Scene) -> None:
        """Whatever has run before it under the key, and for whichever destination."""
        await scene.start(letters("a", 3), flow=ONE)
        (running,) = await scene.items()
        await scene.start(letters("b", 2), id="bat_b", execute="other", flow=ONE, priority=1)
        found: list[str | None] = []
        for _ in range(3):
            await scene.done(running)
            (running,) = await scene.claim(destinations=("execute", "other"))
            found.append(running.batch)
        assert found == ["bat_b", "bat_b", "bat_a"]

    async def test_claim_serves_a_lower_priority_while_a_higher_one_is_paused(self, scene: Scene) -> None:
        """What cannot start holds nobody back."""
        await scene.start(["a"])
        await scene.start(["b"], id="bat_b", priority=1)
        await scene.store.pause_batch("bat_b")
        assert await batches_of(scene, 5) == ["a"]
        await scene.store.resume_batch("bat_b")
        assert await batches_of(scene, 5) == ["b"]

    async def test_claim_serves_a_lower_priority_while_a_higher_one_waits_to_be_claimed_alone(
        self, scene: Scene
    ) -> None:
        """In one claim: a suspect that is not due holds nobody back."""
        await scene.start(["a1", "a2"])
        await scene.start(["b"], id="bat_b", priority=1)
        await lose_twice(scene)
        assert await batches_of(scene, 2) == ["a", "a"]

    async def test_claim_serves_a_lower_priority_when_items_of_a_higher_one_are_cancelled(self, scene: Scene) -> None:
        """In one claim, while the batch goes on."""
        await scene.start(["a1", "a2"])
        await scene.start(["b1", "b2", "b3"], id="bat_b", priority=1)
        assert await batches_of(scene, 1) == ["b"]
        for number in (1, 2):
            assert await scene.store.cancel_run(ids.item_run_id("bat_b", number))
        assert await batches_of(scene, 2) == ["a", "a"]

    async def test_claim_serves_a_lower_priority_when_a_higher_one_under_its_own_key_waits(self, scene: Scene) -> None:
        """Of two batches whose items have flow keys of their own inside one."""
        for id, priority in (("bat_a", 0), ("bat_b", 1)):
            entry = await scene.enter(id, priority=priority)
            own = tuple(FlowControl(key=f"{id}{number}", parallelism=1) for number in range(2))
            start = settlement.StartItems(id, 0, (f"{id}.1", f"{id}.2"), flows=own)
            await scene.done(entry, settlement.FinishEntry(id), start)
        assert await scene.store.cancel_run(ids.item_run_id("bat_b", 1))
        await lose_twice(scene)
        assert await batches_of(scene, 2) == ["a", "a"]

    async def test_claim_finds_a_high_priority_among_many_batches(self, scene: Scene) -> None:
        """More batches than a claim looks at, under one key."""
        for number in range(200):
            await scene.start(letters(f"i{number}.", 2), id=f"bat_{number:03d}")
        assert len(await scene.items(150)) == 150
        await scene.start(letters("z", 3), id="bat_z", priority=1)
        assert await batches_of(scene, 2) == ["z", "z"]
        assert (await batches_of(scene, 3))[0] == "z"

    async def test_claim_finds_what_has_no_priority_behind_many_batches_with_one(self, scene: Scene) -> None:
        """A key that has waited longer is served first, however many batches of another one have a priority."""
        for number in range(150):
            await scene.start(letters(f"i{number}.", 2), id=f"bat_{number:03d}", priority=1 + number % MAX_PRIORITY)
        assert len(await scene.items(100)) == 100
        await scene.start(letters("q", 2), id="bat_q", flow=FlowControl(key="quiet"))
        found = await batches_of(scene, 1, 1)
        assert "q" in found

    @pytest.mark.parametrize("priority", [0, 1, MAX_PRIORITY])
    async def test_batch_shows_its_priority(self, scene: Scene, priority: int) -> None:
        """Alone and in lists."""
        await scene.start(["a"], priority=priority)
        assert (await scene.batch()).priority == priority
        assert [batch.priority for batch in await scene.store.batches()] == [priority]

    async def test_set_batch_priority_counts_from_the_next_claim_on(self, scene: Scene) -> None:
        """Up and down again."""
        await scene.start(letters("a", 6))
        await scene.start(letters("b", 6), id="bat_b")
        assert await scene.store.set_batch_priority("bat_b", 5)
        assert await batches_of(scene, 1, 2) == ["b", "b", "b"]
        assert (await scene.batch("bat_b")).priority == 5
        assert await scene.store.set_batch_priority("bat_a", 6)
        assert await batches_of(scene, 3) == ["a", "a", "a"]
        assert await scene.store.set_batch_priority("bat_a", 0)
        assert await batches_of(scene, 2) == ["b", "b"]
        assert (await scene.batch()).priority == 0

    async def test_set_batch_priority_counts_for_messages_to_come(self, scene: Scene) -> None:
        """Set before anything of a layer was published."""
        first = message(ids.entry_id("bat_b"), destination="entry", batch="bat_b")
        await scene.start(letters("a", 2))
        assert await scene.store.open_batch(new_batch("bat_b"), [first])
        assert await scene.store.set_batch_priority("bat_b", 1)
        (entry,) = await scene.claim(1, destinations=("entry",))
        start = (settlement.FinishEntry("bat_b"), settlement.StartItems("bat_b", 0, ("b0", "b1")))
        await scene.done(entry, *start)
        assert await batches_of(scene, 2) == ["b", "b"]

    async def test_set_batch_priority_leaves_a_paused_batch_paused(self, scene: Scene) -> None:
        """It has the priority once it is resumed."""
        await scene.start(["a"])
        await scene.start(["b"], id="bat_b")
        await scene.store.pause_batch("bat_b")
        assert await scene.store.set_batch_priority("bat_b", 1)
        assert await batches_of(scene, 1) == ["a"]
        assert await scene.items() == []
        await scene.store.resume_batch("bat_b")
        assert await batches_of(scene, 1) == ["b"]

    async def test_set_batch_priority_of_a_batch_that_has_ended_or_is_unknown_is_false(self, scene: Scene) -> None:
        """Nor of one that is being cancelled."""
        assert not await scene.store.set_batch_priority("bat_a", 1)
        await scene.start(["a"])
        (claim,) = await scene.items()
        await scene.store.cancel_batch("bat_a")
        assert not await scene.store.set_batch_priority("bat_a", 1)
        await scene.done(claim)
        assert not await scene.store.set_batch_priority("bat_a", 1)
        assert (await scene.batch()).priority == 0

    async def test_redrive_keeps_the_priority_of_its_batch(self, scene: Scene) -> None:
        """An item that is tried again goes before those of other batches."""
        await scene.start(["b"], id="bat_b", priority=1)
        (claim,) = await scene.items()
        await scene.record(claim, ran(1, "one"))
        await scene.dead(claim)
        await scene.start(letters("a", 2), flow=FREE)
        assert await scene.store.redrive(claim.id)
        assert await batches_of(scene, 1, 1) == ["b", "a"]
