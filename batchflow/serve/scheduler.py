"""Who goes on next within one attempt: recorded outcomes first, one at a time, each once the code is at rest."""

import asyncio
from collections.abc import Callable
from typing import NoReturn

from batchflow.core.ports import Plan, Recorder
from batchflow.core.replay import Replay
from batchflow.core.run import Step
from batchflow.errors import ReplayError

REST = 32
"""Turns of the event loop without a new request after which the code has come to rest."""


class Scheduler:
    """Hands outcomes to the branches of a function, in the order of their positions, and says which steps may start.

    Driven by callbacks of the event loop, and only while there is something to wait for: a run without recorded steps
    and without siblings never starts it. `suspend` is called when something is parked and nothing else can go on,
    `refuse` when the journal does not fit.

    While recorded outcomes are left no new step starts; then `recorder` plans all that were asked for, as one round.
    Under a recorder that stops the steps of a fresh run are such a round too.
    """

    __slots__ = (
        "_backlog",
        "_held",
        "_is_scheduled",
        "_loop",
        "_next",
        "_quiet",
        "_ready",
        "_recorder",
        "_refuse",
        "_replay",
        "_settled",
        "_suspend",
        "_waiting",
        "alone",
        "busy",
        "closed",
        "holding",
        "open",
        "pending",
        "waits",
        "withdrawn",
    )

    def __init__(
        self,
        replay: Replay,
        recorder: Recorder,
        first: int,
        suspend: Callable[[], None],
        refuse: Callable[[ReplayError], None],
    ) -> None:
        self._replay = replay
        self._recorder = recorder
        self._suspend = suspend
        self._refuse = refuse
        self._loop = asyncio.get_running_loop()
        self._next = first
        # What asyncio's own event loop is to do next; others, such as uvloop, do not tell.
        self._backlog = getattr(self._loop, "_ready", None)
        self._quiet = 0
        self._is_scheduled = False
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._held: dict[int, tuple[Step, asyncio.Future[Plan]]] = {}
        self._settled: frozenset[int] = frozenset()
        self._ready: dict[int, asyncio.Future[None] | None] = {}
        self.alone = True
        """Only the root has asked so far."""
        self.holding = recorder.stops or replay.upcoming is not None
        """Recorded outcomes are left, or the code is not yet at rest after the last one: no new step starts."""
        self.open: dict[int, str] = {}
        """Steps that were asked for and have not come back, by number."""
        self.busy: dict[int, tuple[asyncio.Task[object] | None, int]] = {}
        """Steps that execute or are being recorded: in which task, and how often that had been cancelled before."""
        self.pending: dict[int, Step] = {}
        """What the attempt found out about steps that are not done."""
        self.waits: dict[int, int] = {}
        """Which branches are parked, and until when."""
        self.withdrawn: set[int] = set()
        """Steps that do not wait for their events any more."""
        self.closed = False
        """The attempt has ended; nobody goes on."""

    def close(self) -> None:
        """Let nobody go on."""
        self.closed = True
        # Otherwise scheduler and execution hold each other until the garbage is collected.
        self._suspend, self._refuse = _nothing, _nobody

    def enter(self, number: int) -> None:
        """A step starts to execute, in the present task."""
        task = asyncio.current_task()
        self.busy[number] = task, task.cancelling() if task is not None else 0

    def leave(self, number: int) -> None:
        """A request has come back, in whatever way."""
        self.busy.pop(number, None)
        del self.open[number]
        if self.waits or self._ready:
            # What is parked may be all that is left, or somebody waited for this one.
            self.wake()

    def wake(self) -> None:
        """The code has done something: it is not at rest."""
        self._quiet = 0
        self.schedule()

    def schedule(self) -> None:
        """Look, once the code is at rest, whether somebody can go on."""
        if not self._is_scheduled and not self.closed:
            self._is_scheduled = True
            self._loop.call_soon(self._turn)

    async def wait_recorded(self, step: Step) -> None:
        """Wait until a step's recorded outcome is handed out."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting[step.number] = future
        self.wake()
        await future

    async def wait_start(self, step: Step) -> Plan:
        """Wait until a new step may be planned; what is to become of it."""
        if not self.holding:
            return self._recorder.plan((step,), self._settled)[0]
        future: asyncio.Future[Plan] = self._loop.create_future()
        self._held[step.number] = step, future
        self.wake()
        return await future

    async def park(self, step: Step, due: int) -> NoReturn:
        """Let a branch wait for a later attempt."""
        self.busy.pop(step.number, None)
        self.waits[step.number] = due
        self.wake()
        try:
            await self._loop.create_future()
        finally:
            if not self.closed:
                del self.waits[step.number]
                self.withdraw(step)
                if not step.failures:
                    self.pending.pop(step.number, None)
        raise AssertionError("a parked branch goes on in a later attempt only")

    def withdraw(self, step: Step) -> None:
        """The code does not wait for this step any more."""
        if step.kind == "wait":
            self.withdrawn.add(step.number)

    def passed(self, position: int) -> None:
        """The outcome at `position` went to the root directly."""
        self._next = position + 1

    async def deliver(self, number: int, position: int) -> None:
        """Wait until the outcome of a step at `position`, durable now, is to be handed out."""
        future: asyncio.Future[None] = self._loop.create_future()
        self.busy[number] = None, 0
        self._ready[position] = future
        self.schedule()
        await future

    def skip(self, position: int) -> None:
        """Nobody waits for the outcome at `position` any more."""
        self._ready[position] = None
        self.schedule()

    def _turn(self) -> None:
        self._is_scheduled = False
        # With nothing open the code is busy elsewhere, and asks or ends sooner or later.
        if self.closed or not self.open:
            return
        # With nothing else to do on the whole loop, no turn can change anything any more.
        self._quiet = REST if self._backlog is not None and not self._backlog else self._quiet + 1
        if self._quiet < REST or self._let_one_go_on():
            self.schedule()

    def _let_one_go_on(self) -> bool:
        """Let one branch go on; whether there may be more to do."""
        upcoming = self._replay.upcoming
        if upcoming is not None:
            return self._hand_out(upcoming)
        if self.holding:
            # Only now: the last recorded outcome may have made the code take back what waits to start.
            self._release()
            return True
        if self._next in self._ready:
            if self._is_unwinding():
                return False
            future = self._ready.pop(self._next)
            self._next += 1
            if future is not None and not future.done():
                future.set_result(None)
                self._quiet = 0
            return True
        if self.waits and not self.busy:
            self._suspend()
        return False

    def _is_unwinding(self) -> bool:
        # Code that has cancelled a step waits for its end, which takes no time on a replay: nobody overtakes it.
        return any(task is not None and task.cancelling() > before for task, before in self.busy.values())

    def _hand_out(self, step: Step) -> bool:
        if not self._replay.has_asked(step.name):
            self._refuse(self._replay.mismatch(list(self.open.values())))
            return False
        self._replay.hand_out()
        if self._replay.upcoming is None:
            self._settled = frozenset(self._held)
        future = self._waiting.pop(step.number)
        if not future.done():
            future.set_result(None)
            self._quiet = 0
        return True

    def _release(self) -> None:
        """Plan the round: the new steps that were asked for up to now and are still waited for."""
        self.holding = False
        held = [(step, future) for step, future in self._held.values() if not future.done()]
        self._held.clear()
        if not held:
            return
        plans = self._recorder.plan([step for step, _ in held], self._settled)
        for (_, future), plan in zip(held, plans, strict=True):
            future.set_result(plan)
        self._quiet = 0


def _nothing() -> None:
    pass


def _nobody(fault: ReplayError) -> None:
    pass
