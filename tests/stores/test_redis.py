"""The Redis store's own behaviour: servers and their faults, lost answers, keys, the user's client."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from redis import exceptions
from redis.asyncio import Redis

from batchflow.core import settlement
from batchflow.core.ports import Clock
from batchflow.errors import StoreError, StoreIncompatible, StoreUnavailable
from batchflow.stores.redis import RedisStore, clients, keys, script
from batchflow.stores.redis.keys import FIRST_SCHEMA, KEYS, SCHEMA, pattern_of, prefix
from batchflow.testing.clock import ManualClock
from tests.conformance.scene import LEASE_MS, Scene, message, names, new_batch, ran, renewals, renewed
from tests.stores.redis_server import Server, free_port, served
from tests.waiting import DEADLINE_S, wait_until


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def server(shared: Server) -> Server:
    """The module's server, empty."""
    with shared.client() as client:
        client.flushall()
        client.script_flush()
    return shared


@asynccontextmanager
async def opened(place: Any, clock: Clock | None = None, namespace: str = "batchflow") -> AsyncGenerator[Scene]:
    moved = clock or ManualClock()
    store = RedisStore(place, clock=moved, namespace=namespace)
    await store.open()
    await store.register("w1", LEASE_MS)
    try:
        assert isinstance(moved, ManualClock)
        yield Scene(store, moved)
    finally:
        await store.close()


async def refusal(place: str, kind: type[StoreError] = StoreIncompatible) -> str:
    """The error that opening raises."""
    store = RedisStore(place)
    with pytest.raises(kind) as caught:
        await store.open()
    await store.close()
    return str(caught.value)


# Names, URLs, versions


async def test_open_of_a_server_that_is_not_there_is_unavailable() -> None:
    """It may come."""
    said = await refusal(f"redis://127.0.0.1:{free_port()}", StoreUnavailable)
    assert "cannot be reached" in said


async def test_open_of_what_is_not_redis_is_refused() -> None:
    """As a web server, which answers something else."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    other = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    said = await refusal(f"redis://127.0.0.1:{port}")
    assert said == f"redis://127.0.0.1:{port}/0 does not answer as Redis does; give the URL of a Redis server"
    other.close()
    await other.wait_closed()


async def test_open_with_a_wrong_password_is_refused(tmp_path: Path) -> None:
    """Without a password where one is needed, too; the message does not show it."""
    with served(tmp_path, "--requirepass", "right") as guarded:
        for url in (guarded.url, f"redis://:wrong@127.0.0.1:{guarded.port}"):
            said = await refusal(url)
            assert "correct user and password of the URL" in said
            assert "wrong@" not in said
        async with opened(f"redis://:right@127.0.0.1:{guarded.port}") as scene:
            assert await renewed(scene.store)


async def test_open_of_an_old_server_is_refused(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    """With its version and the one that is needed."""
    monkeypatch.setattr(clients, "OLDEST_VERSION", (99, 1))
    with server.client() as client:
        version: Any = client.info("server")
    said = await refusal(server.url)
    assert said == f"{server.url}/0 is Redis {version['redis_version']}; batchflow needs 6.2 or newer"


@pytest.mark.parametrize(
    ("schema", "made", "cure"),
    [
        (SCHEMA + 1, "a newer batchflow", "upgrade this one, or name another namespace with BATCHFLOW_NAMESPACE"),
        (FIRST_SCHEMA - 1, "a batchflow before 0.1.0", "save which items are processed with 'batchflow ledger export'"),
    ],
)
async def test_open_of_another_versions_namespace_is_refused(server: Server, schema: int, made: str, cure: str) -> None:
    """It is not touched; another namespace of the same server is fine."""
    with server.client() as client:
        client.hset(f"{prefix('batchflow')}meta", "schema", str(schema))
    said = await refusal(server.url)
    assert said.startswith(f"the namespace 'batchflow' of {server.url}/0 was made by {made} (schema {schema}")
    assert cure in said
    async with opened(server.url, namespace="other") as scene:
        assert await scene.publish("a") == [True]


async def test_open_migrates_what_an_older_version_has_made(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step, once; whoever still works with the older schema is told to upgrade, and changes nothing."""
    async with opened(server.url) as old:
        await old.publish("a")
        steps = {SCHEMA + 1: "call('HSET', META, 'one', 1)", SCHEMA + 2: "call('HINCRBY', META, 'two', 1)"}
        monkeypatch.setattr(keys, "SCHEMA", SCHEMA + 2)
        monkeypatch.setattr(script, "migrations", lambda: steps)
        script.load_script.cache_clear()
        try:
            for _ in range(2):
                async with opened(server.url) as new:
                    if await new.store.run("a"):
                        await new.done(await new.claim_one("a"))
        finally:
            script.load_script.cache_clear()
        with pytest.raises(StoreUnavailable, match=f"holds schema {SCHEMA + 2} by now"):
            await old.publish("b")
    with server.client() as client:
        about: Any = client.hgetall(f"{prefix('batchflow')}meta")
        assert (about["schema"], about["one"], about["two"]) == (str(SCHEMA + 2), "1", "1")
        client.hset(f"{prefix('batchflow')}meta", "schema", str(SCHEMA))
        client.hdel(f"{prefix('batchflow')}meta", "one", "two")


