"""The ports through which the layers above the core reach what is below them.

`serve` and `batch` see these and never a store or an engine.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from batchflow.core.batch import Batch, Item, ItemState, NewBatch
from batchflow.core.clock import Clock, Entropy
from batchflow.core.flow import FlowStatus
from batchflow.core.limit import Limit
from batchflow.core.message import Claim, Message
from batchflow.core.run import Run, RunQuery, Step, StepKind, Waiter
from batchflow.core.settlement import Effect, Settlement
from batchflow.core.worker import WorkerStatus
from batchflow.errors import StoreError

T = TypeVar("T")

Verdict: TypeAlias = Literal["recorded", "stale", "cancelled"]
"""What a store says to a step that was to be recorded: it is; the claim is lost; the run is cancelled."""


class Asked(NamedTuple):
    """A step the code asked for: its place, its name, what kind; `due` for one that waits; what is pending of it."""

    number: int
    name: str
    kind: StepKind
    due: int = 0
    pending: Step | None = None


Plan: TypeAlias = Literal["execute", "park", "record", "end"]
"""`execute` the step now; `park` its branch; `record` it as done without executing; `end` the attempt here."""


class Recorder(Protocol):
    """Makes the steps of one claimed run durable."""

    @property
    def immediate(self) -> bool:
        """Whether a step may start as soon as it is asked for; else steps asked for together are planned together."""
        ...

    def plan(self, asked: Sequence[Asked]) -> Sequence[Plan]:
        """What is to become of the steps that were asked for together, in their order."""
        ...

    def record(self, step: Step, effects: tuple[Effect, ...] = ()) -> Awaitable[Verdict]:
        """Make `step` durable, its outcome or that it waits, together with `effects`.

        Resolves once it is; raises `StoreError` when it cannot be known.
        """
        ...

    def failed(self, asked: Asked, error: BaseException) -> int | None:
        """When the step is tried again, in ms; None: this failure is final."""
        ...


class Ledger(Protocol):
    """Which items of a workflow are processed: a store's own, or one beside an engine that keeps its state elsewhere.

    Every verb may be repeated, and raises `StoreUnavailable` when it could not be carried out for now.
    """

    async def open(self) -> None:
        """Make ready; safe to repeat. Raises `StoreIncompatible` for a place that is none."""
        ...

    async def close(self) -> None:
        """Finish what is being written and let go of everything; safe to repeat."""
        ...

    async def processed(self, ledger: str, ids: Sequence[str], /) -> frozenset[str]:
        """Those of `ids` that are marked in `ledger` and whose mark has not expired.

        The name of a ledger is that of its workflow, followed by the scope's JSON object where it has one
        (`batchflow.core.ledger.ledger_name`).
        """
        ...

    async def mark(self, ledger: str, ids: Sequence[str], ttl_ms: int | None, /) -> None:
        """Mark ids as processed, for so long (None: for ever); the latest mark holds."""
        ...

    async def forget(self, ledger: str, ids: Sequence[str] | None = None, /) -> int:
        """Take marks away, all of them when `ids` is None; how many there were."""
        ...


class Client(Protocol):
    """What a workflow needs of the engine to be triggered and asked."""

    @property
    def limit(self) -> Limit:
        """How large a value may be that is to be stored."""
        ...

    def now(self) -> int:
        """The time, in ms since the epoch."""
        ...

    def new_id(self, kind: Literal["run", "batch"]) -> str:
        """A fresh id that sorts by the time it was made."""
        ...

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """Publish messages; those whose id is known already change nothing. Of each, whether it was new."""
        ...

    async def open_batch(self, batch: NewBatch, messages: Sequence[Message]) -> bool:
        """Store a batch together with its first messages; False and nothing done when its id is known already."""
        ...

    async def under_way(self, open_dedup: str) -> str | None:
        """The id of the batch or message with this `open_dedup` that has not ended."""
        ...

    async def batch(self, id: str) -> Batch | None:
        """The batch as it stands."""
        ...

    async def batches(
        self, *, workflow: str | None = None, label: str | None = None, open_only: bool = False, limit: int = 50
    ) -> Sequence[Batch]:
        """The latest batches, newest first."""
        ...

    async def items(self, batch: str, *, state: ItemState | None, after: int, limit: int) -> Sequence[Item]:
        """Items numbered above `after`, in their order."""
        ...

    async def cancel_batch(self, id: str) -> bool:
        """End a batch: nothing of it starts any more. False when it had ended before, or is not known."""
        ...

    async def run(self, id: str) -> Run | None:
        """A run of a served function as it stands."""
        ...

    async def runs(self, query: RunQuery, limit: int) -> Sequence[Run]:
        """Runs that are kept, the latest first, without their journals."""
        ...

    async def cancel_run(self, id: str) -> bool:
        """End a run; False when it had ended before, or is not known."""
        ...

    async def cancel_runs(self, *, destination: str | None = None, label: str | None = None) -> int:
        """End all runs of a function, or with a label, or both; how many."""
        ...

    async def notify(self, event: str, data: str, run: str | None = None) -> Sequence[str]:
        """Give `data` (JSON text) to who waits for `event`; the runs that got it, or for which it is kept."""
        ...

    async def waiters(self, event: str) -> Sequence[Waiter]:
        """Who waits for an event, those that have waited longest first."""
        ...

    async def webhook(self, token: str) -> str | None:
        """The run that a webhook is for; None when there is none, or it has ended."""
        ...

    async def workers(self) -> Sequence[WorkerStatus]:
        """The workers there are, by name, with what each holds."""
        ...

    async def flows(self, keys: Sequence[str]) -> Sequence[FlowStatus]:
        """Flow keys as they stand: the limits in force, whoever set them, and what is in use."""
        ...

    @property
    def ledger(self) -> Ledger | None:
        """The ledger beside the engine, where there is one: what ends an item marks it there first.

        Else the engine's own is asked, and settlements mark.
        """
        ...

    async def processed(self, workflow: str, ids: Sequence[str]) -> frozenset[str]:
        """Those of `ids` that the workflow's ledger holds as processed."""
        ...

    async def marked(self, workflow: str, ids: Sequence[str]) -> frozenset[str]:
        """The same of the engine's own ledger, whatever one beside it says."""
        ...

    async def mark(self, workflow: str, ids: Sequence[str], ttl_ms: int | None) -> None:
        """Mark ids as processed, from outside of any batch."""
        ...

    async def forget(self, workflow: str, ids: Sequence[str] | None = None) -> int:
        """Take marks away, all of them when `ids` is None; how many there were."""
        ...

    @property
    def threads(self) -> "Threads | None":
        """Where plain functions run that are called outside of any delivery; None where the app is not running."""
        ...

    @property
    def changes(self) -> int:
        """A number that grows whenever a batch or run may have ended. Take it before reading what may change."""
        ...

    async def changed(self, since: int, timeout: float) -> None:
        """Return once `changes` is another number than `since`, at the latest after `timeout` seconds.

        Raises:
            StoreUnavailable: the app has stopped, and nothing more is heard of.
        """
        ...


