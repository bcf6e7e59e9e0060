"""Workflow runs of QStash, as a server keeps them for endpoints of other programs. Pure values.

The steps of such a run come from outside, as posts: each post that is an entry of the run delivers all entries up to
its own. Their bytes are kept as they came. https://upstash.com/docs/workflow has the protocol of the endpoints.
"""

from typing import Literal, NamedTuple, TypeAlias

from batchflow.core.call import Body

WireRunState: TypeAlias = Literal["RUN_STARTED", "RUN_SUCCESS", "RUN_FAILED", "RUN_CANCELED"]
"""The states of a run; after all but the first nothing is delivered for it."""


class BeginRun(NamedTuple):
    """With the post a run begins, and the post delivers its first entries: these bodies, one at least.

    `created_at` (ms) is the time at which it begins, which its posts tell its endpoint. `config` is a JSON text that
    the store does not read: headers and options for the posts of the run. `invoker` is one about the run that waits for
    this one; with it the post is refused if the run goes on already, as nobody would tell that one of its end.
    """

    run: str
    url: str
    entries: tuple[Body, ...]
    created_at: int
    config: str = "{}"
    invoker: str | None = None

    def __repr__(self) -> str:
        # Its entries and headers may be secret.
        return f"BeginRun('{self.run}', created_at={self.created_at})"


class AdoptRun(NamedTuple):
    """The post delivers the first entry of a run that has begun, as its first post did; the run gets this `config`."""

    run: str
    config: str
    created_at: int | None = None

    def __repr__(self) -> str:
        # Its headers may be secret.
        return f"AdoptRun('{self.run}', created_at={self.created_at})"


class AddEntry(NamedTuple):
    """The post is the next entry of a run, which began at `created_at` (ms), if the sender knows that.

    With `late` the entry is added to a run that is full or has ended too. One that has ended delivers nothing: no post
    is published then.
    """

    run: str
    body: Body
    created_at: int | None = None
    late: bool = False

    def __repr__(self) -> str:
        # Its body may be secret.
        return f"AddEntry('{self.run}', created_at={self.created_at}, late={self.late})"


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

    def __repr__(self) -> str:
        # The event of a webhook has its token.
        return f"AwaitEvent('{self.run}', created_at={self.created_at})"


RunLink: TypeAlias = BeginRun | AdoptRun | AddEntry | JoinRun | AwaitEvent
"""The part that a post has in a run."""

WAIT_TIMEOUT = ',"waitTimeout":true}'
"""The end of the entry of a wait whose time is over."""

MAX_ENTRIES_SIZE = 8 * 2**20
"""The size of all entries of a run, in characters of their bodies, above which no further one is accepted."""


class RunEntry(NamedTuple):
    """An entry of a run: its post, its body, and the time at which it was added, in ms.

    All entries with which a run begins have its first post.
    """

    message: str
    body: Body
    at: int

    def __repr__(self) -> str:
        # Its body may be secret.
        return f"RunEntry('{self.message}', at={self.at})"


class RunMember(NamedTuple):
    """A post of a run, and the number of the last entry that it delivers, from 1.

    Its number is 0 if it delivers none, such as a call or a wait whose event has not come. `at` is the time at which it
    was published, in ms.
    """

    message: str
    entry: int
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
    """A post of a run that waits for an event, until it is due (ms). The run began at `created_at` (ms)."""

    run: str
    message: str
    due: int
    about: str
    created_at: int

    def __repr__(self) -> str:
        # What it is about may have the token of a webhook.
        return f"EventWait('{self.run}', '{self.message}', due={self.due})"
