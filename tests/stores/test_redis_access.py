"""Access to a server: over TLS, by a socket, as a user with few rights, by a client with few connections."""

import re
from collections.abc import Generator
from typing import Any

import pytest
import trustme
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis

from batchflow.errors import StoreIncompatible, StoreUnavailable
from batchflow.stores.redis.script import commands
from batchflow.stores.redis.store import RedisStore
from tests.conformance.scene import names, renewed
from tests.docs.pages import ROOT
from tests.stores.redis_server import Server, free_port, served
from tests.stores.test_redis import opened, refusal

PAGE = "docs/how-to/redis.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """A server with a port for TLS, and a socket."""
    folder = tmp_path_factory.mktemp("redis")
    known, _ = trustme.CA(), trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
    known.cert_pem.write_to_path(str(folder / "ca.pem"))
    own = known.issue_cert("127.0.0.1")
    own.private_key_pem.write_to_path(str(folder / "key.pem"))
    own.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    files = {"--tls-cert-file": "cert.pem", "--tls-key-file": "key.pem", "--tls-ca-cert-file": "ca.pem"}
    named = [word for option, name in files.items() for word in (option, str(folder / name))]
    port = str(free_port())
    fixed = ["--tls-port", port, "--tls-auth-clients", "no", "--unixsocket", str(folder / "redis.sock")]
    with served(folder, *fixed, *named) as started:
        yield started


def encrypted(server: Server, authority: str) -> str:
    """The URL of its port for TLS, for who trusts the authority of this name."""
    return f"rediss://127.0.0.1:{asked(server, 'tls-port')}?ssl_ca_certs={server.folder / authority}.pem"


def asked(server: Server, option: str) -> str:
    with server.client() as client:
        return client.config_get(option)[option]


# TLS, sockets


async def test_a_server_is_reached_over_tls(server: Server) -> None:
    """By the verbs, by who listens, and by the thread that renews."""
    async with opened(encrypted(server, "ca"), namespace="tls") as scene:
        assert await scene.publish("a") == [True]
        assert names(await scene.claim()) == ["a"]
        assert await renewed(scene.store)


async def test_a_server_whose_certificate_is_not_trusted_is_refused(server: Server) -> None:
    """In one sentence, with what to write."""
    place = encrypted(server, "other")
    said = await refusal(place)
    assert said == (
        f"{place.partition('?')[0]}/0 has a certificate that is not trusted: self-signed certificate in certificate "
        "chain; name who has signed it with ?ssl_ca_certs=PATH"
    )


async def test_a_server_is_reached_by_a_socket(server: Server) -> None:
    """By the thread that renews as well."""
    async with opened(f"unix://{server.folder / 'redis.sock'}", namespace="socket") as scene:
        assert await scene.publish("a") == [True]
        assert await renewed(scene.store)


# Users


def documented_rights() -> list[str]:
    """The rights that the docs list for a user of batchflow, for the namespace `batchflow`."""
    (line,) = re.findall(r"^ACL SETUSER app on >PASSWORD (.+)$", (ROOT / PAGE).read_text(encoding="utf-8"), re.M)
    return line.split()


def may(server: Server, *rights: str) -> str:
    """Make the user `app`, who may do this and nothing else; the URL with its name."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">secret", *rights)
    return f"redis://app:secret@127.0.0.1:{server.port}"


def test_documented_rights_are_those_that_are_needed() -> None:
    """The commands of the script, what runs it, what is heard, and the question for the version: no more, no less."""
    outside = ["fcall", "function|load", "evalsha", "eval", "subscribe", "info"]
    wanted = ["~bf:{batchflow}:*", "&bf:{batchflow}:changes", *(f"+{it.lower()}" for it in (*outside, *commands()))]
    assert documented_rights() == wanted, f"write: ACL SETUSER app on >PASSWORD {' '.join(wanted)}"


async def test_a_user_with_the_documented_rights_can_do_all(server: Server) -> None:
    """The conformance suite runs as such a user; here, that nothing was refused to it."""
    url = may(server, *documented_rights())
    with server.client() as client:
        client.execute_command("ACL", "LOG", "RESET")
        async with opened(url) as scene:
            assert await scene.publish("a") == [True]
            assert await renewed(scene.store)
            refused = {it["object"] for it in client.execute_command("ACL", "LOG")}
        # A client tells its name where the server knows how, and does without.
        assert refused - {"client|setinfo"} == set()


@pytest.mark.parametrize(
    ("right", "said"),
    [
        ("-zadd", "its user may not run ZADD"),
        ("-publish", "its user may not run PUBLISH"),
        ("resetchannels", "its user may not run PUBLISH"),
        ("-time", "its user may not run a command of the script"),
        ("-fcall -evalsha", "this user has no permissions to run the 'evalsha' command"),
        ("-subscribe", "this user has no permissions to run the 'subscribe' command"),
        ("resetkeys", "this user has no permissions to access one of the keys used as arguments"),
    ],
)
async def test_a_user_without_a_right_is_refused_at_start(server: Server, right: str, said: str) -> None:
    """In one sentence, and before anything is written."""
    with server.client() as client:
        client.flushall()
        told = await refusal(may(server, *documented_rights(), *right.split()))
        assert re.fullmatch(rf"redis://127.0.0.1:\d+/0 forbids what batchflow needs: {said}; give .* more rights", told)
        assert client.keys("*") in ([], ["bf:{batchflow}:meta"])


async def test_a_right_that_is_taken_away_is_an_error_and_comes_back(server: Server) -> None:
    """A worker goes on trying: the program was right yesterday."""
    url = may(server, *documented_rights())
    async with opened(url, namespace="batchflow") as scene:
        may(server, *documented_rights(), "-fcall", "-evalsha")
        with pytest.raises(StoreUnavailable, match="give the user more rights; it is tried again meanwhile"):
            await scene.publish("late")
        may(server, *documented_rights())
        assert await scene.publish("late") == [True]


# Pools


def _client_of(server: Server, connections: int, *, waiting: bool = False) -> Any:
    kind: Any = BlockingConnectionPool if waiting else ConnectionPool
    return Redis.from_pool(kind.from_url(server.url, max_connections=connections))


@pytest.mark.parametrize("waiting", [False, True])
async def test_pool_of_one_connection_is_refused(server: Server, waiting: bool) -> None:
    """At the start and with what to set: the store would wait for its second connection for ever."""
    client = _client_of(server, 1, waiting=waiting)
    with pytest.raises(StoreIncompatible, match="set max_connections to 2 or more"):
        await RedisStore(client).open()
    await client.aclose()


async def test_pool_of_two_connections_suffices(server: Server) -> None:
    """One for the verbs, and one to hear of changes."""
    client = _client_of(server, 2)
    store = RedisStore(client, namespace="two")
    await store.open()
    assert (await store.batches(), await store.workers()) == ([], [])
    await store.close()
    await client.aclose()


async def test_url_with_one_connection_is_refused(server: Server) -> None:
    """As a client of it is."""
    with pytest.raises(StoreIncompatible, match="a pool of 1 connection"):
        await RedisStore(f"{server.url}?max_connections=1").open()


async def test_pool_whose_connections_are_all_in_use_is_named(server: Server) -> None:
    """The server could be reached: the app's own commands hold the connections."""
    client = _client_of(server, 2)
    connections = [await client.connection_pool.get_connection() for _ in range(2)]
    with pytest.raises(StoreUnavailable, match="raise its max_connections"):
        await RedisStore(client).open()
    for connection in connections:
        await client.connection_pool.release(connection)
    await client.aclose()
