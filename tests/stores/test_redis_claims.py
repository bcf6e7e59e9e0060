"""The cost of a claim, in commands of the server, does not grow with messages that it does not lease."""

import contextlib
import random
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any

import pytest

from batchflow.core import settlement
from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim, Message
from batchflow.stores.redis import RedisStore
from batchflow.stores.redis.keys import prefix
from batchflow.testing.clock import ManualClock
from tests.conformance.item_keys import start_items
from tests.conformance.scene import Scene
from tests.stores.redis_server import Server, served

FEW = tuple(f"/served-{number}" for number in range(10))
MORE = tuple(f"/more-{number}" for number in range(5_000))
HOUR_MS = 3_600_000
FAR = 10**15
P = prefix("batchflow")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def client(server: Server) -> Generator[Any]:
    """The module's server, empty."""
    with server.client() as client:
        client.flushall()
        yield client


def message(
    number: int, key: str, *, destination: str = FEW[0], rate: int | None = None, not_before: int = 0
) -> Message:
    return Message(
        id=f"m{number:06d}",
        destination=destination,
        flow=FlowControl(key=key, rate=rate, period="1h"),
        not_before=not_before,
    )


@contextlib.asynccontextmanager
async def opened(server: Server, *workers: str, clock: ManualClock | None = None) -> AsyncGenerator[RedisStore]:
    store = RedisStore(server.url, clock=clock or ManualClock())
    await store.open()
    try:
        for worker in workers or ("w",):
            await store.register(worker, 1_000 * HOUR_MS)
        yield store
    finally:
        await store.close()


def commands(client: Any) -> int:
    """The number of commands that the server has run since the last call, including those of scripts."""
    told: dict[str, dict[str, int]] = client.info("commandstats")
    client.config_resetstat()
    return sum(about["calls"] for name, about in told.items() if "info" not in name and "config" not in name)


async def cost(server: Server, client: Any, messages: Sequence[Message], destinations: Sequence[str]) -> int:
    """The number of commands of the third claim of eight messages, once its list of destinations is known."""
    client.flushall()
    async with opened(server) as store:
        for first in range(0, len(messages), 1_000):
            await store.publish(messages[first : first + 1_000])
        for _ in range(2):
            await store.claim("w", destinations, 8)
        commands(client)
        assert len((await store.claim("w", destinations, 8)).claims) == 8
        counted = commands(client)
        return counted


@pytest.mark.parametrize("kind", ["ready", "sleeping", "held back by their rate"])
async def test_claim_cost_does_not_grow_with_flow_keys(server: Server, client: Any, kind: str) -> None:
    """The same for messages that are due, due later, or delayed by a rate."""

    def messages(keys: int) -> list[Message]:
        later = FAR if kind == "sleeping" else 0
        rate = 1 if kind == "held back by their rate" else None
        # Some that can be claimed, too.
        few = [message(number, f"a{number % 10}") for number in range(100)]
        return few + [message(100 + number, f"k{number % keys}", rate=rate, not_before=later) for number in range(keys)]

    few = await cost(server, client, messages(100), FEW)
    many = await cost(server, client, messages(5_000), FEW)
    assert many <= few * 1.2 + 5


@pytest.mark.parametrize("scheduled", [False, True], ids=["nothing waits", "each is due some day"])
async def test_claim_cost_does_not_grow_with_what_a_worker_serves(server: Server, client: Any, scheduled: bool) -> None:
    """Destinations are looked up, not gone through, and not sent again."""
    messages = [message(number, "one") for number in range(100)]
    few = await cost(server, client, messages, FEW)
    if scheduled:
        messages += [
            message(100 + number, f"s{number}", destination=destination, not_before=FAR)
            for number, destination in enumerate(MORE)
        ]
    assert await cost(server, client, messages, (*FEW, *MORE)) <= few + 2


async def test_claim_cost_does_not_grow_with_the_work_of_others(server: Server, client: Any) -> None:
    """However much waits for whom else."""
    messages = [message(number, "one") for number in range(100)]
    few = await cost(server, client, messages, FEW)
    messages += [message(100 + number, f"k{number}", destination="/other") for number in range(5_000)]
    assert await cost(server, client, messages, FEW) <= few + 2


