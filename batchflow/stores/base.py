"""The base of all stores: group commit, the verbs that are one operation of a group, and the sizes of slices.

All operations of one turn of the event loop are written in one transaction. While a group is written the next one is
collected, so that the busier a program is, the larger its groups are.
"""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from pydantic_core import from_json

from batchflow.core.batch import (
    MAX_ERROR_GROUPS,
    NO_HEADERS,
    OTHER_ERRORS,
    Batch,
    Counts,
    ErrorGroup,
    Failure,
    Item,
    NewBatch,
    Notification,
    Replaced,
)
from batchflow.core.breaker import Breaker
from batchflow.core.dead_letters import KEPT_ATTEMPTS, DeadLetter, FailureCall, LoggedAttempt, status_of
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.flow import FlowControl, FlowStatus
from batchflow.core.message import OPEN_STATES, Claim, Message, OpenMessage
from batchflow.core.posts import Post
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Journal, Run, Step
from batchflow.core.schedule import Fire, FireResult, NewSchedule, ScheduleStatus
from batchflow.core.settlement import Effect, EndRun, SendPosts, Settlement, SettleResult
from batchflow.core.store import LARGE_TEXT, RecordResult
from batchflow.core.wire_runs import AddEntry, AwaitEvent, BeginRun, RunLink
from batchflow.errors import StoreError, StoreUnavailable


def not_open(what: str) -> StoreUnavailable:
    """The error for a use of a store outside of the running app."""
    return StoreUnavailable(
        f"{what} is not open; use it while the app runs: inside 'async with flow:', or in "
        f"FastAPI(lifespan=flow.lifespan), the outermost app if one is mounted in another"
    )


ORDER = (
    "register",
    "declare",
    "pin",
    "unpin",
    "pause",
    "resume",
    "reset",
    "put_schedule",
    "plan_schedule",
    "pause_schedule",
    "resume_schedule",
    "delete_schedule",
    "open_batch",
    "record",
    "record_with_effects",
    "put_queue",
    "drop_queue",
    "put_document",
    "drop_document",
    "log",
    "settle",
    "end_run",
    "publish",
    "post",
    "notify_event",
    "claim_entry",
    "renew",
    "deregister",
    "expire",
    "notify",
    "cancel_run",
    "cancel_listed",
    "cancel_all",
    "cancel_posts",
    "cancel_batch",
    "pause_batch",
    "resume_batch",
    "set_batch_priority",
    "set_failure_budget",
    "approve_batch",
    "redrive",
    "call_failure_again",
    "delete_dead_letter",
    "sweep_cancelled",
    "remove_idle",
    "mark",
    "forget",
    "prune",
    "reconcile",
    "fire_schedule",
    "claim",
    # After `claim`, which tells a server what the worker holds as of the call: not what it gets later.
    "claim_one",
)
"""The order of verbs within a group: verbs that end work come before verbs that start it, and claims come last."""

_RANK = {verb: rank for rank, verb in enumerate(ORDER)}


def rank(verb: str) -> int:
    """The position of a verb in `ORDER`; reads come last."""
    return _RANK.get(verb, len(ORDER))


NOTIFYING_VERBS = frozenset(
    {
        "end_run",
        "publish",
        "post",
        "notify_event",
        "put_queue",
        "drop_queue",
        "open_batch",
        "record_with_effects",
        "settle",
        "declare",
        "pin",
        "unpin",
        # Workers that sleep learn when a pause ends by itself.
        "pause",
        "resume",
        "reset",
        "deregister",
        "expire",
        "notify",
        "cancel_run",
        "cancel_listed",
        "cancel_all",
        "cancel_posts",
        "cancel_batch",
        "resume_batch",
        "set_failure_budget",
        "approve_batch",
        "redrive",
        "call_failure_again",
        "sweep_cancelled",
        "reconcile",
        "fire_schedule",
        "claim_one",
    }
)
"""Verbs after which a message may be due, or a run or batch may have ended."""


class Operation(NamedTuple):
    """A verb with its arguments, and the future of its answer."""

    verb: str
    arguments: tuple[Any, ...]
    future: asyncio.Future[Any]


_new_operation: Callable[..., Operation] = tuple[Any, ...].__new__
_verb_of: Callable[[Operation], str] = itemgetter(Operation._fields.index("verb"))

Answers: TypeAlias = list[tuple[bool, Any]]
"""For each operation in order: whether it succeeded, and its answer or the exception."""

