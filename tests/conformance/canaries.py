"""Canaries: the first items of a batch run, and all others wait until it is approved."""

import asyncio

import pytest

from batchflow.core import ids
from batchflow.core.batch import Canary
from batchflow.core.settlement import FinishEntry, FinishWalk, Notice, Publish, RecordPage, StartItems
from tests.conformance.scene import Cases, Scene, message

CHUNK = ids.chunk_id("bat_a", 0, 0)
ENDED = Notice("canary_ended", "bat_a")


def listen(scene: Scene) -> list[Notice]:
    """The notices of the scene's store from now on."""
    notices: list[Notice] = []
    scene.store.on_notice(notices.append)
    return notices


async def begin(scene: Scene, canary: Canary, items: int = 2) -> None:
    """A batch has begun `items` items, and holds a chunk."""
    entry = await scene.enter(canary=canary)
    chunk = message(CHUNK, batch="bat_a", held=True)
    started = StartItems("bat_a", 0, tuple(f"u{number}" for number in range(items)))
    await scene.done(entry, FinishEntry("bat_a"), RecordPage("bat_a", 5), started, Publish((chunk,)))


class CanaryCases(Cases):
    """`approve_batch`, and what `settle` does at the end of a canary."""

    async def test_open_batch_keeps_its_canary(self, scene: Scene) -> None:
        """It can be read; a batch without one needs no approval."""
        await begin(scene, Canary(2))
        await scene.enter("bat_b")
        batch, other = await scene.batch(), await scene.batch("bat_b")
        assert (batch.canary, batch.needs_approval, batch.waits_for_approval) == (2, True, False)
        assert (other.canary, other.needs_approval, other.waits_for_approval) == (None, False, False)

    async def test_settle_of_a_canary_releases_nothing(self, scene: Scene) -> None:
        """The settlement of its last item gives notice, and the batch goes on waiting."""
        notices = listen(scene)
        await begin(scene, Canary(2))
        one, two = await scene.items()
        await scene.done(one)
        assert notices == []
        assert (await scene.done(two)).ended_batch is None
        assert await scene.next_due() is None
        assert notices == [ENDED]
        batch = await scene.batch()
        assert (batch.waits_for_approval, batch.state, batch.working) == (True, "open", 1)

    async def test_settle_of_a_canary_is_not_its_end_before_as_many_have_ended(self, scene: Scene) -> None:
        """Further items of it may still be started."""
        notices = listen(scene)
        await begin(scene, Canary(3, approve_under=1.0))
        for item in await scene.items():
            await scene.done(item)
        assert (await scene.batch()).needs_approval
        assert notices == []

    @pytest.mark.parametrize(("share", "approved"), [(0.5, True), (0.49, False), (0.0, False), (None, False)])
    async def test_settle_of_a_canary_approves_if_few_have_failed(
        self, scene: Scene, share: float | None, approved: bool
    ) -> None:
        """At most the share; with None whatever has succeeded."""
        notices = listen(scene)
        await begin(scene, Canary(2, approve_under=share))
        one, two = await scene.items()
        await scene.dead(one)
        await scene.done(two)
        assert (await scene.batch()).needs_approval is not approved
        assert [claim.id for claim in await scene.claim()] == [CHUNK] * approved
        assert notices == [ENDED]

    async def test_settle_of_what_publishes_the_held_messages_ends_a_canary(self, scene: Scene) -> None:
        """If its items have ended before."""
        entry = await scene.enter(canary=Canary(1, approve_under=0))
        page, chunk = message(ids.page_id("bat_a", 1), batch="bat_a"), message(CHUNK, batch="bat_a", held=True)
        await scene.done(entry, FinishEntry("bat_a"), StartItems("bat_a", 0, ("u1",)), Publish((page,)))
        (item,) = await scene.items()
        await scene.done(item)
        assert (await scene.batch()).needs_approval
        await scene.done(await scene.claim_one(page.id), Publish((chunk,)))
        await scene.claim_one(CHUNK)

    async def test_approve_batch_releases_what_is_held(self, scene: Scene) -> None:
        """Once; what is held later waits no more."""
        await begin(scene, Canary(2))
        for item in await scene.items():
            await scene.done(item)
        assert await scene.store.approve_batch("bat_a")
        assert not await scene.store.approve_batch("bat_a")
        assert not (await scene.batch()).needs_approval
        later = message(ids.chunk_id("bat_a", 0, 1), batch="bat_a", held=True)
        await scene.done(await scene.claim_one(CHUNK), Publish((later,)))
        await scene.claim_one(later.id)

    async def test_approve_batch_may_come_early(self, scene: Scene) -> None:
        """Before anything has ended, and before anything is held."""
        entry = await scene.enter(canary=Canary(1))
        assert await scene.store.approve_batch("bat_a")
        chunk = message(CHUNK, batch="bat_a", held=True)
        await scene.done(entry, FinishEntry("bat_a"), StartItems("bat_a", 0, ("u1",)), Publish((chunk,)))
        assert {claim.id for claim in await scene.claim()} == {CHUNK, ids.item_run_id("bat_a", 0)}

    async def test_approve_batch_of_two_operators_is_done_by_one(self, scene: Scene) -> None:
        """At the same moment."""
        await begin(scene, Canary(2))
        assert sorted(await asyncio.gather(*(scene.store.approve_batch("bat_a") for _ in range(3)))) == [
            False,
            False,
            True,
        ]

    async def test_approve_batch_leaves_a_pause(self, scene: Scene) -> None:
        """And to resume does not approve."""
        await begin(scene, Canary(2), items=0)
        assert await scene.store.pause_batch("bat_a")
        assert await scene.store.resume_batch("bat_a")
        assert await scene.next_due() is None
        assert await scene.store.pause_batch("bat_a")
        assert await scene.store.approve_batch("bat_a")
        assert await scene.next_due() is None
        assert await scene.store.resume_batch("bat_a")
        await scene.claim_one(CHUNK)

    async def test_approve_batch_refuses_what_has_no_canary_or_is_over(self, scene: Scene) -> None:
        """Unknown, without one, cancelled, ended."""
        await scene.start(["u1"], id="bat_b")
        await scene.start([], id="bat_c", canary=Canary(1))
        await begin(scene, Canary(2))
        assert await scene.store.cancel_batch("bat_a")
        for id in ("bat_a", "bat_b", "bat_c", "bat_x"):
            assert not await scene.store.approve_batch(id), id
        assert (await scene.batch()).state == "cancelled"

    @pytest.mark.parametrize("first", ["walk", "approval"])
    async def test_approve_batch_does_not_end_the_walk(self, scene: Scene, first: str) -> None:
        """With `after_walk` held messages wait for both, in either order."""
        entry = await scene.enter(canary=Canary(1, after_walk=True))
        page, chunk = message(ids.page_id("bat_a", 1), batch="bat_a"), message(CHUNK, batch="bat_a", held=True)
        await scene.done(entry, FinishEntry("bat_a"), Publish((chunk, page)))
        last = await scene.claim_one(page.id)
        if first == "approval":
            assert await scene.store.approve_batch("bat_a")
            assert await scene.next_due() is None
        await scene.done(last, FinishWalk("bat_a", 7))
        if first == "walk":
            assert await scene.next_due() is None
            assert await scene.store.approve_batch("bat_a")
        await scene.claim_one(CHUNK)

    async def test_settle_dead_of_a_chunk_leaves_what_waits_for_approval(self, scene: Scene) -> None:
        """The walk is not at fault: an operator decides about the rest."""
        entry = await scene.enter(canary=Canary(1))
        held, open = (message(ids.chunk_id("bat_a", 0, at), batch="bat_a", held=at == 1) for at in (1, 0))
        await scene.done(entry, FinishEntry("bat_a"), Publish((held, open)))
        await scene.dead(await scene.claim_one(open.id))
        assert await scene.next_due() is None
        assert await scene.store.approve_batch("bat_a")
        await scene.done(await scene.claim_one(held.id))
        assert (await scene.batch()).state == "failed"

    async def test_redrive_of_a_canary_runs_before_the_approval(self, scene: Scene) -> None:
        """Its end is that of the canary again."""
        await begin(scene, Canary(2, approve_under=0))
        one, two = await scene.items()
        await scene.done(two)
        await scene.dead(one)
        assert await scene.store.redrive(one.id)
        assert not (await scene.batch()).waits_for_approval
        (again,) = await scene.items()
        await scene.done(again)
        await scene.claim_one(CHUNK)

    async def test_cancel_batch_of_one_that_waits_for_approval(self, scene: Scene) -> None:
        """What is held is cancelled with it."""
        await begin(scene, Canary(2))
        for item in await scene.items():
            await scene.done(item)
        assert await scene.store.cancel_batch("bat_a")
        batch = await scene.batch()
        assert (batch.state, batch.counts.succeeded, batch.waits_for_approval) == ("cancelled", 2, False)

    async def test_settle_of_a_lost_canary_leaves_the_approval(self, scene: Scene) -> None:
        """A worker that dies neither approves a batch nor ends its canary."""
        await begin(scene, Canary(2, approve_under=1.0))
        one, _ = await scene.items()
        await scene.done(one)
        assert await scene.lose() == 1
        assert (await scene.batch()).needs_approval
        again = await scene.claim_one()
        await scene.done(again)
        await scene.claim_one(CHUNK)
