"""Two operators, in two processes, who do opposite things at the same moment."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

import pytest

from batchflow.core.flow import FlowControl
from batchflow.testing.clock import ManualClock
from tests.conformance.scene import FREE, LEASE_MS, Cases, Scene, names

ITEMS = ("u1", "u2", "u3")
ROUNDS = pytest.mark.parametrize("turn", [0, 1, 2, 3])


async def at_once(turn: int, *calls: Awaitable[Any]) -> Sequence[Any]:
    """The answers of calls that are made in one turn of the loop, in either order."""
    made = calls if turn % 2 else calls[::-1]
    answers = await asyncio.gather(*made)
    return answers if turn % 2 else answers[::-1]


class OperatorCases(Cases):
    """The end is one of the two that they want, whole; nothing is lost, and nothing starts that is held back."""

    @pytest.fixture
    async def other(self, scene: Scene, clock: ManualClock) -> AsyncIterator[Scene]:
        """The process of the second operator."""
        store = self.make_store(clock)
        await store.open()
        yield Scene(store, clock)
        await store.close()

    @ROUNDS
    async def test_pause_and_resume_of_a_batch_at_once(self, scene: Scene, other: Scene, turn: int) -> None:
        """Its items can be claimed if it is not paused, and not if it is; all of them after the next resume."""
        await scene.start(ITEMS)
        if turn > 1:
            await scene.store.pause_batch("bat_a")
        await at_once(turn, scene.store.pause_batch("bat_a"), other.store.resume_batch("bat_a"))
        paused = (await scene.batch()).paused
        assert (await other.batch()).paused == paused
        claims = await scene.items()
        assert [claim.item for claim in claims] == ([] if paused else list(ITEMS))
        if paused:
            assert await scene.next_due() is None
            assert await other.store.resume_batch("bat_a")
            claims = await scene.items()
        for claim in claims:
            await scene.done(claim)
        assert (await scene.counts()).succeeded == len(ITEMS)
        assert len(await scene.completions()) == 1

    @ROUNDS
    async def test_cancel_batch_and_resume_at_once(self, scene: Scene, other: Scene, turn: int) -> None:
        """It is cancelled, whichever comes first: nothing of it starts, and it completes once."""
        await scene.start(ITEMS)
        await scene.store.pause_batch("bat_a")
        cancelled, _ = await at_once(turn, scene.store.cancel_batch("bat_a"), other.store.resume_batch("bat_a"))
        assert cancelled
        assert await scene.items() == []
        batch = await scene.batch()
        assert (batch.state, batch.counts.cancelled, batch.counts.open) == ("cancelled", len(ITEMS), 0)
        assert not batch.paused
        assert len(await scene.completions()) == 1
        assert not await other.store.resume_batch("bat_a")

    @ROUNDS
    async def test_redrive_and_delete_of_a_dead_letter_at_once(self, scene: Scene, other: Scene, turn: int) -> None:
        """One of the two is done: its item is open and runs again, or has failed and is gone from the dead letters."""
        await scene.start(["u1"])
        (item,) = await scene.items()
        await scene.dead(item)
        (completion,) = await scene.completions()
        await scene.done(completion)
        redriven, deleted = await at_once(turn, scene.store.redrive(item.id), other.store.delete_dead_letter(item.id))
        assert redriven != deleted
        assert await scene.store.dead_letter(item.id) is None
        counts = await scene.counts()
        assert (counts.open, counts.failed) == ((1, 0) if redriven else (0, 1))
        again = await scene.items()
        assert names(again) == ([item.id] if redriven else [])
        for claim in again:
            await scene.done(claim)
        assert (await scene.counts()).succeeded == redriven
        assert len(await scene.completions()) == redriven
        assert (await scene.flow()).waiting == 0

    @ROUNDS
    async def test_redrive_and_cancel_of_a_batch_at_once(self, scene: Scene, other: Scene, turn: int) -> None:
        """The item is cancelled with the batch, or still a dead letter of it."""
        await scene.start(["u1", "u2"])
        first, second = await scene.items()
        await scene.dead(first)
        redriven, cancelled = await at_once(turn, scene.store.redrive(first.id), other.store.cancel_batch("bat_a"))
        assert cancelled
        assert await scene.items() == []
        await scene.done(second)
        batch = await scene.batch()
        assert batch.state == "cancelled"
        assert batch.counts.open == 0
        assert batch.counts.failed + batch.counts.cancelled + batch.counts.succeeded == 2
        assert (await scene.store.dead_letter(first.id) is None) == redriven

    @ROUNDS
    async def test_pin_and_reset_of_a_flow_key_at_once(self, scene: Scene, other: Scene, turn: int) -> None:
        """As many start as the limit allows that is shown: the pinned one, or that of the code."""
        await scene.store.declare([FlowControl(key="free", parallelism=1)])
        await scene.publish("a", "b", "c", flow=FREE)
        await at_once(turn, scene.store.pin(FlowControl(key="free", parallelism=2)), other.store.reset("free"))
        status = await other.flow()
        assert (status.pinned, status.limits.parallelism) in ((True, 2), (False, 1))
        assert len(await scene.claim()) == status.limits.parallelism
        assert (await scene.flow()).in_use == status.limits.parallelism

    @ROUNDS
    async def test_pause_and_resume_of_a_flow_key_at_once(self, scene: Scene, other: Scene, turn: int) -> None:
        """What waits can be claimed if the key is not paused, and after the next resume."""
        await scene.publish("a", "b")
        if turn > 1:
            await scene.store.pause("free", scene.now + LEASE_MS)
        await at_once(turn, scene.store.pause("free"), other.store.resume("free"))
        paused = (await other.flow()).paused
        assert names(await scene.claim()) == ([] if paused else ["a", "b"])
        if paused:
            await other.store.resume("free")
            assert names(await scene.claim()) == ["a", "b"]
