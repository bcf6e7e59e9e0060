"""A script that was stopped halfway is repaired; whatever is whole is left alone."""

from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from batchflow import Batchflow
from batchflow.core import settlement
from batchflow.core.flow import FlowControl
from batchflow.engine.worker import Heartbeat
from batchflow.stores.redis import RedisStore
from batchflow.testing.clock import ManualClock
from tests.conformance.scene import Scene, message, names
from tests.stores.redis_server import Server, served
from tests.stores.test_redis import opened
from tests.waiting import wait_until

P = "bf:{batchflow}:"
ONE = FlowControl(parallelism=1, key="one")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def client(shared: Server) -> Generator[Any]:
    """The module's server, empty."""
    with shared.client() as client:
        client.flushall()
        yield client


def deep(scene: Scene) -> Any:
    return scene.store.reconcile(("work",), deep=True)


async def test_a_place_that_nobody_holds_is_given_back(shared: Server, client: Any) -> None:
    """Its waiting messages are claimed."""
    async with opened(shared.url) as scene:
        await scene.store.publish([message("a", flow=ONE)])
        client.hset(f"{P}f:one", "n", 1)
        assert names(await scene.claim()) == []
        assert await scene.store.reconcile(("work",)) == 1
        claims = await scene.claim()
        assert names(claims) == ["a"]
        assert await deep(scene) == 0
        assert not (await scene.store.settle(settlement.done(claims[0], "null"))).stale


@pytest.mark.parametrize("left", ["unheld", "unknown worker", "no lane", "not ready"])
async def test_a_run_that_hangs_nowhere_is_due_again(shared: Server, client: Any, left: str) -> None:
    """Its owner does not hold it or is not known, or it waits in no lane, or its lane is in no index."""
    async with opened(shared.url) as scene:
        await scene.store.publish([message("a", keep=True)])
        if left == "unheld":
            (claim,) = await scene.claim()
            client.hdel(f"{P}w:w1", claim.id)
        elif left == "unknown worker":
            client.hset(f"{P}m:a", "o", "nobody")
            client.zrem(f"{P}q:free|work|", "a")
        elif left == "no lane":
            client.zrem(f"{P}q:free|work|", "a")
        else:
            client.delete(f"{P}rd:work")
        assert names(await scene.claim()) == []
        assert await deep(scene) > 0
        assert await deep(scene) == 0
        claims = await scene.claim()
        assert names(claims) == ["a"]
        assert [flow.in_use for flow in await scene.store.flows(["free"])] == [1]
        await scene.store.settle(settlement.done(claims[0], "null"))


async def test_items_that_were_cut_and_never_leased_are_due_again(shared: Server, client: Any) -> None:
    """Each once; those that are leased, wait or have ended are left alone."""
    async with opened(shared.url) as scene:
        await scene.start(["u0", "u1", "u2", "u3"])
        (held,) = await scene.claim(1)
        (member,) = client.zrange(f"{P}r:bat_a", 0, -1)
        for key in client.keys(f"{P}q:*"):
            client.zrem(key, member)
        client.zrem(f"{P}r:bat_a", member)
        assert await scene.claim() == []
        assert await deep(scene) == 3
        assert await deep(scene) == 0
        others = await scene.claim()
        assert sorted(claim.item for claim in others if claim.item) == ["u1", "u2", "u3"]
        for claim in (held, *others):
            await scene.store.settle(settlement.done(claim, "null"))


async def test_what_is_whole_is_left_alone(shared: Server, client: Any) -> None:
    """Leased, waiting, suspended for ever, ended."""
    async with opened(shared.url) as scene:
        await scene.start(["u0", "u1", "u2"])
        await scene.store.publish([message("a", keep=True), message("b", keep=True, not_before=9_000_000_000_000)])
        await scene.claim(2)
        before = [(flow.in_use, flow.waiting) for flow in await scene.store.flows()]
        assert await deep(scene) == 0
        assert [(flow.in_use, flow.waiting) for flow in await scene.store.flows()] == before


async def test_a_right_that_is_missing_leaves_nothing_half_done(shared: Server, client: Any) -> None:
    """It is asked for before anything is written."""
    async with opened(shared.url) as scene:
        await scene.start(["u0", "u1", "u2"])
        before = {key: client.dump(key) for key in client.keys("*")}
        for right in ("hset", "zadd", "hdel", "zrem"):
            client.execute_command("ACL", "SETUSER", "default", f"-{right}")
            with pytest.raises(Exception, match=f"may not run {right.upper()}"):
                await scene.claim()
            client.execute_command("ACL", "SETUSER", "default", "+@all")
        assert {key: client.dump(key) for key in client.keys("*")} == before


async def test_a_server_that_lost_everything_is_told_loudly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, by its own words, and the work goes on with what comes."""
    monkeypatch.setattr("batchflow.engine.engine.LEASE_MS", 300)
    monkeypatch.setattr("batchflow.engine.worker.Heartbeat", partial(Heartbeat, lease_ms=300))
    with served(tmp_path) as server, server.client() as client, capture_logs() as logs:
        flow = Batchflow(server.url)

        @flow.batch(ids=["ada"], flow=None)
        async def greet(user: str) -> str:
            return user

        async with flow:
            await (await greet.trigger()).wait(timeout=30)
            client.flushall()
            await wait_until(lambda: any("has lost its data" in it["event"] for it in logs), description="it is said")
            assert (await (await greet.trigger()).wait(timeout=30)).counts.succeeded == 1
        assert [it["log_level"] for it in logs if "has lost its data" in it["event"]] == ["warning"]
        assert not [it for it in logs if "suspended" in it["event"]]


@pytest.mark.parametrize(("policy", "said"), [("noeviction", 0), ("allkeys-lru", 1), ("volatile-ttl", 1)])
async def test_a_server_that_evicts_is_warned_of_at_open(shared: Server, client: Any, policy: str, said: int) -> None:
    """With its policy and what to set."""
    client.config_set("maxmemory-policy", policy)
    store = RedisStore(shared.url, clock=ManualClock())
    with capture_logs() as logs:
        await store.open()
    await store.close()
    client.config_set("maxmemory-policy", "noeviction")
    assert [it["maxmemory_policy"] for it in logs] == [policy] * said
    assert all("set maxmemory-policy to noeviction" in it["event"] for it in logs)
