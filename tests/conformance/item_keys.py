"""Items with a flow key of their own, which take the room of that key and of their batch's, or of neither."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from batchflow.core import settlement
from batchflow.core.flow import CATCH_UP_MS, FlowControl
from batchflow.core.message import LOSS_LIMIT, Claim
from batchflow.core.settlement import FinishEntry, RecordPage, StartItems
from tests.conformance.scene import LEASE_MS, Cases, Scene

LAYER = FlowControl(key="layer")


def tenant(name: str, parallelism: int | None = 1, **limits: Any) -> FlowControl:
    """The limits of a tenant, one item at a time unless said otherwise."""
    return FlowControl(key=f"tenant-{name}", parallelism=parallelism, **limits)


async def start(
    scene: Scene,
    tenants: Iterable[str],
    id: str = "bat_a",
    *,
    layer: FlowControl = LAYER,
    limits: Callable[[str], FlowControl] = tenant,
    **changes: Any,
) -> Sequence[str]:
    """A batch with one item for each name, of the tenant that the name begins with; '-' has no key of its own."""
    names = list(tenants)
    flows = tuple(None if name[0] == "-" else limits(name[0]) for name in names)
    entry = await scene.enter(id, flow=layer, **{"complete": None, **changes})
    page = RecordPage(id, eligible=len(names), chunks=1)
    await scene.done(entry, FinishEntry(id), page, StartItems(id, 0, tuple(names), flows=flows))
    return names


async def start_items(scene: Scene, keys: int, layer: FlowControl, *, twice: bool) -> None:
    """A batch with an item under each of so many keys that let one run at a time, or with two."""
    names = [f"u{number}" for number in range(keys * (1 + twice))]
    flows = tuple(FlowControl(key=f"k{number % keys}", parallelism=1) for number in range(len(names)))
    entry = await scene.enter(flow=layer, complete=None)
    effects = [
        StartItems("bat_a", first, tuple(names[first : first + 1_000]), flows=flows[first : first + 1_000])
        for first in range(0, len(names), 1_000)
    ]
    await scene.done(entry, FinishEntry("bat_a"), *effects)


def items(claims: Iterable[Claim]) -> list[str]:
    """The items of claims, by id."""
    return sorted(claim.item for claim in claims)


class ItemKeyCases(Cases):
    """`claim` and the ends of claims, of items whose start has limits of its own."""

    # Both have room, or neither is taken

    async def test_claim_runs_one_item_of_a_key_at_a_time(self, scene: Scene) -> None:
        """And those of others beside it; the next one starts when it ends."""
        await start(scene, ["a1", "a2", "b1", "b2", "c1"])
        held = await scene.items()
        assert items(held) == ["a1", "b1", "c1"]
        assert await scene.next_due() is None
        assert (await scene.flow("layer")).in_use == 3
        assert [(await scene.flow(f"tenant-{it}")).in_use for it in "abc"] == [1, 1, 1]
        await scene.done(next(it for it in held if it.item == "a1"))
        assert items(await scene.items()) == ["a2"]

    async def test_claim_takes_no_more_than_the_key_of_the_batch_has(self, scene: Scene) -> None:
        """Which keys have room as well changes nothing."""
        await start(scene, [f"{name}1" for name in "abcdefgh"], layer=FlowControl(key="layer", parallelism=3))
        held = await scene.items()
        assert len(held) == 3
        assert await scene.items() == []
        assert await scene.next_due() is None
        in_use = [(await scene.flow(f"tenant-{it}")).in_use for it in "abcdefgh"]
        assert sum(in_use) == 3
        await scene.done(held[0])
        assert len(await scene.items()) == 1

    async def test_claim_spends_no_start_of_a_key_whose_batch_has_no_room(self, scene: Scene) -> None:
        """The start of the item's key is there when the batch's key has room again."""
        layer = FlowControl(key="layer", parallelism=1)
        await start(scene, ["a1", "b1"], layer=layer, limits=lambda it: tenant(it, None, rate=1, period="1h"))
        (held,) = await scene.items()
        assert await scene.items() == []
        await scene.done(held)
        assert len(await scene.items()) == 1

    async def test_claim_spends_no_start_of_the_batch_for_a_key_without_room(self, scene: Scene) -> None:
        """The start of the batch's key is there when the item's key has room again."""
        await start(scene, ["a1", "a2"], layer=FlowControl(key="layer", rate=1, period="1h"))
        (held,) = await scene.items()
        scene.clock.advance("1h")
        assert await scene.items() == []
        await scene.done(held)
        assert items(await scene.items()) == ["a2"]

    async def test_claim_keeps_the_rate_of_a_key_and_of_its_batch(self, scene: Scene) -> None:
        """Two a second of each tenant, three a second in all."""
        names = [f"{name}{number}" for name in "abc" for number in range(4)]
        layer = FlowControl(key="layer", rate=3)
        await start(scene, names, layer=layer, limits=lambda it: tenant(it, None, rate=1))
        starts: list[tuple[int, str]] = []
        while len(starts) < len(names):
            claimed = await scene.claimed()
            starts += [(scene.now, claim.item[0]) for claim in claimed.claims]
            for claim in claimed.claims:
                await scene.done(claim)
            if claimed.next_due is not None:
                scene.clock.move_to(max(claimed.next_due, scene.now + 1))
        assert starts[-1][0] - starts[0][0] >= 11 * 1_000 // 3 - CATCH_UP_MS
        for name in "abc":
            own = [at for at, of in starts if of == name]
            assert all(later - earlier >= 1_000 - CATCH_UP_MS for earlier, later in itertools.pairwise(own))

    async def test_claim_says_when_a_key_has_its_next_start(self, scene: Scene) -> None:
        """Whoever comes at that time finds it."""
        await start(scene, ["a1", "a2"], limits=lambda it: tenant(it, None, rate=1, period="1m"))
        claimed = await scene.claimed()
        assert items(claimed.claims) == ["a1"]
        assert claimed.next_due is not None
        assert scene.now + 60_000 - CATCH_UP_MS <= claimed.next_due <= scene.now + 60_000
        scene.clock.move_to(claimed.next_due)
        assert items(await scene.items()) == ["a2"]

    async def test_claim_keeps_both_limits_over_all_workers(self, scene: Scene) -> None:
        """However many claim at the same moment."""
        workers = [f"w{number}" for number in range(2, 7)]
        for worker in workers:
            await scene.store.register(worker, LEASE_MS)
        names = [f"{name}{number}" for name in "abcdef" for number in range(3)]
        await start(scene, names, layer=FlowControl(key="layer", parallelism=4))
        claims = await asyncio.gather(*(scene.claim(worker=worker) for worker in workers))
        held = [claim.item[0] for some in claims for claim in some]
        assert len(held) == len(set(held)) == 4

    async def test_claim_leaves_items_without_a_key_to_that_of_their_batch(self, scene: Scene) -> None:
        """They start beside the others."""
        await start(scene, ["a1", "a2", "-1", "-2"])
        assert items(await scene.items()) == ["-1", "-2", "a1"]
        assert (await scene.flow("layer")).in_use == 3

    async def test_claim_shares_a_key_between_batches_and_workflows(self, scene: Scene) -> None:
        """A tenant's key is the same wherever an item names it, whatever the keys of the batches."""
        await start(scene, ["a1"])
        await start(scene, ["a2", "b2"], "bat_b", workflow="other", layer=FlowControl(key="other-layer"))
        held = await scene.items()
        assert len(held) == 2
        assert {claim.item[0] for claim in held} == {"a", "b"}
        await scene.done(next(claim for claim in held if claim.item[0] == "a"))
        assert len(await scene.items()) == 1
        assert (await scene.flow("layer")).in_use + (await scene.flow("other-layer")).in_use == 2

    async def test_claim_lets_a_key_serve_messages_of_its_own_too(self, scene: Scene) -> None:
        """A message under the tenant's key and an item of the tenant exclude each other."""
        await start(scene, ["a1"])
        await scene.publish("m", flow=tenant("a"))
        (first,) = await scene.claim()
        assert await scene.claim() == []
        await scene.done(first)
        (second,) = await scene.claim()
        assert {first.item or first.id, second.item or second.id} == {"a1", "m"}

    # Turns

    async def test_claim_lets_no_key_starve_another(self, scene: Scene) -> None:
        """A tenant with a hundred items and two with a few, one at a time in all: they take turns."""
        names = [f"a{number}" for number in range(100)] + ["b1", "b2", "c1", "c2"]
        await start(scene, names, layer=FlowControl(key="layer", parallelism=1), limits=lambda it: tenant(it, None))
        order: list[str] = []
        for _ in range(8):
            (claim,) = await scene.items(1)
            order.append(claim.item[0])
            await scene.done(claim)
        assert Counter(order[:6]) == {"a": 2, "b": 2, "c": 2}

    async def test_claim_gives_items_without_a_key_their_turns(self, scene: Scene) -> None:
        """They take turns with all the others of their batch together."""
        names = ["-1", "-2", "-3"] + [f"{name}1" for name in "abcdefghij"]
        await start(scene, names, layer=FlowControl(key="layer", parallelism=1))
        order: list[str] = []
        for _ in range(4):
            (claim,) = await scene.items(1)
            order.append(claim.item[0])
            await scene.done(claim)
        assert Counter(it == "-" for it in order) == {True: 2, False: 2}

    async def test_claim_shares_its_places_between_keys_of_batches(self, scene: Scene) -> None:
        """However many keys the items of one have."""
        await start(scene, [f"{name}1" for name in "abcdefghijklmnop"])
        await scene.start(["u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8"], "bat_b")
        held = await scene.items(8)
        assert Counter(claim.batch for claim in held) == {"bat_a": 4, "bat_b": 4}

    # Ends of claims

    async def test_settle_gives_both_places_back(self, scene: Scene) -> None:
        """Whatever the ending, and each is taken again with the next claim."""
        endings = {
            "a": settlement.done,
            "b": settlement.dead,
            "c": settlement.released,
            "d": settlement.cancelled,
            "e": settlement.failed,
        }
        names = await start(scene, [f"{name}1" for name in endings])
        for claim in await scene.items():
            match claim.item[0]:
                case "a":
                    ended = settlement.done(claim, "1")
                case "b":
                    ended = settlement.dead(claim, "Boom: no")
                case "c":
                    ended = settlement.released(claim)
                case "d":
                    ended = settlement.cancelled(claim)
                case _:
                    ended = settlement.failed(claim, "Boom: no", "null")
            assert not (await scene.store.settle(ended)).stale
        assert (await scene.flow("layer")).in_use == 0
        for name in names:
            assert (await scene.flow(f"tenant-{name[0]}")).in_use == 0
        assert items(await scene.items()) == ["c1"]
        assert (await scene.flow("layer")).in_use == (await scene.flow("tenant-c")).in_use == 1

    async def test_settle_of_many_at_once_ends_items_with_keys_and_without(self, scene: Scene) -> None:
        """In one group: all of them end, and those that waited for a place may start."""
        names = [f"{name}{number}" for number in range(3) for name in "ab-c-d-"]
        await start(scene, [f"{name}{place}" for place, name in enumerate(names)])
        ended = 0
        while claims := await scene.items():
            await asyncio.gather(*(scene.done(claim) for claim in claims))
            ended += len(claims)
        assert ended == len(names)
        assert (await scene.batch()).state == "completed"
        assert await scene.store.workers() == [] or not (await scene.store.workers())[0].held
        assert (await scene.flow("layer")).in_use == 0

    async def test_settle_holds_no_place_while_an_item_waits(self, scene: Scene) -> None:
        """One that sleeps or is tried again later lets the next of its key start."""
        await start(scene, ["a1", "a2", "a3"])
        (first,) = await scene.items()
        await scene.suspend(first, until=scene.now + 1_000)
        (second,) = await scene.items()
        await scene.store.settle(settlement.retry(second, scene.now + 2_000, "Boom: no"))
        assert items(await scene.items()) == ["a3"]
        assert (await scene.flow("tenant-a")).in_use == (await scene.flow("layer")).in_use == 1
        assert (await scene.flow("tenant-a")).waiting == (await scene.flow("layer")).waiting == 2

    async def test_settle_parks_the_key_of_the_item_alone(self, scene: Scene) -> None:
        """Others of its batch go on; those of the key wait until then."""
        await start(scene, ["a1", "a2", "b1", "b2"])
        held = {claim.item: claim for claim in await scene.items()}
        await scene.store.settle(settlement.parked(held["a1"], scene.now + 5_000, "RateLimited: slow down"))
        await scene.done(held["b1"])
        claimed = await scene.claimed()
        assert items(claimed.claims) == ["b2"]
        assert claimed.next_due == scene.now + 5_000
        assert (await scene.flow("tenant-a")).parked_until == scene.now + 5_000
        assert (await scene.flow("layer")).parked_until == 0
        scene.clock.advance("5s")
        assert len(await scene.items()) == 1

    async def test_expire_frees_both_keys(self, scene: Scene) -> None:
        """A worker that dies leaves no place taken, of neither."""
        await start(scene, ["a1", "b1"])
        assert len(await scene.items()) == 2
        assert await scene.lose() == 2
        assert (await scene.flow("layer")).in_use == (await scene.flow("tenant-a")).in_use == 0
        assert items(await scene.items()) == ["a1", "b1"]

    async def test_expire_of_a_suspect_takes_and_frees_both(self, scene: Scene) -> None:
        """Also where it is claimed alone, until it is a dead letter."""
        await start(scene, ["a1", "a2"], layer=FlowControl(key="layer", parallelism=1))
        lost = None
        for _ in range(LOSS_LIMIT):
            claims = await scene.items(1)
            lost = lost or claims[0].id
            assert [claim.id for claim in claims] == [lost]
            assert (await scene.flow("layer")).in_use == (await scene.flow("tenant-a")).in_use == 1
            await scene.lose()
            assert (await scene.flow("layer")).in_use == (await scene.flow("tenant-a")).in_use == 0
        assert (await scene.letter(lost or "")).message.flow.key == "tenant-a"
        assert items(await scene.items()) == ["a2"]

    async def test_claim_takes_no_suspect_whose_batch_has_no_room(self, scene: Scene) -> None:
        """It waits for both, too."""
        await start(scene, ["a1", "b1"])
        first = next(claim for claim in await scene.items() if claim.item == "a1")
        for _ in range(3):
            await scene.lose()
            held = await scene.items()
            for claim in held:
                if claim.item != "a1":
                    await scene.done(claim)
        await scene.lose()
        await scene.store.pin(FlowControl(key="layer", parallelism=1))
        await scene.publish("m", flow=FlowControl(key="layer"))
        await scene.store.pause("layer")
        assert await scene.claim() == []
        await scene.store.resume("layer")
        assert [claim.id for claim in await scene.claim()] == [first.id]

    # Clocks

    async def test_claim_ignores_starts_of_a_key_that_lie_ahead(self, scene: Scene) -> None:
        """The clock was an hour ahead and has been set back: the key goes on."""
        scene.clock.advance("1h")
        await start(scene, ["a1", "a2"], limits=lambda it: tenant(it, None, rate=1))
        (first,) = await scene.items()
        await scene.done(first)
        scene.clock.move_to(scene.now - 3_600_000)
        assert items(await scene.items()) == ["a2"]

    # Priorities

    async def test_claim_takes_items_of_a_higher_priority_first(self, scene: Scene) -> None:
        """Those of the batch's key with keys of their own and those without, in the order of their priorities."""
        await start(scene, ["a1", "b1", "-1"], layer=FlowControl(key="layer", parallelism=1))
        await start(scene, ["c1", "d1"], "bat_b", layer=FlowControl(key="layer", parallelism=1), priority=5)
        await scene.start(["u1"], "bat_c", flow=FlowControl(key="layer", parallelism=1), complete=None, priority=3)
        order: list[str] = []
        for _ in range(6):
            (claim,) = await scene.items()
            order.append(claim.item)
            await scene.done(claim)
        assert sorted(order[:2]) == ["c1", "d1"]
        assert order[2] == "u1"
        assert sorted(order[3:]) == ["-1", "a1", "b1"]

    async def test_claim_takes_lower_priorities_when_keys_of_higher_ones_are_full(self, scene: Scene) -> None:
        """In the same claim."""
        await start(scene, ["a1", "a2", "b1"])
        await start(scene, ["a3", "a4"], "bat_b", priority=5)
        held = await scene.items()
        assert items(held) == ["a3", "b1"] or items(held) == ["a4", "b1"]
        await scene.publish("m", flow=tenant("b"))
        for claim in held:
            await scene.done(claim)
        assert len([claim for claim in await scene.items() if claim.batch == "bat_b"]) == 1

    async def test_set_batch_priority_counts_for_items_with_keys(self, scene: Scene) -> None:
        """From the next claim on."""
        await start(scene, ["a1"], layer=FlowControl(key="layer", parallelism=1))
        await start(scene, ["b1"], "bat_b", layer=FlowControl(key="layer", parallelism=1))
        assert await scene.store.set_batch_priority("bat_b", 2)
        assert items(await scene.items()) == ["b1"]
