"""Worlds of one run in memory, each with a recorder of its own: events, calls and time are alike in all of them."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from batchflow.core.call import CALL_DESTINATION, Body, CallResult, call_request_codec, call_result_codec
from batchflow.core.codec import Codec
from batchflow.core.ports import RecordResult, Runtime
from batchflow.core.run import Arrival, Step, apply_arrivals, merge_steps
from batchflow.core.settlement import Effect, Listen, Notify, Publish, Settlement, Unlisten
from batchflow.serve.endpoint import Endpoint
from tests.serve.store_model import THREADS, Even, ManualClock, Model

TEXT: Codec[str] = Codec.of(str)
CALL_MS = 500
"""The duration of every call."""


class World(Protocol):
    """The world as a program sees it."""

    clock: ManualClock

    def failures_of(self, step: str) -> int:
        """Return the durable failures of the step that executes now."""
        ...

    def is_recorded(self, step: str) -> bool:
        """Return whether an outcome of the step is durable."""
        ...

    def arrange(self, event: str, delay_ms: int) -> None:
        """Send the event later; again, and nothing changes."""
        ...

    async def drive(self, endpoint: Endpoint) -> Settlement:
        """Carry the run out to its end."""
        ...


@dataclass
class Outside:
    """The outside world of the one run: events that are kept or scheduled, responses of calls."""

    clock: ManualClock
    arrive: Callable[[Arrival], None]
    listening: dict[str, int] = field(default_factory=dict[str, int])
    kept: dict[str, str] = field(default_factory=dict[str, str])
    arranged: set[str] = field(default_factory=set[str])
    due: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list[tuple[int, int, Callable[[], None]]])
    count: int = 0

    def apply(self, effect: Effect) -> None:
        """Begin what a step waits for, or send what it sends."""
        match effect:
            case Publish((message,)) if message.destination == CALL_DESTINATION and message.parent is not None:
                failures = int(call_request_codec().decode(message.body).url.split("/")[3])
                answered = call_request_codec().decode(message.body).url.endswith("answered")
                number = message.parent[1]
                self.later(self.clock.now() + CALL_MS, lambda: self.arrive(_answer(number, failures, answered)))
            case Listen(number, event):
                if event in self.kept:
                    self.arrive(Arrival(number, "done", self.kept.pop(event), None, self.clock.now()))
                else:
                    self.listening[event] = number
            case Notify(event, data):
                self.notify(event, data)
            case Unlisten(numbers):
                self.listening = {event: at for event, at in self.listening.items() if at not in numbers}
            case _:
                raise AssertionError(effect)

    def notify(self, event: str, data: str) -> None:
        """Give the event to who waits for it, or keep it."""
        if event in self.listening:
            self.arrive(Arrival(self.listening.pop(event), "done", data, None, self.clock.now()))
        else:
            self.kept[event] = data

    def arrange(self, event: str, delay_ms: int) -> None:
        """See `World`."""
        if event not in self.arranged:
            self.arranged.add(event)
            self.later(self.clock.now() + delay_ms, lambda: self.notify(event, TEXT.encode(event)))

    def later(self, due: int, act: Callable[[], None]) -> None:
        """Do something at a time."""
        self.count += 1
        heapq.heappush(self.due, (due, self.count, act))

    def catch_up(self) -> None:
        """Do what is due."""
        while self.due and self.due[0][0] <= self.clock.now():
            heapq.heappop(self.due)[2]()


def _answer(number: int, failures: int, answered: bool) -> Arrival:
    """Return the outcome of a call with two retries that fails so often."""
    if failures > 2 and not answered:
        return Arrival(number, "failed", None, "ConnectError: nobody answers", 0)
    text = "" if failures > 2 else "hello"
    answer = CallResult(status=500 if failures > 2 else 200, body=Body(text=text))
    return Arrival(number, "done", call_result_codec().encode(answer), None, 0)


@dataclass(kw_only=True)
class Direct(Model):
    """The store of our own engine. `stops`: the attempt ends after each recorded step."""

    stops: bool = False
    arrivals: list[Arrival] = field(default_factory=list[Arrival])
    effects: dict[int, tuple[Effect, ...]] = field(default_factory=dict[int, tuple[Effect, ...]])

    def __post_init__(self) -> None:
        self.outside = Outside(self.clock, self._arrive)

    def _arrive(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival._replace(at=self.clock.now()))

    def failures_of(self, step: str) -> int:
        """See `World`."""
        return sum(one.failures for one in self.journal if one.name == step)

    def is_recorded(self, step: str) -> bool:
        """See `World`."""
        return step in self.names

    def arrange(self, event: str, delay_ms: int) -> None:
        """See `World`."""
        self.outside.arrange(event, delay_ms)

    @property
    def runtime(self) -> Runtime:
        return Runtime(journaling=self, clock=self.clock, entropy=Even(), threads=THREADS, always_replay=self.stops)

    async def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> RecordResult:
        """As a store, with what goes along."""
        self.effects[step.number] = effects
        return await super().record(claim, fence, step, effects)

    def _write(self, step: Step) -> None:
        super()._write(step)
        for effect in self.effects.pop(step.number, ()):
            self.outside.apply(effect)

    async def deliver(self, endpoint: Endpoint) -> Settlement | None:
        """Claim, with what has come until then, and carry out."""
        self.outside.catch_up()
        self.effects.clear()
        self.journal = merge_steps(self.journal, apply_arrivals(self.journal, self.clock.now(), self.arrivals))
        self.arrivals.clear()
        ending = await super().deliver(endpoint)
        for effect in ending.effects if ending is not None else ():
            self.outside.apply(effect)
        return ending

    def _settle(self, ending: Settlement | None) -> None:
        now = self.clock.now()
        super()._settle(ending)
        # Nobody sleeps longer than until something comes.
        if ending is not None and ending.ending == "suspended" and (self.arrivals or self.outside.due):
            comes = now if self.arrivals else self.outside.due[0][0]
            self.clock.time = max(now, min(ending.due, comes))
