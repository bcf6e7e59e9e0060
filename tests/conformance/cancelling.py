"""Cancelling batches."""

from batchflow.core import ids, settlement
from batchflow.core.flow import FlowControl
from batchflow.core.settlement import FinishEntry, Publish, RecordPage, StartItems
from tests.conformance.scene import Cases, Scene, message, new_batch


class CancelCases(Cases):
    """`cancel_batch`."""

    async def test_cancel_batch_cancels_what_waits(self, scene: Scene) -> None:
        """Items that have not started are cancelled, and with nothing under way the batch has ended."""
        await scene.start(["u1", "u2"])
        assert await scene.store.cancel_batch("bat_a")
        assert await scene.states() == [("u1", "cancelled"), ("u2", "cancelled")]
        batch = await scene.batch()
        assert (batch.state, batch.ended_at, batch.counts.cancelled) == ("cancelled", scene.now, 2)
        assert await scene.items() == []

    async def test_cancel_batch_waits_for_what_is_leased(self, scene: Scene) -> None:
        """The batch is being cancelled until the last claim of it has ended."""
        await scene.start(["u1", "u2", "u3"])
        one, two = await scene.items(2)
        await scene.store.cancel_batch("bat_a")
        assert (await scene.batch()).state == "cancelling"
        await scene.store.settle(settlement.cancelled(one))
        assert (await scene.store.settle(settlement.retry(two, scene.now, "Boom: no"))).ended_batch == "bat_a"
        assert (await scene.batch()).state == "cancelled"
        assert {state for _, state in await scene.states()} == {"cancelled"}

    async def test_cancel_batch_lets_what_is_done_meanwhile_count(self, scene: Scene) -> None:
        """A worker that settles as done has done it; what failed meanwhile is cancelled."""
        await scene.start(["u1", "u2"])
        one, two = await scene.items()
        await scene.store.cancel_batch("bat_a")
        await scene.done(one)
        await scene.dead(two)
        assert await scene.states() == [("u1", "succeeded"), ("u2", "cancelled")]
        assert (await scene.batch()).state == "cancelled"
        assert await scene.store.processed("welcome", ["u1"]) == {"u1"}

    async def test_cancel_batch_ends_a_pending_batch(self, scene: Scene) -> None:
        """Before its entry was ever claimed."""
        await scene.store.open_batch(new_batch(), [message("bat_a.e", destination="entry", batch="bat_a")])
        assert await scene.store.cancel_batch("bat_a")
        assert (await scene.batch()).state == "cancelled"
        assert await scene.claim(destinations=("entry",)) == []

    async def test_cancel_batch_ends_a_pending_batch_whose_entry_runs(self, scene: Scene) -> None:
        """With the end of that claim, whichever it is."""
        entry = await scene.enter()
        await scene.store.cancel_batch("bat_a")
        assert (await scene.batch()).state == "cancelling"
        assert (await scene.store.settle(settlement.released(entry))).ended_batch == "bat_a"

    async def test_cancel_batch_ends_claims_of_dead_workers(self, scene: Scene) -> None:
        """A worker that died while the batch was cancelled does not hold it open."""
        await scene.start(["u1"])
        await scene.items()
        await scene.store.cancel_batch("bat_a")
        await scene.lose()
        assert (await scene.batch()).state == "cancelled"

    async def test_cancel_batch_publishes_its_completion_once(self, scene: Scene) -> None:
        """Whoever waits for the end of a batch learns of this end as well."""
        await scene.start(["u1"])
        (claim,) = await scene.items()
        await scene.store.cancel_batch("bat_a")
        await scene.store.cancel_batch("bat_a")
        await scene.store.settle(settlement.cancelled(claim))
        assert len(await scene.completions()) == 1

    async def test_cancel_batch_may_be_repeated_until_it_has_ended(self, scene: Scene) -> None:
        """True while it is being cancelled, False when it has ended."""
        await scene.start(["u1"])
        (claim,) = await scene.items()
        assert await scene.store.cancel_batch("bat_a")
        assert await scene.store.cancel_batch("bat_a")
        await scene.store.settle(settlement.cancelled(claim))
        assert not await scene.store.cancel_batch("bat_a")

    async def test_cancel_batch_answers_false_when_it_had_ended(self, scene: Scene) -> None:
        """Or is not known; nothing is changed."""
        await scene.start([])
        assert not await scene.store.cancel_batch("bat_a")
        assert (await scene.batch()).state == "completed"
        assert not await scene.store.cancel_batch("bat_x")

    async def test_cancel_batch_leaves_others_alone(self, scene: Scene) -> None:
        """Under the same flow key, whose places are given back."""
        one = FlowControl(key="one", parallelism=1)
        await scene.start(["u1", "u2"], flow=one)
        await scene.start(["u3"], id="bat_b", flow=one)
        await scene.store.cancel_batch("bat_a")
        (claim,) = await scene.items()
        assert (claim.batch, claim.item) == ("bat_b", "u3")

    async def test_cancel_batch_leaves_batches_whose_id_begins_alike_alone(self, scene: Scene) -> None:
        """`bat_a` is not `bat_a1`."""
        await scene.start(["u1"])
        await scene.start(["u2"], id="bat_a1")
        await scene.store.cancel_batch("bat_a")
        assert await scene.states("bat_a1") == [("u2", "open")]

    async def test_cancel_batch_ends_thousands(self, scene: Scene) -> None:
        """Nothing of it is leased once it returns; the counts follow."""
        await scene.start([f"u{number:04d}" for number in range(4_500)])
        await scene.store.cancel_batch("bat_a")
        assert await scene.items() == []
        await scene.store.expire()
        batch = await scene.batch()
        assert (batch.state, batch.counts.cancelled) == ("cancelled", 4_500)

    async def test_pause_batch_leases_nothing_more_of_it(self, scene: Scene) -> None:
        """Items, layers, what is published while it is paused; other batches under its keys go on."""
        entry = await scene.enter()
        page = message(ids.page_id("bat_a", 0), batch="bat_a")
        await scene.done(entry, FinishEntry("bat_a"), RecordPage("bat_a", 2), StartItems("bat_a", 0, ("u1", "u2")))
        (one,) = await scene.items(1)
        assert await scene.store.pause_batch("bat_a")
        assert (await scene.batch()).paused
        assert await scene.store.publish([page]) == [True]
        await scene.start(["v1"], id="bat_b")
        assert [claim.item for claim in await scene.claim()] == ["v1"]
        assert await scene.next_due() is None
        await scene.store.settle(settlement.retry(one, scene.now, "Boom: no"))
        assert await scene.claim() == []
        assert await scene.store.resume_batch("bat_a")
        assert not (await scene.batch()).paused
        assert {claim.item or claim.id for claim in await scene.claim()} == {"u1", "u2", page.id}

    async def test_pause_batch_of_what_has_ended_or_is_not_known_does_nothing(self, scene: Scene) -> None:
        """Nor does resuming what is not paused."""
        assert not await scene.store.pause_batch("bat_x")
        await scene.start([])
        assert not await scene.store.pause_batch("bat_a")
        assert not await scene.store.resume_batch("bat_a")

    async def test_resume_batch_leaves_what_is_held_back_or_cancelled(self, scene: Scene) -> None:
        """It undoes the pause and nothing else."""
        entry = await scene.enter()
        chunk = message(ids.chunk_id("bat_a", 0, 0), batch="bat_a", held=True)
        await scene.done(entry, FinishEntry("bat_a"), RecordPage("bat_a", 1), Publish((chunk,)))
        assert await scene.store.pause_batch("bat_a")
        assert await scene.store.resume_batch("bat_a")
        assert await scene.next_due() is None

    async def test_resume_batch_changes_nothing_of_one_that_is_cancelled(self, scene: Scene) -> None:
        """It is too late while an item of it is still under way, and when it has ended."""
        await scene.start(["u1", "u2"])
        (claim,) = await scene.items(1)
        await scene.store.pause_batch("bat_a")
        await scene.store.cancel_batch("bat_a")
        before = await scene.batch()
        assert not await scene.store.resume_batch("bat_a")
        assert await scene.batch() == before
        await scene.store.settle(settlement.cancelled(claim))
        assert not await scene.store.resume_batch("bat_a")

    async def test_cancel_batch_ends_a_paused_one(self, scene: Scene) -> None:
        """Nobody has to resume it before."""
        await scene.start(["u1"])
        await scene.store.pause_batch("bat_a")
        assert await scene.store.cancel_batch("bat_a")
        assert (await scene.batch()).state == "cancelled"

    async def test_cancel_batch_says_when_there_may_be_more(self, scene: Scene) -> None:
        """What was cancelled is no reason to come again."""
        await scene.start(["u1", "u2"], complete=None)
        await scene.store.cancel_batch("bat_a")
        assert await scene.next_due() is None
