"""What a store promises: the specification that `tests.conformance` holds every store to.

Every verb is one transaction, and safe to repeat after a reply was lost, where it does not say otherwise. Times are ms
since the epoch, by the store's own clock. A verb raises `StoreUnavailable` when it could not be carried out for now,
and then has changed nothing that repeating it would not change alike.

`Store` is all of it; who needs less asks for less, and a ledger beside a store is a `Ledger` alone.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, TypeAlias

from batchflow.core.batch import Batch, Item, ItemState, Mark, NewBatch
from batchflow.core.flow import FlowControl, FlowStatus
from batchflow.core.message import ClaimResult, DeadLetter, Message, WorkerStatus
from batchflow.core.run import Run, RunQuery, Step, Waiter
from batchflow.core.settlement import Effect, Settlement, SettleResult

KEPT_EVENTS = 1_000
"""How many events are kept for one run that does not wait for them yet."""

RecordResult: TypeAlias = Literal["recorded", "stale", "cancelled"]
"""What a store says to a step that was to be recorded: it is; the claim is lost; the run is cancelled."""


class Renew(Protocol):
    """Extends leases."""

    async def __call__(
        self, worker: str, lease_ms: int, hung: Sequence[tuple[str, int]] = (), hanging: int = 0
    ) -> bool:
        """Extend the worker's lease; False when it had ended and its claims were taken back.

        `hung` names claims (id, fence) of the worker that are not renewed: they are taken back as losses at once.
        `hanging` is how many threads the worker has given up, for those who look at it.
        """
        ...


class Lifecycle(Protocol):
    """A place that is opened before it is used."""

    async def open(self) -> None:
        """Make ready; safe to repeat. An empty place is set up, an older one is migrated.

        Raises `StoreIncompatible` for a place made by a newer batchflow, one that cannot be written, or one that is
        not a batchflow store, saying what to do.
        """
        ...

    async def close(self) -> None:
        """Finish what is being written and let go of everything; safe to repeat."""
        ...


class Commands(Protocol):
    """What an app asks to be done: after some of them work is due, after others something has ended."""

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """Add messages to be claimed from `not_before` on; of each, whether it was new.

        A message whose id is known (waiting, leased, kept as a finished run or dead) changes nothing. One whose batch
        has ended or is being cancelled is not added; the id of a batch's message begins with the batch's id and a dot.
        Nor is one added while another with the same `open_dedup` has not ended. What is due now is due whatever the
        clock says later. A `held` message waits until the effect `FinishWalk` of its batch. A flow key that is not
        declared is made with the message's limits, and follows the latest message; those of a declared key stay.
        """
        ...

    async def open_batch(self, batch: NewBatch, messages: Sequence[Message]) -> bool:
        """Store a batch with its first messages.

        False, and nothing is done, when its id is known, or a batch with the same `open_dedup` has not ended.
        """
        ...

    async def notify(self, event: str, data: str, run: str | None = None) -> Sequence[str]:
        """Give `data` to all that wait for `event`, which are due at once; the ids of their runs.

        With `run` only that run gets it, and where it does not wait for the event (any more) the data is kept until it
        does, one after the other, up to `KEPT_EVENTS`; () when the run is not known, has ended, or has that many kept.
        Not safe to repeat: who waits again is told again.
        """
        ...

    async def cancel_run(self, id: str) -> bool:
        """End a waiting run at once, a leased one at its next step; False when it had ended or is not known.

        What it waits for, child runs, calls and batches, is cancelled with it.
        """
        ...

    async def cancel_runs(self, *, destination: str | None = None, label: str | None = None) -> int:
        """As `cancel_run`, for all that fit both; how many there were. Not one transaction: slice by slice."""
        ...

    async def cancel_batch(self, id: str) -> bool:
        """Start nothing more of a batch; waiting items are cancelled, leased ones at their next step.

        False when it had ended or is not known. What a worker settles as done meanwhile counts as done. It answers as
        soon as nothing more starts: of a large batch the counts follow, a slice at a time.
        """
        ...


class Delivery(Protocol):
    """What a worker does: it is known, leases messages for as long as it lives, and ends its claims."""

    async def register(self, worker: str, lease_ms: int, concurrency: int = 0) -> None:
        """Make a worker known; its claims are its own until the lease ends. Safe to repeat.

        `concurrency` is how many claims it means to have, for those who look at it.
        """
        ...

    def renewing(self) -> AbstractAsyncContextManager[Renew]:
        """What renews leases, on the event loop on which it is entered, until it is left.

        That may be a loop of another thread, so that a blocked event loop does not lose its claims. What is called may
        block its loop, which has nothing else to do. Entering asks nothing of the place where the store is.
        """
        ...

    async def claim(self, worker: str, destinations: Sequence[str], limit: int) -> ClaimResult:
        """Lease up to `limit` due messages for `destinations` to `worker`, each with a new fence.

        Flow keys are picked before messages, in turn, so that a hot key does not starve a quiet one; within a key its
        lanes, one for each destination and batch, in turn; within a lane what has started already, by when it is due,
        before what is fresh, by id; but of eight claims in a row one is fresh. Parallelism and rate of the key are
        taken together with the claim, or neither. A message lost `SUSPECT_LOSSES` times in a row is claimed alone, and
        as long as the worker holds it and it has recorded nothing, the worker gets nothing else.
        Timers of a suspended run that are due, and what has arrived for it, become recorded entries, in time order;
        with them its failures and losses start again from none, as after every outcome, and the claim says so. Nothing
        of a cancelled or paused batch is leased. An unknown worker is registered by nobody: it gets nothing. The answer
        tells the store's time, so that the worker does not find what is due here to be not due there.
        """
        ...

    def settle(self, settlement: Settlement) -> Awaitable[SettleResult]:
        """End a claim if it is still held with this fence, together with its steps and effects; else `stale`.

        The message gives back its place in the flow key. By ending: `done` and `failed` drop message and journal
        (kept as a finished run if the message says so); an item is succeeded and marked in the ledger, or failed.
        `suspended`, `retry`, `parked` and `released` make it due again with the steps they bring, counting a failure
        only for `retry`; `parked` holds its whole flow key until then; `released` is due at once, and so is a
        `suspended` one for which something has arrived. `dead` makes a dead letter of it, whole and with its journal,
        fails its item, or the walk of its batch, and publishes to its `on_failure` (for an item its batch's) a message
        whose body is the JSON of its id; of a run that is cancelled it is `cancelled`. What is still held of a batch
        whose walk broke off is dropped. `cancelled` ends it without a result or effects, and cancels what it waits for.
        The end of a message with a parent arrives at the step that waits for it. The settlement that ends a batch's
        last item after its last page also completes the batch and publishes its completion message: exactly once.
        """
        ...

    async def expire(self) -> int:
        """Take back the claims of workers whose lease has ended or whose process is gone; how many.

        Each counts as a loss; the first is due at once, further ones in a row after `loss_delay_ms`, and with
        `LOSS_LIMIT` it becomes a dead letter. Where the worker held one with `SUSPECT_LOSSES` or more that has recorded
        nothing, only that one counts; what was held beside it is due at once, without a loss.
        """
        ...

    async def deregister(self, worker: str) -> None:
        """Forget a worker that stops in good order; claims it still holds are due at once, without a loss."""
        ...


class Journaling(Protocol):
    """Where the steps of a running function are recorded."""

    def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> Awaitable[RecordResult]:
        """Record a step, with `effects`, if the claim is still held with this fence.

        `recorded`: durable, and after an outcome the message's failures and losses start again from none. A pending
        step leaves them as they are; it is recorded when it begins to wait for something from outside, or for a time
        while the function goes on, and its outcome takes its place. `stale`: the claim is lost; `cancelled`: its run or
        batch is cancelled; in both cases nothing is changed. Recording the same step again is a no-op that answers
        `recorded`.
        """
        ...


class AdminCommands(Protocol):
    """What an operator does about batches and dead letters."""

    async def pause_batch(self, id: str) -> bool:
        """Lease nothing more of a batch until `resume_batch`; what is leased goes on. False as for `cancel_batch`."""
        ...

    async def resume_batch(self, id: str) -> bool:
        """Undo `pause_batch`. False when the batch is not paused."""
        ...

    async def redrive(self, id: str) -> bool:
        """Let a dead letter wait again, due at once; failures and losses start again from none.

        Its journal stays but for the steps that were pending and the latest that has failed, which are asked for anew.
        Its item is open again; a batch that had ended goes on, `sealed`, and completes anew, with another completion
        message. False when it is not a dead letter, its batch is being cancelled or was removed, or what the walk of
        its batch had held back is gone.
        """
        ...


class FlowKeys(Protocol):
    """The limits of flow keys: the code's, those that messages bring, and those that an operator pins."""

    async def declare(self, limits: Sequence[FlowControl]) -> None:
        """Set the limits the code gives to these keys; what an operator has pinned wins over them.

        A declared key stays, and messages do not change its limits. Any other goes when nothing waits under it, is
        leased, dead or pinned, and its rate holds nothing back.
        """
        ...

    async def pin(self, limits: FlowControl) -> None:
        """Set the parallelism of a key, or its rate, or both, over the code's until `unpin`; what is None stays."""
        ...

    async def unpin(self, key: str, *, parallelism: bool = True, rate: bool = True) -> None:
        """Give these limits of a key back to the code, whose latest are in force again."""
        ...

    async def pause(self, key: str) -> None:
        """Start nothing under a key until `resume`; pins stay as they are."""
        ...

    async def resume(self, key: str) -> None:
        """Undo `pause`."""
        ...


class RunReads(Protocol):
    """Runs, and what they wait for, as they are read."""

    async def run(self, id: str) -> Run | None:
        """A run as it stands: waiting, leased, kept or dead; None when it is not known, or dropped."""
        ...

    async def runs(self, query: RunQuery, limit: int) -> Sequence[Run]:
        """Runs that are kept: waiting, leased, ended or dead, the latest first; without their journals."""
        ...

    async def waiters(self, event: str) -> Sequence[Waiter]:
        """Who waits for an event, those that have waited longest first."""
        ...

    async def webhook(self, token: str) -> str | None:
        """The run for which a webhook was accepted and that has not ended."""
        ...


class BatchReads(Protocol):
    """Batches and their items, as they are read."""

    async def batch(self, id: str) -> Batch | None:
        """A batch as it stands, in one consistent read."""
        ...

    async def batches(
        self, *, workflow: str | None = None, label: str | None = None, open_only: bool = False, limit: int = 50
    ) -> Sequence[Batch]:
        """The latest batches, newest first."""
        ...

    async def items(
        self, batch: str, *, state: ItemState | None = None, after: int = -1, limit: int = 100
    ) -> Sequence[Item]:
        """Items of a batch numbered above `after`, by number."""
        ...


class LedgerReads(Protocol):
    """Which items are processed, as it is read."""

    async def processed(self, ledger: str, ids: Sequence[str], /) -> frozenset[str]:
        """Those of `ids` that the ledger holds and whose mark has not expired.

        The name of a ledger is that of its workflow, followed by the scope's JSON object where it has one
        (`batchflow.core.batch.ledger_name`).
        """
        ...


class Reads(RunReads, BatchReads, LedgerReads, Protocol):
    """All that is read of a store by those who start, watch and operate; nothing is changed by it."""

    async def under_way(self, open_dedup: str) -> str | None:
        """The id of the batch or message with this `open_dedup` that has not ended."""
        ...

    async def dead_letters(self, *, batch: str | None = None, limit: int = 50) -> Sequence[DeadLetter]:
        """The latest dead letters, newest first."""
        ...

    async def workers(self) -> Sequence[WorkerStatus]:
        """Workers that are known, by name, each with how many claims it holds of each destination.

        One is known from when it was registered until it is deregistered, or `expire` has taken its claims back. It is
        lost as long as `expire` would do that: nothing is taken back here.
        """
        ...

    async def flows(self, keys: Sequence[str] | None = None) -> Sequence[FlowStatus]:
        """Flow keys as they stand, by name."""
        ...


class Ledger(LedgerReads, Lifecycle, Protocol):
    """Which items of a workflow are processed: a store's own, or one beside an engine that keeps its state elsewhere.

    Every verb may be repeated, and raises `StoreUnavailable` when it could not be carried out for now.
    """

    async def mark(self, ledger: str, ids: Sequence[str], ttl_ms: int | None, /) -> None:
        """Mark ids as processed, from outside of any batch, for so long (None: for ever); the latest mark holds."""
        ...

    async def forget(self, ledger: str, ids: Sequence[str] | None = None, /) -> int:
        """Take marks away, all of them when `ids` is None; how many there were."""
        ...


class Ledgers(Protocol):
    """All ledgers of a store, as they are taken elsewhere."""

    async def ledgers(self) -> Sequence[str]:
        """The names of the ledgers there are, in order."""
        ...

    async def marks(self, ledger: str, *, after: str | None = None, limit: int = 1_000) -> Sequence[Mark]:
        """Marks of a ledger that have not expired, in an order of the store's, those after that of the item `after`.

        While marks go meanwhile, some may come twice.
        """
        ...


class Housekeeping(Protocol):
    """What is done now and then, that nothing piles up or stays half done."""

    async def prune(self, retention_ms: int) -> int:
        """Remove finished runs, ended batches and dead letters older than this, and expired marks; in slices.

        Returns how many rows went; call again while it is not 0.
        """
        ...

    async def reconcile(self, destinations: Sequence[str], *, deep: bool = False) -> int:
        """Put right what a verb that was stopped in its midst has left half done; how much.

        Places of flow keys that nobody holds are given back. With `deep` all that is open is looked through, of runs
        those for `destinations`: what nobody holds and what waits nowhere is due again. A store whose verbs are done
        altogether or not at all has nothing to put right.
        """
        ...

    async def was_emptied(self) -> bool:
        """Whether all that the place held is gone since it was opened, or since this said so; it is set up anew."""
        ...


class Store(Commands, Delivery, Journaling, AdminCommands, FlowKeys, Reads, Ledger, Ledgers, Housekeeping, Protocol):
    """Durable state: messages, journals, batches, the ledger, flow keys."""

    @property
    def is_durable(self) -> bool:
        """Whether what is stored is still there after `close`, for this process or another."""
        ...

    def on_change(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Call `callback` on the event loop after a change that may have made something due or ended something.

        Its argument says whether the change was another process's, which is told of within 100 ms.

        Returns what ends the subscription.
        """
        ...
