"""The notification of a batch's end: when it is published, and the outcome that its batch keeps."""

import pytest

from batchflow.core import ids, settlement
from batchflow.core.batch import Notification
from batchflow.core.message import LOSS_LIMIT, NOTIFICATION_DESTINATION, Claim
from batchflow.core.settlement import FinishEntry, Publish
from tests.conformance.scene import Cases, Scene, message, names

URL = "https://hooks.example.com/?token=abcdef"
FIRST = ids.notification_id("bat_a", 1)


async def notifications(scene: Scene) -> list[Claim]:
    """Claims of notifications that are due."""
    return await scene.claim(destinations=(NOTIFICATION_DESTINATION,))


async def notification(scene: Scene) -> Claim:
    """The claim of the one notification that is due."""
    (claim,) = await notifications(scene)
    return claim


async def complete(scene: Scene) -> None:
    """The batch's completion runs."""
    (completion,) = await scene.completions()
    await scene.done(completion)


async def latest(scene: Scene) -> tuple[str, str | None] | None:
    """State and error of the latest notification."""
    found = (await scene.batch()).notification
    return None if found is None else (found.state, found.error)


class NotificationCases(Cases):
    """What `settle` and others do with the notification of a batch's end."""

    async def test_settle_publishes_the_notification_after_the_completion(self, scene: Scene) -> None:
        """Its body is the id of the batch, it belongs to no batch, and has a flow key of its own."""
        await scene.start(["u1"], notify_url=URL)
        batch = await scene.batch()
        assert (batch.notify_url, batch.notification) == (URL, None)
        await scene.done((await scene.items())[0])
        assert not await notifications(scene)
        await complete(scene)
        batch = await scene.batch()
        assert (batch.working, batch.notification) == (0, Notification("in_progress", scene.now))
        claim = await notification(scene)
        assert (claim.id, claim.body, claim.batch, claim.number) == (FIRST, '"bat_a"', None, -1)
        assert (await scene.flow("batchflow.notification")).in_use == 1

    async def test_settle_publishes_the_notification_of_a_batch_without_a_completion(self, scene: Scene) -> None:
        """With its end, that of an empty one too."""
        await scene.start([], complete=None, notify_url=URL)
        assert (await scene.batch()).state == "completed"
        assert (await notification(scene)).id == FIRST

    async def test_settle_publishes_no_notification_without_a_url(self, scene: Scene) -> None:
        """The batch ends as ever."""
        await scene.start([], complete=None)
        assert (await scene.batch()).state == "completed"
        assert not await notifications(scene)
        assert await latest(scene) is None

    @pytest.mark.parametrize("how", ["dead", "cancelled", "lost"])
    async def test_settle_publishes_the_notification_after_a_completion_that_fails(
        self, scene: Scene, how: str
    ) -> None:
        """However it ends: as a dead letter, cancelled, with lost workers."""
        await scene.start([], notify_url=URL)
        if how == "cancelled":
            assert await scene.store.cancel_run(ids.complete_id("bat_a"))
        elif how == "dead":
            (completion,) = await scene.completions()
            await scene.dead(completion)
        else:
            for _ in range(LOSS_LIMIT):
                await scene.completions()
                await scene.lose()
        assert (await scene.batch()).completion_error is not None
        assert (await notification(scene)).id == FIRST

    @pytest.mark.parametrize("how", ["done", "dead", "cancelled", "lost"])
    async def test_settle_of_a_notification_is_noted_with_its_batch(self, scene: Scene, how: str) -> None:
        """Succeeded, or failed with the reason; it is never a dead letter."""
        await scene.start([], complete=None, notify_url=URL)
        claim = await notification(scene)
        error: str | None = None
        if how == "lost":
            for _ in range(LOSS_LIMIT - 1):
                await scene.lose()
                await notification(scene)
            await scene.lose()
            error = f"WorkerLost: {LOSS_LIMIT} workers in a row died or hung while they ran it"
        elif how == "cancelled":
            error = f"its run '{FIRST}' was cancelled"
            await scene.store.settle(settlement.cancelled(claim))
        elif how == "dead":
            error = "ConnectError: refused"
            await scene.dead(claim, error)
        else:
            await scene.done(claim, result="null")
        assert await latest(scene) == ("succeeded" if error is None else "failed", error)
        assert not list(await scene.store.dead_letters())
        assert await scene.store.run(FIRST) is None
        batch = await scene.batch()
        assert (batch.state, batch.completion_error, batch.errors) == ("completed", None, ())

    async def test_settle_repeats_a_notification_as_any_message(self, scene: Scene) -> None:
        """Until then it is in progress."""
        await scene.start([], complete=None, notify_url=URL)
        claim = await notification(scene)
        await scene.store.settle(settlement.retry(claim, scene.now + 1_000, "ConnectError: refused"))
        assert await latest(scene) == ("in_progress", None)
        scene.clock.advance("1s")
        again = await notification(scene)
        assert (again.id, again.failures) == (FIRST, 1)

    async def test_cancel_batch_publishes_the_notification(self, scene: Scene) -> None:
        """A cancelled batch has ended, too."""
        await scene.start(["u1"], complete=None, notify_url=URL)
        assert await scene.store.cancel_batch("bat_a")
        assert (await scene.batch()).state == "cancelled"
        assert (await notification(scene)).id == FIRST

    async def test_redrive_of_an_item_publishes_another_notification_at_the_next_end(self, scene: Scene) -> None:
        """With another id."""
        await scene.start(["u1"], complete=None, notify_url=URL)
        (item,) = await scene.items()
        await scene.dead(item)
        await scene.done(await notification(scene))
        assert await scene.store.redrive(item.id)
        assert await latest(scene) is None
        await scene.done((await scene.items())[0])
        assert await latest(scene) == ("in_progress", None)
        assert (await notification(scene)).id != FIRST

    async def test_redrive_drops_the_notification_of_the_end_that_it_undoes(self, scene: Scene) -> None:
        """One that waits is not sent any more; nothing of it is left."""
        await scene.start(["u1"], complete=None, notify_url=URL)
        (item,) = await scene.items()
        await scene.dead(item)
        assert await scene.store.redrive(item.id)
        assert not await notifications(scene)
        assert await scene.store.run(FIRST) is None
        assert (await scene.flow("batchflow.notification")).waiting == 0

    async def test_redrive_makes_the_outcome_of_a_claimed_notification_one_of_the_past(self, scene: Scene) -> None:
        """It says nothing about the batch that is open again, nor about its next end."""
        await scene.start(["u1"], complete=None, notify_url=URL)
        (item,) = await scene.items()
        await scene.dead(item)
        claim = await notification(scene)
        assert await scene.store.redrive(item.id)
        await scene.dead(claim)
        assert await latest(scene) is None
        await scene.done((await scene.items())[0])
        assert await latest(scene) == ("in_progress", None)

    async def test_redrive_of_a_completion_publishes_another_notification_after_it(self, scene: Scene) -> None:
        """The batch's last word has changed."""
        await scene.start([], notify_url=URL)
        (completion,) = await scene.completions()
        await scene.dead(completion)
        await scene.done(await notification(scene))
        assert await scene.store.redrive(completion.id)
        assert await latest(scene) is None
        await complete(scene)
        assert (await scene.batch()).completion_error is None
        assert (await notification(scene)).id != FIRST

    async def test_redrive_that_is_refused_leaves_the_notification(self, scene: Scene) -> None:
        """The walk of the batch cannot continue, since its held messages are gone."""
        entry = await scene.enter(complete=None, notify_url=URL)
        page, held = message("page", batch="bat_a"), message("held", batch="bat_a", held=True)
        await scene.done(entry, FinishEntry("bat_a"), Publish((page, held)))
        await scene.dead(await scene.claim_one("page"))
        assert (await scene.batch()).state == "failed"
        assert not await scene.store.redrive("page")
        assert names(await notifications(scene)) == [FIRST]

    async def test_settle_of_the_completion_of_an_earlier_end_publishes_no_notification(self, scene: Scene) -> None:
        """The batch is open again; the completion of its next end publishes one."""
        await scene.start(["u1"], notify_url=URL)
        (item,) = await scene.items()
        await scene.dead(item)
        (early,) = await scene.completions()
        assert await scene.store.redrive(item.id)
        await scene.done((await scene.items())[0])
        await scene.done(early)
        assert not await notifications(scene)
        await complete(scene)
        assert len(await notifications(scene)) == 1

    async def test_prune_removes_a_batch_whose_notification_waits(self, scene: Scene) -> None:
        """The notification is claimed all the same; its outcome has no batch any more."""
        await scene.start([], complete=None, notify_url=URL)
        scene.clock.advance("8d")
        await scene.store.register("w1", 30_000)
        while await scene.store.prune(7 * 86_400_000):
            pass
        assert await scene.store.batch("bat_a") is None
        await scene.done(await notification(scene))
        assert await scene.store.run(FIRST) is None
