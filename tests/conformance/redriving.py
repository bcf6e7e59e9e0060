"""Dead letters that get another life."""

from batchflow.core import ids
from batchflow.core.settlement import FinishEntry, Publish, RecordPage, StartItems
from tests.conformance.scene import Cases, Scene, message, ran, sleeping


class RedriveCases(Cases):
    """`redrive`."""

    async def test_redrive_gives_a_dead_letter_another_life(self, scene: Scene) -> None:
        """With its journal, failures counted anew; once."""
        claim = await scene.leased("a", keep=True)
        await scene.record(claim, ran(1, "one"))
        await scene.dead(claim)
        assert await scene.store.redrive("a")
        assert not await scene.store.redrive("a")
        assert list(await scene.store.dead_letters()) == []
        assert (await scene.run("a")).state == "waiting"
        again = await scene.claim_one("a")
        assert (again.failures, again.losses, again.journal) == (0, 0, (ran(1, "one"),))
        await scene.done(again)
        assert (await scene.run("a")).state == "completed"

    async def test_redrive_lets_a_step_that_failed_be_tried_again(self, scene: Scene) -> None:
        """The latest failure, and what was pending; what was done stays done."""
        claim = await scene.leased("a")
        early = ran(1, "early", state="failed", value=None, error="Boom: no")
        await scene.record(claim, early)
        await scene.record(claim, ran(2, "two"))
        await scene.record(claim, ran(3, "three", state="failed", value=None, error="Boom: no"))
        await scene.record(claim, sleeping(4, "nap", scene.now + 5))
        await scene.dead(claim)
        assert await scene.store.redrive("a")
        assert (await scene.claim_one("a")).journal == (early, ran(2, "two"))

    async def test_redrive_of_what_is_not_a_dead_letter_does_nothing(self, scene: Scene) -> None:
        """Unknown, waiting, leased, ended."""
        await scene.publish("waiting", not_before=scene.now + 5)
        claim = await scene.leased("leased", keep=True)
        for id in ("unknown", "waiting", "leased"):
            assert not await scene.store.redrive(id)
        await scene.done(claim)
        assert not await scene.store.redrive("leased")

    async def test_redrive_of_an_item_opens_it_and_its_batch_again(self, scene: Scene) -> None:
        """A batch that had ended completes anew, with another completion."""
        await scene.start(["u1"])
        (item,) = await scene.items()
        await scene.dead(item)
        (first,) = await scene.completions()
        await scene.done(first)
        assert await scene.store.redrive(item.id)
        batch = await scene.batch()
        assert (batch.state, batch.ended_at, batch.counts.open, batch.counts.failed) == ("sealed", None, 1, 0)
        assert await scene.states() == [("u1", "open")]
        await scene.start(["u1"], id="bat_b")
        assert (await scene.counts("bat_b")).in_flight == 1
        (again,) = await scene.items()
        assert (await scene.done(again)).ended_batch == "bat_a"
        assert (await scene.batch()).state == "completed"
        (second,) = await scene.completions()
        assert second.id == "bat_a.z2"

    async def test_redrive_of_a_page_lets_its_batch_go_on(self, scene: Scene) -> None:
        """Its walk is not broken any more."""
        entry = await scene.enter()
        page = message(ids.page_id("bat_a", 0), batch="bat_a")
        await scene.done(entry, FinishEntry("bat_a"), Publish((page,)))
        await scene.dead(await scene.claim_one(page.id), "Boom: page")
        assert (await scene.batch()).state == "failed"
        assert await scene.store.redrive(page.id)
        again = await scene.claim_one(page.id)
        await scene.done(again, RecordPage("bat_a", 1), StartItems("bat_a", 0, ("u1",)))
        (item,) = await scene.items()
        await scene.done(item)
        batch = await scene.batch()
        assert (batch.state, batch.error, batch.counts.succeeded) == ("completed", None, 1)
