"""Settlements: the ways to end a claim, and the effects written in the same transaction. Pure values."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

from batchflow.core.batch import Failure, ItemState, NewBatch
from batchflow.core.breaker import BreakerChange
from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim, Message
from batchflow.core.posts import LogEntry, Post
from batchflow.core.report import headline, one_line
from batchflow.core.run import RunState, Step, StepState
from batchflow.core.secrets import printable_text
from batchflow.core.wire_runs import WireRunState


class FinishEntry(NamedTuple):
    """Effect: the entry layer has finished, and the batch is open. `total` is the number of items, if counted."""

    batch: str
    total: int | None = None
    left_out: int = 0


class RecordPage(NamedTuple):
    """Effect: a page was fetched: it had `eligible` ids, of which some were skipped, and became `chunks` chunks."""

    batch: str
    eligible: int
    already_processed: int = 0
    duplicates: int = 0
    left_out: int = 0
    chunks: int = 0


class StartItems(NamedTuple):
    """Effect: items `first`, `first + 1`, … of the batch, with these ids, are to run.

    Not started are an id that the batch already has (counted as a duplicate), one that another batch with the same
    ledger is processing (in flight), and one that the ledger holds (processed); a forced batch, or one whose trigger
    has named the ids, starts the latter two. `marked` are those of `ids` that the ledger held when the page was
    filtered, and that the filter returned all the same: they are started too. `data` are the items as `fetch` returned
    them, as JSON texts in order; empty if it returned only ids. `already_processed` is the number of further ids that
    were skipped because a ledger beside the store holds them.

    In a retry, `again` are the numbers of these items in the batch that it retries, in order, -1 for one that it has
    not started; empty if it has started none of them. Not started either is an item whose latest run, in that batch or
    in one of its retries, is open (in flight) or has succeeded (processed; a forced retry starts it); and no retry
    starts what another batch is processing.

    `flows` are the limits of the items with a flow key of their own, None for the others, in order; empty if none has
    one. Such an item takes the room of both keys, its own and that of its batch.
    """

    batch: str
    first: int
    ids: tuple[str, ...]
    marked: tuple[str, ...] = ()
    data: tuple[str | None, ...] = ()
    already_processed: int = 0
    again: tuple[int, ...] = ()
    flows: tuple[FlowControl | None, ...] = ()


class FinishWalk(NamedTuple):
    """Effect: the walk of a batch that stores all items first has finished: its held messages are released.

    Those of a batch with a canary wait until it is approved, too. `total` is the number of items to process.
    """

    batch: str
    total: int | None = None


class Publish(NamedTuple):
    """Effect: these messages are published; a batch does not end before its messages have ended."""

    messages: tuple[Message, ...]


class OpenBatch(NamedTuple):
    """Effect: this batch is opened with its first messages; nothing if its id exists already."""

    batch: NewBatch
    messages: tuple[Message, ...]


class Listen(NamedTuple):
    """Effect: step `number` of the run waits for `event`, until `until` (ms; 0: without a limit).

    Data of that event kept for this run arrives at once, the oldest first.
    """

    number: int
    event: str
    until: int = 0

    def __repr__(self) -> str:
        # The event of a webhook has its token.
        return f"Listen({self.number}, '{printable_text(self.event)}', until={self.until})"


class Unlisten(NamedTuple):
    """Effect: these steps of the run no longer wait for their events."""

    numbers: tuple[int, ...]


class AcceptWebhook(NamedTuple):
    """Effect: requests to the webhook `token` are for this run."""

    token: str

    def __repr__(self) -> str:
        return "AcceptWebhook()"


class Notify(NamedTuple):
    """Effect: each run that waits for `event` gets `data` (JSON text); with `run` only that one, or once it waits."""

    event: str
    data: str
    run: str | None = None

    def __repr__(self) -> str:
        # Its data may be secret.
        return f"Notify('{self.event}', run={self.run!r})"


class SendPosts(NamedTuple):
    """Effect: these posts are published, as by `WireStore.post`; one whose run refuses it is left out."""

    posts: tuple[Post, ...]


class Log(NamedTuple):
    """Effect: the log of posts gets these entries."""

    entries: tuple[LogEntry, ...]


class LeaveQueue(NamedTuple):
    """Effect: the place that the post `message` has in a queue passes to the post `heir`; without one it is free.

    Nothing if it has no place. The post that has waited longest in the queue takes a free place.
    """

    message: str
    heir: str | None = None


class EndRun(NamedTuple):
    """Effect: a workflow run of QStash ends, and then `posts` are published; nothing if it has ended already.

    Its posts that have not ended are cancelled, and its waits and kept events are dropped; posts that a worker delivers
    are cancelled when it settles or loses them, unless they are delivered. Of `posts`, one that is linked to a run that
    has ended or has no room for it is left out. Nothing happens either if the run began at another time than
    `created_at` (ms).
    """

    tenant: str
    run: str
    state: WireRunState
    result: str | None = None
    posts: tuple[Post, ...] = ()
    created_at: int | None = None

    def __repr__(self) -> str:
        # Its result may be secret.
        return f"EndRun('{self.run}', '{self.state}')"


Effect: TypeAlias = (
    FinishEntry
    | RecordPage
    | StartItems
    | FinishWalk
    | Publish
    | OpenBatch
    | Listen
    | Unlisten
    | AcceptWebhook
    | Notify
    | SendPosts
    | Log
    | LeaveQueue
    | EndRun
)


Ending: TypeAlias = Literal["done", "failed", "suspended", "retry", "parked", "dead", "released", "cancelled"]
STAYS: frozenset[Ending] = frozenset({"suspended", "retry", "parked", "released"})
"""Endings after which a message waits again; all others end its run."""

RUN_STATE: Mapping[Ending, RunState] = MappingProxyType(
    {"done": "completed", "failed": "failed", "dead": "failed", "cancelled": "cancelled"}
)
"""The state of a run after each final ending."""

ITEM_STATE: Mapping[Ending, ItemState] = MappingProxyType(
    {"done": "succeeded", "failed": "failed", "dead": "failed", "cancelled": "cancelled"}
)
"""The state of an item after each final ending of its run."""

ARRIVES: Mapping[Ending, StepState] = MappingProxyType(
    {"done": "done", "failed": "failed", "dead": "failed", "cancelled": "cancelled"}
)
"""The state of the parent's step that waits for the run, after each final ending."""


