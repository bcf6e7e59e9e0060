"""Workflow runs of QStash: the links of posts to them, their entries, their waits and the events kept for them.

`settling` ends them, with the cancellation of their posts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from batchflow.core.call import Body
from batchflow.core.posts import Post, Refusal
from batchflow.core.run import NEVER
from batchflow.core.settlement import EndRun
from batchflow.core.store import KEPT_EVENTS
from batchflow.core.wire_runs import (
    MAX_ENTRIES_SIZE,
    WAIT_TIMEOUT,
    AddEntry,
    AdoptRun,
    AwaitEvent,
    BeginRun,
    EventWait,
    JoinRun,
    RunEntry,
    RunMember,
    WireRun,
)
from batchflow.stores import wire
from batchflow.stores.sql import events, messages
from batchflow.stores.sql.transaction import Tx


class Refused(Exception):
    """The run of a post has ended or does not exist, has no room for it, or cannot be invoked as it goes on."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason)
        self.reason: Refusal = reason


class RunHead(NamedTuple):
    """A run that is there, as far as its posts depend on it."""

    key: int
    live: int
    created_at: int
    entries: int
    size: int


class NewEntry(NamedTuple):
    """An entry to add to a run."""

    run: int
    seq: int
    message: str
    text: str
    base64: bool = False


class Waiting(NamedTuple):
    """A wait with its run, and the fields of an `EventWait`."""

    run: int
    entries: int
    size: int
    head: str
    id: str
    message: str
    due: int
    about: str
    created_at: int


# Links


@dataclass(slots=True)
class _Draft:
    """A run with what the posts of a call add to it; `key` is None for a run that is not there.

    `repeated` is the time of a begin that was deduplicated by an earlier call: the posts that belong to it are so too.
    """

    key: int | None
    live: bool
    created_at: int = 0
    entries: int = 0
    size: int = 0
    first: tuple[str, int] = ("", 0)
    begun: BeginRun | None = None
    config: str | None = None
    repeated: int | None = None
    bodies: list[tuple[int, str, str, bool]] = field(default_factory=list[tuple[int, str, str, bool]])
    members: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    waits: list[tuple[str, str, str, int, str]] = field(default_factory=list[tuple[str, str, str, int, str]])
    taken: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    def check(self, created_at: int | None, *, late: bool = False) -> None:
        """Refuse a post if the run has ended (unless it is late), is not there, or began at another time."""
        there = self.live or (late and self.key is not None)
        if not there or created_at not in (None, self.created_at):
            raise Refused("ended")

    def append(self, message: str, *bodies: Body, late: bool = False) -> None:
        """Add entries of a post, if there is room for them or it is late."""
        self.size += sum(len(body.text) for body in bodies)
        if self.size > MAX_ENTRIES_SIZE and not late:
            raise Refused("full")
        for body in bodies:
            self.entries += 1
            self.bodies.append((self.entries, message, body.text, body.base64))


