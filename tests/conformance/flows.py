"""Flow keys: their limits at the claim, and the operator's verbs."""

import asyncio
import itertools

from batchflow.core import settlement
from batchflow.core.flow import CATCH_UP_MS, FlowControl
from batchflow.core.message import Claim
from tests.conformance.scene import Cases, Scene, message, names

ONE = FlowControl(key="one", parallelism=1)


class FlowCases(Cases):
    """`claim` under limits, and `declare`, `pin`, `unpin`, `flows`."""

    # Parallelism

    async def test_flows_without_what_waits_are_the_same_otherwise(self, scene: Scene) -> None:
        """What waits is not counted, however much it is."""
        await scene.publish("a", "b", "c")
        await scene.claim(1)
        (counted,), (bare,) = await scene.store.flows(["free"]), await scene.store.flows(["free"], waiting=False)
        assert (counted.in_use, counted.waiting) == (1, 2)
        assert bare == counted._replace(waiting=0)
        assert bare in await scene.store.flows(waiting=False)

    async def test_claim_keeps_the_parallelism_of_a_key(self, scene: Scene) -> None:
        """As many as the key allows, and as one ends the next."""
        await scene.publish("a", "b", "c", "d", flow=FlowControl(key="two", parallelism=2))
        held = await scene.claim()
        assert names(held) == ["a", "b"]
        assert await scene.next_due() is None
        assert (await scene.flow("two")).in_use == 2
        await scene.done(held[0])
        assert names(await scene.claim()) == ["c"]

    async def test_claim_keeps_the_parallelism_over_all_destinations_of_a_key(self, scene: Scene) -> None:
        """Messages of one key to several destinations share its places."""
        for destination in ("work", "other", "execute"):
            await scene.publish(destination, destination=destination, flow=ONE)
        ended: list[str] = []
        for _ in range(3):
            (claim,) = await scene.claim()
            assert (await scene.flow("one")).in_use == 1
            ended.append(claim.id)
            await scene.done(claim)
        assert sorted(ended) == ["execute", "other", "work"]

    async def test_claim_keeps_the_parallelism_over_all_workers(self, scene: Scene) -> None:
        """However many claim at the same moment."""
        workers = [f"w{number}" for number in range(2, 7)]
        for worker in workers:
            await scene.store.register(worker, 30_000)
        await scene.publish(*"abcdefgh", flow=FlowControl(key="three", parallelism=3))
        claims = await asyncio.gather(*(scene.claim(worker=worker) for worker in workers))
        assert sum(len(some) for some in claims) == 3

    async def test_claim_holds_no_place_while_a_message_waits(self, scene: Scene) -> None:
        """A run that sleeps, retries or is parked has given its place back."""
        await scene.publish("a", "b", "c", flow=ONE)
        for id in ("a", "b", "c"):
            claim = await scene.claim_one(id)
            await scene.store.settle(settlement.suspended(claim, scene.now + 1_000, ()))
        assert (await scene.flow("one")).in_use == 0
        assert (await scene.flow("one")).waiting == 3

    async def test_claim_does_not_let_a_full_key_hold_up_others(self, scene: Scene) -> None:
        """A key without a free place is passed over."""
        await scene.publish("a", "b", flow=ONE)
        await scene.publish("c")
        assert sorted(names(await scene.claim())) == ["a", "c"]

    # Rate

    async def test_claim_spreads_the_rate_evenly(self, scene: Scene) -> None:
        """10 a second is one each 100 ms, not ten at the turn of a second."""
        await scene.publish(*(f"m{number:02d}" for number in range(10)), flow=FlowControl(key="ten", rate=10))
        starts = await _starts(scene)
        assert len(starts) == 10
        gaps = [late - early for early, late in itertools.pairwise(starts)]
        assert 100 - CATCH_UP_MS <= gaps[0] <= 100
        assert set(gaps[1:]) == {100}

    async def test_claim_does_not_drift_from_a_rate_that_is_no_whole_number(self, scene: Scene) -> None:
        """3 a second are 31 starts in 10 seconds, the first one included."""
        await scene.publish(*(f"m{number:02d}" for number in range(40)), flow=FlowControl(key="three", rate=3))
        starts = await _starts(scene, 31)
        assert 10_000 - CATCH_UP_MS <= starts[-1] - starts[0] <= 10_001

    async def test_claim_catches_up_little_after_an_idle_time(self, scene: Scene) -> None:
        """Starts missed while nobody asked are lost but for those of the last 10 ms."""
        await scene.publish(*(f"m{number:02d}" for number in range(40)), flow=FlowControl(key="fast", rate=100))
        await scene.claim()
        scene.clock.advance("10s")
        assert len(await scene.claim()) <= CATCH_UP_MS // 10 + 1

    async def test_claim_says_when_the_rate_allows_the_next(self, scene: Scene) -> None:
        """Whoever comes at that time finds a start."""
        await scene.publish("a", "b", flow=FlowControl(key="slow", rate=1, period="1m"))
        claimed = await scene.claimed()
        assert names(claimed.claims) == ["a"]
        assert claimed.next_due is not None
        assert scene.now + 60_000 - CATCH_UP_MS <= claimed.next_due <= scene.now + 60_000
        scene.clock.move_to(claimed.next_due)
        assert names(await scene.claim()) == ["b"]

    async def test_claim_takes_both_limits_or_neither(self, scene: Scene) -> None:
        """A start that finds no free place is not used up."""
        limits = FlowControl(key="both", parallelism=1, rate=1, period="1s")
        await scene.publish("a", "b", flow=limits)
        claim = await scene.claim_one("a")
        scene.clock.advance("1s")
        assert await scene.claim() == []
        await scene.done(claim)
        await scene.claim_one("b")

    async def test_claim_keeps_the_rate_over_all_destinations_of_a_key(self, scene: Scene) -> None:
        """One start is one start, whatever it is for."""
        for destination in ("work", "other"):
            await scene.publish(destination, destination=destination, flow=FlowControl(key="r", rate=1))
        assert len(await scene.claim()) == 1
        scene.clock.advance("1s")
        assert len(await scene.claim()) == 1

    # Parked keys

    async def test_claim_leaves_a_parked_key_alone_until_then(self, scene: Scene) -> None:
        """All of the key waits, not only the message that was told to; other keys go on."""
        await scene.publish("a", "b", flow=ONE)
        claim = await scene.claim_one("a")
        await scene.store.settle(settlement.parked(claim, scene.now + 5_000, "RateLimited: later"))
        assert (await scene.flow("one")).parked_until == scene.now + 5_000
        await scene.publish("free")
        assert await scene.claim_one("free")
        assert await scene.next_due() == scene.now + 5_000
        scene.clock.advance("5s")
        assert names(await scene.claim()) == ["a"]

    # The operator's verbs

    async def test_declare_sets_the_limits_of_the_code(self, scene: Scene) -> None:
        """Of keys that are new and of keys that are there."""
        await scene.store.declare([FlowControl(key="a", parallelism=1), FlowControl(key="b", rate=2)])
        await scene.store.declare([FlowControl(key="a", parallelism=4)])
        limits = {flow.limits.key: flow.limits for flow in await scene.store.flows(["a", "b"])}
        assert limits == {"a": FlowControl(key="a", parallelism=4), "b": FlowControl(key="b", rate=2)}

    async def test_declare_leaves_pinned_limits_alone(self, scene: Scene) -> None:
        """A restart of the program does not undo what an operator did."""
        await scene.store.pin(FlowControl(key="a", parallelism=1))
        await scene.store.pause("a")
        await scene.store.declare([FlowControl(key="a", parallelism=9)])
        status = await scene.flow("a")
        assert (status.limits.parallelism, status.pinned, status.paused) == (1, True, True)

    async def test_pin_is_in_force_at_once(self, scene: Scene) -> None:
        """Wider and narrower; what runs already is left to end."""
        await scene.publish(*"abcdef", flow=ONE)
        await scene.store.pin(FlowControl(key="one", parallelism=3))
        held = await scene.claim()
        assert len(held) == 3
        await scene.store.pin(FlowControl(key="one", parallelism=1))
        await scene.done(held[0])
        await scene.done(held[1])
        assert await scene.claim() == []
        await scene.done(held[2])
        assert len(await scene.claim()) == 1

    async def test_pin_of_one_limit_leaves_the_other_alone(self, scene: Scene) -> None:
        """Parallelism and rate are two pins; either is taken off by itself."""
        await scene.store.declare([FlowControl(key="one", parallelism=4, rate=8)])
        await scene.store.pin(FlowControl(key="one", parallelism=1))
        await scene.store.pin(FlowControl(key="one", rate=2, period="1m"))
        status = await scene.flow("one")
        assert status.limits == FlowControl(key="one", parallelism=1, rate=2, period="1m")
        assert (status.pinned_parallelism, status.pinned_rate) == (True, True)
        await scene.store.unpin("one", rate=False)
        status = await scene.flow("one")
        assert status.limits == FlowControl(key="one", parallelism=4, rate=2, period="1m")
        assert (status.pinned_parallelism, status.pinned_rate) == (False, True)
        await scene.store.unpin("one", parallelism=False)
        assert (await scene.flow("one")).limits == FlowControl(key="one", parallelism=4, rate=8)

    async def test_pin_of_a_rate_has_its_own_burst(self, scene: Scene) -> None:
        """Not that of the code, which is in force again with the unpin."""
        await scene.publish(*(f"m{number:02d}" for number in range(20)), flow=FlowControl(key="one", rate=9, burst=2))
        await scene.store.pin(FlowControl(key="one", rate=5, period="1d", burst=5))
        assert (await scene.flow("one")).limits == FlowControl(key="one", rate=5, period="1d", burst=5)
        assert len(await scene.claim()) == 5
        await scene.store.pin(FlowControl(key="one", parallelism=50))
        assert (await scene.flow("one")).limits.burst == 5
        await scene.store.pin(FlowControl(key="one", rate=5))
        assert (await scene.flow("one")).limits.burst == 1
        await scene.store.unpin("one")
        assert (await scene.flow("one")).limits == FlowControl(key="one", rate=9, burst=2)

    async def test_unpin_of_a_rate_is_in_force_at_once(self, scene: Scene) -> None:
        """What it has held back starts, and so does what another pin or the code lets start."""
        await scene.publish(*"abcd")
        await scene.publish("other", destination="other")
        for limits in (FlowControl(key="free", rate=1, period="1d"), FlowControl(key="free", rate=1, period="2d")):
            await scene.store.pin(limits)
            assert len(await scene.claim()) == 1
            assert (await scene.next_due() or 0) > scene.now + 80_000_000
        await scene.store.unpin("free")
        assert len(await scene.claim()) == 3

    async def test_publish_with_a_wider_rate_is_in_force_at_once(self, scene: Scene) -> None:
        """For what waits under the old one too."""
        await scene.publish("a", "b", "c", flow=FlowControl(key="one", rate=1, period="1d"))
        assert names(await scene.claim()) == ["a"]
        assert await scene.claim() == []
        await scene.publish("d", flow=FlowControl(key="one"))
        assert names(await scene.claim()) == ["b", "c", "d"]

    async def test_claim_does_not_believe_a_start_far_ahead(self, scene: Scene) -> None:
        """What a rate held back when the clock was set back starts by the clock there is."""
        await scene.publish("a", "b", "c", flow=FlowControl(key="slow", rate=1, period="1m"))
        assert names(await scene.claim()) == ["a"]
        assert await scene.next_due() is not None
        scene.clock.move_to(scene.now - 3_600_000)
        assert names(await scene.claim()) == ["b"]
        assert await scene.claim() == []
        scene.clock.advance("1m")
        assert names(await scene.claim()) == ["c"]

    async def test_claim_serves_a_quiet_key_when_it_is_due_beside_many(self, scene: Scene) -> None:
        """It has waited longer than any that was served meanwhile."""
        await scene.publish("quiet", not_before=scene.now + 1_000, flow=FlowControl(key="z"))
        many = [message(f"m{number:03d}", flow=FlowControl(key=f"k{number % 100:02d}")) for number in range(300)]
        await scene.store.publish(many)
        for _ in range(10):
            assert len(await scene.claim(10)) == 10
        assert "quiet" not in names(await scene.claim(10))
        scene.clock.advance("1s")
        assert "quiet" in names(await scene.claim(10))

    async def test_pause_holds_a_key_until_it_is_resumed(self, scene: Scene) -> None:
        """Nothing of it starts, and time alone does not help; pins neither begin nor end it."""
        await scene.publish("a", "b")
        await scene.store.pause("free")
        assert (await scene.flow()).paused
        assert await scene.next_due() is None
        await scene.store.pin(FlowControl(key="free", parallelism=5))
        await scene.store.unpin("free")
        assert await scene.claim() == []
        await scene.store.resume("free")
        assert len(await scene.claim()) == 2

    async def test_resume_of_what_is_not_paused_does_nothing(self, scene: Scene) -> None:
        """Known or not, and twice as once."""
        await scene.store.resume("nobody")
        assert await scene.store.flows(["nobody"]) == []
        await scene.publish("a")
        await scene.store.resume("free")
        assert len(await scene.claim()) == 1

    async def test_pause_of_a_key_nobody_knows_waits_for_it(self, scene: Scene) -> None:
        """An operator may come before the first message."""
        await scene.store.pause("free")
        await scene.publish("a")
        assert await scene.claim() == []

    async def test_pin_may_be_repeated(self, scene: Scene) -> None:
        """The same pin twice is the same as once."""
        await scene.store.pin(ONE)
        once = await scene.flow("one")
        await scene.store.pin(ONE)
        assert await scene.flow("one") == once

    async def test_unpin_puts_the_codes_latest_limits_in_force(self, scene: Scene) -> None:
        """Those declared while it was pinned."""
        await scene.publish("a", "b", "c", flow=ONE)
        await scene.store.pin(FlowControl(key="one", parallelism=1))
        await scene.store.declare([FlowControl(key="one", parallelism=2)])
        await scene.store.unpin("one")
        status = await scene.flow("one")
        assert (status.limits, status.pinned, status.paused) == (FlowControl(key="one", parallelism=2), False, False)
        assert len(await scene.claim()) == 2

    async def test_unpin_of_an_unknown_key_does_nothing(self, scene: Scene) -> None:
        """And so does the second of two."""
        await scene.store.unpin("nobody")
        assert await scene.store.flows(["nobody"]) == []

    async def test_publish_leaves_the_limits_of_a_declared_key_alone(self, scene: Scene) -> None:
        """No message changes what the code says; those of any other key follow the latest message."""
        await scene.store.declare([FlowControl(key="one", parallelism=3)])
        await scene.publish("a", flow=FlowControl(key="one", parallelism=1, rate=1, period="36500d"))
        await scene.publish("b", flow=FlowControl(key="two", parallelism=1))
        await scene.publish("c", flow=FlowControl(key="two", parallelism=2, rate=5, burst=3))
        assert (await scene.flow("one")).limits == FlowControl(key="one", parallelism=3)
        assert (await scene.flow("two")).limits == FlowControl(key="two", parallelism=2, rate=5, burst=3)

    async def test_claim_starts_a_burst_after_a_pause(self, scene: Scene) -> None:
        """As many at once as were not started meanwhile, up to the burst; then the rate again."""
        await scene.publish(*(f"m{number:02d}" for number in range(30)), flow=FlowControl(key="b", rate=10, burst=4))
        assert len(await scene.claim()) == 4
        scene.clock.advance("100ms")
        assert len(await scene.claim()) == 1
        scene.clock.advance("10s")
        assert len(await scene.claim()) == 4

    async def test_expire_removes_keys_that_are_idle(self, scene: Scene) -> None:
        """Those that no code declares, that hold nothing, not even a dead letter, and that nobody pinned or paused."""
        await scene.store.declare([FlowControl(key="declared")])
        await scene.store.pin(FlowControl(key="pinned", parallelism=1))
        await scene.store.pause("paused")
        await scene.publish("w", flow=FlowControl(key="waiting"), not_before=scene.now + 100_000)
        await scene.publish("d", flow=FlowControl(key="dead"))
        await scene.dead(await scene.claim_one("d"))
        held = await scene.leased("h", flow=FlowControl(key="leased"))
        await scene.done(await scene.leased("i", flow=FlowControl(key="idle", rate=1, period="10s")))
        await scene.store.expire()
        kept = {"dead", "declared", "leased", "paused", "pinned", "waiting"}
        assert {flow.limits.key for flow in await scene.store.flows()} == {*kept, "idle"}
        scene.clock.advance("10s")
        await scene.store.expire()
        assert {flow.limits.key for flow in await scene.store.flows()} == kept
        assert await scene.store.redrive("d")
        await scene.done(await scene.claim_one("d"))
        await scene.done(held)
        await scene.store.expire()
        assert {flow.limits.key for flow in await scene.store.flows()} == kept - {"dead", "leased"}
        await scene.leased("i", flow=FlowControl(key="idle", rate=1, period="10s"))

    async def test_expire_removes_thousands_of_idle_keys(self, scene: Scene) -> None:
        """A slice each time, until all are gone."""
        many = [message(f"m{number:04d}", flow=FlowControl(key=f"k{number:04d}")) for number in range(2_200)]
        await scene.store.publish(many)
        while claims := await scene.claim(500):
            await asyncio.gather(*(scene.done(claim) for claim in claims))
        for _ in range(6):
            await scene.store.expire()
        assert await scene.store.flows() == []

    async def test_flows_of_odd_names_are_those_names(self, scene: Scene) -> None:
        """What is asked for is compared whole."""
        await scene.publish("a", flow=FlowControl(key="a"))
        assert await scene.store.flows(["a\0b"]) == []

    async def test_flows_are_listed_by_name(self, scene: Scene) -> None:
        """All of them, or those that are asked for and known."""
        for key in ("b", "a", "c"):
            await scene.publish(key, flow=FlowControl(key=key))
        assert [flow.limits.key for flow in await scene.store.flows()] == ["a", "b", "c"]
        assert [flow.limits.key for flow in await scene.store.flows(["c", "x", "a"])] == ["a", "c"]
        assert await scene.store.flows([]) == []

    async def test_flows_tell_what_a_key_holds(self, scene: Scene) -> None:
        """How many run, and how many wait, due or not."""
        await scene.publish("a", "b", flow=ONE)
        await scene.publish("later", flow=ONE, not_before=scene.now + 1_000)
        await scene.claim()
        status = await scene.flow("one")
        assert (status.in_use, status.waiting) == (1, 2)


