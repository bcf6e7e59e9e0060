"""A plain model of the wire: a run is what was appended to it, and each entry is delivered with all before it.

Steps are submitted from outside, the engine appends the outcomes of sleeps, waits and calls. A delivery that is not
answered is repeated, just as it was; one that is answered with a failure is repeated later, and counted.
"""

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, NamedTuple, TypeAlias

from batchflow.core.message import Claim
from batchflow.core.ports import Plan, RecordResult, Runtime
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Arrival, Journal, Step
from batchflow.core.settlement import Effect, Settlement
from batchflow.errors import StoreUnavailable
from batchflow.serve.endpoint import Endpoint
from batchflow.serve.failure import retry_at
from tests.serve.simulated_worlds import Outside
from tests.serve.store_model import THREADS, Even, ManualClock

Mishap: TypeAlias = Literal["killed", "refused", "reply lost"]
"""A fault of a submission: the process dies after it, or it fails before or after it was appended."""


class Entry(NamedTuple):
    """What was appended: the outcome of a step; the plan to execute one; the start of the run, which is neither."""

    outcome: Step | None = None
    planned: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """The subject of the entry: an entry with the subject of an earlier one is a repetition."""
        return 0 if self.outcome is None else self.outcome.number, self.planned


class Delivery(NamedTuple):
    """An entry to be delivered by its place, from `due` on, after so many failed attempts."""

    due: int
    place: int
    retried: int = 0


class WireRecorder:
    """The recorder of one delivery: it starts what its own last entry has unlocked, and nothing else.

    What the code asks for before the last outcome is handed out belongs to earlier deliveries. What it asks for after
    that is this one's round: a single step is executed, several are submitted as plans, each of which is delivered. The
    delivery of a plan executes what was planned.
    """

    stops = True

    def __init__(self, wire: "Wire", delivery: Delivery, policy: RetryPolicy) -> None:
        self._wire = wire
        self._delivery = delivery
        self.policy = policy
        self.clock = wire.clock
        self.plans: list[int] = []
        """The steps of the round that are to be submitted as plans."""

    def plan(self, asked: Sequence[Step], settled: AbstractSet[int]) -> Sequence[Plan]:
        """The rule."""
        planned = self._wire.entries[self._delivery.place].planned
        if planned:
            return self._starting(asked, [planned])
        unlocked = [step.number for step in asked if not self._wire.belongs_to_earlier(step.number, settled)]
        if len(unlocked) > 1:
            self.plans = unlocked
            unlocked = []
        return self._starting(asked, unlocked)

    def _starting(self, asked: Sequence[Step], unlocked: Sequence[int]) -> Sequence[Plan]:
        for step in asked:
            if step.number in unlocked:
                self._wire.unlocked_by.setdefault(step.name, set()).add(self._delivery.place)
        return ["execute" if step.number in unlocked else "park" for step in asked]

    async def start(self, step: Step, effects: tuple[Effect, ...]) -> RecordResult:
        """The engine appends what comes of it."""
        await self._wire.submit(lambda: self._wire.begin(step, effects))
        return "recorded"

    async def record(self, step: Step, effects: tuple[Effect, ...]) -> RecordResult:
        """Submit the outcome; how often it was tried is known to the engine alone."""
        failures = self._delivery.retried + (step.state == "failed")
        outcome = step._replace(failures=failures)

        def submitted() -> None:
            for effect in effects:
                self._wire.outside.apply(effect)
            self._wire.append(Entry(outcome))

        await self._wire.submit(submitted)
        return "recorded"

    def retry_at(self, error: BaseException, failures: int, retry: RetryPolicy | None) -> int | None:
        """A delivery executes one step at most: its attempts are those of the step."""
        return retry_at(error, self._delivery.retried + 1, retry or self.policy, now=self.clock.now(), chance=0.5)


