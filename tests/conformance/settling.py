"""Settling claims: each way to end."""

import asyncio

import pytest

from batchflow.core import settlement
from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Run
from batchflow.core.settlement import Ending, Publish, Settlement, SettleResult
from batchflow.errors import StoreError
from tests.conformance.scene import Cases, Scene, message, names, ran, sleeping, waiting

ONE = FlowControl(key="one", parallelism=1)
STAYING: list[Ending] = ["suspended", "retry", "parked", "released"]
ENDING: list[Ending] = ["done", "failed", "dead", "cancelled"]


def ends(claim: Claim, ending: Ending, due: int = 0) -> Settlement:
    """A settlement of this kind."""
    match ending:
        case "done":
            return settlement.done(claim, '"ok"')
        case "failed":
            return settlement.failed(claim, "gone", '"gone"')
        case "suspended":
            return settlement.suspended(claim, due, ())
        case "retry":
            return settlement.retry(claim, due, "Boom: no")
        case "parked":
            return settlement.parked(claim, due, "RateLimited: later")
        case "dead":
            return settlement.dead(claim, "Boom: no")
        case "released":
            return settlement.released(claim)
        case "cancelled":
            return settlement.cancelled(claim)


class SettleCases(Cases):
    """`settle`, but for what it does to batches."""

    @pytest.mark.parametrize("ending", [*STAYING, *ENDING])
    async def test_settle_gives_the_place_back(self, scene: Scene, ending: Ending) -> None:
        """However it ends, the next one of the key may start."""
        claim = await scene.leased("a", flow=ONE)
        assert await scene.store.settle(ends(claim, ending, scene.now)) == SettleResult()
        assert (await scene.flow("one")).in_use == 0

    @pytest.mark.parametrize("ending", [*STAYING, *ENDING])
    async def test_settle_twice_is_stale_and_changes_nothing(self, scene: Scene, ending: Ending) -> None:
        """The second one after a lost reply; the key has given one place back, not two."""
        await scene.publish("a", "b", flow=FlowControl(key="two", parallelism=2))
        a, _ = sorted(await scene.claim())
        assert await scene.store.settle(ends(a, ending, scene.now)) == SettleResult()
        assert await scene.store.settle(ends(a, ending, scene.now)) == SettleResult(stale=True)
        assert (await scene.flow("two")).in_use == 1

    @pytest.mark.parametrize("ending", [*STAYING, *ENDING])
    async def test_settle_twice_at_the_same_moment_counts_once(self, scene: Scene, ending: Ending) -> None:
        """One of the two is stale, also when they go to the store together."""
        await scene.start(["u1", "u2"])
        one, two = await scene.items()
        both = [ends(one, ending, scene.now + 9), ends(one, ending, scene.now + 9)]
        answers = await asyncio.gather(*(scene.store.settle(one) for one in both))
        assert sorted(answer.stale for answer in answers) == [False, True]
        assert (await scene.flow()).in_use == 1
        counts = await scene.counts()
        assert (counts.open, counts.started) == (1 if ending in ENDING else 2, 2)
        assert not (await scene.done(two)).stale

    @pytest.mark.parametrize("ending", [*STAYING, *ENDING])
    async def test_settle_of_a_lost_claim_is_stale_and_changes_nothing(self, scene: Scene, ending: Ending) -> None:
        """No effect, no step, no count; the claim that came after it is held as before."""
        lost = await scene.leased("a", flow=ONE)
        await scene.lose()
        held = await scene.claim_one("a")
        late = ends(lost, ending, scene.now)._replace(steps=(ran(1, "late"),), effects=(Publish((message("effect"),)),))
        assert await scene.store.settle(late) == SettleResult(stale=True)
        assert (await scene.flow("one")).in_use == 1
        assert await scene.claim() == []
        await scene.store.settle(settlement.released(held))
        claim = await scene.claim_one("a")
        assert (claim.journal, claim.failures, claim.losses) == ((), 0, 1)

    async def test_settle_of_an_unknown_message_is_stale(self, scene: Scene) -> None:
        """As after retention."""
        assert (await scene.store.settle(settlement.released(Claim("nobody", 1, "work", "null")))).stale

    async def test_settle_many_at_once_ends_each(self, scene: Scene) -> None:
        """Whatever their endings."""
        await scene.publish(*(f"m{number}" for number in range(8)))
        claims = await scene.claim()
        endings: list[Ending] = [*STAYING[:3], *ENDING, STAYING[3]]
        later = scene.now + 50
        await asyncio.gather(
            *(scene.store.settle(ends(claim, ending, later)) for claim, ending in zip(claims, endings, strict=True))
        )
        scene.clock.advance("50ms")
        assert sorted(names(await scene.claim())) == ["m0", "m1", "m2", "m7"]

    async def test_settle_done_drops_message_and_journal(self, scene: Scene) -> None:
        """Nothing is left, and its id is free again."""
        claim = await scene.leased("a")
        await scene.store.record("a", claim.fence, ran(1, "one"))
        await scene.done(claim)
        assert await scene.store.run("a") is None
        assert (await scene.leased("a")).journal == ()

    @pytest.mark.parametrize(
        ("ending", "state", "result", "error"),
        [
            ("done", "completed", '"ok"', None),
            ("failed", "failed", '"gone"', "gone"),
            ("cancelled", "cancelled", None, None),
        ],
    )
    async def test_settle_keeps_a_finished_run_if_the_message_says_so(
        self, scene: Scene, ending: Ending, state: str, result: str | None, error: str | None
    ) -> None:
        """With its payload, journal, times and how it ended."""
        begun = scene.now
        claim = await scene.leased("a", keep=True, body='{"n":1}')
        await scene.store.record("a", claim.fence, ran(1, "one"))
        scene.clock.advance("7s")
        await scene.store.settle(ends(claim, ending))
        run = await scene.store.run("a")
        assert run is not None
        assert (run.state, run.result, run.error, run.payload) == (state, result, error, '{"n":1}')
        assert (run.created_at, run.ended_at, run.journal) == (begun, begun + 7_000, (ran(1, "one"),))

    async def test_settle_done_publishes_with_it(self, scene: Scene) -> None:
        """Effects are in the same transaction; messages known by then are not published again."""
        claim = await scene.leased("a")
        await scene.publish("b", not_before=scene.now + 10)
        await scene.done(claim, Publish((message("b"), message("c"))))
        assert names(await scene.claim()) == ["c"]

    async def test_settle_suspended_is_due_at_its_time(self, scene: Scene) -> None:
        """With its steps, and nothing counted."""
        claim = await scene.leased("a")
        until = scene.now + 60
        await scene.store.settle(settlement.suspended(claim, until, (ran(1, "one"), sleeping(2, "nap", until))))
        assert await scene.next_due() == until
        scene.clock.move_to(until)
        claim = await scene.claim_one("a")
        assert (claim.failures, claim.losses) == (0, 0)
        assert [step.name for step in claim.journal] == ["one", "nap"]

    async def test_settle_retry_counts_a_failure(self, scene: Scene) -> None:
        """Each time one more, and the run shows why."""
        await scene.publish("a")
        for failures in range(3):
            claim = await scene.claim_one("a")
            assert claim.failures == failures
            await scene.store.settle(settlement.retry(claim, scene.now + 10, f"Boom: {failures}"))
            assert await scene.claim() == []
            scene.clock.advance("10ms")
        run = await scene.store.run("a")
        assert run is not None
        assert (run.state, run.error, run.failures) == ("waiting", "Boom: 2", 3)

    async def test_settle_retry_counts_from_the_steps_it_brings(self, scene: Scene) -> None:
        """A step recorded with the settlement starts the counting again before the failure is counted."""
        claim = await scene.leased("a")
        await scene.store.settle(settlement.retry(claim, scene.now, "Boom: 1"))
        claim = await scene.claim_one("a")
        await scene.store.settle(settlement.retry(claim, scene.now, "Boom: 2", (ran(1, "one"),)))
        claim = await scene.claim_one("a")
        assert (claim.failures, claim.journal) == (1, (ran(1, "one"),))

    async def test_settle_parked_holds_the_whole_key_and_counts_nothing(self, scene: Scene) -> None:
        """The message and all others of its key wait until then."""
        await scene.publish("a", "b")
        (claim,) = await scene.claim(1)
        await scene.store.settle(settlement.parked(claim, scene.now + 100, "RateLimited: later"))
        assert await scene.next_due() == scene.now + 100
        scene.clock.advance("100ms")
        claims = await scene.claim()
        assert sorted(names(claims)) == ["a", "b"]
        assert {claim.failures for claim in claims} == {0}

    async def test_settle_parked_never_shortens_the_wait_of_a_key(self, scene: Scene) -> None:
        """Of two that are parked, the later time holds."""
        await scene.publish("a", "b")
        a, b = await scene.claim()
        await scene.store.settle(settlement.parked(a, scene.now + 100, "RateLimited: later"))
        await scene.store.settle(settlement.parked(b, scene.now + 50, "RateLimited: later"))
        assert (await scene.flow()).parked_until == scene.now + 100

    async def test_settle_released_is_due_at_once_and_counts_nothing(self, scene: Scene) -> None:
        """As if it had not been claimed."""
        claim = await scene.leased("a")
        await scene.store.settle(settlement.released(claim))
        claim = await scene.claim_one("a")
        assert (claim.failures, claim.losses, claim.journal) == (0, 0, ())

    @pytest.mark.parametrize("ending", STAYING)
    async def test_settle_that_stays_keeps_the_steps_it_brings(self, scene: Scene, ending: Ending) -> None:
        """Pending ones with their failures and when they go on, which start no counting again; outcomes do."""
        await scene.leased("a")
        await scene.lose()
        claim = await scene.claim_one("a")
        again = ran(1, "one", state="pending", position=0, value=None, error="Boom: 1", failures=2, due=scene.now + 500)
        steps = (again, sleeping(2, "nap", scene.now + 9_000), waiting(3, "wait", due=scene.now + 7_000))
        await scene.store.settle(ends(claim, ending, scene.now)._replace(steps=steps))
        claim = await scene.claim_one("a")
        assert (claim.journal, claim.failures, claim.losses) == (steps, int(ending == "retry"), 1)
        final = ran(1, "one", failures=2)
        await scene.store.settle(ends(claim, ending, scene.now)._replace(steps=(final,)))
        claim = await scene.claim_one("a")
        assert (claim.journal, claim.failures, claim.losses) == ((final, *steps[1:]), int(ending == "retry"), 0)

    async def test_settle_released_keeps_what_was_found_out_about_steps(self, scene: Scene) -> None:
        """It is due at once, whenever the steps are; also of an item, and of none that was cancelled meanwhile."""
        await scene.start(["u1"])
        (item,) = await scene.items()
        message = await scene.leased("a", keep=True)
        cancelled = await scene.leased("b", keep=True)
        await scene.store.cancel_run("b")
        again = ran(1, "one", state="pending", position=0, value=None, error="Boom: 1", failures=1, due=scene.now + 500)
        for claim in (item, message, cancelled):
            assert not (await scene.store.settle(settlement.released(claim, (again,)))).stale
        claims = await scene.claim()
        assert sorted(names(claims)) == ["a", item.id]
        assert [claim.journal for claim in claims] == [(again,)] * 2
        run = await scene.run("b")
        assert (run.state, run.journal) == ("cancelled", ())

    async def test_settle_dead_makes_a_dead_letter_with_its_journal(self, scene: Scene) -> None:
        """With request, error, time, and the steps that came with the settlement too."""
        claim = await scene.leased("a", body='{"n":1}')
        await scene.store.record("a", claim.fence, ran(1, "one"))
        scene.clock.advance("3s")
        await scene.store.settle(settlement.dead(claim, "Boom: no", (ran(2, "two"),)))
        letter = await scene.letter("a")
        assert letter.message == message("a", body='{"n":1}')
        assert (letter.item, letter.failures, letter.losses, letter.created_at) == (None, 1, 0, scene.now - 3_000)
        assert (letter.error, letter.died_at, letter.journal) == ("Boom: no", scene.now, (ran(1, "one"), ran(2, "two")))
        assert await scene.claim() == []
        run: Run | None = await scene.store.run("a")
        assert run is not None
        assert (run.state, run.error, run.journal) == ("failed", "Boom: no", letter.journal)

    async def test_settle_dead_keeps_the_message_whole(self, scene: Scene) -> None:
        """Key and limits, headers, policy, label, parent, depth: all that it was published with."""
        await scene.parent("child")
        whole = message(
            "a",
            flow=FlowControl(key="mail", parallelism=2, rate=3, period="1m", burst=2),
            headers={"x": "1"},
            retry=RetryPolicy(retries=7),
            keep=True,
            label="nightly",
            parent=("p", 1),
            depth=4,
            on_failure="other",
        )
        await scene.store.publish([whole])
        for claim in await scene.claim(destinations=("work",)):
            await scene.dead(claim)
        assert (await scene.letter("a")).message == whole

    async def test_settle_dead_tells_whom_the_message_names(self, scene: Scene) -> None:
        """A message to its `on_failure` with its id, in the same transaction; another one for each death."""
        claim = await scene.leased("a", on_failure="other")
        await scene.dead(claim)
        (told,) = await scene.claim(destinations=("other",))
        assert (told.id, told.body) == (f"a.x{claim.fence}", '"a"')
        await scene.done(told)
        assert await scene.store.redrive("a")
        again = await scene.claim_one("a")
        await scene.dead(again)
        (told,) = await scene.claim(destinations=("other",))
        assert told.id == f"a.x{again.fence}"

    async def test_settle_dead_of_an_item_tells_whom_its_batch_names(self, scene: Scene) -> None:
        """Of items, not of the layers."""
        await scene.start(["u1", "u2"], on_failure="other")
        one, two = await scene.items()
        await scene.dead(one)
        await scene.done(two)
        assert [claim.body for claim in await scene.claim(destinations=("other",))] == [f'"{one.id}"']

    async def test_settle_carries_effects_out_on_every_ending(self, scene: Scene) -> None:
        """Dead and answered too; of a run that was cancelled meanwhile none."""
        await scene.publish(*"abc")
        a, b, c = await scene.claim()
        await scene.store.cancel_run("c")
        await scene.store.settle(settlement.dead(a, "Boom: no", effects=(Publish((message("of a"),)),)))
        await scene.store.settle(settlement.failed(b, "no", "1", (Publish((message("of b"),)),)))
        await scene.store.settle(settlement.dead(c, "Boom: no", effects=(Publish((message("of c"),)),)))
        assert sorted(names(await scene.claim())) == ["of a", "of b"]

    async def test_settle_dead_of_what_was_cancelled_is_cancelled(self, scene: Scene) -> None:
        """It leaves no dead letter, and nobody is told."""
        claim = await scene.leased("a", keep=True, on_failure="other")
        await scene.store.cancel_run("a")
        await scene.dead(claim)
        assert (await scene.run("a")).state == "cancelled"
        assert list(await scene.store.dead_letters()) == []
        assert await scene.claim() == []

    @pytest.mark.parametrize("ending", STAYING)
    async def test_settle_ends_a_run_that_was_cancelled_meanwhile(self, scene: Scene, ending: Ending) -> None:
        """What would have been delivered again is cancelled instead."""
        claim = await scene.leased("a", keep=True)
        await scene.store.cancel_run("a")
        assert not (await scene.store.settle(ends(claim, ending, scene.now))).stale
        run = await scene.store.run("a")
        assert run is not None
        assert run.state == "cancelled"
        assert await scene.claim() == []

    async def test_settle_done_counts_although_cancelled_meanwhile(self, scene: Scene) -> None:
        """What a worker has brought to its end is done."""
        claim = await scene.leased("a", keep=True)
        await scene.store.cancel_run("a")
        await scene.done(claim)
        run = await scene.store.run("a")
        assert run is not None
        assert run.state == "completed"

    async def test_settle_that_cannot_be_stored_fails_alone(self, scene: Scene) -> None:
        """Others of the same moment are carried out, and its claim is held as before."""
        await scene.publish("a", "b")
        a, b = await scene.claim()
        bad, good = await asyncio.gather(
            scene.store.settle(settlement.retry(a, scene.now, "\ud800")), scene.done(b), return_exceptions=True
        )
        assert isinstance(bad, StoreError)
        assert not bad.retryable
        assert good == SettleResult()
        assert not (await scene.done(a)).stale
