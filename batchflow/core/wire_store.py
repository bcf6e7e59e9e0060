"""The protocol of stores that keep posts: the specification of what a QStash server needs beside `Store`.

The rules are those of `batchflow.core.store`: every verb is one transaction, and safe to repeat after a lost reply
unless it says otherwise. Every store of ours implements both protocols.
"""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from batchflow.core.posts import Document, DocumentKind, LogEntry, LoggedEntry, Post, Posted, Queue


class Posts(Protocol):
    """Posts and their log."""

    async def post(self, posts: Sequence[Post]) -> Sequence[Posted]:
        """Publish posts, each with its CREATED entry in the log; returns their ids, in order.

        One whose deduplication key is known is not published: it gets the id of the earlier post. The key of one that
        is published is kept for `DEDUP_WINDOW_MS`. A post with a queue waits for its place there; a queue that does not
        exist is made, with a parallelism of 1. A post whose id exists, open or ended and still in the log, changes
        nothing and gets its id.
        """
        ...

    async def cancel_posts(self, tenant: str, ids: Sequence[str]) -> Sequence[str]:
        """Cancel posts of a tenant that have not ended; returns the ids of those, in order.

        Those that wait end at once, those that a worker delivers when it settles or loses them, unless they are
        delivered. The log gets CANCEL_REQUESTED, once for each of them. Ids that are unknown, of another tenant or of
        posts that have ended or died are passed over.

        When an open post ends as cancelled, by this or another verb, the log gets CANCELED and its place in a queue is
        free.
        """
        ...

    async def open_posts(self, tenant: str, *, after: int = 0, limit: int = 100) -> Sequence[LoggedEntry]:
        """The CREATED entries of posts that have not ended, with a key above `after`, in their order."""
        ...

    def log(self, entries: Sequence[LogEntry]) -> Awaitable[None]:
        """Add entries to the log. Not safe to repeat: each call adds them.

        A post is open from its CREATED entry until one of `LAST_STATES`.
        """
        ...

    async def log_entries(
        self, tenant: str, *, before: int | None = None, limit: int = 100, message: str | None = None
    ) -> Sequence[LoggedEntry]:
        """The latest entries of a tenant with a key below `before`, newest first; with `message` those of one post."""
        ...

    async def created_entries(self, tenant: str, ids: Sequence[str]) -> Mapping[str, LogEntry]:
        """The CREATED entries of these posts, by id; those that are unknown or of another tenant are left out."""
        ...


class Queues(Protocol):
    """Queues, which keep the order of their posts."""

    async def put_queue(
        self, tenant: str, name: str, *, parallelism: int | None = None, paused: bool | None = None
    ) -> Queue:
        """Make a queue, or change what is given of it: 1 and not paused if it is new.

        A paused queue lets no post begin; more places are filled at once.
        """
        ...

    async def queue(self, tenant: str, name: str) -> Queue | None:
        """A queue; None if it does not exist."""
        ...

    async def queues(self, tenant: str) -> Sequence[Queue]:
        """The queues of a tenant, by name."""
        ...

    async def drop_queue(self, tenant: str, name: str) -> bool:
        """Remove a queue; its posts that wait for a place are cancelled (CANCELED in the log). False if unknown.

        Those that are under way end as usual.
        """
        ...


class Documents(Protocol):
    """Named JSON texts."""

    async def put_document(
        self, kind: DocumentKind, name: str, text: str, *, expected: int | None = None
    ) -> Document | None:
        """Add a document, whose version is 1, or replace its text.

        None, and no change, if its version is not `expected`; an `expected` of 0 means that it is new.
        """
        ...

    async def document(self, kind: DocumentKind, name: str) -> Document | None:
        """A document; None if it does not exist."""
        ...

    async def documents(
        self, kind: DocumentKind, *, prefix: str = "", after: str = "", limit: int = 100
    ) -> Sequence[Document]:
        """The documents whose names begin with `prefix` and are after `after`, by name."""
        ...

    async def drop_document(self, kind: DocumentKind, name: str) -> bool:
        """Remove a document; False if it does not exist."""
        ...


@runtime_checkable
class WireStore(Posts, Queues, Documents, Protocol):
    """A store that keeps all that a QStash server needs.

    `Store.prune` removes deduplication keys whose time is over, and the log of a post that is not open, as a whole,
    once its latest entry is older than the retention: an entry that is there has its CREATED entry.

    Its effects, which `Store.settle` carries out, are `SendPosts`, `Log` and `LeaveQueue`.
    """
