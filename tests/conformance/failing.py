"""Failed attempts: items that wait after one, the attempts of each, and the error groups of a batch."""

import asyncio
from collections.abc import Callable
from typing import TypeAlias

import pytest

from batchflow.core import ids, settlement
from batchflow.core.batch import MAX_ERROR_GROUPS, OTHER_ERRORS, Batch, ErrorGroup, Failure
from batchflow.core.dead_letters import DeadLetterQuery
from batchflow.core.message import LOSS_LIMIT, Claim
from batchflow.core.run import Step
from batchflow.core.settlement import FinishEntry, Publish, Settlement
from tests.conformance.scene import Cases, Scene, message, ran, waiting

REFUSED = Failure("ConnectError", "reviews.py:41 in execute", "ConnectError: refused")
LATER = Failure("RateLimited", "reviews.py:44 in execute", "RateLimited: later")
HOUR = 3_600_000
Fails: TypeAlias = Callable[[Claim, int], Settlement]


def again(claim: Claim, at: int, *failures: Failure) -> Settlement:
    """The function of a claim failed; it is tried again at this time."""
    return settlement.retry(claim, at, "ConnectError: refused", failures=failures or (REFUSED,))


def step_again(claim: Claim, at: int) -> Settlement:
    """A step of a claim failed; it is tried again at this time."""
    step = Step(1, "execute", "run", "pending", error=REFUSED.message, failures=1, due=at)
    return settlement.suspended(claim, at, (step,), failures=(REFUSED,))


def limited(claim: Claim, until: int) -> Settlement:
    """A service limits the rate until this time."""
    return settlement.parked(claim, until, LATER.message, failures=(LATER,))


async def wait_counts(scene: Scene) -> tuple[int, int, int]:
    """The open items, those of them that wait after a failed attempt, and those that wait for a rate limit."""
    counts = await scene.counts()
    return counts.open, counts.retrying, counts.parked


async def attempts(scene: Scene, number: int = 0) -> tuple[str, int, str | None]:
    """State, attempts and error of an item."""
    item = list(await scene.store.items("bat_a"))[number]
    return item.state, item.attempts, item.error


def groups(batch: Batch) -> list[tuple[str, int, int]]:
    """Type, attempts and items of the error groups of a batch."""
    return [(group.type, group.attempts, group.items) for group in batch.errors]