def test_each_schema_after_the_first_has_its_migration() -> None:
    """None is left out, on either store."""
    assert sorted(script.migrations()) == list(range(FIRST_SCHEMA + 1, SCHEMA + 1))


async def test_namespaces_keep_programs_apart(server: Server) -> None:
    """The same id is another message."""
    async with opened(server.url) as one, opened(server.url, namespace="two") as two:
        assert await one.publish("a") == await two.publish("a") == [True]
        assert names(await one.claim()) == ["a"]
        assert names(await two.claim()) == ["a"]


# The user's own client


async def test_a_client_of_ones_own_stays_open(server: Server) -> None:
    """It is the user's to close; one that decodes answers is as good."""
    for decodes in (False, True):
        client = Redis(port=server.port, decode_responses=decodes)
        async with opened(client) as scene:
            await scene.publish("a")
            assert await renewed(scene.store)
        pinging: Any = client
        assert await pinging.ping()
        await client.aclose()


async def test_who_renews_leaves_no_connection_behind(server: Server) -> None:
    """Its own, which it makes when first needed; also where the client is the user's."""
    client = Redis(port=server.port)
    with server.client() as looking:
        for place in (server.url, client):
            async with opened(place) as scene:
                before = len(looking.client_list())
                async with renewals(scene.store) as renew:
                    assert len(looking.client_list()) == before
                    assert await renew("w1", LEASE_MS)
                    assert await renew("w1", LEASE_MS)
                    assert len(looking.client_list()) == before + 1
                await wait_until(
                    lambda before=before: len(looking.client_list()) == before, description="the server has noticed"
                )
    await client.aclose()


async def test_reads_of_one_moment_are_one_call(server: Server) -> None:
    """Together with what is written then."""
    async with opened(server.url) as scene:
        await scene.start(["u0"])
        with server.client() as client:
            client.config_resetstat()
            found = asyncio.gather(*(scene.batch("bat_a") for _ in range(50)))
            assert await scene.publish("a") == [True]
            assert [it.id for it in await found] == ["bat_a"] * 50
            counted: Any = client.info("commandstats")
        assert counted["cmdstat_fcall"]["calls"] == 1


async def test_time_is_the_servers(server: Server) -> None:
    """Without a clock of a test."""
    store = RedisStore(server.url)
    await store.open()
    await store.publish([message("a")])
    run = await store.run("a")
    with server.client() as client:
        seconds: Any = client.time()
    assert run is not None
    assert abs(run.created_at - seconds[0] * 1000) < 60_000
    await store.close()


# What happens to servers