async def _starts(scene: Scene, count: int = 1_000) -> list[int]:
    """The times at which claims start when one comes whenever there may be more, each ending at once."""
    starts: list[int] = []
    while len(starts) < count:
        claimed = await scene.claimed()
        starts.extend([scene.now] * len(claimed.claims))
        held: list[Claim] = list(claimed.claims)
        for claim in held:
            await scene.done(claim)
        if claimed.next_due is None:
            break
        scene.clock.move_to(max(scene.now, claimed.next_due))
    return starts

    async def test_claim_finds_its_own_beside_much_that_waits_for_others(self, scene: Scene) -> None:
        """Keys of destinations that nobody serves, all of them due before its own."""
        await scene.store.publish(
            [
                message(f"a{number:03d}", destination="other", flow=FlowControl(key=f"k{number:03d}"))
                for number in range(300)
            ]
        )
        await scene.publish("mine", flow=FlowControl(key="z"))
        assert names(await scene.claim(1, destinations=("work",))) == ["mine"]

    async def test_claim_says_when_its_own_is_due_beside_what_waits_for_others(self, scene: Scene) -> None:
        """Under one key: what is due there for another destination is no reason to come again at once."""
        await scene.publish("other", destination="other")
        await scene.publish("mine", not_before=scene.clock.now() + 5_000)
        claimed = await scene.store.claim(scene.worker, ("work",), 10)
        assert names(claimed.claims) == []
        assert claimed.next_due == scene.clock.now() + 5_000
