"""Items: starting, ending, asking."""

import asyncio

from batchflow.core import settlement
from batchflow.core.batch import Item
from batchflow.core.settlement import Enter, Page, Publish, StartItems
from batchflow.testing.conformance.scene import Cases, Scene, message


class ItemCases(Cases):
    """`items`, and what `settle` does to items."""

    async def test_items_are_listed_by_number(self, scene: Scene) -> None:
        """After a number, at most as many as asked for."""
        await scene.start(["u3", "u1", "u2"])
        items = scene.store.items
        assert [(item.number, item.id) for item in await items("bat_a")] == [(0, "u3"), (1, "u1"), (2, "u2")]
        assert [item.number for item in await items("bat_a", after=0, limit=1)] == [1]
        assert await items("bat_a", after=2) == []

    async def test_items_tell_how_they_ended(self, scene: Scene) -> None:
        """Result, error and time; those in one state are listed alone."""
        await scene.start(["u0", "u1", "u2", "u3", "u4"])
        claims = await scene.items()
        scene.clock.advance("1s")
        await scene.done(claims[0], result='{"text":"ü"}')
        await scene.store.settle(settlement.answered(claims[1], "gone", '{"success":false}'))
        await scene.dead(claims[2], "Boom: no")
        await scene.store.settle(settlement.cancelled(claims[3]))
        at = scene.now
        assert list(await scene.store.items("bat_a")) == [
            Item(number=0, id="u0", state="succeeded", result='{"text":"ü"}', ended_at=at),
            Item(number=1, id="u1", state="failed", result='{"success":false}', error="gone", ended_at=at),
            Item(number=2, id="u2", state="failed", error="Boom: no", ended_at=at),
            Item(number=3, id="u3", state="cancelled", ended_at=at),
            Item(number=4, id="u4", state="open"),
        ]
        assert [item.id for item in await scene.store.items("bat_a", state="failed")] == ["u1", "u2"]

    async def test_items_keep_their_results_only_if_the_batch_says_so(self, scene: Scene) -> None:
        """A million results are not kept for nobody."""
        await scene.start(["u1"], keep_results=False)
        await scene.done((await scene.items())[0])
        (item,) = await scene.store.items("bat_a")
        assert (item.state, item.result) == ("succeeded", None)

    async def test_settle_starts_each_item_once_per_batch(self, scene: Scene) -> None:
        """An id that comes again, in the same effect, the same moment or later, is a duplicate."""
        entry = await scene.enter()
        pages = tuple(message(f"bat_a.p{number}", batch="bat_a") for number in range(3))
        await scene.done(entry, Enter("bat_a"), Publish(pages))
        one, two, three = await scene.claim()
        await asyncio.gather(
            scene.done(one, Page("bat_a", 3), StartItems("bat_a", 0, ("u1", "u2", "u1"))),
            scene.done(two, Page("bat_a", 2), StartItems("bat_a", 3, ("u2", "u3"))),
        )
        await scene.done((await scene.items())[0])
        await scene.done(three, Page("bat_a", 2), StartItems("bat_a", 5, ("u1", "u3")))
        assert sorted(id for id, _ in await scene.states()) == ["u1", "u2", "u3"]
        counts = await scene.counts()
        assert (counts.eligible, counts.started, counts.duplicates) == (7, 3, 4)

    async def test_settle_skips_what_another_batch_has_in_flight(self, scene: Scene) -> None:
        """It counts as in flight, forced or not, and its claim to the item goes on."""
        await scene.start(["u1", "u2"])
        await scene.start(["u2", "u3"], id="bat_b", force=True)
        assert await scene.states("bat_b") == [("u3", "open")]
        assert (await scene.counts("bat_b")).in_flight == 1
        assert (await scene.counts("bat_a")).open == 2

    async def test_settle_counts_each_mention_of_what_is_in_flight(self, scene: Scene) -> None:
        """A batch has no duplicate of an item that it never had, in one effect as in several."""
        await scene.start(["u1"])
        await scene.start(["u1", "u2", "u1"], id="bat_b")
        counts = await scene.counts("bat_b")
        assert (counts.open, counts.in_flight, counts.duplicates) == (1, 2, 0)

    async def test_settle_decides_for_one_of_two_batches_at_the_same_moment(self, scene: Scene) -> None:
        """An id runs in one of them."""
        one, two = await scene.enter("bat_a"), await scene.enter("bat_b")
        await asyncio.gather(
            scene.done(one, Enter("bat_a"), Page("bat_a", 1), StartItems("bat_a", 0, ("u1",))),
            scene.done(two, Enter("bat_b"), Page("bat_b", 1), StartItems("bat_b", 0, ("u1",))),
        )
        a, b = await scene.counts("bat_a"), await scene.counts("bat_b")
        assert (a.open + b.open, a.in_flight + b.in_flight) == (1, 1)

    async def test_settle_lets_other_workflows_have_the_same_id(self, scene: Scene) -> None:
        """In flight is a matter of one workflow."""
        await scene.start(["u1"])
        await scene.start(["u1"], id="bat_b", workflow="farewell")
        assert (await scene.counts("bat_b")).open == 1

    async def test_settle_lets_an_item_go_when_it_ended(self, scene: Scene) -> None:
        """Succeeded, failed or cancelled: the next batch may start it, as it does when forced to do it again."""
        await scene.start(["u0", "u1", "u2", "u3"])
        claims = await scene.items()
        await scene.done(claims[0])
        await scene.dead(claims[1])
        await scene.store.settle(settlement.cancelled(claims[2]))
        await scene.start(["u0", "u1", "u2", "u3"], id="bat_b", force=True)
        assert [id for id, _ in await scene.states("bat_b")] == ["u0", "u1", "u2"]

    async def test_settle_starts_nothing_in_a_batch_being_cancelled(self, scene: Scene) -> None:
        """The settlement counts, its items do not start."""
        entry = await scene.enter()
        await scene.store.cancel_batch("bat_a")
        await scene.done(entry, Enter("bat_a"), Page("bat_a", 1), StartItems("bat_a", 0, ("u1",)))
        assert await scene.states() == []
        assert (await scene.batch()).state == "cancelled"

    async def test_settle_gives_an_item_its_own_run_again_and_again(self, scene: Scene) -> None:
        """Retries and suspensions of an item are the same run, with its journal and counts."""
        await scene.start(["u1"])
        (claim,) = await scene.items()
        await scene.store.settle(settlement.retry(claim, scene.now + 10, "Boom: no"))
        scene.clock.advance("10ms")
        (again,) = await scene.items()
        assert (again.id, again.item, again.failures) == (claim.id, "u1", 1)

    async def test_settle_takes_thousands_of_items_at_once(self, scene: Scene) -> None:
        """Started and ended in one go, each counted."""
        await scene.start([f"u{number:05d}" for number in range(2_100)])
        claims = await scene.items(3_000)
        assert len(claims) == 2_100
        await asyncio.gather(*(scene.done(claim) for claim in claims))
        batch = await scene.batch()
        assert (batch.state, batch.counts.succeeded) == ("completed", 2_100)
