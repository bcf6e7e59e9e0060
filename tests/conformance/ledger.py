"""The ledger of what is processed."""

from batchflow.core import settlement
from batchflow.core.batch import Mark
from tests.conformance.scene import Cases, Scene


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

    async def test_processed_compares_ids_whole(self, scene: Scene) -> None:
        """Also those that hold a NUL, quotes, separators, or what looks like a number or a pattern."""
        odd = [
            "a",
            "a\0b",
            "a\0",
            "\0",
            "a\nb",
            'a"b',
            "1",
            "01",
            "1.0",
            "%",
            "a|b",
            "ü",
            "日本",
            "{",
            "a:b",
            " a",
            "a ",
        ]
        for id in odd:
            await scene.store.mark("welcome", [id], None)
            assert await scene.store.processed("welcome", odd) == {id}
            assert await scene.store.forget("welcome", [id]) == 1

    async def test_settle_marks_ids_whole(self, scene: Scene) -> None:
        """An item whose id holds a NUL is processed, and not started again; one whose id begins alike is."""
        await scene.start(["a\0b", "c"])
        for claim in await scene.items():
            await scene.done(claim)
        assert await scene.store.processed("welcome", ["a", "a\0b", "a\0", "c"]) == {"a\0b", "c"}
        await scene.start(["a", "a\0b", "a\0"], id="bat_b")
        assert await scene.states("bat_b") == [("a", "open"), ("a\0", "open")]
        assert (await scene.counts("bat_b")).already_processed == 1

    async def test_ledgers_are_those_that_hold_something(self, scene: Scene) -> None:
        """By name; one in which something is only in flight holds nothing."""
        assert await scene.store.ledgers() == []
        await scene.store.mark("welcome", ["u1"], None)
        await scene.store.mark('report{"year":2030}', ["u1"], None)
        await scene.start(["u1"], workflow="farewell")
        assert await scene.store.ledgers() == ['report{"year":2030}', "welcome"]
        await scene.store.forget("welcome")
        assert await scene.store.ledgers() == ['report{"year":2030}']

    async def test_marks_are_read_page_by_page(self, scene: Scene) -> None:
        """Each once, with the time at which it expires; those that have expired are not among them."""
        many = [f"u{number:04d}" for number in range(250)]
        await scene.store.mark("welcome", many, None)
        await scene.store.mark("welcome", ["soon"], 5_000)
        await scene.store.mark("welcome", ["gone", "a\0b"], 1)
        await scene.store.mark("welcome", ["a\0b"], None)
        scene.clock.advance("1s")
        found: list[Mark] = []
        while page := await scene.store.marks("welcome", after=found[-1].item if found else None, limit=100):
            found += page
        forever = [Mark(id) for id in [*many, "a\0b"]]
        assert sorted(found) == sorted([*forever, Mark("soon", scene.now + 4_000)])
        assert await scene.store.marks("nobody") == []

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
        assert await scene.store.processed("welcome", ["u1"]) == frozenset()

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