class Links:
    """The links of the posts of one call, all of which are checked before anything is written."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._drafts: dict[tuple[str, str], _Draft] = {}

    def add(self, post: Post) -> Post | tuple[str, bool]:
        """The post as it is to be published, or the answer about one that is not published.

        Raises:
            Refused: its run does not take it.
        """
        link, message = post.link, post.message.id
        assert link is not None
        draft = self._draft(post.tenant, link.run)
        if self._is_known(draft, message):
            return message, False
        match link:
            case BeginRun() if draft.live:
                if link.invoker is not None:
                    raise Refused("live")
                if draft.begun is None:
                    draft.repeated = link.created_at
                return draft.first[0], True
            case BeginRun():
                draft = _Draft(draft.key, live=True, created_at=link.created_at, begun=link)
                self._drafts[post.tenant, link.run] = draft
                draft.append(message, *link.entries)
                draft.first = message, draft.entries
                draft.members.append(draft.first)
            case _ if draft.repeated is not None and link.created_at in (None, draft.repeated):
                return draft.first[0], True
            case AdoptRun():
                draft.check(link.created_at)
                draft.config = link.config
                draft.members.append((message, draft.first[1]))
            case AddEntry():
                draft.check(link.created_at, late=link.late)
                draft.append(message, link.body, late=link.late)
                if not draft.live:
                    return message, False
                draft.members.append((message, draft.entries))
            case JoinRun():
                draft.check(link.created_at)
                draft.members.append((message, 0))
            case AwaitEvent():
                draft.check(link.created_at)
                return self._await(draft, post, link)
        return post

    def write(self) -> None:
        """Write what the posts have added to their runs."""
        for (tenant, run), draft in self._drafts.items():
            _write(self._tx, tenant, run, draft)

    def _draft(self, tenant: str, run: str) -> _Draft:
        draft = self._drafts.get((tenant, run))
        if draft is None:
            head = _find(self._tx, tenant, run)
            draft = _Draft(None, live=False) if head is None else _Draft(head.key, bool(head.live), *head[2:])
            if head is not None and draft.live:
                draft.first = tuple(self._tx.json("wire_member_first", run=head.key)[0])
            self._drafts[tenant, run] = draft
        return draft

    def _is_known(self, draft: _Draft, message: str) -> bool:
        """True for a post that the run has, while the log has forgotten it or never had it (a late entry)."""
        if draft.begun is not None or draft.key is None:
            return False
        if draft.live:
            return _entry_of(self._tx, draft.key, message) is not None
        return self._tx.one("wire_entry_of_post", run=draft.key, message=message) is not None

    def _await(self, draft: _Draft, post: Post, link: AwaitEvent) -> Post:
        message = post.message
        kept: list[tuple[int, str]] = []
        if draft.begun is None:
            after = max((key for event, key in draft.taken if event == link.event), default=0)
            kept = self._tx.json("wire_kept_next", run=draft.key, event=link.event, after=after)
        if not kept:
            draft.members.append((message.id, 0))
            draft.waits.append((message.id, link.event, link.head, message.not_before, link.about))
            return post
        ((key, tail),) = kept
        draft.append(message.id, Body(text=link.head + tail))
        draft.taken.append((link.event, key))
        draft.members.append((message.id, draft.entries))
        return post._replace(message=replace(message, not_before=0))


def _write(tx: Tx, tenant: str, run: str, draft: _Draft) -> None:
    key = draft.key
    if (begun := draft.begun) is not None:
        if key is not None:
            _remove(tx, key)
        about = {"url": begun.url, "config": begun.config, "invoker": begun.invoker, "created_at": begun.created_at}
        tx.run("wire_run_add", tenant=tenant, id=run, **about)
        key = tx.one("wire_run_key", tenant=tenant, id=run)
    if draft.config is not None:
        tx.run("wire_run_adopt", run=key, config=draft.config)
    if key is not None and draft.bodies:
        _append(tx, [NewEntry(key, *body) for body in draft.bodies], [(key, draft.entries, draft.size)])
    if draft.members:
        tx.run_rows("wire_member_add", draft.members, run=key, now=tx.now)
    if draft.waits:
        tx.run_rows("wire_wait_add", draft.waits, run=key, tenant=tenant)
    if draft.taken:
        tx.run_rows("wire_kept_take", [(kept,) for _, kept in draft.taken])


def _remove(tx: Tx, key: int) -> None:
    tx.run("wire_entry_drop", run=key)
    tx.run("wire_member_drop", run=key)
    tx.run("wire_run_drop", run=key)


def _append(tx: Tx, entries: Sequence[NewEntry], grown: Sequence[tuple[int, int, int]]) -> None:
    """Add entries to runs, each of which is given with its new number and size of entries."""
    tx.run_rows("wire_entry_add", entries, now=tx.now)
    tx.run_rows("wire_run_grow", grown)


# Entries and waits


def claim_entry(tx: Tx, tenant: str, run: str, message: str) -> list[Any] | None:
    """The entries of a run up to that of a post; None if it has ended, or is not there."""
    head = _find(tx, tenant, run)
    last = _entry_of(tx, head.key, message) if head is not None and head.live else None
    if head is None or last is None:
        return None
    begun = None if last else tx.one("wire_wait_head", message=message)
    if begun is not None:
        last = head.entries + 1
        text = begun + WAIT_TIMEOUT
        _arrive(tx, [NewEntry(head.key, last, message, text)], {head.key: (last, head.size + len(text))})
    return _entries(tx, head.key, last)


def notify(tx: Tx, tenant: str, event: str, tail: str, run: str | None) -> list[EventWait]:
    """Make the posts that wait for an event entries of their runs, due at once, or keep it for the one run."""
    if run is None:
        rows = tx.json("wire_wait_of_event", tenant=tenant, event=event)
    else:
        head = _find(tx, tenant, run)
        if head is None or not head.live:
            return []
        rows = tx.json("wire_wait_of_run", run=head.key, event=event)
        if not rows:
            most = {"most": KEPT_EVENTS, "most_size": MAX_ENTRIES_SIZE}
            tx.run("wire_kept_add", run=head.key, event=event, tail=tail, **most)
    grown: dict[int, tuple[int, int]] = {}
    entries: list[NewEntry] = []
    notified: list[EventWait] = []
    for wait in map(Waiting._make, rows):
        count, size = grown.get(wait.run, (wait.entries, wait.size))
        text = wait.head + tail
        if size + len(text) <= MAX_ENTRIES_SIZE:
            grown[wait.run] = count + 1, size + len(text)
            entries.append(NewEntry(wait.run, count + 1, wait.message, text))
            notified.append(EventWait(*wait[4:]))
    if entries:
        _arrive(tx, entries, grown)
        asleep = [(it.id, it.lane) for it in messages.waiting(tx, [entry.message for entry in entries])]
        events.wake(tx, asleep)
    return notified


def _arrive(tx: Tx, entries: Sequence[NewEntry], grown: dict[int, tuple[int, int]]) -> None:
    """Make posts that wait entries of their runs."""
    _append(tx, entries, [(run, *sizes) for run, sizes in grown.items()])
    tx.run_rows("wire_member_number", [(it.run, it.message, it.seq) for it in entries])
    drop_waits(tx, [it.message for it in entries])


def drop_waits(tx: Tx, posts: Iterable[str]) -> None:
    """Remove the waits of posts that no longer wait."""
    tx.run_rows("wire_wait_drop", [(message,) for message in posts])


def end(tx: Tx, effect: EndRun) -> list[str] | None:
    """End a run, and return those of its posts that have not ended; None if the run has, or is another one."""
    head = _find(tx, effect.tenant, effect.run)
    if head is None or not head.live or effect.created_at not in (None, head.created_at):
        return None
    tx.run("wire_run_end", run=head.key, state=effect.state, result=effect.result, now=tx.now)
    tx.run("wire_wait_drop_of_run", run=head.key)
    tx.run("wire_kept_drop", run=head.key)
    return tx.json("wire_member_open", run=head.key)


# Reads


def waits(tx: Tx, tenant: str, event: str) -> list[EventWait]:
    """The posts that wait for an event."""
    return [EventWait(*row) for row in tx.json("wire_wait_list", tenant=tenant, event=event)]


def find(tx: Tx, tenant: str, id: str) -> WireRun | None:
    """A run."""
    found = tx.json("wire_run_read", tenant=tenant, id=id)
    return WireRun(*found[0]) if found else None


def listed(tx: Tx, tenant: str, before: tuple[int, str] | None, limit: int) -> list[WireRun]:
    """The latest runs of a tenant."""
    created_at, id = before or (NEVER, "")
    found = tx.json("wire_run_list", tenant=tenant, created_at=created_at, id=id, limit=limit)
    return [WireRun(*row) for row in found]


def entries(tx: Tx, tenant: str, run: str) -> list[RunEntry]:
    """All entries of a run."""
    head = _find(tx, tenant, run)
    return [] if head is None else [wire.run_entry(row) for row in _entries(tx, head.key, head.entries)]


def members(tx: Tx, tenant: str, run: str) -> list[RunMember]:
    """All posts of a run."""
    return [RunMember(*row) for row in tx.json("wire_member_list", tenant=tenant, id=run)]


def _find(tx: Tx, tenant: str, id: str) -> RunHead | None:
    return next((RunHead._make(row) for row in tx.json("wire_run_find", tenant=tenant, id=id)), None)


def _entry_of(tx: Tx, run: int, message: str) -> int | None:
    return tx.one("wire_member_entry", run=run, message=message)


def _entries(tx: Tx, run: int, last: int) -> list[Any]:
    return tx.json("wire_entry_list", run=run, last=last)
