"""Dead letters that get another life."""

import asyncio

import pytest

from batchflow.core import ids
from batchflow.core.batch import RUN_AFTER_CANCEL
from batchflow.core.dead_letters import DeadLetterQuery, FailureCall
from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import StepKind
from batchflow.core.settlement import AcceptWebhook, FinishEntry, Publish, RecordPage, StartItems
from tests.conformance.scene import DESTINATIONS, Cases, Scene, message, names, new_batch, ran, sleeping, waiting


class RedriveCases(Cases):
    """`redrive`, `call_failure_again`, `delete_dead_letter`."""

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

    async def test_redrive_with_restart_drops_the_journal(self, scene: Scene) -> None:
        """All of it: what was done, what failed, what was pending."""
        claim = await scene.leased("a")
        await scene.record(claim, ran(1, "one"))
        await scene.listen(claim, number=2)
        await scene.dead(claim)
        assert await scene.store.redrive("a", restart=True)
        again = await scene.claim_one("a")
        assert again.journal == ()
        await scene.listen(again, number=1)
        await scene.suspend(again)
        assert await scene.store.notify("paid", "1") == ["a"]
        assert await scene.came("a") == [(1, "done", 1, "1")]

    async def test_redrive_with_restart_of_an_item_runs_it_from_the_beginning(self, scene: Scene) -> None:
        """Its batch counts it once more."""
        await scene.start(["u1", "u2"])
        one, other = await scene.items()
        await scene.record(one, ran(1, "get-item"))
        await scene.dead(one)
        await scene.done(other)
        await scene.completions()
        assert await scene.store.redrive(one.id, restart=True)
        (again,) = await scene.items()
        assert (again.item, again.journal) == ("u1", ())
        await scene.done(again)
        assert (await scene.counts()).succeeded == 2

    async def test_redrive_takes_new_retries_and_limits(self, scene: Scene) -> None:
        """They stay with the message; the places are those of the new key."""
        await scene.start(["u1"])
        (item,) = await scene.items()
        await scene.dead(item)
        slow = FlowControl(key="slow", parallelism=1)
        assert await scene.store.redrive(item.id, retry=RetryPolicy(retries=9), flow=slow)
        assert ((await scene.flow()).waiting, (await scene.flow("slow")).waiting) == (0, 1)
        (again,) = await scene.items()
        assert again.retry == RetryPolicy(retries=9)
        assert ((await scene.flow()).in_use, (await scene.flow("slow")).in_use) == (0, 1)
        assert (await scene.flow("slow")).limits.parallelism == 1
        await scene.done(again)
        assert ((await scene.flow()).in_use, (await scene.flow("slow")).in_use) == (0, 0)
        assert (await scene.counts()).succeeded == 1
        assert await scene.store.reconcile(DESTINATIONS) == 0

    async def test_redrive_of_a_run_of_a_paused_batch_waits(self, scene: Scene) -> None:
        """Under another key, too."""
        await scene.start(["u1", "u2"])
        one, _ = await scene.items()
        await scene.dead(one)
        await scene.store.pause_batch("bat_a")
        assert await scene.store.redrive(one.id, flow=FlowControl(key="slow"))
        assert await scene.items() == []
        await scene.store.resume_batch("bat_a")
        assert names(await scene.items()) == [one.id]

    # Children

    async def _parent_of_dead_child(self, scene: Scene, kind: StepKind = "invoke") -> None:
        """A dead run `p` whose step 1 was done and whose step 2 failed with its dead child `p.2`."""
        claim = await scene.leased("p", keep=True)
        await scene.record(claim, ran(1, "one"))
        await scene.record(claim, waiting(2, "two", kind), Publish((message("p.2", parent=("p", 2), keep=True),)))
        await scene.suspend(claim)
        child = await scene.claim_one("p.2")
        await scene.record(child, ran(1, "early"))
        await scene.dead(child, "Boom: child")
        again = await scene.claim_one("p")
        assert [step.state for step in again.journal] == ["done", "failed"]
        await scene.dead(again, "ChildFailed: no")

    async def _ask_again(self, scene: Scene, claim: Claim) -> None:
        """The redriven run `p` asks for its child again, and is suspended."""
        number = len(claim.journal) + 1
        child = message("p.2", parent=("p", number), keep=True)
        await scene.record(claim, waiting(number, "two", "invoke"), Publish((child,)))
        await scene.suspend(claim)

    @pytest.mark.parametrize("kind", ["invoke", "call"])
    async def test_redrive_of_a_run_resumes_the_child_that_it_has_failed_with(
        self, scene: Scene, kind: StepKind
    ) -> None:
        """With what the child has recorded; the step waits for it."""
        await self._parent_of_dead_child(scene, kind)
        assert await scene.store.redrive("p")
        claims = {claim.id: claim for claim in await scene.claim()}
        assert claims["p"].journal == (ran(1, "one"),)
        assert claims["p.2"].journal == (ran(1, "early"),)
        await self._ask_again(scene, claims["p"])
        assert await scene.claim() == []
        await scene.done(claims["p.2"], result="7")
        assert (await scene.came("p"))[-1] == (2, "done", 2, "7")

    async def test_publish_tells_a_run_the_outcome_of_a_child_that_ended_before_it_asked(self, scene: Scene) -> None:
        """The child was faster than its redriven parent."""
        await self._parent_of_dead_child(scene)
        assert await scene.store.redrive("p")
        claims = {claim.id: claim for claim in await scene.claim()}
        await scene.done(claims["p.2"], result="7")
        await self._ask_again(scene, claims["p"])
        assert (await scene.came("p"))[-1] == (2, "done", 2, "7")

    async def test_publish_tells_nothing_to_a_run_that_is_not_the_parent(self, scene: Scene) -> None:
        """An id that another run's child has."""
        await scene.done(await scene.leased("x", keep=True))
        claim = await scene.leased("p")
        await scene.record(claim, waiting(1, "one", "invoke"), Publish((message("x", parent=("p", 1)),)))
        await scene.suspend(claim)
        assert await scene.claim() == []

    async def test_redrive_with_restart_starts_ended_children_anew(self, scene: Scene) -> None:
        """Those that were done, too, with their own children."""
        await self._parent_of_dead_child(scene)
        assert await scene.store.redrive("p", restart=True)
        assert await scene.store.dead_letter("p.2") is None
        claim = await scene.claim_one("p")
        await scene.record(claim, ran(1, "one"))
        await self._ask_again(scene, await self._reread(scene, claim))
        child = await scene.claim_one("p.2")
        assert child.journal == ()
        await scene.invoke(child, "p.2.1", keep=True)
        await scene.suspend(child)
        await scene.done(await scene.claim_one("p.2.1"))
        await scene.done(await scene.claim_one("p.2"), result="7")
        await scene.dead(await scene.claim_one("p"))
        assert await scene.store.redrive("p", restart=True)
        assert [await scene.store.run(id) for id in ("p.2", "p.2.1")] == [None, None]

    async def _reread(self, scene: Scene, claim: Claim) -> Claim:
        return claim._replace(journal=(await scene.run(claim.id)).journal)

    async def test_redrive_with_restart_waits_for_children_under_way(self, scene: Scene) -> None:
        """They go on, and are not started twice."""
        claim = await scene.leased("p")
        await scene.record(claim, ran(1, "one"))
        await scene.record(claim, waiting(2, "two", "invoke"), Publish((message("p.2", parent=("p", 2)),)))
        child = await scene.claim_one("p.2")
        await scene.dead(claim)
        assert await scene.store.redrive("p", restart=True)
        again = await scene.claim_one("p")
        await scene.record(again, ran(1, "one"))
        await self._ask_again(scene, await self._reread(scene, again))
        assert await scene.claim() == []
        await scene.done(child, result="7")
        assert (await scene.came("p"))[-1] == (2, "done", 2, "7")

    async def test_open_batch_of_a_child_that_has_ended_completes_it_once_more(self, scene: Scene) -> None:
        """For the parent that was redriven; not while its completion is under way, and for no other run."""
        claim = await scene.leased("p")
        await scene.invoke_batch(claim)
        (entry,) = await scene.claim(destinations=("entry",))
        await scene.done(entry, FinishEntry("bat_a"))
        await scene.dead(claim)
        (completion,) = await scene.completions()
        assert await scene.store.redrive("p")
        again = await scene.claim_one("p")
        await scene.invoke_batch(again)
        assert await scene.completions() == []
        await scene.dead(again)
        await scene.done(completion)
        assert await scene.store.redrive("p")
        await scene.invoke_batch(await scene.claim_one("p"))
        (second,) = await scene.completions()
        assert second.id == "bat_a.z2"
        await scene.done(second, result="7")
        (step,) = (await scene.run("p")).journal
        assert step.state == "pending"
        other = new_batch("bat_a", parent=("q", 1))
        assert not await scene.store.open_batch(other, [])
        assert await scene.completions() == []

    async def test_redrive_lets_webhooks_be_accepted_again(self, scene: Scene) -> None:
        """Not while the run is dead, and not once it was restarted, deleted or removed."""

        async def dead_with_webhook(id: str) -> None:
            claim = await scene.leased(id)
            await scene.record(claim, ran(1, "one"), AcceptWebhook(f"{id}.whk_1"))
            await scene.dead(claim)

        for id in ("a", "b", "c", "d"):
            await dead_with_webhook(id)
            assert await scene.store.webhook(f"{id}.whk_1") is None
        assert await scene.store.redrive("a")
        assert await scene.store.webhook("a.whk_1") == "a"
        await scene.done(await scene.claim_one("a"))
        assert await scene.store.redrive("b", restart=True)
        assert await scene.store.delete_dead_letter("c")
        scene.clock.advance("1s")
        while await scene.store.prune(0):
            pass
        for id in ("a", "b", "c", "d"):
            assert await scene.store.webhook(f"{id}.whk_1") is None

    # Other commands

    async def test_call_failure_again_publishes_another_failure_message(self, scene: Scene) -> None:
        """Once the latest has ended; its outcome is the one that counts."""
        await scene.start(["u1"], on_failure="other")
        (item,) = await scene.items()
        await scene.dead(item)
        assert not await scene.store.call_failure_again(item.id)
        (first,) = await scene.claim(destinations=("other",))
        await scene.dead(first, "Boom: told")
        assert await scene.store.call_failure_again(item.id)
        assert not await scene.store.call_failure_again(item.id)
        assert (await scene.letter(item.id)).failure == FailureCall("in_progress", scene.now)
        (second,) = await scene.claim(destinations=("other",))
        assert (second.id, second.body) == (f"{first.id}.2", f'"{item.id}"')
        await scene.done(second, result="7")
        assert (await scene.letter(item.id)).failure == FailureCall("succeeded", scene.now, "7")
        assert await scene.store.call_failure_again(item.id)

    async def test_call_failure_again_needs_a_dead_letter_with_a_failure_function(self, scene: Scene) -> None:
        """Unknown, without a destination, redriven."""
        await scene.dead(await scene.leased("a"))
        await scene.dead(await scene.leased("b", on_failure="other"))
        (call,) = await scene.claim(destinations=("other",))
        await scene.done(call)
        await scene.store.redrive("b")
        for id in ("unknown", "a", "b"):
            assert not await scene.store.call_failure_again(id)

    async def test_delete_dead_letter_removes_it_once(self, scene: Scene) -> None:
        """With its journal; its item stays failed, and its id is free again."""
        await scene.start(["u1"])
        (item,) = await scene.items()
        await scene.record(item, ran(1, "one"))
        await scene.dead(item)
        assert await scene.store.delete_dead_letter(item.id)
        assert not await scene.store.delete_dead_letter(item.id)
        assert await scene.store.dead_letters() == await scene.store.dead_letters(DeadLetterQuery(batch="bat_a")) == []
        assert not await scene.store.redrive(item.id)
        assert await scene.states() == [("u1", "failed")]
        assert (await scene.counts()).failed == 1
        await scene.completions()
        await scene.dead(await scene.leased("a", keep=True))
        assert await scene.store.delete_dead_letter("a")
        assert await scene.store.run("a") is None
        assert (await scene.leased("a")).journal == ()

    async def test_delete_dead_letter_of_what_is_not_dead_does_nothing(self, scene: Scene) -> None:
        """Unknown, waiting, leased, ended."""
        await scene.publish("waiting", not_before=scene.now + 5)
        claim = await scene.leased("leased", keep=True)
        for id in ("unknown", "waiting", "leased"):
            assert not await scene.store.delete_dead_letter(id)
        await scene.done(claim)
        assert not await scene.store.delete_dead_letter("leased")
        assert (await scene.run("leased")).state == "completed"

    async def test_redrive_and_its_opposites_exclude_each_other(self, scene: Scene) -> None:
        """Of two operators at the same moment one is right: nothing is both deleted and waiting."""
        await scene.start([f"u{number}" for number in range(6)])
        claims = await scene.items()
        for claim in claims:
            await scene.dead(claim)
        verbs = [
            verb(claim.id)
            for claim in claims
            for verb in (scene.store.redrive, scene.store.delete_dead_letter, scene.store.redrive)
        ]
        answers = await asyncio.gather(*verbs)
        assert answers.count(True) == len(claims)
        left = {letter.id for letter in await scene.store.dead_letters()}
        assert left == set()
        counts = await scene.counts()
        assert counts.open + counts.failed == len(claims)
        await scene.store.cancel_batch("bat_a")
        assert (await scene.batch()).state in ("cancelled", "completed")

    async def test_redrive_of_an_item_of_a_batch_that_is_being_cancelled_does_nothing(self, scene: Scene) -> None:
        """Once it has ended, a redrive opens it again."""
        await scene.start(["u1", "u2"])
        one, other = await scene.items()
        await scene.dead(one)
        assert await scene.store.cancel_batch("bat_a")
        assert not await scene.store.redrive(one.id)
        await scene.done(other)
        assert (await scene.batch()).state == "cancelled"
        assert await scene.store.redrive(one.id)
        (again,) = await scene.items()
        await scene.done(again)
        assert (await scene.counts()).succeeded == 2

    async def test_redrive_of_an_item_of_a_cancelled_batch_does_not_undo_the_cancellation(self, scene: Scene) -> None:
        """It ends as failed, however often it is redriven: nobody takes what was never walked for done."""
        entry = await scene.enter()
        page = message(ids.page_id("bat_a", 0), batch="bat_a")
        await scene.done(entry, FinishEntry("bat_a"), Publish((page,)), StartItems("bat_a", 0, ("u1",)))
        (item,) = await scene.items()
        await scene.dead(item)
        await scene.store.cancel_batch("bat_a")
        for end in (scene.dead, scene.done):
            assert await scene.store.redrive(item.id)
            await end((await scene.items())[0])
            batch = await scene.batch()
            assert (batch.state, batch.error) == ("failed", RUN_AFTER_CANCEL)

    async def test_redrive_of_a_page_of_a_cancelled_batch_does_not_undo_the_cancellation(self, scene: Scene) -> None:
        """Its walk goes on, and it ends as failed."""
        entry = await scene.enter()
        page = message(ids.page_id("bat_a", 0), batch="bat_a")
        await scene.done(entry, FinishEntry("bat_a"), Publish((page,)), StartItems("bat_a", 0, ("u1",)))
        (item,) = await scene.items()
        await scene.dead(await scene.claim_one(page.id), "Boom: page")
        await scene.store.cancel_batch("bat_a")
        await scene.done(item)
        assert await scene.store.redrive(page.id)
        await scene.done(await scene.claim_one(page.id), RecordPage("bat_a", 1))
        batch = await scene.batch()
        assert (batch.state, batch.error) == ("failed", RUN_AFTER_CANCEL)
