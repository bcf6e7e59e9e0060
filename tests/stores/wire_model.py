"""A plain model of a store that keeps posts: what can be seen of one after the same operations."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from batchflow.core.posts import DEDUP_WINDOW_MS, LAST_STATES, Document, LogEntry, Post, Posted, Queue


@dataclass(eq=False)
class QueueModel:
    """A queue: the posts that wait for a place, and those that have one."""

    name: str
    created_at: int
    updated_at: int
    parallelism: int = 1
    paused: bool = False
    waiting: list[str] = field(default_factory=list[str])
    places: set[str] = field(default_factory=set[str])

    def seen(self) -> Queue:
        """The queue as a store shows it."""
        lag = len(self.waiting) + len(self.places)
        return Queue(self.name, self.parallelism, self.paused, self.created_at, self.updated_at, lag)


@dataclass
class MessageModel:
    """The message of a post that has not ended; `fence` is that of its claim, `due` when it may be claimed."""

    post: Post
    state: Literal["queued", "waiting", "claimed"] = "waiting"
    due: int = 0
    fence: int = 0
    owner: str = ""
    cancelled: bool = False

    @property
    def is_message(self) -> bool:
        """True for a message that is not cancelled; a post that waits in a queue has none."""
        return self.state != "queued" and not self.cancelled


class WireModel:
    """Posts, their log and queues, and documents, in dicts. The time is given to each operation."""

    def __init__(self) -> None:
        self.messages: dict[str, MessageModel] = {}
        self.entries: list[LogEntry] = []
        self.open: dict[str, LogEntry] = {}
        self.dedup: dict[str, tuple[str, int]] = {}
        self.queues: dict[tuple[str, str], QueueModel] = {}
        self.dropped: list[QueueModel] = []
        self.documents: dict[str, Document] = {}

    # Posts

    def post(self, posts: Iterable[Post], now: int) -> list[Posted]:
        """Publish the new ones."""
        return [self._post(post, now) for post in posts]

    def _post(self, post: Post, now: int) -> Posted:
        id = post.message.id
        if any(entry.message == id for entry in self.entries):
            return Posted(id)
        if post.dedup is not None:
            holder, until = self.dedup.get(post.dedup, ("", 0))
            if until > now:
                return Posted(holder, True)
        admitted = self.admit(post, now)
        if isinstance(admitted, Posted):
            return admitted
        post = admitted
        if post.dedup is not None:
            self.dedup[post.dedup] = id, now + DEDUP_WINDOW_MS
        self.log([LogEntry(id, post.tenant, "CREATED", now, post.description)])
        self.messages[id] = MessageModel(post)
        if post.queue is not None:
            self.messages[id].state = "queued"
            queue = self.queues.setdefault((post.tenant, post.queue), QueueModel(post.queue, now, now))
            queue.waiting.append(id)
            self.fill(queue)
        else:
            self.messages[id].due = post.message.not_before
        return Posted(id)

    def admit(self, post: Post, now: int) -> Post | Posted:
        """The post as it is published, or the answer about one that is not."""
        return post

    def log(self, entries: Iterable[LogEntry]) -> None:
        """Add entries."""
        for entry in entries:
            self.entries.append(entry)
            if entry.state == "CREATED":
                self.open[entry.message] = entry
            elif entry.state in LAST_STATES:
                self.open.pop(entry.message, None)

    def claim(self, worker: str, now: int) -> list[str]:
        """Everything that is due."""
        due = [id for id, it in self.messages.items() if it.state == "waiting" and it.due <= now]
        for id in due:
            message = self.messages[id]
            message.state, message.owner = "claimed", worker
            message.fence += 1
        return sorted(due)

    def holds(self, id: str, fence: int) -> bool:
        """True if this claim is held."""
        message = self.messages.get(id)
        return message is not None and message.state == "claimed" and message.fence == fence

    def cancel(self, tenant: str, ids: Sequence[str], now: int) -> list[str]:
        """Cancel posts by a tenant."""
        found = [id for id in dict.fromkeys(ids) if id in self.messages and self.messages[id].post.tenant == tenant]
        self.log([LogEntry(id, tenant, "CANCEL_REQUESTED", now) for id in found if not self.messages[id].cancelled])
        self.cancel_some(found, now)
        return found

    def cancel_some(self, ids: Sequence[str], now: int) -> None:
        """Cancel posts that have not ended."""
        # Those that wait in queues first: a place that is freed goes to a post that is not cancelled.
        for id in sorted(ids, key=lambda it: self.messages[it].state != "queued"):
            self._end_or_mark(id, now)

    def cancel_messages(self, label: str, now: int) -> int:
        """Cancel messages by an operator; posts that wait in queues come to their places and are cancelled then."""
        count = 0
        while found := [id for id, it in self.messages.items() if it.is_message and it.post.tenant == label]:
            count += len(found)
            for id in found:
                self._end_or_mark(id, now)
        return count

    def _end_or_mark(self, id: str, now: int) -> None:
        if self.messages[id].state == "claimed":
            self.messages[id].cancelled = True
        else:
            self.end_cancelled(id, now)

    def end_cancelled(self, id: str, now: int) -> None:
        """End a message as cancelled."""
        message = self.messages.pop(id)
        self.log([LogEntry(id, message.post.tenant, "CANCELED", now)])
        for queue in self.queues.values():
            if id in queue.waiting:
                queue.waiting.remove(id)
        self.leave(id)

    def give_back(self, worker: str, now: int) -> None:
        """Give back all claims of a worker."""
        for id, message in list(self.messages.items()):
            if message.owner == worker and message.state == "claimed":
                message.state, message.due = "waiting", 0
                if message.cancelled:
                    self.end_cancelled(id, now)

    # Queues

    def fill(self, queue: QueueModel) -> None:
        """Let posts begin as far as there are places."""
        while not queue.paused and queue.waiting and len(queue.places) < queue.parallelism:
            id = queue.waiting.pop(0)
            queue.places.add(id)
            message = self.messages[id]
            message.state, message.due = "waiting", message.post.message.not_before

    def leave(self, id: str, heir: str | None = None) -> None:
        """Pass a place on, or free it."""
        for queue in [*self.queues.values(), *self.dropped]:
            if id in queue.places:
                queue.places.remove(id)
                if heir is not None:
                    queue.places.add(heir)
                self.fill(queue)

    def put_queue(self, tenant: str, name: str, parallelism: int | None, paused: bool | None, now: int) -> Queue:
        """Make or change a queue."""
        queue = self.queues.setdefault((tenant, name), QueueModel(name, now, now))
        queue.updated_at = now
        queue.parallelism = queue.parallelism if parallelism is None else parallelism
        queue.paused = queue.paused if paused is None else paused
        self.fill(queue)
        return queue.seen()

    def drop_queue(self, tenant: str, name: str, now: int) -> bool:
        """Remove a queue."""
        queue = self.queues.pop((tenant, name), None)
        if queue is None:
            return False
        for id in queue.waiting:
            del self.messages[id]
        self.log([LogEntry(id, tenant, "CANCELED", now) for id in queue.waiting])
        queue.waiting.clear()
        self.dropped.append(queue)
        return True

    # Retention, documents

    def prune(self, before: int, now: int) -> None:
        """Remove what is old."""
        kept = {it.message for it in self.entries if it.at >= before} | self.open.keys()
        self.entries = [it for it in self.entries if it.message in kept]
        self.dedup = {key: (id, until) for key, (id, until) in self.dedup.items() if until > now}

    def put_document(self, name: str, text: str, expected: int | None, now: int) -> Document | None:
        """Add or replace a document."""
        known = self.documents.get(name)
        version = known.version if known else 0
        if expected not in (None, version):
            return None
        made = Document(name, text, version + 1, known.created_at if known else now, now)
        self.documents[name] = made
        return made
