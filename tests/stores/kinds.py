"""The stores that a test can be played on, in the test's own time, and what is left in each of what has ended."""

import itertools
from typing import Any, Literal, TypeAlias

from fakeredis import FakeAsyncRedis, FakeServer

from batchflow.core.ports import Clock
from batchflow.stores.redis import RedisStore
from batchflow.stores.redis.keys import KEYS
from batchflow.stores.sqlite import SqliteStore
from tests.stores.redis_keys import snapshot

Kind: TypeAlias = Literal["sqlite", "fakeredis", "redis"]
Made: TypeAlias = SqliteStore | RedisStore

_NAMESPACES = itertools.count()
_TABLES = ("message", "arrival", "listener", "kept_event", "webhook")
_OF_WORKERS = {"workers", "wi", "wc:<worker>", "wl", "ds:<list>"}
# One that has died is known until its lease has ended.
_PASSING = {key.pattern for key in KEYS if key.stays in ("waiting", "batch")} - _OF_WORKERS | {"bo"}


def made(kind: Kind, clock: Clock, url: str | None = None) -> Made:
    """An empty store; one on a server has a namespace of its own at this URL."""
    if kind == "sqlite":
        return SqliteStore(":memory:", clock=clock)
    if kind == "fakeredis":
        return RedisStore(FakeAsyncRedis(server=FakeServer()), clock=clock)
    assert url is not None, "a server is needed"
    return RedisStore(url, clock=clock, namespace=f"kind{next(_NAMESPACES)}")


async def left(store: Made) -> dict[str, Any]:
    """The rows left of ended runs, of their waits, and of batches: there should be none."""
    found = _in_tables(store) if isinstance(store, SqliteStore) else await _in_keys(store)
    return {what: count for what, count in found.items() if count}


def _in_tables(store: SqliteStore) -> dict[str, int]:
    def count(what: str, rows: str) -> int:
        return vars(store)["_writer"].connection.execute(f"SELECT {what} FROM {rows}").fetchone()[0]

    counts = {table: count("count(*)", table) for table in _TABLES}
    # A dead letter is its message, and keeps its steps.
    counts["message"] = count("count(*)", "message WHERE died_at IS NULL")
    dead = "SELECT id FROM message WHERE died_at IS NOT NULL"
    counts["step"] = count("count(*)", f"step WHERE run NOT IN (SELECT id FROM run UNION {dead})")
    counts["in_use"] = count("coalesce(sum(in_use), 0)", "flow")
    counts["batch"] = count("count(*)", "batch WHERE ended_at IS NULL")
    return counts


async def _in_keys(store: RedisStore) -> dict[str, int]:
    about = vars(store)
    found = await snapshot(about["_client"], about["_namespace"])
    counts = dict.fromkeys(found.patterns() & _PASSING, 1)
    flows = [found.of(f"f:{name}") for name in found.of("flows")]
    return {**counts, "in use": sum(int(float(it.get("n", 0))) for it in flows)}
