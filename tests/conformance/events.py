"""Events, those who wait for them, and webhooks."""

import asyncio
import json

import pytest

from batchflow.core import ids, settlement
from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim
from batchflow.core.run import NEVER
from batchflow.core.secrets import SECRET_OUTCOME
from batchflow.core.settlement import AcceptWebhook, Ending, FinishEntry, Listen, Settlement, StartItems
from batchflow.core.store import KEPT_EVENTS
from tests.conformance.scene import Cases, Scene, names, ran, sleeping, waiting

ODD = (
    "a", "a\x00", "a\x00b", "\x00", "a\x01", "a\x01b", "a\x01b\x01", "\x01a", "\x01", "a\nb", "a\tb", "a\x1fb", "a\x7f",
    "a b", 'a"b', "a\\b", "a/b", "a|b", "a:1", "1:a", "{a}", "[]", "null", "%s", "*", "ä", "a\u0308", "€", "😀",
    "\u2028", "\ufeffa",
)  # fmt: skip
"""Ids of events that are one another's beginning, or look like something else."""


class EventCases(Cases):
    """`notify`, `waiters`, `webhook`, and what goes with them: Listen, Unlisten, Accept, Notify."""

    async def test_notify_wakes_who_waits_for_the_event(self, scene: Scene) -> None:
        """It is due at once, and its claim has the data as the outcome of the step that waited."""
        await scene.waits("a")
        assert await scene.next_due() is None
        scene.clock.advance("5s")
        assert list(await scene.store.notify("paid", '{"n":1}')) == ["a"]
        (step,) = (await scene.claim_one("a")).journal
        assert step == waiting(1)._replace(state="done", position=1, value='{"n":1}', at=scene.now)

    async def test_notify_of_a_secret_wait_is_stored_as_a_secret(self, scene: Scene) -> None:
        """A step that waits with `SECRET_OUTCOME` gets the data beside a mark; a time limit gets none."""
        for run, until in (("a", 0), ("b", scene.now + 1_000)):
            claim = await scene.leased(run)
            step = waiting(due=until)._replace(value=SECRET_OUTCOME)
            await scene.record(claim, step, Listen(1, f"paid:{run}", until))
            await scene.suspend(claim, until=until or NEVER)
        await scene.store.notify("paid:a", '{"n":[1,null],"s":"%1"}')
        assert await scene.came("a") == [(1, "done", 1, '{"batchflow:secret":{"n":[1,null],"s":"%1"}}')]
        scene.clock.advance("1s")
        assert await scene.came("b") == [(1, "timeout", 1, "null")]

    async def test_notify_reaches_all_who_wait(self, scene: Scene) -> None:
        """Every branch of every run, those that have waited longest first; each run is named once."""
        claim = await scene.leased("b")
        await scene.listen(claim)
        await scene.listen(claim, number=2)
        await scene.suspend(claim)
        scene.clock.advance("1s")
        await scene.waits("a")
        assert list(await scene.store.notify("paid", "7")) == ["b", "a"]
        claims = {
            claim.id: [(step.state, step.position, step.value) for step in claim.journal]
            for claim in await scene.claim()
        }
        assert claims == {"a": [("done", 1, "7")], "b": [("done", 1, "7"), ("done", 2, "7")]}

    async def test_notify_reaches_nobody_else(self, scene: Scene) -> None:
        """Who waits for another event goes on waiting, and who waits later waits for the next one."""
        await scene.waits("a", "sent")
        assert list(await scene.store.notify("paid", "1")) == []
        await scene.waits("b")
        assert await scene.next_due() is None

    async def test_notify_reaches_many(self, scene: Scene) -> None:
        """However many wait."""
        many = [f"m{number:04d}" for number in range(1_100)]
        await scene.publish(*many)
        claims = await scene.claim(2_000)
        await asyncio.gather(*(scene.listen(claim) for claim in claims))
        await asyncio.gather(*(scene.suspend(claim) for claim in claims))
        assert sorted(await scene.store.notify("paid", "1")) == many
        assert sorted(names(await scene.claim(2_000))) == many

    async def test_notify_with_a_run_reaches_that_run_only(self, scene: Scene) -> None:
        """Others that wait for the same event go on waiting."""
        await scene.waits("a")
        await scene.waits("b")
        assert list(await scene.store.notify("paid", "1", "b")) == ["b"]
        assert await scene.came("b") == [(1, "done", 1, "1")]

    async def test_notify_with_a_run_is_one_event_for_one_wait(self, scene: Scene) -> None:
        """The branch that has waited longest gets the first one, the next one gets the second."""
        claim = await scene.leased("a")
        await scene.listen(claim, number=2)
        scene.clock.advance("1s")
        await scene.listen(claim, number=1)
        await scene.suspend(claim)
        await scene.store.notify("paid", "1", "a")
        assert await scene.came("a") == [(1, "pending", 0, None), (2, "done", 1, "1")]
        await scene.store.notify("paid", "2", "a")
        assert [step.value for step in (await scene.run("a")).journal] == [None, "1"]
        await scene.lose()
        assert await scene.came("a") == [(1, "done", 2, "2"), (2, "done", 1, "1")]

    async def test_notify_with_a_run_is_kept_until_it_waits(self, scene: Scene) -> None:
        """In the order they came, one for each wait, and each event by itself."""
        claim = await scene.leased("a")
        for event, data in (("paid", "1"), ("sent", "2"), ("paid", "3")):
            assert list(await scene.store.notify(event, data, "a")) == ["a"]
        for number, event in enumerate(("paid", "paid", "sent", "sent", "paid"), 1):
            await scene.listen(claim, event, number=number)
        await scene.suspend(claim)
        assert [step.value for step in (await scene.claim_one("a")).journal] == ["1", "3", "2", None, None]
        assert [waiter.step for waiter in await scene.store.waiters("paid")] == ["wait"]

    async def test_notify_with_a_run_is_kept_for_one_that_has_not_begun(self, scene: Scene) -> None:
        """Waiting to be claimed for the first time; that is not hastened."""
        due = scene.now + 5_000
        await scene.publish("a", not_before=due)
        assert list(await scene.store.notify("paid", "1", "a")) == ["a"]
        assert await scene.next_due() == due
        scene.clock.move_to(due)
        claim = await scene.claim_one("a")
        await scene.suspend(claim, waiting(1), effects=(Listen(1, "paid"),))
        assert await scene.came("a") == [(1, "done", 1, "1")]

    async def test_notify_with_a_run_is_kept_for_an_item_that_has_not_begun(self, scene: Scene) -> None:
        """It keeps its place among the others of its page, which begin as if nothing had been."""
        entry = await scene.enter(complete=None)
        own = FlowControl(key="own", parallelism=1)
        page = StartItems("bat_a", 0, ("u1", "u2", "u3", "u4"), flows=(None, None, own, None))
        await scene.done(entry, FinishEntry("bat_a"), page)
        runs = [ids.item_run_id("bat_a", number) for number in range(4)]
        for run in (runs[1], runs[2], runs[1]):
            assert list(await scene.store.notify("paid", "1", run)) == [run]
        claims = await scene.claim()
        assert sorted(claim.item for claim in claims) == ["u1", "u2", "u3", "u4"]
        for claim in claims:
            await scene.suspend(claim, waiting(1), effects=(Listen(1, "paid"),))
        assert sorted(names(await scene.claim())) == [runs[1], runs[2]]
        await scene.lose()
        for claim in await scene.claim():
            await scene.done(claim)
        assert (await scene.batch()).counts.succeeded == 2

    async def test_notify_with_a_run_is_lost_with_an_item_that_is_cancelled(self, scene: Scene) -> None:
        """One that has not begun, by itself and with its batch."""
        await scene.start(("u1", "u2", "u3"), complete=None)
        runs = [ids.item_run_id("bat_a", number) for number in range(3)]
        for run in runs[:2]:
            assert list(await scene.store.notify("paid", "1", run)) == [run]
        assert await scene.store.cancel_run(runs[0])
        assert list(await scene.store.notify("paid", "1", runs[0])) == []
        await scene.store.cancel_batch("bat_a")
        assert not await scene.claim()
        batch = await scene.batch()
        assert (batch.counts.cancelled, batch.counts.open) == (3, 0)
        assert [list(await scene.store.notify("paid", "1", run)) for run in runs] == [[], [], []]

    async def test_notify_with_a_run_keeps_so_many_and_no_more(self, scene: Scene) -> None:
        """One that is too many is refused; there is room again once one was taken."""
        claim = await scene.leased("a")
        answers = await asyncio.gather(*(scene.store.notify("paid", f"{n}", "a") for n in range(KEPT_EVENTS)))
        assert {tuple(answer) for answer in answers} == {("a",)}
        assert list(await scene.store.notify("paid", "x", "a")) == []
        assert list(await scene.store.notify("sent", "x", "a")) == []
        await scene.listen(claim)
        assert list(await scene.store.notify("sent", "y", "a")) == ["a"]
        await scene.suspend(claim)
        assert await scene.came("a") == [(1, "done", 1, "0")]

    async def test_notify_with_a_run_keeps_events_of_any_id_apart(self, scene: Scene) -> None:
        """Whatever characters it has, and whatever another one begins with."""
        claim = await scene.leased("a")
        for event in (*reversed(ODD), *ODD):
            assert list(await scene.store.notify(event, json.dumps([event, {"ü": "\x01"}]), "a")) == ["a"]
        await asyncio.gather(*(scene.listen(claim, event, number=number) for number, event in enumerate(ODD, 1)))
        await scene.suspend(claim)
        values = [json.loads(step.value or "") for step in (await scene.claim_one("a")).journal]
        assert values == [[event, {"ü": "\x01"}] for event in ODD]

    async def test_notify_reaches_who_waits_for_an_event_of_any_id(self, scene: Scene) -> None:
        """And nobody else."""
        runs = {f"r{number:02d}": event for number, event in enumerate(ODD)}
        for run, event in runs.items():
            await scene.waits(run, event)
        for run, event in runs.items():
            assert [waiter.run for waiter in await scene.store.waiters(event)] == [run]
            assert list(await scene.store.notify(event, json.dumps(event))) == [run]
        values = {claim.id: json.loads(claim.journal[0].value or "") for claim in await scene.claim()}
        assert values == runs

    async def test_notify_with_a_run_that_has_ended_answers_nothing(self, scene: Scene) -> None:
        """Or that is not known; nothing is kept for it."""
        await scene.done(await scene.leased("done", keep=True))
        await scene.dead(await scene.leased("dead"))
        await scene.done(await scene.leased("a"))
        for id in ("done", "dead", "a"):
            assert list(await scene.store.notify("paid", "1", id)) == []
        await scene.waits("a")
        assert await scene.next_due() is None

    async def test_notify_tells_again_who_waits_again(self, scene: Scene) -> None:
        """An event ends one wait, not those to come."""
        await scene.waits("a")
        await scene.store.notify("paid", "1")
        assert list(await scene.store.notify("paid", "2")) == []
        claim = await scene.claim_one("a")
        await scene.listen(claim, number=2)
        await scene.suspend(claim)
        await scene.store.notify("paid", "3")
        assert [step.value for step in (await scene.claim_one("a")).journal] == ["1", "3"]

    async def test_notify_of_a_leased_run_waits_for_its_suspension(self, scene: Scene) -> None:
        """Which makes it due at once; its journal is not changed meanwhile."""
        claim = await scene.leased("a")
        await scene.listen(claim)
        assert list(await scene.store.notify("paid", "1")) == ["a"]
        assert (await scene.run("a")).journal == (waiting(1),)
        assert await scene.next_due() is None
        await scene.suspend(claim, ran(2, "two", position=1))
        assert await scene.came("a") == [(1, "done", 2, "1"), (2, "done", 1, '"two"')]

    @pytest.mark.parametrize("ending", ["retry", "parked"])
    async def test_notify_does_not_hasten_the_next_attempt(self, scene: Scene, ending: str) -> None:
        """Who failed waits as long as it was told to, and finds the data then."""
        end = settlement.retry if ending == "retry" else settlement.parked
        claim = await scene.leased("a")
        await scene.listen(claim)
        await scene.store.settle(end(claim, scene.now + 500, "Boom: no"))
        assert list(await scene.store.notify("paid", "1")) == ["a"]
        assert await scene.next_due() == scene.now + 500
        scene.clock.advance("500ms")
        assert await scene.came("a") == [(1, "done", 1, "1")]

    async def test_notify_leaves_other_waits_of_the_run(self, scene: Scene) -> None:
        """A timer that is not due stays pending; one that was due before comes before."""
        claim = await scene.leased("a")
        now = scene.now
        await scene.listen(claim)
        await scene.suspend(claim, sleeping(2, "soon", now + 5), sleeping(3, "late", now + 99), until=now + 50)
        scene.clock.advance("7ms")
        await scene.store.notify("paid", "1")
        assert await scene.came("a") == [(1, "done", 2, "1"), (2, "done", 1, "null"), (3, "pending", 0, None)]

    async def test_notify_that_comes_after_the_timeout_is_too_late(self, scene: Scene) -> None:
        """Also where the run was not claimed since; with a run it is kept for its next wait."""
        until = scene.now + 10
        await scene.waits("a", until=until)
        assert await scene.next_due() == until
        scene.clock.move_to(until)
        assert list(await scene.store.notify("paid", "1")) == []
        assert list(await scene.store.notify("paid", "2", "a")) == ["a"]
        claim = await scene.claim_one("a")
        assert claim.journal == (waiting(1, due=until)._replace(state="timeout", position=1, value="null", at=until),)
        assert list(await scene.store.notify("paid", "3")) == []
        await scene.listen(claim, number=2)
        await scene.suspend(claim)
        assert [step.value for step in (await scene.claim_one("a")).journal] == ["null", "2"]

    async def test_notify_that_comes_before_the_timeout_counts(self, scene: Scene) -> None:
        """Also where the run is claimed only after it."""
        now = scene.now
        claim = await scene.leased("a")
        await scene.listen(claim, until=now + 10)
        scene.clock.advance("5ms")
        await scene.store.notify("paid", "1")
        scene.clock.advance("15ms")
        await scene.suspend(claim, sleeping(2, "nap", now + 4), until=now + 10)
        assert await scene.came("a") == [(1, "done", 2, "1"), (2, "done", 1, "null")]

    async def test_notify_reaches_a_run_that_was_taken_back(self, scene: Scene) -> None:
        """Waits outlive the worker that began them."""
        claim = await scene.leased("a")
        await scene.listen(claim)
        assert await scene.lose() == 1
        assert list(await scene.store.notify("paid", "1")) == ["a"]
        assert await scene.came("a") == [(1, "done", 1, "1")]

    async def test_notify_of_a_run_that_is_being_cancelled_changes_nothing(self, scene: Scene) -> None:
        """It ends at its next step, and what came for it is gone with it."""
        claim = await scene.leased("a")
        await scene.listen(claim)
        assert await scene.store.cancel_run("a")
        await scene.store.notify("paid", "1")
        await scene.store.notify("sent", "1", "a")
        assert await scene.store.record("a", claim.fence, ran(2, "two")) == "cancelled"
        await scene.suspend(claim)
        assert await scene.store.run("a") is None
        await self._nothing_is_left(scene)

    @pytest.mark.parametrize("ending", ["done", "failed", "cancelled"])
    async def test_notify_finds_nothing_of_a_run_that_has_ended(self, scene: Scene, ending: Ending) -> None:
        """Neither its waits nor what was kept or had come for it is left to a later run of its id."""
        claim = await scene.leased("a")
        await self._busy(scene, claim)
        assert not (await scene.store.settle(Settlement(claim.id, claim.fence, ending, "1"))).stale
        await self._nothing_is_left(scene)

    async def test_notify_finds_nothing_of_a_dead_run(self, scene: Scene) -> None:
        """Once its dead letter was removed its id is free again."""
        claim = await scene.leased("a")
        await self._busy(scene, claim)
        await scene.dead(claim)
        assert list(await scene.store.waiters("sent")) == []
        scene.clock.advance("1d")
        await scene.store.register(scene.worker, 30_000)
        assert await scene.store.prune(1_000) == 1
        await self._nothing_is_left(scene)

    async def _busy(self, scene: Scene, claim: Claim) -> None:
        await scene.listen(claim)
        await scene.store.notify("paid", "1")
        await scene.listen(claim, "sent", number=2)
        await scene.store.notify("paid", "2", claim.id)
        await scene.record(claim, ran(3, "hook", position=1), AcceptWebhook("secret"))

    async def _nothing_is_left(self, scene: Scene) -> None:
        assert list(await scene.store.notify("sent", "9")) == []
        assert await scene.store.webhook("secret") is None
        again = await scene.leased("a")
        await scene.listen(again)
        await scene.suspend(again)
        assert await scene.next_due() is None
