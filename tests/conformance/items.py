"""Items: starting, ending, asking."""

import asyncio
from dataclasses import replace

import pytest
from pydantic_core import to_json

from batchflow.core import ids, settlement
from batchflow.core.batch import Item
from batchflow.core.settlement import FinishEntry, FinishWalk, Publish, RecordPage, StartItems
from batchflow.core.store import ITEMS_SIZE
from tests.conformance.scene import Cases, Scene, message


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
        await scene.store.settle(settlement.failed(claims[1], "gone", '{"success":false}'))
        await scene.dead(claims[2], "Boom: no")
        await scene.store.settle(settlement.cancelled(claims[3]))
        at = scene.now
        assert list(await scene.store.items("bat_a")) == [
            Item(number=0, id="u0", state="succeeded", result='{"text":"ü"}', ended_at=at, attempts=1),
            Item(number=1, id="u1", state="failed", result='{"success":false}', error="gone", ended_at=at, attempts=1),
            Item(number=2, id="u2", state="failed", error="Boom: no", ended_at=at, attempts=1),
            Item(number=3, id="u3", state="cancelled", ended_at=at),
            Item(number=4, id="u4", state="open"),
        ]
        assert [item.id for item in await scene.store.items("bat_a", state="failed")] == ["u1", "u2"]

    async def test_items_are_read_without_their_results_on_request(self, scene: Scene) -> None:
        """All else of them is the same."""
        await scene.start(["u0", "u1"])
        claims = await scene.items()
        await scene.done(claims[0], result='{"text":"ü"}')
        await scene.store.settle(settlement.failed(claims[1], "gone", '{"success":false}'))
        whole = await scene.store.items("bat_a")
        assert [it.result for it in whole] == ['{"text":"ü"}', '{"success":false}']
        assert list(await scene.store.items("bat_a", results=False)) == [replace(it, result=None) for it in whole]

    async def test_items_end_with_the_one_that_makes_them_large(self, scene: Scene) -> None:
        """At least one, and without results as many as asked for: memory is bounded however large results are."""
        await scene.start([f"u{number}" for number in range(5)])
        claims = await scene.items()
        text = to_json("x" * (ITEMS_SIZE // 2)).decode()
        for claim in claims[:3]:
            await scene.done(claim, result=text)
        await scene.done(claims[3], result=to_json("x" * ITEMS_SIZE).decode())
        read = scene.store.items
        assert [it.number for it in await read("bat_a")] == [0, 1]
        assert [it.number for it in await read("bat_a", after=1)] == [2, 3]
        assert [it.number for it in await read("bat_a", after=2, limit=1)] == [3]
        assert [it.number for it in await read("bat_a", after=3)] == [4]
        assert [it.number for it in await read("bat_a", results=False)] == [0, 1, 2, 3, 4]

    async def test_find_item_finds_it_by_its_id(self, scene: Scene) -> None:
        """Of this batch alone, whole; None for an id that the batch has not started, or an unknown batch."""
        await scene.start(["u0", "u/1 ?"], force=True)
        await scene.start(["u2"], id="bat_b")
        claims = await scene.items()
        await scene.done(claims[1], result='"one"')
        item = await scene.store.find_item("bat_a", "u/1 ?")
        assert item == (await scene.store.items("bat_a", after=0))[0]
        assert item is not None
        assert (item.number, item.result) == (1, '"one"')
        assert await scene.store.find_item("bat_a", "u2") is None
        assert await scene.store.find_item("bat_a", "1") is None
        assert await scene.store.find_item("bat_c", "u0") is None

    async def test_find_item_looks_through_large_batches(self, scene: Scene) -> None:
        """Open and ended ones, and one that was redriven."""
        await scene.start([f"u{number:04d}" for number in range(7_000)])
        assert await self._number(scene, "u6999") == 6_999
        (first, second) = await scene.items(2)
        await scene.dead(first)
        await scene.done(second)
        await scene.store.cancel_batch("bat_a")
        while (await scene.batch()).ended_at is None:
            await scene.store.expire()
        assert [await self._number(scene, id) for id in ("u0001", "u6999", "u7000")] == [1, 6_999, None]

    async def test_find_item_finds_all_items_of_a_redriven_batch(self, scene: Scene) -> None:
        """Also those that had ended before; and so does `find_items`."""
        await scene.start(["u0", "u1"])
        dead, done = await scene.items()
        await scene.dead(dead)
        await scene.done(done)
        assert await scene.store.redrive(dead.id)
        assert [await self._number(scene, id) for id in ("u0", "u1")] == [0, 1]
        assert [item.number for _, item in await scene.store.find_items("welcome", "u1")] == [1]

    async def _number(self, scene: Scene, id: str) -> int | None:
        item = await scene.store.find_item("bat_a", id)
        return None if item is None else item.number

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
        await scene.done(entry, FinishEntry("bat_a"), Publish(pages))
        one, two, three = await scene.claim()
        await asyncio.gather(
            scene.done(one, RecordPage("bat_a", 3), StartItems("bat_a", 0, ("u1", "u2", "u1"))),
            scene.done(two, RecordPage("bat_a", 2), StartItems("bat_a", 3, ("u2", "u3"))),
        )
        await scene.done((await scene.items())[0])
        await scene.done(three, RecordPage("bat_a", 2), StartItems("bat_a", 5, ("u1", "u3")))
        assert sorted(id for id, _ in await scene.states()) == ["u1", "u2", "u3"]
        counts = await scene.counts()
        assert (counts.eligible, counts.started, counts.duplicates) == (7, 3, 4)

    async def test_settle_skips_what_another_batch_has_in_flight(self, scene: Scene) -> None:
        """It counts as in flight, and its claim to the item goes on."""
        await scene.start(["u1", "u2"])
        await scene.start(["u2", "u3"], id="bat_b")
        assert await scene.states("bat_b") == [("u3", "open")]
        assert (await scene.counts("bat_b")).in_flight == 1
        assert (await scene.counts("bat_a")).open == 2

    async def test_settle_skips_what_a_later_batch_has_in_flight(self, scene: Scene) -> None:
        """Which of the batches was opened first does not matter."""
        entry = await scene.enter("bat_a")
        await scene.start(["u1"], id="bat_b")
        await scene.done(entry, FinishEntry("bat_a"), RecordPage("bat_a", 1), StartItems("bat_a", 0, ("u1",)))
        assert (await scene.counts("bat_a")).in_flight == 1
        assert len(await scene.items()) == 1

    async def test_settle_skips_what_is_processed_by_now(self, scene: Scene) -> None:
        """Whoever has marked it since its page was filtered; a mark that has expired does not count."""
        entry = await scene.enter("bat_a")
        await scene.start(["u1"], id="bat_b")
        (claim,) = await scene.items()
        await scene.done(claim)
        await scene.store.mark("welcome", ["u2"], 1_000)
        await scene.store.mark("welcome", ["u3"], 1)
        scene.clock.advance("1ms")
        walked = StartItems("bat_a", 0, ("u1", "u2", "u3"))
        await scene.done(entry, FinishEntry("bat_a"), RecordPage("bat_a", 3), walked)
        assert await scene.states("bat_a") == [("u3", "open")]
        assert (await scene.counts("bat_a")).already_processed == 2

    async def test_settle_counts_what_another_ledger_holds(self, scene: Scene) -> None:
        """Items that were left out since a ledger beside the store has marked them meanwhile."""
        entry = await scene.enter("bat_a")
        walked = StartItems("bat_a", 0, ("u1",), already_processed=2)
        await scene.done(entry, FinishEntry("bat_a"), RecordPage("bat_a", 3), walked)
        counts = await scene.counts("bat_a")
        assert (counts.open, counts.already_processed) == (1, 2)

    async def test_settle_starts_what_the_filter_named_in_spite_of_its_mark(self, scene: Scene) -> None:
        """But not what is in flight elsewhere."""
        await scene.store.mark("welcome", ["u1", "u2", "u3"], None)
        await scene.start(["u2"], id="bat_b", force=True)
        entry = await scene.enter("bat_a")
        walked = StartItems("bat_a", 0, ("u1", "u2", "u3"), marked=("u1", "u2"))
        await scene.done(entry, FinishEntry("bat_a"), RecordPage("bat_a", 3), walked)
        counts = await scene.counts("bat_a")
        assert (counts.open, counts.in_flight, counts.already_processed) == (1, 1, 1)

    @pytest.mark.parametrize("how", [{"force": True}, {"named": True}])
    async def test_settle_starts_what_is_forced_or_named_whatever_the_ledger_says(
        self, scene: Scene, how: dict[str, bool]
    ) -> None:
        """Processed or in flight; the batch that had it keeps it as well."""
        await scene.store.mark("welcome", ["u1"], None)
        await scene.start(["u2"])
        await scene.start(["u1", "u2"], id="bat_b", **how)
        assert (await scene.counts("bat_b")).open == 2
        for claim in await scene.items():
            assert not (await scene.done(claim)).stale
        assert (await scene.counts("bat_a")).succeeded == 1
        assert (await scene.counts("bat_b")).succeeded == 2

    async def test_settle_keeps_ledgers_of_one_workflow_apart(self, scene: Scene) -> None:
        """Marks and what is in flight are those of the batch's ledger."""
        await scene.start(["u1"], ledger="welcome 2030")
        await scene.start(["u1"], id="bat_b", ledger="welcome 2031")
        assert (await scene.counts("bat_b")).open == 1
        for claim in await scene.items():
            if claim.batch == "bat_a":
                await scene.done(claim)
        assert await scene.store.processed("welcome 2030", ["u1"]) == {"u1"}
        assert await scene.store.processed("welcome 2031", ["u1"]) == frozenset()
        assert await scene.store.processed("welcome", ["u1"]) == frozenset()

    async def test_claim_gives_an_item_what_fetch_brought_of_it(self, scene: Scene) -> None:
        """At each attempt, until it has ended."""
        entry = await scene.enter("bat_a")
        walked = StartItems("bat_a", 0, ("u1", "u2"), data=('{"n":1}', None))
        await scene.done(entry, FinishEntry("bat_a"), RecordPage("bat_a", 2), walked)
        one, two = await scene.items()
        assert (one.data, two.data) == ('{"n":1}', None)
        await scene.store.settle(settlement.retry(one, scene.now, "Boom: no"))
        (again,) = await scene.items()
        assert again.data == '{"n":1}'
        await scene.dead(again)
        assert await scene.store.redrive(again.id)
        assert (await scene.items())[0].data == '{"n":1}'

    async def test_claim_gives_an_item_the_headers_of_its_batch(self, scene: Scene) -> None:
        """At the first attempt and at the next; they are shown with the batch."""
        await scene.start(["u1"], headers={"traceparent": "00-1"})
        (claim,) = await scene.items()
        assert claim.headers == {"traceparent": "00-1"}
        await scene.store.settle(settlement.retry(claim, scene.now, "Boom: no"))
        assert (await scene.items())[0].headers == {"traceparent": "00-1"}
        assert (await scene.batch()).headers == {"traceparent": "00-1"}

    async def test_settle_walked_releases_what_was_held_back(self, scene: Scene) -> None:
        """Held messages wait for the end of the walk, others of the batch do not; the total is known then."""
        entry = await scene.enter("bat_a")
        chunk = message(ids.chunk_id("bat_a", 0, 0), batch="bat_a", held=True)
        page = message(ids.page_id("bat_a", 1), batch="bat_a")
        await scene.done(entry, FinishEntry("bat_a"), RecordPage("bat_a", 1), Publish((chunk, page)))
        last = await scene.claim_one(page.id)
        assert await scene.next_due() is None
        await scene.done(last, FinishWalk("bat_a", 7))
        assert (await scene.batch()).total == 7
        await scene.claim_one(chunk.id)

    async def test_cancel_batch_ends_what_is_held_back(self, scene: Scene) -> None:
        """And so does a walk that broke off, once nothing else of it is at work."""
        entry = await scene.enter("bat_a")
        chunk = message(ids.chunk_id("bat_a", 0, 0), batch="bat_a", held=True)
        await scene.done(entry, FinishEntry("bat_a"), RecordPage("bat_a", 1), Publish((chunk,)))
        assert await scene.store.cancel_batch("bat_a")
        assert (await scene.batch()).state == "cancelled"

    async def test_settle_dead_of_a_page_ends_what_is_held_back(self, scene: Scene) -> None:
        """Nothing releases it any more, so that the batch has failed."""
        entry = await scene.enter("bat_a")
        chunk = message(ids.chunk_id("bat_a", 0, 0), batch="bat_a", held=True)
        page = message(ids.page_id("bat_a", 1), batch="bat_a")
        await scene.done(entry, FinishEntry("bat_a"), RecordPage("bat_a", 1), Publish((chunk, page)))
        await scene.dead(await scene.claim_one(page.id), "Boom: page")
        batch = await scene.batch()
        assert (batch.state, batch.error) == ("failed", "Boom: page")
        assert len(await scene.claim()) == 1

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
            scene.done(one, FinishEntry("bat_a"), RecordPage("bat_a", 1), StartItems("bat_a", 0, ("u1",))),
            scene.done(two, FinishEntry("bat_b"), RecordPage("bat_b", 1), StartItems("bat_b", 0, ("u1",))),
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
        entry = await scene.enter("bat_b")
        walked = StartItems("bat_b", 0, ("u0", "u1", "u2", "u3"), marked=("u0",))
        await scene.done(entry, FinishEntry("bat_b"), RecordPage("bat_b", 4), walked)
        assert [id for id, _ in await scene.states("bat_b")] == ["u0", "u1", "u2"]

    async def test_settle_starts_nothing_in_a_batch_being_cancelled(self, scene: Scene) -> None:
        """The settlement counts, its items do not start."""
        entry = await scene.enter()
        await scene.store.cancel_batch("bat_a")
        await scene.done(entry, FinishEntry("bat_a"), RecordPage("bat_a", 1), StartItems("bat_a", 0, ("u1",)))
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

    async def test_find_items_tells_what_happened_to_an_item(self, scene: Scene) -> None:
        """In the latest batches of its workflow, newest first, open and ended ones."""
        await scene.start(["u1", "u2"], force=True)
        for claim in await scene.items():
            await scene.done(claim)
        await scene.start(["u0", "u1"], id="bat_b", force=True)
        for claim in await scene.items():
            await scene.dead(claim)
        await scene.start(["u1"], id="bat_c", force=True)
        await scene.start(["u1"], id="bat_d", force=True, workflow="farewell")
        found = await scene.store.find_items("welcome", "u1")
        assert [(batch, item.number, item.state) for batch, item in found] == [
            ("bat_c", 0, "open"),
            ("bat_b", 1, "failed"),
            ("bat_a", 0, "succeeded"),
        ]
        (batch, item), _, _ = found
        assert [item] == list(await scene.store.items(batch))
        assert [batch for batch, _ in await scene.store.find_items("welcome", "u1", 2)] == ["bat_c", "bat_b"]
        assert [batch for batch, _ in await scene.store.find_items("farewell", "u1")] == ["bat_d"]
        assert list(await scene.store.find_items("welcome", "u9")) == []
        assert list(await scene.store.find_items("unknown", "u1")) == []

    async def test_find_items_looks_through_large_batches(self, scene: Scene) -> None:
        """At its place among many."""
        await scene.start([f"u{number:04d}" for number in range(1_000)])
        await scene.store.cancel_batch("bat_a")
        while (await scene.batch()).ended_at is None:
            await scene.store.expire()
        ((batch, item),) = await scene.store.find_items("welcome", "u0777")
        assert (batch, item.number, item.state) == ("bat_a", 777, "cancelled")
