"""Children: messages and batches for whose end a run waits."""

import asyncio

import pytest

from batchflow.core import ids, settlement
from batchflow.core.message import LOSS_LIMIT, Claim
from batchflow.core.settlement import FinishEntry, Publish, RecordPage, Settlement, StartItems
from tests.conformance.scene import Cases, Scene, message, ran, waiting

ENDS: dict[str, tuple[str, str | None, str | None]] = {
    "done": ("done", '{"n":1}', None),
    "failed": ("failed", "null", "Gone: no"),
    "dead": ("failed", None, "Boom: no"),
    "cancelled": ("cancelled", None, None),
}


def end(claim: Claim, ending: str) -> Settlement:
    """How a child ends in these cases."""
    match ending:
        case "done":
            return settlement.done(claim, '{"n":1}')
        case "failed":
            return settlement.failed(claim, "Gone: no", "null")
        case "dead":
            return settlement.dead(claim, "Boom: no")
        case _:
            return settlement.cancelled(claim)


class ChildCases(Cases):
    """How the end of a message or batch with a parent arrives at it."""

    @pytest.mark.parametrize("ending", sorted(ENDS))
    async def test_settle_of_a_child_arrives_at_its_parent(self, scene: Scene, ending: str) -> None:
        """The step that waits has its result or its error, and the parent is due at once."""
        await scene.parent("c")
        scene.clock.advance("1s")
        child = await scene.claim_one("c")
        assert not (await scene.store.settle(end(child, ending))).stale
        (step,) = (await scene.claim_one("p")).journal
        assert (step.state, step.value, step.error) == ENDS[ending]
        assert (step.number, step.name, step.kind, step.position, step.at) == (1, "c", "invoke", 1, scene.now)

    async def test_settle_of_children_arrives_in_the_order_they_ended(self, scene: Scene) -> None:
        """What has not ended stays pending, and arrives at a later claim."""
        await scene.parent("c1", "c2", "c3")
        claims = {claim.id: claim for claim in await scene.claim()}
        await scene.done(claims["c3"], result="3")
        scene.clock.advance("1ms")
        await scene.done(claims["c1"], result="1")
        parent = await scene.claim_one("p")
        assert [(step.position, step.value) for step in parent.journal] == [(2, "1"), (0, None), (1, "3")]
        await scene.done(claims["c2"], result="2")
        await scene.suspend(parent)
        parent = await scene.claim_one("p")
        assert [(step.position, step.value) for step in parent.journal] == [(2, "1"), (3, "2"), (1, "3")]

    async def test_settle_of_a_child_waits_for_the_suspension_of_its_parent(self, scene: Scene) -> None:
        """A parent that is leased has it at its next claim, which is at once."""
        parent = await scene.leased("p")
        await scene.invoke(parent, "c")
        await scene.done(await scene.claim_one("c"))
        assert (await scene.run("p")).journal[0].state == "pending"
        await scene.suspend(parent)
        assert await scene.came("p") == [(1, "done", 1, '"ok"')]

    @pytest.mark.parametrize("first", ["parent", "child"])
    async def test_settle_of_a_child_in_one_group_with_the_suspension(self, scene: Scene, first: str) -> None:
        """Whichever comes first, the parent is woken; also where it begins to wait with its suspension."""
        parent = await scene.leased("p")
        await scene.publish("c", parent=("p", 1))
        child = await scene.claim_one("c")
        ends = [
            scene.store.settle(settlement.suspended(parent, scene.now + 99_999, (waiting(1, "c", "invoke"),))),
            scene.store.settle(settlement.done(child, '"ok"')),
        ]
        await asyncio.gather(*(ends if first == "parent" else reversed(ends)))
        assert await scene.came("p") == [(1, "done", 1, '"ok"')]

    async def test_settle_of_a_child_leaves_a_step_that_does_not_wait(self, scene: Scene) -> None:
        """Its outcome stands, and its run is not woken."""
        parent = await scene.leased("p")
        await scene.invoke(parent, "c")
        await scene.suspend(parent, ran(1, "c", kind="invoke", value="0"))
        await scene.done(await scene.claim_one("c"))
        assert await scene.next_due() is None
        assert [step.value for step in (await scene.run("p")).journal] == ["0"]

    async def test_settle_of_a_child_whose_parent_has_ended_arrives_nowhere(self, scene: Scene) -> None:
        """It goes on to its own end; a later run of the parent's id has nothing of it."""
        parent = await scene.leased("p")
        await scene.invoke(parent, "c")
        await scene.done(parent)
        child = await scene.claim_one("c")
        assert not (await scene.done(child)).stale
        again = await scene.leased("p")
        await scene.suspend(again, waiting(1, "c", "invoke"))
        assert await scene.next_due() is None

    async def test_settle_of_a_completion_arrives_at_the_parent_of_its_batch(self, scene: Scene) -> None:
        """A batch is a child that has ended when its completion has."""
        parent = await scene.leased("p")
        await scene.invoke_batch(parent, "bat_a")
        await scene.suspend(parent)
        (entry,) = await scene.claim(destinations=("entry",))
        await scene.done(entry, FinishEntry("bat_a"), RecordPage("bat_a", 1, chunks=1), StartItems("bat_a", 0, ("u1",)))
        (item,) = await scene.items()
        assert (entry.depth, item.depth) == (1, 1)
        await scene.done(item)
        (complete,) = await scene.claim()
        assert (complete.id, complete.depth) == (ids.complete_id("bat_a"), 1)
        await scene.done(complete, result='"sum"')
        assert await scene.came("p") == [(1, "done", 1, '"sum"')]

    async def test_expire_of_a_child_arrives_once_it_is_dead(self, scene: Scene) -> None:
        """Killing worker after worker is a way to end."""
        await scene.parent("c")
        for _ in range(LOSS_LIMIT):
            await scene.claim_one("c")
            await scene.lose()
        (step,) = (await scene.claim_one("p")).journal
        assert (step.state, (step.error or "").split(":")[0]) == ("failed", "WorkerLost")

    async def test_cancel_run_of_a_child_arrives_at_its_parent(self, scene: Scene) -> None:
        """At once where it waits."""
        await scene.parent("c")
        assert await scene.store.cancel_run("c")
        assert await scene.came("p") == [(1, "cancelled", 1, None)]

    async def test_record_publishes_a_child_once(self, scene: Scene) -> None:
        """However often it is recorded; refused, it publishes none."""
        parent = await scene.leased("p")
        await asyncio.gather(*(scene.invoke(parent, "c") for _ in range(3)))
        child = await scene.claim_one("c")
        assert child.depth == 1
        await scene.done(child)
        await scene.invoke(parent, "c")
        assert await scene.next_due() is None
        await scene.store.cancel_run("p")
        effects = (Publish((message("d", parent=("p", 2)),)),)
        step = waiting(2, "d", "invoke")
        assert await scene.store.record("p", parent.fence, step, effects) == "cancelled"
        assert await scene.store.record("p", parent.fence + 1, step, effects) == "stale"
        assert await scene.store.run("d") is None

    async def test_record_opens_a_batch_once(self, scene: Scene) -> None:
        """One whose id is known is left as it is."""
        parent = await scene.leased("p")
        for _ in range(2):
            await scene.invoke_batch(parent, "bat_a")
        assert [batch.id for batch in await scene.store.batches()] == ["bat_a"]
        await scene.invoke_batch(parent, "bat_a", number=2, label="other")
        assert (await scene.batch()).label is None
        assert (await scene.batch()).working == 1

    @pytest.mark.parametrize("ending", ["done", "failed", "dead"])
    async def test_settle_of_a_parent_otherwise_leaves_its_children(self, scene: Scene, ending: str) -> None:
        """Only a cancelled one takes them along."""
        parent = await scene.leased("p")
        await scene.invoke(parent, "c")
        await scene.store.settle(end(parent, ending))
        await scene.claim_one("c")

    async def test_publish_ties_a_child_to_its_parent(self, scene: Scene) -> None:
        """As an effect does."""
        parent = await scene.leased("p")
        await scene.record(parent, waiting(1, "c", "invoke"))
        await scene.publish("c", parent=("p", 1), depth=3)
        child = await scene.claim_one("c")
        assert child.depth == 3
        await scene.done(child)
        await scene.suspend(parent)
        parent = await scene.claim_one("p")
        await scene.publish("d", parent=("p", 2))
        await scene.store.cancel_run("p")
        await scene.store.settle(settlement.cancelled(parent))
        assert await scene.store.run("d") is None

    async def test_open_batch_ties_a_batch_to_its_parent(self, scene: Scene) -> None:
        """It is cancelled with it."""
        await scene.publish("p", not_before=scene.now + 99_999)
        await scene.enter(parent=("p", 1))
        assert await scene.store.cancel_run("p")
        assert (await scene.batch()).state == "cancelling"
