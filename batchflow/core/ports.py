"""The ports through which the layers above the core reach what is below them.

`serve` and `batch` see these and never a store or an engine.
"""

import builtins
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from batchflow.core.codec import SizeLimit
from batchflow.core.message import Claim
from batchflow.core.observe import Observers
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Step
from batchflow.core.settlement import Effect, Settlement
from batchflow.core.store import Commands, Journaling, Ledger, Reads, RecordResult
from batchflow.errors import StoreError

TIMEOUT_REASON = "batchflow:timeout"
"""Why an engine interrupts an attempt that has taken too long; it counts as a failed attempt."""

STOP_REASON = "batchflow:stop"
"""Why an engine interrupts an attempt as it stops; it does not count."""

ClaimKey: TypeAlias = tuple[str, int]
"""A claim by id and fence: what was lost may be claimed again while its stale claim is still carried out."""


class Interrupts:
    """Which claims of one engine are interrupted and why, and what they have told of themselves for that.

    Nothing of it is made for a claim that is not interrupted, has no branches and does not wait for threads.
    """

    __slots__ = ("_on_request", "_waited", "requested")

    def __init__(self) -> None:
        self.requested: dict[ClaimKey, str] = {}
        """Why claims are interrupted. An attempt looks whether it is empty before each step."""
        self._on_request: dict[ClaimKey, Callable[[], None]] = {}
        self._waited: dict[ClaimKey, Callable[[float], float]] = {}

    def request(self, claim: Claim, reason: str) -> None:
        """Interrupt a claim: no step of it starts any more. Cancel its task after that."""
        key = claim.id, claim.fence
        self.requested[key] = reason
        if (callback := self._on_request.get(key)) is not None:
            callback()

    def reason(self, claim: Claim) -> str | None:
        """Why a claim is interrupted; None: it is not."""
        return self.requested.get((claim.id, claim.fence)) if self.requested else None

    def on_request(self, claim: Claim, callback: Callable[[], None]) -> None:
        """Call `heed` when the claim is interrupted: it has branches, which do not see that by themselves."""
        self._on_request[claim.id, claim.fence] = callback

    def set_thread_wait(self, claim: Claim, waited_s: Callable[[float], float]) -> None:
        """`waited_s` says for how many seconds, up to the event loop's time, the claim has waited for threads."""
        self._waited[claim.id, claim.fence] = waited_s

    def thread_wait_s(self, claim: Claim, now: float) -> float:
        """For how many seconds, up to the event loop's time `now`, it has waited for threads: that is not its time."""
        waited_s = self._waited.get((claim.id, claim.fence)) if self._waited else None
        return 0.0 if waited_s is None else waited_s(now)

    def discard(self, claim: Claim) -> None:
        """The claim is carried out."""
        if self._waited:
            self._waited.pop((claim.id, claim.fence), None)
        if self.requested:
            self.requested.pop((claim.id, claim.fence), None)
        if self._on_request:
            self._on_request.pop((claim.id, claim.fence), None)


class Clock(Protocol):
    """Tells the time. Tests move it."""

    def now(self) -> int:
        """Milliseconds since the epoch."""
        ...


class Entropy(Protocol):
    """Gives what cannot be guessed. Tests repeat it."""

    def bytes(self, n: int, /) -> builtins.bytes:
        """`n` random bytes, for ids."""
        ...

    def chance(self) -> float:
        """A number in [0, 1), every one as likely, for jitter."""
        ...


T = TypeVar("T")


Plan: TypeAlias = Literal["execute", "park"]
"""`execute` the step now, or begin to wait where it is one that waits; `park` its branch for this attempt."""


