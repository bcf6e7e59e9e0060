"""Recording steps."""

import asyncio

import pytest

from batchflow.core import settlement
from batchflow.core.message import Claim
from batchflow.core.settlement import AcceptWebhook, Notify, Publish
from tests.conformance.scene import Cases, Scene, message, ran, sleeping, waiting


class RecordCases(Cases):
    """`record`."""

    async def test_record_is_durable_once_it_answers(self, scene: Scene) -> None:
        """The run shows the step, and a later claim replays it."""
        claim = await scene.leased("a")
        assert await scene.store.record("a", claim.fence, ran(1, "one")) == "recorded"
        run = await scene.store.run("a")
        assert run is not None
        assert run.journal == (ran(1, "one"),)

    async def test_record_takes_every_kind_of_step(self, scene: Scene) -> None:
        """Results, failures, and what is pending, which a later outcome replaces."""
        claim = await scene.leased("a")
        steps = [
            ran(1, "done", value='{"ü":[1.5,null]}'),
            ran(2, "failed", state="failed", value=None, error="Boom: no", failures=4),
            sleeping(3, "timer", scene.now + 10),
            ran(4, "again", state="pending", position=0, value=None, error="Boom: no", failures=1, due=scene.now + 5),
        ]
        for step in steps:
            assert await scene.store.record("a", claim.fence, step) == "recorded"
        again = ran(4, "again", position=3, failures=1)
        assert await scene.store.record("a", claim.fence, again) == "recorded"
        run = await scene.store.run("a")
        assert run is not None
        assert run.journal == (*steps[:3], again)

    async def test_record_may_be_repeated(self, scene: Scene) -> None:
        """The same step again is a no-op that answers `recorded`."""
        claim = await scene.leased("a")
        for _ in range(2):
            assert await scene.store.record("a", claim.fence, ran(1, "one")) == "recorded"
        twice = [scene.store.record("a", claim.fence, ran(2, "two")) for _ in range(2)]
        assert list(await asyncio.gather(*twice)) == ["recorded", "recorded"]
        await scene.store.settle(settlement.released(claim))
        assert (await scene.claim_one("a")).journal == (ran(1, "one"), ran(2, "two"))

    async def test_record_takes_many_at_once(self, scene: Scene) -> None:
        """Each with its own verdict, in whatever company."""
        await scene.publish("a", "b", "c")
        a, b, c = await scene.claim()
        await scene.done(b)
        await scene.store.cancel_run("c")
        verdicts = await asyncio.gather(
            *(scene.store.record(claim.id, claim.fence, ran(1, "one")) for claim in (a, b, c)),
            scene.store.record("stranger", 1, ran(1, "one")),
            scene.store.record("a", a.fence, ran(2, "two")),
        )
        assert list(verdicts) == ["recorded", "stale", "cancelled", "stale", "recorded"]

    async def test_record_starts_failures_and_losses_again(self, scene: Scene) -> None:
        """An outcome does, a pending step does not."""
        await scene.publish("a")
        await scene.store.settle(settlement.retry(await scene.claim_one("a"), scene.now, "Boom: no"))
        await scene.claim_one("a")
        await scene.lose()
        claim = await scene.claim_one("a")
        assert (claim.failures, claim.losses) == (1, 1)
        await scene.store.record("a", claim.fence, sleeping(1, "timer", scene.now + 99_999))
        await scene.store.settle(settlement.released(claim))
        claim = await scene.claim_one("a")
        assert (claim.failures, claim.losses) == (1, 1)
        await scene.store.record("a", claim.fence, ran(2, "two"))
        await scene.store.settle(settlement.released(claim))
        claim = await scene.claim_one("a")
        assert (claim.failures, claim.losses) == (0, 0)

    async def test_record_of_a_lost_claim_is_stale_and_changes_nothing(self, scene: Scene) -> None:
        """Neither the journal nor the counts of the claim that came after it."""
        await scene.leased("a")
        await scene.lose()
        lost = await scene.claim_one("a")
        await scene.lose()
        held = await scene.claim_one("a")
        assert await scene.store.record("a", lost.fence, ran(1, "old")) == "stale"
        await scene.store.settle(settlement.released(held))
        claim = await scene.claim_one("a")
        assert claim.journal == ()
        assert claim.losses == 2

    async def test_record_of_a_settled_claim_is_stale(self, scene: Scene) -> None:
        """While it waits again, and when it is gone."""
        claim = await scene.leased("a")
        await scene.store.settle(settlement.suspended(claim, scene.now + 5, ()))
        assert await scene.store.record("a", claim.fence, ran(1, "one")) == "stale"
        scene.clock.advance("5ms")
        claim = await scene.claim_one("a")
        assert claim.journal == ()
        await scene.done(claim)
        assert await scene.store.record("a", claim.fence, ran(1, "one")) == "stale"

    async def test_record_in_a_cancelled_run_is_refused_and_changes_nothing(self, scene: Scene) -> None:
        """The worker learns of the cancellation at its next step."""
        claim = await scene.leased("a")
        await scene.store.cancel_run("a")
        assert await scene.store.record("a", claim.fence, ran(1, "one")) == "cancelled"
        run = await scene.store.run("a")
        assert run is not None
        assert run.journal == ()

    async def test_record_in_a_cancelled_batch_is_refused(self, scene: Scene) -> None:
        """Of its items, and of its layers."""
        await scene.start(["u1"])
        (claim,) = await scene.items()
        await scene.store.cancel_batch("bat_a")
        assert await scene.store.record(claim.id, claim.fence, ran(1, "one")) == "cancelled"

    async def test_record_of_a_wait_is_durable_when_it_begins(self, scene: Scene) -> None:
        """With its kind, since when it waits and when it times out; an outcome has its time as well."""
        claim = await scene.leased("a")
        steps = (
            waiting(1, "event", due=scene.now + 5)._replace(at=scene.now),
            waiting(2, "child", "invoke")._replace(at=scene.now),
            waiting(3, "url", "call")._replace(at=scene.now),
            ran(4, "mine", position=1, at=scene.now),
            ran(5, "theirs", kind="invoke", state="cancelled", position=2, value=None),
            ran(6, "late", kind="wait", state="timeout", position=3, value="null"),
        )
        for step in steps:
            await scene.record(claim, step)
        assert (await scene.run("a")).journal == steps

    @pytest.mark.parametrize("kind", ["message", "item"])
    async def test_record_of_a_timer_is_applied_at_a_later_claim(self, scene: Scene, kind: str) -> None:
        """One that began while the run went on is recorded once its claim is lost, if it is due by then."""
        claim = await self._begun(scene, kind)
        soon, late = sleeping(1, "soon", scene.now + 20_000), sleeping(2, "late", scene.now + 90_000)
        both = [scene.store.record(claim.id, claim.fence, step) for step in (soon, late)]
        assert list(await asyncio.gather(*both)) == ["recorded", "recorded"]
        await scene.record(claim, ran(3, "three", position=1))
        assert (await scene.run(claim.id)).journal == (soon, late, ran(3, "three", position=1))
        assert await scene.lose() == 1
        ripe = soon._replace(state="done", position=2, value="null", at=scene.now)
        assert (await scene.claim_one(claim.id)).journal == (ripe, late, ran(3, "three", position=1))

    @pytest.mark.parametrize("kind", ["message", "item"])
    async def test_record_of_an_outcome_replaces_a_timer(self, scene: Scene, kind: str) -> None:
        """It stands in its place from then on, and is never due."""
        claim = await self._begun(scene, kind)
        timer = sleeping(1, "nap", scene.now + 5)
        await scene.record(claim, timer)
        scene.clock.advance("5ms")
        slept = timer._replace(state="done", position=1, value="null", at=scene.now)
        for _ in range(2):
            await scene.record(claim, slept)
        assert (await scene.run(claim.id)).journal == (slept,)
        await scene.lose()
        claim = await scene.claim_one(claim.id)
        assert (claim.journal, claim.losses) == ((slept,), 1)
        await scene.done(claim)
        assert await scene.store.run(claim.id) is None

    @pytest.mark.parametrize("kind", ["message", "item"])
    async def test_record_of_a_timer_is_held_to_its_claim(self, scene: Scene, kind: str) -> None:
        """A lost one writes none, nor does one that is cancelled; the counts stay as they are."""
        lost = await self._begun(scene, kind)
        await scene.lose()
        claim = await scene.claim_one(lost.id)
        timer = sleeping(1, "nap", scene.now + 99_999)
        assert await scene.store.record(lost.id, lost.fence, timer) == "stale"
        assert (await scene.run(claim.id)).journal == ()
        await scene.record(claim, timer)
        await scene.store.settle(settlement.released(claim))
        claim = await scene.claim_one(claim.id)
        assert (claim.journal, claim.losses) == ((timer,), 1)
        await scene.store.cancel_run(claim.id)
        assert await scene.store.record(claim.id, claim.fence, sleeping(2, "nap2", 1)) == "cancelled"
        assert (await scene.run(claim.id)).journal == (timer,)

    async def _begun(self, scene: Scene, kind: str) -> Claim:
        """A run that has been claimed once."""
        if kind == "message":
            return await scene.leased("a")
        await scene.start(["u1"])
        (item,) = await scene.items()
        return item

    async def test_record_writes_effects_with_the_step(self, scene: Scene) -> None:
        """All of them or, where the step is refused, none."""
        claim = await scene.leased("a")
        await scene.waits("b")
        step, effects = ran(1, "one"), (Publish((message("c"),)), AcceptWebhook("secret"), Notify("paid", "1"))
        assert await scene.store.record("a", claim.fence + 1, step, effects) == "stale"
        await scene.store.cancel_run("a")
        assert await scene.store.record("a", claim.fence, step, effects) == "cancelled"
        assert (await scene.store.run("c"), await scene.store.webhook("secret")) == (None, None)
        assert await scene.next_due() is None
        await scene.store.settle(settlement.cancelled(claim))
        await scene.record(await scene.leased("a"), step, *effects)
        assert await scene.store.webhook("secret") == "a"
        assert sorted(claim.id for claim in await scene.claim()) == ["b", "c"]

    async def test_record_writes_effects_once(self, scene: Scene) -> None:
        """The same step again, later or in the same moment, has no effect any more."""
        claim = await scene.leased("a")
        for _ in range(2):
            await scene.record(claim, ran(1, "tell"), Notify("paid", "1", "a"))
        await asyncio.gather(*(scene.record(claim, ran(2, "tell"), Notify("paid", "2", "a")) for _ in range(3)))
        for number in (3, 4, 5):
            await scene.listen(claim, number=number)
        await scene.suspend(claim)
        assert [step.value for step in (await scene.claim_one("a")).journal[2:]] == ["1", "2", None]

    async def test_record_writes_the_effects_of_an_outcome_after_those_of_the_wait(self, scene: Scene) -> None:
        """A step that was pending is another one once it has an outcome."""
        claim = await scene.leased("a")
        await scene.record(claim, waiting(1, "one", "call"), Publish((message("b"),)))
        await scene.record(claim, ran(1, "one", kind="call"), Publish((message("c"),)))
        assert sorted(claim.id for claim in await scene.claim()) == ["b", "c"]

    async def test_record_of_effects_in_company(self, scene: Scene) -> None:
        """Steps with and without effects, of claims that are held and that are not, at the same moment."""
        await scene.publish("a", "b", "c")
        a, b, c = await scene.claim()
        await scene.done(b)
        await scene.store.cancel_run("c")
        verdicts = await asyncio.gather(
            *(
                scene.store.record(claim.id, claim.fence, ran(1, "one"), (Publish((message(f"{claim.id}1"),)),))
                for claim in (a, b, c)
            ),
            scene.store.record("a", a.fence, ran(2, "two")),
            scene.store.record("a", a.fence, ran(3, "three"), (Publish((message("a3"),)),)),
        )
        assert list(verdicts) == ["recorded", "stale", "cancelled", "recorded", "recorded"]
        assert sorted(claim.id for claim in await scene.claim()) == ["a1", "a3"]
        assert [step.number for step in (await scene.run("a")).journal] == [1, 2, 3]

    async def test_record_of_a_message_rides_with_an_end(self, scene: Scene) -> None:
        """What a step publishes is there though nobody waited for the step, and its run ended in the same moment."""
        await scene.start(["u0", "u1", "u2"])
        one, *others = await scene.items()
        effects = (Publish((message("told"),)),)
        recorded = asyncio.ensure_future(scene.store.record(one.id, one.fence, ran(1, "tell"), effects))
        ends = await asyncio.gather(*(scene.done(claim) for claim in (one, *others)))
        assert await recorded == "recorded"
        assert [end.stale for end in ends] == [False] * 3
        assert (await scene.counts()).succeeded == 3
        assert "told" in [claim.id for claim in await scene.claim()]
