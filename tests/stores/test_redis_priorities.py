"""Priorities on Redis: where more lanes and destinations have one than a claim looks at."""

from collections.abc import Generator
from typing import Any

import pytest

from batchflow.core.batch import NewBatch
from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.stores.redis import RedisStore
from tests.stores.redis_server import Server, served
from tests.stores.test_redis_claims import commands, opened

FREE = FlowControl(key="free")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


async def open_batch(
    store: RedisStore, id: str, destination: str, priority: int, *, key: FlowControl = FREE, count: int = 1
) -> None:
    """A batch with messages of its layers to one destination."""
    batch = NewBatch(id=id, workflow="w", execute=destination, flow=key, priority=priority)
    first = [Message(id=f"{id}.p{number}", destination=destination, flow=key, batch=id) for number in range(count)]
    assert await store.open_batch(batch, first)


async def test_a_quiet_key_is_served_beside_more_destinations_with_priorities_than_a_claim_looks_at(
    server: Server,
) -> None:
    """It has waited longest, so that it comes next; among the others the highest comes first."""
    with server.client() as client:
        client.flushall()
    destinations = tuple(f"/d{number:03d}" for number in range(300))
    async with opened(server) as store:
        for number, destination in enumerate(destinations):
            await open_batch(store, f"bat_{number:03d}", destination, 1 + number % 9, count=3)
        await open_batch(store, "bat_quiet", "/quiet", 0, key=FlowControl(key="quiet"))
        found = [(await store.claim("w", (*destinations, "/quiet"), 1)).claims[0] for _ in range(4)]
        assert "bat_quiet" in [claim.batch for claim in found]
        others = [int((claim.batch or "")[4:]) % 9 + 1 for claim in found if claim.batch != "bat_quiet"]
        assert others == [9, 9, 9]


async def test_claim_cost_does_not_grow_with_batches_that_have_priorities(server: Server) -> None:
    """A few lanes of each priority are looked at."""

    async def cost(batches: int) -> int:
        with server.client() as client:
            client.flushall()
            async with opened(server) as store:
                for number in range(batches):
                    await open_batch(store, f"bat_{number:04d}", "/d", number % 3, count=3)
                for _ in range(12):
                    await store.claim("w", ("/d",), 8)
                used: Any = commands(client)
                assert len((await store.claim("w", ("/d",), 8)).claims) == 8
                used = commands(client)
        return used

    assert await cost(2_400) <= await cost(600) * 1.2 + 10