class Recorder(Protocol):
    """Makes the steps of one claimed run durable; all that an execution knows of how that is done."""

    @property
    def clock(self) -> Clock:
        """What steps are due by."""
        ...

    @property
    def policy(self) -> RetryPolicy:
        """How steps are tried again that set no policy of their own."""
        ...

    @property
    def stops(self) -> bool:
        """Whether the attempt ends once a step is recorded: another one replays it and goes on.

        No step starts then before the code has come to rest, not even in a run without a journal.
        """
        ...

    def plan(self, asked: Sequence[Step], settled: AbstractSet[int]) -> Sequence[Plan]:
        """What is to become of new steps, of each in its order.

        On a replay, and wherever the recorder stops, `asked` is a round: all new steps that the code waits for, once
        it has come to rest after the last recorded outcome. Those in `settled`, by number, were asked for before that
        one was handed out, by earlier attempts too. Else it is one step, which was just asked for.
        """
        ...

    def start(self, step: Step, effects: tuple[Effect, ...]) -> Awaitable[RecordResult]:
        """Make durable that `step` waits until `step.due` (0: as long as it takes), together with `effects`.

        Resolves and raises as `record`. A sleep beside which nothing executes is not started but goes with the
        settlement, unless the recorder stops.
        """
        ...

    def record(self, step: Step, effects: tuple[Effect, ...]) -> Awaitable[RecordResult]:
        """Make the outcome of `step` durable, together with `effects`.

        Resolves once it is; raises `StoreError` when it cannot be known. It is then called again with the same, where
        the store may yet take it.
        """
        ...

    def retry_at(self, error: BaseException, failures: int, retry: RetryPolicy | None) -> int | None:
        """When to try again after so many failures, this one counted, by `retry` or `policy`; None: never."""
        ...


class Client(Commands, Protocol):
    """What a workflow needs of the engine to be triggered and asked.

    Commands are given here and not to the store: the engine wakes its worker for what is due, and tells who waits of
    what has ended.
    """

    @property
    def store(self) -> Reads:
        """Where what is there is read."""
        ...

    @property
    def marks(self) -> Ledger:
        """Where it is kept which items are processed: `ledger`, or the store's own."""
        ...

    @property
    def ledger(self) -> Ledger | None:
        """The ledger beside the engine, where there is one: what ends an item marks it there first.

        Else settlements mark.
        """
        ...

    @property
    def limit(self) -> SizeLimit:
        """How large a value may be that is to be stored."""
        ...

    def now(self) -> int:
        """The time, in ms since the epoch."""
        ...

    def new_id(self, kind: Literal["run", "batch"]) -> str:
        """A fresh id that sorts by the time it was made."""
        ...

    @property
    def threads(self) -> "Threads | None":
        """Where plain functions run that are called outside of any delivery; None where the app is not running."""
        ...

    async def ended(self, id: str, look: Callable[[], Awaitable[T | None]], limit: float | None) -> T | None:
        """What `look` says of a run or batch once it is over; None: not within `limit` seconds, nor when they are over.

        `look` reads it, and says None while it goes on. It is called at once and whenever the run or batch may have
        ended, once for all who wait here for the same one; a store that is away is asked again.

        Raises:
            StoreUnavailable: the app has stopped, and nothing more is heard of.
        """
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

    def may_have_expired(self, losses: int) -> bool:
        """Whether it may have ended, for what was claimed after so many losses; cheap enough for every step."""
        ...

    async def holds(self, losses: int) -> bool:
        """Whether it has not, as the store says; False too where that does not answer."""
        ...


RecordRetry: TypeAlias = Callable[[Callable[[], Awaitable[RecordResult]], StoreError], Awaitable[RecordResult]]
"""Asks again until the store can answer; raises the `StoreError` of what it refuses for good, or where nobody waits."""

StepOverride: TypeAlias = Callable[[str, str, Callable[..., Awaitable[Any]]], Callable[..., Awaitable[Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What an engine lends to the endpoints it delivers to.

    `always_replay` suspends a run after every step, so that each is replayed; `step_override` is asked before a
    step is executed, with run, name and function, for the function to execute instead.
    `interrupts` says which claims the engine interrupts.
    `retry_record` records again what the store could not record for now, until it can;
    without it the attempt is given up. `client` is the engine that delivers, and `lease` that of its worker:
    nothing starts while it is in doubt. `observers` are told what happens.
    """

    journaling: Journaling
    clock: Clock
    entropy: Entropy
    threads: Threads
    client: object = None
    lease: Lease | None = None
    observers: Observers = field(default_factory=Observers)
    always_replay: bool = False
    step_override: StepOverride | None = None
    retry_record: RecordRetry | None = None
    interrupts: Interrupts = field(default_factory=Interrupts)


class Handler(Protocol):
    """What a claim is delivered to: a served endpoint, or who makes calls over HTTP."""

    @property
    def timeout_ms(self) -> int | None:
        """How long one attempt may take; None: as long as it likes."""
        ...

    def deliver(self, claim: Claim, runtime: Runtime) -> Coroutine[Any, Any, Settlement | None]:
        """Carry out one claim, in the task that was made for it; how it ended.

        None: the claim was lost or the store failed; the attempt was given up, and the claim is to be given back.
        """
        ...
