"""What is delivered, and what one worker holds of it. Pure values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Journal

LOSS_LIMIT = 10
"""As many claims lost in a row, without a step recorded in between, make a dead letter of a message."""

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One thing to deliver. Its `id` is made by the caller: publishing the same id again changes nothing.

    `destination` is the route of a served endpoint; `body` is JSON text. `flow.key` names the flow key it waits
    under. `retry` of None means the endpoint's own. `keep` keeps the finished run until retention removes it.
    `parent` is who waits for its end: a run and the number of its step; `depth` is how many parents are above it.
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


class Claim(NamedTuple):
    """A message leased to one worker. `fence` grows with every claim of the message and guards every write.

    For an item's message `item` is its id, `number` its place in the batch, and `body` the JSON of the batch's
    parameters; otherwise `number` is -1. `failures` counts failed attempts outside steps, `losses` claims lost to
    dead workers since the last recorded step. `started_at` is when it was claimed for the first time, in ms.
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


class Claimed(NamedTuple):
    """The answer of a claim: what was leased, and when there may be more (ms; None: only after a publish or an end).

    `now` is the time at which it was leased, by the store's clock; 0 where nobody said.
    """

    claims: Sequence[Claim]
    next_due: int | None
    now: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message whose attempts are used up, with what is known of its end."""

    id: str
    destination: str
    body: str
    batch: str | None
    item: str | None
    error: str
    failures: int
    died_at: int
    journal: Journal = ()
