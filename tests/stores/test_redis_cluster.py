"""The same program on a Redis Cluster: each namespace on one node, found again when its slot has moved."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import RedisCluster

from batchflow import Batchflow
from batchflow.errors import StoreError, StoreIncompatible, StoreUnavailable
from batchflow.stores.redis import RedisStore
from batchflow.stores.redis.keys import prefix
from batchflow.testing.clock import ManualClock
from tests.conformance.scene import LEASE_MS, Scene, names, ran, renewals
from tests.stores.redis_cluster import Cluster, clustered
from tests.stores.redis_server import served
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    with clustered(tmp_path_factory.mktemp("cluster"), "--appendonly", "yes") as started:
        yield started


@asynccontextmanager
async def opened(place: "str | RedisCluster", namespace: str) -> AsyncGenerator[Scene]:
    clock = ManualClock()
    store = RedisStore(place, clock=clock, namespace=namespace)
    await store.open()
    await store.register("w1", LEASE_MS)
    try:
        yield Scene(store, clock)
    finally:
        await store.close()


async def test_cluster_runs_programs_on_different_nodes(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named by BATCHFLOW_URL alone; each has its keys on the node of its namespace, and works on its own."""
    monkeypatch.setenv("BATCHFLOW_URL", cluster.url)
    spaces = cluster.apart()
    async with AsyncExitStack() as stack:
        for number, namespace in enumerate(spaces):
            monkeypatch.setenv("BATCHFLOW_NAMESPACE", namespace)
            web, worker = Batchflow(worker=False), Batchflow()

            async def greet(item_id: str, number: int = number) -> str:
                return f"hello {item_id} from {number}"

            batches = [flow.batch(flow=None)(greet) for flow in (web, worker)]
            await stack.enter_async_context(worker)
            await stack.enter_async_context(web)
            batch = await batches[0].trigger(ids=[f"user-{it}" for it in range(70)])
            assert (await batch.wait(timeout=30, check=True)).counts.succeeded == 70
            assert dict([it async for it in batch.results()])["user-7"] == f"hello user-7 from {number}"
    for namespace in spaces:
        holders = [node for node in cluster.nodes if node.ask("KEYS", f"{prefix(namespace)}*")]
        assert holders == [cluster.owner(namespace)]


async def test_a_moved_namespace_is_found_again(cluster: Cluster) -> None:
    """By everything that was open before: verbs, the heartbeat's thread, and whoever listens."""
    async with (
        opened(cluster.url, "moved") as here,
        opened(cluster.url, "moved") as there,
        renewals(here.store) as renew,
    ):
        claim = await here.leased("a")
        assert await renew("w1", LEASE_MS)
        before = cluster.owner("moved")
        cluster.begin_move("moved").end()
        assert cluster.owner("moved") is not before
        assert await renew("w1", LEASE_MS)
        told = asyncio.Event()
        end = there.store.on_change(lambda foreign: told.set() if foreign else None)
        told.clear()
        assert not (await here.done(claim)).stale
        assert await here.publish("b") == [True]
        async with asyncio.timeout(30):
            await told.wait()
        end()
        assert names(await there.claim()) == ["b"]


async def test_a_namespace_on_the_move_is_unavailable(cluster: Cluster) -> None:
    """Nothing is half read or half written while its keys lie on two nodes; afterwards all of it is there."""
    space = "moving"
    async with opened(cluster.url, space) as scene, renewals(scene.store) as renew:
        claim = await scene.leased("a")
        await scene.start(["u1", "u2"], complete=None)
        move = cluster.begin_move(space)
        for moved in (0, 1, 3):
            # The one key that the script names goes first: from then on the other node is asked.
            assert move.some(moved, first=f"{prefix(space)}meta") == moved
            for verb in (scene.publish("b"), scene.store.run("a"), scene.done(claim), scene.claim()):
                with pytest.raises(
                    StoreUnavailable, match="is moving the namespace to another node; it is tried again"
                ):
                    await verb
            with pytest.raises(StoreUnavailable):
                await renew("w1", LEASE_MS)
        move.end()
        assert await renew("w1", LEASE_MS)
        await scene.record(claim, ran(1, "one"))
        assert not (await scene.done(claim)).stale
        assert await scene.publish("b") == [True]
        assert sorted(names(await scene.claim())) == ["b", "bat_a.r000000000", "bat_a.r000000001"]


async def test_a_node_that_comes_back_is_used_again(cluster: Cluster) -> None:
    """Its namespace is unavailable meanwhile, for the thread as well."""
    async with opened(cluster.url, "gone") as scene, renewals(scene.store) as renew:
        claim = await scene.leased("a")
        assert await renew("w1", LEASE_MS)
        server = cluster.owner("gone").server
        server.stop()
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await scene.publish("b")
            with pytest.raises(StoreUnavailable):
                await renew("w1", LEASE_MS)
        await asyncio.to_thread(server.start)
        await wait_until(lambda: _publishes(scene, "b"), description="the cluster is whole again")
        assert not (await scene.done(claim)).stale
        assert await renew("w1", LEASE_MS)


async def _publishes(scene: Scene, id: str) -> bool:
    try:
        await scene.publish(id)
    except StoreUnavailable:
        return False
    return True


async def test_a_cluster_client_of_ones_own_stays_open(cluster: Cluster) -> None:
    """It is the user's to close; several namespaces may share it."""
    client = RedisCluster(host="127.0.0.1", port=cluster.port, decode_responses=True)
    one, two = cluster.apart()
    async with opened(client, one) as first, opened(client, two) as second, renewals(first.store) as renew:
        assert await first.publish("a") == await second.publish("a") == [True]
        assert await renew("w1", LEASE_MS)
    assert await client.get("nothing") is None
    await client.aclose()


async def test_a_node_of_a_cluster_is_refused_alone(cluster: Cluster) -> None:
    """Even the one that has the namespace: it may not have it tomorrow."""
    place = f"redis://127.0.0.1:{cluster.port}"
    said = await refusal(place)
    assert said == (
        f"{place}/0 is one node of a Redis Cluster; write redis+cluster://HOST:PORT, or give a RedisCluster client"
    )


async def test_a_server_that_is_no_cluster_is_refused(tmp_path: Path) -> None:
    """With the spelling that would do; where nobody is there it may come."""
    with served(tmp_path) as server:
        place = f"redis+cluster://127.0.0.1:{server.port}"
        said = await refusal(place)
        assert said == f"{place} is not a Redis Cluster; write redis:// in place of redis+cluster://"
    said = await refusal(place, StoreUnavailable)
    assert said.startswith(f"{place} cannot be reached: ")


async def refusal(place: str, kind: type[StoreError] = StoreIncompatible) -> str:
    """The error that opening raises."""
    store = RedisStore(place)
    with pytest.raises(kind) as caught:
        await store.open()
    await store.close()
    return str(caught.value)