Submit: TypeAlias = Callable[[list[Operation], Callable[[Answers], None]], None]
"""Writes a group and then calls back with the answers, on the event loop."""


MAX_GROUP_CHARS = 8 * 1024 * 1024
"""The most characters in the large values of one group: a store copies the values of a group several times."""


class GroupCommit:
    """Collects operations and submits them, one group at a time.

    A group has all operations that wait, up to `MAX_GROUP_CHARS` of large values. `on_change` is called after a group
    that contains one of `NOTIFYING_VERBS`.
    """

    def __init__(self, submit: Submit, on_change: Callable[[], None]) -> None:
        self._submit = submit
        self._on_change = on_change
        self._pending: list[Operation] = []
        # The large values of the pending operations: the place of the operation, and the characters.
        self._large: list[tuple[int, int]] = []
        self._scheduled = False
        self._writing = False
        self._loop = asyncio.get_running_loop()
        self._drained: asyncio.Future[None] | None = None

    def add(self, verb: str, *arguments: Any) -> "asyncio.Future[Any]":
        """Enqueue a verb; the future gets its answer once its group is durable.

        Raises:
            StoreError: the app runs on another event loop than the caller; nothing is enqueued.
        """
        loop = self._loop
        if asyncio.get_running_loop() is not loop:
            raise StoreError(
                "the app runs on another event loop than the one it is called on; from another thread write "
                "flow.trigger_sync(…), or asyncio.run_coroutine_threadsafe(…, loop_of_the_app)"
            )
        # Neither `create_future` nor the tuple's constructor: each is one more call, several times for every item.
        future: asyncio.Future[Any] = asyncio.Future(loop=loop)
        self._pending.append(_new_operation(Operation, (verb, arguments, future)))
        if not self._scheduled and not self._writing:
            self._scheduled = True
            self._loop.call_soon(self._flush)
        return future

    def note_large(self, chars: int) -> None:
        """The operation that was added last has a value of more than `LARGE_TEXT` characters."""
        self._large.append((len(self._pending) - 1, chars))

    def _flush(self) -> None:
        self._scheduled = False
        if not self._pending or self._writing:
            return
        if self._large:
            end = self._end_of_group()
            group, self._pending = self._pending[:end], self._pending[end:]
        else:
            group, self._pending = self._pending, []
        self._writing = True
        self._submit(group, lambda answers: self._finish(group, answers))

    def _end_of_group(self) -> int:
        """The number of pending operations that the next group takes."""
        chars, taken = 0, 0
        for _, more in self._large:
            chars += more
            if taken and chars > MAX_GROUP_CHARS:
                break
            taken += 1
        left = self._large[taken:]
        end = left[0][0] if left else len(self._pending)
        self._large = [(place - end, more) for place, more in left]
        return end

    def _finish(self, group: list[Operation], answers: Answers) -> None:
        self._writing = False
        for operation, (carried_out, answer) in zip(group, answers, strict=True):
            if operation.future.cancelled():
                continue
            if carried_out:
                operation.future.set_result(answer)
            else:
                operation.future.set_exception(answer)
                # Without a waiter Python would warn at exit that the exception was never retrieved.
                operation.future.exception()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if not NOTIFYING_VERBS.isdisjoint(map(_verb_of, group)):
            self._on_change()
        # After the tasks that were just woken and those that they wake, so that their operations join the group.
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._loop.call_soon, self._flush)

    async def drain(self) -> None:
        """Wait until all enqueued operations are written."""
        while self._pending or self._writing:
            self._drained = self._loop.create_future()
            await self._drained


def chars_of(posts: Iterable[Post]) -> int:
    """The characters in the large values of posts."""
    return sum(len(post.message.body) + len(post.description) + chars_of_link(post.link) for post in posts)


def chars_of_link(link: RunLink | None) -> int:
    """The characters of the entries that a post adds to its run."""
    match link:
        case BeginRun():
            return sum(len(body.text) for body in link.entries)
        case AddEntry():
            return len(link.body.text)
        case AwaitEvent():
            return len(link.head)
        case _:
            return 0


def chars_of_end(end: EndRun) -> int:
    """The characters in the large values of the end of a run."""
    return len(end.result or "") + chars_of(end.posts)


SWEEP_LIMIT = 2_000
"""Cancelled messages and items that one operation ends: a small slice, so that others wait only a moment."""

