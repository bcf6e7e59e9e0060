"""Requests that reach the server after who sent them has given up, asked again, and gone on."""

from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from redis import exceptions
from redis.asyncio import Redis

from batchflow.core import settlement
from batchflow.core.message import Claim
from batchflow.errors import StoreUnavailable
from tests.conformance.scene import Scene, message, names, ran, renewed
from tests.stores.redis_server import Server, served
from tests.stores.test_redis import opened


class Belated(Redis):
    """A client that loses its connection with the next call of the script, which `arrive` brings to the server."""

    losing = False
    lost: Any = None

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        parent: Any = super()
        if self.losing and args[0] == "FCALL":
            self.losing, self.lost = False, args
            raise exceptions.ConnectionError("Connection lost")
        return await parent.execute_command(*args, **options)

    async def arrive(self) -> None:
        await self.execute_command(*self.lost)


@pytest.fixture
def server(tmp_path: Path) -> Generator[Server]:
    with served(tmp_path) as started:
        yield started


async def test_a_late_claim_takes_nothing(server: Server) -> None:
    """Messages claimed meanwhile stay with their worker, and nothing is leased that nobody would learn of."""
    client = Belated(port=server.port)
    async with opened(client) as scene:
        await scene.publish("a", "b")
        client.losing = True
        with pytest.raises(StoreUnavailable):
            await scene.claim(1)
        (claim,) = await scene.claim(1)
        await client.arrive()
        assert (await scene.flow()).in_use == 1
        assert not (await scene.done(claim)).stale
        assert names(await scene.claim()) == ["b"]
    await client.aclose()


async def test_a_late_claim_takes_nothing_of_what_came_later(server: Server) -> None:
    """Also where there was nothing to be had in between."""
    client = Belated(port=server.port)
    async with opened(client) as scene:
        client.losing = True
        with pytest.raises(StoreUnavailable):
            await scene.claim()
        for _ in range(2):
            assert await scene.claim() == []
        await scene.publish("a")
        await client.arrive()
        assert (await scene.flow()).in_use == 0
        assert names(await scene.claim()) == ["a"]
    await client.aclose()


@pytest.mark.parametrize("repeated", [True, False])
async def test_a_late_claim_by_name_is_asked_for_again_or_given_back(server: Server, repeated: bool) -> None:
    """The next claim after a heartbeat finds what the worker has without knowing."""
    client = Belated(port=server.port)
    async with opened(client) as scene:
        await scene.suspend(await scene.leased("a"), until=scene.now + 3_600_000)
        client.losing = True
        with pytest.raises(StoreUnavailable):
            await scene.store.claim_one("w1", "a", 1)
        await client.arrive()
        assert (await scene.flow()).in_use == 1
        if repeated:
            (claim,) = (await scene.store.claim_one("w1", "a", 1)).claims
            assert await renewed(scene.store)
            assert await scene.claim() == []
        else:
            assert await renewed(scene.store)
            claim = await scene.claim_one("a")
        assert claim.losses == 0
        assert not (await scene.done(claim)).stale
    await client.aclose()


async def test_what_is_late_changes_nothing_that_was_repeated(server: Server) -> None:
    """Steps, ends and publishes that were given up, and then done in another way."""
    client = Belated(port=server.port)
    verbs: tuple[Callable[[Scene, Claim], Awaitable[object]], ...] = (
        lambda scene, claim: scene.store.record("a", claim.fence, ran(1, "one")),
        lambda scene, claim: scene.done(claim, result='"late"'),
    )
    async with opened(client) as scene:
        claim = await scene.leased("a")
        for verb in verbs:
            client.losing = True
            with pytest.raises(StoreUnavailable):
                await verb(scene, claim)
            assert not (await scene.store.settle(settlement.released(claim))).stale
            await client.arrive()
            assert (await scene.run("a")).state == "waiting"
            claim = await scene.claim_one("a")
            assert (claim.journal, claim.losses, claim.failures) == ((), 0, 0)
        client.losing = True
        with pytest.raises(StoreUnavailable):
            await scene.store.publish([message("b")])
        assert await scene.publish("b") == [True]
        claim = await scene.claim_one("b")
        await client.arrive()
        assert not (await scene.done(claim)).stale
        assert (await scene.flow()).waiting == 0
    await client.aclose()