ARRIVES_AFTER: Mapping[RunState, StepState] = MappingProxyType(
    {"completed": "done", "failed": "failed", "cancelled": "cancelled"}
)
"""The state of the parent's step once it asks for a run that has ended in this state."""


class Settlement(NamedTuple):
    """The end of a claim, with EVERYTHING that is written with it. The functions below make it, one for each ending.

    `failures` are the attempts that have failed since the claim, of steps and of the function, the last one last.
    """

    id: str
    fence: int
    ending: Ending
    result: str | None = None
    error: str | None = None
    due: int = 0
    steps: tuple[Step, ...] = ()
    effects: tuple[Effect, ...] = ()
    took_ms: float = 0.0
    failures: tuple[Failure, ...] = ()

    @property
    def grouped(self) -> tuple[Failure, ...]:
        """The failures that its batch groups; of a message that failed for good at least one."""
        if self.failures or self.error is None or self.ending not in ("dead", "failed"):
            return self.failures
        return (Failure.of_text(self.error),)

    @property
    def sentence(self) -> str | None:
        """The error in one line; the same without an error for a message that was cancelled."""
        if self.error is not None:
            # Of a step that failed, the rest is a sentence of its own.
            return one_line(headline(self.error)).removeprefix("StepFailed: ")
        return f"its run '{self.id}' was cancelled" if self.ending != "done" else None

    @property
    def failed_attempts(self) -> int:
        """The number of its attempts that count as failed; a rate limit costs no attempt."""
        return max(0, len(self.grouped) - (self.ending == "parked"))

    @property
    def outcome(self) -> int | None:
        """The number of failed attempts, 0 for a success; None if it says nothing about either.

        A rate limit, a wait, a cancellation and a claim that is given back say nothing.
        """
        match self.ending:
            case "done":
                return 0
            case "retry" | "dead" | "failed":
                return max(1, self.failed_attempts)
            case "suspended":
                return self.failed_attempts or None
            case "parked" | "released" | "cancelled":
                return None

    def __repr__(self) -> str:
        # Its result may be secret.
        return f"Settlement('{self.id}', '{self.ending}', fence={self.fence})"


