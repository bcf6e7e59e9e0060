"""Batches that run items of another one again."""

import asyncio

from batchflow.core.batch import Replaced
from batchflow.core.settlement import FinishEntry, RecordPage, SettleResult, StartItems
from tests.conformance.scene import LEASE_MS, Cases, Scene


async def _retry(
    scene: Scene, items: tuple[str, ...], again: tuple[int, ...] = (), id: str = "bat_r", **changes: object
) -> SettleResult:
    """A retry of `bat_a` that starts these items, whose numbers there are `again`."""
    entry = await scene.enter(id, retry_of="bat_a", **changes)
    page = RecordPage(id, eligible=len(items), chunks=1)
    return await scene.done(entry, FinishEntry(id), page, StartItems(id, 0, items, again=again))


async def _ended(scene: Scene, dead: tuple[str, ...] = ("u1",), items: tuple[str, ...] = ("u0", "u1", "u2")) -> None:
    """The batch `bat_a` has ended, and these of its items have failed."""
    await scene.start(list(items), complete=None)
    for claim in await scene.items():
        await (scene.dead(claim) if claim.item in dead else scene.done(claim))


class RetryCases(Cases):
    """`retry_of` of a batch, `again` of `StartItems`, `retries`, `retried_items`, `missing_items`, `items_with_ids`."""

    async def test_retries_are_listed_by_the_batch_that_they_retry(self, scene: Scene) -> None:
        """Those that were opened first before the others, without parameters and headers."""
        await _ended(scene)
        assert list(await scene.store.retries("bat_a")) == []
        await scene.enter("bat_z", retry_of="bat_a", headers={"x": "1"})
        await scene.enter("bat_b", retry_of="bat_a", named=True)
        found = await scene.store.retries("bat_a")
        assert [(it.id, it.retry_of, it.params, dict(it.headers), it.named) for it in found] == [
            ("bat_z", "bat_a", "null", {}, False),
            ("bat_b", "bat_a", "null", {}, True),
        ]
        assert (await scene.batch()).retry_of is None
        assert (await scene.batch("bat_b")).retry_of == "bat_a"

    async def test_settle_starts_items_of_a_retry_and_counts_what_they_replace(self, scene: Scene) -> None:
        """The counts of the batch that is retried stay; what has recovered is counted as it succeeds."""
        await _ended(scene, dead=("u1", "u2"))
        before = await scene.batch()
        await _retry(scene, ("u1", "u2", "u9"), (1, 2, -1))
        one, two, nine = await scene.items()
        assert (await scene.batch("bat_r")).replaced == Replaced(failed=2)
        await scene.done(one)
        await scene.dead(two)
        await scene.done(nine)
        retry = await scene.batch("bat_r")
        assert (retry.counts.succeeded, retry.counts.failed, retry.recovered) == (2, 1, 1)
        assert await scene.batch() == before

    async def test_settle_starts_no_item_of_a_retry_that_has_succeeded(self, scene: Scene) -> None:
        """It counts as processed, also where the ledger does not hold it; a forced retry starts it."""
        await _ended(scene)
        await scene.store.forget("welcome")
        await _retry(scene, ("u0", "u1"), (0, 1), named=True)
        counts = await scene.counts("bat_r")
        assert (counts.open, counts.already_processed) == (1, 1)
        await scene.done((await scene.items())[0])
        await _retry(scene, ("u0", "u1"), (0, 1), "bat_s", force=True)
        for claim in await scene.items():
            await scene.done(claim)
        forced = await scene.batch("bat_s")
        assert (forced.counts.succeeded, forced.replaced, forced.recovered) == (2, Replaced(succeeded=2), 0)

    async def test_settle_starts_no_item_of_a_retry_that_the_ledger_holds(self, scene: Scene) -> None:
        """Unless it is forced, or its ids are named."""
        await _ended(scene)
        await scene.store.mark("welcome", ["u1"], None)
        await _retry(scene, ("u1",), (1,))
        assert (await scene.counts("bat_r")).already_processed == 1
        await _retry(scene, ("u1",), (1,), "bat_s", named=True)
        assert (await scene.counts("bat_s")).open == 1

    async def test_settle_starts_no_item_of_a_retry_that_is_under_way(self, scene: Scene) -> None:
        """In the batch itself, in another retry, or in any other batch: not even a forced one."""
        await scene.start(["u0", "u1"], complete=None)
        one, two = await scene.items()
        await _retry(scene, ("u0",), (0,), force=True)
        assert (await scene.counts("bat_r")).in_flight == 1
        await scene.dead(one)
        await scene.dead(two)
        await _retry(scene, ("u0",), (0,), "bat_s", force=True)
        await scene.start(["u1"], "bat_b", complete=None)
        await _retry(scene, ("u0", "u1"), (0, 1), "bat_t", force=True)
        assert ((await scene.counts("bat_t")).in_flight, (await scene.counts("bat_t")).open) == (2, 0)

    async def test_settle_of_two_retries_at_the_same_moment_starts_an_item_once(self, scene: Scene) -> None:
        """Whichever comes first."""
        await _ended(scene)
        entries = [await scene.enter(id, retry_of="bat_a", force=True) for id in ("bat_r", "bat_s")]
        starts = [
            scene.done(entry, FinishEntry(id), StartItems(id, 0, ("u1",), again=(1,)))
            for entry, id in zip(entries, ("bat_r", "bat_s"), strict=True)
        ]
        await asyncio.gather(*starts)
        counts = [await scene.counts(id) for id in ("bat_r", "bat_s")]
        assert sorted((it.open, it.in_flight) for it in counts) == [(0, 1), (1, 0)]
        assert len(await scene.items()) == 1

    async def test_settle_of_a_retry_compares_with_the_latest_one(self, scene: Scene) -> None:
        """What succeeded in a retry is not run by the next; what failed there is replaced there."""
        await _ended(scene, dead=("u1", "u2"))
        await _retry(scene, ("u1", "u2"), (1, 2))
        one, two = await scene.items()
        await scene.done(one)
        await scene.dead(two)
        await scene.store.forget("welcome")
        await _retry(scene, ("u1", "u2"), (1, 2), "bat_s")
        (claim,) = await scene.items()
        assert claim.item == "u2"
        await scene.done(claim)
        second = await scene.batch("bat_s")
        assert (second.counts.already_processed, second.replaced, second.recovered) == (1, Replaced(failed=1), 1)

    async def test_settle_counts_an_item_as_recovered_once_its_dead_letter_has_succeeded(self, scene: Scene) -> None:
        """The one in the retry."""
        await _ended(scene)
        await _retry(scene, ("u1",), (1,), complete=None)
        (claim,) = await scene.items()
        await scene.dead(claim)
        assert (await scene.batch("bat_r")).recovered == 0
        assert await scene.store.redrive(claim.id)
        await scene.done((await scene.items())[0])
        assert (await scene.batch("bat_r")).recovered == 1

    async def test_redrive_leaves_an_item_that_a_retry_has_started(self, scene: Scene) -> None:
        """Whatever became of it there; the dead letter of the retry is the one that counts."""
        await _ended(scene)
        (first,) = await scene.store.dead_letters()
        await _retry(scene, ("u1",), (1,))
        assert not await scene.store.redrive(first.id)
        (claim,) = await scene.items()
        await scene.dead(claim)
        assert not await scene.store.redrive(first.id)
        assert (await scene.counts()).failed == 1
        await _retry(scene, ("u1",), (1,), "bat_s")
        (last,) = await scene.items()
        await scene.dead(last)
        assert not await scene.store.redrive(claim.id)
        assert await scene.store.redrive(last.id)

    async def test_cancel_batch_of_the_first_leaves_its_retries(self, scene: Scene) -> None:
        """They are batches of their own."""
        await scene.start(["u0", "u1"], complete=None)
        one, _ = await scene.items()
        await scene.dead(one)
        await _retry(scene, ("u0",), (0,))
        await scene.store.cancel_batch("bat_a")
        assert (await scene.batch("bat_r")).state == "sealed"
        assert len(await scene.items()) == 1

    async def test_retried_items_are_those_of_the_latest_retry(self, scene: Scene) -> None:
        """With their results; an item that no retry has started is not among them."""
        await _ended(scene, dead=("u1", "u2"))
        assert await scene.store.retried_items("bat_a", ["u0", "u1"]) == {}
        await _retry(scene, ("u1", "u2"), (1, 2))
        one, two = await scene.items()
        await scene.dead(one)
        await scene.done(two, result='"two"')
        await _retry(scene, ("u1",), (1,), "bat_s")
        found = await scene.store.retried_items("bat_a", ["u0", "u1", "u2", "u9"])
        assert {id: (batch, item.state, item.result) for id, (batch, item) in found.items()} == {
            "u1": ("bat_s", "open", None),
            "u2": ("bat_r", "succeeded", '"two"'),
        }
        assert await scene.store.retried_items("unknown", ["u1"]) == {}

    async def test_missing_items_are_those_that_no_batch_has_started(self, scene: Scene) -> None:
        """Not the one that is retried, nor another retry, nor the asking one."""
        items = tuple(f"u{number:03d}" for number in range(300))
        await scene.start(list(items), complete=None)
        for claim in await scene.items(1_000):
            await scene.done(claim)
        await _retry(scene, ("new1",), id="bat_s")
        await _retry(scene, ("new2",), id="bat_r")
        asked = [*items, "new1", "new2", "new3", "new4"]
        assert await scene.store.missing_items("bat_r", asked) == {"new3", "new4"}
        assert await scene.store.missing_items("bat_r", []) == frozenset()
        assert await scene.store.missing_items("bat_a", ["new3"]) == frozenset()

    async def test_items_with_ids_finds_several_at_once(self, scene: Scene) -> None:
        """Without their results; unknown ids are left out."""
        await _ended(scene)
        found = await scene.store.items_with_ids("bat_a", ["u2", "u1", "u9"])
        assert sorted((it.number, it.id, it.state, it.result) for it in found) == [
            (1, "u1", "failed", None),
            (2, "u2", "succeeded", None),
        ]
        assert list(await scene.store.items_with_ids("unknown", ["u1"])) == []

    async def test_prune_of_the_first_leaves_its_retry(self, scene: Scene) -> None:
        """Which counts on by itself; nothing is missing from a batch that was removed."""
        await _ended(scene)
        await _retry(scene, ("u1",), (1,))
        scene.clock.advance("2d")
        await scene.store.register("w1", LEASE_MS)
        while await scene.store.prune(1_000):
            pass
        assert await scene.store.batch("bat_a") is None
        assert await scene.store.missing_items("bat_r", ["u9"]) == frozenset()
        await scene.done((await scene.items())[0])
        assert (await scene.batch("bat_r")).state == "completed"

    async def test_prune_of_a_retry_gives_its_items_back(self, scene: Scene) -> None:
        """To the batch that it retries, if that is kept longer."""
        await scene.start(["u0", "u1"], complete=None)
        one, two = await scene.items()
        await scene.dead(one)
        await _retry(scene, ("u0",), (0,), complete=None)
        await scene.dead((await scene.items())[0])
        # The lease of the worker ends too: what it holds comes back.
        await scene.suspend(two, until=scene.now + 1)
        scene.clock.advance("2d")
        await scene.store.register("w1", LEASE_MS)
        while await scene.store.prune(1_000):
            pass
        assert list(await scene.store.retries("bat_a")) == []
        assert await scene.store.retried_items("bat_a", ["u0"]) == {}
        await _retry(scene, ("u0",), (0,), "bat_s")
        assert (await scene.batch("bat_s")).replaced == Replaced(failed=1)