SWEEP_LIMIT_AT_CANCEL = 200
"""Messages and items of a batch that are ended before its cancellation is answered; the rest follows in slices."""

IDLE_KEYS_LIMIT = 500
"""Flow keys that are examined for being idle."""

LANES_LIMIT = 64
"""Lanes from which one round of a claim takes messages."""

PRUNE_LIMIT = 5_000
"""Rows whose retention is over that are removed."""


class WriteVerbs(ABC):
    """The verbs of a store that enqueue one operation and return its answer."""

    _commit: GroupCommit | None = None
    _sweeping: "asyncio.Task[None] | None" = None

    @abstractmethod
    def _enqueue(self, verb: str, *arguments: Any) -> "asyncio.Future[Any]":
        """Enqueue an operation; the future gets its answer once it is durable."""

    # Messages

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """See the protocol."""
        return list(await self._enqueue("publish", messages))

    def record(
        self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()
    ) -> "asyncio.Future[RecordResult]":
        """See the protocol."""
        # Not through `_enqueue`, once the store is open: each is one more call, several times for every item.
        add = self._enqueue if (commit := self._commit) is None else commit.add
        future = (
            add("record_with_effects", claim, fence, step, effects) if effects else add("record", claim, fence, step)
        )
        if (value := step.value) is not None and len(value) > LARGE_TEXT and commit is not None:
            commit.note_large(len(value))
        return future

    def settle(self, settlement: Settlement) -> "asyncio.Future[SettleResult]":
        """See the protocol."""
        add = self._enqueue if (commit := self._commit) is None else commit.add
        future = add("settle", settlement)
        chars = 0 if (result := settlement.result) is None else len(result)
        for effect in settlement.effects:
            match effect:
                case SendPosts():
                    chars += chars_of(effect.posts)
                case EndRun():
                    chars += chars_of_end(effect)
                case _:
                    pass
        if chars > LARGE_TEXT and commit is not None:
            commit.note_large(chars)
        return future

    async def expire(self) -> int:
        """See the protocol."""
        reclaimed: int = await self._enqueue("expire")
        await self._sweep_cancelled()
        # Idle keys are removed in slices, up to a slice without any; the next call continues from there.
        while await self._enqueue("remove_idle"):
            pass
        return reclaimed

    async def redrive(
        self, id: str, *, restart: bool = False, retry: RetryPolicy | None = None, flow: FlowControl | None = None
    ) -> bool:
        """See the protocol."""
        return await self._enqueue("redrive", id, restart, retry, flow)

    async def call_failure_again(self, id: str) -> bool:
        """See the protocol."""
        return await self._enqueue("call_failure_again", id)

    async def delete_dead_letter(self, id: str) -> bool:
        """See the protocol."""
        return await self._enqueue("delete_dead_letter", id)

    # Runs

    async def cancel_run(self, id: str) -> bool:
        """See the protocol."""
        found: bool = await self._enqueue("cancel_run", id)
        self._sweep_in_background()
        return found

    async def cancel_runs(
        self, *, destination: str | None = None, label: str | None = None, ids: Sequence[str] = ()
    ) -> int:
        """See the protocol."""
        count = 0
        for start in range(0, len(ids), SWEEP_LIMIT):
            count += await self._enqueue("cancel_listed", list(ids[start : start + SWEEP_LIMIT]))
        while (destination or label) and (found := await self._enqueue("cancel_all", destination, label)):
            count += found
        self._sweep_in_background()
        return count

    # Events

    async def notify(self, event: str, data: str, run: str | None = None) -> Sequence[str]:
        """See the protocol."""
        return list(await self._enqueue("notify", event, data, run))

    # Batches

    async def open_batch(self, batch: NewBatch, messages: Sequence[Message]) -> bool:
        """See the protocol."""
        return await self._enqueue("open_batch", batch, messages)

    async def cancel_batch(self, id: str) -> bool:
        """See the protocol."""
        begun: bool = await self._enqueue("cancel_batch", id)
        if begun:
            self._sweep_in_background()
        return begun

    async def pause_batch(self, id: str) -> bool:
        """See the protocol."""
        return await self._enqueue("pause_batch", id)

    async def resume_batch(self, id: str) -> bool:
        """See the protocol."""
        return await self._enqueue("resume_batch", id)

    async def set_batch_priority(self, id: str, priority: int) -> bool:
        """See the protocol."""
        return await self._enqueue("set_batch_priority", id, priority)

    async def set_failure_budget(self, id: str, budget: FailureBudget | None) -> bool:
        """See the protocol."""
        return await self._enqueue("set_failure_budget", id, None if budget is None else budget.to_text())

    async def approve_batch(self, id: str) -> bool:
        """See the protocol."""
        return await self._enqueue("approve_batch", id)

    def _sweep_in_background(self) -> None:
        """End the waiting messages of cancelled batches in the background."""
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.create_task(self._sweep_ignoring_errors(), name="batchflow-cancelling")

    async def _sweep_ignoring_errors(self) -> None:
        # The maintenance of any worker continues if this fails.
        with contextlib.suppress(StoreError):
            await self._sweep_cancelled()

    async def _sweep_cancelled(self) -> None:
        """End the waiting messages of cancelled batches, a slice at a time."""
        while await self._enqueue("sweep_cancelled"):
            pass

    async def _stop_sweep(self) -> None:
        """Stop the background task; the maintenance of any worker ends the rest."""
        sweeping, self._sweeping = self._sweeping, None
        if sweeping is not None:
            sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sweeping

    # The ledger

    async def mark(self, ledger: str, ids: Sequence[str], ttl_ms: int | None) -> None:
        """See the protocol."""
        await self._enqueue("mark", ledger, ids, ttl_ms)

    async def forget(self, ledger: str, ids: Sequence[str] | None = None) -> int:
        """See the protocol."""
        return await self._enqueue("forget", ledger, ids)

    # Flow keys

    async def declare(self, limits: Sequence[FlowControl]) -> None:
        """See the protocol."""
        await self._enqueue("declare", limits)

    async def pin(self, limits: FlowControl, until: int | None = None) -> None:
        """See the protocol."""
        await self._enqueue("pin", limits, until)

    async def unpin(self, key: str, *, parallelism: bool = True, rate: bool = True) -> None:
        """See the protocol."""
        await self._enqueue("unpin", key, parallelism, rate)

    async def pause(self, key: str, until: int | None = None) -> None:
        """See the protocol."""
        await self._enqueue("pause", key, until)

    async def resume(self, key: str) -> None:
        """See the protocol."""
        await self._enqueue("resume", key)

    async def reset(self, key: str, *, starts_only: bool = False) -> None:
        """See the protocol."""
        await self._enqueue("reset", key, starts_only)

    # Schedules

    async def put_schedule(self, schedule: NewSchedule, next_at: int | None) -> ScheduleStatus:
        """See the protocol."""
        return scheduled(await self._enqueue("put_schedule", schedule, next_at))

    async def plan_schedule(self, id: str, version: int, next_at: int | None) -> bool:
        """See the protocol."""
        return await self._enqueue("plan_schedule", id, version, next_at)

    async def pause_schedule(self, id: str) -> bool:
        """See the protocol."""
        return await self._enqueue("pause_schedule", id)

    async def resume_schedule(self, id: str, next_at: int | None) -> bool:
        """See the protocol."""
        return await self._enqueue("resume_schedule", id, next_at)

    async def delete_schedule(self, id: str) -> bool:
        """See the protocol."""
        return await self._enqueue("delete_schedule", id)

    async def fire_schedule(self, fire: Fire) -> FireResult:
        """See the protocol."""
        outcome, row = await self._enqueue("fire_schedule", fire)
        return FireResult(outcome, scheduled(row) if row else None)

    # Housekeeping

    async def prune(self, retention_ms: int) -> int:
        """See the protocol."""
        swept: int = await self._enqueue("sweep_cancelled")
        return swept + await self._enqueue("prune", retention_ms, PRUNE_LIMIT)