# One is made for every item, and the constructor of a named tuple takes three times as long.
_new: Callable[..., Settlement] = tuple[Any, ...].__new__


def done(claim: Claim, result: str, effects: tuple[Effect, ...] = ()) -> Settlement:
    """The function returned `result` (JSON text). An item succeeds and is marked in the ledger."""
    return _new(Settlement, (claim.id, claim.fence, "done", result, None, 0, (), effects, 0.0, ()))


def failed(claim: Claim, error: str, result: str, effects: tuple[Effect, ...] = ()) -> Settlement:
    """The function returned a failure that no retry helps, such as a missing item: failed without a dead letter."""
    return Settlement(claim.id, claim.fence, "failed", result, error, effects=effects)


def suspended(
    claim: Claim,
    until: int,
    steps: tuple[Step, ...],
    effects: tuple[Effect, ...] = (),
    failures: tuple[Failure, ...] = (),
) -> Settlement:
    """The run waits until `until` (ms), or for an arrival. With `failures`, steps have failed and are tried again."""
    return Settlement(claim.id, claim.fence, "suspended", due=until, steps=steps, effects=effects, failures=failures)


def retry(
    claim: Claim,
    at: int,
    error: str,
    steps: tuple[Step, ...] = (),
    effects: tuple[Effect, ...] = (),
    failures: tuple[Failure, ...] = (),
) -> Settlement:
    """An attempt failed outside steps; the next one is due at `at` (ms). The message counts the failure."""
    return Settlement(
        claim.id, claim.fence, "retry", error=error, due=at, steps=steps, effects=effects, failures=failures
    )


def parked(
    claim: Claim, until: int, error: str, steps: tuple[Step, ...] = (), failures: tuple[Failure, ...] = ()
) -> Settlement:
    """A service limits the rate: the whole flow key waits until `until` (ms). It does not count as an attempt."""
    return Settlement(claim.id, claim.fence, "parked", error=error, due=until, steps=steps, failures=failures)


def dead(
    claim: Claim,
    error: str,
    steps: tuple[Step, ...] = (),
    effects: tuple[Effect, ...] = (),
    failures: tuple[Failure, ...] = (),
) -> Settlement:
    """The attempts are used up: the message becomes a dead letter with its error and journal.

    If the run was cancelled meanwhile, it is cancelled instead, and its effects are dropped; so it is if the workflow
    run that it would end (`EndRun`) has been ended by another settlement, which may be one of the same group.
    """
    return Settlement(claim.id, claim.fence, "dead", error=error, steps=steps, effects=effects, failures=failures)


def released(claim: Claim, steps: tuple[Step, ...] = ()) -> Settlement:
    """The claim is released and due at once; it counts neither as an attempt nor as a loss.

    Its steps are kept.
    """
    return Settlement(claim.id, claim.fence, "released", steps=steps)


def cancelled(claim: Claim) -> Settlement:
    """The run was cancelled by its batch, an operator or its own code."""
    return Settlement(claim.id, claim.fence, "cancelled")


def with_duration(settlement: Settlement, took_ms: float) -> Settlement:
    """The settlement, with the time that its claim took."""
    id, fence, ending, result, error, due, steps, effects, _, failures = settlement
    # One is made for every item, and `_replace` takes as long as a step.
    return _new(Settlement, (id, fence, ending, result, error, due, steps, effects, took_ms, failures))


class SettleResult(NamedTuple):
    """The result of a settlement. `stale`: the claim was no longer held, and nothing was changed.

    `ended_batch` is the batch whose last item or message it was: of several settlements at the same time one has it.
    `breaker` says that the circuit breaker of its flow key has opened or closed with it.
    """

    stale: bool = False
    ended_batch: str | None = None
    breaker: BreakerChange | None = None


class Notice(NamedTuple):
    """A fact about the work of a verb, beside its answer.

    `batch_ended`: the batch with this id has ended. `budget_exceeded`: its failure budget has paused it, or has begun
    to cancel it. `canary_ended`: its canary has ended, and it is approved or waits for approval.
    """

    event: Literal["batch_ended", "budget_exceeded", "canary_ended"]
    id: str
