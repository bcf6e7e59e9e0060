"""Faults by name: stores that crash, fail or lose a reply, and the faults that a test arranges for its processes."""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from batchflow.core.failure_functions import HTTP_CALLS
from batchflow.core.message import Claim
from batchflow.core.run import Step
from batchflow.core.settlement import Effect, Notice, Settlement, SettleResult
from batchflow.core.store import RecordResult, Renew, Store
from batchflow.core.suggestions import did_you_mean
from batchflow.errors import ConfigurationError, StoreUnavailable
from batchflow.testing.stubs import names_step

T = TypeVar("T")


class ProcessCrashed(BaseException):
    """The process crashed at a verb, as the test wanted. `drive` raises it, and no `except Exception` stops it."""


_NOT_VERBS = {"close", "is_durable", "is_new", "location", "on_change", "renewing"}
VERBS = (*(name for name in dir(Store) if not name.startswith("_") and name not in _NOT_VERBS), "renew")
"""The verbs of a store that can fail."""

_Verbs: Any = object
"""The base class for type checkers, which then accept every verb."""


class StoreProxy(_Verbs):
    """A store in front of `store`: every verb passes through one method, which subclasses override.

    Once `died` is set the process is gone: the call at which it died and all later ones never return, and nothing
    reaches the store any more.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.died = asyncio.Event()
        self._settling: list[asyncio.Future[Any]] = []

    async def _call_verb(self, verb: str, call: Callable[[], Awaitable[T]]) -> T:
        """Call a verb of the store; every verb except `renewing` passes through here."""
        if self.died.is_set():
            await self._hang(verb)
        answer = await call()
        if self.died.is_set():
            await self._hang(verb)
        return answer

    def _call_write(self, verb: str, call: Callable[[], Awaitable[T]]) -> Awaitable[T]:
        # Starts no task that would be left over at the end of the test.
        return self._hang(verb) if self.died.is_set() else self._call_verb(verb, call)

    async def _crash(self, verb: str) -> None:
        self.died.set()
        await self._hang(verb)

    def _hang(self, verb: str) -> "asyncio.Future[Any]":
        """Return a future that never resolves; it is cancelled with a task that is being cancelled."""
        future = asyncio.get_running_loop().create_future()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            future.cancel()
        elif verb == "settle":
            self._settling.append(future)
        return future

    def release_settlements(self) -> None:
        """Cancel the settlements that never return, after a crash."""
        settling, self._settling = self._settling, []
        for future in settling:
            future.cancel()

    def __getattr__(self, verb: str) -> Any:
        if verb not in VERBS:
            raise AttributeError(f"a store has no verb '{verb}'", name=verb, obj=self)
        call: Callable[..., Awaitable[Any]] = getattr(self.store, verb)

        def forward(*arguments: Any, **options: Any) -> Awaitable[Any]:
            return self._call_verb(verb, lambda: call(*arguments, **options))

        return forward

    # Members that are not verbs, or that take another way

    @property
    def is_durable(self) -> bool:
        """See the protocol."""
        return self.store.is_durable

    @property
    def location(self) -> str:
        """See the protocol."""
        return self.store.location

    @property
    def is_new(self) -> bool:
        """See the protocol."""
        return self.store.is_new

    async def close(self) -> None:
        """See the protocol; it works after a crash too, so that a test can tidy up."""
        await self.store.close()

    def on_change(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """See the protocol."""
        return self.store.on_change(callback)

    def on_notice(self, callback: Callable[[Notice], None]) -> Callable[[], None]:
        """See the protocol."""
        return self.store.on_notice(callback)

    def renewing(self) -> AbstractAsyncContextManager[Renew]:
        """See the protocol."""
        return self.store.renewing()

    def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> Awaitable[RecordResult]:
        """See the protocol."""
        return self._call_write("record", lambda: self.store.record(claim, fence, step, effects))

    def settle(self, settlement: Settlement) -> Awaitable[SettleResult]:
        """See the protocol."""
        return self._call_write("settle", lambda: self.store.settle(settlement))


Fault: TypeAlias = Literal["die_before", "die_after", "lose_reply", "fail"]


class _PlannedFault(NamedTuple):
    fault: Fault
    verb: str


class FaultyStore(StoreProxy):
    """`store` with one fault at the `nth` call of a verb and, for `fail` and `lose_reply`, at the next `times` - 1.

        FaultyStore(store, die_before="settle")            # the third one: nth=3
        FaultyStore(store, die_after="settle")             # carried out, and nobody knows
        FaultyStore(store, lose_reply="publish")           # carried out, and StoreUnavailable is raised
        FaultyStore(store, fail="claim", times=5)          # not carried out, and StoreUnavailable is raised

    A store that crashed stands for a process that is gone: `died` is set, the crashing call and all later ones never
    return, and nothing reaches the store any more; `drive` raises `ProcessCrashed`. `calls` counts the calls by verb.

    Raises:
        ConfigurationError: no fault or several are named, a store has no such verb, or a count is below 1.
    """

    def __init__(
        self,
        store: Store,
        *,
        die_before: str | None = None,
        die_after: str | None = None,
        lose_reply: str | None = None,
        fail: str | None = None,
        nth: int = 1,
        times: int = 1,
    ) -> None:
        super().__init__(store)
        self.calls: dict[str, int] = dict.fromkeys(VERBS, 0)
        self._plan = _single_fault(die_before=die_before, die_after=die_after, lose_reply=lose_reply, fail=fail)
        if nth < 1 or times < 1:
            raise ConfigurationError(f"'nth' ({nth}) and 'times' ({times}) count from 1")
        self._first, self._last = nth, nth + times - 1

    def repair(self) -> None:
        """Stop the faults; a store that crashed stays so."""
        self._last = 0

    def _next_fault(self, verb: str) -> Fault | None:
        self.calls[verb] += 1
        due = self._plan.verb == verb and self._first <= self.calls[verb] <= self._last
        return self._plan.fault if due else None

    async def _call_verb(self, verb: str, call: Callable[[], Awaitable[T]]) -> T:
        if self.died.is_set():
            await self._hang(verb)
        fault = self._next_fault(verb)
        if fault == "die_before":
            await self._crash(verb)
        if fault == "fail":
            raise StoreUnavailable(f"'{verb}' fails, as the test wants it")
        answer = await call()
        if fault == "die_after" or self.died.is_set():
            await self._crash(verb)
        if fault == "lose_reply":
            raise StoreUnavailable(f"the reply to '{verb}' is lost, as the test wants it")
        return answer

    @contextlib.asynccontextmanager
    async def renewing(self) -> AsyncGenerator[Renew]:
        """See the protocol; a crashed process renews nothing."""
        async with self.store.renewing() as renew:

            async def renew_or_fail(
                worker: str, lease_ms: int, hung: Sequence[tuple[str, int]] = (), hanging: int = 0
            ) -> bool:
                fault = None if self.died.is_set() else self._next_fault("renew")
                if fault == "die_before":
                    self.died.set()
                if self.died.is_set():
                    raise StoreUnavailable("the process has died, as the test wants it")
                if fault == "fail":
                    raise StoreUnavailable("'renew' fails, as the test wants it")
                held = await renew(worker, lease_ms, hung, hanging)
                if fault == "die_after":
                    self.died.set()
                if fault is not None:
                    raise StoreUnavailable("the reply to 'renew' is lost, as the test wants it")
                return held

            yield renew_or_fail


def _single_fault(**faults: str | None) -> _PlannedFault:
    chosen: list[Any] = [(fault, verb) for fault, verb in faults.items() if verb is not None]
    if len(chosen) != 1:
        raise ConfigurationError(f"a FaultyStore has one fault of {', '.join(faults)}; {len(chosen)} are named")
    fault, verb = chosen[0]
    if verb not in VERBS:
        raise ConfigurationError(f"a store has no verb '{verb}'{did_you_mean(verb, VERBS)}")
    return _PlannedFault(fault, verb)


@dataclass(slots=True)
class PlannedCrash:
    """A crash of the process before it writes a step, or right after; a name or a number specifies the step."""

    step: int | str
    side: Literal["before", "after"]
    happened: bool = False

    def __str__(self) -> str:
        return f"env.crash_{self.side}({self.step!r})"


@dataclass(slots=True)
class FaultPlan:
    """The faults of the processes of a test, over all their lives."""

    crashes: list[PlannedCrash] = field(default_factory=list[PlannedCrash])
    twice: set[int] = field(default_factory=set[int])
    late_ms: int = 0
    order: random.Random | None = None
    deliveries: int = 0
    _step_numbers: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    _redelivered: set[str] = field(default_factory=set[str])

    def crash_at(self, run: str, steps: Sequence[Step | str]) -> Literal["before", "after"] | None:
        """Tell if the process crashes at the writing of these steps: before or after it."""
        for step in steps:
            if not isinstance(step, str):
                if step.kind == "run" and step.state == "pending":
                    continue
                step = step.name
            number = self._step_numbers.setdefault((run, step), len(self._step_numbers) + 1)
            for crash in self.crashes:
                if not crash.happened and (crash.step == number or names_step(str(crash.step), step)):
                    crash.happened = True
                    return crash.side
        return None

    def is_delivered_twice(self, claim: Claim) -> bool:
        """Count the delivery of a claim; tell if its message is to be delivered a second time meanwhile."""
        if claim.destination in HTTP_CALLS or claim.id in self._redelivered:
            self._redelivered.discard(claim.id)
            return False
        if not self.count_delivery():
            return False
        self._redelivered.add(claim.id)
        return True

    def count_delivery(self) -> bool:
        """Count a delivery; tell if it is to be repeated."""
        self.deliveries += 1
        return self.deliveries in self.twice

    def describe_unused(self) -> list[str]:
        """Return one sentence for each fault that never happened."""
        steps, deliveries = len(self._step_numbers), self.deliveries
        return [
            *(f"{it} never happened: {_count(steps, 'step')} written" for it in self.crashes if not it.happened),
            *(
                f"env.deliver_twice({number}) never happened: {_count(deliveries, 'deliver', 'y', 'ies')} made"
                for number in sorted(self.twice)
                if number > deliveries
            ),
        ]


def require_positive(number: object, option: str) -> int:
    """Return a number that counts from 1.

    Raises:
        ConfigurationError: the value is not such a number.
    """
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ConfigurationError(f"'{option}' cannot be {number!r}; write a number from 1")
    return number


def _count(count: int, word: str, one: str = "", many: str = "s") -> str:
    return f"{count} {word}{one if count == 1 else many} {'was' if count == 1 else 'were'}"
