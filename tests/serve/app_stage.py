"""An app over a real store, driven in virtual time and killed where a test wants it."""

import asyncio
from collections.abc import Awaitable
from typing import Any, NamedTuple

import pytest

from batchflow import Batchflow
from batchflow.core.call import Body, CallResult, call_request_codec, call_result_codec
from batchflow.core.message import Claim
from batchflow.core.ports import RecordResult, Runtime
from batchflow.core.run import Step
from batchflow.core.settlement import Effect, Settlement, dead, done, retry
from batchflow.core.store import Store
from batchflow.engine.caller import HttpCaller
from batchflow.testing import FaultyStore, FixedEntropy, ManualClock, ProcessCrashed, drive
from batchflow.testing.faults import StoreProxy
from tests.stores.kinds import Kind, left, made


class Disaster(NamedTuple):
    """A fault at the `nth` call of a verb after the previous fault."""

    fault: str
    verb: str
    nth: int


class NotingStore(StoreProxy):
    """Notes which outcomes are durable, by run and step."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.outcomes: set[tuple[str, str]] = set()

    def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> Awaitable[RecordResult]:
        return self._record(claim, fence, step, effects)

    async def _record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...]) -> RecordResult:
        verdict = await self.store.record(claim, fence, step, effects)
        if step.position and verdict == "recorded":
            self.outcomes.add((claim, step.name))
        return verdict


class Caller(HttpCaller):
    """Answers calls without a network: `https://calls.test/FAILS/HOW` fails so often before it says "hello"."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []

    @property
    def timeout_ms(self) -> int | None:
        return None

    async def deliver(self, claim: Claim, runtime: Runtime) -> Settlement:
        request = call_request_codec().decode(claim.body)
        self.made.append(request.step)
        *_, fails, how = request.url.split("/")
        assert claim.retry is not None
        if claim.failures >= int(fails):
            return done(claim, call_result_codec().encode(CallResult(status=200, body=Body(text="hello"))))
        if claim.failures + 1 < claim.retry.attempts:
            return retry(claim, runtime.clock.now() + 1_000, "not yet")
        if how == "answered":
            return done(claim, call_result_codec().encode(CallResult(status=500)))
        return dead(claim, "nobody there")


class Stage:
    """The app, its clock, and the processes that die over its store."""

    def __init__(self, kind: Kind = "sqlite", url: str | None = None, *, always_replay: bool = False) -> None:
        self.clock = ManualClock()
        self.made = made(kind, self.clock, url)
        self.store = NotingStore(self.made)
        self.caller = Caller()
        self.deaths = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("BATCHFLOW_ALWAYS_REPLAY", str(always_replay))
            self.flow = Batchflow(self.store, clock=self.clock, worker=False, entropy=FixedEntropy())
        self.flow.engine.caller = self.caller

    async def drive(self, *disasters: Disaster) -> None:
        """Everything to its end, with these disasters on the way, one after the other."""
        mine = asyncio.all_tasks()
        for disaster in disasters:
            plan: dict[str, Any] = {disaster.fault: disaster.verb}
            self.flow.engine.store = FaultyStore(self.store, nth=disaster.nth, **plan)
            try:
                await drive(self.flow, self.clock)
            except ProcessCrashed:
                self.deaths += 1
            # What the dead process was doing ends with it.
            await _killed(asyncio.all_tasks() - mine)
        self.flow.engine.store = self.store
        await drive(self.flow, self.clock)

    async def failures_of(self, run: str, step: str) -> int:
        """See `StoryStage`."""
        status = await self.store.run(run)
        assert status is not None
        return sum(one.failures for one in status.journal if one.name == step)

    def is_recorded(self, run: str, step: str) -> bool:
        """See `StoryStage`."""
        return (run, step) in self.store.outcomes

    async def left(self) -> dict[str, Any]:
        """Return everything the store holds of ended runs and of waits."""
        return await left(self.made)

    async def close(self) -> None:
        self.flow.engine.store = self.store
        await self.flow.stop()


async def _killed(tasks: "set[asyncio.Task[Any]]") -> None:
    for task in tasks:
        task.cancel()
    awaitables: list[Awaitable[Any]] = list(tasks)
    await asyncio.gather(*awaitables, return_exceptions=True)
