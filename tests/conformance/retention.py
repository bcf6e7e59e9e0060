"""What retention removes, and what it leaves."""

from batchflow.core.dead_letters import DeadLetterQuery
from tests.conformance.scene import Cases, Scene

DAY = 86_400_000


async def prune(scene: Scene, retention_ms: int = DAY) -> int:
    """All slices of it; how many rows went."""
    rows = 0
    while gone := await scene.store.prune(retention_ms):
        rows += gone
    return rows


class RetentionCases(Cases):
    """`prune`, `reconcile`, `was_emptied`."""

    async def test_prune_removes_old_finished_runs(self, scene: Scene) -> None:
        """With their journals; younger ones stay."""
        await scene.done(await scene.leased("old", keep=True))
        scene.clock.advance("2d")
        await scene.done(await scene.leased("new", keep=True))
        assert await prune(scene) == 1
        assert await scene.store.run("old") is None
        assert await scene.store.run("new") is not None

    async def test_prune_removes_old_dead_letters(self, scene: Scene) -> None:
        """Younger ones stay."""
        await scene.dead(await scene.leased("old"))
        scene.clock.advance("2d")
        await scene.dead(await scene.leased("new"))
        assert await prune(scene) == 1
        assert [letter.id for letter in await scene.store.dead_letters()] == ["new"]

    async def test_prune_removes_ended_batches_with_their_items(self, scene: Scene) -> None:
        """Of those that ended long enough ago and whose completion is through."""
        await scene.start(["u1", "u2"])
        for claim in await scene.items():
            await scene.done(claim)
        await scene.done((await scene.completions())[0])
        await scene.start(["u3"], id="bat_b")
        scene.clock.advance("2d")
        assert await prune(scene) == 3
        assert await scene.store.batch("bat_a") is None
        assert await scene.store.items("bat_a") == []
        assert (await scene.batch("bat_b")).state == "sealed"

    async def test_prune_waits_for_the_completion_of_a_batch(self, scene: Scene) -> None:
        """What a waiting message belongs to is not removed."""
        await scene.start([])
        scene.clock.advance("2d")
        assert await prune(scene) == 0
        (completion,) = await scene.completions()
        assert completion.params == '{"p":1}'

    async def test_prune_removes_expired_marks(self, scene: Scene) -> None:
        """As soon as they have expired; others never."""
        await scene.store.mark("welcome", ["u1", "u2"], 1_000)
        await scene.store.mark("welcome", ["u3"], None)
        assert await prune(scene) == 0
        scene.clock.advance("1s")
        assert await prune(scene) == 2
        assert await scene.store.processed("welcome", ["u1", "u2", "u3"]) == {"u3"}

    async def test_prune_leaves_what_waits(self, scene: Scene) -> None:
        """A message that sleeps for a year is no old one."""
        await scene.publish("a", not_before=scene.now + 365 * DAY)
        scene.clock.advance("364d")
        assert await prune(scene) == 0
        scene.clock.advance("1d")
        await scene.claim_one("a")

    async def test_prune_ends_what_it_began_in_slices(self, scene: Scene) -> None:
        """However many rows there are, it comes to an end, and then answers 0."""
        await scene.store.mark("welcome", [f"u{number}" for number in range(6_000)], 1_000)
        scene.clock.advance("1s")
        assert await prune(scene) == 6_000
        assert await scene.store.prune(DAY) == 0

    async def test_prune_leaves_batches_apart_that_came_later(self, scene: Scene) -> None:
        """A batch made after others were removed has nothing of theirs."""
        await scene.start(["u1"], params="1", complete=None)
        await scene.dead((await scene.items())[0])
        scene.clock.advance("12h")
        await scene.start([], id="bat_b", params="2", complete=None)
        scene.clock.advance("13h")
        assert await prune(scene) == 3
        await scene.start(["u2"], id="bat_c", params="3", workflow="farewell", complete=None)
        (claim,) = await scene.items()
        assert (claim.batch, claim.params) == ("bat_c", "3")
        assert await scene.store.dead_letters(DeadLetterQuery(batch="bat_c")) == []

    # What is half done

    async def test_reconcile_leaves_alone_what_is_whole(self, scene: Scene) -> None:
        """What is leased, waits, sleeps or has ended, and the places that are held."""
        await scene.done(await scene.leased("ended", keep=True))
        await scene.start(["u1", "u2", "u3"])
        await scene.publish("waits", keep=True)
        await scene.claim(2)
        before = [(flow.limits.key, flow.in_use, flow.waiting) for flow in await scene.store.flows()]
        assert await scene.store.reconcile(("work",)) == 0
        assert await scene.store.reconcile(("work",), deep=True) == 0
        assert [(flow.limits.key, flow.in_use, flow.waiting) for flow in await scene.store.flows()] == before

    async def test_was_emptied_says_no_of_a_place_that_holds_what_it_held(self, scene: Scene) -> None:
        """However much was written since it was opened."""
        await scene.publish("a")
        assert not await scene.store.was_emptied()
