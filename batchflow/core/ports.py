"""The ports through which `serve` and `batch` reach stores, the engine, time and randomness, without importing them."""

import builtins
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from batchflow.core.batch import Failure
from batchflow.core.breaker import BreakerChange
from batchflow.core.codec import SizeLimit
from batchflow.core.dead_letters import DeadLetter, DeadLetterGroup, DeadLetterQuery
from batchflow.core.expected_data import ExpectedData
from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim, Message
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Step
from batchflow.core.schedule import NewSchedule, ScheduledStart
from batchflow.core.settlement import Effect, Settlement
from batchflow.core.store import (
    Commands,
    FlowKeyAdmin,
    Journaling,
    Ledger,
    Reads,
    RecordResult,
    RunCommands,
    RunReads,
)
from batchflow.errors import StoreError

FailurePoint: TypeAlias = Literal["step", "function", "delivery", "settlement"]
"""The part that failed: a step, the function outside of steps, the delivery, or the settlement in the store."""


class FailedAttempt(NamedTuple):
    """A failed attempt of a step, of a function outside of steps, of a delivery or of a settlement.

    It was attempt `number` of `attempts`. The next one is due in `wait_ms`; None: there is none. With `parked` it met a
    rate limit: its flow key waits, and the attempt does not count. `step`, if a step failed, is its new state: to be
    retried, or final. `error` is None if only its text is known.
    """

    error: BaseException | None
    where: FailurePoint
    failure: Failure
    number: int
    attempts: int
    wait_ms: int | None = None
    parked: bool = False
    step: Step | None = None


class LogNames(NamedTuple):
    """The words of log lines about a destination: `[reviews:execute] …`, and the beginning of the line of a failure."""

    prefix: str
    failed: str = "Failed"


NO_LOG_NAMES = LogNames("batchflow")
"""The words about a destination that is not known."""


class Observer(Protocol):
    """Receives the events of one process. A subclass defines the methods of the events that it wants.

    The methods are called on the event loop, during the work, and in the task of the claim if there is one: they have
    to return at once. An exception in an observer does not affect the work.
    """

    def published(self, message: Message) -> None:
        """A trigger has stored a new message."""

    def claimed(self, claim: Claim) -> None:
        """This worker has leased a claim and starts it."""

    def step_started(self, claim: Claim, name: str, beside: bool) -> None:
        """A step starts to execute; `beside`: others of its run execute too."""

    def step_recorded(self, claim: Claim, step: Step) -> None:
        """A step is durable, or part of the settlement: its outcome, or that it waits.

        An outcome from outside is reported when the code receives it, and not again on a replay.
        """

    def attempt_failed(self, claim: Claim, attempt: FailedAttempt) -> None:
        """An attempt has failed, or met a rate limit."""

    def settled(self, claim: Claim, settlement: Settlement) -> None:
        """The claim has ended durably. Each claim gets one `settled` or `lost`, unless the worker stops."""

    def lost(self, claim: Claim) -> None:
        """Another worker had the claim when it was to be settled: nothing was changed."""

    def store_unavailable(self, error: BaseException, starting: bool) -> None:
        """The store has begun to fail; `starting`: while this process starts."""

    def store_recovered(self, after_ms: int, starting: bool) -> None:
        """The store works again."""

    def batch_ended(self, batch: str) -> None:
        """A verb of this process has ended the batch: a settlement, a cancellation, or the loss of a worker.

        Its `on_complete` is still to run. Of all processes one reports each end.
        """

    def budget_exceeded(self, batch: str) -> None:
        """A verb of this process has paused the batch, or begun to cancel it, since too many of its items have failed.

        Of all processes one reports it.
        """

    def breaker_changed(self, claim: Claim, change: BreakerChange) -> None:
        """The end of this claim has opened or closed the circuit breaker of its flow key. One process reports it."""

    def canary_ended(self, batch: str) -> None:
        """A verb of this process has ended the canary of the batch, which is approved, or waits for approval."""


