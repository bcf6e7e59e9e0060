"""A batch: what it is made of, its counts and its states. Pure values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

from pydantic_core import to_json

from batchflow.core.flow import FlowControl

BatchState: TypeAlias = Literal["pending", "open", "sealed", "cancelling", "completed", "failed", "cancelled"]
ItemState: TypeAlias = Literal["open", "succeeded", "failed", "cancelled"]
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
FINAL_STATES: frozenset[BatchState] = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """What a trigger opens: all that the items share, stored once.

    `execute` is the destination of the items' messages and `flow` what they wait under; `complete` is the
    destination of the message that the last item's end publishes (None: nobody wants it). `ledger_ttl` is how long
    an item counts as processed, in ms (None: for ever), in the ledger `ledger` (empty: that of the workflow). `parent`
    and `depth` are those of a message: who waits for the batch, told by the end of its completion message. `headers`
    are handed to each item. `on_failure` is the destination that is told of each item whose attempts are used up.
    With `force`, or where the trigger has `named` the ids, items are started whatever the ledger says. While a batch
    with the same `open_dedup` has not ended, this one is not opened.
    """

    id: str
    workflow: str
    execute: str
    flow: FlowControl
    params: str = "null"
    complete: str | None = None
    complete_flow: FlowControl = FlowControl()
    ledger_ttl: int | None = None
    keep_results: bool = True
    force: bool = False
    label: str | None = None
    parent: tuple[str, int] | None = None
    depth: int = 0
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    ledger: str = ""
    on_failure: str | None = None
    named: bool = False
    open_dedup: str | None = None


class Counts(NamedTuple):
    """Where the items of a batch stand. `eligible` is what `fetch` has named so far, every mention counted.

    Once the batch is sealed, `eligible` is the sum of all the others.
    `in_flight`: skipped because another batch of the workflow was at it. `left_out`: beyond the trigger's limit.
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

    @property
    def started(self) -> int:
        """Items that were given a run."""
        return self.open + self.succeeded + self.failed + self.cancelled

    @property
    def ended(self) -> int:
        """Items whose run has ended, one way or the other."""
        return self.succeeded + self.failed + self.cancelled

    @property
    def skipped(self) -> int:
        """Items that were not started, whatever the reason."""
        return self.already_processed + self.in_flight + self.duplicates


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One triggered job, as it stands. Times are ms since the epoch.

    `total` is the number of items to process where it was counted beforehand, else None; `working` counts the
    messages of its layers (entry, pages, chunks, completion) that are not done; `worked_ms` is the time its ended
    items took, summed.
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
    params: str = "null"
    force: bool = False
    label: str | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    paused: bool = False
    error: str | None = None
    created_at: int = 0
    started_at: int | None = None
    ended_at: int | None = None

    @property
    def items_ended(self) -> bool:
        """True once no item of it will run any more."""
        return self.state in FINAL_STATES


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item of a batch: its place, its id in the user's world, how it ended."""

    number: int
    id: str
    state: ItemState
    result: str | None = None
    error: str | None = None
    ended_at: int | None = None


class Mark(NamedTuple):
    """An item that counts as processed; until when, in ms since the epoch (None: for ever)."""

    item: str
    expires_at: int | None = None


def ledger_name(workflow: str, scope: Mapping[str, object]) -> str:
    """The name of a workflow's ledger: its own name, followed by the JSON object of the scope where there is one.

    `scope` are those parameters of a batch that belong to it, by name, as values that JSON has; their order does not
    matter.
    """
    if not scope:
        return workflow
    return workflow + to_json(dict(sorted(scope.items()))).decode()


def workflow_of_ledger(ledger: str) -> str:
    """The workflow that a ledger belongs to; no workflow's name holds a brace."""
    return ledger.partition("{")[0]
