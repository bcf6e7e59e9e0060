"""Batches: opening, walking, completing, asking."""

import asyncio
from dataclasses import replace

from batchflow.core import ids, settlement
from batchflow.core.batch import Counts
from batchflow.core.message import LOSS_LIMIT
from batchflow.core.settlement import FinishEntry, Notice, Publish, RecordPage, StartItems
from tests.conformance.scene import Cases, Scene, message, names, new_batch


class BatchCases(Cases):
    """`open_batch`, `batch`, `batches`, and what `settle` does to a batch."""

    async def test_open_batch_stores_it_with_its_first_messages(self, scene: Scene) -> None:
        """All it was given can be read back; its layers are at work, its items not yet known."""
        first = message("bat_a.e", destination="entry", batch="bat_a")
        opened = new_batch(params='{"x":1}', force=True, label="a try")
        assert await scene.store.open_batch(opened, [first])
        batch = await scene.batch()
        assert (batch.id, batch.workflow, batch.state, batch.params) == ("bat_a", "welcome", "pending", '{"x":1}')
        assert (batch.force, batch.label, batch.working, batch.counts) == (True, "a try", 1, Counts())
        assert (batch.created_at, batch.started_at, batch.ended_at, batch.total) == (scene.now, None, None, None)
        claim = await scene.claim_one("bat_a.e")
        assert (claim.batch, claim.number) == ("bat_a", -1)

    async def test_open_batch_is_held_off_by_one_that_is_open(self, scene: Scene) -> None:
        """While a batch with the same `open_dedup` has not ended."""
        await scene.start(["u1"], open_dedup="nightly")
        other = new_batch("bat_b", open_dedup="nightly")
        first = message("bat_b.e", destination="entry", batch="bat_b")
        assert not await scene.store.open_batch(other, [first])
        assert await scene.store.under_way("nightly") == "bat_a"
        (item,) = await scene.items()
        await scene.done(item)
        assert await scene.store.under_way("nightly") is None
        assert await scene.store.open_batch(other, [first])
        assert await scene.store.under_way("nightly") == "bat_b"
        await scene.store.cancel_batch("bat_b")
        assert await scene.store.under_way("nightly") is None

    async def test_under_way_is_what_has_not_ended(self, scene: Scene) -> None:
        """A batch or a message; nothing of a name that nobody bears."""
        await scene.start(["u1"], open_dedup="batch")
        await scene.publish("a", open_dedup="message")
        assert await scene.store.under_way("batch") == "bat_a"
        assert await scene.store.under_way("message") == "a"
        assert await scene.store.under_way("nobody") is None

    async def test_batches_of_a_label_are_listed(self, scene: Scene) -> None:
        """The latest first, also of one workflow, also the open ones alone."""
        await scene.start([], label="nightly")
        await scene.start(["u1"], id="bat_b", label="nightly")
        await scene.start(["u1"], id="bat_c", label="nightly", workflow="farewell")
        await scene.start(["u2"], id="bat_d", label="other")
        listed = scene.store.batches
        assert [it.id for it in await listed(label="nightly")] == ["bat_c", "bat_b", "bat_a"]
        assert [it.id for it in await listed(label="nightly", workflow="welcome")] == ["bat_b", "bat_a"]
        assert [it.id for it in await listed(label="nightly", open_only=True, limit=1)] == ["bat_c"]
        assert await listed(label="nobody") == []

    async def test_batches_are_listed_without_their_parameters_on_request(self, scene: Scene) -> None:
        """Nor their headers; all else of them is the same."""
        await scene.start(["u1"], params='{"n":1}', headers={"x-tenant": "a"})
        (whole,) = await scene.store.batches()
        assert (whole.params, dict(whole.headers)) == ('{"n":1}', {"x-tenant": "a"})
        assert list(await scene.store.batches(params=False)) == [replace(whole, params="null", headers={})]

    async def test_on_notice_tells_of_a_batch_that_a_loss_ends(self, scene: Scene) -> None:
        """No settlement was its last; the end of the subscription ends that."""
        ended: list[Notice] = []
        leave = scene.store.on_notice(ended.append)
        await self._lose_the_last(scene, "bat_a")
        await self._rest()
        assert ended == [Notice("batch_ended", "bat_a")]
        leave()
        await self._lose_the_last(scene, "bat_b")
        await self._rest()
        assert ended == [Notice("batch_ended", "bat_a")]

    async def test_on_notice_tells_of_cancelled_batches(self, scene: Scene) -> None:
        """Of itself, or with the run that waits for it; nothing before the last claim has ended."""
        ended: list[Notice] = []
        scene.store.on_notice(ended.append)
        parent = await scene.leased("p")
        await scene.invoke_batch(parent, "bat_b")
        await scene.start(["u1", "u2"])
        assert await scene.store.cancel_batch("bat_a")
        await self._rest()
        assert ended == [Notice("batch_ended", "bat_a")]
        await scene.store.settle(settlement.cancelled(parent))
        await self._rest()
        assert ended == [Notice("batch_ended", "bat_a"), Notice("batch_ended", "bat_b")]

    async def test_on_notice_tells_nothing_that_a_settlement_answers(self, scene: Scene) -> None:
        """Each end is told once."""
        ended: list[Notice] = []
        scene.store.on_notice(ended.append)
        await scene.start(["u1"])
        (item,) = await scene.items()
        assert (await scene.done(item)).ended_batch == "bat_a"
        await scene.start(["u2", "u3"], id="bat_b")
        (item,) = await scene.items(1)
        await scene.store.cancel_batch("bat_b")
        assert (await scene.store.settle(settlement.cancelled(item))).ended_batch == "bat_b"
        assert (await scene.start([], id="bat_c")).ended_batch == "bat_c"
        await self._rest()
        assert ended == []

    async def _lose_the_last(self, scene: Scene, id: str) -> None:
        await scene.start(["u1"], id=id)
        for _ in range(LOSS_LIMIT):
            assert await scene.items()
            await scene.lose()

    async def _rest(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    async def test_open_batch_may_be_repeated(self, scene: Scene) -> None:
        """False, and nothing is done, when its id is known."""
        first = message("bat_a.e", destination="entry", batch="bat_a")
        assert await scene.store.open_batch(new_batch(), [first])
        again = message("bat_a.again", destination="entry", batch="bat_a")
        assert not await scene.store.open_batch(new_batch(label="other"), [first, again])
        assert names(await scene.claim()) == ["bat_a.e"]
        assert (await scene.batch()).label is None

    async def test_open_batch_is_repeatable_after_it_ended(self, scene: Scene) -> None:
        """An ended batch does not begin again."""
        await scene.start([])
        first = message("bat_a.e", destination="entry", batch="bat_a")
        assert not await scene.store.open_batch(new_batch(), [first])
        assert (await scene.batch()).state == "completed"

    async def test_batch_is_none_when_it_is_not_known(self, scene: Scene) -> None:
        """And has no items."""
        assert await scene.store.batch("bat_x") is None
        assert await scene.store.items("bat_x") == []

    async def test_batch_goes_from_pending_to_completed(self, scene: Scene) -> None:
        """Pending until entered, open while its pages are walked, sealed while items run, then completed."""
        entry = await scene.enter()
        page = message(ids.page_id("bat_a", 1), batch="bat_a")
        scene.clock.advance("1s")
        await scene.done(entry, FinishEntry("bat_a", total=2), Publish((page,)))
        batch = await scene.batch()
        assert (batch.state, batch.started_at, batch.total, batch.working) == ("open", scene.now, 2, 1)
        walk = await scene.claim_one(page.id)
        await scene.done(walk, RecordPage("bat_a", 2, chunks=1), StartItems("bat_a", 0, ("u1", "u2")))
        batch = await scene.batch()
        assert (batch.state, batch.pages, batch.chunks, batch.working) == ("sealed", 1, 1, 0)
        one, two = await scene.items()
        assert (await scene.done(one)).ended_batch is None
        scene.clock.advance("1s")
        assert (await scene.done(two)).ended_batch == "bat_a"
        batch = await scene.batch()
        assert (batch.state, batch.ended_at, batch.items_ended) == ("completed", scene.now, True)

    async def test_batch_adds_up_once_it_is_sealed(self, scene: Scene) -> None:
        """`eligible` is the sum of all the others, whatever became of the ids."""
        await scene.start(["other"], id="bat_b")
        entry = await scene.enter()
        pages = RecordPage("bat_a", 12, already_processed=2, duplicates=1, left_out=3, chunks=1)
        await scene.done(
            entry, FinishEntry("bat_a"), pages, StartItems("bat_a", 0, ("u1", "other", "u1", "u2", "u3", "u4"))
        )
        claims = {claim.item: claim for claim in await scene.items() if claim.batch == "bat_a"}
        await scene.done(claims["u1"])
        await scene.dead(claims["u2"])
        await scene.store.settle(settlement.cancelled(claims["u3"]))
        counts = await scene.counts()
        assert counts == Counts(
            eligible=12,
            open=1,
            succeeded=1,
            failed=1,
            cancelled=1,
            already_processed=2,
            in_flight=1,
            duplicates=2,
            left_out=3,
        )
        assert counts.eligible == counts.started + counts.skipped + counts.left_out

    async def test_batch_sums_the_time_its_items_took(self, scene: Scene) -> None:
        """Of those that ended; what is delivered again is counted when it ends."""
        await scene.start(["u1", "u2"])
        one, two = await scene.items()
        await scene.store.settle(settlement.done(one, "1")._replace(took_ms=1.5))
        await scene.store.settle(settlement.released(two)._replace(took_ms=100.0))
        (two,) = await scene.items()
        await scene.store.settle(settlement.dead(two, "Boom: no")._replace(took_ms=2.0))
        assert (await scene.batch()).worked_ms == 3.5

    async def test_settle_completes_an_empty_batch_at_once(self, scene: Scene) -> None:
        """With the settlement that found nothing."""
        assert (await scene.start([])).ended_batch == "bat_a"
        assert (await scene.batch()).state == "completed"
        assert len(await scene.completions()) == 1

    async def test_settle_does_not_complete_while_pages_are_walked(self, scene: Scene) -> None:
        """Although every item known so far has ended."""
        entry = await scene.enter()
        page = message(ids.page_id("bat_a", 1), batch="bat_a")
        await scene.done(
            entry, FinishEntry("bat_a"), Publish((page,)), RecordPage("bat_a", 1), StartItems("bat_a", 0, ("u1",))
        )
        (item,) = await scene.items()
        assert (await scene.done(item)).ended_batch is None
        assert (await scene.batch()).state == "open"
        walk = await scene.claim_one(page.id)
        assert (await scene.done(walk, RecordPage("bat_a", 0))).ended_batch == "bat_a"

    async def test_settle_publishes_the_completion_exactly_once(self, scene: Scene) -> None:
        """However many items end in the same moment, and however often each is settled."""
        await scene.start([f"u{number}" for number in range(5)])
        claims = await scene.items()
        twice = [settlement.done(claim, "1") for claim in claims for _ in range(2)]
        answers = await asyncio.gather(*(scene.store.settle(one) for one in twice))
        assert sorted(answer.ended_batch or "" for answer in answers) == [""] * (len(answers) - 1) + ["bat_a"]
        (completion,) = await scene.completions()
        assert (completion.id, completion.batch, completion.params) == ("bat_a.z", "bat_a", '{"p":1}')
        await scene.done(completion)
        assert await scene.claim() == []
        assert (await scene.batch()).working == 0

    async def test_settle_publishes_no_completion_that_nobody_wants(self, scene: Scene) -> None:
        """A batch without a destination for it just ends."""
        await scene.start(["u1"], complete=None)
        (item,) = await scene.items()
        assert (await scene.done(item)).ended_batch == "bat_a"
        assert await scene.claim() == []

    async def test_settle_puts_the_completion_under_its_own_key(self, scene: Scene) -> None:
        """With the limits the batch was opened with."""
        flow = new_batch().complete_flow.with_default_key("free")
        await scene.start([], complete_flow=flow)
        await scene.store.pause("free")
        assert await scene.completions() == []

    async def test_settle_dead_breaks_the_walk_of_its_batch(self, scene: Scene) -> None:
        """Items that have started go on; then the batch has failed, and says why."""
        entry = await scene.enter()
        page = message(ids.page_id("bat_a", 1), batch="bat_a")
        await scene.done(
            entry, FinishEntry("bat_a"), Publish((page,)), RecordPage("bat_a", 1), StartItems("bat_a", 0, ("u1",))
        )
        (item,) = await scene.items()
        await scene.dead(await scene.claim_one(page.id), "Boom: page")
        batch = await scene.batch()
        assert (batch.items_ended, batch.error) == (False, "Boom: page")
        assert (await scene.done(item)).ended_batch == "bat_a"
        batch = await scene.batch()
        assert (batch.state, batch.error, batch.counts.succeeded) == ("failed", "Boom: page", 1)
        assert len(await scene.completions()) == 1

    async def test_settle_dead_of_the_entry_fails_its_batch_at_once(self, scene: Scene) -> None:
        """Nothing has started, nothing will."""
        entry = await scene.enter()
        assert (await scene.dead(entry, "Boom: entry")).ended_batch == "bat_a"
        batch = await scene.batch()
        assert (batch.state, batch.error) == ("failed", "Boom: entry")

    async def test_settle_dead_of_the_completion_leaves_the_batch_as_it_ended(self, scene: Scene) -> None:
        """The batch is over before its completion is told."""
        await scene.start([])
        (completion,) = await scene.completions()
        await scene.dead(completion)
        batch = await scene.batch()
        assert (batch.state, batch.error, batch.working) == ("completed", None, 0)

    async def test_batches_are_the_latest_newest_first(self, scene: Scene) -> None:
        """Of all workflows or of one, all or open ones, at most as many as asked for."""
        for number, workflow in enumerate(("one", "two", "one", "two")):
            scene.clock.advance("1ms")
            await scene.start([] if number < 2 else ["u1"], id=f"bat_{number}", workflow=workflow)
        batches = scene.store.batches
        assert [batch.id for batch in await batches()] == ["bat_3", "bat_2", "bat_1", "bat_0"]
        assert [batch.id for batch in await batches(workflow="one")] == ["bat_2", "bat_0"]
        assert [batch.id for batch in await batches(open_only=True)] == ["bat_3", "bat_2"]
        assert [batch.id for batch in await batches(limit=1)] == ["bat_3"]
        assert await batches(workflow="three") == []

    async def test_batches_before_one_are_the_older_ones(self, scene: Scene) -> None:
        """Also where that one has ended meanwhile; nothing older than a batch that is not known."""
        for number in range(5):
            workflow = "even" if number % 2 == 0 else "odd"
            await scene.start([f"u{number}"], id=f"bat_{4 - number}", workflow=workflow, label="x")
        listed = scene.store.batches
        first = [batch.id for batch in await listed(limit=2)]
        assert first == ["bat_0", "bat_1"]
        await scene.store.cancel_batch(first[-1])
        assert [batch.id for batch in await listed(limit=2, before=first[-1])] == ["bat_2", "bat_3"]
        assert [batch.id for batch in await listed(open_only=True, before=first[-1])] == ["bat_2", "bat_3", "bat_4"]
        assert [batch.id for batch in await listed(workflow="even", before="bat_2")] == ["bat_4"]
        assert [batch.id for batch in await listed(label="x", workflow="odd", before="bat_2")] == ["bat_3"]
        assert await listed(before="bat_4") == []
        assert await listed(before="bat_x") == []
