"""The log of posts, and the posts that have not ended."""

from collections.abc import Mapping, Sequence

from batchflow.core.posts import LAST_STATES, LogEntry, LoggedEntry
from batchflow.stores.sql import wire_runs
from batchflow.stores.sql.transaction import Tx
from batchflow.stores.wire import logged


def log(tx: Tx, entries: Sequence[LogEntry]) -> None:
    """Add entries; a post is open from its CREATED entry to one of `LAST_STATES`."""
    tx.run_rows("log_add", entries)
    created = [(entry.message,) for entry in entries if entry.state == "CREATED"]
    if created:
        tx.run_rows("open_post_add", created)
    ended = [(entry.message,) for entry in entries if entry.state in LAST_STATES]
    if ended:
        tx.run_rows("open_post_drop", ended)
    # One that was delivered has become an entry, and waits no more.
    if unsent := [entry.message for entry in entries if entry.state in ("FAILED", "CANCELED")]:
        wire_runs.drop_waits(tx, unsent)


def log_calls(tx: Tx, calls: Sequence[tuple[Sequence[LogEntry]]]) -> list[None]:
    """Add the entries of all calls of a group."""
    if entries := [entry for (given,) in calls for entry in given]:
        log(tx, entries)
    return [None] * len(calls)


def open_posts(tx: Tx, tenant: str, after: int, limit: int) -> list[LoggedEntry]:
    """The CREATED entries of posts that have not ended."""
    return [logged(row) for row in tx.json("open_post_list", tenant=tenant, after=after, limit=limit)]


def entries(tx: Tx, tenant: str, before: int, limit: int, message: str | None) -> list[LoggedEntry]:
    """The latest entries of a tenant, or of one of its posts."""
    if message is None:
        found = tx.json("log_list", tenant=tenant, before=before, limit=limit)
    else:
        found = tx.json("log_list_of_post", tenant=tenant, before=before, limit=limit, message=message)
    return [logged(row) for row in found]


def created(tx: Tx, tenant: str, ids: Sequence[str]) -> Mapping[str, LogEntry]:
    """The CREATED entries of posts of a tenant."""
    return _of_posts(tx, "log_created", tenant, ids)


def latest(tx: Tx, tenant: str, ids: Sequence[str]) -> Mapping[str, LogEntry]:
    """The latest entries of posts of a tenant."""
    return _of_posts(tx, "log_latest", tenant, ids)


def _of_posts(tx: Tx, query: str, tenant: str, ids: Sequence[str]) -> Mapping[str, LogEntry]:
    found = tx.json_rows(query, [(id,) for id in dict.fromkeys(ids)], tenant=tenant)
    return {message: LogEntry(message, *fields) for message, *fields in found}
