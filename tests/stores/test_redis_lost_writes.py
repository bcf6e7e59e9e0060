"""A server that has lost its latest writes, as a primary that took over, or one whose disk was a second behind."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from batchflow import Batchflow
from tests.conformance.scene import names, ran, renewed
from tests.stores.redis_server import Server, served
from tests.stores.test_redis import opened
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


class Memory:
    """The data of a server, to be restored later."""

    def __init__(self, server: Server) -> None:
        self._client: Any = server.raw()
        self._client.flushall()
        self._kept: dict[bytes, bytes] = {}

    def keep(self) -> None:
        self._kept = {key: self._client.dump(key) for key in self._client.keys("*")}

    def put_back(self) -> None:
        with self._client.pipeline() as together:
            together.flushall()
            for key, value in self._kept.items():
                together.restore(key, 0, value)
            together.execute()

    def cut_off(self) -> None:
        """Disconnect the clients that listen."""
        self._client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


async def test_an_end_that_was_lost_is_made_up_for(server: Server) -> None:
    """After the next heartbeat the item is leased again, neither failed nor lost; what is in hand stays there."""
    memory = Memory(server)
    async with opened(server.url) as scene:
        await scene.start(["u1", "u2", "u3"])
        await scene.publish("a")
        one, two, _ = await scene.items()
        plain = await scene.claim_one("a")
        await scene.record(plain, ran(1, "one"))
        memory.keep()
        await scene.done(one)
        await scene.done(plain)
        memory.put_back()
        assert await scene.claim() == []
        assert await renewed(scene.store)
        again = {claim.id: claim for claim in await scene.claim()}
        assert set(again) == {one.id, "a"}
        assert {(it.fence, it.losses, it.failures) for it in again.values()} == {(2, 0, 0)}
        assert [step.name for step in again["a"].journal] == ["one"]
        for claim in (*again.values(), two):
            assert not (await scene.done(claim)).stale
        assert (await scene.counts()).succeeded == 2
        assert (await scene.flow()).in_use == 1


async def test_what_is_claimed_again_by_the_same_worker_stays_in_its_hand(server: Server) -> None:
    """The end of the first claim, which is stale, says nothing of the second."""
    Memory(server)
    async with opened(server.url) as scene:
        first = await scene.leased("a")
        assert await scene.lose() == 1
        second = await scene.claim_one("a")
        assert (await scene.done(first)).stale
        assert await renewed(scene.store)
        assert names(await scene.claim()) == []
        assert not (await scene.done(second)).stale


async def test_what_is_claimed_by_name_stays_in_its_hand(server: Server) -> None:
    """Whether the worker claims others before, at the same moment, or after it."""
    Memory(server)
    async with opened(server.url) as scene:
        await scene.publish("a", "b")
        for claim in await scene.claim():
            await scene.suspend(claim, until=scene.now + 3_600_000)
        assert await renewed(scene.store)
        _, first = await asyncio.gather(scene.claim(), scene.store.claim_one("w1", "a", 1))
        assert await renewed(scene.store)
        second, _ = await asyncio.gather(scene.store.claim_one("w1", "b", 1), scene.claim())
        assert await renewed(scene.store)
        assert await scene.claim() == []
        for claim in (*first.claims, *second.claims):
            assert not (await scene.done(claim)).stale
        assert [await scene.store.run(id) for id in ("a", "b")] == [None, None]


async def test_a_batch_ends_on_a_server_that_has_lost_ends(server: Server) -> None:
    """As soon as the worker has its connection again, it asks for what it had: nothing waits for its lease."""
    memory = Memory(server)
    flow = Batchflow(server.url, concurrency=4)
    executed: list[str] = []
    gate = asyncio.Event()

    @flow.batch(flow=None)
    async def greet(item_id: str) -> str:
        executed.append(item_id)
        await gate.wait()
        return f"hello {item_id}"

    async with flow:
        batch = await greet.trigger(ids=[f"user-{number}" for number in range(12)])
        await wait_until(lambda: len(executed) == 4, description="items are being worked at")
        memory.keep()
        gate.set()
        await wait_until(lambda: _succeeded(batch, 12), description="the batch has ended")
        memory.put_back()
        memory.cut_off()
        # A lease lasts 30 s.
        assert (await batch.wait(timeout=25, check=True)).counts.succeeded == 12
    # Those that had ended are done again: nothing knows of it any more.
    assert len(executed) == 24


async def _succeeded(batch: Any, count: int) -> bool:
    return (await batch.status()).counts.succeeded == count
