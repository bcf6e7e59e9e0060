"""The ledger of what is processed."""

from batchflow.core import settlement
from batchflow.testing.conformance.scene import Cases, Scene


class LedgerCases(Cases):
    """`processed`, `mark`, `forget`, and the marks that `settle` makes."""

    async def test_processed_knows_what_succeeded(self, scene: Scene) -> None:
        """Neither what failed, nor what is in flight, nor what nobody has seen."""
        await scene.start(["u0", "u1", "u2", "u3"])
        claims = await scene.items()
        await scene.done(claims[0])
        await scene.dead(claims[1])
        await scene.store.settle(settlement.cancelled(claims[2]))
        assert await scene.store.processed("welcome", ["u0", "u1", "u2", "u3", "u4"]) == {"u0"}

    async def test_processed_is_a_matter_of_one_workflow(self, scene: Scene) -> None:
        """The same id in another one is another item."""
        await scene.store.mark("welcome", ["u1"], None)
        assert await scene.store.processed("farewell", ["u1"]) == frozenset()

    async def test_processed_takes_any_number_of_ids(self, scene: Scene) -> None:
        """None, one that comes twice, or thousands."""
        many = [f"u{number}" for number in range(3_000)]
        await scene.store.mark("welcome", many, None)
        assert await scene.store.processed("welcome", []) == frozenset()
        assert await scene.store.processed("welcome", ["u1", "u1"]) == {"u1"}
        assert await scene.store.processed("welcome", [*many, "other"]) == set(many)

    async def test_processed_forgets_a_mark_that_has_expired(self, scene: Scene) -> None:
        """The batch says how long an item counts as processed."""
        await scene.start(["u1"], ledger_ttl=1_000)
        await scene.done((await scene.items())[0])
        scene.clock.advance("999ms")
        assert await scene.store.processed("welcome", ["u1"]) == {"u1"}
        scene.clock.advance("1ms")
        assert await scene.store.processed("welcome", ["u1"]) == frozenset()

    async def test_processed_never_forgets_without_an_expiry(self, scene: Scene) -> None:
        """It outlives the batch."""
        await scene.start(["u1"])
        await scene.done((await scene.items())[0])
        scene.clock.advance("3650d")
        while await scene.store.prune(1):
            pass
        assert await scene.store.processed("welcome", ["u1"]) == {"u1"}

    async def test_processed_keeps_the_mark_while_an_item_is_done_again(self, scene: Scene) -> None:
        """Forced a second time: the old mark holds meanwhile, and a failure does not take it away."""
        await scene.start(["u1"])
        await scene.done((await scene.items())[0])
        await scene.start(["u1"], id="bat_b", force=True)
        assert await scene.store.processed("welcome", ["u1"]) == {"u1"}
        await scene.dead((await scene.items())[0])
        assert await scene.store.processed("welcome", ["u1"]) == {"u1"}

    async def test_mark_may_be_repeated(self, scene: Scene) -> None:
        """The latest expiry holds."""
        await scene.store.mark("welcome", ["u1", "u1"], 1_000)
        await scene.store.mark("welcome", ["u1"], 5_000)
        scene.clock.advance("4s")
        assert await scene.store.processed("welcome", ["u1"]) == {"u1"}
        scene.clock.advance("1s")
        assert await scene.store.processed("welcome", ["u1"]) == frozenset()

    async def test_mark_of_nothing_is_nothing(self, scene: Scene) -> None:
        """An empty list marks no item."""
        await scene.store.mark("welcome", [], None)

    async def test_mark_leaves_an_item_in_flight(self, scene: Scene) -> None:
        """Another batch still does not start it."""
        await scene.start(["u1"])
        await scene.store.mark("welcome", ["u1"], None)
        await scene.start(["u1"], id="bat_b")
        assert (await scene.counts("bat_b")).in_flight == 1

    async def test_forget_takes_some_marks_away(self, scene: Scene) -> None:
        """And says how many there were."""
        await scene.store.mark("welcome", ["u1", "u2", "u3"], None)
        assert await scene.store.forget("welcome", ["u1", "u3", "u9"]) == 2
        assert await scene.store.processed("welcome", ["u1", "u2", "u3"]) == {"u2"}
        assert await scene.store.forget("welcome", ["u1"]) == 0

    async def test_forget_takes_all_marks_of_a_workflow_away(self, scene: Scene) -> None:
        """And leaves those of others."""
        await scene.store.mark("welcome", ["u1", "u2"], None)
        await scene.store.mark("farewell", ["u1"], None)
        assert await scene.store.forget("welcome") == 2
        assert await scene.store.processed("welcome", ["u1", "u2"]) == frozenset()
        assert await scene.store.processed("farewell", ["u1"]) == {"u1"}
        assert await scene.store.forget("nobody") == 0

    async def test_forget_leaves_an_item_in_flight(self, scene: Scene) -> None:
        """It is no mark; the mark of one that is done again is."""
        await scene.store.mark("welcome", ["u1"], None)
        await scene.start(["u1", "u2"], force=True)
        assert await scene.store.forget("welcome") == 1
        assert await scene.store.processed("welcome", ["u1"]) == frozenset()
        await scene.start(["u1", "u2"], id="bat_b")
        assert (await scene.counts("bat_b")).in_flight == 2