class Observers:
    """Several observers as one. An event that none of them wants is None, so that it costs only a comparison.

    `on_error` is called with the first exception of each observer and event.
    """

    __slots__ = (
        "_failing",
        "_members",
        "_on_error",
        "attempt_failed",
        "batch_ended",
        "breaker_changed",
        "budget_exceeded",
        "canary_ended",
        "claimed",
        "lost",
        "published",
        "settled",
        "step_recorded",
        "step_started",
        "store_recovered",
        "store_unavailable",
    )

    published: Callable[[Message], None] | None
    claimed: Callable[[Claim], None] | None
    step_started: Callable[[Claim, str, bool], None] | None
    step_recorded: Callable[[Claim, Step], None] | None
    attempt_failed: Callable[[Claim, FailedAttempt], None] | None
    settled: Callable[[Claim, Settlement], None] | None
    lost: Callable[[Claim], None] | None
    store_unavailable: Callable[[BaseException, bool], None] | None
    store_recovered: Callable[[int, bool], None] | None
    batch_ended: Callable[[str], None] | None
    budget_exceeded: Callable[[str], None] | None
    breaker_changed: Callable[[Claim, BreakerChange], None] | None
    canary_ended: Callable[[str], None] | None

    def __init__(
        self, *members: Observer, on_error: Callable[[Observer, str, BaseException], None] | None = None
    ) -> None:
        self._on_error = on_error
        self._failing: set[tuple[int, str]] = set()
        self._members: tuple[Observer, ...] = members
        self._rebuild()

    def add(self, observer: Observer) -> None:
        """Add an observer."""
        self._members += (observer,)
        self._rebuild()

    @contextmanager
    def observing(self, observer: Observer) -> Generator[None]:
        """Add an observer for the time of a `with` block."""
        self.add(observer)
        try:
            yield
        finally:
            self._members = tuple(it for it in self._members if it is not observer)
            self._rebuild()

    def _rebuild(self) -> None:
        for event in EVENTS:
            unwanted = getattr(Observer, event)
            members = [it for it in self._members if getattr(type(it), event, unwanted) is not unwanted]
            setattr(self, event, self._combined(event, members))

    def _combined(self, event: str, members: list[Observer]) -> Callable[..., None] | None:
        if not members:
            return None
        if len(members) == 1:
            return self._guarded(event, members[0])
        guarded = [self._guarded(event, member) for member in members]

        def tell(*values: Any) -> None:
            for one in guarded:
                one(*values)

        return tell

    def _guarded(self, event: str, member: Observer) -> Callable[..., None]:
        listener = getattr(member, event)

        def tell(*values: Any) -> None:
            try:
                listener(*values)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self._report_error(event, member, error)

        return tell

    def _report_error(self, event: str, member: Observer, error: BaseException) -> None:
        if (id(member), event) not in self._failing:
            self._failing.add((id(member), event))
            if self._on_error is not None:
                self._on_error(member, event, error)


EVENTS = tuple(name for name in Observers.__slots__ if not name.startswith("_"))
"""The names of all events."""


TIMEOUT_REASON = "batchflow:timeout"
"""The reason for interrupting an attempt that takes too long; it counts as a failed attempt."""

STOP_REASON = "batchflow:stop"
"""The reason for interrupting an attempt when the engine stops; it does not count as an attempt."""

ClaimKey: TypeAlias = tuple[str, int]
"""A claim by id and fence: a lost message may be claimed again while its stale claim still runs."""


class Interrupts:
    """The claims of one engine that are to be interrupted, with the reason.

    A claim costs nothing here until it is interrupted, has branches or waits for threads.
    """

    __slots__ = ("_on_request", "_waited", "requested")

    def __init__(self) -> None:
        self.requested: dict[ClaimKey, str] = {}
        """The reasons, by claim. Each attempt checks before each step that this is empty."""
        self._on_request: dict[ClaimKey, Callable[[], None]] = {}
        self._waited: dict[ClaimKey, Callable[[float], float]] = {}

    def request(self, claim: Claim, reason: str) -> None:
        """Interrupt a claim: none of its steps starts any more. Cancel its task after that."""
        key = claim.id, claim.fence
        self.requested[key] = reason
        if (callback := self._on_request.get(key)) is not None:
            callback()

    def reason(self, claim: Claim) -> str | None:
        """The reason for interrupting a claim; None if it is not interrupted."""
        return self.requested.get((claim.id, claim.fence)) if self.requested else None

    def on_request(self, claim: Claim, callback: Callable[[], None]) -> None:
        """Call `callback` when the claim is interrupted: its branches do not notice that by themselves."""
        self._on_request[claim.id, claim.fence] = callback

    def set_thread_wait(self, claim: Claim, waited_s: Callable[[float], float]) -> None:
        """`waited_s` returns the seconds that the claim has waited for threads, up to a time of the event loop."""
        self._waited[claim.id, claim.fence] = waited_s

    def thread_wait_s(self, claim: Claim, now: float) -> float:
        """The seconds that the claim has waited for threads, up to the time `now` of the event loop.

        They do not count towards its timeout.
        """
        waited_s = self._waited.get((claim.id, claim.fence)) if self._waited else None
        return 0.0 if waited_s is None else waited_s(now)

    def discard(self, claim: Claim) -> None:
        """Forget a claim that has ended."""
        if self._waited:
            self._waited.pop((claim.id, claim.fence), None)
        if self.requested:
            self.requested.pop((claim.id, claim.fence), None)
        if self._on_request:
            self._on_request.pop((claim.id, claim.fence), None)


