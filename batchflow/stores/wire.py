"""The verbs of `batchflow.core.wire_store.WireStore` that enqueue one operation, shared by all stores."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from batchflow.core.call import Body
from batchflow.core.posts import Document, DocumentKind, LogEntry, LoggedEntry, Post, Posted, Queue
from batchflow.core.settlement import EndRun
from batchflow.core.store import LARGE_TEXT
from batchflow.core.wire_runs import EventWait, RunEntry
from batchflow.stores.base import GroupCommit, chars_of, chars_of_end


class WireVerbs(ABC):
    """The verbs of posts, runs, queues and documents that write."""

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
        self._note_large(chars_of(posts))
        return [posted(row) for row in await future]

    async def cancel_posts(self, tenant: str, ids: Sequence[str]) -> Sequence[str]:
        """See the protocol."""
        return list(await self._enqueue("cancel_posts", tenant, ids)) if ids else []

    def log(self, entries: Sequence[LogEntry]) -> "asyncio.Future[None]":
        """See the protocol."""
        return self._enqueue("log", entries)

    # Runs

    async def claim_entry(self, tenant: str, run: str, message: str) -> Sequence[RunEntry] | None:
        """See the protocol."""
        rows = await self._enqueue("claim_entry", tenant, run, message)
        return None if rows is None else [run_entry(row) for row in rows]

    async def notify_event(self, tenant: str, event: str, tail: str, run: str | None = None) -> Sequence[EventWait]:
        """See the protocol."""
        future = self._enqueue("notify_event", tenant, event, tail, run)
        self._note_large(len(tail))
        return [EventWait(*row) for row in await future]

    async def end_run(self, end: EndRun) -> bool:
        """See the protocol."""
        future = self._enqueue("end_run", end)
        self._note_large(chars_of_end(end))
        return bool(await future)

    def _note_large(self, chars: int) -> None:
        if chars > LARGE_TEXT and self._commit is not None:
            self._commit.note_large(chars)

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


def posted(row: Sequence[Any]) -> Posted:
    """The answer about a post; its row has the id, whether it was deduplicated, and why the call was refused, if so."""
    id, deduplicated, *refused = row
    return Posted(id, bool(deduplicated), *refused)


def run_entry(row: Sequence[Any]) -> RunEntry:
    """An entry of a run; its row has the post, the text of the body, whether that is base64, and the time."""
    message, text, base64, at = row
    return RunEntry(message, Body(text=text, base64=bool(base64)), at)


def queue(row: Sequence[Any]) -> Queue:
    """A queue; its row has the fields in their order."""
    found = Queue(*row)
    return found._replace(paused=bool(found.paused))


def logged(row: Sequence[Any]) -> LoggedEntry:
    """An entry of the log; its row has the key and then the fields of the entry in their order."""
    key, *entry = row
    return LoggedEntry(key, LogEntry(*entry))