class Journaling(Protocol):
    """Where a claim's steps are recorded: what a store offers a running function."""

    def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> Awaitable[Verdict]:
        """As `batchflow.stores.protocol.Store.record` promises."""
        ...


class PlainCall(NamedTuple):
    """Which plain function is called, by name, for which run and step; those are empty outside of them."""

    function: str
    run: str = ""
    step: str = ""


class Threads(Protocol):
    """The threads that plain functions of user code run in, of which there are so many and no more."""

    async def run(self, call: Callable[[], T], about: PlainCall, waits: Callable[[bool, float], None]) -> T:
        """What `call` returns or raises, called in a thread.

        `waits` is told when it has to wait for one (True), and when it does not any more, with the event loop's time;
        on the event loop, and not at all where a thread is free. Cancelled, it is given up: the thread runs on, and
        another may take its place.
        """
        ...


class Lease(Protocol):
    """The lease of a worker: as long as it holds, nobody else has what the worker has claimed."""

    @property
    def losses(self) -> int:
        """How often it had ended so far. What was claimed before the latest of them may be another's."""
        ...

    def is_doubtful(self, losses: int) -> bool:
        """Whether it may have ended, for what was claimed after so many losses; cheap enough for every step."""
        ...

    async def holds(self, losses: int) -> bool:
        """Whether it has not, as the store says; False too where that does not answer."""
        ...


TIMEOUT = "batchflow:timeout"
"""Why an engine interrupts an attempt that has taken too long; it counts as a failed attempt."""

STOP = "batchflow:stop"
"""Why an engine interrupts an attempt as it stops; it does not count."""


Insist: TypeAlias = Callable[[Callable[[], Awaitable[Verdict]], StoreError], Awaitable[Verdict]]
"""Asks again until the store can answer; raises the `StoreError` of what it refuses for good, or where nobody waits."""

StandIn: TypeAlias = Callable[[str, str, Callable[..., Awaitable[Any]]], Callable[..., Awaitable[Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What an engine lends to the endpoints it delivers to.

    `always_replay` suspends a run after every step, so that each is replayed; `stand_in` is asked before a step is
    executed, with run, name and function, for the function to execute instead. `interrupted` says of claims, by id and
    fence, why the engine cancels the task that carries them out: no step of theirs starts any more. `branched` has, of
    those that have tasks of their own, what to call then; `queueing`, of those whose plain functions had to wait for
    threads, for how many seconds up to an event loop's time: that is not theirs. `insist` records again what the store
    could not record for now, until it can; without it the attempt is given up. `home` is the app that delivers, and
    `lease` that of its worker: nothing starts while it is in doubt.
    """

    journaling: Journaling
    clock: Clock
    entropy: Entropy
    threads: Threads
    home: object = None
    lease: Lease | None = None
    always_replay: bool = False
    stand_in: StandIn | None = None
    interrupted: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])
    branched: dict[tuple[str, int], Callable[[], None]] = field(
        default_factory=dict[tuple[str, int], Callable[[], None]]
    )
    insist: Insist | None = None
    queueing: dict[tuple[str, int], Callable[[float], float]] = field(
        default_factory=dict[tuple[str, int], Callable[[float], float]]
    )


class Delivered(Protocol):
    """What a claim is delivered to: a served endpoint."""

    @property
    def timeout_ms(self) -> int | None:
        """How long one attempt may take; None: as long as it likes."""
        ...

    async def deliver(self, claim: Claim, runtime: Runtime) -> Settlement | None:
        """Carry out one claim, in the task that was made for it; how it ended.

        None: the claim was lost or the store failed; the attempt was given up, and the claim is to be given back.
        """
        ...
