"""The Redis store without a server: of namespaces, of URLs, and which verbs its script knows."""

import subprocess
import sys
from traceback import format_exception
from typing import Any, cast

import pytest
from redis.asyncio import RedisCluster, connection

from batchflow import Batchflow
from batchflow.errors import ConfigurationError, StoreIncompatible
from batchflow.stores.base import NOTIFYING_VERBS, ORDER
from batchflow.stores.redis import RedisStore, clients
from batchflow.stores.redis.script import load_script
from batchflow.stores.sql.store import VERBS


@pytest.mark.parametrize("namespace", ["", "a b", "a{b", "a}b", "a\n"])
def test_a_namespace_with_forbidden_characters_is_refused(namespace: str) -> None:
    """In one sentence, before anything is asked of a server."""
    with pytest.raises(ConfigurationError) as caught:
        RedisStore("redis://localhost", namespace=namespace)
    assert str(caught.value) == (
        f"a namespace cannot be {namespace!r}; write a name without braces and spaces, such as 'batchflow'"
    )


def test_a_url_that_is_not_redis_is_refused() -> None:
    """With what it may be."""
    with pytest.raises(StoreIncompatible) as caught:
        RedisStore("http://localhost")
    assert str(caught.value) == (
        "'http://localhost' is not the URL of a Redis server; write redis://, rediss://, unix://, redis+cluster:// "
        "or redis+sentinel://"
    )


def test_urls_of_all_kinds_are_taken() -> None:
    """TCP, TLS and a socket; another client for the heartbeat goes to the same place."""
    for url, kind in (
        ("redis://:pw@host:1/2", connection.Connection),
        ("rediss://host:1/2", connection.SSLConnection),
        ("unix:///tmp/x.sock?db=2", connection.UnixDomainSocketConnection),
    ):
        client = clients.client_from_url(url)
        other: Any = clients.duplicate(client)
        pool = other.connection_pool
        assert pool is not cast(Any, client).connection_pool
        assert pool.connection_class is kind
        assert pool.connection_kwargs["db"] == 2
        assert clients.server_name(other) == clients.server_name(client)
        assert "pw" not in clients.server_name(client)


def test_batchflow_does_not_import_redis() -> None:
    """A program without Redis does not import it."""
    text = "import sys, batchflow; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", text], check=False, timeout=120).returncode == 0


def test_every_writing_verb_has_its_order() -> None:
    """Notifying verbs are among them, and each store implements each."""
    assert set(ORDER) >= NOTIFYING_VERBS
    # A transaction leaves nothing half done.
    assert set(VERBS) == {*ORDER, "read"} - {"reconcile"}
    for verb in ORDER:
        assert f"verbs.{verb} = " in load_script().text


def test_urls_of_a_cluster_are_taken() -> None:
    """With its nodes, user and password; another client finds the same ones, and neither asks before it is used."""
    client: Any = clients.client_from_url("rediss+cluster://me:pw@one:1,two:2,[::1]:3?ssl_ca_certs=/ca.pem")
    other: Any = clients.duplicate(client)
    for made in (client, other):
        assert isinstance(made, RedisCluster)
        nodes: list[Any] = cast(Any, made).startup_nodes
        assert {(node.host, node.port) for node in nodes} == {("one", 1), ("two", 2), ("::1", 3)}
        about = made.connection_kwargs
        assert (about["username"], about["password"], about["ssl_ca_certs"]) == ("me", "pw", "/ca.pem")
        assert about["connection_class"] is connection.SSLConnection
    assert clients.server_name(client).startswith("rediss+cluster://two:2,")
    assert "pw" not in clients.server_name(client)


def test_urls_of_sentinels_are_taken() -> None:
    """With the service, the database, and the Sentinels' own password; another client asks the same ones."""
    url = "rediss+sentinel://me:pw@one,two:2/main/3?sentinel_password=other&ssl_ca_certs=/ca.pem"
    client: Any = clients.client_from_url(url)
    assert clients.server_name(client) == "rediss+sentinel://one:26379,two:2/main/3"
    other: Any = clients.duplicate(client)
    pools: list[Any] = [client.connection_pool, other.connection_pool]
    for pool in pools:
        assert pool.service_name == "main"
        wanted = {"username": "me", "password": "pw", "db": 3, "ssl_ca_certs": "/ca.pem"}
        assert wanted.items() <= pool.connection_kwargs.items()
        asked: list[dict[str, Any]] = [it.connection_pool.connection_kwargs for it in pool.sentinel_manager.sentinels]
        assert [(it["host"], it["port"]) for it in asked] == [("one", 26379), ("two", 2)]
        assert {(it["password"], it["ssl_ca_certs"]) for it in asked} == {("other", "/ca.pem")}
    assert issubclass(pools[1].connection_class, connection.SSLConnection)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis+cluster://me:secret@host:1/2", "Argument 'db' must be 0 or None in cluster mode"),
        (
            "redis+sentinel://me:secret@host:1",
            "it names no service; write redis+sentinel://HOST:PORT,HOST:PORT/SERVICE",
        ),
        ("redis+cluster://me:secret@host:1,other:x", "a port is a number"),
        (
            "redis://me:secret@host:1/a",
            "a database is a number, as in redis://HOST:PORT/0; write %2F for a slash in a password",
        ),
    ],
)
def test_a_url_that_cannot_be_is_refused_without_its_password(url: str, said: str) -> None:
    """With the reason."""
    with pytest.raises(StoreIncompatible) as caught:
        RedisStore(url)
    shown = url.replace(":secret@", "@").replace(":x", ":…")
    assert str(caught.value) == f"'{shown}' is not the URL of a Redis server: {said}"
    assert ":secret" not in "".join(format_exception(caught.value))


@pytest.mark.parametrize("scheme", clients.SCHEMES)
def test_an_app_takes_every_url_that_the_store_takes(scheme: str) -> None:
    """They stand in two places, so that an app on SQLite does not import redis."""
    url = (
        f"{scheme}:///tmp/x.sock" if scheme == "unix" else f"{scheme}://host:1/{'main' if 'sentinel' in scheme else ''}"
    )
    assert isinstance(Batchflow(url, worker=False).engine.store, RedisStore)
