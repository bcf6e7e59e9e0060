"""Workflow runs of QStash in Redis: their keys, lost answers, a full server, large entries."""

from collections.abc import Generator

import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from batchflow.core import settlement
from batchflow.core.posts import Posted
from batchflow.core.wire_runs import WAIT_TIMEOUT, JoinRun
from batchflow.errors import StoreUnavailable
from tests.conformance.run_scene import HEAD, RunScene, adds, awaits, begins, ends
from tests.conformance.scene import Scene
from tests.conformance.wire import TENANT, new_post
from tests.stores.redis_keys import permanent, snapshot
from tests.stores.redis_server import Server, served
from tests.stores.test_redis import Losing, opened


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


def runs_of(scene: Scene) -> RunScene:
    return RunScene(scene.store, scene.clock)


@pytest.mark.parametrize("kind", ["fakeredis", "redis"])
async def test_nothing_is_left_of_a_run_after_retention(kind: str, server: Server) -> None:
    """With waits that ended in each way, kept events, late entries, posts that were under way, and a run of its id."""
    async with opened(server.url if kind == "redis" else FakeAsyncRedis(server=FakeServer())) as scene:
        runs = runs_of(scene)
        claim = await runs.begun("old")
        await runs.deliver(claim, ends())
        claim = await runs.begun("a", id="n1")
        for id in ("got", "timed out", "dropped"):
            await runs.link(id, awaits(id), not_before=runs.now + 1_000)
        await runs.link("queued", JoinRun("r"), queue="q")
        await runs.link("waits for a place", JoinRun("r"), queue="q")
        await runs.notify("}", event="got")
        await runs.notify("}", "r", event="kept")
        under_way = await runs.claim()
        assert {held.id for held in under_way} == {"got", "queued"}
        scene.clock.advance("1s")
        assert await runs.delivered("timed out") == ["a", HEAD + "}", HEAD + WAIT_TIMEOUT]
        under_way += await runs.claim()
        await runs.deliver(claim, ends())
        await runs.link("late", adds("b", late=True))
        for held in under_way:
            await runs.store.settle(settlement.retry(held, runs.now, "503"))
        await runs.store.deregister("w1")
        scene.clock.advance("8d")
        while await runs.store.prune(7 * 86_400_000):
            pass
        await runs.wire.drop_queue(TENANT, "q")
        await runs.store.expire()
        found = await snapshot(vars(runs.store)["_client"], "batchflow")
        assert found.leaks() == []
        assert found.patterns() <= permanent()


async def test_verbs_of_runs_whose_answers_were_lost_may_be_repeated(server: Server) -> None:
    """They have been carried out once."""
    client = Losing(port=server.port)
    async with opened(client) as scene:
        runs = runs_of(scene)
        posts = [new_post("s1", link=begins("a")), new_post("s2", link=adds("b")), new_post("w", link=awaits())]
        end = ends(posts=(new_post("failure"), new_post("child", link=begins(run="child"))))
        for verb in (
            lambda: runs.wire.post(posts),
            lambda: runs.delivered("w"),
            lambda: runs.wire.end_run(end),
            lambda: runs.link("late", adds("c", late=True)),
        ):
            client.losing = 1
            with pytest.raises(StoreUnavailable):
                await verb()
            await verb()
        assert await runs.bodies() == ["a", "b", HEAD + WAIT_TIMEOUT, "c"]
        assert await runs.bodies("child") == ["first"]
        assert await runs.history("failure") == ["CREATED"]
        assert await runs.history("s1") == ["CREATED", "CANCELED"]
        assert {claim.id for claim in await runs.claim()} == {"failure", "child"}
    await client.aclose()


async def test_a_full_server_takes_the_link_of_a_post_whole_or_not(server: Server) -> None:
    """Neither its run nor its entry are there; what ends or frees goes on."""
    async with opened(server.url) as scene:
        runs = runs_of(scene)
        await runs.begun("a")
        await runs.link("w", awaits(), not_before=runs.now)
        with server.client() as client:
            client.config_set("maxmemory", "1")
            before = {key: client.dump(key) for key in client.keys("*")}
            try:
                for link in (begins(run="new"), adds("b"), awaits(), JoinRun("r")):
                    with pytest.raises(StoreUnavailable, match="has no memory left"):
                        await runs.link("s2", link)
                assert {key: client.dump(key) for key in client.keys("*")} == before
                assert await runs.delivered("w") == ["a", HEAD + WAIT_TIMEOUT]
                assert await runs.end()
            finally:
                client.config_set("maxmemory", "0")
        assert (await runs.history("w"))[-1] == "CANCELED"
        assert await runs.link("s2", begins("n")) == Posted("s2")


async def test_large_entries_are_claimed_in_several_calls(server: Server) -> None:
    """So that each keeps the server for a moment only; many small ones in one."""
    async with opened(server.url) as scene:
        runs = runs_of(scene)
        large = [letter * 1_500_000 for letter in "abcde"]
        await runs.begun(*large)
        await runs.begun(*map(str, range(1_000)), run="q", id="q1")
        for run, first, bodies, calls in (("r", "s1", large, 2), ("q", "q1", [*map(str, range(1_000))], 1)):
            with server.client() as client:
                client.config_resetstat()
                assert await runs.delivered(first, run=run) == bodies
                assert client.info("commandstats")["cmdstat_fcall"]["calls"] == calls
            assert await runs.bodies(run) == bodies
