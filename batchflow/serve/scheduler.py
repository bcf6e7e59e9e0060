"""The order of progress within an attempt: recorded outcomes first, one at a time, each once the code is idle."""

import asyncio
from collections.abc import Callable
from typing import NoReturn

from batchflow.core.ports import Plan, Recorder
from batchflow.core.run import Replay, Step
from batchflow.errors import ReplayError

IDLE_TURNS = 32
"""Turns of the event loop without a new request after which the code counts as idle."""


class Scheduler:
    """Delivers outcomes to the branches of a function in the order of their positions, and starts new steps.

    It runs in callbacks of the event loop, and only while something waits: a run without recorded steps and without
    branches never creates it. `on_suspend` is called when branches are parked and nothing else can proceed,
    `on_mismatch` when the journal does not fit the code.

    No new step starts while recorded outcomes are left. Then `recorder` plans all requested steps as one round. Under a
    recorder that stops, the steps of a fresh run are such a round as well.
    """

    __slots__ = (
        "_earlier_steps",
        "_holds_new_steps",
        "_idle_turns",
        "_is_scheduled",
        "_loop",
        "_loop_queue",
        "_new_steps",
        "_next_position",
        "_on_mismatch",
        "_on_suspend",
        "_recorded",
        "_recorder",
        "_replay",
        "_replayed",
        "closed",
        "executing",
        "is_root_only",
        "parked",
        "pending",
        "requested",
        "withdrawn",
    )

    def __init__(
        self,
        replay: Replay,
        recorder: Recorder,
        first: int,
        on_suspend: Callable[[], None],
        on_mismatch: Callable[[ReplayError], None],
    ) -> None:
        self._replay = replay
        self._recorder = recorder
        self._on_suspend = on_suspend
        self._on_mismatch = on_mismatch
        self._loop = asyncio.get_running_loop()
        self._next_position = first
        # The queue of asyncio's own event loop; others, such as uvloop, have no such attribute.
        self._loop_queue = getattr(self._loop, "_ready", None)
        self._idle_turns = 0
        self._is_scheduled = False
        self._replayed: dict[int, asyncio.Future[None]] = {}
        self._new_steps: dict[int, tuple[Step, asyncio.Future[Plan]]] = {}
        self._earlier_steps: frozenset[int] = frozenset()
        self._recorded: dict[int, asyncio.Future[None] | None] = {}
        self.is_root_only = True
        """Only the root has requested steps so far."""
        self._holds_new_steps = recorder.stops or replay.next_outcome is not None
        """Recorded outcomes are left, or the code is not idle after the last one: no new step starts."""
        self.requested: dict[int, str] = {}
        """The names of steps that were requested and have not returned, by number."""
        self.executing: dict[int, tuple[asyncio.Task[object] | None, int]] = {}
        """Steps that execute or are being recorded: their task, and its earlier cancellation count."""
        self.pending: dict[int, Step] = {}
        """The unrecorded state of steps that are not done."""
        self.parked: dict[int, int] = {}
        """The numbers of parked steps, and when they are due."""
        self.withdrawn: set[int] = set()
        """Steps that no longer wait for their events."""
        self.closed = False
        """The attempt has ended; nothing proceeds."""

    def close(self) -> None:
        """Stop all progress."""
        self.closed = True
        # Breaks the reference cycle of scheduler and execution, which would wait for the garbage collector.
        self._on_suspend, self._on_mismatch = _do_nothing, _ignore_error

    def begin(self, number: int) -> None:
        """Note that a step starts to execute, in the current task."""
        task = asyncio.current_task()
        self.executing[number] = task, task.cancelling() if task is not None else 0

    def finish(self, number: int) -> None:
        """Note that a request has returned or raised."""
        self.executing.pop(number, None)
        del self.requested[number]
        if self.parked or self._recorded:
            # Only parked steps may be left now, or an outcome may have waited for this one.
            self.wake()

    def wake(self) -> None:
        """Note that the code is not idle."""
        self._idle_turns = 0
        self.schedule()

    def schedule(self) -> None:
        """Check, once the code is idle, whether a branch can proceed."""
        if not self._is_scheduled and not self.closed:
            self._is_scheduled = True
            self._loop.call_soon(self._tick)

    async def wait_recorded(self, step: Step) -> None:
        """Wait until a step's recorded outcome is delivered."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._replayed[step.number] = future
        self.wake()
        await future

    async def wait_start(self, step: Step) -> Plan:
        """Wait until a new step may be planned, and return its plan."""
        if not self._holds_new_steps:
            return self._recorder.plan((step,), self._earlier_steps)[0]
        future: asyncio.Future[Plan] = self._loop.create_future()
        self._new_steps[step.number] = step, future
        self.wake()
        return await future

    async def park(self, step: Step, due: int) -> NoReturn:
        """Make a branch wait for a later attempt."""
        self.executing.pop(step.number, None)
        self.parked[step.number] = due
        self.wake()
        try:
            await self._loop.create_future()
        finally:
            if not self.closed:
                del self.parked[step.number]
                self.withdraw(step)
                if not step.failures:
                    self.pending.pop(step.number, None)
        raise AssertionError("a parked branch continues in a later attempt only")

    def withdraw(self, step: Step) -> None:
        """Note that the code no longer waits for this step."""
        if step.kind == "wait":
            self.withdrawn.add(step.number)

    def delivered_directly(self, position: int) -> None:
        """Note that the root got the outcome at `position` directly."""
        self._next_position = position + 1

    async def deliver(self, number: int, position: int) -> None:
        """Wait for the turn of the outcome at `position`, which is durable now."""
        future: asyncio.Future[None] = self._loop.create_future()
        self.executing[number] = None, 0
        self._recorded[position] = future
        self.schedule()
        await future

    def skip(self, position: int) -> None:
        """Note that nothing waits for the outcome at `position` any more."""
        self._recorded[position] = None
        self.schedule()

    def _tick(self) -> None:
        self._is_scheduled = False
        # Without a request the code is busy elsewhere, and will request a step or end.
        if self.closed or not self.requested:
            return
        # With an empty event loop no further turn can change anything.
        self._idle_turns = IDLE_TURNS if self._loop_queue is not None and not self._loop_queue else self._idle_turns + 1
        if self._idle_turns < IDLE_TURNS or self._advance_one():
            self.schedule()

    def _advance_one(self) -> bool:
        """Let one branch proceed; return whether there may be more to do."""
        upcoming = self._replay.next_outcome
        if upcoming is not None:
            return self._deliver_replayed(upcoming)
        if self._holds_new_steps:
            # Only now: the last recorded outcome may have made the code cancel steps that wait to start.
            self._plan_new_steps()
            return True
        if self._next_position in self._recorded:
            if self._is_unwinding():
                return False
            future = self._recorded.pop(self._next_position)
            self._next_position += 1
            if future is not None and not future.done():
                future.set_result(None)
                self._idle_turns = 0
            return True
        if self.parked and not self.executing:
            self._on_suspend()
        return False

    def _is_unwinding(self) -> bool:
        # Code that has cancelled a step waits for its end, which is immediate on a replay: nothing may overtake it.
        return any(task is not None and task.cancelling() > before for task, before in self.executing.values())

    def _deliver_replayed(self, step: Step) -> bool:
        if not self._replay.was_requested(step.name):
            self._on_mismatch(self._replay.mismatch_error(list(self.requested.values())))
            return False
        self._replay.take_next()
        if self._replay.next_outcome is None:
            self._earlier_steps = frozenset(self._new_steps)
        future = self._replayed.pop(step.number)
        if not future.done():
            future.set_result(None)
            self._idle_turns = 0
        return True

    def _plan_new_steps(self) -> None:
        """Plan a round: the new steps that were requested so far and not cancelled."""
        self._holds_new_steps = False
        held = [(step, future) for step, future in self._new_steps.values() if not future.done()]
        self._new_steps.clear()
        if not held:
            return
        plans = self._recorder.plan([step for step, _ in held], self._earlier_steps)
        for (_, future), plan in zip(held, plans, strict=True):
            future.set_result(plan)
        self._idle_turns = 0


def _do_nothing() -> None:
    pass


def _ignore_error(fault: ReplayError) -> None:
    pass
