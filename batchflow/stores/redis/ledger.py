"""`RedisLedger`: only the ledger, for an app whose engine keeps its state elsewhere."""

from collections.abc import Sequence
from typing import Any

from batchflow.core.ports import Clock
from batchflow.stores.base import GroupCommit, not_open
from batchflow.stores.redis import clients, keys
from batchflow.stores.redis.clients import Client
from batchflow.stores.redis.script import ScriptRunner


class RedisLedger:
    """A ledger of processed items on Redis: `Batchflow("sqlite:///jobs.db", ledger=RedisLedger(client))`.

    `server`, `namespace` and `clock` are as for `RedisStore`, with which it shares the ledger of a namespace. Marks of
    one turn of the event loop are sent together.
    """

    def __init__(self, server: str | Client, *, clock: Clock | None = None, namespace: str = "batchflow") -> None:
        self._namespace = namespace
        self._owns_client = isinstance(server, str)
        self._client = clients.client_from_url(server) if isinstance(server, str) else server
        self._server = clients.server_name(self._client)
        self._runner = ScriptRunner(self._client, keys.prefix(namespace), self._server, clock)
        self._commit: GroupCommit | None = None

    async def open(self) -> None:
        """See `batchflow.core.store.Ledger`."""
        if self._commit is None:
            await self._runner.open(self._namespace)
            self._commit = GroupCommit(self._runner.submit, lambda: None)

    async def close(self) -> None:
        """See the port."""
        commit, self._commit = self._commit, None
        if commit is not None:
            await commit.drain()
        if self._owns_client:
            await clients.close(self._client)

    async def processed(self, ledger: str, ids: Sequence[str]) -> frozenset[str]:
        """See the port; one round trip."""
        return frozenset(await self._enqueue("processed", ledger, ids))

    async def mark(self, ledger: str, ids: Sequence[str], ttl_ms: int | None) -> None:
        """See the port."""
        await self._enqueue("mark", ledger, ids, ttl_ms)

    async def forget(self, ledger: str, ids: Sequence[str] | None = None) -> int:
        """See the port."""
        return await self._enqueue("forget", ledger, ids)

    async def _enqueue(self, verb: str, *arguments: Any) -> Any:
        if self._commit is None:
            raise not_open(f"the ledger {self._server}")
        return await self._commit.add(verb, *arguments)
