"""Asking for runs and dead letters, cancelling a run."""

from dataclasses import replace

from batchflow.core import ids, settlement
from batchflow.core.dead_letters import DeadLetterQuery
from batchflow.core.flow import FlowControl
from batchflow.core.run import NEVER, RunQuery
from tests.conformance.scene import Cases, Scene, names, ran


class RunCases(Cases):
    """`run`, `runs`, `cancel_run`, `cancel_runs`, `dead_letters`."""

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

    async def test_run_that_waits_tells_its_flow_key_and_when_it_is_due(self, scene: Scene) -> None:
        """No time once it has come, nor for what waits for an event; and neither of what is running or has ended."""
        await scene.publish("a", flow=FlowControl(key="k"), not_before=scene.now + 1_000, keep=True)
        run, (listed,) = await scene.run("a"), await scene.store.runs(RunQuery(), 10)
        assert [(it.flow_key, it.due_at) for it in (run, listed)] == [("k", scene.now + 1_000)] * 2
        scene.clock.advance("1s")
        run = await scene.run("a")
        assert (run.flow_key, run.due_at) == ("k", None)
        claim = await scene.claim_one("a")
        run = await scene.run("a")
        assert (run.flow_key, run.due_at) == (None, None)
        await scene.store.settle(settlement.suspended(claim, NEVER, (ran(1, "one"),)))
        run = await scene.run("a")
        assert (run.flow_key, run.due_at) == ("k", None)
        assert await scene.store.cancel_run("a")
        run, (listed,) = await scene.run("a"), await scene.store.runs(RunQuery(), 10)
        assert [(it.flow_key, it.due_at) for it in (run, listed)] == [(None, None)] * 2

    async def test_run_of_an_item_that_waits_tells_its_flow_key(self, scene: Scene) -> None:
        """That of its batch, before its first attempt and after it."""
        await scene.start(["u1"])
        batch = await scene.store.batch("bat_a")
        assert batch is not None
        (claim,) = await scene.items(1)
        await scene.store.settle(settlement.retry(claim, scene.now + 1_000, "Boom: no"))
        run = await scene.run(claim.id)
        assert batch.flow_key is not None
        assert (run.flow_key, run.due_at) == (batch.flow_key, scene.now + 1_000)

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
        await scene.store.deregister("w1")
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
        letters = await scene.store.dead_letters(DeadLetterQuery(batch="bat_a"))
        assert sorted(letter.item or "" for letter in letters) == ["u1", "u2"]
        assert {letter.message.batch for letter in letters} == {"bat_a"}
        assert await scene.store.dead_letters(DeadLetterQuery(batch="bat_x")) == []

    async def test_dead_letters_count_the_failed_attempts(self, scene: Scene) -> None:
        """The last one included."""
        claim = await scene.leased("a")
        await scene.store.settle(settlement.retry(claim, scene.now, "Boom: 1"))
        await scene.dead(await scene.claim_one("a"))
        assert [letter.failures for letter in await scene.store.dead_letters()] == [2]
        assert names(await scene.claim()) == []

    async def test_run_keeps_what_it_was_published_with(self, scene: Scene) -> None:
        """Label and parent, and when it began, also when it has ended, one way or the other."""
        begun = scene.now + 1_000
        await scene.publish("done", "dead", "waits", keep=True, label="x", parent=("p", 1))
        scene.clock.advance("1s")
        dead, done = await scene.claim(2)
        scene.clock.advance("1s")
        await scene.done(done)
        await scene.dead(dead)
        seen = {id: await scene.run(id) for id in ("done", "dead", "waits")}
        assert {(run.label, run.parent) for run in seen.values()} == {("x", "p")}
        assert [run.started_at for run in seen.values()] == [begun, begun, None]
        assert [run.created_at for run in seen.values()] == [begun - 1_000] * 3

    async def _some(self, scene: Scene) -> None:
        await scene.publish("done", "dead", "gone", "running", keep=True, label="x")
        for claim in await scene.claim():
            match claim.id:
                case "done":
                    await scene.done(claim, result="1")
                case "dead":
                    await scene.dead(claim)
                case "gone":
                    await scene.store.settle(settlement.failed(claim, "Gone: no", "null"))
                case _:
                    await scene.record(claim, ran(1, "one"))
        scene.clock.advance("1s")
        await scene.publish("waits", "ended", keep=True, destination="other")
        await scene.store.cancel_run("ended")
        await scene.publish("unkept")

    async def _ids(self, scene: Scene, limit: int = 50, **query: object) -> list[str]:
        return [run.id for run in await scene.store.runs(RunQuery()._replace(**query), limit)]

    async def test_runs_are_those_that_are_kept_the_latest_first(self, scene: Scene) -> None:
        """Whatever became of them, as `run` tells of them but for what may be large; at most as many as asked for."""
        await self._some(scene)
        found = await scene.store.runs(RunQuery(), 50)
        assert [run.id for run in found] == ["waits", "ended", "running", "gone", "done", "dead"]
        for run in found:
            one = await scene.run(run.id)
            assert run == replace(one, journal=(), payload="null", result=None)
        assert await self._ids(scene, 2) == ["waits", "ended"]
        assert await self._ids(scene, 0) == []

    async def test_runs_fit_all_of_the_query(self, scene: Scene) -> None:
        """State, destination and label."""
        await self._some(scene)
        assert await self._ids(scene, state="waiting") == ["waits"]
        assert await self._ids(scene, state="running") == ["running"]
        assert await self._ids(scene, state="completed") == ["done"]
        assert await self._ids(scene, state="failed") == ["gone", "dead"]
        assert await self._ids(scene, state="cancelled") == ["ended"]
        assert await self._ids(scene, destination="other") == ["waits", "ended"]
        assert await self._ids(scene, label="x") == ["running", "gone", "done", "dead"]
        assert await self._ids(scene, label="x", state="failed", destination="work") == ["gone", "dead"]
        assert await self._ids(scene, label="x", destination="other") == []

    async def test_runs_come_in_pages(self, scene: Scene) -> None:
        """Page by page all of them and none twice, also where many were made at one time."""
        ids = [f"m{number:02d}" for number in range(30)]
        for start in (0, 10, 20):
            await scene.publish(*ids[start : start + 10], keep=True)
            scene.clock.advance("1ms")
        for number, claim in enumerate(await scene.claim()):
            if number % 3:
                await (scene.done(claim) if number % 2 else scene.dead(claim))
        found: list[str] = []
        before: tuple[int, str] | None = None
        while page := await scene.store.runs(RunQuery(before=before), 4):
            found += [run.id for run in page]
            before = (page[-1].created_at, page[-1].id)
        assert found == ids[::-1]

    async def test_cancel_runs_ends_all_that_fit(self, scene: Scene) -> None:
        """Waiting ones at once, leased ones at their next step; what does not fit goes on."""
        await scene.publish("leased", keep=True, label="x")
        claim = await scene.claim_one("leased")
        await scene.publish("a", keep=True, label="x")
        await scene.publish("b", keep=True, label="y")
        await scene.publish("c", keep=True, label="x", destination="other")
        assert await scene.store.cancel_runs(destination="work", label="x") == 2
        assert await self._ids(scene, state="cancelled") == ["a"]
        assert await scene.store.record("leased", claim.fence, ran(1, "one")) == "cancelled"
        assert await scene.store.cancel_runs(destination="work") == 1
        assert await scene.store.cancel_runs(label="x") == 1
        assert await self._ids(scene, state="cancelled") == ["c", "b", "a"]
        assert await scene.store.cancel_runs(label="x") == await scene.store.cancel_runs(destination="other") == 0

    async def test_cancel_runs_takes_along_what_they_wait_for(self, scene: Scene) -> None:
        """What fits as well is counted, and not ended twice."""
        await scene.publish("a", keep=True, label="x", destination="other")
        parent = await scene.claim_one("a")
        await scene.invoke(parent, "c1", keep=True, label="x")
        await scene.invoke(parent, "c2", number=2, keep=True)
        await scene.suspend(parent)
        assert await scene.store.cancel_runs(label="x") == 2
        assert await self._ids(scene, state="cancelled") == ["c2", "c1", "a"]
        assert await scene.next_due() is None

    async def test_cancel_runs_ends_those_with_these_ids(self, scene: Scene) -> None:
        """Waiting ones at once, leased ones at their next step; others, ended and unknown ones do not count."""
        await scene.publish("ended", keep=True)
        await scene.done(await scene.claim_one("ended"))
        claim = await scene.leased("leased")
        await scene.publish("a", "b", "b\0", keep=True)
        ids = ["a", "unknown", "leased", "ended", "b\0", "a"]
        assert await scene.store.cancel_runs(ids=ids) == 3
        assert sorted(await self._ids(scene, state="cancelled")) == ["a", "b\0"]
        assert await scene.store.record("leased", claim.fence, ran(1, "one")) == "cancelled"
        assert names(await scene.claim()) == ["b"]
        assert await scene.store.cancel_runs(ids=[]) == 0

    async def test_cancel_runs_ends_items_by_their_ids(self, scene: Scene) -> None:
        """With the batch, if nothing else of it is open."""
        await scene.start(["u1", "u2"])
        assert await scene.store.cancel_runs(ids=[ids.item_run_id("bat_a", number) for number in range(3)]) == 2
        batch = await scene.batch()
        assert (batch.counts.cancelled, batch.counts.open) == (2, 0)

    async def test_cancel_runs_ends_thousands_by_their_ids(self, scene: Scene) -> None:
        """However many there are."""
        ids = [f"m{number:04d}" for number in range(2_500)]
        await scene.publish(*ids, keep=True)
        assert await scene.store.cancel_runs(ids=[*ids, *(f"x{id}" for id in ids)]) == 2_500
        assert await scene.next_due() is None

    async def test_cancel_runs_ends_thousands(self, scene: Scene) -> None:
        """However many there are."""
        await scene.publish(*(f"m{number:04d}" for number in range(2_500)), keep=True, label="x")
        assert await scene.store.cancel_runs(label="x") == 2_500
        assert await scene.next_due() is None
