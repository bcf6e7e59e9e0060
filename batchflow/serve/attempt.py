"""The life of one attempt: who takes part in it, and how it is brought to an end."""

import asyncio
import sys
from typing import Any, Literal, NoReturn, TypeAlias

from batchflow.core.replay import Replay
from batchflow.errors import RunError
from batchflow.logs import logger
from batchflow.serve.delivering import Inside
from batchflow.serve.pump import REST, Pump
from batchflow.serve.refusal import swallowed

Ending: TypeAlias = Literal["lost", "cancelled", "refused", "suspended", "interrupted", "over"]
"""Why nothing goes on: the claim or the store is lost; the run is cancelled; code and journal do not fit; all branches
are parked; the engine has cancelled the root, as it stops or for the time it took; the function has come back."""

_CALM = frozenset({"over", "interrupted"})
"""Endings at which the root has come back, or is cancelled already."""

PATIENCE = 1_000
"""How often code may ask after the end before it gets no answer at all."""


class Attempt:
    """One attempt of a durable function in its own task, the root.

    It is ended by cancelling the root, never by raising into a branch: a `TaskGroup` would cancel its siblings in the
    middle of a step.
    """

    __slots__ = (
        "branches",
        "cancels",
        "ending",
        "fault",
        "has_come_back",
        "idle",
        "insisted",
        "passed",
        "pump",
        "replay",
        "root",
        "run_id",
        "solo",
        "turned_away",
    )

    def __init__(self, run_id: str, replay: Replay, root: "asyncio.Task[Any]") -> None:
        self.run_id = run_id
        self.root = root
        self.replay = replay
        self.pump: Pump | None = None
        """Made when there is somebody to wait for: recorded outcomes, siblings, parked steps."""
        self.idle = True
        """No pump, nothing executing, and the root may ask."""
        self.solo: Inside | None = None
        """The step that the root has started without a pump."""
        self.passed = 0
        """The position of the latest outcome that went to the root without a pump."""
        self.branches: set[asyncio.Task[Any]] = set()
        """The tasks that have asked for steps beside the root."""
        self.cancels = 0
        """How often the attempt has cancelled its own root."""
        self.ending: Ending | None = None
        self.fault: Exception | None = None
        self.has_come_back = False
        """The function has returned or raised."""
        self.insisted = False
        """The branches are cancelled too, since the root did not come back of its own cancellation alone."""
        self.turned_away = 0
        """How often somebody has asked after the end."""

    @property
    def smooth(self) -> bool:
        """Whether nothing stood in the way: no branches, nothing left of a journal."""
        return self.ending is None and not self.branches and self.replay.upcoming is None

    def share(self) -> Pump:
        """The pump; made at the first call, and then it knows what the root has under way."""
        pump = self.pump
        if pump is None:
            self.idle = False
            pump = self.pump = Pump(self.replay, self.passed + 1, self.suspend, self.refuse)
            if self.solo is not None:
                _, number, name = self.solo
                pump.open[number] = name
                pump.busy[number] = self.root, self.root.cancelling()
        return pump

    def cancel(self) -> NoReturn:
        """End the run as cancelled."""
        self.end("cancelled")
        raise asyncio.CancelledError

    def close(self) -> Ending:
        """The function has come back: nothing goes on. How the attempt had ended before, else `over`."""
        self.has_come_back = True
        self.end("over")
        assert self.ending is not None
        return self.ending

    def take_back_cancels(self) -> None:
        """Undo the attempt's own cancellations of the root."""
        for _ in range(self.cancels):
            self.root.uncancel()
        self.cancels = 0

    @property
    def forgotten(self) -> list[str]:
        """The steps that execute in branches which nobody has cancelled: their names."""
        if self.pump is None or all(branch.done() or branch.cancelling() for branch in self.branches):
            return []
        return [self.pump.open[number] for number in sorted(self.pump.busy)]

    async def dismiss(self, *, unheard: bool = False) -> None:
        """Cancel the branches that are left over, and wait for their end.

        `unheard`: the function was kept from looking at how they ended, so nobody is to complain of that.
        """
        left = [branch for branch in self.branches if not branch.done()]
        for branch in left:
            branch.cancel()
        if left:
            await asyncio.wait(left)
        if unheard:
            for branch in self.branches:
                _ = branch.cancelled() or branch.exception()

    def suspend(self) -> None:
        """Everything waits for a later attempt."""
        self.end("suspended")

    def _insist(self, turns: int) -> None:
        # A TaskGroup that is aborting keeps the cancellation to itself, and waits for its tasks.
        if self.has_come_back:
            return
        if turns:
            self.root.get_loop().call_soon(self._insist, turns - 1)
            return
        self.insisted = True
        for branch in self.branches:
            branch.cancel()

    def refuse(self, fault: RunError) -> None:
        """Code and journal do not fit, or the store never takes what there is to record."""
        self.end("refused", fault)

    def end(self, ending: Ending, fault: Exception | None = None) -> None:
        """Let nothing more go on; only the first ending counts. User code that led here gets a `CancelledError`."""
        if self.ending is not None:
            return
        self.ending, self.fault = ending, fault
        self.idle = False
        if self.pump is not None:
            self.pump.close()
        if ending not in _CALM and asyncio.current_task() is not self.root:
            self.cancels += 1
            self.root.cancel()
        if ending != "over" and self.branches:
            self._insist(REST)

    async def turn_away(self, name: str) -> NoReturn:
        """Turn away who asks after the end: the root is found out if it caught its cancellation and goes on."""
        task = asyncio.current_task()
        if self.ending == "over" and not self.replay.note(name):
            logger().warning(
                "[batchflow] A step is not executed, since its function had returned before it was asked for; await it",
                run=self.run_id,
                step=name,
            )
        # While `finally` and `except` blocks run, the exception is at hand: the root unwinds, which is as it should be.
        if self.ending == "suspended" and task is self.root and not self.insisted and sys.exc_info()[1] is None:
            self.ending, self.fault = "refused", swallowed(f"asked for step '{name}'")
        self.turned_away += 1
        if self.turned_away > PATIENCE:
            # Code that catches this and asks again, for ever, would keep the event loop for itself.
            await asyncio.get_running_loop().create_future()
        raise asyncio.CancelledError