async def test_claim_cost_does_not_grow_with_destinations_that_share_a_key(server: Server, client: Any) -> None:
    """Their order changes with each claim."""

    def messages(count: int) -> list[Message]:
        return [message(number, "one", destination=MORE[number % count]) for number in range(2 * count)]

    few = await cost(server, client, messages(400), MORE)
    assert await cost(server, client, messages(4_000), MORE) <= few * 1.2 + 5


async def test_claim_cost_does_not_grow_with_the_backlog(server: Server, client: Any) -> None:
    """Neither with what waits in a lane, nor with what waits there to be tried again."""
    few = await cost(server, client, [message(number, "one") for number in range(100)], FEW)
    waiting = [message(number, "one") for number in range(5_000)]
    later = [message(5_000 + number, "one", not_before=FAR) for number in range(1_000)]
    assert await cost(server, client, waiting + later, FEW) <= few + 2


async def test_destinations_are_sent_once(server: Server, client: Any) -> None:
    """However many claims follow; and again where the server has lost them."""
    async with opened(server) as store:
        many = (*FEW, *MORE)
        await store.claim("w", many, 8)

        async def sent() -> int:
            before = client.info("stats")["total_net_input_bytes"]
            await store.publish([message(client.incr("n"), "one")])
            assert len((await store.claim("w", many, 8)).claims) == 1
            return client.info("stats")["total_net_input_bytes"] - before

        assert await sent() < 3_000
        client.delete(f"{P}wl")
        assert await sent() > 50_000
        assert await sent() < 3_000
        client.delete("n")


async def test_workers_share_their_list_until_the_last_has_gone(server: Server, client: Any) -> None:
    """One that serves others has its own."""
    async with opened(server, "w1", "w2", "w3") as store:
        for worker, destinations in (("w1", FEW), ("w2", FEW), ("w3", FEW[:1])):
            await store.claim(worker, destinations, 1)
        await store.publish([message(1, "one", destination=FEW[1]), message(2, "one", destination=FEW[1])])
        assert len(client.keys(f"{P}ds:*")) == 2
        assert (await store.claim("w3", FEW[:1], 1)).claims == []
        await store.claim("w3", FEW, 1)
        assert len(client.keys(f"{P}ds:*")) == 1
        for worker in ("w1", "w2", "w3"):
            assert len(client.keys(f"{P}ds:*")) == 1
            await store.deregister(worker)
        assert client.keys(f"{P}ds:*") == []


async def test_lanes_of_an_older_version_are_served(server: Server, client: Any) -> None:
    """An older version ordered lanes by due time, and did not list their destinations."""
    async with opened(server) as store:
        await store.publish([message(1, "one"), message(2, "two", destination=FEW[1], not_before=FAR)])
        client.zadd(f"{P}rd:{FEW[0]}", {"one\n": 0})
        client.delete(f"{P}rds")
        claimed = await store.claim("w", FEW, 8)
        assert [claim.id for claim in claimed.claims] == ["m000001"]
        assert claimed.next_due == FAR


async def test_deep_reconcile_finds_destinations_that_stand_nowhere(server: Server, client: Any) -> None:
    """After a script that was stopped before its end."""
    async with opened(server) as store:
        await store.claim("w", FEW, 8)
        await store.publish([message(1, "one")])
        client.delete(f"{P}rds")
        assert (await store.claim("w", FEW, 8)).claims == []
        await store.reconcile(FEW, deep=True)
        assert len((await store.claim("w", FEW, 8)).claims) == 1


@pytest.mark.parametrize("count", [1, 3])
async def test_many_keys_are_served_in_turn(server: Server, client: Any, count: int) -> None:
    """A key that was served comes again after all others, whatever their messages are for and how many they have."""
    keys = [f"k{number:03d}" for number in range(200)]
    order = 8 * (keys + keys[::2])
    turns: Counter[str] = Counter()
    before: frozenset[str] = frozenset()
    async with opened(server) as store:
        await store.publish(
            [message(number, key, destination=FEW[number % 7 % count]) for number, key in enumerate(order)]
        )
        for _ in range(100):
            claims = (await store.claim("w", FEW, 8)).claims
            served = frozenset(order[int(claim.id[1:])] for claim in claims)
            # One whose lanes are more than the claim had room for goes on in the next.
            turns.update(served - before)
            before = served
            assert max(turns.values()) - min(turns[key] for key in keys) <= 1


