"""Posts: publishing them once, and their end by a cancellation."""

from collections.abc import Sequence

from batchflow.core.posts import DEDUP_WINDOW_MS, LogEntry, Post
from batchflow.stores.sql import messages, post_log, queues
from batchflow.stores.sql.transaction import Tx


def post(tx: Tx, posts: Sequence[Post]) -> list[tuple[str, bool]]:
    """Publish posts; the id of each, or that of the earlier one and true if it was deduplicated."""
    known: set[str] = set(tx.json_rows("posts_known", [(post.message.id,) for post in posts]))
    keys = [(post.dedup,) for post in posts if post.dedup is not None]
    holders: dict[str, str] = dict(tx.json_rows("dedup_holders", keys, now=tx.now)) if keys else {}
    answers: list[tuple[str, bool]] = []
    fresh: list[Post] = []
    for post in posts:
        id = post.message.id
        if id not in known and post.dedup in holders:
            answers.append((holders[post.dedup], True))
            continue
        answers.append((id, False))
        if id not in known:
            known.add(id)
            fresh.append(post)
            if post.dedup is not None:
                holders[post.dedup] = id
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


def post_calls(tx: Tx, calls: Sequence[tuple[Sequence[Post]]]) -> list[list[tuple[str, bool]]]:
    """Publish the posts of all calls of a group."""
    answers = iter(post(tx, [it for (posts,) in calls for it in posts]))
    return [[next(answers) for _ in posts] for (posts,) in calls]


def end_cancelled(tx: Tx, ids: Sequence[str]) -> None:
    """Log the cancellation of those of these messages that are open posts, and free their places in queues."""
    found = tx.json_rows("open_posts_of", [(id,) for id in ids])
    if found:
        post_log.log(tx, [LogEntry(id, tenant, "CANCELED", tx.now) for id, tenant in found])
        queues.leave(tx, [(id, None) for id, _ in found])
