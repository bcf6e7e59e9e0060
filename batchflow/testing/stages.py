"""The stages on which a test plays an app: in its own process, or as one that a QStash calls."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from batchflow.app import Batchflow
from batchflow.core.run import Run
from batchflow.core.store import Store
from batchflow.engine.engine import Engine
from batchflow.testing.clock import FixedEntropy, ManualClock
from batchflow.testing.drive import drive
from batchflow.testing.faults import FaultPlan, ProcessCrashed
from batchflow.testing.history import History
from batchflow.testing.processes import ProcessStore
from batchflow.testing.stubs import StubCaller


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """The parts with which a test plays an app, on each stage."""

    app: Batchflow
    clock: ManualClock
    entropy: FixedEntropy
    history: History
    caller: StubCaller
    faults: FaultPlan
    always_replay: bool | None
    rounds: int


class Stage(Protocol):
    """The place of an app in a test."""

    async def open(self, store: Store, overrides: ExitStack) -> None:
        """Let the app have its state in `store`; `overrides` puts back what it had, without an event loop.

        Raises:
            ConfigurationError: the app is running already.
        """
        ...

    async def drive(self, until: int | None) -> None:
        """Deliver what is due, jump to what is due next, and so on; a process that crashes is started again.

        Raises:
            StillWaiting: it does not come to rest.
        """
        ...

    async def run(self, id: str) -> Run | None:
        """Read a run; its journal has what no delivery has told of."""
        ...

    async def close(self) -> None:
        """End, after the app has stopped."""
        ...


class OwnProcess:
    """An app whose process claims the work, on the embedded engine and on Redis."""

    def __init__(self, play: Play) -> None:
        self._play = play

    async def open(self, store: Store, overrides: ExitStack) -> None:
        """See the port."""
        play = self._play
        self._store = store
        overrides.enter_context(
            play.app.engine.substituted(
                store=self._new_process(), clock=play.clock, entropy=play.entropy, always_replay=play.always_replay
            )
        )

    async def drive(self, until: int | None) -> None:
        """See the port."""
        play = self._play
        while True:
            try:
                await drive(play.app, play.clock, rounds=play.rounds, until=until)
                return
            except ProcessCrashed:
                play.app.engine.store = self._new_process()

    async def run(self, id: str) -> Run | None:
        """See the port."""
        return await self._store.run(id)

    async def close(self) -> None:
        """See the port."""

    def _new_process(self) -> ProcessStore:
        return ProcessStore(self._store, self._play.history, self._play.faults)


def stage_of(play: Play) -> Stage:
    """The stage of an app, by its engine."""
    if type(play.app.engine) is Engine:
        return OwnProcess(play)
    # Imported only for the apps that need it.
    from batchflow.testing.qstash_stage import CalledByQStash

    return CalledByQStash(play)