class Groups:
    """The claims of one worker that wait in groups, each of which is executed by one call, and these calls."""

    __slots__ = ("_open", "calls", "capacity", "collectors", "context", "on_waiting", "waiting")

    def __init__(self) -> None:
        self.context = copy_context()
        """A context in which the code of no claim has set anything."""
        self.collectors: dict[object, Any] = {}
        """The collectors of groups, each by its owner."""
        self.capacity: int | None = None
        """The number of claims that the worker may have at once; None: no limit is known."""
        self.waiting = 0
        """The number of claims in groups that are not called yet."""
        self.calls: dict[Any, Claim] = {}
        """The tasks of the calls that execute, each with a claim of its group."""
        self.on_waiting: Callable[[], None] = _ignore
        """Called when a claim begins to wait."""
        self._open: dict[object, tuple[int, Callable[[], None]]] = {}

    @property
    def next_due(self) -> int | None:
        """The first time, in ms since the epoch, at which a group has waited long enough; None if no group waits."""
        return min((due for due, _ in self._open.values()), default=None)

    def open(self, group: object, due: int, call: Callable[[], None]) -> None:
        """Note a new group, which waits until `due`; `call` calls it, whether or not it is full."""
        self._open[group] = due, call

    def close(self, group: object, claims: int) -> None:
        """Forget a group that is called, or has lost its claims; so many of them have waited."""
        self.waiting -= claims
        self._open.pop(group, None)

    def call_due(self, now: int) -> None:
        """Call the groups that have waited until `now`."""
        for due, call in tuple(self._open.values()):
            if due <= now:
                call()

    def call_all(self) -> None:
        """Call the groups that wait for more claims, since none can come."""
        for _, call in tuple(self._open.values()):
            call()


def _ignore() -> None:
    """Do nothing: no dispatcher claims."""


class Clock(Protocol):
    """A source of time. Tests replace it."""

    def now(self) -> int:
        """Milliseconds since the epoch."""
        ...


class Entropy(Protocol):
    """A source of randomness. Tests replace it by one with a seed."""

    def bytes(self, n: int, /) -> builtins.bytes:
        """`n` random bytes, for ids."""
        ...

    def chance(self) -> float:
        """A uniformly distributed number in [0, 1), for jitter."""
        ...


T = TypeVar("T")


Plan: TypeAlias = Literal["execute", "park"]
"""`execute` the step now, or begin to wait where it is one that waits; `park` its branch for this attempt."""


class Recorder(Protocol):
    """Makes the steps of one claimed run durable; the only way for an execution to do so."""

    @property
    def clock(self) -> Clock:
        """The clock for the due times of steps."""
        ...

    @property
    def policy(self) -> RetryPolicy:
        """The retry policy of steps without their own."""
        ...

    @property
    def stops(self) -> bool:
        """True if the attempt ends once a step is recorded, and another one replays it and continues.

        No step starts then before the code rests, not even in a run without a journal.
        """
        ...

    def check_step(self, retry: RetryPolicy) -> None:
        """Raise `ConfigurationError` for a policy of one step that cannot be kept as it is."""
        ...

    def plan(self, asked: Sequence[Step], settled: AbstractSet[int]) -> Sequence[Plan]:
        """Decide about new steps; returns one plan for each, in order.

        On a replay, and whenever the recorder stops, `asked` is a round: all new steps that the code waits for, once
        it rests after the last recorded outcome. Those in `settled`, by number, were requested before that outcome was
        delivered, in earlier attempts too. Otherwise `asked` is the one step that the code has just requested.
        """
        ...

    def start(self, step: Step, effects: tuple[Effect, ...]) -> Awaitable[RecordResult]:
        """Make durable that `step` waits until `step.due` (0: without a limit), together with `effects`.

        Resolves and raises as `record` does. A sleep beside which nothing executes is not started but written with the
        settlement, unless the recorder stops.
        """
        ...

    def record(self, step: Step, effects: tuple[Effect, ...]) -> Awaitable[RecordResult]:
        """Make the outcome of `step` durable, together with `effects`.

        Resolves once it is; raises `StoreError` if that cannot be known. The same call is then repeated if the store
        may still accept it.
        """
        ...

    def retry_at(self, error: BaseException, failures: int, retry: RetryPolicy | None) -> int | None:
        """The time of the next attempt after this many failures, by `retry` or `policy`; None: no further attempt."""
        ...