class FailureCases(Cases):
    """What `settle` and others do with failed attempts."""

    @pytest.mark.parametrize("of_step", [False, True])
    async def test_settle_counts_an_item_that_waits_for_its_next_attempt(self, scene: Scene, of_step: bool) -> None:
        """Until it is claimed again, whether the function or a step of it has failed."""
        await scene.start(["u1", "u2"])
        one, two = sorted(await scene.items())
        fails = step_again if of_step else again
        await scene.store.settle(fails(one, scene.now + 1_000))
        assert await wait_counts(scene) == (2, 1, 0)
        await scene.done(two)
        scene.clock.advance("1s")
        claim = await scene.claim_one(one.id)
        assert await wait_counts(scene) == (1, 0, 0)
        await scene.store.settle(fails(claim, scene.now))
        assert await wait_counts(scene) == (1, 1, 0)
        await scene.done(await scene.claim_one(one.id))
        assert await wait_counts(scene) == (0, 0, 0)

    async def test_settle_counts_an_item_that_waits_for_a_rate_limit(self, scene: Scene) -> None:
        """It costs no attempt, and is in an error group."""
        await scene.start(["u1"])
        await scene.store.settle(limited((await scene.items())[0], scene.now + 1_000))
        assert await wait_counts(scene) == (1, 0, 1)
        assert await attempts(scene) == ("open", 0, LATER.message)
        assert groups(await scene.batch()) == [("RateLimited", 1, 0)]
        scene.clock.advance("1s")
        await scene.items()
        assert await wait_counts(scene) == (1, 0, 0)

    async def test_settle_counts_many_at_once(self, scene: Scene) -> None:
        """As a busy worker writes them, in one group."""
        await scene.start([f"u{number}" for number in range(9)])
        claims = sorted(await scene.items())
        at = scene.now + 1_000
        fails = (again, step_again, limited)
        await asyncio.gather(*(scene.store.settle(fails[at_ % 3](claim, at)) for at_, claim in enumerate(claims)))
        assert await wait_counts(scene) == (9, 6, 3)
        assert groups(await scene.batch()) == [("ConnectError", 6, 0), ("RateLimited", 3, 0)]
        scene.clock.advance("1s")
        await asyncio.gather(*(scene.done(claim) for claim in await scene.items()))
        assert await wait_counts(scene) == (0, 0, 0)

    @pytest.mark.parametrize("fails", [again, step_again, limited])
    @pytest.mark.parametrize("how", ["batch", "run"])
    async def test_cancel_batch_counts_no_item_as_waiting(self, scene: Scene, fails: Fails, how: str) -> None:
        """What has ended does not wait."""
        await scene.start(["u1", "u2"])
        one, two = sorted(await scene.items())
        await scene.store.settle(fails(one, scene.now + HOUR))
        if how == "batch":
            assert await scene.store.cancel_batch("bat_a")
        else:
            assert await scene.store.cancel_run(one.id)
        await scene.store.settle(again(two, scene.now + HOUR))
        open_, retrying, parked = await wait_counts(scene)
        assert (open_, retrying, parked) == ((0, 0, 0) if how == "batch" else (1, 1, 0))

    async def test_expire_counts_an_attempt_and_not_a_failed_one(self, scene: Scene) -> None:
        """The item does not wait after a failure then; its last error stays."""
        await scene.start(["u1"])
        await scene.store.settle(again((await scene.items())[0], scene.now))
        await scene.items()
        await scene.lose()
        assert await wait_counts(scene) == (1, 0, 0)
        assert await attempts(scene) == ("open", 2, REFUSED.message)
        await scene.done((await scene.items())[0])
        assert await attempts(scene) == ("succeeded", 3, None)

    async def test_settle_of_a_released_item_leaves_it_not_waiting_after_a_failure(self, scene: Scene) -> None:
        """It is due at once, and no attempt is counted."""
        await scene.start(["u1"])
        await scene.store.settle(again((await scene.items())[0], scene.now))
        await scene.store.settle(settlement.released((await scene.items())[0]))
        assert await wait_counts(scene) == (1, 0, 0)
        await scene.items()
        await scene.store.deregister("w1")
        assert await wait_counts(scene) == (1, 0, 0)
        assert (await attempts(scene))[1] == 1

    async def test_settle_of_a_stale_claim_counts_no_failure(self, scene: Scene) -> None:
        """Of a claim that was lost, and of one that is settled twice."""
        await scene.start(["u1"])
        (lost,) = await scene.items()
        await scene.lose()
        (held,) = await scene.items()
        for claim in (lost, held, held):
            await scene.store.settle(again(claim, scene.now + HOUR))
        assert await wait_counts(scene) == (1, 1, 0)
        assert groups(await scene.batch()) == [("ConnectError", 1, 0)]
        assert (await attempts(scene))[1] == 2

    async def test_settle_groups_failures_by_type_and_place(self, scene: Scene) -> None:
        """With the latest as the example, those with the most attempts first."""
        await scene.start(["u1", "u2"])
        one, two = sorted(await scene.items())
        elsewhere = REFUSED._replace(where="reviews.py:52 in save")
        latest = REFUSED._replace(message="ConnectError: gone")
        await scene.store.settle(again(one, scene.now, elsewhere))
        await scene.store.settle(again(two, scene.now))
        scene.clock.advance("1s")
        claims = {claim.id: claim for claim in await scene.items()}
        await scene.store.settle(settlement.dead(claims[two.id], "ConnectError: gone\nlong", failures=(latest,)))
        assert (await scene.batch()).errors == (
            ErrorGroup("ConnectError", REFUSED.where, 2, 1, "ConnectError: gone", "u2", 1, scene.now),
            ErrorGroup("ConnectError", elsewhere.where, 1, 0, REFUSED.message, "u1", 0, scene.now - 1_000),
        )
        assert (await scene.store.batches())[0].errors == (await scene.batch()).errors

    async def test_settle_fails_an_item_with_the_last_of_its_failures(self, scene: Scene) -> None:
        """Branches of one attempt may fail for several reasons."""
        await scene.start(["u1"])
        failures = (LATER, REFUSED)
        await scene.store.settle(settlement.dead((await scene.items())[0], REFUSED.message, failures=failures))
        assert groups(await scene.batch()) == [("ConnectError", 1, 1), ("RateLimited", 1, 0)]
        assert (await attempts(scene))[1] == 2

    @pytest.mark.parametrize("ending", ["dead", "failed"])
    async def test_settle_groups_an_end_without_failures_by_its_error(self, scene: Scene, ending: str) -> None:
        """The type is what stands before the colon."""
        await scene.start(["u1"])
        (claim,) = await scene.items()
        text = "Boom: no\nTraceback (most recent call last):\n  ..."
        how = settlement.dead(claim, text) if ending == "dead" else settlement.failed(claim, text, "null")
        await scene.store.settle(how)
        (group,) = (await scene.batch()).errors
        assert (group.type, group.where, group.attempts, group.items) == ("Boom", "", 1, 1)
        assert group.message == "Boom: no"

    async def test_settle_keeps_a_bounded_number_of_error_groups(self, scene: Scene) -> None:
        """What is beyond them is in one of its own; those that are kept go on counting."""
        await scene.start([f"u{number:02d}" for number in range(MAX_ERROR_GROUPS + 5)])
        claims = sorted(await scene.items())
        for number, claim in enumerate(claims):
            await scene.store.settle(again(claim, scene.now, Failure(f"E{number}", "", f"E{number}: no")))
        first = await scene.claim(1, destinations=("execute",))
        await scene.store.settle(again(first[0], scene.now, Failure("E0", "", "E0: no")))
        errors = (await scene.batch()).errors
        assert len(errors) == MAX_ERROR_GROUPS
        assert groups(await scene.batch())[:2] == [(OTHER_ERRORS, 6, 0), ("E0", 2, 0)]
        assert sum(group.attempts for group in errors) == MAX_ERROR_GROUPS + 6

    async def test_settle_groups_failures_of_layers_without_an_item(self, scene: Scene) -> None:
        """They are not items that wait."""
        entry = await scene.enter()
        await scene.store.settle(again(entry, scene.now))
        assert await wait_counts(scene) == (0, 0, 0)
        (group,) = (await scene.batch()).errors
        assert (group.attempts, group.items, group.item, group.number) == (1, 0, None, -1)
        await scene.store.settle(settlement.dead(await scene.claim_one(entry.id), "Boom: no", failures=(REFUSED,)))
        assert groups(await scene.batch()) == [("ConnectError", 2, 0)]

    async def test_settle_of_a_message_without_a_batch_counts_attempts_alone(self, scene: Scene) -> None:
        """There is nothing to group them in."""
        await scene.store.settle(again(await scene.leased("a"), scene.now))
        await scene.store.settle(step_again(await scene.claim_one("a"), scene.now))
        await scene.store.settle(settlement.dead(await scene.claim_one("a"), "Boom: no"))
        (letter,) = await scene.store.dead_letters()
        assert (letter.attempts, letter.failures) == (3, 2)

    async def test_dead_letters_have_all_their_attempts(self, scene: Scene) -> None:
        """Those of its steps too; a redrive resets what decides about retries, and not these."""
        await scene.start(["u1"])
        await scene.store.settle(step_again((await scene.items())[0], scene.now))
        await scene.store.settle(step_again((await scene.items())[0], scene.now))
        (claim,) = await scene.items()
        failed = ran(1, "execute", state="failed", value=None, error=REFUSED.message)
        await scene.record(claim, failed)
        await scene.store.settle(settlement.dead(claim, REFUSED.message, failures=(REFUSED,)))
        for found in (await scene.store.dead_letters(), await scene.store.dead_letters(DeadLetterQuery(batch="bat_a"))):
            assert [letter.attempts for letter in found] == [3]
        assert await attempts(scene) == ("failed", 3, REFUSED.message)
        assert await scene.store.redrive(claim.id)
        assert await wait_counts(scene) == (1, 0, 0)
        assert await attempts(scene) == ("open", 3, None)
        await scene.done((await scene.items())[0])
        assert await attempts(scene) == ("succeeded", 4, None)
        assert groups(await scene.batch()) == [("ConnectError", 3, 1)]

    async def test_expire_groups_a_message_whose_workers_were_lost(self, scene: Scene) -> None:
        """As it becomes a dead letter; each loss is an attempt."""
        await scene.start(["u1"])
        for _ in range(LOSS_LIMIT):
            assert await scene.items()
            await scene.lose()
        assert groups(await scene.batch()) == [("WorkerLost", 1, 1)]
        assert (await attempts(scene))[:2] == ("failed", LOSS_LIMIT)
        (letter,) = await scene.store.dead_letters()
        assert letter.attempts == LOSS_LIMIT

    async def test_claim_of_an_item_with_an_arrival_ends_its_wait(self, scene: Scene) -> None:
        """A run that waits for something from outside beside a failed step."""
        await scene.start(["u1"])
        (claim,) = await scene.items()
        await scene.listen(claim, "paid", number=2)
        await scene.store.settle(step_again(claim, scene.now + HOUR))
        await scene.store.notify("paid", "1")
        (woken,) = await scene.items()
        assert woken.id == claim.id
        assert await wait_counts(scene) == (1, 0, 0)

    async def test_settle_of_a_walk_that_breaks_off_tells_why_in_one_line(self, scene: Scene) -> None:
        """The traceback stays in the dead letter."""
        entry = await scene.enter()
        text = "Boom: no\n  such table\nTraceback (most recent call last):\n  File ..."
        await scene.dead(entry, text)
        assert (await scene.batch()).error == "Boom: no such table"
        (letter,) = await scene.store.dead_letters()
        assert letter.error == text

    async def test_settle_of_a_completion_that_fails_for_good_is_told(self, scene: Scene) -> None:
        """In one line; the batch has ended as it had."""
        await scene.start([])
        (completion,) = await scene.completions()
        assert (await scene.batch()).completion_error is None
        await scene.dead(completion, "Boom: no\nTraceback (most recent call last):\n  File ...")
        batch = await scene.batch()
        assert (batch.state, batch.error, batch.completion_error, batch.working) == ("completed", None, "Boom: no", 0)
        assert groups(batch) == [("Boom", 1, 0)]
        assert [letter.id for letter in await scene.store.dead_letters(DeadLetterQuery(batch="bat_a"))] == [
            completion.id
        ]

    async def test_settle_of_a_cancelled_completion_is_told(self, scene: Scene) -> None:
        """It has not run."""
        await scene.start([])
        (completion,) = await scene.completions()
        await scene.store.settle(settlement.cancelled(completion))
        assert "was cancelled" in ((await scene.batch()).completion_error or "")

    async def test_redrive_of_a_completion_runs_it_alone(self, scene: Scene) -> None:
        """The batch stays ended, no other completion is published, and the error goes with its success."""
        await scene.start([])
        await scene.dead((await scene.completions())[0])
        ended = await scene.batch()
        assert await scene.store.redrive("bat_a.z")
        batch = await scene.batch()
        assert (batch.state, batch.ended_at, batch.working) == ("completed", ended.ended_at, 1)
        (completion,) = await scene.completions()
        assert completion.id == "bat_a.z"
        await scene.done(completion)
        batch = await scene.batch()
        assert (batch.state, batch.completion_error, batch.working) == ("completed", None, 0)
        assert await scene.completions() == []

    async def test_settle_of_a_later_completion_clears_the_error_of_an_earlier_one(self, scene: Scene) -> None:
        """Once dead letters were redriven, the batch completes again."""
        await scene.start(["u1"])
        await scene.dead((await scene.items())[0])
        await scene.dead((await scene.completions())[0], "Boom: completion")
        assert await scene.store.redrive(ids.item_run_id("bat_a", 0))
        await scene.done((await scene.items())[0])
        assert (await scene.batch()).completion_error == "Boom: completion"
        await scene.done((await scene.completions())[0])
        assert (await scene.batch()).completion_error is None

    async def test_prune_removes_error_groups_with_their_batch(self, scene: Scene) -> None:
        """A batch of the same id has none of them."""
        await scene.start(["u1"])
        await scene.dead((await scene.items())[0])
        await scene.done((await scene.completions())[0])
        scene.clock.advance("2d")
        while await scene.store.prune(1_000):
            pass
        await scene.start(["u2"])
        assert (await scene.batch()).errors == ()

    async def test_settle_with_a_waiting_step_counts_no_failure(self, scene: Scene) -> None:
        """Nor is a page that publishes further ones."""
        entry = await scene.enter()
        page = message(ids.page_id("bat_a", 0), batch="bat_a")
        await scene.suspend(entry, waiting())
        await scene.store.cancel_run(entry.id)
        assert (await scene.batch()).errors == ()
        other = await scene.enter("bat_b")
        await scene.done(other, FinishEntry("bat_b"), Publish((page,)))
        assert (await scene.batch("bat_b")).errors == ()
