"""What a store promises: the specification that `batchflow.testing.conformance` holds every store to.

Every verb is one transaction, and safe to repeat after a reply was lost, where it does not say otherwise. Times are ms
since the epoch, by the store's own clock. A verb raises `StoreUnavailable` when it could not be carried out for now,
and then has changed nothing that repeating it would not change alike.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from batchflow.core.batch import Batch, Item, ItemState, NewBatch
from batchflow.core.flow import FlowControl, FlowStatus
from batchflow.core.message import Claimed, DeadLetter, Message
from batchflow.core.ports import Verdict
from batchflow.core.run import Run, RunQuery, Step, Waiter
from batchflow.core.settlement import Effect, Settled, Settlement
from batchflow.core.worker import WorkerStatus

KEPT_EVENTS = 1_000
"""How many events are kept for one run that does not wait for them yet."""


class Store(Protocol):
    """Durable state: messages, journals, batches, the ledger, flow keys."""

    # Life

    @property
    def lasting(self) -> bool:
        """Whether what is stored is still there after `close`, for this process or another."""
        ...

    async def open(self) -> None:
        """Make ready; an empty place is set up, an older one is migrated.

        Raises `StoreIncompatible` for a place made by a newer batchflow, one that cannot be written, or one that is
        not a batchflow store, saying what to do.
        """
        ...

    async def close(self) -> None:
        """Finish what is being written and let go of everything; safe to repeat."""
        ...

    def on_change(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Call `callback` on the event loop after a change that may have made something due or ended something.

        Its argument says whether the change was another process's, which is told of within 100 ms.

        Returns what ends the subscription.
        """
        ...

    # Messages

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """Add messages to be claimed from `not_before` on; of each, whether it was new.

        A message whose id is known (waiting, leased, kept as a finished run or dead) changes nothing. One whose batch
        has ended or is being cancelled is not added; the id of a batch's message begins with the batch's id and a dot.
        A flow key is made with the message's limits; its limits follow the latest message unless pinned.
        """
        ...

    async def enlist(self, worker: str, lease_ms: int, concurrency: int = 0) -> None:
        """Make a worker known; its claims are its own until the lease ends. Safe to repeat.

        `concurrency` is how many claims it means to have, for those who look at it.
        """
        ...

    def renew(self, worker: str, lease_ms: int, hung: Sequence[tuple[str, int]] = ()) -> bool:
        """Extend the worker's lease; False when it had ended and its claims were taken back.

        `hung` names claims (id, fence) of the worker that are not renewed: they are taken back as losses at once.
        Blocking, and called from a thread of its own, so that a blocked event loop does not lose its claims.
        """
        ...

    async def claim(self, worker: str, destinations: Sequence[str], limit: int) -> Claimed:
        """Lease up to `limit` due messages for `destinations` to `worker`, each with a new fence.

        Flow keys are picked before messages, in turn, so that a hot key does not starve a quiet one; within a key the
        oldest due message comes first. Parallelism and rate of the key are taken together with the claim, or neither.
        Timers of a suspended run that are due, and what has arrived for it, become recorded entries, in time order;
        with them its failures and losses start again from none, as after every outcome, and the claim says so. Nothing
        of a cancelled batch is leased. An unknown worker is enlisted by nobody: it gets nothing. The answer tells the
        store's time, so that the worker does not find what is due here to be not due there.
        """
        ...

    def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> Awaitable[Verdict]:
        """Record a step, with `effects`, if the claim is still held with this fence.

        `recorded`: durable, and after an outcome the message's failures and losses start again from none. A pending
        step leaves them as they are; it is recorded when it begins to wait for something from outside, or for a time
        while the function goes on, and its outcome takes its place. `stale`: the claim is lost; `cancelled`: its run or
        batch is cancelled; in both cases nothing is changed. Recording the same step again is a no-op that answers
        `recorded`.
        """
        ...

    def settle(self, settlement: Settlement) -> Awaitable[Settled]:
        """End a claim if it is still held with this fence, together with its steps and effects; else `stale`.

        The message gives back its place in the flow key. By ending: `done` and `answered` drop message and journal
        (kept as a finished run if the message says so); an item is succeeded and marked in the ledger, or failed.
        `suspended`, `retry`, `parked` and `released` make it due again with the steps they bring, counting a failure
        only for `retry`; `parked` holds its whole flow key until then; `released` is due at once, and so is a
        `suspended` one for which something has arrived. `dead` moves it to the dead letters with its journal, and fails
        its item, or the walk of its batch. `cancelled` ends it without a result, and cancels what it waits for. The end
        of a message with a parent arrives at the step that waits for it. The settlement that ends a batch's last item
        after its last page also completes the batch and publishes its completion message: exactly once.
        """
        ...

    async def expire(self) -> int:
        """Take back the claims of workers whose lease has ended or whose process is gone; how many.

        Each counts as a loss and is due at once; one with `LOSS_LIMIT` losses in a row becomes a dead letter.
        """
        ...

    async def dismiss(self, worker: str) -> None:
        """Forget a worker that stops in good order; claims it still holds are due at once, without a loss."""
        ...

    async def workers(self) -> Sequence[WorkerStatus]:
        """Workers that are known, by name, each with how many claims it holds of each destination.

        One is known from when it was enlisted until it is dismissed, or `expire` has taken its claims back. It is lost
        as long as `expire` would do that: nothing is taken back here.
        """
        ...

    # Runs

    async def run(self, id: str) -> Run | None:
        """A run as it stands: waiting, leased, kept or dead; None when it is not known, or dropped."""
        ...

    async def runs(self, query: RunQuery, limit: int) -> Sequence[Run]:
        """Runs that are kept: waiting, leased, ended or dead, the latest first; without their journals."""
        ...

    async def cancel_run(self, id: str) -> bool:
        """End a waiting run at once, a leased one at its next step; False when it had ended or is not known.

        What it waits for, child runs, calls and batches, is cancelled with it.
        """
        ...

    async def cancel_runs(self, *, destination: str | None = None, label: str | None = None) -> int:
        """As `cancel_run`, for all that fit both; how many there were. Not one transaction: slice by slice."""
        ...

    # Events

    async def notify(self, event: str, data: str, run: str | None = None) -> Sequence[str]:
        """Give `data` to all that wait for `event`, which are due at once; the ids of their runs.

        With `run` only that run gets it, and where it does not wait for the event (any more) the data is kept until it
        does, one after the other, up to `KEPT_EVENTS`; () when the run is not known, has ended, or has that many kept.
        Not safe to repeat: who waits again is told again.
        """
        ...

    async def waiters(self, event: str) -> Sequence[Waiter]:
        """Who waits for an event, those that have waited longest first."""
        ...

    async def webhook(self, token: str) -> str | None:
        """The run for which a webhook was accepted and that has not ended."""
        ...

    async def dead_letters(self, *, batch: str | None = None, limit: int = 50) -> Sequence[DeadLetter]:
        """The latest dead letters, newest first."""
        ...

    # Batches

    async def open_batch(self, batch: NewBatch, messages: Sequence[Message]) -> bool:
        """Store a batch with its first messages; False, and nothing is done, when its id is known."""
        ...

    async def batch(self, id: str) -> Batch | None:
        """A batch as it stands, in one consistent read."""
        ...

    async def batches(
        self, *, workflow: str | None = None, open_only: bool = False, limit: int = 50
    ) -> Sequence[Batch]:
        """The latest batches, newest first."""
        ...

    async def items(
        self, batch: str, *, state: ItemState | None = None, after: int = -1, limit: int = 100
    ) -> Sequence[Item]:
        """Items of a batch numbered above `after`, by number."""
        ...

    async def cancel_batch(self, id: str) -> bool:
        """Start nothing more of a batch; waiting items are cancelled, leased ones at their next step.

        False when it had ended or is not known. What a worker settles as done meanwhile counts as done.
        """
        ...

    # The ledger

    async def processed(self, workflow: str, ids: Sequence[str]) -> frozenset[str]:
        """Those of `ids` that the workflow has processed and whose mark has not expired."""
        ...

    async def mark(self, workflow: str, ids: Sequence[str], ttl_ms: int | None) -> None:
        """Mark ids as processed, from outside of any batch."""
        ...

    async def forget(self, workflow: str, ids: Sequence[str] | None = None) -> int:
        """Take marks away, all of them when `ids` is None; how many there were."""
        ...

    # Flow keys

    async def declare(self, limits: Sequence[FlowControl]) -> None:
        """Set the limits the code gives to these keys, except where an operator has pinned others."""
        ...

    async def pin(self, limits: FlowControl, *, paused: bool = False) -> None:
        """Set a key's limits over the code's, and hold it altogether while `paused`; until `unpin`."""
        ...

    async def unpin(self, key: str) -> None:
        """Give a key back to the code, whose latest limits are in force again."""
        ...

    async def flows(self, keys: Sequence[str] | None = None) -> Sequence[FlowStatus]:
        """Flow keys as they stand, by name."""
        ...

    # Housekeeping

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
