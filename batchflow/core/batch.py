"""A batch, its items, its counts and states, and the ledgers of processed items. Pure values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

from pydantic_core import to_json

from batchflow.core.failure_budget import FailureBudget
from batchflow.core.flow import FlowControl
from batchflow.core.report import headline, one_line

StopReason: TypeAlias = Literal["failure_budget"]
"""The reasons for which a store itself pauses or cancels a batch."""
BatchState: TypeAlias = Literal["pending", "open", "sealed", "cancelling", "completed", "failed", "cancelled"]
ItemState: TypeAlias = Literal["open", "succeeded", "failed", "cancelled"]
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
MAX_PRIORITY = 9
"""The highest priority of a batch, which starts first, as in AMQP; the lowest is 0, that of a batch that names none."""

PRIORITY_DESCRIPTION = f"a whole number from 0 to {MAX_PRIORITY}, of which the highest is first"
"""The description of a valid priority for messages."""

RUN_AFTER_CANCEL = "it was cancelled, and then a part of it was run again"
"""The error of a cancelled batch of which a dead letter was redriven: what the cancellation left out is not run."""

FINAL_STATES: frozenset[BatchState] = frozenset({"completed", "failed", "cancelled"})


class Canary(NamedTuple):
    """The first items of a batch, which run before all others: its held messages wait until it is approved.

    It is approved by an operator, or by itself once `items` items have ended, if at most `approve_under` of them (0.05:
    5 %) have failed; with None only by an operator. With `after_walk` held messages wait for the end of the walk too.
    """

    items: int
    approve_under: float | None = None
    after_walk: bool = False

    def passes(self, failed: int, ended: int) -> bool:
        """True if so many failures of so many ended items approve the batch."""
        return self.approve_under is not None and ended >= self.items and failed <= self.approve_under * ended


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """A batch as a trigger opens it: everything that its items share, stored once.

    `execute` is the destination of the items' messages, `flow` their flow control. `complete` is the destination of
    the message that the end of the last item publishes (None: no message). `ledger_ttl` is the time for which an item
    counts as processed, in ms (None: for ever), in the ledger `ledger` (empty: the workflow's). `parent` and `depth`
    are those of a message: the end of the completion message resumes the parent. Each item gets the `headers`.
    `on_failure` is the destination that gets a message for each item whose attempts are used up. With `force`, or with
    ids `named` by the trigger, items start although the ledger holds them. The batch is not opened while another one
    with the same `open_dedup` has not ended. `retry_of` is the batch whose items it runs again, or of whose source it
    runs what is missing there; it is never a retry itself. Of the batches of a flow key, those with the highest
    `priority` are first. `notify_url` is the URL that gets a POST about its end. Without a `failure_budget` any number
    of items may fail. With a `canary` it needs approval for all items after
    those.
    """

    id: str
    workflow: str
    execute: str
    flow: FlowControl
    params: str = field(default="null", repr=False)
    complete: str | None = None
    complete_flow: FlowControl = FlowControl()
    ledger_ttl: int | None = None
    keep_results: bool = True
    force: bool = False
    label: str | None = None
    parent: tuple[str, int] | None = None
    depth: int = 0
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS, repr=False)
    ledger: str = ""
    on_failure: str | None = None
    named: bool = False
    open_dedup: str | None = None
    retry_of: str | None = None
    priority: int = 0
    notify_url: str | None = field(default=None, repr=False)
    failure_budget: FailureBudget | None = None
    canary: Canary | None = None


class Counts(NamedTuple):
    """The items of a batch by state. `eligible` counts the ids that `fetch` has returned so far, repeated ones too.

    Once the batch is sealed, `eligible` is the sum of all the others. `in_flight` were skipped because another batch
    of the workflow was processing them; `left_out` are beyond the trigger's limit. Of the `open` items, `retrying` wait
    for their next attempt after one that failed, and `parked` because they raised `RateLimited`; both until the item is
    claimed again.
    """

    eligible: int = 0
    open: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    already_processed: int = 0
    in_flight: int = 0
    duplicates: int = 0
    left_out: int = 0
    retrying: int = 0
    parked: int = 0

    @property
    def started(self) -> int:
        """Items that got a run."""
        return self.open + self.succeeded + self.failed + self.cancelled

    @property
    def ended(self) -> int:
        """Items whose run has ended in any way."""
        return self.succeeded + self.failed + self.cancelled

    @property
    def skipped(self) -> int:
        """Items that were not started, for any reason."""
        return self.already_processed + self.in_flight + self.duplicates


class Replaced(NamedTuple):
    """The earlier runs of items that a retry has started again, by the state in which they had ended."""

    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


NOTHING_REPLACED = Replaced()
"""Of a batch that is not a retry."""

MAX_ERROR_GROUPS = 20
"""The number of error groups that a batch keeps; the last of them is `OTHER_ERRORS`, for the failures of all others."""

OTHER_ERRORS = "other"
"""The type of the group of all failures beyond `MAX_ERROR_GROUPS`."""


class Failure(NamedTuple):
    """A failed attempt as it is grouped: the type of its exception, the user's own last frame, the error in one line.

    `where` is "file.py:12 in function"; "" if no code of the user raised it.
    """

    type: str
    where: str
    message: str

    @classmethod
    def of_text(cls, error: str) -> "Failure":
        """The failure of which only the stored text is known."""
        line = one_line(headline(error))
        name = line.partition(":")[0]
        return cls(name if name.isidentifier() else "Error", "", line)


class ErrorGroup(NamedTuple):
    """The failures of a batch with the same exception type and the user's own last frame (`where`, "" if not known).

    `attempts` failed in all, and `items` of them failed their item for good; a redrive changes neither. `message` is
    the latest error in one line, at `at` (ms), of the item `item` with its number; the walk and the completion of the
    batch have no item, and the number -1.
    """

    type: str
    where: str
    attempts: int
    items: int
    message: str
    item: str | None = None
    number: int = -1
    at: int = 0

    def __str__(self) -> str:
        return f"{self.attempts:,} × {self.type}"


NotificationState: TypeAlias = Literal["in_progress", "succeeded", "failed"]


class Notification(NamedTuple):
    """The latest notification of a batch's end: its state, since when (ms), and why it has failed."""

    state: NotificationState
    at: int
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The current state of one triggered job. Times are ms since the epoch.

    `total` is the number of items to process, if it was counted beforehand; `working` counts the messages of its
    layers (entry, pages, chunks, completion) that have not ended; `worked_ms` is the time that its ended items took,
    added up. `flow_key` is that of its items. `error` is the reason of a walk that failed, `completion_error` that of a
    completion that failed for good. `errors` are its failures in groups, those with the most attempts first. `named` is
    True if its trigger named its ids. `notification` is that of its end, to `notify_url`; None before its end.
    `canary` is the number of items that run before all others, and `needs_approval` is True until it is approved.

    Of a retry, `retry_of` is the batch that it retries, `replaced` counts the earlier runs of its items, and
    `recovered` those of its items that had failed or been cancelled before, and have succeeded in it.

    `stop_reason` says why it is paused or cancelled; None: an operator did it, or neither is the case.
    """

    id: str
    workflow: str
    state: BatchState
    counts: Counts = field(default_factory=Counts)
    pages: int = 0
    chunks: int = 0
    total: int | None = None
    working: int = 0
    worked_ms: float = 0.0
    params: str = field(default="null", repr=False)
    force: bool = False
    label: str | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS, repr=False)
    paused: bool = False
    canary: int | None = None
    needs_approval: bool = False
    flow_key: str | None = None
    error: str | None = None
    completion_error: str | None = None
    errors: tuple[ErrorGroup, ...] = ()
    notify_url: str | None = field(default=None, repr=False)
    notification: Notification | None = None
    created_at: int = 0
    started_at: int | None = None
    ended_at: int | None = None
    named: bool = False
    retry_of: str | None = None
    replaced: Replaced = NOTHING_REPLACED
    recovered: int = 0
    priority: int = 0
    failure_budget: FailureBudget | None = None
    stop_reason: StopReason | None = None

    @property
    def items_ended(self) -> bool:
        """True once none of its items will run any more; `on_complete` may still run."""
        return self.state in FINAL_STATES

    @property
    def waits_for_approval(self) -> bool:
        """True once its canary has ended: nothing starts until an operator approves the batch."""
        done = self.canary is not None and self.counts.ended >= self.canary
        return done and self.needs_approval and not self.counts.open and not self.items_ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item of a batch: its number, the id that `fetch` returned, its result or error.

    The `error` of an open item is that of its last failed attempt. `attempts` are those that have ended: the failed
    and lost ones, and the one that succeeded.
    """

    number: int
    id: str
    state: ItemState
    result: str | None = field(default=None, repr=False)
    error: str | None = None
    ended_at: int | None = None
    attempts: int = 0


class Mark(NamedTuple):
    """An item that counts as processed; until when, in ms since the epoch (None: for ever)."""

    item: str
    expires_at: int | None = None


def is_priority(value: object) -> bool:
    """Return True for the priority of a batch."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_PRIORITY


def ledger_name(workflow: str, scope: Mapping[str, object]) -> str:
    """The name of a workflow's ledger: the workflow's name, followed by the scope as a JSON object if there is one.

    `scope` maps the batch parameters that separate ledgers to JSON values; their order does not matter.
    """
    if not scope:
        return workflow
    return workflow + to_json(dict(sorted(scope.items()))).decode()


def workflow_of_ledger(ledger: str) -> str:
    """The workflow that a ledger belongs to; names of workflows contain no brace."""
    return ledger.partition("{")[0]
