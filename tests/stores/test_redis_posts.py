"""Posts, queues and documents in Redis: their keys, a full server, lost answers."""

import asyncio
from collections.abc import Generator
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from batchflow.core import settlement
from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.core.posts import PUSH_DESTINATION, LogEntry, Post
from batchflow.core.settlement import LeaveQueue, Log
from batchflow.errors import StoreUnavailable
from batchflow.stores.base import SWEEP_LIMIT
from batchflow.stores.redis import RedisStore
from tests.conformance.scene import Scene
from tests.stores.redis_keys import permanent, snapshot
from tests.stores.redis_server import Server, served
from tests.stores.test_redis import Losing, opened

TENANT = "acme"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def server(shared: Server) -> Server:
    """The module's server, empty."""
    with shared.client() as client:
        client.flushall()
    return shared


def post(id: str, **changes: Any) -> Post:
    message = Message(id=id, destination=PUSH_DESTINATION, flow=FlowControl(key="free"), label=TENANT)
    return Post(message, TENANT, "{}", **changes)


def store_of(scene: Scene) -> RedisStore:
    assert isinstance(scene.store, RedisStore)
    return scene.store


async def deliver(scene: Scene) -> list[str]:
    """Deliver what may begin; returns the ids."""
    claims = await scene.claim(destinations=(PUSH_DESTINATION,))
    for claim in claims:
        delivered = Log((LogEntry(claim.id, TENANT, "DELIVERED", scene.now),))
        await scene.store.settle(settlement.done(claim, "null", (delivered, LeaveQueue(claim.id))))
    return [claim.id for claim in claims]


@pytest.mark.parametrize("kind", ["fakeredis", "redis"])
async def test_nothing_is_left_of_posts_after_retention(kind: str, server: Server) -> None:
    """Delivered, cancelled while they wait or are delivered, deduplicated, in queues that are there or were removed."""
    async with opened(server.url if kind == "redis" else FakeAsyncRedis(server=FakeServer())) as scene:
        store = store_of(scene)
        queued = [post(f"{queue}{number}", queue=queue) for queue in ("kept", "gone") for number in range(3)]
        await store.post([post("a", dedup="same"), post("b", dedup="same"), post("c"), *queued])
        await store.cancel_posts(TENANT, ["c", "kept1"])
        assert await store.drop_queue(TENANT, "gone")
        assert sorted(await deliver(scene)) == ["a", "gone0", "kept0"]
        (held,) = await scene.claim(destinations=(PUSH_DESTINATION,))
        await store.cancel_posts(TENANT, [held.id])
        await scene.store.settle(settlement.retry(held, scene.now, "503"))
        assert await store.open_posts(TENANT) == []
        assert await store.drop_queue(TENANT, "kept")
        scene.clock.advance("8d")
        while await store.prune(7 * 86_400_000):
            pass
        await store.expire()
        await store.deregister("w1")
        found = await snapshot(vars(store)["_client"], "batchflow")
        assert found.leaks() == []
        assert found.patterns() <= permanent()


async def test_a_full_server_takes_a_post_whole_or_not(server: Server) -> None:
    """Neither its message nor its log, queue or deduplication key are there."""
    async with opened(server.url) as scene:
        store, made = store_of(scene), post("a", dedup="same", queue="q")
        await store.put_document("group", "acme/all", "[]")
        with server.client() as client:
            client.config_set("maxmemory", "1")
            before = server.all_keys()
            try:
                for verb in (
                    lambda: store.post([made]),
                    lambda: store.put_queue(TENANT, "q"),
                    lambda: store.put_document("group", "acme/all", "[1]"),
                    lambda: store.log([LogEntry("a", TENANT, "ACTIVE", scene.now)]),
                ):
                    with pytest.raises(StoreUnavailable, match="has no memory left"):
                        await verb()
                assert server.all_keys() == before
            finally:
                client.config_set("maxmemory", "0")
        assert [it.deduplicated for it in await store.post([made])] == [False]
        assert await deliver(scene) == ["a"]


async def test_verbs_of_posts_whose_answers_were_lost_may_be_repeated(server: Server) -> None:
    """They have been carried out once."""
    client = Losing(port=server.port)
    async with opened(client) as scene:
        store = store_of(scene)
        for verb in (
            lambda: store.post([post("a", dedup="same"), post("b", queue="q"), post("c", queue="q")]),
            lambda: store.put_queue(TENANT, "q", parallelism=2),
            lambda: store.cancel_posts(TENANT, ["a", "c"]),
        ):
            client.losing = 1
            with pytest.raises(StoreUnavailable):
                await verb()
            await verb()
        states = sorted((it.entry.message, it.entry.state) for it in await store.log_entries(TENANT))
        assert states == sorted(
            [("a", "CREATED"), ("b", "CREATED"), ("c", "CREATED")]
            + [(id, state) for id in ("a", "c") for state in ("CANCEL_REQUESTED", "CANCELED")]
        )
        assert await deliver(scene) == ["b"]
    await client.aclose()


async def test_a_post_that_was_stopped_halfway_is_repeated(server: Server) -> None:
    """One whose message was published and whose log was not written."""
    async with opened(server.url) as scene:
        store, made = store_of(scene), post("a", dedup="same")
        await store.publish([made.message])
        assert await store.open_posts(TENANT) == []
        assert [it.deduplicated for it in await store.post([made])] == [False]
        assert [it.entry.message for it in await store.open_posts(TENANT)] == ["a"]
        assert await deliver(scene) == ["a"]


async def test_a_post_that_was_stopped_on_its_way_to_its_place_goes_on(server: Server) -> None:
    """One whose message was published while it waits in its queue."""
    async with opened(server.url) as scene:
        store, made = store_of(scene), [post("a", queue="q"), post("b", queue="q")]
        await store.put_queue(TENANT, "q", paused=True)
        await store.post(made)
        await store.publish([made[0].message])
        assert (await store.put_queue(TENANT, "q", paused=False)).lag == 2
        assert [await deliver(scene), await deliver(scene)] == [["a"], ["b"]]


async def test_a_queue_in_which_thousands_wait_is_dropped(server: Server) -> None:
    """In several calls, so that each keeps the server for a moment only."""
    count = 2 * SWEEP_LIMIT + 1
    async with opened(server.url) as scene:
        store = store_of(scene)
        for first in range(0, count, 500):
            await store.post([post(f"p{number}", queue="q") for number in range(first, min(first + 500, count))])
        assert await store.drop_queue(TENANT, "q")
        assert await store.queue(TENANT, "q") is None
        assert [it.entry.message for it in await store.open_posts(TENANT)] == ["p0"]
        latest = await store.log_entries(TENANT, limit=count)
        assert [it.entry.state for it in latest] == ["CANCELED"] * (count - 1) + ["CREATED"]
        assert not await store.drop_queue(TENANT, "q")


async def test_a_place_is_taken_by_one_process_only(server: Server) -> None:
    """However many post to a queue at the same moment."""
    async with opened(server.url) as one, opened(server.url) as two:
        posts = [[post(f"p{number:02d}", queue="q")] for number in range(20)]
        await asyncio.gather(*(store_of(scene).post(made) for scene, made in zip([one, two] * 10, posts, strict=True)))
        delivered: list[str] = []
        while found := await deliver(one):
            assert len(found) == 1
            delivered += found
        created = [it.entry.message for it in await store_of(one).log_entries(TENANT) if it.entry.state == "CREATED"]
        assert delivered == created[::-1]
        assert len(delivered) == 20