async def test_many_destinations_that_become_due_are_served_in_turn(server: Server, client: Any) -> None:
    """All at the same moment, as schedules are; beside as many for which something waits already."""
    clock = ManualClock()
    waiting = [message(number, f"w{number % 100}", destination=f"/w{number % 100}") for number in range(400)]
    due = [
        message(400 + number, f"d{number % 100}", destination=f"/d{number % 100}", not_before=clock.now() + 1_000)
        for number in range(200)
    ]
    destinations = tuple({one.destination: None for one in (*waiting, *due)})
    async with opened(server, clock=clock) as store:
        await store.publish(waiting + due)
        for _ in range(13):
            await store.claim("w", destinations, 8)
        clock.advance("1s")
        served: Counter[str] = Counter()
        for _ in range(25):
            served.update(claim.destination for claim in (await store.claim("w", destinations, 8)).claims)
        # Those that have waited longest first, and nobody twice before.
        assert all(served[f"/d{number}"] == 1 for number in range(100))
        assert max(served.values()) <= 2


async def test_many_lanes_of_a_key_are_served_in_turn(server: Server, client: Any) -> None:
    """Of one destination, as batches have them, and beside another key, which has its turn too."""
    served: Counter[str] = Counter()
    batches = [f"bat_{number:03d}" for number in range(120)]
    async with opened(server) as store:
        scene = Scene(store, ManualClock(), "w")
        for batch in batches:
            await scene.start([f"u{number}" for number in range(8)], id=batch, workflow=batch)
        await store.publish([message(number, "other", destination="execute") for number in range(100)])
        for _ in range(80):
            claims = (await store.claim("w", ("execute",), 8)).claims
            assert not served or [claim.batch for claim in claims].count(None) == 1
            served.update(claim.batch for claim in claims if claim.batch)
            assert max(served.values()) - min(served[batch] for batch in batches) <= 1


@pytest.mark.parametrize("seed", range(6))
async def test_all_that_waits_is_served(server: Server, client: Any, seed: int) -> None:
    """Of many keys with and without limits, many destinations, due at any time; whoever comes when told finds it."""
    draw = random.Random(seed)
    clock = ManualClock()
    limits = [
        FlowControl(
            key=f"k{number}",
            parallelism=draw.choice([None, None, 1, 2]),
            rate=draw.choice([None, None, 5]),
            period="1s",
        )
        for number in range(draw.choice([3, 150]))
    ]
    destinations = tuple(f"/d{number}" for number in range(draw.choice([2, 120])))
    total = 600
    async with opened(server, clock=clock) as store:
        await store.publish(
            [
                Message(
                    id=f"m{number}",
                    destination=draw.choice(destinations),
                    flow=draw.choice(limits),
                    not_before=draw.choice([0, 0, clock.now() + draw.randrange(5_000)]),
                )
                for number in range(total)
            ]
        )
        held: list[Claim] = []
        done, idle = 0, 0
        while done < total:
            claimed = await store.claim("w", destinations, draw.choice([1, 5, 40]))
            held += claimed.claims
            idle = 0 if claimed.claims else idle + 1
            assert held or claimed.next_due is not None, "what waits is not announced"
            assert idle < 20, "it says again and again that there is something"
            for claim in draw.sample(held, len(held) if idle else draw.randrange(len(held) + 1)):
                held.remove(claim)
                if draw.random() < 0.2:
                    await store.settle(settlement.retry(claim, clock.now() + draw.randrange(3_000), "Boom: no", ()))
                else:
                    await store.settle(settlement.done(claim, "null"))
                    done += 1
            if claimed.next_due is not None and claimed.next_due > clock.now():
                clock.move_to(claimed.next_due)


@pytest.mark.parametrize("own_full", [False, True])
async def test_claim_cost_does_not_grow_with_keys_of_items_that_wait(
    server: Server, client: Any, own_full: bool
) -> None:
    """Neither under a key that is full, nor if they are full themselves: nothing of them is looked at."""
    found: list[int] = []
    for keys in (100, 3_000):
        client.flushall()
        async with opened(server) as store:
            layer = FlowControl(key="layer", parallelism=None if own_full else 8)
            await start_items(Scene(store, ManualClock(), "w"), keys, layer, twice=own_full)
            while (await store.claim("w", ("execute",), 500)).claims:
                pass
            await store.publish([message(number, "other") for number in range(100)])
            await store.claim("w", ("execute", FEW[0]), 8)
            commands(client)
            assert len((await store.claim("w", ("execute", FEW[0]), 8)).claims) == 8
            found.append(commands(client))
    assert found[1] <= found[0] * 1.2 + 2