RETRYING, PARKED = 1, 2
"""The reasons for which an item waits that its batch counts: after a failed attempt, and for a rate limit."""


def reason_of(settlement: Settlement) -> int:
    """The reason for which the message of this settlement waits, or 0."""
    if settlement.ending == "parked":
        return PARKED
    return RETRYING if settlement.ending == "retry" or settlement.failures else 0


def error_group_of(failure: Failure, known: Collection[tuple[str, str]]) -> tuple[str, str]:
    """The group (type, place) of a failure in a batch that has the groups `known`."""
    name = failure.type, failure.where
    return name if name in known or len(known) < MAX_ERROR_GROUPS - 1 else (OTHER_ERRORS, "")


Columns = tuple[str, ...]

RUN: Columns = (
    "id", "destination", "state", "created_at", "started_at", "ended_at", "payload", "result", "error", "failures",
    "batch", "label", "parent", "flow_key", "due_at",
)  # fmt: skip
FLOW: Columns = (
    "key", "parallelism", "rate", "period", "burst", "pin_parallelism", "pin_rate", "pin_period", "pin_burst",
    "paused", "in_use", "waiting", "parked_until", "parallelism_until", "rate_until", "paused_until", "in_a_row",
    "open_for", "trial", "next_start", "now",
)  # fmt: skip
DEAD_LETTER: Columns = (
    "id", "destination", "flow", "parallelism", "rate", "period", "burst", "body", "headers", "retry", "batch", "keep",
    "label", "parent", "parent_step", "depth", "on_failure", "open_dedup", "error", "failures", "losses", "created_at",
    "started_at", "died_at", "item", "number", "attempts", "log", "status", "fingerprint", "workflow", "batch_label",
    "failure",
)  # fmt: skip
BATCH: Columns = (
    "id", "name", "state", "pages", "chunks", "total", "working", "worked_ms", "params", "force", "label", "headers",
    "paused", "canary", "needs_approval", "flow_key", "error", "completion_error", "errors", "notify_url",
    "notification", "created_at", "started_at", "ended_at", "named", "retry_of", "replaced_succeeded",
    "replaced_failed", "replaced_cancelled", "recovered", "priority", "failure_budget", "stop_reason", *Counts._fields,
)  # fmt: skip
SCHEDULE: Columns = (
    "text", "version", "paused", "created_at", "next_at", "last_at", "last_id", "fires", "skips", "skipped_at",
    "queued_at", "error",
)  # fmt: skip
ITEM: Columns = ("number", "id", "state", "result", "error", "ended_at", "attempts")
OPEN_MESSAGE: Columns = (
    "id", "destination", "flow", "number", "item", "state", "due_at", "started_at", "attempts", "error", "worker",
)  # fmt: skip
ERROR_GROUP: Columns = ErrorGroup._fields

