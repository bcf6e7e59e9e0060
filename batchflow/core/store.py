"""The protocol of stores: their specification, which `tests.conformance` checks for every store.

Every verb is one transaction, and safe to repeat after a lost reply, unless it says otherwise. Times are ms since the
epoch, by the store's own clock. A verb raises `StoreUnavailable` if it cannot be carried out for now; repeating it
then has the same result as if it had not been called before.

`Store` is the whole protocol; code that needs a part asks for that part, and a ledger beside a store is a `Ledger`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, TypeAlias

from batchflow.core.batch import Batch, Item, ItemState, Mark, NewBatch
from batchflow.core.dead_letters import ALL_DEAD_LETTERS, DeadLetter, DeadLetterGroup, DeadLetterQuery
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.flow import FlowControl, FlowHolder, FlowStatus
from batchflow.core.message import ClaimResult, Message, OpenMessage, UnservedWork, WorkerStatus
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Run, RunQuery, Step, Waiter
from batchflow.core.schedule import DueSchedules, Fire, FireResult, NewSchedule, ScheduleStatus
from batchflow.core.settlement import Effect, Notice, Settlement, SettleResult

KEPT_EVENTS = 1_000
"""The number of events that are kept for one run that does not wait for them yet."""

SEARCHED_BATCHES = 100
"""The number of the latest batches of a workflow in which an item is searched."""

LARGE_TEXT = 16_384
"""Values of up to this many characters do not count where the memory of values is bounded."""

ITEMS_SIZE = 4 * 2**20
"""The size of results and errors, in characters, with which a read of items ends."""

MOST_COUNTED = 100_000
"""The number up to which messages that nobody serves are counted."""

SEARCHED_LANES = 100
"""The number of lanes of a batch in which its open messages are looked for."""

SEARCHED_MESSAGES = 2_000
"""The number of messages that have started and wait, and of those that are claimed, among which they are looked for."""

RecordResult: TypeAlias = Literal["recorded", "stale", "cancelled"]
"""The result of recording a step: recorded; the claim is lost; the run is cancelled."""


class Renew(Protocol):
    """Extends leases."""

    async def __call__(
        self, worker: str, lease_ms: int, hung: Sequence[tuple[str, int]] = (), hanging: int = 0
    ) -> bool:
        """Extend the worker's lease; False if it had ended and its claims were reclaimed.

        `hung` are claims (id, fence) of the worker that are not renewed: they are reclaimed as losses at once.
        `hanging` is the number of threads that the worker has abandoned, as `workers` shows it.
        """
        ...


class Lifecycle(Protocol):
    """A store or ledger, which is opened before it is used."""

    async def open(self) -> None:
        """Open; safe to repeat. An empty database is set up, an older one is migrated.

        Raises `StoreIncompatible`, with the remedy, for a database that a newer batchflow made, that cannot be
        written, or that is not a batchflow store.
        """
        ...

    async def close(self) -> None:
        """Finish pending writes and release all resources; safe to repeat."""
        ...


class RunCommands(Protocol):
    """The commands about runs: to start, notify and cancel them."""

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """Add messages to be claimed from `not_before` on; returns for each if it was new.

        A message whose id exists (waiting, leased, kept as a finished run or dead) changes nothing. It is not added if
        its batch has ended or is being cancelled (the id of a batch's message begins with the batch's id and a dot),
        or while another one with the same `open_dedup` has not ended. A message that is due now stays due, even if the
        clock is set back. A `held` message waits for the effect `FinishWalk` of its batch; that of a batch with a
        canary waits for `approve_batch`, with `after_walk` for both. A flow key that is not declared takes the limits
        of the latest message; those of a declared key stay. The outcome of a child whose id exists and that has ended
        (a kept run or a dead letter) arrives again at the step that waits for it.
        """
        ...

    async def notify(self, event: str, data: str, run: str | None = None) -> Sequence[str]:
        """Give `data` to all runs that wait for `event`, which are due at once; returns their ids.

        With `run` only that run gets it. If it does not wait for the event, the data is kept until it does, in order,
        up to `KEPT_EVENTS`; returns () if the run does not exist, has ended, or has that many kept.
        Not safe to repeat: a run that waits again gets the data again.
        """
        ...

    async def cancel_run(self, id: str) -> bool:
        """End a waiting run at once, a leased one at its next step; False if it has ended or does not exist.

        The child runs, calls and batches that it waits for are cancelled with it.
        """
        ...

    async def cancel_runs(
        self, *, destination: str | None = None, label: str | None = None, ids: Sequence[str] = ()
    ) -> int:
        """As `cancel_run`, for the runs with these ids, or for all runs that match both `destination` and `label`.

        Returns the number of runs that `cancel_run` would have answered True for. Not one transaction, but slices.
        """
        ...


class Commands(RunCommands, Protocol):
    """The commands of an app: some make work due, others end something."""

    async def open_batch(self, batch: NewBatch, messages: Sequence[Message]) -> bool:
        """Store a batch with its first messages.

        Returns False and does nothing if its id exists, or if a batch with the same `open_dedup` has not ended; but a
        child that exists and has ended, with its completion, publishes another completion message for its parent.
        """
        ...

    async def cancel_batch(self, id: str) -> bool:
        """Start no more items of a batch; waiting ones are cancelled at once, leased ones at their next step.

        False if it has ended or does not exist. Items that a worker settles as done meanwhile count as done. Returns
        as soon as nothing more starts: the counts of a large batch follow, a slice at a time.
        """
        ...

    async def pause_batch(self, id: str) -> bool:
        """Lease no more of a batch until `resume_batch`; leased items continue. False as for `cancel_batch`."""
        ...

    async def resume_batch(self, id: str) -> bool:
        """Undo `pause_batch`; its failure budget counts anew. False if it is not paused or is being cancelled."""
        ...

    async def set_failure_budget(self, id: str, budget: FailureBudget | None) -> bool:
        """Set the failure budget of a batch, or remove it; it counts anew. False as for `cancel_batch`.

        Nothing is paused or cancelled before the next item fails. A batch that was paused by it stays paused.
        """
        ...

    async def set_batch_priority(self, id: str, priority: int) -> bool:
        """Change the priority of a batch, from the next claim on. False if it has ended, is cancelled or is unknown."""
        ...

    async def approve_batch(self, id: str) -> bool:
        """Release the held messages of a batch with a canary, at any time, whether it is paused or not.

        False if it has no canary, is approved already, has ended, is being cancelled or does not exist.
        """
        ...


class Delivery(Protocol):
    """The verbs of a worker: it registers, leases messages while its lease lasts, and ends its claims."""

    async def register(
        self, worker: str, lease_ms: int, concurrency: int = 0, destinations: Sequence[str] | None = None
    ) -> None:
        """Register a worker; its claims belong to it until the lease ends. Safe to repeat.

        `concurrency` is the number of claims that it may have, and `destinations` are those that it serves, as
        `workers` shows them; repeated with others (not None), these take their place.
        """
        ...

    def renewing(self) -> AbstractAsyncContextManager[Renew]:
        """A context whose value renews leases, on the event loop that enters it.

        That may be the loop of another thread, so that a blocked event loop does not lose its claims. The call may
        block its loop, which has nothing else to do. Entering the context does not use the database.
        """
        ...

    async def claim(self, worker: str, destinations: Sequence[str], limit: int) -> ClaimResult:
        """Lease up to `limit` due messages for `destinations` to `worker`, each with a new fence.

        Flow keys are picked before messages, in turn, so that a hot key does not starve a quiet one; within a key its
        lanes, one for each destination and batch: nothing of a lane is leased while another one of the key, of a batch
        with a higher priority, has something due that this claim could lease, and those with the same priority in turn;
        within a lane messages that have started before, by due time, before fresh ones, by id; but of eight claims in a
        row one is fresh. Parallelism and rate of the key are taken together with the claim, or neither. An item with a
        flow key of its own takes room of that key and of its batch's, or of neither. For turns and priorities it is one
        of its batch's key: all such items of a key, a destination and a priority share one turn, in which their own
        keys take turns. A message lost `SUSPECT_LOSSES` times in a row is claimed alone, and while the worker holds it
        and it has recorded nothing, the worker gets nothing else.
        Of a key whose circuit breaker is open, one message is leased once the key is not parked any more: the trial.
        Nothing else of the key is leased until it has ended.
        Due timers and arrivals of a suspended run become recorded entries, in time order; they reset its failures and
        losses, as every outcome does, also in the claim. Nothing of a cancelled or paused batch is leased. A worker
        that is not registered gets nothing. The result has the store's time, so that a message that is due for the
        store is due for the worker too.
        """
        ...

    async def claim_one(self, worker: str, id: str, fence: int) -> ClaimResult:
        """Lease the message `id` to `worker`, with a new fence, if its latest fence is `fence`.

        It waits, or the worker that hands it over holds it still, and loses it: who names the fence has it from there.
        Its due time, its place in its lane, and the parallelism and rate of its flow keys do not hold it back: the
        caller has kept them. It takes room of its keys, and none of their starts; more than their parallelism may be in
        use then. Of a key whose circuit breaker is open it is the trial. The claim is as from `claim`, but a message
        that was lost `SUSPECT_LOSSES` times is not alone: the worker may hold others, and get more.
        Nothing is leased if the message is not known or has another fence, or if the worker is not registered. Nor is
        a message that waits and may not start now, since its batch is paused or is being cancelled, it is held, or one
        of its keys is paused or parked; it is then due at once, whatever its due time was, so that `claim` leases it as
        soon as it may start.
        A worker that holds the message with `fence` + 1, whichever verb has leased it, gets the claim again, with the
        journal of now: so the call may be repeated after a lost reply, but two callers of one worker may have the same
        claim. If it is not repeated, the worker may hold the message, without knowing, until its lease ends. `next_due`
        is None.
        """
        ...

    def settle(self, settlement: Settlement) -> Awaitable[SettleResult]:
        """End a claim if it is still held with this fence, together with its steps and effects; else `stale`.

        The message releases its place in the flow key. By ending: `done` and `failed` drop message and journal
        (kept as a finished run if the message says so); its item succeeds and is marked in the ledger, or fails.
        `suspended`, `retry`, `parked` and `released` make it due again, with the steps of the settlement, and only
        `retry` counts a failure; `parked` holds its whole flow key until then; `released` is due at once, and so is a
        `suspended` one with an arrival. `dead` makes it a dead letter, whole and with its journal, fails its item, or
        the walk of its batch, and publishes to its `on_failure` (for an item its batch's) a message whose body is its
        id as JSON; the outcome of that one is then the dead letter's `failure`, and it becomes no dead letter itself.
        If the run of a dead message is cancelled, it is `cancelled` instead. Held messages of a batch whose walk failed
        are dropped. A completion that does not end as `done` sets its batch's `completion_error`, and a later one that
        does clears it. `cancelled` ends it without a result or effects, and cancels everything that it waits for.
        Until it is claimed again, an item counts as `parked` in its batch after `parked`, and else as `retrying` if an
        attempt has failed (`retry`, or `failures`), and has the error of the last one. The `failures` are added to the
        error groups of the batch, at most `MAX_ERROR_GROUPS`: what is beyond goes to the group `OTHER_ERRORS`. They and
        lost claims count as attempts, which nothing resets; those of rate limits do not.
        The failed attempts (`outcome`) of the items of a batch whose budget has a circuit breaker are counted for the
        flow key of the batch, until any message of the key succeeds. With the last of `max_in_a_row` the circuit
        breaker of the key opens: the key is parked for `open_for`. While it is open, only the end of the trial counts:
        a success closes the breaker, a failure parks the key again, and after any other end another message is tried.
        The one settlement that opens or closes it has the change in its result. A trial that is reclaimed from its
        worker has no outcome either.
        The end of a message with a parent arrives at the step that waits for it. The settlement that ends a batch's
        last item after its last page also completes the batch and publishes its completion message: exactly once.
        If the batch has a `notify_url`, the end of its completion message, however that ends, publishes its
        notification (without a completion message: the end of the batch), a message whose body is the batch's id as
        JSON, which belongs to no batch. Its outcome is then the batch's `notification`, and it becomes no dead letter.
        The one that ends the last open item of a canary, with messages held and as many items ended as it has, approves
        the batch if few enough have failed, and tells the notice `canary_ended`, approved or not.
        """
        ...

    async def expire(self) -> int:
        """Reclaim the claims of workers whose lease has ended or whose process is gone; returns their number.

        Each counts as a loss; the first is due at once, further ones in a row after `loss_delay_ms`, and with
        `LOSS_LIMIT` it becomes a dead letter. If the worker held one that was claimed alone and has recorded nothing,
        only that one counts; its other claims are due at once, without a loss.
        """
        ...

    async def deregister(self, worker: str) -> None:
        """Remove a worker that stops in good order; claims that it still holds are due at once, without a loss."""
        ...


class Journaling(Protocol):
    """The journal of steps of running functions."""

    def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> Awaitable[RecordResult]:
        """Record a step, with `effects`, if the claim is still held with this fence.

        `recorded`: durable; an outcome resets the message's failures and losses. A pending step does not; it is
        recorded when it begins to wait for something from outside, or for a time while the function continues, and its
        outcome replaces it. `stale`: the claim is lost; `cancelled`: its run or batch is cancelled; in both cases
        nothing is changed. Recording the same step again changes nothing and returns `recorded`.
        """
        ...


class FlowKeyCommands(Protocol):
    """The commands of an operator for the limits of flow keys."""

    async def pin(self, limits: FlowControl, until: int | None = None) -> None:
        """Override the parallelism of a key, its rate, or both, until `unpin`; None leaves a limit unchanged.

        With `until` the override ends by itself at that time: the next claim is without it, `flows` does not show it
        any more, and no `next_due` of a claim is later than that time.
        """
        ...

    async def unpin(self, key: str, *, parallelism: bool = True, rate: bool = True) -> None:
        """Remove overrides of a key; the latest limits of the code apply again."""
        ...

    async def pause(self, key: str, until: int | None = None) -> None:
        """Start nothing under a key until `resume`; pins stay. `until` is as for `pin`."""
        ...

    async def resume(self, key: str) -> None:
        """Undo `pause`."""
        ...

    async def reset(self, key: str, *, starts_only: bool = False) -> None:
        """Remove overrides of a key, its pause and its parking, close its circuit breaker, and forget its starts.

        With `starts_only` nothing but the starts, so that its rate begins anew.
        """
        ...


class FlowKeyAdmin(FlowKeyCommands, Protocol):
    """The flow keys of an app as an operator sees and changes them: those of its store, or of QStash."""

    async def flows(self, keys: Sequence[str] | None = None, *, waiting: bool = True) -> Sequence[FlowStatus]:
        """See `RunReads`."""
        ...

    async def flow_holders(self, key: str, limit: int = 100) -> Sequence[FlowHolder]:
        """See `Reads`."""
        ...


class FlowKeys(FlowKeyCommands, Protocol):
    """The limits of flow keys: those of the code, of messages, and of an operator."""

    async def declare(self, limits: Sequence[FlowControl]) -> None:
        """Set the limits that the code declares for these keys; pins of an operator override them.

        A declared key stays, and messages do not change its limits. Any other key is removed when none of its messages
        is waiting, leased or dead, nothing is pinned, and its rate delays nothing.
        """
        ...


class AdminCommands(FlowKeys, Protocol):
    """The commands of an operator, for flow keys and for dead letters."""

    async def redrive(
        self, id: str, *, restart: bool = False, retry: RetryPolicy | None = None, flow: FlowControl | None = None
    ) -> bool:
        """Make a dead letter a waiting message again, due at once, with failures and losses reset.

        Its journal stays except for pending steps and the latest one that failed, which run again; with `restart` all
        of it goes, with all that it has waited for, its webhooks too. `retry` and `flow` take the place of the
        message's own. Its item is open again; a batch that had ended resumes as `sealed`, and completes again, with
        another completion message and notification; one that was cancelled ends as `failed`, with RUN_AFTER_CANCEL, as
        what was cancelled is not run. The batch of a completion stays ended, and publishes its notification
        again. A notification that waits is dropped, and the outcome of a claimed one does not count any more.
        Attempts, their log and error groups stay.
        Children and calls of the steps that go: one that has not ended continues, and the step will wait for it. A dead
        one is redriven too, so that the step waits for that; with `restart` it is dropped, as is one that ended
        otherwise, and the step starts it anew. The outcome of one that ended while its step was pending arrives when
        the step asks for it again (`publish`, `open_batch`).
        False if it is not a dead letter, its batch is being cancelled or was removed, the held messages of its batch
        are gone, or a retry of its batch has started its item again.
        """
        ...

    async def call_failure_again(self, id: str) -> bool:
        """Publish another failure message of a dead letter, whose `failure` is then `in_progress` again.

        False if it is not a dead letter, has no `on_failure` (an item: its batch), or its failure message has not ended
        yet.
        """
        ...

    async def delete_dead_letter(self, id: str) -> bool:
        """Remove a dead letter with its journal; its item stays failed. False if it is not a dead letter."""
        ...


class ScheduleStore(Protocol):
    """The schedules of an app, as operators see and change them: those of its store, or of QStash.

    The caller reads cron expressions; a store knows only times.
    """

    async def put_schedule(self, schedule: NewSchedule, next_at: int | None) -> ScheduleStatus:
        """Add a schedule that fires first at `next_at`, or replace the definition of the one with its id.

        One that is replaced keeps its history, whether it is paused, and the time of its next fire if its expression
        and time zone are the same: a fire that was missed meanwhile is not lost. Putting the same definition again
        changes nothing.
        """
        ...

    async def pause_schedule(self, id: str) -> bool:
        """Fire no more until `resume_schedule`; a queued fire waits too. False if it does not exist or is paused."""
        ...

    async def resume_schedule(self, id: str, next_at: int | None) -> bool:
        """Undo `pause_schedule`, with the next fire at `next_at`. False if it does not exist or is not paused."""
        ...

    async def delete_schedule(self, id: str) -> bool:
        """Remove a schedule, whatever it has started stays. False if it does not exist."""
        ...

    async def fire_schedule(self, fire: Fire) -> FireResult:
        """Start the work of a fire, if the schedule has not changed since it had the `version` of the fire.

        Its work is published, or its batch opened, and the time of the next fire set, in one transaction: of several
        workers that fire it at once, one does, and the others get `stale`, as for a schedule that does not exist. If
        work with the same `open_dedup` has not ended, the fire is `queued` with `queue`, unless another one is, and
        else `skipped`. If its id exists, as after a clock that was set back, it is `repeated` and starts nothing.
        Without work to start it has `failed`.
        """
        ...

    async def schedule(self, id: str) -> ScheduleStatus | None:
        """A schedule; None if it does not exist."""
        ...

    async def schedules(self, *, after: str = "", limit: int = 100) -> Sequence[ScheduleStatus]:
        """The schedules whose ids are after `after`, by id."""
        ...


class Schedules(ScheduleStore, Protocol):
    """Schedules, and their fires."""

    async def plan_schedule(self, id: str, version: int, next_at: int | None) -> bool:
        """Set the time of the next fire, unless the schedule has changed since it had this `version`."""
        ...

    async def due_schedules(self, destinations: Sequence[str], limit: int = 100) -> DueSchedules:
        """The schedules with these `destinations` that are due, or whose queued fire may start; not the paused ones."""
        ...


class RunReads(Protocol):
    """Reads of runs: how they stand, how they ended, and what they wait for."""

    async def run(self, id: str) -> Run | None:
        """A run that is waiting, leased, kept or dead; None if it does not exist, or no longer."""
        ...

    async def runs(self, query: RunQuery, limit: int) -> Sequence[Run]:
        """Runs that are waiting, leased, kept or dead, the latest first.

        What may be large is not read: they are without their journals, payloads and results.
        """
        ...

    async def waiters(self, event: str) -> Sequence[Waiter]:
        """The runs that wait for an event, those that have waited longest first."""
        ...

    async def under_way(self, open_dedup: str) -> str | None:
        """The id of the batch or message with this `open_dedup` that has not ended."""
        ...

    async def dead_letter(self, id: str) -> DeadLetter | None:
        """A dead letter, whole; None if it does not exist, or no longer."""
        ...

    async def unserved(self, limit: int = 100) -> Sequence[UnservedWork]:
        """Destinations, by name, of due messages that could start if a worker served them, which no live one does.

        Those that the rate of their key delays count too; those of a paused or parked key, or of a batch that is paused
        or being cancelled, do not. Nothing while a live worker has not reported what it serves.
        """
        ...

    async def flows(self, keys: Sequence[str] | None = None, *, waiting: bool = True) -> Sequence[FlowStatus]:
        """The current state of flow keys, by name. Without `waiting`, what waits is not counted; its number is 0."""
        ...


class BatchReads(Protocol):
    """Reads of batches and their items."""

    async def batch(self, id: str) -> Batch | None:
        """A batch, in one consistent read."""
        ...

    async def batches(
        self,
        *,
        workflow: str | None = None,
        label: str | None = None,
        open_only: bool = False,
        limit: int = 50,
        params: bool = True,
        before: str | None = None,
    ) -> Sequence[Batch]:
        """The latest batches, newest first; with `before` those that are older than the batch with this id.

        Nothing once that batch has been removed: retention removes the older ones before it. Without `params`, neither
        these nor headers are read.
        """
        ...

    async def items(
        self, batch: str, *, state: ItemState | None = None, after: int = -1, limit: int = 100, results: bool = True
    ) -> Sequence[Item]:
        """Items of a batch numbered above `after`, by number; without `results` these are not read.

        With them there may be fewer than `limit`: the last one is that with which results and errors come to
        `ITEMS_SIZE` characters.
        """
        ...

    async def find_item(self, batch: str, item_id: str) -> Item | None:
        """The item of a batch with this id.

        A store without an index of them reads the items of the batch, a slice at a time.
        """
        ...

    async def items_with_ids(self, batch: str, ids: Sequence[str]) -> Sequence[Item]:
        """The items of a batch with these ids, without results, in any order.

        A store without an index of them reads the items of the batch, a slice at a time.
        """
        ...

    async def retries(self, batch: str) -> Sequence[Batch]:
        """The retries of a batch, those that were opened first before the others, without parameters and headers."""
        ...

    async def retried_items(self, batch: str, ids: Sequence[str]) -> Mapping[str, tuple[str, Item]]:
        """By id, those of the items that a retry of the batch has started: each in the latest one, with its id."""
        ...

    async def missing_items(self, batch: str, ids: Sequence[str]) -> frozenset[str]:
        """Those of `ids` that neither the batch which this one retries, nor any of its retries, has started.

        `batch` is a retry that is open. A store without an index of ids makes one for it, a slice at a time, which goes
        when it ends. Nothing if the batch that it retries was removed.
        """
        ...

    async def open_messages(self, batch: str, *, layers: bool = False, limit: int = 20) -> Sequence[OpenMessage]:
        """The messages of the items of a batch that have not ended, or with `layers` those of its layers.

        Up to `limit` of each state, in the order of `OPEN_STATES`; within a state those that started first if they are
        `running`, else by the time from which they may start, those that wait for something else last. A bounded look:
        at `SEARCHED_LANES` lanes of the batch, and at `SEARCHED_MESSAGES` messages of these that have started.
        """
        ...

    async def find_items(self, workflow: str, item_id: str, limit: int = 20) -> Sequence[tuple[str, Item]]:
        """The items with this id of the `SEARCHED_BATCHES` latest batches of a workflow, newest first, with the batch.

        A store without an index of them reads the items of these batches, a slice at a time.
        """
        ...


class LedgerReads(Protocol):
    """Reads of ledgers."""

    async def processed(self, ledger: str, ids: Sequence[str], /) -> frozenset[str]:
        """Those of `ids` that the ledger holds and whose mark has not expired.

        The name of a ledger is that of its workflow, followed by the scope's JSON object where it has one
        (`batchflow.core.batch.ledger_name`).
        """
        ...


class Reads(RunReads, BatchReads, LedgerReads, Protocol):
    """All reads of a store by apps and operators; they change nothing."""

    async def webhook(self, token: str) -> str | None:
        """The run that accepted a webhook, unless it has ended."""
        ...

    async def dead_letters(
        self, query: DeadLetterQuery = ALL_DEAD_LETTERS, limit: int = 50, before: tuple[int, str] | None = None
    ) -> Sequence[DeadLetter]:
        """The latest dead letters that match, newest first; `before` is `(died_at, id)` of the last one of a page.

        What may be large is not read: they are without bodies, headers, journals and attempts.
        """
        ...

    async def dead_letter_groups(
        self, query: DeadLetterQuery = ALL_DEAD_LETTERS, limit: int = 100
    ) -> Sequence[DeadLetterGroup]:
        """The dead letters that match by their fingerprint, the `limit` largest groups first."""
        ...

    async def workers(self) -> Sequence[WorkerStatus]:
        """The registered workers, by name, each with the number of its claims by destination.

        A worker is listed from its registration until it is deregistered, or `expire` has reclaimed its claims. It is
        lost while `expire` would do that; this reclaims nothing.
        """
        ...

    async def flow_holders(self, key: str, limit: int = 100) -> Sequence[FlowHolder]:
        """The messages of a flow key that workers have claimed, those that started first before the others."""
        ...


class Ledger(LedgerReads, Lifecycle, Protocol):
    """The ledgers of processed items: a store's own, or one beside a store.

    Every verb may be repeated, and raises `StoreUnavailable` if it cannot be carried out for now.
    """

    async def mark(self, ledger: str, ids: Sequence[str], ttl_ms: int | None, /) -> None:
        """Mark ids as processed for `ttl_ms` (None: for ever), outside of any batch; the latest mark counts."""
        ...

    async def forget(self, ledger: str, ids: Sequence[str] | None = None, /) -> int:
        """Remove marks, all of them if `ids` is None; returns their number."""
        ...


class Ledgers(Protocol):
    """Reads of all ledgers of a store, to copy them to another one."""

    async def ledgers(self) -> Sequence[str]:
        """The names of all ledgers, in order."""
        ...

    async def marks(self, ledger: str, *, after: str | None = None, limit: int = 1_000) -> Sequence[Mark]:
        """Marks of a ledger that have not expired, in an order of the store's, after that of the item `after`.

        If marks are removed meanwhile, some may be returned twice.
        """
        ...


class Housekeeping(Protocol):
    """Regular maintenance: it removes old data and completes interrupted verbs."""

    async def prune(self, retention_ms: int) -> int:
        """Remove a slice of finished runs, ended batches and dead letters older than this, and of expired marks.

        Returns the number of removed rows; call again while it is not 0.
        """
        ...

    async def reconcile(self, destinations: Sequence[str], *, deep: bool = False) -> int:
        """Repair the state that an interrupted verb has left; returns the number of repairs.

        Places of flow keys that nothing holds are released. With `deep` everything that is open is checked, runs for
        `destinations`: a message that nobody holds and that waits nowhere is due again. A store whose verbs are atomic
        has nothing to repair.
        """
        ...

    async def was_emptied(self) -> bool:
        """True if the database has lost all its data since `open`, or since the last call; it is then set up again."""
        ...


class Store(Commands, Delivery, Journaling, AdminCommands, Schedules, Reads, Ledger, Ledgers, Housekeeping, Protocol):
    """Durable state: messages, journals, batches, the ledger, flow keys, schedules."""

    @property
    def is_durable(self) -> bool:
        """True if the data survives `close`, for this process or another."""
        ...

    @property
    def location(self) -> str:
        """The location of the data, for people: an absolute path, or a server and a namespace, without a password."""
        ...

    @property
    def is_new(self) -> bool:
        """True if there was no data before `open`, which has set the database up."""
        ...

    def on_change(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Call `callback` on the event loop after a change that may have made something due or ended something.

        Its argument is True for changes of other processes, which are reported within 100 ms.

        Returns a function that ends the subscription.
        """
        ...

    def on_notice(self, callback: Callable[[Notice], None]) -> Callable[[], None]:
        """Call `callback` on the event loop with each notice of a verb of this store.

        Each is told once, to the process whose verb it was; not at all if the answer of the database is lost. The end
        of a batch that `settle` answers as `ended_batch` has no notice. Returns a function that ends the subscription.
        """
        ...
