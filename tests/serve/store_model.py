"""A store of one run, in memory: claims it, lets an endpoint carry it out, settles it, jumps to the next due time."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from batchflow.core.flow import FlowControl
from batchflow.core.message import NO_HEADERS, Claim
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Journal, Step, apply_arrivals, merge_steps
from batchflow.core.settlement import Effect, Settlement
from batchflow.core.store import RecordResult
from batchflow.engine.threads import ThreadPool
from batchflow.errors import StoreUnavailable
from batchflow.serve.context import LayerContext
from batchflow.serve.endpoint import Endpoint, FailureResult, Runtime

Fault: TypeAlias = Literal["killed", "refused", "reply lost", "stale", "cancelled"]
"""What befalls a `record`: the process dies, the store fails before or after writing, the claim is lost or the run."""

AGAIN = ("done", "failed", "dead", "cancelled")


class ManualClock:
    """Stands still until it is moved."""

    def __init__(self, now: int = 1_000_000) -> None:
        self.time = now

    def now(self) -> int:
        return self.time


class Even:
    """Chance without surprises: the middle, always."""

    def chance(self) -> float:
        return 0.5

    def bytes(self, n: int, /) -> bytes:
        return bytes(n)


THREADS = ThreadPool(2, lambda given_up: None)


def first_line(ending: Settlement) -> str:
    """The sentence of how a run has failed."""
    assert ending.error is not None
    return ending.error.splitlines()[0]


@dataclass(kw_only=True)
class Model:
    """One run and what is durable of it. `faults` maps the number of a record, counted from 1, to what befalls it."""

    payload: str = "null"
    retry: RetryPolicy | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    faults: dict[int, Fault] = field(default_factory=dict[int, Fault])
    always_replay: bool = False
    clock: ManualClock = field(default_factory=ManualClock)
    journal: Journal = ()
    failures: int = 0
    fence: int = 0
    records: int = 0
    lost: int = 0
    endings: list[Settlement | None] = field(default_factory=list[Settlement | None])
    task: "asyncio.Task[Settlement | None] | None" = None

    async def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> RecordResult:
        """As a store that commits once per turn of the loop."""
        assert fence == self.fence, "only the claim holder records"
        self.records += 1
        fault = self.faults.get(self.records)
        await asyncio.sleep(0)
        if fault in ("stale", "cancelled"):
            return fault
        if fault == "refused":
            raise StoreUnavailable("the store is gone")
        self._write(step)
        if fault == "killed":
            assert self.task is not None
            self.task.cancel()
            await asyncio.get_running_loop().create_future()
        if fault == "reply lost":
            raise StoreUnavailable("the reply is lost")
        return "stale" if self.always_replay else "recorded"

    def _write(self, step: Step) -> None:
        others = [s for s in self.journal if s.number != step.number]
        assert all(s.name != step.name for s in others), "a name has one number"
        assert not step.position or all(s.position != step.position for s in others), "a position has one step"
        before = [s for s in self.journal if s.number == step.number]
        assert all(s.state == "pending" and s.name == step.name for s in before), "an outcome is recorded once"
        self.journal = merge_steps(self.journal, [step])
        self.failures = 0

    def claim(self) -> Claim:
        """Lease the run, with timers that are due recorded."""
        self.fence += 1
        self.journal = merge_steps(self.journal, apply_arrivals(self.journal, self.clock.now()))
        return Claim(
            "run_1",
            self.fence,
            "/test",
            self.payload,
            failures=self.failures,
            headers=self.headers,
            retry=self.retry,
            journal=self.journal,
        )

    @property
    def runtime(self) -> Runtime:
        return Runtime(journaling=self, clock=self.clock, entropy=Even(), threads=THREADS)

    async def deliver(self, endpoint: Endpoint) -> Settlement | None:
        """One attempt, in a task of its own; None when it was given up or killed."""
        self.task = asyncio.get_running_loop().create_task(endpoint.deliver(self.claim(), self.runtime))
        try:
            ending = await self.task
        except asyncio.CancelledError:
            ending = None
        self._settle(ending)
        self.endings.append(ending)
        return ending

    def _settle(self, ending: Settlement | None) -> None:
        if ending is None:
            self.lost += 1
            return
        assert ending.fence == self.fence
        for step in ending.steps:
            self._write(step) if step.state != "pending" else self._note(step)
        if ending.ending == "retry":
            self.failures += 1
        if ending.ending in ("suspended", "retry", "parked"):
            self.clock.time = max(self.clock.time, ending.due)

    def _note(self, step: Step) -> None:
        assert all(s.state == "pending" for s in self.journal if s.number == step.number)
        self.journal = merge_steps(self.journal, [step])

    async def drive(self, endpoint: Endpoint, limit: int = 200) -> Settlement:
        """Attempts until the run has ended."""
        for _ in range(limit):
            ending = await self.deliver(endpoint)
            if ending is not None and ending.ending in AGAIN:
                return ending
        raise AssertionError(f"the run does not end: {self.endings[-3:]}")

    @property
    def names(self) -> list[str]:
        """Recorded outcomes in recorded order."""
        outcomes = [step for step in self.journal if step.state != "pending"]
        return [step.name for step in sorted(outcomes, key=lambda step: step.position)]


def endpoint(
    fn: Callable[[LayerContext[Any]], Awaitable[object]],
    *,
    retry: RetryPolicy = RetryPolicy(),
    payload: Callable[[Claim], Any] = lambda claim: json.loads(claim.body),
) -> Endpoint:
    """An endpoint of `fn`, whose result is written as plain JSON; an `Answer` stays one."""

    async def handler(ctx: LayerContext[Any]) -> str | FailureResult:
        result = await fn(ctx)
        return result if isinstance(result, FailureResult) else json.dumps(result)

    return Endpoint(
        route="/test", name="test", function=handler, payload=payload, flow=FlowControl(key="test"), retry=retry
    )


class Calls:
    """Step functions that note every call: `calls("charge", 3)` returns 3 when it is called."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(
        self, name: str, result: Any = None, *, turns: int = 0, fails: int = 0
    ) -> Callable[[], Awaitable[Any]]:
        """`turns`: how long it takes; `fails`: how many calls of this name raise before one returns."""

        async def call() -> Any:
            self.made.append(name)
            count = self.made.count(name)
            for _ in range(turns):
                await asyncio.sleep(0)
            if count <= fails:
                raise ConnectionError(f"{name} is down")
            return result

        return call
