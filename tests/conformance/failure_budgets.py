"""Failure budgets of batches."""

import asyncio

import pytest

from batchflow.core import ids, settlement
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.settlement import FinishEntry, Notice, Publish, RecordPage, StartItems
from tests.conformance.scene import Cases, Scene, message

TWO = FailureBudget(max_failures=2)
CANCELS = FailureBudget(max_failures=0, action="cancel")
IDS = tuple(f"u{number}" for number in range(8))


async def fail(scene: Scene, count: int) -> None:
    """Fail the next items one by one."""
    for _ in range(count):
        (item,) = await scene.items(1)
        await scene.dead(item)


async def stopped(scene: Scene, id: str = "bat_a") -> tuple[bool, str | None]:
    """Whether a batch is paused, and why."""
    batch = await scene.batch(id)
    return batch.paused, batch.stop_reason


class FailureBudgetCases(Cases):
    """The failure budget in `open_batch`, `settle`, `expire` and `resume_batch`, and `set_failure_budget`."""

    async def test_settle_of_one_failure_too_many_pauses_the_batch(self, scene: Scene) -> None:
        """Nothing more of it is claimed; what is leased goes on, and other batches do."""
        await scene.start(IDS, failure_budget=TWO)
        await fail(scene, 2)
        assert await stopped(scene) == (False, None)
        one, two = await scene.items(2)
        await scene.dead(one)
        assert await stopped(scene) == (True, "failure_budget")
        assert await scene.items() == []
        await scene.done(two)
        batch = await scene.batch()
        assert (batch.counts.failed, batch.counts.succeeded, batch.counts.open) == (3, 1, 4)
        await scene.start(["v1"], id="bat_b")
        assert [claim.item for claim in await scene.items()] == ["v1"]

    async def test_settle_of_attempts_that_are_retried_spends_no_budget(self, scene: Scene) -> None:
        """Nor does a cancelled item; a failure without a dead letter does."""
        await scene.start(IDS, failure_budget=FailureBudget(max_failures=0))
        (item,) = await scene.items(1)
        await scene.store.settle(settlement.retry(item, scene.now, "Boom: no"))
        (item,) = await scene.items(1)
        await scene.store.settle(settlement.cancelled(item))
        assert await stopped(scene) == (False, None)
        (item,) = await scene.items(1)
        await scene.store.settle(settlement.failed(item, "not found", "null"))
        assert await stopped(scene) == (True, "failure_budget")

    async def test_settle_counts_a_rate_from_its_least_number_of_items_on(self, scene: Scene) -> None:
        """Items that have succeeded count, items that wait do not."""
        await scene.start(IDS, failure_budget=FailureBudget(max_rate=0.4, min_items=5))
        await fail(scene, 2)
        for _ in range(3):
            (item,) = await scene.items(1)
            await scene.done(item)
        # Two of five are 0.4, which is allowed.
        assert await stopped(scene) == (False, None)
        await fail(scene, 1)
        assert await stopped(scene) == (True, "failure_budget")

    async def test_expire_spends_the_failure_budget_too(self, scene: Scene) -> None:
        """An item whose workers were lost too often has failed."""
        await scene.start(IDS[:2], failure_budget=FailureBudget(max_failures=0))
        for _ in range(20):
            if not await scene.items(1):
                break
            await scene.lose()
            scene.clock.advance(3_600_000)
        assert (await scene.counts()).failed == 1
        assert await stopped(scene) == (True, "failure_budget")

    async def test_settle_counts_the_items_that_a_page_starts_at_the_same_moment(self, scene: Scene) -> None:
        """The batch goes on with them, so that there is something to pause."""
        entry = await scene.enter(failure_budget=FailureBudget(max_failures=0))
        page = message(ids.page_id("bat_a", 0), batch="bat_a")
        effects = FinishEntry("bat_a"), RecordPage("bat_a", 1), StartItems("bat_a", 0, ("u0",)), Publish((page,))
        await scene.done(entry, *effects)
        claims = {claim.item or claim.id: claim for claim in await scene.claim()}
        await asyncio.gather(
            scene.dead(claims["u0"]),
            scene.done(claims[page.id], RecordPage("bat_a", 1), StartItems("bat_a", 1, ("u1",))),
        )
        assert await stopped(scene) == (True, "failure_budget")
        assert await scene.items() == []

    async def test_resume_batch_counts_failures_anew(self, scene: Scene) -> None:
        """The batch is stopped again by as many failures as the first time."""
        await scene.start(IDS, failure_budget=TWO)
        await fail(scene, 3)
        assert await scene.store.resume_batch("bat_a")
        assert await stopped(scene) == (False, None)
        await fail(scene, 2)
        assert await stopped(scene) == (False, None)
        await fail(scene, 1)
        assert await stopped(scene) == (True, "failure_budget")

    async def test_redrive_gives_its_failure_back_to_the_budget(self, scene: Scene) -> None:
        """A redriven item that fails again counts again, before a resume as after it."""
        await scene.start(IDS, failure_budget=TWO)
        await fail(scene, 3)
        await scene.store.resume_batch("bat_a")
        for letter in await scene.store.dead_letters():
            assert await scene.store.redrive(letter.id)
        await fail(scene, 2)
        assert await stopped(scene) == (False, None)
        await fail(scene, 1)
        assert await stopped(scene) == (True, "failure_budget")

    async def test_pause_batch_by_an_operator_stays_theirs(self, scene: Scene) -> None:
        """A budget that is exceeded meanwhile changes nothing about it; the operator's own takes over the budget's."""
        await scene.start(IDS, failure_budget=FailureBudget(max_failures=0))
        (item,) = await scene.items(1)
        await scene.store.pause_batch("bat_a")
        await scene.dead(item)
        assert await stopped(scene) == (True, None)
        await scene.store.resume_batch("bat_a")
        await fail(scene, 1)
        assert await stopped(scene) == (True, "failure_budget")
        await scene.store.pause_batch("bat_a")
        assert await stopped(scene) == (True, None)

    async def test_settle_beyond_a_budget_that_cancels_cancels_the_batch(self, scene: Scene) -> None:
        """With the reason, which stays; what is leased may still be done."""
        await scene.start(IDS[:4], failure_budget=CANCELS)
        one, two = await scene.items(2)
        await scene.dead(one)
        batch = await scene.batch()
        assert (batch.state, batch.stop_reason) == ("cancelling", "failure_budget")
        assert await scene.items() == []
        await scene.done(two)
        batch = await scene.batch()
        assert (batch.state, batch.stop_reason) == ("cancelled", "failure_budget")
        assert await scene.states() == [("u0", "failed"), ("u1", "succeeded"), ("u2", "cancelled"), ("u3", "cancelled")]

    async def test_settle_beyond_a_budget_that_cancels_cancels_a_paused_batch_too(self, scene: Scene) -> None:
        """Nobody would otherwise learn of it; a batch that is cancelled by an operator keeps no reason."""
        for id in ("bat_a", "bat_b"):
            await scene.start([f"{id}1", f"{id}2"], id=id, failure_budget=CANCELS)
        claims = {claim.batch: claim for claim in await scene.items(2)}
        await scene.store.pause_batch("bat_a")
        await scene.dead(claims["bat_a"])
        assert (await scene.batch()).stop_reason == "failure_budget"
        await scene.store.cancel_batch("bat_b")
        await scene.dead(claims["bat_b"])
        batch = await scene.batch("bat_b")
        assert (batch.state, batch.stop_reason) == ("cancelled", None)

    async def test_settle_of_the_last_item_ends_a_batch_over_its_budget(self, scene: Scene) -> None:
        """There is nothing left to pause or cancel."""
        for budget in (FailureBudget(max_failures=0), CANCELS):
            await scene.start(["u1"], id=f"bat_{budget.action}", failure_budget=budget)
            await fail(scene, 1)
            batch = await scene.batch(f"bat_{budget.action}")
            assert (batch.state, batch.paused, batch.stop_reason) == ("completed", False, None)

    async def test_redrive_makes_a_cancelled_batch_one_that_is_not_stopped(self, scene: Scene) -> None:
        """The reason of its cancellation goes with its end."""
        await scene.start(["u1", "u2"], failure_budget=CANCELS)
        await fail(scene, 1)
        (letter,) = await scene.store.dead_letters()
        assert await scene.store.redrive(letter.id)
        batch = await scene.batch()
        assert (batch.state, batch.stop_reason) == ("sealed", None)

    @pytest.mark.parametrize("budget", [FailureBudget(max_failures=0), CANCELS], ids=["pause", "cancel"])
    async def test_on_notice_tells_once_of_a_budget_that_is_exceeded(self, scene: Scene, budget: FailureBudget) -> None:
        """The failures of what was leased at that time are no news."""
        notices: list[Notice] = []
        scene.store.on_notice(notices.append)
        await scene.start(IDS, failure_budget=budget)
        claims = await scene.items(3)
        await asyncio.gather(*map(scene.dead, claims))
        await scene.store.expire()
        for _ in range(5):
            await asyncio.sleep(0)
        assert [it for it in notices if it.event == "budget_exceeded"] == [Notice("budget_exceeded", "bat_a")]

    async def test_set_failure_budget_of_a_batch_under_way_counts_from_then_on(self, scene: Scene) -> None:
        """It can be given, changed and removed; a pause by it stays."""
        await scene.start(IDS)
        assert (await scene.batch()).failure_budget is None
        await fail(scene, 2)
        assert await scene.store.set_failure_budget("bat_a", FailureBudget(max_failures=1))
        await fail(scene, 1)
        assert await stopped(scene) == (False, None)
        await fail(scene, 1)
        assert await stopped(scene) == (True, "failure_budget")
        await scene.store.set_failure_budget("bat_a", None)
        assert (await scene.batch()).failure_budget is None
        assert await stopped(scene) == (True, "failure_budget")
        await scene.store.resume_batch("bat_a")
        await fail(scene, 3)
        assert await stopped(scene) == (False, None)

    async def test_set_failure_budget_is_false_for_what_has_ended_or_is_not_known(self, scene: Scene) -> None:
        """And nothing is stored."""
        assert not await scene.store.set_failure_budget("bat_x", TWO)
        await scene.start([])
        assert not await scene.store.set_failure_budget("bat_a", TWO)
        assert (await scene.batch()).failure_budget is None

    async def test_open_batch_keeps_the_failure_budget(self, scene: Scene) -> None:
        """All of it."""
        budget = FailureBudget(max_failures=3, max_rate=0.05, min_items=7, action="cancel")
        await scene.start(["u1"], failure_budget=budget)
        assert (await scene.batch()).failure_budget == budget
        assert [it.failure_budget for it in await scene.store.batches()] == [budget]