# Stores make claims by position, since by name each takes twice as long.
if Claim._fields != (
    "id", "fence", "destination", "body", "batch", "number", "item", "failures", "losses", "headers", "retry",
    "journal", "params", "started_at", "depth", "data",
):  # fmt: skip
    raise AssertionError(f"the stores make claims in another order than {Claim._fields}")


def run(row: Sequence[Any], journal: Journal = ()) -> Run:
    """A run, with its journal if it was read."""
    return Run(**dict(zip(RUN, row, strict=True)), journal=journal)


def flow_control(key: str, parallelism: int | None, rate: int | None, period: int, burst: int = 1) -> FlowControl:
    """Limits of a key, whose period is in ms; an empty key means none."""
    return FlowControl.of_ms(key or None, parallelism, rate, period, burst if rate else 1)


def flow(row: Sequence[Any]) -> FlowStatus:
    """The status of a flow key; without the pins and the pause that have ended by now."""
    about = dict(zip(FLOW, row, strict=True))

    def lasting(value: Any, until: int | None) -> Any:
        return None if until is not None and until <= about["now"] else value

    parallelism = lasting(about["pin_parallelism"], about["parallelism_until"])
    rate = lasting(about["pin_rate"], about["rate_until"])
    of_rate = (
        (about["rate"], about["period"], about["burst"])
        if rate is None
        else (rate, about["pin_period"], about["pin_burst"])
    )
    return FlowStatus(
        limits=flow_control(about["key"], about["parallelism"] if parallelism is None else parallelism, *of_rate),
        pinned_parallelism=parallelism is not None,
        pinned_rate=rate is not None,
        paused=bool(lasting(about["paused"], about["paused_until"])),
        in_use=about["in_use"],
        waiting=about["waiting"],
        # Until the end of a trial.
        parked_until=0 if about["trial"] else about["parked_until"],
        parallelism_until=lasting(about["parallelism_until"], about["parallelism_until"]),
        rate_until=lasting(about["rate_until"], about["rate_until"]),
        paused_until=lasting(about["paused_until"], about["paused_until"]),
        breaker=Breaker(about["in_a_row"], about["open_for"], about["trial"]),
        next_start=about["next_start"],
    )


