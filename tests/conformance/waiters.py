"""Who waits for events, webhooks, and what tells of them with a step or with the end of a claim."""

import asyncio

from batchflow.core import settlement
from batchflow.core.run import Waiter
from batchflow.core.settlement import AcceptWebhook, Listen, Notify, Unlisten
from tests.conformance.scene import Cases, Scene, ran, waiting


class WaiterCases(Cases):
    """`waiters`, `webhook`; the effects Listen, Unlisten, Accept and Notify."""

    async def test_waiters_are_those_that_wait_now(self, scene: Scene) -> None:
        """Longest first, with their step, since when and until when; of this event only."""
        now = scene.now
        claim = await scene.leased("b")
        await scene.record(claim, waiting(1, "first"), Listen(1, "paid"))
        scene.clock.advance("1s")
        await scene.record(claim, waiting(2, "second", due=now + 9_000), Listen(2, "paid", now + 9_000))
        await scene.waits("a", until=now + 5_000)
        await scene.waits("c", "sent")
        assert list(await scene.store.waiters("paid")) == [
            Waiter("b", "first", now, None),
            Waiter("a", "wait", now + 1_000, now + 5_000),
            Waiter("b", "second", now + 1_000, now + 9_000),
        ]
        assert list(await scene.store.waiters("other")) == []

    async def test_waiters_are_no_more_once_they_were_told(self, scene: Scene) -> None:
        """Or have timed out, or have ended."""
        for id in ("told", "ended"):
            await scene.waits(id)
        await scene.waits("timed", until=scene.now + 5)
        await scene.store.notify("paid", "1", "told")
        await scene.store.cancel_run("ended")
        assert [waiter.run for waiter in await scene.store.waiters("paid")] == ["timed"]
        scene.clock.advance("5ms")
        assert list(await scene.store.waiters("paid")) == []

    async def test_waiters_are_no_more_once_they_do_not_listen(self, scene: Scene) -> None:
        """Those steps only that were named; others of the run, and other runs, go on waiting."""
        await scene.waits("b")
        claim = await scene.leased("a")
        for number in (1, 2, 3):
            await scene.listen(claim, number=number)
        await scene.suspend(claim, effects=(Unlisten((1, 3)),))
        found = [(waiter.run, waiter.step) for waiter in await scene.store.waiters("paid")]
        assert sorted(found) == [("a", "wait"), ("b", "wait")]
        assert sorted(await scene.store.notify("paid", "1")) == ["a", "b"]
        (claim,) = [claim for claim in await scene.claim() if claim.id == "a"]
        assert [step.state for step in claim.journal] == ["pending", "done", "pending"]

    async def test_webhook_names_the_run_that_accepted_it(self, scene: Scene) -> None:
        """The first one that did, until it has ended."""
        claim = await scene.leased("a")
        assert await scene.store.webhook("secret") is None
        await scene.record(claim, ran(1, "hook"), AcceptWebhook("secret"))
        other = await scene.leased("b")
        await scene.record(other, ran(1, "hook"), AcceptWebhook("secret"), AcceptWebhook("another"))
        assert await scene.store.webhook("secret") == "a"
        assert await scene.store.webhook("another") == "b"
        await scene.done(claim)
        assert await scene.store.webhook("secret") is None
        assert await scene.store.webhook("another") == "b"

    async def test_webhook_outlives_suspensions_and_losses(self, scene: Scene) -> None:
        """It is for the run, not for a claim of it."""
        claim = await scene.leased("a")
        await scene.record(claim, ran(1, "hook"), AcceptWebhook("secret"))
        await scene.suspend(claim, until=scene.now)
        await scene.claim_one("a")
        await scene.lose()
        assert await scene.store.webhook("secret") == "a"

    async def test_record_with_a_notification_wakes_others(self, scene: Scene) -> None:
        """With the step, not before and not without it."""
        await scene.waits("b")
        claim = await scene.leased("a")
        await scene.record(claim, ran(1, "tell"), Notify("paid", "1"), Notify("sent", "2", "b"))
        assert await scene.came("b") == [(1, "done", 1, "1")]
        assert await scene.store.record("a", claim.fence + 1, ran(2, "tell"), (Notify("sent", "3", "b"),)) == "stale"

    async def test_record_of_a_wait_takes_what_was_kept(self, scene: Scene) -> None:
        """Recorded again, it does not take a second one."""
        claim = await scene.leased("a")
        for data in ("1", "2"):
            await scene.store.notify("paid", data, "a")
        for _ in range(2):
            await scene.listen(claim, number=1)
        await asyncio.gather(*(scene.listen(claim, number=2) for _ in range(2)))
        await scene.listen(claim, number=3)
        await scene.suspend(claim)
        assert [step.value for step in (await scene.claim_one("a")).journal] == ["1", "2", None]

    async def test_settle_done_notifies(self, scene: Scene) -> None:
        """In the same transaction; a stale settlement tells nobody."""
        await scene.waits("b")
        claim = await scene.leased("a")
        await scene.done(claim, Notify("paid", "1"))
        assert (await scene.done(claim, Notify("paid", "2", "b"))).stale
        claim = await scene.claim_one("b")
        await scene.listen(claim, number=2)
        await scene.suspend(claim)
        assert await scene.next_due() is None

    async def test_settle_suspended_begins_waits(self, scene: Scene) -> None:
        """What was kept makes it due at once; else it waits for the next one."""
        await scene.store.settle(
            settlement.suspended(await scene.leased("a"), scene.now + 99_999, (waiting(1),), (Listen(1, "paid"),))
        )
        assert await scene.next_due() == scene.now + 99_999
        assert list(await scene.store.notify("paid", "1")) == ["a"]
        claim = await scene.claim_one("a")
        await scene.store.notify("paid", "2", "a")
        await scene.suspend(claim, waiting(2), effects=(Listen(2, "paid"),))
        assert [step.value for step in (await scene.claim_one("a")).journal] == ["1", "2"]

    async def test_settle_suspended_in_one_group_with_the_event(self, scene: Scene) -> None:
        """Whichever comes first, the run is woken."""
        claim = await scene.leased("a")
        await scene.listen(claim)
        _, told = await asyncio.gather(scene.suspend(claim), scene.store.notify("paid", "1"))
        assert list(told) == ["a"]
        claim = await scene.claim_one("a")
        await scene.listen(claim, number=2)
        await asyncio.gather(scene.store.notify("paid", "2"), scene.suspend(claim))
        assert [step.value for step in (await scene.claim_one("a")).journal] == ["1", "2"]

    async def test_on_change_tells_of_what_events_make_due(self, scene: Scene) -> None:
        """Of a notification, and of a step that is recorded with one or with a message."""
        told: list[bool] = []
        claim = await scene.leased("a")
        await scene.record(claim, ran(1, "quiet"))
        scene.store.on_change(told.append)
        await scene.store.notify("paid", "1")
        assert False in told
        told.clear()
        await scene.record(claim, ran(2, "tell"), Notify("paid", "1"))
        assert False in told
        told.clear()
        await scene.invoke(claim, "child", number=3)
        assert False in told
