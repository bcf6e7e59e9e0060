"""Queues of posts: at most as many as they have places are under way, in the order in which they were posted."""

from collections.abc import Iterable, Sequence
from typing import Any

from batchflow.core.message import Message
from batchflow.core.posts import LogEntry, Post, Queue
from batchflow.stores import wire
from batchflow.stores.sql import messages, post_log
from batchflow.stores.sql.transaction import Tx


def put(tx: Tx, tenant: str, name: str, parallelism: int | None, paused: bool | None) -> Sequence[Any]:
    """Make a queue, or change it."""
    tx.run("queue_put", tenant=tenant, name=name, parallelism=parallelism, paused=paused, now=tx.now)
    _fill(tx, [_key(tx, tenant, name)])
    return _rows(tx, tenant, name)[0]


def drop(tx: Tx, tenant: str, name: str) -> bool:
    """Remove a queue, and cancel its posts that wait for a place."""
    key = _key(tx, tenant, name)
    if key is None:
        return False
    waiting = tx.json("queued_post_read", queue=key)
    if waiting:
        tx.run("queued_post_drop_all", queue=key)
        post_log.log(tx, [LogEntry(id, tenant, "CANCELED", tx.now) for id in waiting])
    tx.run("queue_drop", queue=key)
    return True


def add(tx: Tx, posts: Iterable[Post]) -> None:
    """Add posts to the ends of their queues, which are made if they do not exist; those with a place are published."""
    by_queue: dict[tuple[str, str], list[Message]] = {}
    for post in posts:
        assert post.queue is not None
        by_queue.setdefault((post.tenant, post.queue), []).append(post.message)
    keys: list[int | None] = []
    for (tenant, name), waiting in by_queue.items():
        tx.run("queue_make", tenant=tenant, name=name, now=tx.now)
        keys.append(key := _key(tx, tenant, name))
        rows = [(message.id, messages.as_text(message)) for message in waiting]
        tx.run_rows("queued_post_add", rows, queue=key)
    _fill(tx, keys)


def leave(tx: Tx, posts: Sequence[tuple[str, str | None]]) -> None:
    """Pass the places of posts to their heirs, or to those that have waited longest if there are none."""
    passed = [(message, heir) for message, heir in posts if heir is not None]
    if passed:
        tx.run_rows("queue_place_pass", passed)
    freed = [(message,) for message, heir in posts if heir is None]
    if freed and (keys := tx.json_rows("queue_places_of", freed)):
        tx.run_rows("queue_place_drop", freed)
        _fill(tx, dict.fromkeys(keys))


def drop_waiting(tx: Tx, ids: Iterable[str]) -> None:
    """Remove posts that wait for a place."""
    tx.run_rows("queued_post_drop", [(id,) for id in ids])


def _fill(tx: Tx, keys: Iterable[int | None]) -> None:
    """Publish the posts that have waited longest, as far as their queues have free places."""
    begin: list[Message] = []
    for key in keys:
        free = tx.one("queue_free_places", queue=key) or 0
        if free > 0:
            found = [messages.of_text(text) for text in tx.json("queued_post_next", queue=key, limit=free)]
            drop_waiting(tx, [message.id for message in found])
            tx.run_rows("queue_place_add", [(message.id,) for message in found], queue=key)
            begin += found
    if begin:
        messages.publish(tx, begin)


def find(tx: Tx, tenant: str, name: str) -> Queue | None:
    """A queue."""
    return next((wire.queue(row) for row in _rows(tx, tenant, name)), None)


def listed(tx: Tx, tenant: str) -> list[Queue]:
    """The queues of a tenant."""
    return [wire.queue(row) for row in _rows(tx, tenant, None)]


def _rows(tx: Tx, tenant: str, name: str | None) -> list[Sequence[Any]]:
    return tx.json("queue_read", tenant=tenant, name=name)


def _key(tx: Tx, tenant: str, name: str) -> int | None:
    return tx.one("queue_key", tenant=tenant, name=name)
