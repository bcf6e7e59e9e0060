"""The verbs of `batchflow.core.wire_store.WireStore` that enqueue one operation, shared by all stores."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from batchflow.core.posts import Document, DocumentKind, LogEntry, LoggedEntry, Post, Posted, Queue
from batchflow.core.store import LARGE_TEXT
from batchflow.stores.base import GroupCommit, chars_of


class WireVerbs(ABC):
    """The verbs of posts, queues and documents that write."""

    _commit: GroupCommit | None = None

    @abstractmethod
    def _enqueue(self, verb: str, *arguments: Any) -> "asyncio.Future[Any]":
        """Enqueue an operation; the future gets its answer once it is durable."""

    # Posts

    async def post(self, posts: Sequence[Post]) -> Sequence[Posted]:
        """See the protocol."""
        if not posts:
            return []
        future = self._enqueue("post", posts)
        if (chars := chars_of(posts)) > LARGE_TEXT and self._commit is not None:
            self._commit.note_large(chars)
        return [Posted(id, bool(deduplicated)) for id, deduplicated in await future]

    async def cancel_posts(self, tenant: str, ids: Sequence[str]) -> Sequence[str]:
        """See the protocol."""
        return list(await self._enqueue("cancel_posts", tenant, ids)) if ids else []

    def log(self, entries: Sequence[LogEntry]) -> "asyncio.Future[None]":
        """See the protocol."""
        return self._enqueue("log", entries)

    # Queues

    async def put_queue(
        self, tenant: str, name: str, *, parallelism: int | None = None, paused: bool | None = None
    ) -> Queue:
        """See the protocol."""
        return queue(await self._enqueue("put_queue", tenant, name, parallelism, paused))

    async def drop_queue(self, tenant: str, name: str) -> bool:
        """See the protocol."""
        return await self._enqueue("drop_queue", tenant, name)

    # Documents

    async def put_document(
        self, kind: DocumentKind, name: str, text: str, *, expected: int | None = None
    ) -> Document | None:
        """See the protocol."""
        row = await self._enqueue("put_document", kind, name, text, expected)
        return None if row is None else Document(*row)

    async def drop_document(self, kind: DocumentKind, name: str) -> bool:
        """See the protocol."""
        return await self._enqueue("drop_document", kind, name)


def queue(row: Sequence[Any]) -> Queue:
    """A queue; its row has the fields in their order."""
    found = Queue(*row)
    return found._replace(paused=bool(found.paused))


def logged(row: Sequence[Any]) -> LoggedEntry:
    """An entry of the log; its row has the key and then the fields of the entry in their order."""
    key, *entry = row
    return LoggedEntry(key, LogEntry(*entry))
