"""Messages, the claims that workers hold on them, dead letters, and the status of a worker. Pure values."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from batchflow.core.batch import NO_HEADERS
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Journal

LOSS_LIMIT = 10
"""A message becomes a dead letter after this many lost claims in a row, with no step recorded in between."""

SUSPECT_LOSSES = 2
"""A message lost this often in a row may be the one that kills its workers: from then on it is claimed alone."""

ALONE_MS = 1_000
"""The time after which a worker that holds such a message tries to claim others again."""

LOSS_WAITS_MS = (1_000, 2_000, 4_000, 8_000, 10_000)
"""The waits after the second loss in a row, the third, …; the last one repeats."""

LOST = "WorkerLost: its worker died or hung"
"""The error of a lost attempt."""

WORKER_LOST = "WorkerLost: %d workers in a row died or hung while they ran it"
"""The error of such a dead letter, with the number of losses."""

FAILURE_STEP = 0
"""The step of a dead letter for which the outcome of its failure message arrives; steps of runs begin at 1."""

NOTIFICATION_DESTINATION = "batchflow:notification"
"""The destination of the notifications of batches' ends. Routes cannot have this name."""

NOTIFICATION_STEP = -1
"""The same for the notification of a batch's end, whose outcome the batch has."""

_NOT_OF_KEYS = re.compile(r"[^A-Za-z0-9._-]")


def failure_flow(destination: str) -> FlowControl:
    """The flow control of the failure messages and notifications to a destination: a key of its own, without limits.

    A failure function that meets a rate limit parks no other one.
    """
    return FlowControl(key=_NOT_OF_KEYS.sub(".", destination))


def loss_delay_ms(losses: int) -> int:
    """The time, in ms, that a message waits after this many losses in a row."""
    if losses < SUSPECT_LOSSES:
        return 0
    return LOSS_WAITS_MS[min(losses - SUSPECT_LOSSES, len(LOSS_WAITS_MS) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One thing to deliver. The caller makes its `id`: publishing the same id again changes nothing.

    `destination` is the route of a served endpoint; `body` is JSON text. The message waits under `flow.key`. `retry`
    of None means the policy of the endpoint. `keep` keeps the finished run until retention removes it. `parent` is the
    run, and the number of its step, that waits for the end of this one; `depth` is the number of its ancestors.
    `on_failure` is the destination that gets a message when the attempts are used up. The message is not added while
    another one with the same `open_dedup` has not ended. A `held` message waits until the walk of its batch ends; that
    of a batch with a canary waits until the batch is approved.
    """

    id: str
    destination: str
    flow: FlowControl
    body: str = field(default="null", repr=False)
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS, repr=False)
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

    For the message of an item, `item` is its id, `number` its place in the batch, `params` the batch's parameters as
    JSON, `headers` the batch's headers, and `data` the item as `fetch` returned it, as JSON; for others `number` is -1.
    `failures` counts failed attempts outside steps, `losses` claims lost to dead workers since the last recorded step.
    `started_at` is the time of the first claim, in ms.
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

    def __repr__(self) -> str:
        # Its body, parameters and headers may be secret.
        return f"Claim('{self.id}', '{self.destination}', fence={self.fence})"


class ClaimResult(NamedTuple):
    """The leased messages, and the time when more may be due (ms; None: only after a publish or an end).

    `now` is the time of the claim by the store's clock; 0 if the store does not report it.
    """

    claims: Sequence[Claim]
    next_due: int | None
    now: int = 0


class WorkerStatus(NamedTuple):
    """The current state of a worker. Times are ms since the epoch; 0 if an older batchflow has not reported them.

    `since` is the time of its registration, `seen_at` that of its last heartbeat, `lease_until` the time when its
    claims are reclaimed unless it renews. `holds` is the number of its claims, by destination; `concurrency` the number
    it may have (0: not reported); `hanging` the number of its threads that run abandoned plain functions. It is `lost`
    if its lease has ended, or its process is gone, and its claims wait to be reclaimed. `serves` are the destinations
    that it claims messages for, by name; empty if it has not reported them.
    """

    name: str
    since: int
    seen_at: int
    lease_until: int
    concurrency: int
    hanging: int
    holds: Mapping[str, int]
    lost: bool
    serves: tuple[str, ...] = ()

    @property
    def held(self) -> int:
        """The number of all its claims."""
        return sum(self.holds.values())


OpenState: TypeAlias = Literal["retrying", "parked", "lost", "running", "suspended", "waiting"]
"""The states of a message that has not ended.

`retrying` and `parked`: it waits after a failed attempt, or since it raised `RateLimited`. `lost`: it waits since its
worker died or hung. `running`: a worker holds it. `suspended`: it has started, and waits for a time or for something
from outside. `waiting`: it may start when its time has come, its limits have room and a worker serves it.
"""

OPEN_STATES: tuple[OpenState, ...] = ("retrying", "parked", "lost", "running", "suspended", "waiting")
"""The states in the order in which messages are listed."""


class OpenMessage(NamedTuple):
    """A message of a batch that has not ended; `item` is the id of an item, empty for a message of the batch's layers.

    `due_at` is the time from which it may start, in ms; None if that has come, or if it waits for something else than
    time. `started_at` is the time of its first claim (ms, None before). `attempts` are the failed and lost ones, and
    `error` is that of the last failed one. `worker` holds it, if one does.
    """

    id: str
    destination: str
    flow_key: str
    number: int
    item: str
    state: OpenState
    due_at: int | None
    started_at: int | None
    attempts: int
    error: str | None
    worker: str | None


MOST_NAMED = 5
"""The number of destinations that a sentence names."""


class UnservedWork(NamedTuple):
    """Due messages of a destination that no worker serves; their batch, if all of them belong to one.

    `waiting` is their number; above `batchflow.core.store.MOST_COUNTED` there may be more.
    """

    destination: str
    waiting: int
    batch: str | None = None


def unserved_sentence(found: Sequence[UnservedWork]) -> str:
    """Return one sentence about work that no worker serves."""
    count = sum(work.waiting for work in found)
    names = [work.destination for work in found[:MOST_NAMED]]
    left = len(found) - len(names)
    last = f"{left:,} more" if left else names.pop()
    named = f"{', '.join(names)} and {last}" if names else last
    wait = "message waits" if count == 1 else "messages wait"
    return f"{count:,} {wait} for {named}, which no worker serves"