@dataclass(kw_only=True)
class Wire:
    """One run and the engine that delivers it, in an order that `seed` decides.

    `mishaps` maps the number of a submission, from 1 on, to what befalls it; the answers of `unanswered` deliveries,
    counted likewise, are lost. `keeps_the_rule` is off to see what the rule is good for.
    """

    mishaps: dict[int, Mishap] = field(default_factory=dict[int, Mishap])
    unanswered: frozenset[int] = frozenset()
    seed: int = 0
    keeps_the_rule: bool = True
    clock: ManualClock = field(default_factory=ManualClock)
    entries: list[Entry] = field(default_factory=lambda: [Entry()])
    queue: list[Delivery] = field(default_factory=lambda: [Delivery(0, 0)])
    sleeping: list[Step] = field(default_factory=list[Step])
    waiting: dict[int, Step] = field(default_factory=dict[int, Step])
    names: dict[int, str] = field(default_factory=dict[int, str])
    unlocked_by: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    delivered: dict[int, int] = field(default_factory=dict[int, int])
    order: list[int] = field(default_factory=list[int])
    place: int = 0
    submissions: int = 0
    deliveries: int = 0
    task: "asyncio.Task[Settlement | None] | None" = None
    retried: int = 0

    def __post_init__(self) -> None:
        self.outside = Outside(self.clock, self._arrive)
        self._random = Random(self.seed)

    # What the program sees

    def failures_of(self, step: str) -> int:
        """See `World`."""
        return self.retried

    def is_recorded(self, step: str) -> bool:
        """See `World`: what a repeated delivery cannot know is not known to it."""
        return any(entry.outcome is not None and entry.outcome.name == step for entry in self.entries[: self.place + 1])

    def arrange(self, event: str, delay_ms: int) -> None:
        """See `World`."""
        self.outside.arrange(event, delay_ms)

    # What is submitted, and what the engine makes of it

    async def submit(self, what: Any) -> None:
        """One request to the engine: all of it, or nothing."""
        self.submissions += 1
        mishap = self.mishaps.get(self.submissions)
        await asyncio.sleep(0)
        if mishap == "refused":
            raise StoreUnavailable("the engine does not answer")
        what()
        if mishap == "killed":
            assert self.task is not None
            self.task.cancel()
            await asyncio.get_running_loop().create_future()
        if mishap == "reply lost":
            raise StoreUnavailable("the answer is lost")

    def append(self, entry: Entry) -> None:
        """Append an entry, which is delivered then."""
        if entry.outcome is not None:
            name = self.names.setdefault(entry.outcome.number, entry.outcome.name)
            assert name == entry.outcome.name, "a number has one name"
            assert list(self.names.values()).count(name) == 1, "a name has one number"
        self.entries.append(entry)
        self.queue.append(Delivery(self.clock.now(), len(self.entries) - 1))

    def begin(self, step: Step, effects: tuple[Effect, ...]) -> None:
        """Let a step sleep or wait."""
        if step.kind == "sleep":
            self.sleeping.append(step)
            return
        self.waiting[step.number] = step
        for effect in effects:
            self.outside.apply(effect)

    def _arrive(self, arrival: Arrival) -> None:
        step = self.waiting.pop(arrival.number, None)
        if step is not None:
            self._ends(step._replace(state=arrival.state, value=arrival.value, error=arrival.error))

    def _ends(self, step: Step) -> None:
        self.append(Entry(step._replace(position=1, due=0, at=self.clock.now())))

    def _catch_up(self) -> None:
        """Append what is due, in the order of time."""
        now = self.clock.now()
        timed = [*self.sleeping, *(step for step in self.waiting.values() if step.due)]
        for step in sorted((step for step in timed if step.due <= now), key=lambda step: (step.due, step.number)):
            if step in self.sleeping:
                self.sleeping.remove(step)
                self._ends(step._replace(state="done", value="null"))
            elif self.waiting.pop(step.number, None) is not None:
                self._ends(step._replace(state="timeout", value="null"))
        self.outside.catch_up()

    def _wait(self) -> None:
        """Let time pass until something is due."""
        timed = [*self.sleeping, *(step for step in self.waiting.values() if step.due)]
        dues = [step.due for step in timed] + [due for due, _, _ in self.outside.due[:1]]
        dues += [delivery.due for delivery in self.queue]
        assert dues, "the run waits for nothing, and has not ended"
        self.clock.time = max(self.clock.time, min(dues))

    # Delivering

    def belongs_to_earlier(self, number: int, settled: AbstractSet[int]) -> bool:
        """Return whether an earlier delivery has unlocked the step."""
        return number in settled and self.keeps_the_rule

    def journal(self, place: int) -> Journal:
        """The outcomes that the delivery of an entry carries; of repeated ones the first counts."""
        outcomes: dict[int, Step] = {}
        for entry in self.entries[: place + 1]:
            if entry.outcome is not None and entry.outcome.number not in outcomes:
                outcomes[entry.outcome.number] = entry.outcome._replace(position=len(outcomes) + 1)
        return tuple(outcomes.values())

    async def drive(self, endpoint: Endpoint, limit: int = 2_000) -> Settlement:
        """Deliveries until the run has ended."""
        for _ in range(limit):
            self._catch_up()
            ready = [delivery for delivery in self.queue if delivery.due <= self.clock.now()]
            if not ready:
                self._wait()
                continue
            delivery = self._random.choice(ready)
            self.queue.remove(delivery)
            ending = await self._deliver(endpoint, delivery)
            if ending is not None:
                return ending
        raise AssertionError("the run does not end")

    async def _deliver(self, endpoint: Endpoint, delivery: Delivery) -> Settlement | None:
        """One delivery; how the run has ended, None while it goes on."""
        entry = self.entries[delivery.place]
        if entry.key in {earlier.key for earlier in self.entries[: delivery.place]}:
            return None
        self.deliveries += 1
        self.place, self.retried = delivery.place, delivery.retried
        self.order.append(delivery.place)
        self.delivered[delivery.place] = self.delivered.get(delivery.place, 0) + 1
        recorder = WireRecorder(self, delivery, endpoint.retry)
        self.task = asyncio.get_running_loop().create_task(self._answer(endpoint, delivery, recorder))
        unanswered = self.deliveries in self.unanswered
        try:
            ending = await self.task
        except asyncio.CancelledError:
            ending = None
        if ending is None or (unanswered and ending.ending == "suspended"):
            self.queue.append(delivery)
            return None
        failed = [step for step in ending.steps if step.failures and step.state == "pending"]
        if ending.ending == "suspended" and failed:
            self.queue.append(delivery._replace(due=ending.due, retried=delivery.retried + 1))
        return None if ending.ending == "suspended" else ending

    async def _answer(self, endpoint: Endpoint, delivery: Delivery, recorder: WireRecorder) -> Settlement | None:
        """Deliver to the endpoint and submit its plans; return how the attempt ended."""
        claim = Claim(
            "run_1", 1, "/test", "null", failures=delivery.retried, journal=self.journal(delivery.place), started_at=1
        )
        runtime = Runtime(journaling=_Nowhere(), clock=self.clock, entropy=Even(), threads=THREADS)
        ending = await endpoint.deliver(claim, runtime, recorder)
        if ending is not None and ending.ending == "suspended" and recorder.plans:
            try:
                await self.submit(lambda: [self.append(Entry(planned=number)) for number in recorder.plans])
            except StoreUnavailable:
                return None
        return ending


class _Nowhere:
    """There is no store."""

    async def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> RecordResult:
        raise AssertionError("nothing is recorded beside the wire")
