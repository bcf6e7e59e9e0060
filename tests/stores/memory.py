"""A store that is not ours: plain dicts, written on `batchflow.core.store` alone.

It stands for what an author of a further store does: the docstrings of the protocol say what to write, the rules that
all stores share are in the core (`admit`, `split_claims`, `apply_arrivals`, `loss_delay_ms`), and the conformance
suite says when it is right. One `Place` may be opened by several stores, as several processes open one server.
"""

import asyncio
import contextlib
import functools
import math
import threading
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from types import CoroutineType
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeAlias, TypeVar

from pydantic_core import PydanticSerializationError, to_json

from batchflow.core import ids
from batchflow.core.batch import (
    MAX_ERROR_GROUPS,
    NO_HEADERS,
    OTHER_ERRORS,
    RUN_AFTER_CANCEL,
    Batch,
    BatchState,
    Counts,
    ErrorGroup,
    Item,
    ItemState,
    Mark,
    NewBatch,
    Notification,
    Replaced,
    StopReason,
)
from batchflow.core.breaker import CLOSED, Breaker, BreakerChange, judge
from batchflow.core.dead_letters import (
    ALL_DEAD_LETTERS,
    KEPT_ATTEMPTS,
    DeadLetter,
    DeadLetterGroup,
    DeadLetterQuery,
    FailureCall,
    LoggedAttempt,
    fingerprint_of,
    merge_groups,
    status_of,
)
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.flow import FlowControl, FlowHolder, FlowState, FlowStatus, admit, split_claims
from batchflow.core.message import (
    ALONE_MS,
    FAILURE_STEP,
    LOSS_LIMIT,
    LOST,
    NOTIFICATION_DESTINATION,
    NOTIFICATION_STEP,
    OPEN_STATES,
    SUSPECT_LOSSES,
    Claim,
    ClaimResult,
    Message,
    OpenMessage,
    OpenState,
    UnservedWork,
    WorkerStatus,
    failure_flow,
    loss_delay_ms,
)
from batchflow.core.ports import Clock
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import NEVER, Arrival, Journal, Run, RunQuery, RunState, Step, StepState, Waiter, apply_arrivals
from batchflow.core.schedule import (
    DueSchedules,
    Fire,
    FireOutcome,
    FireResult,
    NewSchedule,
    ScheduleStatus,
    schedule_key,
)
from batchflow.core.settlement import (
    ARRIVES_AFTER,
    AcceptWebhook,
    Effect,
    EndRun,
    FinishEntry,
    FinishWalk,
    LeaveQueue,
    Listen,
    Log,
    Notice,
    Notify,
    OpenBatch,
    Publish,
    RecordPage,
    SendPosts,
    Settlement,
    SettleResult,
    StartItems,
    Unlisten,
)
from batchflow.core.store import ITEMS_SIZE, KEPT_EVENTS, SEARCHED_BATCHES, RecordResult, Renew
from batchflow.errors import StoreError, StoreUnavailable

STAYS = frozenset({"suspended", "retry", "parked", "released"})
GOES_ON = STAYS | {"dead"}
RUN_STATE: Mapping[str, RunState] = {"done": "completed", "failed": "failed", "cancelled": "cancelled"}
ITEM_STATE: Mapping[str, ItemState] = {
    "done": "succeeded", "failed": "failed", "dead": "failed", "cancelled": "cancelled"
}  # fmt: skip
ARRIVES: Mapping[str, StepState] = {"done": "done", "failed": "failed", "dead": "failed", "cancelled": "cancelled"}
FOREIGN_S = 0.01
"""So long after another store's change one is told of it."""


class Lane(NamedTuple):
    """The queue of a destination, a flow key and a batch; with `parent` it takes the room of that key too."""

    destination: str
    flow: str
    batch: str | None = None
    held: bool = False
    parent: str | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.flow,) if self.parent is None else (self.flow, self.parent)


@dataclass(slots=True)
class Turn:
    """The position of a lane among those of its key."""

    turn: int
    ahead: int = 0


@dataclass(slots=True)
class Row:
    """A message: waiting, leased or dead."""

    message: Message
    lane: Lane
    due: int
    created_at: int
    number: int = -1
    owner: str | None = None
    beside: bool = False
    fence: int = 0
    failures: int = 0
    losses: int = 0
    cancelled: bool = False
    error: str | None = None
    started_at: int | None = None
    died_at: int | None = None
    steps: dict[int, Step] = field(default_factory=dict[int, Step])
    arrivals: list[Arrival] = field(default_factory=list[Arrival])
    kept: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    attempts: int = 0
    reason: str = ""
    log: list[LoggedAttempt] = field(default_factory=list[LoggedAttempt])
    failure: FailureCall | None = None
    failure_calls: int = 0
    orphaned: bool = False

    @property
    def waits(self) -> bool:
        return self.owner is None and self.died_at is None

    @property
    def is_suspect(self) -> bool:
        return self.losses >= SUSPECT_LOSSES

    @property
    def is_alone(self) -> bool:
        """A worker holds it, and has claimed it alone."""
        return self.owner is not None and self.is_suspect and not self.beside

    @property
    def journal(self) -> Journal:
        return tuple(sorted(self.steps.values()))


@dataclass(slots=True)
class Flow:
    """A flow key."""

    turn: int
    code: FlowControl
    declared: bool = False
    pinned_parallelism: int | None = None
    pinned_rate: FlowControl | None = None
    paused: bool = False
    in_use: int = 0
    next_start: float = 0
    parked_until: int = 0
    parallelism_until: int | None = None
    rate_until: int | None = None
    paused_until: int | None = None
    child_turn: int = 0
    breaker: Breaker = CLOSED

    @property
    def limits(self) -> FlowControl:
        rate = self.pinned_rate or self.code
        parallelism = self.code.parallelism if self.pinned_parallelism is None else self.pinned_parallelism
        return FlowControl.of_ms(self.code.key, parallelism, rate.rate, rate.period_ms, rate.burst)

    @property
    def state(self) -> FlowState:
        return FlowState(
            in_use=self.in_use,
            next_start=self.next_start,
            parked_until=self.parked_until,
            paused=self.paused,
            half_open=self.breaker.open_for > 0,
        )

    @property
    def ends(self) -> list[int]:
        return [it for it in (self.parallelism_until, self.rate_until, self.paused_until) if it is not None]

    def unpin(self, parallelism: bool, rate: bool) -> None:
        if parallelism:
            self.pinned_parallelism = self.parallelism_until = None
        if rate and self.pinned_rate is not None:
            self.pinned_rate, self.rate_until, self.next_start = None, None, 0

    def resume(self) -> None:
        self.paused, self.paused_until = False, None

    def limit(self, code: FlowControl) -> None:
        if (code.rate, code.period_ms) != (self.code.rate, self.code.period_ms):
            self.next_start = 0
        self.code = code


@dataclass(slots=True)
class BatchRow:
    """A batch with its items."""

    new: NewBatch
    created_at: int
    state: BatchState = "pending"
    entered: bool = False
    walked: bool = False
    dropped: bool = False
    paused: bool = False
    approved: bool = False
    generation: int = 1
    working: int = 0
    pages: int = 0
    chunks: int = 0
    total: int | None = None
    worked_ms: float = 0
    error: str | None = None
    started_at: int | None = None
    ended_at: int | None = None
    counts: Counter[str] = field(default_factory=Counter[str])
    items: dict[int, Item] = field(default_factory=dict[int, Item])
    named: set[str] = field(default_factory=set[str])
    data: dict[int, str] = field(default_factory=dict[int, str])
    completion_error: str | None = None
    failure_budget: FailureBudget | None = None
    budget_from: tuple[int, int] = (0, 0)
    stop_reason: StopReason | None = None
    errors: dict[tuple[str, str], ErrorGroup] = field(default_factory=dict[tuple[str, str], ErrorGroup])
    replaced: Counter[str] = field(default_factory=Counter[str])
    recovered: int = 0
    taken: dict[str, "Taken"] = field(default_factory=dict[str, "Taken"])
    notifications: int = 0
    notification: Notification | None = None

    @property
    def takes(self) -> bool:
        return self.ended_at is None and self.state != "cancelling"

    @property
    def needs_approval(self) -> bool:
        return self.new.canary is not None and not self.approved

    @property
    def holds(self) -> bool:
        """Its held messages cannot be claimed."""
        return not self.walked or self.dropped or self.needs_approval

    @property
    def ledger(self) -> str:
        return self.new.ledger or self.new.workflow

    @property
    def shown(self) -> Batch:
        return Batch(
            id=self.new.id,
            workflow=self.new.workflow,
            state=self.state,
            counts=Counts(**self.counts),
            pages=self.pages,
            chunks=self.chunks,
            total=self.total,
            working=self.working,
            worked_ms=self.worked_ms,
            params=self.new.params,
            force=self.new.force,
            label=self.new.label,
            headers=self.new.headers,
            paused=self.paused,
            canary=self.new.canary and self.new.canary.items,
            needs_approval=self.needs_approval,
            flow_key=self.new.flow.key,
            error=self.error,
            completion_error=self.completion_error,
            errors=tuple(sorted(self.errors.values(), key=lambda it: (-it.attempts, it.type, it.where))),
            notify_url=self.new.notify_url,
            notification=self.notification,
            created_at=self.created_at,
            started_at=self.started_at,
            ended_at=self.ended_at,
            named=self.new.named,
            retry_of=self.new.retry_of,
            replaced=Replaced(**self.replaced),
            recovered=self.recovered,
            priority=self.new.priority,
            failure_budget=self.failure_budget,
            stop_reason=self.stop_reason,
        )

    def count_failures_anew(self) -> None:
        self.budget_from = self.counts["succeeded"], self.counts["failed"]


class Taken(NamedTuple):
    """The latest run of an item in a retry: its batch and number, and the state in which the one before had ended."""

    batch: str
    number: int
    replaced: ItemState | None


