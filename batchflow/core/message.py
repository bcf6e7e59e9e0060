"""What is delivered, and what one worker holds of it. Pure values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from batchflow.core.batch import NO_HEADERS
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Journal

LOSS_LIMIT = 10
"""As many claims lost in a row, without a step recorded in between, make a dead letter of a message."""

SUSPECT_LOSSES = 2
"""A message lost so often in a row may be what kills its workers: from then on it is claimed alone."""

ALONE_MS = 1_000
"""How long a worker that holds such a message waits before it asks whether it may have others again."""

LOSS_WAITS_MS = (1_000, 2_000, 4_000, 8_000, 10_000)
"""How long a message waits after its second loss in a row, after its third, …; then always as long as the last."""

WORKER_LOST = "WorkerLost: %d workers in a row died or hung while they ran it"
"""What such a dead letter says, with how many there were."""

FAILURE_FLOW = FlowControl(key="batchflow.failure")
"""What tells of dead letters waits under this key, without limits."""


def loss_delay_ms(losses: int) -> int:
    """How long a message waits that was lost so often in a row, in ms."""
    if losses < SUSPECT_LOSSES:
        return 0
    return LOSS_WAITS_MS[min(losses - SUSPECT_LOSSES, len(LOSS_WAITS_MS) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One thing to deliver. Its `id` is made by the caller: publishing the same id again changes nothing.

    `destination` is the route of a served endpoint; `body` is JSON text. `flow.key` names the flow key it waits
    under. `retry` of None means the endpoint's own. `keep` keeps the finished run until retention removes it.
    `parent` is who waits for its end: a run and the number of its step; `depth` is how many parents are above it.
    `on_failure` is the destination that is told when its attempts are used up. While a message with the same
    `open_dedup` has not ended, this one is not added. `held` keeps it back until its batch has been walked.
    """

    id: str
    destination: str
    flow: FlowControl
    body: str = "null"
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    not_before: int = 0
    retry: RetryPolicy | None = None
    batch: str | None = None
    keep: bool = False
    label: str | None = None
    parent: tuple[str, int] | None = None
    depth: int = 0
    on_failure: str | None = None
    open_dedup: str | None = None
    held: bool = False


class Claim(NamedTuple):
    """A message leased to one worker. `fence` grows with every claim of the message and guards every write.

    For an item's message `item` is its id, `number` its place in the batch, `params` the JSON of the batch's
    parameters, `headers` those of the batch, and `data` the JSON of what `fetch` brought of the item; otherwise
    `number` is -1. `failures` counts failed attempts outside steps, `losses` claims lost to dead workers since the last
    recorded step. `started_at` is when it was claimed for the first time, in ms.
    """

    id: str
    fence: int
    destination: str
    body: str
    batch: str | None = None
    number: int = -1
    item: str = ""
    failures: int = 0
    losses: int = 0
    headers: Mapping[str, str] = NO_HEADERS
    retry: RetryPolicy | None = None
    journal: Journal = ()
    params: str = "null"
    started_at: int = 0
    depth: int = 0
    data: str | None = None


class ClaimResult(NamedTuple):
    """The answer of a claim: what was leased, and when there may be more (ms; None: only after a publish or an end).

    `now` is the time at which it was leased, by the store's clock; 0 where nobody said.
    """

    claims: Sequence[Claim]
    next_due: int | None
    now: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message whose attempts are used up: the message, whole, and what is known of its end. Times are ms.

    `number` is -1, or the place of `item` in its batch.
    """

    message: Message
    error: str
    failures: int
    losses: int
    created_at: int
    started_at: int | None
    died_at: int
    item: str | None = None
    number: int = -1
    journal: Journal = ()

    @property
    def id(self) -> str:
        """The id of its message."""
        return self.message.id


class WorkerStatus(NamedTuple):
    """A worker as it stands. Times are ms since the epoch; 0 where a worker of an older batchflow has not told them.

    `since` is when it was registered, `seen_at` its last heartbeat, `lease_until` when its claims are taken back unless
    another one comes. `holds` is how many claims it has, by destination; `concurrency` how many it may have (0: it has
    not told), and `hanging` how many of its threads run plain functions that were given up. It is `lost` where its
    lease has ended, or its process is gone, and its claims wait to be taken back.
    """

    name: str
    since: int
    seen_at: int
    lease_until: int
    concurrency: int
    hanging: int
    holds: Mapping[str, int]
    lost: bool

    @property
    def held(self) -> int:
        """How many claims it has in all."""
        return sum(self.holds.values())
