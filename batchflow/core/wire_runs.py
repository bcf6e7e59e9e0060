"""Workflow runs of QStash, as a server keeps them for endpoints of other programs. Pure values.

The steps of such a run come from outside, as posts: each post that is an entry of the run delivers all entries up to
its own. Their bytes are kept as they came. https://upstash.com/docs/workflow has the protocol of the endpoints.
"""

from typing import Literal, NamedTuple, TypeAlias

WireRunState: TypeAlias = Literal["RUN_STARTED", "RUN_SUCCESS", "RUN_FAILED", "RUN_CANCELED"]
"""The states of a run; after all but the first nothing is added to it."""


class RawBody(NamedTuple):
    """Bytes as text, or as base64 where they are not UTF-8."""

    text: str = ""
    base64: bool = False

    def __repr__(self) -> str:
        # It may be secret.
        return f"RawBody({len(self.text)} characters)"


class BeginRun(NamedTuple):
    """With the post a run begins, whose first entry has this body.

    `config` is a JSON text that nobody but the caller reads: headers and options for the posts of the run. `invoker` is
    one about the run that waits for this one. With `copy_of`, the other entries are copied from that run of the tenant,
    up to the one before the message `copy_until`, and the post delivers them all.
    """

    run: str
    url: str
    body: RawBody
    config: str = "{}"
    invoker: str | None = None
    copy_of: str | None = None
    copy_until: str | None = None


class AddEntry(NamedTuple):
    """The post is the next entry of a run, which began at `created_at` (ms), if the sender knows that."""

    run: str
    body: RawBody
    created_at: int | None = None


class JoinRun(NamedTuple):
    """The post belongs to a run without being an entry of it, such as a call: it is cancelled when the run ends."""

    run: str
    created_at: int | None = None


class AwaitEvent(NamedTuple):
    """The post belongs to a run, and becomes its next entry when an event comes or when it is due, whichever is first.

    `head` begins the JSON text of the entry; the sender of the event has the rest, and `WAIT_TIMEOUT` is that of a
    timeout. `about` is a JSON text for listings.
    """

    run: str
    event: str
    head: str
    about: str = "{}"
    created_at: int | None = None


RunLink: TypeAlias = BeginRun | AddEntry | JoinRun | AwaitEvent
"""The part that a post has in a run."""

WAIT_TIMEOUT = ',"waitTimeout":true}'
"""The end of the entry of a wait whose time is over."""

MAX_ENTRIES_SIZE = 8 * 2**20
"""The size of all entries of a run, in characters of their bodies, above which no further one is accepted."""


class RunEntry(NamedTuple):
    """An entry of a run: the id of its post, its body, and the time at which it was added, in ms."""

    message: str
    body: RawBody
    at: int


class WireRun(NamedTuple):
    """A run. Times are in ms; `result` is the text it succeeded with, `size` that of its entries in characters."""

    id: str
    tenant: str
    url: str
    state: WireRunState
    config: str
    invoker: str | None
    created_at: int
    ended_at: int | None
    result: str | None
    size: int

    def __repr__(self) -> str:
        return f"WireRun('{self.id}', '{self.state}')"


class EventWait(NamedTuple):
    """A post of a run that waits for an event, until it is due (ms)."""

    run: str
    message: str
    due: int
    about: str
