"""How a claim ends, and all that is written with it in the same transaction. Pure values."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

from batchflow.core.batch import ItemState, NewBatch
from batchflow.core.message import Claim, Message
from batchflow.core.run import RunState, Step, StepState


class FinishEntry(NamedTuple):
    """Effect: the entry layer is through; the batch is open. `total` is the count where one was made."""

    batch: str
    total: int | None = None
    left_out: int = 0


class RecordPage(NamedTuple):
    """Effect: a page was walked: `eligible` ids named, of which so many skipped; it was cut into `chunks`."""

    batch: str
    eligible: int
    already_processed: int = 0
    duplicates: int = 0
    left_out: int = 0
    chunks: int = 0


class StartItems(NamedTuple):
    """Effect: items `first`, `first + 1`, … of the batch, with these ids, are to run.

    An id that the batch already has is counted as a duplicate, one that another batch with the same ledger has in
    flight as in flight, one that the ledger holds as processed. None of these is started; but those that are in flight
    or processed are where the batch is forced or its trigger has named the ids. `marked` are those of `ids` that the
    ledger held already when the page was filtered, and that the filter has named all the same: they are started too.
    `data` are the JSON texts that `fetch` brought of the items, in their order; empty where it brought none.
    `already_processed` is how many more were left out here, since a ledger beside the store holds them.
    """

    batch: str
    first: int
    ids: tuple[str, ...]
    marked: tuple[str, ...] = ()
    data: tuple[str | None, ...] = ()
    already_processed: int = 0


class FinishWalk(NamedTuple):
    """Effect: the walk of a batch that stores all items first is through: what was held back of it is released.

    `total` is the number of items that are to be processed.
    """

    batch: str
    total: int | None = None


class Publish(NamedTuple):
    """Effect: these messages are published; those of a batch keep it from ending until they are done."""

    messages: tuple[Message, ...]


class OpenBatch(NamedTuple):
    """Effect: this batch is opened with its first messages; nothing where its id is known already."""

    batch: NewBatch
    messages: tuple[Message, ...]


class Listen(NamedTuple):
    """Effect: step `number` of the run waits for `event`, until `until` (ms; 0: as long as it takes).

    What was kept of that event for this run arrives at once, the oldest first.
    """

    number: int
    event: str
    until: int = 0


class Unlisten(NamedTuple):
    """Effect: these steps of the run do not wait for their events any more."""

    numbers: tuple[int, ...]


class AcceptWebhook(NamedTuple):
    """Effect: what is sent to the webhook `token` is for this run."""

    token: str


class Notify(NamedTuple):
    """Effect: all who wait for `event` get `data` (JSON text); with `run` that run alone, now or once it waits."""

    event: str
    data: str
    run: str | None = None


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
)


Ending: TypeAlias = Literal["done", "failed", "suspended", "retry", "parked", "dead", "released", "cancelled"]
STAYS: frozenset[Ending] = frozenset({"suspended", "retry", "parked", "released"})
"""Endings after which a message waits again; all others end its run."""

RUN_STATE: Mapping[Ending, RunState] = MappingProxyType(
    {"done": "completed", "failed": "failed", "dead": "failed", "cancelled": "cancelled"}
)
"""What becomes of a run that ends so."""

ITEM_STATE: Mapping[Ending, ItemState] = MappingProxyType(
    {"done": "succeeded", "failed": "failed", "dead": "failed", "cancelled": "cancelled"}
)
"""What becomes of an item whose run ends so."""

ARRIVES: Mapping[Ending, StepState] = MappingProxyType(
    {"done": "done", "failed": "failed", "dead": "failed", "cancelled": "cancelled"}
)
"""What becomes of the step of a parent that waits for a run that ends so."""


class Settlement(NamedTuple):
    """How a claim ended, and ALL that is written with it. Made by the functions below, one for each way to end."""

    id: str
    fence: int
    ending: Ending
    result: str | None = None
    error: str | None = None
    due: int = 0
    steps: tuple[Step, ...] = ()
    effects: tuple[Effect, ...] = ()
    took_ms: float = 0.0


# One is made for every item, and the constructor of a named tuple takes three times as long.
_new: Callable[..., Settlement] = tuple[Any, ...].__new__


def done(claim: Claim, result: str, effects: tuple[Effect, ...] = ()) -> Settlement:
    """The function returned `result` (JSON text). An item has succeeded and its ledger mark is made."""
    return _new(Settlement, (claim.id, claim.fence, "done", result, None, 0, (), effects, 0.0))


def failed(claim: Claim, error: str, result: str, effects: tuple[Effect, ...] = ()) -> Settlement:
    """The function answered a failure that no retry helps, such as an item that is gone: failed, no dead letter."""
    return Settlement(claim.id, claim.fence, "failed", result, error, effects=effects)


def suspended(claim: Claim, until: int, steps: tuple[Step, ...], effects: tuple[Effect, ...] = ()) -> Settlement:
    """The run waits until `until` (ms), or until something arrives for it. No attempt is counted."""
    return Settlement(claim.id, claim.fence, "suspended", due=until, steps=steps, effects=effects)


def retry(claim: Claim, at: int, error: str, steps: tuple[Step, ...] = ()) -> Settlement:
    """An attempt failed outside steps; the next one is due at `at` (ms). The failure is counted on the message."""
    return Settlement(claim.id, claim.fence, "retry", error=error, due=at, steps=steps)


def parked(claim: Claim, until: int, error: str, steps: tuple[Step, ...] = ()) -> Settlement:
    """A service limits the rate: the message and its whole flow key wait until `until` (ms); no attempt is counted."""
    return Settlement(claim.id, claim.fence, "parked", error=error, due=until, steps=steps)


def dead(claim: Claim, error: str, steps: tuple[Step, ...] = (), effects: tuple[Effect, ...] = ()) -> Settlement:
    """The attempts are used up: the message becomes a dead letter with its error and journal.

    That of a run that was cancelled meanwhile is cancelled instead, and its effects are dropped.
    """
    return Settlement(claim.id, claim.fence, "dead", error=error, steps=steps, effects=effects)


def released(claim: Claim, steps: tuple[Step, ...] = ()) -> Settlement:
    """The claim is given back, due at once: neither an attempt nor a loss is counted.

    What it has found out about steps is kept.
    """
    return Settlement(claim.id, claim.fence, "released", steps=steps)


def cancelled(claim: Claim) -> Settlement:
    """The run was cancelled by its batch, an operator or its own code."""
    return Settlement(claim.id, claim.fence, "cancelled")


def with_duration(settlement: Settlement, took_ms: float) -> Settlement:
    """The same, saying how long its claim was carried out."""
    id, fence, ending, result, error, due, steps, effects, _ = settlement
    # One is made for every item, and `_replace` takes as long as a step.
    return _new(Settlement, (id, fence, ending, result, error, due, steps, effects, took_ms))


class SettleResult(NamedTuple):
    """The answer to a settlement. `stale`: the claim was no longer held, and nothing was changed."""

    stale: bool = False
    ended_batch: str | None = None
