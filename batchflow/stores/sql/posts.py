"""Posts: publishing them once, and their end by a cancellation."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from batchflow.core.posts import DEDUP_WINDOW_MS, LogEntry, Post
from batchflow.stores.sql import messages, post_log, queues
from batchflow.stores.sql.transaction import Tx
from batchflow.stores.sql.wire_runs import Links, Refused

Answer: TypeAlias = tuple[Any, ...]
"""The id of a post, or that of the earlier one and true if it was deduplicated; and why it was refused, if it was."""


def post(tx: Tx, posts: Sequence[Post]) -> list[Answer]:
    """Publish posts; if they have links, all or none of them."""
    if not posts:
        return []
    known: set[str] = set(tx.json_rows("posts_known", [(post.message.id,) for post in posts]))
    keys = [(post.dedup,) for post in posts if post.dedup is not None]
    holders: dict[str, str] = dict(tx.json_rows("dedup_holders", keys, now=tx.now)) if keys else {}
    links = Links(tx)
    answers: list[Answer] = []
    fresh: list[Post] = []
    for post in posts:
        id = post.message.id
        if id in known:
            answers.append((id, False))
            continue
        if post.dedup in holders:
            answers.append((holders[post.dedup], True))
            continue
        if post.link is not None:
            try:
                linked = links.add(post)
            except Refused as refused:
                return [(it.message.id, False, refused.reason) for it in posts]
            if not isinstance(linked, Post):
                answers.append(linked)
                continue
            post = linked
        answers.append((id, False))
        known.add(id)
        fresh.append(post)
        if post.dedup is not None:
            holders[post.dedup] = id
    links.write()
    if fresh:
        _publish(tx, fresh)
    return answers


def _publish(tx: Tx, fresh: Sequence[Post]) -> None:
    post_log.log(tx, [LogEntry(it.message.id, it.tenant, "CREATED", tx.now, it.description) for it in fresh])
    keys = [(it.dedup, it.message.id) for it in fresh if it.dedup is not None]
    if keys:
        tx.run_rows("dedup_put", keys, until=tx.now + DEDUP_WINDOW_MS)
    messages.publish(tx, [it.message for it in fresh if it.queue is None])
    if queued := [it for it in fresh if it.queue is not None]:
        queues.add(tx, queued)


def post_calls(tx: Tx, calls: Sequence[tuple[Sequence[Post]]]) -> list[list[Answer]]:
    """Publish the posts of all calls of a group; those of runs call by call."""
    apart = [_are_linked(posts) for (posts,) in calls]
    together = zip(calls, apart, strict=True)
    answers = iter(post(tx, [it for (posts,), linked in together if not linked for it in posts]))
    return [
        post(tx, posts) if linked else [next(answers) for _ in posts]
        for (posts,), linked in zip(calls, apart, strict=True)
    ]


def send(tx: Tx, posts: Sequence[Post]) -> None:
    """Publish posts, but for those that their runs refuse."""
    for part in [[it] for it in posts] if _are_linked(posts) else [posts]:
        post(tx, part)


def _are_linked(posts: Sequence[Post]) -> bool:
    return any(it.link is not None for it in posts)


CANCELLED = 3


def progress(tx: Tx, tenant: str, ids: Sequence[str]) -> dict[str, int]:
    """The posts of a tenant among these that have not ended, and how far they are.

    0 waits in a queue, 1 waits as a message, 2 a worker has it, 3 (`CANCELLED`) the same and it is cancelled.
    """
    return dict(tx.json_rows("post_progress", [(id,) for id in ids], tenant=tenant))


def end_cancelled(tx: Tx, ids: Sequence[str]) -> None:
    """Log the cancellation of those of these messages that are open posts, and free their places in queues."""
    found = tx.json_rows("open_posts_of", [(id,) for id in ids])
    if found:
        post_log.log(tx, [LogEntry(id, tenant, "CANCELED", tx.now) for id, tenant in found])
        queues.leave(tx, [(id, None) for id, _ in found])