DeadLetterPosition: TypeAlias = tuple[int, str]
"""The position after a page of dead letters: a time in ms and an id, or what a `DeadLetterStore` takes for them."""


class DeadLetterStore(Protocol):
    """The dead letters of an app, as operators search and redrive them: those of its store, or of QStash."""

    async def find(self, id: str) -> DeadLetter | None:
        """A dead letter, whole; None if it does not exist, or no longer."""
        ...

    async def page(
        self, query: DeadLetterQuery, limit: int, after: DeadLetterPosition | None
    ) -> tuple[Sequence[DeadLetter], DeadLetterPosition | None]:
        """Dead letters that match, the latest first, and the position after them; None if they are the last ones.

        What may be large is not read: they are without bodies, headers, journals and attempts.
        """
        ...

    async def groups(self, query: DeadLetterQuery, limit: int) -> Sequence[DeadLetterGroup]:
        """The dead letters that match by their fingerprint, the `limit` largest groups first."""
        ...

    async def posts(self, ids: Sequence[str]) -> Sequence[str]:
        """Those of `ids` that are messages of `batchflow server`."""
        ...

    async def redrive(
        self, id: str, *, restart: bool, retry: RetryPolicy | None, flow: FlowControl | None
    ) -> str | None:
        """Let a dead letter go on, or with `restart` run from the beginning, as `AdminCommands.redrive` says.

        Returns the id of what runs now, which is that of the dead letter or a new one; None if it cannot go on.
        """
        ...

    async def call_failure_again(self, id: str) -> bool:
        """See `AdminCommands`."""
        ...

    async def delete(self, id: str) -> bool:
        """Remove a dead letter; False if it does not exist."""
        ...


class RunClient(RunCommands, Protocol):
    """The engine of served functions, as their triggers and handles use it."""

    @property
    def run_store(self) -> RunReads:
        """Its runs, for reading."""
        ...

    @property
    def replaces_ended_runs(self) -> bool:
        """True if the id of a run that has ended may be used again, although the run can still be read."""
        ...

    def check_run(
        self, flow: FlowControl, retry: RetryPolicy | None, label: str | None, headers: Mapping[str, str]
    ) -> None:
        """Raise `InputError` for an option of a run that this engine does not keep as it is."""
        ...

    @property
    def limit(self) -> SizeLimit:
        """The size limit of stored values."""
        ...

    @property
    def expected_data(self) -> ExpectedData:
        """The types of the events that runs of this process wait for."""
        ...

    def now(self) -> int:
        """The time, in ms since the epoch."""
        ...

    def new_id(self, kind: Literal["run", "batch"]) -> str:
        """A new id that sorts by the time at which it was made."""
        ...

    async def ended(self, id: str, look: Callable[[], Awaitable[T | None]], limit: float | None) -> T | None:
        """Wait until a run or batch has ended; returns the result of `look`, or None after `limit` seconds.

        `look` reads the run or batch, and returns None while it has not ended. It is called at once and whenever that
        may have changed, once for all who wait for the same id; if the store is unavailable, it is called again.

        Raises:
            StoreUnavailable: the app has stopped.
        """
        ...


class Client(RunClient, Commands, Protocol):
    """The engine, as triggers and handles of workflows use it.

    Commands go through it and not directly to the store: the engine wakes its worker when something becomes due, and
    everyone who waits when something has ended.
    """

    @property
    def store(self) -> Reads:
        """The store, for reading."""
        ...

    @property
    def dead_letter_store(self) -> DeadLetterStore:
        """The dead letters of runs and items; what a command for them makes due is claimed at once."""
        ...

    @property
    def flow_keys(self) -> FlowKeyAdmin:
        """The flow keys, whose limits hold for runs and items."""
        ...

    @property
    def marks(self) -> Ledger:
        """The ledger of processed items: `ledger`, or the store's own."""
        ...

    @property
    def ledger(self) -> Ledger | None:
        """The ledger beside the store, if there is one: items are marked there before they are settled.

        Otherwise settlements mark them.
        """
        ...

    @property
    def threads(self) -> "Threads | None":
        """The threads for plain functions that are called outside of any delivery; None if the app is not running."""
        ...

    @property
    def executes(self) -> bool:
        """True if workers execute what is due; False if something else calls the app for that."""
        ...

    @property
    def concurrency(self) -> int | None:
        """The number of claims that this process may have at a time; None if it does not work."""
        ...