async def test_a_flushed_script_is_loaded_again(server: Server) -> None:
    """Nothing is lost, nothing is done twice."""
    async with opened(server.url) as scene, renewals(scene.store) as renew:
        with server.client() as client:
            client.script_flush()
            assert await scene.publish("a", "b") == [True, True]
            client.script_flush()
            assert await renew("w1", LEASE_MS)


async def test_a_server_that_comes_back_is_used_again(tmp_path: Path) -> None:
    """Verbs are unavailable meanwhile; what was answered is there again, and whoever listens is told."""
    with served(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as restarted:
        async with opened(restarted.url) as scene, renewals(scene.store) as renew:
            claim = await scene.leased("a")
            restarted.stop()
            for verb in (scene.publish("b"), scene.store.run("a"), scene.store.settle(settlement.released(claim))):
                with pytest.raises(StoreUnavailable) as caught:
                    await verb
                assert caught.value.retryable
            with pytest.raises(StoreUnavailable):
                await renew("w1", LEASE_MS)
            told = asyncio.Event()
            scene.store.on_change(lambda foreign: told.set() if foreign else None)
            await asyncio.to_thread(restarted.start)
            assert await scene.publish("b") == [True]
            assert not (await scene.done(claim)).stale
            async with asyncio.timeout(60):
                await told.wait()


async def test_a_full_server_is_unavailable(server: Server) -> None:
    """Nothing is half stored; what makes room goes on."""
    async with opened(server.url) as scene:
        await scene.start(["u1", "u2"], complete=None)
        one, _ = await scene.items()
        with server.client() as client:
            client.config_set("maxmemory", "1")
            try:
                answers = await asyncio.gather(
                    *(scene.store.publish([message(f"m{n}")]) for n in range(3)), return_exceptions=True
                )
                assert {type(answer) for answer in answers} == {StoreUnavailable}
                assert "has no memory left" in str(answers[0])
                assert await scene.store.run("m0") is None
                assert not (await scene.done(one)).stale
            finally:
                client.config_set("maxmemory", "0")
        assert await scene.states() == [("u1", "succeeded"), ("u2", "open")]
        assert await scene.publish("m0") == [True]


async def test_a_replica_is_unavailable(server: Server) -> None:
    """As a primary that was demoted in a failover."""
    async with opened(server.url) as scene:
        with server.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
            try:
                with pytest.raises(StoreUnavailable) as caught:
                    await scene.publish("a")
            finally:
                client.execute_command("REPLICAOF", "NO", "ONE")
        assert "is a replica that cannot be written" in str(caught.value)
        assert await scene.publish("a") == [True]


async def test_a_group_that_is_cancelled_is_answered(server: Server) -> None:
    """As when the loop ends and cancels all there is: nobody waits for ever, and the store closes."""
    async with opened(server.url) as scene:
        publishing = asyncio.ensure_future(scene.store.publish([message("a")]))
        for _ in range(3):
            await asyncio.sleep(0)
            for task in asyncio.all_tasks():
                if task.get_name() == "batchflow-redis-group":
                    task.cancel()
        with pytest.raises(StoreUnavailable):
            await publishing
        await scene.publish("b")


# Lost answers


class Losing(Redis):
    """A client that carries out, and then loses the answers of, calls of the script."""

    losing = 0

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        parent: Any = super()
        answer: Any = await parent.execute_command(*args, **options)
        if self.losing and args[0] == "FCALL":
            self.losing -= 1
            raise exceptions.ConnectionError("Connection lost")
        return answer


async def test_a_read_can_be_cancelled_at_any_moment(server: Server) -> None:
    """A cancelled caller returns at once, and the next read succeeds."""
    async with opened(server.url) as scene:
        for turns in [*range(12)] * 20:
            reading = asyncio.create_task(scene.store.batch("nothing"))
            for _ in range(turns):
                await asyncio.sleep(0)
            cancelled = reading.cancel()
            assert await asyncio.wait([reading], timeout=DEADLINE_S) == ({reading}, set())
            assert reading.cancelled() == cancelled
        assert await scene.store.batch("nothing") is None


async def test_a_claim_whose_answer_was_lost_is_given_back(server: Server) -> None:
    """With the next claim: what nobody was told of is leased again, without a loss, and holds one place."""
    client = Losing(port=server.port)
    async with opened(client) as scene:
        await scene.publish("a", "b")
        client.losing = 1
        with pytest.raises(StoreUnavailable):
            await scene.claim()
        claims = await scene.claim()
        assert names(claims) == ["a", "b"]
        assert [(claim.losses, claim.failures) for claim in claims] == [(0, 0)] * 2
        assert (await scene.flow()).in_use == 2
        assert await scene.claim() == []
        assert not (await scene.done(claims[0])).stale
    await client.aclose()


async def test_verbs_whose_answers_were_lost_may_be_repeated(server: Server) -> None:
    """They have been carried out once."""
    client = Losing(port=server.port)
    async with opened(client) as scene:
        claim = await scene.leased("a")
        for verb in (
            lambda: scene.store.record("a", claim.fence, ran(1, "one")),
            lambda: scene.store.publish([message("b")]),
            lambda: scene.store.open_batch(new_batch(), []),
            lambda: scene.store.register("w1", LEASE_MS),
            lambda: scene.store.mark("welcome", ["u1"], None),
        ):
            client.losing = 1
            with pytest.raises(StoreUnavailable):
                await verb()
            await verb()
        client.losing = 1
        with pytest.raises(StoreUnavailable):
            await scene.done(claim)
        assert (await scene.done(claim)).stale
        assert (await scene.flow()).in_use == 0
    await client.aclose()


# Keys


async def test_every_key_is_known(server: Server) -> None:
    """After any use of a namespace each key is on the list; after the end only permanent ones are left."""
    async with opened(server.url) as scene:
        await scene.start(["u1", "u2", "u3"])
        one, two, _ = await scene.items()
        await scene.done(one)
        await scene.dead(two)
        await scene.waits("waits", keep=True, label="x")
        await scene.store.notify("sent", "1", "waits")
        await scene.parent("child", label="y")
        found = {key: pattern_of(key, prefix("batchflow")) for key in server.all_keys()}
        assert [key for key, known in found.items() if known is None] == []
        with server.client() as client:
            assert {key: client.type(key) for key in found} == {
                key: known.type for key, known in found.items() if known
            }
        await scene.store.cancel_runs(label="x")
        await scene.store.cancel_run("p")
        await scene.lose()
        for claim in await scene.claim():
            await scene.done(claim)
        for claim in await scene.claim():
            await scene.done(claim)
        scene.clock.advance("2d")
        while await scene.store.prune(1_000):
            pass
        await scene.store.expire()
        left = {known.pattern for key in server.all_keys() if (known := pattern_of(key, prefix("batchflow")))}
        assert left <= {known.pattern for known in KEYS if known.stays in {"permanent", "marks"}}


async def test_a_queued_item_costs_little(server: Server) -> None:
    """At most 400 bytes, its indexes included."""
    count = 20_000
    async with opened(server.url) as scene:
        entry = await scene.enter("bat_01hv3k8m0q7y2c9d4e")
        with server.client() as client:
            before: Any = client.info("memory")
            pages = [
                settlement.StartItems(entry.batch or "", first, tuple(f"user-{first + n:07d}" for n in range(20)))
                for first in range(0, count, 20)
            ]
            await scene.done(entry, settlement.FinishEntry(entry.batch or ""), *pages)
            after: Any = client.info("memory")
        assert (after["used_memory"] - before["used_memory"]) / count < 400


# The script


async def test_a_store_works_on_fakeredis_without_a_server_of_its_own() -> None:
    """Two stores on one FakeServer are two processes on one server; the heartbeat goes there, too."""
    place = FakeServer()
    async with opened(FakeAsyncRedis(server=place)) as one, opened(FakeAsyncRedis(server=place)) as two:
        await one.publish("a")
        assert names(await two.claim()) == ["a"]
        assert await renewed(one.store)