def dead_letter(row: Sequence[Any], journal: Journal) -> DeadLetter:
    """A dead letter."""
    about = dict(zip(DEAD_LETTER, row, strict=True))
    headers, retry, parent = about["headers"], about["retry"], about["parent"]
    message = Message(
        id=about["id"],
        destination=about["destination"],
        flow=flow_control(about["flow"], about["parallelism"], about["rate"], about["period"], about["burst"]),
        body=about["body"],
        headers=from_json(headers) if headers else NO_HEADERS,
        retry=RetryPolicy.from_wire(from_json(retry)) if retry else None,
        batch=about["batch"],
        keep=bool(about["keep"]),
        label=about["label"],
        parent=None if parent is None else (parent, about["parent_step"]),
        depth=about["depth"],
        on_failure=about["on_failure"],
        open_dedup=about["open_dedup"],
    )
    names = (
        "error", "failures", "losses", "created_at", "started_at", "died_at", "attempts", "item", "number", "workflow",
    )  # fmt: skip
    log, failure = about["log"], about["failure"]
    return DeadLetter(
        message=message,
        **{name: about[name] for name in names},
        journal=journal,
        attempt_log=tuple(LoggedAttempt(*row) for row in from_json(log)) if log else (),
        # Those of an older version have neither.
        status=about["status"] or status_of(about["error"]),
        fingerprint=about["fingerprint"] or "",
        label=about["label"] if about["label"] is not None else about["batch_label"],
        failure=_failure_call(from_json(failure)) if failure else None,
    )


def _failure_call(row: Sequence[Any]) -> FailureCall:
    _, _, state, at, result, error = row
    return FailureCall(state, at, result, error)


def attempts_of(settlement: Settlement, now: int) -> list[LoggedAttempt]:
    """The failed attempts of a settlement as a message keeps them, the latest first."""
    took = round(settlement.took_ms, 1) or None
    found = [failure.message for failure in settlement.grouped] or [settlement.sentence or ""]
    return [LoggedAttempt(now, took, error) for error in found[: -KEPT_ATTEMPTS - 1 : -1]]


def batch(row: Sequence[Any]) -> Batch:
    """A batch."""
    about = dict(zip(BATCH, row, strict=True))
    headers, notification = about["headers"], about["notification"]
    return Batch(
        id=about["id"],
        workflow=about["name"],
        state=about["state"],
        counts=Counts._make(row[-len(Counts._fields) :]),
        pages=about["pages"],
        chunks=about["chunks"],
        total=about["total"],
        working=about["working"],
        worked_ms=float(about["worked_ms"]),
        params=about["params"],
        force=bool(about["force"]),
        label=about["label"],
        headers=from_json(headers) if headers else NO_HEADERS,
        paused=bool(about["paused"]),
        canary=about["canary"],
        needs_approval=bool(about["needs_approval"]),
        flow_key=about["flow_key"],
        error=about["error"],
        completion_error=about["completion_error"],
        errors=_error_groups(about["errors"]),
        notify_url=about["notify_url"],
        notification=Notification._make(from_json(notification)) if notification else None,
        created_at=about["created_at"],
        started_at=about["started_at"],
        ended_at=about["ended_at"],
        named=bool(about["named"]),
        retry_of=about["retry_of"],
        replaced=Replaced(*(about[f"replaced_{state}"] for state in Replaced._fields)),
        recovered=about["recovered"],
        priority=about["priority"],
        failure_budget=FailureBudget.of_text(about["failure_budget"]),
        stop_reason=about["stop_reason"],
    )


def _error_groups(rows: Sequence[Sequence[Any]]) -> tuple[ErrorGroup, ...]:
    groups = [ErrorGroup._make(row) for row in rows]
    groups.sort(key=lambda group: (-group.attempts, group.type, group.where))
    return tuple(groups)


def scheduled(row: Sequence[Any]) -> ScheduleStatus:
    """A schedule."""
    about = dict(zip(SCHEDULE, row, strict=True))
    text, paused = about.pop("text"), about.pop("paused")
    return ScheduleStatus(schedule=NewSchedule.of_text(text), paused=bool(paused), **about)


def item(row: Sequence[Any]) -> Item:
    """An item of a batch."""
    return Item(**dict(zip(ITEM, row, strict=True)))


def open_messages(rows: Iterable[Sequence[Any]]) -> list[OpenMessage]:
    """Open messages in the order of their states; within a state they stay as they are."""
    return sorted(map(OpenMessage._make, rows), key=lambda it: OPEN_STATES.index(it.state))
