"""Asking for runs and dead letters, cancelling a run."""

from batchflow.core import ids, settlement
from batchflow.testing.conformance.scene import Cases, Scene, names, ran


class RunCases(Cases):
    """`run`, `cancel_run`, `dead_letters`."""

    async def test_run_tells_how_it_stands(self, scene: Scene) -> None:
        """Waiting, then running, then gone."""
        assert await scene.store.run("a") is None
        await scene.publish("a", body='{"n":1}')
        run = await scene.store.run("a")
        assert run is not None
        assert (run.state, run.destination, run.payload, run.created_at) == ("waiting", "work", '{"n":1}', scene.now)
        assert (run.ended_at, run.result, run.error, run.batch, run.journal) == (None, None, None, None, ())
        claim = await scene.claim_one("a")
        run = await scene.store.run("a")
        assert run is not None
        assert run.state == "running"
        await scene.done(claim)
        assert await scene.store.run("a") is None

    async def test_run_of_an_item_names_its_batch(self, scene: Scene) -> None:
        """By the id that is derived from batch and number."""
        await scene.start(["u1"])
        run = await scene.store.run(ids.item_run_id("bat_a", 0))
        assert run is not None
        assert (run.batch, run.destination) == ("bat_a", "execute")

    async def test_cancel_run_ends_a_waiting_run_at_once(self, scene: Scene) -> None:
        """It is never claimed; a kept one says that it was cancelled."""
        await scene.publish("a", keep=True)
        assert await scene.store.cancel_run("a")
        assert await scene.next_due() is None
        run = await scene.store.run("a")
        assert run is not None
        assert (run.state, run.ended_at) == ("cancelled", scene.now)

    async def test_cancel_run_ends_a_sleeping_run_at_once(self, scene: Scene) -> None:
        """However long it would have slept."""
        claim = await scene.leased("a")
        await scene.store.settle(settlement.suspended(claim, scene.now + 99_999, (ran(1, "one"),)))
        assert await scene.store.cancel_run("a")
        assert await scene.store.run("a") is None
        assert await scene.next_due() is None

    async def test_cancel_run_ends_a_leased_run_at_its_next_step(self, scene: Scene) -> None:
        """The claim is held until then."""
        claim = await scene.leased("a")
        assert await scene.store.cancel_run("a")
        assert await scene.store.record("a", claim.fence, ran(1, "one")) == "cancelled"
        assert not (await scene.store.settle(settlement.cancelled(claim))).stale
        assert await scene.store.run("a") is None

    async def test_cancel_run_may_be_repeated_while_it_runs(self, scene: Scene) -> None:
        """It has not ended yet."""
        await scene.leased("a")
        assert await scene.store.cancel_run("a")
        assert await scene.store.cancel_run("a")

    async def test_cancel_run_answers_false_when_it_has_ended(self, scene: Scene) -> None:
        """Done, dead, cancelled, or never known."""
        await scene.done(await scene.leased("done", keep=True))
        await scene.dead(await scene.leased("dead"))
        await scene.publish("cancelled", keep=True)
        assert await scene.store.cancel_run("cancelled")
        for id in ("done", "dead", "cancelled", "unknown"):
            assert not await scene.store.cancel_run(id)

    async def test_cancel_run_of_an_item_cancels_the_item(self, scene: Scene) -> None:
        """The last one completes its batch."""
        await scene.start(["u1", "u2"])
        assert await scene.store.cancel_run(ids.item_run_id("bat_a", 0))
        (claim,) = await scene.items()
        assert (await scene.done(claim)).ended_batch == "bat_a"
        assert await scene.states() == [("u1", "cancelled"), ("u2", "succeeded")]

    async def test_cancel_run_of_a_layer_breaks_the_walk(self, scene: Scene) -> None:
        """A batch whose walk was ended early fails; it is neither left open nor called complete."""
        await scene.enter()
        await scene.store.dismiss("w1")
        assert await scene.store.cancel_run(ids.entry_id("bat_a"))
        batch = await scene.batch()
        assert batch.state == "failed"
        assert batch.error

    async def test_dead_letters_are_the_latest_newest_first(self, scene: Scene) -> None:
        """At most as many as asked for."""
        for id in ("a", "b", "c"):
            await scene.dead(await scene.leased(id), f"Boom: {id}")
            scene.clock.advance("1s")
        assert [letter.id for letter in await scene.store.dead_letters(limit=2)] == ["c", "b"]
        assert [letter.error for letter in await scene.store.dead_letters()] == ["Boom: c", "Boom: b", "Boom: a"]

    async def test_dead_letters_of_a_batch_name_their_item(self, scene: Scene) -> None:
        """And leave those of others out."""
        await scene.dead(await scene.leased("other"))
        await scene.start(["u1", "u2"])
        for claim in await scene.items():
            await scene.dead(claim)
        letters = await scene.store.dead_letters(batch="bat_a")
        assert sorted(letter.item or "" for letter in letters) == ["u1", "u2"]
        assert {letter.batch for letter in letters} == {"bat_a"}
        assert await scene.store.dead_letters(batch="bat_x") == []

    async def test_dead_letters_count_the_failed_attempts(self, scene: Scene) -> None:
        """The last one included."""
        claim = await scene.leased("a")
        await scene.store.settle(settlement.retry(claim, scene.now, "Boom: 1"))
        await scene.dead(await scene.claim_one("a"))
        assert [letter.failures for letter in await scene.store.dead_letters()] == [2]
        assert names(await scene.claim()) == []
