"""What the Redis store says without a server: of namespaces, of URLs, and which verbs its script knows."""

import subprocess
import sys
from typing import Any

import pytest
import redis

from batchflow.errors import ConfigurationError, StoreIncompatible
from batchflow.stores.redis import RedisStore, connection
from batchflow.stores.redis.scripts import RANK, TELLING, script


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
        "'http://localhost' is not the URL of a Redis server; write redis://, rediss:// or unix://"
    )


def test_urls_of_all_kinds_are_taken() -> None:
    """TCP, TLS and a socket; each has a blocking twin for the heartbeat that goes to the same place."""
    for url, kind in (
        ("redis://:pw@host:1/2", redis.Connection),
        ("rediss://host:1/2", redis.SSLConnection),
        ("unix:///tmp/x.sock?db=2", redis.UnixDomainSocketConnection),
    ):
        client = connection.client_of(url)
        twin = connection.blocking_twin(client)
        assert twin is not None
        pool: Any = twin.connection_pool
        assert pool.connection_class is kind
        assert pool.connection_kwargs["db"] == 2
        assert "pw" not in connection.place_of(client)


def test_batchflow_does_not_import_redis() -> None:
    """Who has no Redis pays nothing for it."""
    text = "import sys, batchflow; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", text], check=False, timeout=120).returncode == 0


def test_every_writing_verb_has_its_order() -> None:
    """What tells of changes is among them, and the script knows each."""
    assert set(RANK) >= TELLING
    for verb in RANK:
        assert f"verbs.{verb} = " in script().text
