"""Behind a Sentinel: the primary is lost or demoted, another one takes over, and the work goes on there."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.sentinel import Sentinel

from batchflow import Batchflow
from batchflow.core.store import Renew
from batchflow.errors import StoreIncompatible, StoreUnavailable
from batchflow.stores.redis import RedisStore
from tests.conformance.scene import LEASE_MS, names, renewals
from tests.stores.redis_sentinel import SERVICE, pass_on, watched
from tests.stores.redis_server import free_port, served
from tests.stores.relay import Relay
from tests.stores.test_redis import opened, refusal
from tests.waiting import wait_until


async def test_a_batch_goes_on_after_a_failover(tmp_path: Path) -> None:
    """The primary is killed in the middle of it: the worker backs off, finds the new one, and ends the batch."""
    with watched(tmp_path) as servers:
        web, worker = Batchflow(servers.url, worker=False), Batchflow(servers.url, concurrency=8)
        executed: Counter[str] = Counter()
        killed = asyncio.Event()

        async def greet(item_id: str) -> str:
            executed[item_id] += 1
            if executed.total() > 20:
                await killed.wait()
            return f"hello {item_id}"

        asked, _ = web.batch(flow=None)(greet), worker.batch(flow=None)(greet)
        async with worker, web:
            batch = await asked.trigger(ids=[f"user-{number}" for number in range(70)])
            await wait_until(lambda: executed.total() > 20, description="items are being worked at")
            before = servers.primary
            await asyncio.to_thread(pass_on, before)
            before.stop()
            killed.set()
            summary = await batch.wait(timeout=60, check=True)
            assert servers.primary is not before
        assert summary.counts.succeeded == 70
        # What was under way, and what the old primary had not passed on.
        assert executed.total() <= 70 + 2 * 8


async def test_a_planned_failover_is_followed_with_a_client_of_ones_own(tmp_path: Path) -> None:
    """The new primary is found by the verbs and, on its own, by the thread that renews."""
    with watched(tmp_path) as servers:
        manager: Any = Sentinel([("127.0.0.1", servers.port)])
        client = manager.master_for(SERVICE)
        async with opened(client) as scene, renewals(scene.store) as renew:
            claim = await scene.leased("a")
            assert await renew("w1", LEASE_MS)
            before = servers.primary
            assert servers.ask("SENTINEL FAILOVER", SERVICE)
            await wait_until(lambda: servers.primary is not before, description="another primary is chosen")
            await wait_until(lambda: _renews(renew), description="the thread has found it")
            assert not (await scene.done(claim)).stale
            assert await scene.publish("b") == [True]
        await client.aclose()
        await manager.aclose()


async def _renews(renew: Renew) -> bool:
    try:
        return await renew("w1", LEASE_MS)
    except StoreUnavailable:
        return False


async def test_a_demoted_primary_is_left(tmp_path: Path) -> None:
    """Also where it keeps its connections and only the name leads to another server: they are made anew."""
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    with served(tmp_path / "old", "--repl-diskless-sync-delay", "0") as old, served(tmp_path / "new") as new:
        async with (
            Relay(old.port) as relay,
            opened(f"redis://127.0.0.1:{relay.port}") as scene,
            renewals(scene.store) as renew,
        ):
            await scene.publish("a")
            assert await renew("w1", LEASE_MS)
            with new.client() as client:
                client.execute_command("REPLICAOF", "127.0.0.1", old.port)
                await wait_until(lambda: _follows(client), description="the new primary has all there is")
                client.execute_command("REPLICAOF", "NO", "ONE")
            with old.client() as client:
                client.execute_command("REPLICAOF", "127.0.0.1", new.port)
            relay.port_behind = new.port
            with pytest.raises(StoreUnavailable, match="is a replica that cannot be written, as in a failover"):
                await scene.publish("b")
            with pytest.raises(StoreUnavailable, match="is a replica that cannot be written, as in a failover"):
                await renew("w1", LEASE_MS)
            assert await scene.publish("b") == [True]
            assert await renew("w1", LEASE_MS)
            assert names(await scene.claim()) == ["a", "b"]


def _follows(client: Any) -> bool:
    about = client.info("replication")
    return about["master_link_status"] == "up" and client.dbsize() > 0


async def test_what_is_no_service_of_a_sentinel_is_told(tmp_path: Path) -> None:
    """The Sentinel itself, a service it does not know, no service at all."""
    with watched(tmp_path) as servers:
        place = f"redis://127.0.0.1:{servers.port}"
        said = await refusal(place)
        assert said == f"{place}/0 is a Sentinel; write redis+sentinel://HOST:PORT,HOST:PORT/SERVICE"
        place = f"redis+sentinel://127.0.0.1:{servers.port}/other"
        said = await refusal(place, StoreUnavailable)
        assert (
            said
            == f"{place}/0 cannot be reached: no Sentinel names a primary of it; start the server, or correct the URL"
        )
    with pytest.raises(StoreIncompatible) as caught:
        RedisStore(f"redis+sentinel://me:secret@127.0.0.1:{free_port()}")
    assert str(caught.value).endswith(
        "is not the URL of a Redis server: it names no service; write redis+sentinel://HOST:PORT,HOST:PORT/SERVICE"
    )
    assert "secret" not in str(caught.value)
