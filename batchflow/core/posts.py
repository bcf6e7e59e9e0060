"""Posts: messages that are pushed to a URL as QStash pushes them, with their log, queues and settings. Pure values.

A post is a `Message` to one of the destinations below, whose body is an envelope (`batchflow.wire.envelope`). Its
`label` is its tenant: whoever holds a token of that tenant sees and changes it, and nobody else.
"""

from typing import Literal, NamedTuple, TypeAlias

from batchflow.core.message import Message
from batchflow.core.wire_runs import RunLink

PUSH_DESTINATION = "batchflow:push"
"""The destination of posts. Routes cannot have this name."""

PUSH_FAILURE_DESTINATION = "batchflow:push-failure"
"""The destination that is told of a post which died with its workers: no delivery of it could settle it."""

PUSH_SCHEDULE_DESTINATION = "batchflow:push-schedule"
"""The destination of the fires of schedules, each of which publishes posts."""

DEDUP_WINDOW_MS = 600_000
"""The time during which a post with the same deduplication key is not published again."""

LogState: TypeAlias = Literal[
    "CREATED", "ACTIVE", "RETRY", "ERROR", "DELIVERED", "FAILED", "CANCEL_REQUESTED", "CANCELED"
]
"""The states of QStash's log. After DELIVERED, FAILED and CANCELED nothing else happens to a post."""

LAST_STATES: frozenset[LogState] = frozenset({"DELIVERED", "FAILED", "CANCELED"})
"""The states with which a post ends."""


class LogEntry(NamedTuple):
    """One thing that happened to a post, at a time in ms.

    `detail` is a JSON object with what belongs to the state: of CREATED the description of the post, as the REST API
    shows it; of the others the response, the error, the time of the next delivery.
    """

    message: str
    tenant: str
    state: LogState
    at: int
    detail: str = "{}"

    def __repr__(self) -> str:
        # Its detail has bodies and headers.
        return f"LogEntry('{self.message}', '{self.state}', at={self.at})"


class LoggedEntry(NamedTuple):
    """An entry of the log; `key` grows with every entry of the store."""

    key: int
    entry: LogEntry


class Post(NamedTuple):
    """A message to publish, with the description that its CREATED entry has (JSON).

    With `dedup`, a key that is unique over tenants, it is not published while a post with the same key is younger than
    `DEDUP_WINDOW_MS`. With `queue`, the name of one of its tenant's queues, it waits for its place there. `link` is its
    part in a run.
    """

    message: Message
    tenant: str
    description: str
    dedup: str | None = None
    queue: str | None = None
    link: RunLink | None = None

    def __repr__(self) -> str:
        return f"Post('{self.message.id}', tenant='{self.tenant}', queue={self.queue!r})"


Refusal: TypeAlias = Literal["ended", "full", "live"]
"""The reason why a run does not take a post: it has ended or does not exist, would become larger than
`MAX_ENTRIES_SIZE`, or goes on while another run invokes it.
"""


class Posted(NamedTuple):
    """The id of a post; that of the earlier one, if it was deduplicated.

    `refused`: nothing of the call was published, since the run of one of its posts does not take it.
    """

    id: str
    deduplicated: bool = False
    refused: Refusal | None = None


class Queue(NamedTuple):
    """A queue of a tenant: at most `parallelism` of its posts are under way, in the order in which they were posted.

    A post keeps its place over its retries and until its callbacks have ended. `lag` is the number of its posts that
    have not ended. Times are in ms.
    """

    name: str
    parallelism: int
    paused: bool
    created_at: int
    updated_at: int
    lag: int


class Document(NamedTuple):
    """A named JSON text of the server's settings, such as a URL group. `version` grows with each change."""

    name: str
    text: str
    version: int
    created_at: int
    updated_at: int

    def __repr__(self) -> str:
        # It may be a key.
        return f"Document('{self.name}', version={self.version})"


DocumentKind: TypeAlias = Literal["group", "token", "keys"]
"""URL groups, tokens and signing keys. The names of groups begin with their tenant and a slash."""