@dataclass(slots=True)
class MarkRow:
    """The entry of an item in a ledger: when it was processed, and the batch that has it in flight."""

    processed_at: int | None = None
    expires_at: int | None = None
    holder: str | None = None

    def holds(self, now: int) -> bool:
        return self.processed_at is not None and (self.expires_at is None or self.expires_at > now)


@dataclass(slots=True)
class Place:
    """The stored data and the rules that connect its parts. `now` is the time of the current verb."""

    now: int = 0
    turn: int = 0
    was_opened: bool = False
    notices: list[Notice] = field(default_factory=list[Notice])
    rows: dict[str, Row] = field(default_factory=dict[str, Row])
    runs: dict[str, Run] = field(default_factory=dict[str, Run])
    flows: dict[str, Flow] = field(default_factory=dict[str, Flow])
    lanes: dict[Lane, Turn] = field(default_factory=dict[Lane, Turn])
    workers: dict[str, WorkerStatus] = field(default_factory=dict[str, WorkerStatus])
    batches: dict[str, BatchRow] = field(default_factory=dict[str, BatchRow])
    ledgers: defaultdict[str, dict[str, MarkRow]] = field(
        default_factory=lambda: defaultdict[str, dict[str, MarkRow]](dict)
    )
    listeners: dict[tuple[str, int], tuple[str, int, int]] = field(
        default_factory=dict[tuple[str, int], tuple[str, int, int]]
    )
    schedules: dict[str, ScheduleStatus] = field(default_factory=dict[str, ScheduleStatus])
    webhooks: dict[str, str] = field(default_factory=dict[str, str])
    served: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    children: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict[str, list[str]](list))
    touched: dict[str, None] = field(default_factory=dict[str, None])
    lock: threading.RLock = field(default_factory=threading.RLock)
    stores: "set[MemoryStore]" = field(default_factory=set["MemoryStore"])

    # Messages come in

    def publish(self, messages: Iterable[Message]) -> list[bool]:
        return [self._add(message) for message in messages]

    def _add(self, message: Message) -> bool:
        batch = self.batches.get(message.batch or "")
        known = message.id in self.rows or message.id in self.runs
        if known and message.parent is not None:
            self._tell_outcome(message.id, *message.parent)
        if known or (message.batch is not None and not (batch and batch.takes)):
            return False
        if message.open_dedup is not None and any(
            row.message.open_dedup == message.open_dedup and row.died_at is None for row in self.rows.values()
        ):
            return False
        self.put(message, Lane(message.destination, message.flow.key or "", message.batch, message.held))
        if batch:
            batch.working += 1
        return True

    def _tell_outcome(self, id: str, parent: str, step: int) -> None:
        row, run = self.rows.get(id), self.runs.get(id)
        if row and row.died_at is not None and row.message.parent and row.message.parent[0] == parent:
            self.arrive(parent, step, "failed", None, row.error)
        elif run and run.parent == parent:
            self.arrive(parent, step, ARRIVES_AFTER[run.state], run.result, run.error)

    def put(self, message: Message, lane: Lane, number: int = -1) -> None:
        flow = self.flow(lane.flow)
        if not flow.declared:
            flow.limit(message.flow)
        self.lanes.setdefault(lane, Turn(self.turn))
        due = message.not_before if message.not_before > self.now else 0
        self.rows[message.id] = Row(message, lane, due, self.now, number)
        if message.parent:
            self.children[message.parent[0]].append(message.id)

    def flow(self, key: str) -> Flow:
        if key not in self.flows:
            self.flows[key] = Flow(self.turn, FlowControl(key=key or None))
        return self.flows[key]

    def open_message(self, row: Row) -> OpenMessage:
        state: OpenState = "suspended" if row.fence and row.due > self.now else "waiting"
        if row.owner is not None:
            state = "running"
        elif row.reason:
            state = "parked" if row.reason == "parked" else "retrying"
        elif row.losses:
            state = "lost"
        item = self.batches[row.message.batch or ""].items[row.number] if row.number >= 0 else None
        return OpenMessage(
            row.message.id,
            row.message.destination,
            row.lane.flow,
            row.number,
            item.id if item else "",
            state,
            row.due if row.owner is None and self.now < row.due < NEVER else None,
            row.started_at,
            row.attempts,
            item.error if item else row.error,
            row.owner,
        )

    def held(self, id: str, fence: int) -> Row | None:
        row = self.rows.get(id)
        return row if row and row.owner is not None and row.fence == fence else None

    def note(self, row: Row, steps: Iterable[Step]) -> None:
        """Record steps; an outcome sets failures and losses to none."""
        for step in steps:
            row.steps[step.number] = step
            if step.position:
                row.failures = row.losses = 0

    def under_way(self, open_dedup: str) -> str | None:
        """The batch or message that has not ended under this key."""
        batches = (it.new for it in self.batches.values() if it.ended_at is None)
        messages = (row.message for row in self.rows.values() if row.died_at is None)
        return next((it.id for it in (*batches, *messages) if it.open_dedup == open_dedup), None)

    # Claims begin

    def is_closed(self, lane: Lane) -> bool:
        batch = self.batches.get(lane.batch or "")
        return batch is not None and (batch.paused or batch.state == "cancelling" or (lane.held and batch.holds))

    def priority(self, lane: Lane) -> int:
        batch = self.batches.get(lane.batch or "")
        return batch.new.priority if batch else 0

    def claim(self, worker: str, destinations: frozenset[str], limit: int) -> ClaimResult:
        if any(row.owner == worker and row.is_alone for row in self.rows.values()):
            return ClaimResult((), self.now + ALONE_MS, self.now)
        self.undo_ended()
        waiting: dict[Lane, list[Row]] = {}
        suspects: list[Row] = []
        for row in self.rows.values():
            if row.waits and row.lane.destination in destinations and not self.is_closed(row.lane):
                suspects.append(row) if row.is_suspect else waiting.setdefault(row.lane, []).append(row)
        for row in sorted(suspects, key=lambda row: (row.due, row.message.id)):
            if row.due <= self.now and self._admits(row.lane):
                return ClaimResult([self._lease(row.lane, [row], worker)[0]], self.now + ALONE_MS, self.now)
        claims: list[Claim] = []
        more = True
        while more and len(claims) < limit:
            more = False
            ready = [lane for lane, rows in waiting.items() if _earliest(rows) <= self.now and self._admits(lane)]
            highest: dict[str, int] = {}
            for lane in ready:
                highest[lane.keys[-1]] = max(highest.get(lane.keys[-1], 0), self.priority(lane))
            behind = [lane for lane in ready if self.priority(lane) < highest[lane.keys[-1]]]
            more = bool(behind)
            # The lanes under a key take a turn together.
            turns: dict[Lane | str, list[Lane]] = {}
            for lane in ready:
                if lane not in behind:
                    turns.setdefault(lane.parent or lane, []).append(lane)

            def turn(lanes: list[Lane]) -> tuple[int, int, int]:
                key, due = lanes[0].keys[-1], min(_earliest(waiting[lane]) for lane in lanes)
                own = self.flows[key].child_turn if lanes[0].parent else self.lanes[lanes[0]].turn
                return self.flows[key].turn, own, due

            order = sorted(turns.values(), key=turn)
            for place, lanes in enumerate(order):
                part = min(max(1, (limit - len(claims)) // (len(order) - place)), limit - len(claims))
                taken = self._take_from(lanes, waiting, part, worker)
                claims += taken
                more = more or len(taken) == part
                if len(claims) >= limit:
                    return ClaimResult(claims, self.now, self.now)
        return ClaimResult(
            claims, self._next_due([*suspects, *(row for rows in waiting.values() for row in rows)]), self.now
        )

    def claim_one(self, worker: str, id: str, fence: int) -> ClaimResult:
        self.undo_ended()
        row = self.rows.get(id)
        if row is None or row.died_at is not None:
            return ClaimResult((), None, self.now)
        flows = [self.flows[key] for key in row.lane.keys]
        claims: list[Claim] = []
        if row.owner == worker and row.fence == fence + 1:
            claims = [self._shown(row)]
        elif row.owner is not None and row.fence == fence and not row.cancelled:
            claims = [self._claim(row, worker, beside=True)]
        elif row.owner is None and row.fence == fence:
            if self.is_closed(row.lane) or any(flow.paused or flow.parked_until > self.now for flow in flows):
                row.due = 0
            else:
                for flow in flows:
                    flow.in_use += 1
                    self._try(flow, row)
                claims = [self._claim(row, worker, beside=True)]
        return ClaimResult(claims, None, self.now)

    def _admits(self, lane: Lane, want: int = 1) -> int:
        """The number of messages that all keys of a lane have room for."""
        flows = [self.flows[key] for key in lane.keys]
        return min(admit(flow.limits, flow.state, now=self.now, want=want).count for flow in flows)

    def _take_from(self, lanes: list[Lane], waiting: dict[Lane, list[Row]], want: int, worker: str) -> list[Claim]:
        claims: list[Claim] = []
        if lanes[0].parent is None:
            return self._take(lanes[0], waiting[lanes[0]], want, worker)
        lanes = sorted(lanes, key=lambda lane: self.lanes[lane].turn)
        want, more = self._admits(lanes[0]._replace(flow=lanes[0].parent), want), True
        while more and len(claims) < want:
            more = False
            for place, lane in enumerate(lanes):
                part = min(max(1, (want - len(claims)) // (len(lanes) - place)), want - len(claims))
                taken = self._take(lane, waiting[lane], part, worker) if part else []
                more = more or bool(taken)
                claims += taken
        return claims

    def _take(self, lane: Lane, rows: list[Row], want: int, worker: str) -> list[Claim]:
        turn = self.lanes[lane]
        want = self._admits(lane, want)
        due = [row for row in rows if row.due <= self.now]
        started = sorted((row for row in due if row.fence), key=lambda row: (row.due, row.message.id))
        fresh = sorted((row for row in due if not row.fence), key=lambda row: row.message.id)
        for row in fresh:
            row.due = 0
        parts = split_claims(want, min(want, len(started)), min(want, len(fresh)), turn.ahead)
        taken = started[: parts.started] + fresh[: parts.fresh]
        if not taken:
            return []
        claims = self._lease(lane, taken, worker)
        turn.turn, turn.ahead = self.turn, parts.ahead
        rows[:] = [row for row in rows if row.owner is None]
        return claims

    def _lease(self, lane: Lane, rows: Sequence[Row], worker: str) -> list[Claim]:
        for key in lane.keys:
            flow = self.flows[key]
            state = admit(flow.limits, flow.state, now=self.now, want=len(rows)).state
            self.turn += 1
            flow.in_use, flow.next_start, flow.turn = state.in_use, state.next_start, self.turn
            if key == lane.parent:
                flow.child_turn = self.turn
            self._try(flow, rows[0])
        return [self._claim(row, worker) for row in rows]

    def _try(self, flow: Flow, row: Row) -> None:
        """The one that is tried, if the circuit breaker of a key is open."""
        if flow.breaker.open_for:
            flow.parked_until, flow.breaker = NEVER, flow.breaker._replace(trial=row.message.id)

    def _claim(self, row: Row, worker: str, *, beside: bool = False) -> Claim:
        ripe = apply_arrivals(row.journal, self.now, row.arrivals) if row.fence else []
        self.note(row, ripe)
        self.unlisten(row.message.id, [step.number for step in ripe if step.kind == "wait"])
        row.arrivals.clear()
        row.owner, row.beside, row.fence = worker, beside, row.fence + 1
        self._wait(row, "")
        row.started_at = self.now if row.started_at is None else row.started_at
        return self._shown(row)

    def _shown(self, row: Row) -> Claim:
        """The claim of a leased message."""
        message, batch = row.message, self.batches.get(row.message.batch or "")
        is_item = batch is not None and row.number >= 0
        return Claim(
            id=message.id,
            fence=row.fence,
            destination=message.destination,
            body=message.body,
            batch=message.batch,
            number=row.number,
            item=batch.items[row.number].id if batch and is_item else "",
            failures=row.failures,
            losses=row.losses,
            headers=batch.new.headers if batch and is_item else message.headers,
            retry=message.retry,
            journal=row.journal,
            params=batch.new.params if batch else "null",
            started_at=row.started_at or 0,
            depth=batch.new.depth if batch else message.depth,
            data=batch.data.get(row.number) if batch and is_item else None,
        )

    def undo_ended(self) -> None:
        """Undo pins and pauses that have ended by themselves."""
        for flow in self.flows.values():
            parallelism, rate, paused = (
                it is not None and it <= self.now for it in (flow.parallelism_until, flow.rate_until, flow.paused_until)
            )
            flow.unpin(parallelism, rate)
            if paused:
                flow.resume()

    def _next_due(self, rows: Iterable[Row]) -> int | None:
        found: list[float] = [it for flow in self.flows.values() for it in flow.ends]
        for row in rows:
            flows = [self.flows[key] for key in row.lane.keys]
            full = any(
                (it.limits.parallelism is not None and it.in_use >= it.limits.parallelism) or it.paused for it in flows
            )
            if row.owner is None and not full:
                found.append(
                    max([row.due, *(max(it.parked_until, it.next_start if it.limits.rate else 0) for it in flows)])
                )
        earliest = math.ceil(min(found, default=NEVER))
        return None if earliest >= NEVER else earliest

    # Claims end

    def settle(self, settlement: Settlement) -> SettleResult:
        row = self.held(settlement.id, settlement.fence)
        if row is None:
            return SettleResult(stale=True)
        if row.cancelled and settlement.ending in GOES_ON:
            settlement = settlement._replace(ending="cancelled")
        change = self._count_outcome(row, settlement)
        if settlement.ending in STAYS:
            self.note(row, settlement.steps)
            self._stay(row, settlement)
        else:
            self.end(row, settlement)
        if settlement.ending != "cancelled":
            self.apply(settlement.id, settlement.effects)
        if (batch := row.message.batch) not in self.finish():
            return SettleResult(breaker=change)
        self.notices.remove(Notice("batch_ended", batch))
        return SettleResult(ended_batch=batch, breaker=change)

    def _count_outcome(self, row: Row, settlement: Settlement) -> BreakerChange | None:
        """Count what a settlement says about the circuit breaker of its key; one that opens or closes with it."""
        batch = self.batches.get(row.message.batch or "")
        budget = batch.failure_budget if batch and row.number >= 0 else None
        limits = budget.breaker if budget else None
        found: BreakerChange | None = None
        for key in row.lane.keys:
            flow = self.flows[key]
            before = flow.breaker
            is_top = key == (row.lane.parent or row.lane.flow)
            flow.breaker = after = judge(before, row.message.id, settlement.outcome, limits if is_top else None)
            if before.trial and not after.trial:
                flow.parked_until = 0
            if after.open_for and after.in_a_row != before.in_a_row:
                flow.parked_until = max(flow.parked_until, self.now + after.open_for)
            found = BreakerChange.of(key, before, after) or found
        return found

    def _stay(self, row: Row, settlement: Settlement) -> None:
        arrived = settlement.ending == "suspended" and any(it.number in row.steps for it in row.arrivals)
        at_once = settlement.ending == "released" or arrived
        self._let_go(row)
        row.due = 0 if at_once or settlement.due <= self.now else settlement.due
        row.failures += settlement.ending == "retry"
        row.error = settlement.error
        if settlement.ending in {"retry", "parked"} or settlement.failures:
            self._wait(row, "parked" if settlement.ending == "parked" else "retrying")
            self._fail(row, settlement)
            self._log(row, settlement)
        if settlement.ending == "parked":
            flow = self.flows[row.lane.flow]
            flow.parked_until = max(flow.parked_until, row.due)

    def _wait(self, row: Row, reason: str) -> None:
        """An item waits for a reason that its batch counts, or for none."""
        batch = self.batches.get(row.message.batch or "")
        if batch and row.number >= 0:
            for name, count in ((row.reason, -1), (reason, 1)):
                if name:
                    batch.counts[name] += count
        row.reason = reason

    def _log(self, row: Row, settlement: Settlement) -> None:
        took = round(settlement.took_ms, 1) or None
        errors = [failure.message for failure in settlement.grouped] or [settlement.sentence or ""]
        found = [LoggedAttempt(self.now, took, error) for error in reversed(errors)]
        row.log = [*found, *row.log][:KEPT_ATTEMPTS]

    def _fail(self, row: Row, settlement: Settlement) -> None:
        """Count failed attempts, in the item and in the error groups of the batch."""
        row.attempts += settlement.failed_attempts
        batch = self.batches.get(row.message.batch or "")
        if batch is None or not settlement.grouped:
            return
        item = batch.items.get(row.number)
        if item is not None:
            message = settlement.grouped[-1].message
            item = batch.items[row.number] = replace(item, attempts=row.attempts, error=message)
        ends = item is not None and settlement.ending not in STAYS
        for left, (kind, where, message) in enumerate(settlement.grouped, 1 - len(settlement.grouped)):
            known = (kind, where) in batch.errors or len(batch.errors) < MAX_ERROR_GROUPS - 1
            name = (kind, where) if known else (OTHER_ERRORS, "")
            before = batch.errors.get(name) or ErrorGroup(*name, 0, 0, "")
            batch.errors[name] = ErrorGroup(
                *name, before.attempts + 1, before.items + (ends and left == 0), message,
                item.id if item else None, row.number, self.now,
            )  # fmt: skip

    def _let_go(self, row: Row) -> None:
        if row.owner is not None:
            row.owner = None
            for key in row.lane.keys:
                flow = self.flows[key]
                flow.in_use -= 1
                if flow.breaker.trial == row.message.id:
                    flow.parked_until, flow.breaker = 0, flow.breaker._replace(trial=None)

    def end(self, row: Row, settlement: Settlement) -> None:
        """A message is not delivered again; a batch that this may have ended is `touched`."""
        self._let_go(row)
        self._wait(row, "")
        step = 1 if row.message.parent is None else row.message.parent[1]
        if step <= FAILURE_STEP and settlement.ending == "dead":
            settlement = settlement._replace(ending="failed")
        id, ending = settlement.id, settlement.ending
        if ending in {"dead", "failed"}:
            self._fail(row, settlement)
        if ending == "dead":
            self.note(row, settlement.steps)
            row.died_at, row.due, row.cancelled, row.error = self.now, 0, False, settlement.error or ""
            row.failures += 1
            row.failure, row.failure_calls = None, 0
            self._log(row, settlement)
        else:
            del self.rows[id]
            # A run with the same id may be published again, and is not the one that waited.
            for child in self.rows.values():
                child.orphaned = child.orphaned or (child.message.parent or ("",))[0] == id
            if row.message.keep:
                about = self.run_of(row)
                state, error = RUN_STATE[ending], settlement.error
                self.runs[id] = replace(
                    about,
                    state=state,
                    result=settlement.result,
                    error=error,
                    ended_at=self.now,
                    flow_key=None,
                    due_at=None,
                )
        self._end_in_batch(row, settlement)
        if row.message.parent and step == FAILURE_STEP:
            self._end_failure_call(row.message.parent[0], settlement)
        elif row.message.parent and step == NOTIFICATION_STEP:
            self._end_notification(row.message.parent[0], settlement)
        elif row.message.parent and not row.orphaned:
            self.arrive(*row.message.parent, ARRIVES[ending], settlement.result, settlement.error)
        if ending == "dead":
            self.call_failure_function(row)
        row.arrivals.clear()
        row.kept.clear()
        self.unlisten(id, [number for run, number in self.listeners if run == id])
        if ending != "dead":
            self._drop_webhooks(id)
        if ending == "cancelled":
            self._cancel_children(id)

    def _drop_webhooks(self, id: str) -> None:
        for token in [token for token, run in self.webhooks.items() if run == id]:
            del self.webhooks[token]

    def remove_letter(self, id: str) -> bool:
        row = self.rows.get(id)
        if row is None or row.died_at is None:
            return False
        del self.rows[id]
        self._drop_webhooks(id)
        return True

    def _end_in_batch(self, row: Row, settlement: Settlement) -> None:
        batch = self.batches.get(row.message.batch or "")
        if batch is None:
            return
        self.touched[batch.new.id] = None
        if row.number >= 0:
            self._end_item(batch, row.number, settlement)
            return
        batch.working -= 1
        if ids.completes(settlement.id, batch.new.id):
            batch.completion_error = settlement.sentence
            if settlement.id == ids.complete_id(batch.new.id, batch.generation):
                self._publish_notification(batch)
        elif settlement.ending != "done" and batch.takes:
            batch.error = batch.error or settlement.sentence
            batch.entered = True
            batch.dropped = not batch.walked and any(lane.batch == batch.new.id and lane.held for lane in self.lanes)
            for other in [other for other in self.rows.values() if other.lane.batch == batch.new.id]:
                if batch.dropped and other.lane.held and other.waits:
                    self.end(other, Settlement(other.message.id, 0, "cancelled"))

    def _end_item(self, batch: BatchRow, number: int, settlement: Settlement) -> None:
        item, state = batch.items[number], ITEM_STATE[settlement.ending]
        result = settlement.result if batch.new.keep_results else None
        attempts = item.attempts + (state == "succeeded")
        batch.items[number] = replace(
            item, state=state, result=result, error=settlement.error, ended_at=self.now, attempts=attempts
        )
        batch.counts["open"] -= 1
        batch.counts[state] += 1
        batch.worked_ms += settlement.took_ms
        if state != "failed":
            batch.data.pop(number, None)
        origin = self.batches.get(batch.new.retry_of or "")
        if state == "succeeded" and origin is not None:
            taken = origin.taken.get(item.id)
            own = taken is not None and (taken.batch, taken.number) == (batch.new.id, number)
            batch.recovered += taken is not None and own and taken.replaced in ("failed", "cancelled")
        ledger = self.ledgers[batch.ledger]
        if state == "succeeded":
            ttl = batch.new.ledger_ttl
            ledger[item.id] = MarkRow(self.now, None if ttl is None else self.now + ttl)
        elif (mark := ledger.get(item.id)) and mark.holder == batch.new.id:
            mark.holder = None
            if mark.processed_at is None:
                del ledger[item.id]
        if state == "failed":
            self._enforce_failure_budget(batch)

    def _enforce_failure_budget(self, batch: BatchRow) -> None:
        budget, counts = batch.failure_budget, batch.counts
        if budget is None or not batch.takes or not (counts["open"] or batch.working):
            return
        succeeded, failed = (
            max(0, counts[state] - before)
            for state, before in zip(("succeeded", "failed"), batch.budget_from, strict=True)
        )
        if not budget.is_exceeded(succeeded, failed) or (batch.paused and budget.action == "pause"):
            return
        self.notices.append(Notice("budget_exceeded", batch.new.id))
        if budget.action == "cancel":
            self.cancel_batch(batch.new.id, "failure_budget")
        else:
            batch.paused, batch.stop_reason = True, "failure_budget"

    def finish(self) -> set[str]:
        """Seal or end the batches that were touched; those that have ended."""
        ended: set[str] = set()
        while self.touched:
            id, _ = self.touched.popitem()
            batch = self.batches[id]
            open = batch.counts["open"]
            if batch.ended_at is not None or batch.working or not (batch.entered or batch.state == "cancelling"):
                self._end_canary(batch)
                continue
            if open:
                batch.state = "sealed" if batch.state == "open" else batch.state
                continue
            cancelled = batch.state == "cancelling"
            batch.state = "cancelled" if cancelled else "failed" if batch.error is not None else "completed"
            batch.ended_at, batch.paused = self.now, False
            batch.stop_reason = batch.stop_reason if cancelled else None
            ended.add(id)
            self.notices.append(Notice("batch_ended", id))
            if batch.new.complete is None:
                self._publish_notification(batch)
            else:
                self._publish_completion(batch)
        return ended

    def _publish_notification(self, batch: BatchRow) -> None:
        id = batch.new.id
        if batch.new.notify_url is None or batch.ended_at is None:
            return
        batch.notifications += 1
        batch.notification = Notification("in_progress", self.now)
        name = ids.notification_id(id, batch.notifications)
        told, link = NOTIFICATION_DESTINATION, (id, NOTIFICATION_STEP)
        flow, body = failure_flow(told), to_json(id).decode()
        self.publish([Message(id=name, destination=told, flow=flow, body=body, parent=link)])

    def _drop_notification(self, batch: BatchRow) -> None:
        if batch.notification is not None:
            waits = self.rows.get(ids.notification_id(batch.new.id, batch.notifications))
            if waits is not None and waits.waits:
                del self.rows[waits.message.id]
            batch.notifications += 1
            batch.notification = None

    def _end_notification(self, id: str, settlement: Settlement) -> None:
        batch = self.batches.get(id)
        if batch and settlement.id == ids.notification_id(id, batch.notifications):
            done = settlement.ending == "done"
            error = None if done else settlement.error or settlement.sentence
            batch.notification = Notification("succeeded" if done else "failed", self.now, error)

    def _end_canary(self, batch: BatchRow) -> None:
        """Approve a batch if its items are its canary, and so few of them have failed."""
        canary, counts = batch.new.canary, batch.counts
        done = sum(counts[state] for state in ("succeeded", "failed", "cancelled"))
        if canary is None or batch.approved or not batch.takes or counts["open"] or done < canary.items:
            return
        if not any(row.lane.batch == batch.new.id and row.lane.held and row.waits for row in self.rows.values()):
            return
        self.notices.append(Notice("canary_ended", batch.new.id))
        batch.approved = canary.passes(counts["failed"], done)

    def _publish_completion(self, batch: BatchRow) -> None:
        new = batch.new
        if new.complete is None:
            return
        id = ids.complete_id(new.id, batch.generation)
        tied: dict[str, Any] = {"batch": new.id, "parent": new.parent, "depth": new.depth}
        message = Message(id=id, destination=new.complete, flow=new.complete_flow, **tied)
        self.put(message, Lane(new.complete, new.complete_flow.key or ""))
        batch.working += 1

    def take_back(self, row: Row, *, lost: bool) -> None:
        id, fence = row.message.id, row.fence
        row.losses += lost
        batch = self.batches.get(row.message.batch or "")
        if lost and not row.cancelled and row.losses < LOSS_LIMIT:
            row.attempts += 1
            if batch and row.number >= 0:
                batch.items[row.number] = replace(batch.items[row.number], attempts=row.attempts)
        if row.cancelled:
            self.end(row, Settlement(id, 0, "cancelled"))
        elif lost and row.losses >= LOSS_LIMIT:
            error = f"WorkerLost: {row.losses} workers in a row died or hung while they ran it"
            # No failure of its own: the one that ends it was the workers'.
            row.failures -= 1
            self.end(row, Settlement(id, fence, "dead", error=error))
        else:
            self._let_go(row)
            wait = loss_delay_ms(row.losses) if lost else 0
            row.due, row.error = self.now + wait if wait else 0, None
            if lost:
                row.log = [LoggedAttempt(self.now, None, LOST), *row.log][:KEPT_ATTEMPTS]

    def take_back_all(self, worker: str, *, lost: bool) -> int:
        held = [row for row in self.rows.values() if row.owner == worker]
        alone = lost and any(row.is_alone for row in held)
        for row in held:
            self.take_back(row, lost=lost and (row.is_alone or not alone))
        del self.workers[worker]
        self.served.pop(worker, None)
        return len(held)

    # Cancelling

    def cancel(self, id: str) -> bool:
        row = self.rows.get(id)
        if row is None or row.died_at is not None:
            return False
        if row.owner is None:
            self.end(row, Settlement(id, 0, "cancelled"))
        else:
            row.cancelled = True
        return True

    def cancel_batch(self, id: str, reason: StopReason | None = None) -> None:
        if self.batches[id].state != "cancelling":
            self.batches[id].state, self.batches[id].stop_reason = "cancelling", reason
        self.touched[id] = None
        for run in [run for run, row in self.rows.items() if row.message.batch == id]:
            self.cancel(run)

    def _cancel_children(self, parent: str) -> None:
        for batch in [it for it in self.batches.values() if it.new.parent and it.new.parent[0] == parent]:
            if batch.ended_at is None:
                self.cancel_batch(batch.new.id)
        for child in self.children.pop(parent, ()):
            self.cancel(child)

    # Effects

    def apply(self, run: str, effects: Sequence[Effect]) -> None:
        for effect in sorted(effects, key=lambda effect: isinstance(effect, StartItems)):
            match effect:
                case Publish(messages):
                    self.publish(messages)
                case OpenBatch(batch, messages):
                    self.open_batch(batch, messages)
                case Listen(number, event, until):
                    self._listen(run, number, event, until)
                case Unlisten(numbers):
                    self.unlisten(run, numbers)
                case AcceptWebhook(token):
                    self.webhooks.setdefault(token, run)
                case Notify(event, data, only):
                    self.notify(event, data, only)
                case FinishEntry() | RecordPage() | FinishWalk() | StartItems():
                    if (batch := self.batches.get(effect.batch)) is not None:
                        self._apply_to_batch(batch, effect)
                case SendPosts() | Log() | LeaveQueue() | EndRun():
                    raise AssertionError("this store keeps no posts")

    def _apply_to_batch(self, batch: BatchRow, effect: FinishEntry | RecordPage | FinishWalk | StartItems) -> None:
        match effect:
            case FinishEntry():
                if not batch.entered:
                    batch.entered, batch.started_at = True, self.now
                    batch.total = batch.total if effect.total is None else effect.total
                    batch.counts["left_out"] += effect.left_out
                    batch.state = "open" if batch.state == "pending" else batch.state
            case RecordPage():
                batch.pages += 1
                batch.chunks += effect.chunks
                for name in ("eligible", "already_processed", "duplicates", "left_out"):
                    batch.counts[name] += getattr(effect, name)
            case FinishWalk():
                batch.walked = True
                batch.total = batch.total if effect.total is None else effect.total
            case StartItems():
                if batch.takes:
                    batch.counts["already_processed"] += effect.already_processed
                    for place, id in enumerate(effect.ids):
                        self._start(batch, effect, place, id)

    def _start(self, batch: BatchRow, effect: StartItems, place: int, id: str) -> None:
        number, new = effect.first + place, batch.new
        every = new.force or new.named
        mark = self.ledgers[batch.ledger].get(id) or MarkRow()
        origin = self.batches.get(new.retry_of or "")
        earlier = None if origin is None else self.earlier(origin, id, effect.again[place] if effect.again else -1)
        if id in batch.named or number in batch.items:
            batch.counts["duplicates"] += 1
        elif ((new.retry_of or not every) and mark.holder not in (None, new.id)) or earlier == "open":
            batch.counts["in_flight"] += 1
        elif (not every and id not in effect.marked and mark.holds(self.now)) or (
            earlier == "succeeded" and not new.force
        ):
            batch.counts["already_processed"] += 1
        else:
            if origin is not None:
                origin.taken[id] = Taken(new.id, number, earlier)
                if earlier is not None:
                    batch.replaced[earlier] += 1
            self.ledgers[batch.ledger][id] = mark
            mark.holder = new.id
            batch.items[number] = Item(number=number, id=id, state="open")
            batch.named.add(id)
            batch.counts["open"] += 1
            if place < len(effect.data) and (brought := effect.data[place]) is not None:
                batch.data[number] = brought
            own = (effect.flows[place] if effect.flows else None) or new.flow
            run = Message(id=ids.item_run_id(new.id, number), destination=new.execute, flow=own, batch=new.id)
            parent = None if own.key == new.flow.key else new.flow.key
            self.put(run, Lane(new.execute, own.key or "", new.id, parent=parent), number)

    def latest(self, origin: BatchRow, id: str) -> tuple[str, Item] | None:
        """The latest run of an item that a retry has started."""
        taken = origin.taken.get(id)
        batch = None if taken is None else self.batches.get(taken.batch)
        return None if taken is None or batch is None else (taken.batch, batch.items[taken.number])

    def earlier(self, origin: BatchRow, id: str, number: int) -> ItemState | None:
        latest = self.latest(origin, id)
        item = latest[1] if latest else origin.items.get(number)
        return None if item is None else item.state

    def open_batch(self, new: NewBatch, messages: Sequence[Message]) -> bool:
        under_way = (it.new.open_dedup for it in self.batches.values() if it.ended_at is None)
        known = self.batches.get(new.id)
        asks_again = known and new.parent and known.new.parent and known.new.parent[0] == new.parent[0]
        if known and asks_again and known.ended_at is not None and not known.working:
            known.generation += 1
            self._publish_completion(known)
        if new.id in self.batches or (new.open_dedup is not None and new.open_dedup in under_way):
            return False
        walked = new.canary is not None and not new.canary.after_walk
        self.batches[new.id] = BatchRow(new, self.now, failure_budget=new.failure_budget, walked=walked)
        self.lanes.setdefault(Lane(new.execute, new.flow.key or "", new.id), Turn(self.turn))
        flow = self.flow(new.flow.key or "")
        if not flow.declared:
            flow.limit(new.flow)
        self.publish(messages)
        return True

    # What comes from outside

    def arrive(self, run: str, number: int, state: StepState, value: str | None, error: str | None = None) -> None:
        row = self.rows.get(run)
        if row is None or row.died_at is not None:
            return
        # A run that is leased may begin to wait for it with its next step, or as it is suspended.
        step = row.steps.get(number)
        if row.owner is None if step is None else step.state != "pending":
            return
        row.arrivals.append(Arrival(number, state, value, error, self.now))
        if row.owner is None and row.fence and row.error is None and row.due > self.now:
            row.due = 0

    def _listen(self, run: str, number: int, event: str, until: int) -> None:
        row = self.rows[run]
        for kept in row.kept:
            if kept[0] == event:
                row.kept.remove(kept)
                self.arrive(run, number, "done", kept[1])
                return
        self.listeners.setdefault((run, number), (event, self.now, until))

    def unlisten(self, run: str, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.listeners.pop((run, number), None)

    def listening(self, event: str) -> list[tuple[int, str, int, int]]:
        """Since when, run, number, until when; those that have waited longest first."""
        return sorted(
            (since, run, number, until)
            for (run, number), (name, since, until) in self.listeners.items()
            if name == event and (until == 0 or until > self.now)
        )

    def notify(self, event: str, data: str, run: str | None) -> list[str]:
        found = [one for one in self.listening(event) if run in (None, one[1])]
        if run is not None:
            found = found[:1]
            row = self.rows.get(run)
            if not found and row and not row.cancelled and row.died_at is None and len(row.kept) < KEPT_EVENTS:
                row.kept.append((event, data))
                return [run]
        for _, who, number, _ in found:
            self.arrive(who, number, "done", data)
            self.unlisten(who, [number])
        return list(dict.fromkeys(who for _, who, _, _ in found))

    # Dead letters

    def on_failure(self, row: Row) -> str | None:
        batch = self.batches.get(row.message.batch or "")
        return batch.new.on_failure if batch and row.number >= 0 else row.message.on_failure

    def call_failure_function(self, row: Row) -> bool:
        told = self.on_failure(row)
        if told is None:
            return False
        row.failure_calls += 1
        id = row.message.id
        call = ids.failure_id(id, row.fence, row.failure_calls)
        link = (id, FAILURE_STEP)
        self.publish(
            [Message(id=call, destination=told, flow=failure_flow(told), body=to_json(id).decode(), parent=link)]
        )
        row.failure = FailureCall("in_progress", self.now)
        return True

    def _end_failure_call(self, id: str, settlement: Settlement) -> None:
        row = self.rows.get(id)
        if row and row.died_at is not None and ids.failure_id(id, row.fence, row.failure_calls) == settlement.id:
            done = settlement.ending == "done"
            error = settlement.error or settlement.sentence
            row.failure = FailureCall("succeeded" if done else "failed", self.now, settlement.result, error)

    def redrive(self, id: str, restart: bool, retry: RetryPolicy | None, flow: FlowControl | None) -> bool:
        row = self.rows.get(id)
        if row is None or row.died_at is None:
            return False
        if row.message.batch is not None and not self._reopen(row.message.batch, row):
            return False
        for step in self._dropped(row.journal, restart):
            child = ids.child_id(id, step.number)
            if step.kind in {"invoke", "call"}:
                again = not restart and self.redrive(child, False, None, None)
                if restart or (not again and step.state == "failed"):
                    self._drop_ended(child)
            del row.steps[step.number]
        row.died_at, row.error, row.failures, row.losses, row.due = None, None, 0, 0, 0
        row.failure = None
        if restart:
            self._drop_webhooks(id)
        if retry is not None:
            row.message = replace(row.message, retry=retry)
        if flow is not None:
            row.message = replace(row.message, flow=flow)
            parent = None if flow.key == row.lane.parent else row.lane.parent
            row.lane = row.lane._replace(flow=flow.key or "", parent=parent)
            self.lanes.setdefault(row.lane, Turn(self.turn))
            known = self.flow(flow.key or "")
            if not known.declared:
                known.limit(flow)
        return True

    @staticmethod
    def _dropped(journal: Journal, restart: bool) -> list[Step]:
        failed = max((step.position for step in journal if step.state == "failed"), default=0)
        return [
            it for it in journal if restart or it.state == "pending" or (it.state, it.position) == ("failed", failed)
        ]

    def _drop_ended(self, id: str) -> None:
        row, run = self.rows.get(id), self.runs.get(id)
        if run is None and (row is None or row.died_at is None):
            return
        journal = run.journal if run else row.journal if row else ()
        self.rows.pop(id, None)
        self.runs.pop(id, None)
        for step in journal:
            if step.kind in {"invoke", "call"}:
                self._drop_ended(ids.child_id(id, step.number))

    def call_failure_again(self, id: str) -> bool:
        row = self.rows.get(id)
        if row is None or row.died_at is None or (row.failure is not None and row.failure.state == "in_progress"):
            return False
        return self.call_failure_function(row)

    def _reopen(self, id: str, row: Row) -> bool:
        batch = self.batches.get(id)
        if batch is not None and ids.completes(row.message.id, id):
            self._drop_notification(batch)
            batch.working += 1
            return True
        if batch is None or batch.state == "cancelling" or (row.number < 0 and batch.dropped):
            return False
        if row.number >= 0:
            item = batch.items[row.number]
            latest = self.latest(self.batches.get(batch.new.retry_of or "", batch), item.id)
            if latest is not None and (latest[0], latest[1].number) != (id, row.number):
                return False
        self._drop_notification(batch)
        completion = self.rows.get(ids.complete_id(id, batch.generation))
        if completion is not None and completion.waits:
            del self.rows[completion.message.id]
            batch.working -= 1
        if batch.state == "cancelled":
            batch.error = RUN_AFTER_CANCEL
        if batch.ended_at is not None:
            batch.state, batch.ended_at, batch.stop_reason = "sealed", None, None
            batch.generation += 1
        if row.number < 0:
            batch.working += 1
            batch.error = RUN_AFTER_CANCEL if batch.error == RUN_AFTER_CANCEL else None
            batch.entered = batch.started_at is not None
            batch.state = "open" if batch.entered else "pending"
            return True
        item = batch.items[row.number]
        succeeded_before, failed_before = batch.budget_from
        batch.budget_from = succeeded_before, max(0, failed_before - 1)
        batch.items[row.number] = replace(item, state="open", result=None, error=None, ended_at=None)
        batch.counts["open"] += 1
        batch.counts["failed"] -= 1
        self.ledgers[batch.ledger].setdefault(item.id, MarkRow()).holder = id
        return True

    # As it is read

    def run_of(self, row: Row) -> Run:
        message = row.message
        dead, leased = row.died_at is not None, row.owner is not None
        waits = not dead and not leased
        return Run(
            id=message.id,
            destination=message.destination,
            state="failed" if dead else "running" if leased else "waiting",
            created_at=row.created_at,
            started_at=row.started_at,
            ended_at=row.died_at,
            payload=message.body,
            error=row.error,
            failures=row.failures,
            batch=message.batch,
            label=message.label,
            parent=message.parent[0] if message.parent else None,
            flow_key=row.lane.flow if waits else None,
            due_at=row.due if waits and self.now < row.due < NEVER else None,
            journal=row.journal,
        )

    def letter_of(self, row: Row) -> DeadLetter:
        batch = self.batches.get(row.message.batch or "")
        return DeadLetter(
            message=replace(row.message, not_before=0, held=False, on_failure=self.on_failure(row)),
            error=row.error or "",
            failures=row.failures,
            losses=row.losses,
            created_at=row.created_at,
            started_at=row.started_at,
            died_at=row.died_at or 0,
            item=batch.items[row.number].id if batch and row.number in batch.items else None,
            number=row.number,
            journal=row.journal,
            attempts=row.attempts,
            attempt_log=tuple(row.log),
            status=status_of(row.error or ""),
            fingerprint=fingerprint_of(row.error or ""),
            workflow=batch.new.workflow if batch else None,
            label=row.message.label if batch is None or row.message.label is not None else batch.new.label,
            failure=row.failure,
        )

    def letters(self, query: DeadLetterQuery) -> list[DeadLetter]:
        """The dead letters that match, the latest first."""

        def fits(it: DeadLetter) -> bool:
            parent = it.message.parent[0] if it.message.parent else None
            function = None if it.message.batch else it.message.destination
            return (
                query.workflow in (None, it.workflow, function)
                and query.matches(it.message.destination)
                and query.run in (None, it.id, parent)
                and query.batch in (None, it.message.batch)
                and query.item in (None, it.item)
                and query.label in (None, it.label)
                and query.status in (None, it.status)
                and query.fingerprint in (None, it.fingerprint)
                and (query.since is None or it.died_at >= query.since)
                and (query.until is None or it.died_at < query.until)
            )

        letters = [self.letter_of(row) for row in self.rows.values() if row.died_at is not None]
        return sorted(filter(fits, letters), key=lambda it: (it.died_at, it.id), reverse=True)

    def status_of(self, key: str, waiting: int) -> FlowStatus:
        flow = self.flows[key]
        pinned = flow.pinned_parallelism is not None, flow.pinned_rate is not None
        until = flow.parallelism_until, flow.rate_until, flow.paused_until
        parked = 0 if flow.breaker.trial else flow.parked_until
        about = flow.in_use, waiting, parked, *until, flow.breaker, flow.next_start
        return FlowStatus(flow.limits, *pinned, flow.paused, *about)

    # Housekeeping

    def remove_idle(self) -> None:
        self.undo_ended()
        used = {key for row in self.rows.values() for key in row.lane.keys}
        going_on = [lane for lane in self.lanes if lane.batch in self.batches and self._goes_on(lane.batch)]
        used |= {lane.flow for lane in going_on if lane.parent is None}
        for key, flow in list(self.flows.items()):
            kept = flow.declared or flow.paused or flow.pinned_rate or flow.pinned_parallelism is not None
            if not kept and key not in used and admit(flow.limits, flow.state, now=self.now, want=1).count:
                del self.flows[key]
                for lane in [lane for lane in self.lanes if lane.flow == key]:
                    del self.lanes[lane]

    def _goes_on(self, batch: str) -> bool:
        return self.batches[batch].ended_at is None

    def prune(self, before: int) -> int:
        gone = 0
        for ledger in self.ledgers.values():
            for item, mark in list(ledger.items()):
                if mark.holder is None and not mark.holds(self.now):
                    del ledger[item]
                    gone += 1
        for run in [run.id for run in self.runs.values() if (run.ended_at or 0) < before]:
            del self.runs[run]
            gone += 1
        for id in [id for id, row in self.rows.items() if row.died_at is not None and row.died_at < before]:
            self.remove_letter(id)
            gone += 1
        for id, batch in list(self.batches.items()):
            if batch.ended_at is not None and batch.ended_at < before and not batch.working:
                del self.batches[id]
                gone += 1 + len(batch.items)
                for lane in [lane for lane in self.lanes if lane.batch == id]:
                    del self.lanes[lane]
        return gone


def _earliest(rows: Iterable[Row]) -> int:
    return min((row.due for row in rows), default=NEVER)


P = ParamSpec("P")
R = TypeVar("R")
Body = Callable[Concatenate["MemoryStore", P], R]
Verb: TypeAlias = "Callable[Concatenate[MemoryStore, P], CoroutineType[Any, Any, R]]"


def read(body: Body[P, R]) -> "Verb[P, R]":
    """A verb that changes nothing."""

    @functools.wraps(body)
    async def verb(self: "MemoryStore", *arguments: P.args, **options: P.kwargs) -> R:
        with self.place():
            return body(self, *arguments, **options)

    return verb


def write(*, tells: bool) -> "Callable[[Body[P, R]], Verb[P, R]]":
    """A verb that is done altogether or not at all, and `tells` where something may be due then, or have ended."""

    def decorate(body: Body[P, R]) -> "Verb[P, R]":
        @functools.wraps(body)
        async def verb(self: "MemoryStore", *arguments: P.args, **options: P.kwargs) -> R:
            try:
                to_json((arguments, options), fallback=dict)
            except PydanticSerializationError as error:
                raise StoreError(f"memory cannot take this: {error}") from error
            with self.place() as place:
                place.notices.clear()
                answer = body(self, *arguments, **options)
                place.finish()
                notices = tuple(place.notices)
            self.changed(tells=tells)
            self.report(notices)
            # Nobody who writes without a pause holds up the loop.
            await asyncio.sleep(0)
            return answer

        return verb

    return decorate


def _changed(known: ScheduleStatus, **changes: Any) -> ScheduleStatus:
    return replace(known, version=known.version + 1, **changes)


class MemoryStore:
    """`batchflow.core.store.Store` on a place in this process's memory."""

    def __init__(self, place: Place | None = None, *, clock: Clock) -> None:
        self.is_durable = place is not None
        self.location = "memory"
        self.is_new = False
        self._kept = place
        self._place: Place | None = None
        self._clock = clock
        self._subscribers: list[Callable[[bool], None]] = []
        self._notice_subscribers: list[Callable[[Notice], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._behind = False
        self._telling: asyncio.TimerHandle | None = None

    # Life

    async def open(self) -> None:
        if self._place is None:
            self._loop = asyncio.get_running_loop()
            self._place = self._kept or Place()
            self.is_new = not self._place.was_opened
            self._place.was_opened = True
            self._place.stores.add(self)

    async def close(self) -> None:
        if self._place is not None:
            self._place.stores.discard(self)
            self._place = None
            if self._telling is not None:
                self._telling.cancel()

    def on_change(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        self._subscribers.append(callback)
        self._tell_of_others()
        return lambda: self._subscribers.remove(callback)

    @property
    def at(self) -> Place:
        """The place, inside a verb."""
        assert self._place is not None
        return self._place

    @contextlib.contextmanager
    def place(self) -> Generator[Place]:
        """The place, for one verb."""
        if self._place is None:
            raise StoreUnavailable("the store in memory is not open")
        with self._place.lock:
            self._place.now = self._clock.now()
            yield self._place

    def changed(self, *, tells: bool) -> None:
        """Tell of a change, on whichever thread it was made."""
        assert self._loop is not None
        if tells:
            if threading.current_thread() is threading.main_thread():
                self._tell(False)
            else:
                self._loop.call_soon_threadsafe(self._tell, False)
        for other in self._place.stores if self._place else ():
            if other is not self and other._loop is not None:
                other._behind = True
                other._loop.call_soon_threadsafe(other._tell_of_others)

    def on_notice(self, callback: Callable[[Notice], None]) -> Callable[[], None]:
        self._notice_subscribers.append(callback)
        return lambda: self._notice_subscribers.remove(callback)

    def report(self, notices: Sequence[Notice]) -> None:
        """Pass notices on, on whichever thread they were made."""
        assert self._loop is not None
        for callback in self._notice_subscribers:
            for notice in notices:
                self._loop.call_soon_threadsafe(callback, notice)

    def _tell_of_others(self) -> None:
        if self._behind and self._subscribers and self._telling is None and self._loop is not None:
            self._telling = self._loop.call_later(FOREIGN_S, self._tell_late)

    def _tell_late(self) -> None:
        self._behind, self._telling = False, None
        self._tell(True)

    def _tell(self, foreign: bool) -> None:
        for callback in tuple(self._subscribers):
            callback(foreign)

    # What an app asks to be done

    @write(tells=True)
    def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        return self.at.publish(messages)

    @write(tells=True)
    def open_batch(self, batch: NewBatch, messages: Sequence[Message]) -> bool:
        return self.at.open_batch(batch, messages)

    @write(tells=True)
    def notify(self, event: str, data: str, run: str | None = None) -> Sequence[str]:
        return self.at.notify(event, data, run)

    @write(tells=True)
    def cancel_run(self, id: str) -> bool:
        return self.at.cancel(id)

    @write(tells=True)
    def cancel_runs(self, *, destination: str | None = None, label: str | None = None, ids: Sequence[str] = ()) -> int:
        listed = [self.at.cancel(id) for id in ids].count(True)
        found = [
            id
            for id, row in self.at.rows.items()
            if (destination or label) and not row.cancelled and row.died_at is None
            if destination is None or (row.message.keep and row.message.destination == destination)
            if label is None or row.message.label == label
        ]
        for id in found:
            self.at.cancel(id)
        return listed + len(found)

    @write(tells=True)
    def cancel_batch(self, id: str) -> bool:
        if id not in self.at.batches or self.at.batches[id].ended_at is not None:
            return False
        self.at.cancel_batch(id)
        return True

    # What a worker does

    @write(tells=False)
    def register(
        self, worker: str, lease_ms: int, concurrency: int = 0, destinations: Sequence[str] | None = None
    ) -> None:
        at = self.at
        if destinations is not None:
            at.served[worker] = tuple(sorted(destinations))
        known = at.workers.get(worker) or WorkerStatus(worker, at.now, at.now, 0, 0, 0, {}, lost=False)
        about = {"seen_at": at.now, "lease_until": at.now + lease_ms, "concurrency": concurrency}
        at.workers[worker] = known._replace(**about)

    @contextlib.asynccontextmanager
    async def renewing(self) -> AsyncGenerator[Renew]:
        yield self.renew

    async def renew(self, worker: str, lease_ms: int, hung: Sequence[tuple[str, int]] = (), hanging: int = 0) -> bool:
        with self.place() as at:
            known = at.workers.get(worker)
            if known is None:
                return False
            for id, fence in hung:
                row = at.held(id, fence)
                if row is not None and row.owner == worker:
                    at.take_back(row, lost=True)
            at.finish()
            at.workers[worker] = known._replace(seen_at=at.now, lease_until=at.now + lease_ms, hanging=hanging)
        self.changed(tells=bool(hung))
        return True

    @write(tells=False)
    def claim(self, worker: str, destinations: Sequence[str], limit: int) -> ClaimResult:
        if worker not in self.at.workers or limit < 1 or not destinations:
            return ClaimResult((), None, self.at.now)
        return self.at.claim(worker, frozenset(destinations), limit)

    @write(tells=True)
    def claim_one(self, worker: str, id: str, fence: int) -> ClaimResult:
        if worker not in self.at.workers:
            return ClaimResult((), None, self.at.now)
        return self.at.claim_one(worker, id, fence)

    @write(tells=True)
    def settle(self, settlement: Settlement) -> SettleResult:
        return self.at.settle(settlement)

    @write(tells=True)
    def expire(self) -> int:
        ended = [worker.name for worker in self.at.workers.values() if worker.lease_until <= self.at.now]
        count = sum(self.at.take_back_all(worker, lost=True) for worker in ended)
        self.at.finish()
        self.at.remove_idle()
        return count

    @write(tells=True)
    def deregister(self, worker: str) -> None:
        if worker in self.at.workers:
            self.at.take_back_all(worker, lost=False)

    @write(tells=True)
    def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> RecordResult:
        row = self.at.held(claim, fence)
        if row is None:
            return "stale"
        if row.cancelled:
            return "cancelled"
        known = row.steps.get(step.number)
        self.at.note(row, [step])
        if known is None or (known.state, known.position) != (step.state, step.position):
            self.at.apply(claim, effects)
        return "recorded"

    # What an operator does

    @write(tells=False)
    def pause_batch(self, id: str) -> bool:
        batch = self.at.batches.get(id)
        if batch is None or not batch.takes:
            return False
        batch.paused, batch.stop_reason = True, None
        return True

    @write(tells=True)
    def resume_batch(self, id: str) -> bool:
        batch = self.at.batches.get(id)
        if batch is None or not batch.paused or batch.state == "cancelling":
            return False
        batch.paused, batch.stop_reason = False, None
        batch.count_failures_anew()
        return True

    @write(tells=False)
    def set_failure_budget(self, id: str, budget: FailureBudget | None) -> bool:
        batch = self.at.batches.get(id)
        if batch is None or not batch.takes:
            return False
        batch.failure_budget = budget
        batch.count_failures_anew()
        return True

    @write(tells=False)
    def set_batch_priority(self, id: str, priority: int) -> bool:
        batch = self.at.batches.get(id)
        if batch is None or not batch.takes:
            return False
        batch.new = replace(batch.new, priority=priority)
        return True

    @write(tells=True)
    def approve_batch(self, id: str) -> bool:
        batch = self.at.batches.get(id)
        if batch is None or not batch.takes or not batch.needs_approval:
            return False
        batch.approved = True
        return True

    @write(tells=True)
    def redrive(
        self, id: str, *, restart: bool = False, retry: RetryPolicy | None = None, flow: FlowControl | None = None
    ) -> bool:
        return self.at.redrive(id, restart, retry, flow)

    @write(tells=True)
    def call_failure_again(self, id: str) -> bool:
        return self.at.call_failure_again(id)

    @write(tells=False)
    def delete_dead_letter(self, id: str) -> bool:
        return self.at.remove_letter(id)

    @write(tells=True)
    def declare(self, limits: Sequence[FlowControl]) -> None:
        for code in limits:
            flow = self.at.flow(code.key or "")
            flow.declared = True
            flow.limit(code)

    @write(tells=True)
    def pin(self, limits: FlowControl, until: int | None = None) -> None:
        flow = self.at.flow(limits.key or "")
        if limits.parallelism is not None:
            flow.pinned_parallelism, flow.parallelism_until = limits.parallelism, until
        if limits.rate is not None:
            flow.pinned_rate, flow.rate_until, flow.next_start = limits, until, 0

    @write(tells=True)
    def unpin(self, key: str, *, parallelism: bool = True, rate: bool = True) -> None:
        flow = self.at.flows.get(key)
        if flow is not None:
            flow.unpin(parallelism, rate)

    @write(tells=True)
    def pause(self, key: str, until: int | None = None) -> None:
        flow = self.at.flow(key)
        flow.paused, flow.paused_until = True, until

    @write(tells=True)
    def resume(self, key: str) -> None:
        if key in self.at.flows:
            self.at.flows[key].resume()

    @write(tells=True)
    def reset(self, key: str, *, starts_only: bool = False) -> None:
        flow = self.at.flows.get(key)
        if flow is not None:
            flow.next_start = 0
            if not starts_only:
                flow.unpin(True, True)
                flow.resume()
                flow.parked_until, flow.breaker = 0, CLOSED

    # Schedules

    @write(tells=False)
    def put_schedule(self, schedule: NewSchedule, next_at: int | None) -> ScheduleStatus:
        known = self.at.schedules.get(schedule.id)
        if known is None:
            known = ScheduleStatus(
                schedule=schedule, version=self.at.now, paused=False, created_at=self.at.now, next_at=next_at
            )
        elif known.schedule != schedule:
            same = known.schedule.cron == schedule.cron
            known = _changed(known, schedule=schedule, next_at=known.next_at if same else next_at)
        self.at.schedules[schedule.id] = known
        return known

    @write(tells=False)
    def plan_schedule(self, id: str, version: int, next_at: int | None) -> bool:
        known = self.at.schedules.get(id)
        return known is not None and known.version == version and self._change(id, next_at=next_at)

    @write(tells=False)
    def pause_schedule(self, id: str) -> bool:
        known = self.at.schedules.get(id)
        return known is not None and not known.paused and self._change(id, paused=True)

    @write(tells=False)
    def resume_schedule(self, id: str, next_at: int | None) -> bool:
        known = self.at.schedules.get(id)
        return known is not None and known.paused and self._change(id, paused=False, next_at=next_at)

    @write(tells=False)
    def delete_schedule(self, id: str) -> bool:
        return self.at.schedules.pop(id, None) is not None

    @write(tells=True)
    def fire_schedule(self, fire: Fire) -> FireResult:
        known = self.at.schedules.get(fire.id)
        if known is None or known.version != fire.version:
            return FireResult("stale", known)
        outcome = self._start(fire, known)
        changes: dict[str, Any] = {"next_at": fire.next_at}
        if known.queued_at == fire.at:
            changes["queued_at"] = None
        match outcome:
            case "fired":
                assert fire.start is not None
                changes |= {"last_at": fire.at, "last_id": fire.start.id, "fires": known.fires + 1, "error": None}
            case "skipped":
                changes |= {"skipped_at": fire.at, "skips": known.skips + 1}
            case "queued":
                changes["queued_at"] = fire.at
            case _:
                changes |= {"error": fire.error} if outcome == "failed" else {}
        self._change(fire.id, **changes)
        return FireResult(outcome, self.at.schedules[fire.id])

    def _start(self, fire: Fire, known: ScheduleStatus) -> FireOutcome:
        start = fire.start
        if start is None:
            return "failed"
        if (
            self.at.publish(start.messages)[0]
            if start.batch is None
            else self.at.open_batch(start.batch, start.messages)
        ):
            return "fired"
        under_way = start.open_dedup and self.at.under_way(start.open_dedup)
        if not under_way or under_way == start.id:
            return "repeated"
        return "queued" if fire.queue and known.queued_at in (None, fire.at) else "skipped"

    def _change(self, id: str, **changes: Any) -> bool:
        self.at.schedules[id] = _changed(self.at.schedules[id], **changes)
        return True

    @read
    def due_schedules(self, destinations: Sequence[str], limit: int = 100) -> DueSchedules:
        served = [it for it in self.at.schedules.values() if it.schedule.destination in destinations and not it.paused]
        queued = [it for it in served if it.queued_at is not None]
        found = [(it.next_at, it.id, it) for it in served if it.next_at is not None and it.next_at <= self.at.now]
        due = {id: it for _, id, it in sorted(found, key=lambda one: one[:2])}
        due |= {it.id: it for it in queued if self.at.under_way(schedule_key(it.id)) is None}
        times = [it.next_at for it in served if it.next_at is not None]
        return DueSchedules(tuple(due.values())[:limit], min(times, default=None), len(queued), self.at.now)

    @read
    def schedule(self, id: str) -> ScheduleStatus | None:
        return self.at.schedules.get(id)

    @read
    def schedules(self, *, after: str = "", limit: int = 100) -> Sequence[ScheduleStatus]:
        return [self.at.schedules[id] for id in sorted(self.at.schedules) if id > after][:limit]

    # What is read

    @read
    def run(self, id: str) -> Run | None:
        return self.at.run_of(self.at.rows[id]) if id in self.at.rows else self.at.runs.get(id)

    @read
    def runs(self, query: RunQuery, limit: int) -> Sequence[Run]:
        rows = [row for row in self.at.rows.values() if row.message.keep or row.died_at is not None]
        found = [
            replace(run, journal=(), payload="null", result=None)
            for run in [*map(self.at.run_of, rows), *self.at.runs.values()]
            if query.state in (None, run.state) and query.destination in (None, run.destination)
            if query.label in (None, run.label) and (query.before is None or (run.created_at, run.id) < query.before)
        ]
        return sorted(found, key=lambda run: (run.created_at, run.id), reverse=True)[:limit]

    @read
    def waiters(self, event: str) -> Sequence[Waiter]:
        return [
            Waiter(run, self.at.rows[run].steps[number].name, since, until or None)
            for since, run, number, until in self.at.listening(event)
        ]

    @read
    def webhook(self, token: str) -> str | None:
        run = self.at.webhooks.get(token)
        row = self.at.rows.get(run or "")
        return run if row and row.died_at is None else None

    @read
    def batch(self, id: str) -> Batch | None:
        return self.at.batches[id].shown if id in self.at.batches else None

    @read
    def batches(
        self,
        *,
        workflow: str | None = None,
        label: str | None = None,
        open_only: bool = False,
        limit: int = 50,
        params: bool = True,
        before: str | None = None,
    ) -> Sequence[Batch]:
        ids = list(self.at.batches)
        older = ids[: ids.index(before)] if before in ids else [] if before else ids
        found = [
            it.shown
            for it in (self.at.batches[id] for id in reversed(older))
            if workflow in (None, it.new.workflow) and label in (None, it.new.label)
            if not open_only or it.ended_at is None
        ][:limit]
        return found if params else [replace(it, params="null", headers=NO_HEADERS) for it in found]

    @read
    def items(
        self,
        batch: str,
        *,
        state: ItemState | None = None,
        after: int = -1,
        limit: int = 100,
        results: bool = True,
    ) -> Sequence[Item]:
        known = self.at.batches[batch].items if batch in self.at.batches else {}
        found = [it for number, it in sorted(known.items()) if number > after and state in (None, it.state)][:limit]
        if not results:
            return [replace(it, result=None) for it in found]
        sizes = accumulate(len(it.result or "") + len(it.error or "") for it in found)
        return found[: 1 + sum(size < ITEMS_SIZE for size in sizes)]

    @read
    def find_item(self, batch: str, item_id: str) -> Item | None:
        known = self.at.batches[batch].items if batch in self.at.batches else {}
        return next((it for it in known.values() if it.id == item_id), None)

    @read
    def items_with_ids(self, batch: str, ids: Sequence[str]) -> Sequence[Item]:
        known = self.at.batches[batch].items if batch in self.at.batches else {}
        return [replace(it, result=None) for it in known.values() if it.id in ids]

    @read
    def retries(self, batch: str) -> Sequence[Batch]:
        found = [it.shown for it in self.at.batches.values() if it.new.retry_of == batch]
        return [replace(it, params="null", headers=NO_HEADERS) for it in found]

    @read
    def retried_items(self, batch: str, ids: Sequence[str]) -> Mapping[str, tuple[str, Item]]:
        origin = self.at.batches.get(batch)
        found = {} if origin is None else {id: self.at.latest(origin, id) for id in ids}
        return {id: latest for id, latest in found.items() if latest is not None}

    @read
    def missing_items(self, batch: str, ids: Sequence[str]) -> frozenset[str]:
        retry = self.at.batches.get(batch)
        origin = retry and self.at.batches.get(retry.new.retry_of or "")
        return frozenset(ids) - retry.named - origin.named - origin.taken.keys() if retry and origin else frozenset()

    @read
    def open_messages(self, batch: str, *, layers: bool = False, limit: int = 20) -> Sequence[OpenMessage]:
        mine = [row for row in self.at.rows.values() if row.message.batch == batch and row.died_at is None]
        found: dict[OpenState, list[OpenMessage]] = {state: [] for state in OPEN_STATES}
        for row in sorted(mine, key=lambda row: (row.started_at if row.owner else row.due, row.message.id)):
            if (row.number < 0) == layers:
                message = self.at.open_message(row)
                found[message.state].append(message)
        return [message for state in OPEN_STATES for message in found[state][:limit]]

    @read
    def find_items(self, workflow: str, item_id: str, limit: int = 20) -> Sequence[tuple[str, Item]]:
        latest = [it for it in reversed(self.at.batches.values()) if it.new.workflow == workflow][:SEARCHED_BATCHES]
        found = [(it.new.id, item) for it in latest for item in it.items.values() if item.id == item_id]
        return found[:limit]

    @read
    def under_way(self, open_dedup: str) -> str | None:
        return self.at.under_way(open_dedup)

    @read
    def dead_letter(self, id: str) -> DeadLetter | None:
        row = self.at.rows.get(id)
        return None if row is None or row.died_at is None else self.at.letter_of(row)

    @read
    def dead_letters(
        self, query: DeadLetterQuery = ALL_DEAD_LETTERS, limit: int = 50, before: tuple[int, str] | None = None
    ) -> Sequence[DeadLetter]:
        found = [it for it in self.at.letters(query) if before is None or (it.died_at, it.id) < before]
        small: Any = {"journal": (), "attempt_log": ()}
        return [replace(it, message=replace(it.message, body="null", headers={}), **small) for it in found[:limit]]

    @read
    def dead_letter_groups(
        self, query: DeadLetterQuery = ALL_DEAD_LETTERS, limit: int = 100
    ) -> Sequence[DeadLetterGroup]:
        return merge_groups(
            [
                DeadLetterGroup(it.fingerprint, 1, it.died_at, it.died_at, it.id, it.error)
                for it in self.at.letters(query)
            ]
        )[:limit]

    @read
    def workers(self) -> Sequence[WorkerStatus]:
        return [
            about._replace(
                holds=dict(Counter(row.message.destination for row in self.at.rows.values() if row.owner == name)),
                lost=about.lease_until <= self.at.now,
                serves=self.at.served.get(name, ()),
            )
            for name, about in sorted(self.at.workers.items())
        ]

    @read
    def unserved(self, limit: int = 100) -> Sequence[UnservedWork]:
        at = self.at
        at.undo_ended()
        live = [name for name, about in at.workers.items() if about.lease_until > at.now]
        if any(name not in at.served for name in live):
            return []
        served = {it for name in live for it in at.served[name]}
        found: dict[str, list[Row]] = {}
        for row in at.rows.values():
            flows = [at.flows[key] for key in row.lane.keys]
            starts = row.waits and row.due <= at.now and not at.is_closed(row.lane)
            held_back = any(flow.paused or flow.parked_until > at.now for flow in flows)
            if starts and not held_back and row.lane.destination not in served:
                found.setdefault(row.lane.destination, []).append(row)
        work: list[UnservedWork] = []
        for destination, rows in sorted(found.items()):
            batches = {row.lane.batch for row in rows}
            work.append(UnservedWork(destination, len(rows), batches.pop() if len(batches) == 1 else None))
        return work[:limit]

    @read
    def flows(self, keys: Sequence[str] | None = None, *, waiting: bool = True) -> Sequence[FlowStatus]:
        self.at.undo_ended()
        counts = Counter(key for row in self.at.rows.values() if row.waits and waiting for key in row.lane.keys)
        wanted = self.at.flows if keys is None else self.at.flows.keys() & set(keys)
        return [self.at.status_of(key, counts[key]) for key in sorted(wanted)]

    @read
    def flow_holders(self, key: str, limit: int = 100) -> Sequence[FlowHolder]:
        held: list[FlowHolder] = []
        for row in self.at.rows.values():
            if row.owner is not None and key in row.lane.keys:
                batch = self.at.batches.get(row.message.batch or "")
                item = batch.items[row.number].id if batch and row.number >= 0 else ""
                about = row.message.destination, row.owner, row.started_at or 0, row.message.batch, item
                held.append(FlowHolder(row.message.id, *about))
        return sorted(held, key=lambda it: (it.started_at, it.id))[:limit]

    # The ledger

    @read
    def processed(self, ledger: str, ids: Sequence[str]) -> frozenset[str]:
        known = self.at.ledgers.get(ledger, {})
        return frozenset(id for id in ids if id in known and known[id].holds(self.at.now))

    @write(tells=False)
    def mark(self, ledger: str, ids: Sequence[str], ttl_ms: int | None) -> None:
        for id in ids:
            mark = self.at.ledgers[ledger].setdefault(id, MarkRow())
            mark.processed_at = self.at.now
            mark.expires_at = None if ttl_ms is None else self.at.now + ttl_ms

    @write(tells=False)
    def forget(self, ledger: str, ids: Sequence[str] | None = None) -> int:
        known, count = self.at.ledgers.get(ledger, {}), 0
        for id in list(known) if ids is None else ids:
            if id in known and known[id].processed_at is not None:
                count += 1
                known[id].processed_at = known[id].expires_at = None
                if known[id].holder is None:
                    del known[id]
        return count

    @read
    def ledgers(self) -> Sequence[str]:
        found = self.at.ledgers.items()
        return sorted(name for name, marks in found if any(mark.processed_at is not None for mark in marks.values()))

    @read
    def marks(self, ledger: str, *, after: str | None = None, limit: int = 1_000) -> Sequence[Mark]:
        known = sorted(self.at.ledgers.get(ledger, {}).items())
        found = [(id, mark) for id, mark in known if mark.holds(self.at.now) and (after is None or id > after)]
        return [Mark(id, mark.expires_at) for id, mark in found[:limit]]

    # What is done now and then

    @write(tells=False)
    def prune(self, retention_ms: int) -> int:
        return self.at.prune(self.at.now - retention_ms)

    @read
    def reconcile(self, destinations: Sequence[str], *, deep: bool = False) -> int:
        return 0

    @read
    def was_emptied(self) -> bool:
        return False
