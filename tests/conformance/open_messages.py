"""The messages of a batch that have not ended, for those who ask why it is not done."""

from batchflow.core import ids, settlement
from batchflow.core.batch import Failure
from batchflow.core.message import Claim, OpenMessage
from batchflow.core.settlement import FinishEntry, Publish, RecordPage, StartItems
from tests.conformance.scene import LEASE_MS, Cases, Scene, message, sleeping

BOOM = (Failure("Boom", "job.py:1 in execute", "Boom: no"),)


class OpenMessageCases(Cases):
    """`open_messages`."""

    async def test_open_messages_have_a_state_each(self, scene: Scene) -> None:
        """In the order of the states, with what an operator needs: error, attempts, next attempt, worker."""
        await scene.start(["u0", "u1", "u2", "u3", "u4", "u5"])
        first, second, third, running, done = await scene.items(5)
        began = scene.now
        await retry(scene, first, scene.now + 5_000)
        await scene.store.settle(settlement.parked(second, scene.now, "RateLimited: slow"))
        await scene.suspend(third, sleeping(1, "nap", scene.now + 9_000), until=scene.now + 9_000)
        await scene.done(done)
        found = await scene.store.open_messages("bat_a")
        assert [(it.item, it.number, it.state) for it in found] == [
            ("u0", 0, "retrying"),
            ("u1", 1, "parked"),
            ("u3", 3, "running"),
            ("u2", 2, "suspended"),
            ("u5", 5, "waiting"),
        ]
        retrying, parked, held, asleep, fresh = found
        assert (retrying.attempts, retrying.error, retrying.due_at) == (1, "Boom: no", began + 5_000)
        assert parked.due_at is None
        assert (held.id, held.worker, held.started_at, held.due_at) == (running.id, scene.worker, began, None)
        assert (asleep.due_at, asleep.started_at, asleep.error, asleep.worker) == (began + 9_000, began, None, None)
        assert fresh == OpenMessage(
            ids.item_run_id("bat_a", 5), "execute", "free", 5, "u5", "waiting", None, None, 0, None, None
        )

    async def test_open_messages_of_a_state_are_in_the_order_of_their_time(self, scene: Scene) -> None:
        """Those tried again soonest before the others; those that started first; what waits for no time comes last."""
        await scene.start([f"u{number}" for number in range(8)])
        claims = await scene.items(6)
        await retry(scene, claims[0], scene.now + 9_000)
        await retry(scene, claims[1], scene.now + 5_000)
        await scene.suspend(claims[2])
        await scene.suspend(claims[3], sleeping(1, "nap", scene.now + 7_000), until=scene.now + 7_000)
        scene.clock.advance("1s")
        await scene.items(1)
        assert await listed(scene) == [
            *("u1 retrying", "u0 retrying", "u4 running", "u5 running", "u6 running"),
            *("u3 suspended", "u2 suspended", "u7 waiting"),
        ]
        last = (await scene.store.open_messages("bat_a"))[-2]
        assert (last.item, last.due_at) == ("u2", None)

    async def test_open_messages_are_up_to_the_limit_of_each_state(self, scene: Scene) -> None:
        """However many others there are."""
        await scene.start([f"u{number:03d}" for number in range(300)])
        claims = await scene.items(120)
        for claim in claims[:60]:
            await retry(scene, claim, scene.now + 5_000)
        assert await listed(scene, limit=2) == [
            *("u000 retrying", "u001 retrying", "u060 running", "u061 running", "u120 waiting", "u121 waiting")
        ]

    async def test_open_messages_tell_lost_items(self, scene: Scene) -> None:
        """Until another worker has them; also one that is claimed alone from then on."""
        await scene.start(["u0"])
        await scene.items()
        for attempts in (1, 2):
            scene.clock.advance(f"{LEASE_MS}ms")
            await scene.store.expire()
            await scene.store.register(scene.worker, LEASE_MS)
            (lost,) = await scene.store.open_messages("bat_a")
            assert (lost.state, lost.attempts) == ("lost", attempts)
            assert lost.due_at == (None if attempts == 1 else scene.now + 1_000)
            scene.clock.advance("1s")
            await scene.items()
            assert await listed(scene) == ["u0 running"]

    async def test_open_messages_of_layers_are_apart(self, scene: Scene) -> None:
        """The entry, pages and chunks, with the error of one that is tried again; items are not among them."""
        entry = await scene.enter()
        assert await listed(scene, layers=True) == ["bat_a.e running"]
        pages = tuple(
            message(ids.page_id("bat_a", number), destination="page", batch="bat_a", held=number == 2)
            for number in (1, 2)
        )
        await scene.done(
            entry, FinishEntry("bat_a"), Publish(pages), RecordPage("bat_a", 1), StartItems("bat_a", 0, ("u0",))
        )
        (page,) = await scene.claim(destinations=("page",))
        await retry(scene, page, scene.now + 5_000)
        assert await listed(scene) == ["u0 waiting"]
        tried, held = await scene.store.open_messages("bat_a", layers=True)
        assert (tried.id, tried.state, tried.number, tried.item) == ("bat_a.p000000001", "retrying", -1, "")
        assert (tried.error, tried.due_at) == ("Boom: no", scene.now + 5_000)
        assert (held.id, held.state) == ("bat_a.p000000002", "waiting")

    async def test_open_messages_of_layers_include_the_completion(self, scene: Scene) -> None:
        """Whether it waits or runs, until it has ended."""
        await scene.start(["u0"])
        (item,) = await scene.items()
        await scene.done(item)
        assert await listed(scene, layers=True) == ["bat_a.z waiting"]
        (completion,) = await scene.completions()
        assert await listed(scene, layers=True) == ["bat_a.z running"]
        await retry(scene, completion, scene.now + 5_000)
        assert await listed(scene, layers=True) == ["bat_a.z retrying"]
        scene.clock.advance("5s")
        (completion,) = await scene.completions()
        await scene.done(completion)
        assert await listed(scene, layers=True) == []

    async def test_open_messages_are_those_of_one_batch(self, scene: Scene) -> None:
        """Dead letters, children of items and other batches are not among them; paused ones are."""
        await scene.start(["u0", "u1"])
        await scene.start(["v0"], "bat_b")
        first, _, _ = await scene.items()
        await scene.invoke(first, f"{first.id}.1")
        await scene.claim()
        await scene.dead(first)
        await scene.store.pause_batch("bat_a")
        assert await listed(scene) == ["u1 running"]
        assert await listed(scene, "bat_b") == ["v0 running"]
        assert await listed(scene, "bat_x") == await listed(scene, "bat_x", layers=True) == []


async def listed(scene: Scene, id: str = "bat_a", *, layers: bool = False, limit: int = 20) -> list[str]:
    """Item, or id, and state of each open message."""
    found = await scene.store.open_messages(id, layers=layers, limit=limit)
    return [f"{it.item or it.id} {it.state}" for it in found]


async def retry(scene: Scene, claim: Claim, due: int) -> None:
    """An attempt fails; the next one is at `due`."""
    ends = settlement.Settlement(claim.id, claim.fence, "retry", error="Boom: no", due=due, failures=BOOM)
    assert not (await scene.store.settle(ends)).stale
