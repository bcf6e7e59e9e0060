"""The verbs of `batchflow.core.wire_store.WireStore` on Redis that only read."""

from collections.abc import Mapping, Sequence

from batchflow.core.posts import Document, DocumentKind, LogEntry, LoggedEntry, Queue
from batchflow.stores.wire import WireVerbs, logged, queue


class RedisWireVerbs(WireVerbs):
    """Posts, queues and documents in Redis."""

    # Posts

    async def open_posts(self, tenant: str, *, after: int = 0, limit: int = 100) -> Sequence[LoggedEntry]:
        """See the protocol."""
        return [logged(row) for row in await self._enqueue("open_posts", tenant, after, limit)]

    async def log_entries(
        self, tenant: str, *, before: int | None = None, limit: int = 100, message: str | None = None
    ) -> Sequence[LoggedEntry]:
        """See the protocol."""
        return [logged(row) for row in await self._enqueue("log_entries", tenant, before, limit, message)]

    async def created_entries(self, tenant: str, ids: Sequence[str]) -> Mapping[str, LogEntry]:
        """See the protocol."""
        found = [logged(row).entry for row in await self._enqueue("created_entries", tenant, ids)]
        return {entry.message: entry for entry in found}

    # Queues

    async def queue(self, tenant: str, name: str) -> Queue | None:
        """See the protocol."""
        row = await self._enqueue("queue", tenant, name)
        return queue(row) if row else None

    async def queues(self, tenant: str) -> Sequence[Queue]:
        """See the protocol."""
        return [queue(row) for row in await self._enqueue("queues", tenant)]

    # Documents

    async def document(self, kind: DocumentKind, name: str) -> Document | None:
        """See the protocol."""
        row = await self._enqueue("document", kind, name)
        return Document(*row) if row else None

    async def documents(
        self, kind: DocumentKind, *, prefix: str = "", after: str = "", limit: int = 100
    ) -> Sequence[Document]:
        """See the protocol."""
        return [Document(*row) for row in await self._enqueue("documents", kind, prefix, after, limit)]