class ScheduleTarget(Protocol):
    """A workflow or function that schedules start."""

    @property
    def title(self) -> str:
        """Its name."""
        ...

    @property
    def schedule_route(self) -> str:
        """The destination of the work that a fire starts."""
        ...

    @property
    def schedule_starts(self) -> Literal["batch", "run"]:
        """The kind of work that a fire starts."""
        ...

    @property
    def declared_schedule(self) -> NewSchedule | None:
        """The schedule that its code declares."""
        ...

    def schedule_payload(self, params: object, payload: object) -> str:
        """Check what its fires start with, a value or its JSON; returns the JSON text.

        Raises:
            BatchflowError: it does not fit; the message says what does.
        """
        ...

    def scheduled_start(self, schedule: NewSchedule, at: int) -> ScheduledStart:
        """The work of the fire at `at`.

        Raises:
            BatchflowError: the payload does not fit any more.
        """
        ...


class PlainCall(NamedTuple):
    """The name of a plain function that is called, and the run and step it is called for, empty outside of them."""

    function: str
    run: str = ""
    step: str = ""


class Threads(Protocol):
    """A limited number of threads for the plain functions of user code."""

    async def run(self, call: Callable[[], T], about: PlainCall, waits: Callable[[bool, float], None]) -> T:
        """Call `call` in a thread; returns or raises as it does.

        `waits` is called on the event loop with True when the call has to wait for a thread, and with False when it
        has one, with the time of the event loop; not at all if a thread is free. If this is cancelled, the call is
        abandoned: its thread continues, and another may replace it.
        """
        ...


class Lease(Protocol):
    """The lease of a worker: while it is valid, no other worker can have its claims."""

    @property
    def losses(self) -> int:
        """The number of times it has ended so far. Claims from before the latest may be another worker's."""
        ...

    def may_have_expired(self, losses: int) -> bool:
        """True if it may have ended since that many losses; cheap enough to call before every step."""
        ...

    async def holds(self, losses: int) -> bool:
        """True if it has not ended, according to the store; False also if the store does not answer."""
        ...


RecordRetry: TypeAlias = Callable[[Callable[[], Awaitable[RecordResult]], StoreError], Awaitable[RecordResult]]
"""Repeats a call until the store can answer; raises the `StoreError` of a final rejection, or when nobody waits."""

StepOverride: TypeAlias = Callable[[str, str, Callable[..., Awaitable[Any]]], Callable[..., Awaitable[Any]]]


class Backlog(Protocol):
    """The large values of steps and results that wait to be written."""

    @property
    def is_full(self) -> bool:
        """True while a step that could make another one should not begin."""
        ...

    def add(self, chars: int) -> None:
        """A value of so many characters waits to be written from now on."""
        ...

    def remove(self, chars: int) -> None:
        """A value that was added waits no more."""
        ...

    async def wait(self) -> None:
        """Return once the backlog is not full."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The parts of an engine that its endpoints use.

    `always_replay` suspends a run after every step, so that each is replayed. `step_override` is called before a step
    is executed, with run, name and function, and returns the function to execute instead. `expected_data` gets the
    types of events that runs wait for. `interrupts` has the claims that the engine interrupts, `groups` those that wait
    to be executed together. `retry_record` repeats a record that the store could not make for now, until it can;
    without it the attempt is given up. `client` is the engine that delivers, and `lease` that of its worker: nothing
    starts while it may have ended. No step begins while `backlog` is full. `observers` receive the events.
    """

    journaling: Journaling
    clock: Clock
    entropy: Entropy
    threads: Threads
    client: object = None
    lease: Lease | None = None
    backlog: Backlog | None = None
    observers: Observers = field(default_factory=Observers)
    always_replay: bool = False
    step_override: StepOverride | None = None
    expected_data: ExpectedData = field(default_factory=ExpectedData)
    retry_record: RecordRetry | None = None
    interrupts: Interrupts = field(default_factory=Interrupts)
    groups: Groups = field(default_factory=Groups)


class Handler(Protocol):
    """The receiver of claims: a served endpoint, or the caller of HTTP requests."""

    @property
    def timeout_ms(self) -> int | None:
        """The time limit of one attempt; None: no limit."""
        ...

    def deliver(self, claim: Claim, runtime: Runtime) -> Coroutine[Any, Any, Settlement | None]:
        """Run one claim, in the task that was made for it; returns its settlement.

        None: the claim was lost or the store failed, the attempt was given up, and the claim is to be released.
        """
        ...
