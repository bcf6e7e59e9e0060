"""The protocol of stores that keep posts: the specification of what a QStash server needs beside `Store`.

The rules are those of `batchflow.core.store`: every verb is one transaction, and safe to repeat after a lost reply
unless it says otherwise. Every store of ours implements both protocols.
"""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from batchflow.core.posts import Document, DocumentKind, LogEntry, LoggedEntry, Post, Posted, Queue
from batchflow.core.settlement import EndRun
from batchflow.core.wire_runs import EventWait, RunEntry, RunMember, WireRun


class Posts(Protocol):
    """Posts and their log."""

    async def post(self, posts: Sequence[Post]) -> Sequence[Posted]:
        """Publish posts, each with its CREATED entry in the log; returns their ids, in order.

        One whose deduplication key is known is not published: it gets the id of the earlier post. The key of one that
        is published is kept for `DEDUP_WINDOW_MS`. A post with a queue waits for its place there; a queue that does not
        exist is made, with a parallelism of 1. A post whose id exists, open or ended and still in the log, changes
        nothing and gets its id.

        Posts with a link are carried out in their order, all of a call or none: if one of them belongs to a run that
        has ended, does not exist, began at another time than it says, or has no room for it, all of the call are
        `refused` and nothing is changed. One that begins a run whose id is that of one that has not ended changes
        nothing: it gets the id of the first entry of that run, as deduplicated, and so do the posts of the call that
        belong to it; with an `invoker` it is refused. A run that has ended is replaced by one with its id. The first
        post of a call may begin the run of the others.
        A post that waits for an event is published with the time at which it is due. If an event of this name was kept
        for its run, it becomes an entry with the oldest at once, and is due.
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

    async def latest_entries(self, tenant: str, ids: Sequence[str]) -> Mapping[str, LogEntry]:
        """The latest entries of these posts, by id; those that are unknown or of another tenant are left out."""
        ...


class WireRuns(Protocol):
    """Workflow runs of QStash: their entries, their waits and their end."""

    async def claim_entry(self, tenant: str, run: str, message: str) -> Sequence[RunEntry] | None:
        """The entries of a run up to that of a post, in their order; None if the run has ended or does not exist.

        A post that still waits for an event becomes an entry before, which ends with `WAIT_TIMEOUT`, even if the run
        has no room for it. Safe to repeat.
        """
        ...

    async def notify_event(self, tenant: str, event: str, tail: str, run: str | None = None) -> Sequence[EventWait]:
        """Make all posts of a tenant that wait for an event entries of their runs, due at once; returns them.

        `tail` ends the JSON texts that they began. With `run` only the one of that run which has waited longest gets
        it; if none does, and the run has not ended, the event is kept for it, up to `KEPT_EVENTS` of `MAX_ENTRIES_SIZE`
        characters in all. Those whose run has no room for the entry keep waiting. Not safe to repeat.
        """
        ...

    async def event_waits(self, tenant: str, event: str) -> Sequence[EventWait]:
        """The posts of a tenant that wait for an event, those that have waited longest first."""
        ...

    async def end_run(self, end: EndRun) -> bool:
        """Carry out the effect; False if the run has ended already or does not exist."""
        ...

    async def wire_run(self, tenant: str, id: str) -> WireRun | None:
        """A run; None if it does not exist, or was removed by `prune` after its end."""
        ...

    async def wire_runs(
        self, tenant: str, *, before: tuple[int, str] | None = None, limit: int = 100
    ) -> Sequence[WireRun]:
        """The latest runs of a tenant, newest first; `before` is `(created_at, id)` of the last one of a page."""
        ...

    async def run_entries(self, tenant: str, run: str) -> Sequence[RunEntry]:
        """All entries of a run, in their order; those of a run that has ended are there until it is removed."""
        ...

    async def run_members(self, tenant: str, run: str) -> Sequence[RunMember]:
        """All posts of a run, in the order in which they were published; as long as its entries."""
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
class WireStore(Posts, WireRuns, Queues, Documents, Protocol):
    """A store that keeps all that a QStash server needs.

    `Store.prune` removes deduplication keys whose time is over, and the log of a post that is not open, as a whole,
    once its latest entry is older than the retention: an entry that is there has its CREATED entry. It removes a
    workflow run, with its entries and the list of its posts, once its end is older.

    Its effects, which `Store.settle` carries out, are `SendPosts`, `Log`, `LeaveQueue` and `EndRun`.
    """
