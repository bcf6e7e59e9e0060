"""`RedisLedger`: the ledger alone, for an app whose engine keeps its state elsewhere."""

from collections.abc import Sequence
from typing import Any

from batchflow.core.clock import Clock
from batchflow.errors import StoreUnavailable
from batchflow.stores.base import GroupCommit
from batchflow.stores.redis import clients, keys
from batchflow.stores.redis.clients import Client
from batchflow.stores.redis.script import GroupSubmitter, ScriptRunner


class RedisLedger:
    """Which items are processed, on Redis: `Batchflow("sqlite:///jobs.db", ledger=RedisLedger(client))`.

    `server`, `namespace` and `clock` are as for `RedisStore`, whose ledger is the same one: what either marks the other
    knows. Marks of one turn of the event loop go out together.
    """

    def __init__(self, server: str | Client, *, clock: Clock | None = None, namespace: str = "batchflow") -> None:
        self._namespace = namespace
        self._owns_client = isinstance(server, str)
        self._client = clients.client_from_url(server) if isinstance(server, str) else server
        self._place = clients.server_name(self._client)
        self._runner = ScriptRunner(self._client, keys.prefix(namespace), self._place, clock)
        self._submitter = GroupSubmitter(self._runner)
        self._group: GroupCommit | None = None

    async def open(self) -> None:
        """See `batchflow.core.store.Ledger`."""
        if self._group is None:
            await self._runner.open(self._namespace)
            self._group = GroupCommit(self._submitter.submit, lambda: None)

    async def close(self) -> None:
        """See the port."""
        group, self._group = self._group, None
        if group is not None:
            await group.drain()
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
        if self._group is None:
            raise StoreUnavailable(
                f"the ledger {self._place} is not open; use it while the app runs, as inside 'async with flow:'"
            )
        return await self._group.add(verb, *arguments)
