"""A user's app in memory and in virtual time, for the length of one test."""

from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar, cast, overload

from pydantic import BaseModel
from typing_extensions import Unpack

from batchflow.app import Batchflow
from batchflow.batch.bound import Workflow
from batchflow.batch.handle import BatchHandle
from batchflow.batch.summary import BatchSummary
from batchflow.core.duration import Duration, to_ms
from batchflow.core.store import Store
from batchflow.errors import ConfigurationError
from batchflow.serve.functions import ServedFunction
from batchflow.serve.runs import RunHandle
from batchflow.serve.trigger import TriggerOptions
from batchflow.serve.validation import parse_timestamp
from batchflow.testing.arranged import Arranged
from batchflow.testing.calls import Unanswered
from batchflow.testing.clock import START, FixedEntropy, ManualClock
from batchflow.testing.drive import StillWaiting, drive
from batchflow.testing.options import BatchOptions, StoreOption
from batchflow.testing.passing import Died
from batchflow.testing.places import place_of
from batchflow.testing.process import ProcessStore
from batchflow.testing.records import FINAL, BatchRecord, RunRecord
from batchflow.testing.standins import HasId, id_of

Payload = TypeVar("Payload")
Params = TypeVar("Params", bound=BaseModel)
Result = TypeVar("Result")

_BATCHES = 1_000
# As many batches are looked at after a drive.


class Environment(Arranged):
    """`async with Environment(flow) as env:` runs an app, as it was made, in memory and in virtual time.

    Its own store and clock are untouched and put back at the end. `store` is another place than memory: "fakeredis"; a
    URL, on a Redis server with a namespace that is removed at the end; a function that makes a store with the test's
    clock; or a store made with the clock that is then given as `start`. Otherwise `start` is when the clock begins.
    `seed` decides ids and jitter; `always_replay` suspends runs after every step; `allow_network` lets calls out that
    the test does not answer; `rounds` bounds one drive.

    Raises:
        ConfigurationError: on entering: the app is running already, the URL names no store, or there is no fakeredis.
        Unused: on leaving: something that was arranged never came about.
    """

    def __init__(
        self,
        app: Batchflow,
        *,
        store: StoreOption = None,
        start: ManualClock | datetime | int = START,
        seed: int = 0,
        always_replay: bool | None = None,
        allow_network: bool = False,
        rounds: int = 10_000,
    ) -> None:
        clock = start if isinstance(start, ManualClock) else ManualClock(parse_timestamp(start, option="start"))
        super().__init__(clock, allow_network=allow_network)
        self.app = app
        self._where = store
        self._entropy = FixedEntropy(seed)
        self._always_replay = always_replay
        self._rounds = rounds
        self._store: Store | None = None
        self._stack: AsyncExitStack | None = None
        self._exchange = ExitStack()

    # Life

    async def __aenter__(self) -> Self:
        engine, app = self.app.engine, self.app
        async with AsyncExitStack() as stack:
            store, leave = place_of(self._where, app.settings, self.clock)
            process = ProcessStore(store, self._history, self._faults)
            exchange = engine.substituted(
                store=process, clock=self.clock, entropy=self._entropy, always_replay=self._always_replay
            )
            self._exchange.enter_context(exchange)
            self._exchange.callback(setattr, app, "worker", app.worker)
            stack.callback(self._exchange.close)
            # A lifespan that is entered in the test starts no worker, which would work in real time.
            app.worker = False
            engine.stand_in, engine.caller = self._stand_ins.stand_in, self._caller
            self._caller.limit = engine.limit
            stack.push_async_callback(leave)
            stack.push_async_callback(self._caller.close)
            stack.push_async_callback(engine.close)
            await engine.open()
            self._store, self._stack = store, stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack, self._store = self._stack, None, None
        if stack is not None:
            await stack.aclose()
        if error is None:
            self._check_used()

    @property
    def is_open(self) -> bool:
        """Whether it holds the app."""
        return self._stack is not None

    def put_back(self) -> None:
        """Give the app back without an event loop, where `async with` was not left; what ran in it is let go."""
        stack, self._stack, self._store = self._stack, None, None
        if stack is not None:
            self._exchange.close()

    # Starting runs

    @overload
    async def trigger(
        self, what: ServedFunction[Payload, Result], payload: Payload, /, **options: Unpack[TriggerOptions]
    ) -> RunRecord[Result]: ...
    @overload
    async def trigger(
        self, what: Workflow[Params, Result], params: Params | None = None, /, **options: Unpack[BatchOptions]
    ) -> BatchRecord[Result]: ...
    async def trigger(self, what: Any, payload: Any = None, /, **options: Any) -> Any:
        """Start a run of a served function, or a batch, and deliver nothing yet.

        Raises:
            InputError, ConfigurationError, UnserializableError: as for the `trigger` of the function or workflow.
        """
        return await self._started(what, payload, options)

    @overload
    async def run(
        self, what: ServedFunction[Payload, Result], payload: Payload, /, **options: Unpack[TriggerOptions]
    ) -> RunRecord[Result]: ...
    @overload
    async def run(
        self, what: Workflow[Params, Result], params: Params | None = None, /, **options: Unpack[BatchOptions]
    ) -> BatchRecord[Result]: ...
    async def run(self, what: Any, payload: Any = None, /, **options: Any) -> Any:
        """Start a run of a served function, or a batch, and drive the app to idle, however long that takes.

        Raises:
            InputError, ConfigurationError, UnserializableError: as for `trigger`.
            Unanswered, StillWaiting: as for `drive`.
        """
        record = await self._started(what, payload, options)
        await self.drive()
        return record

    async def _started(self, what: Any, payload: Any, options: dict[str, Any]) -> Any:
        self._require_open()
        handle: RunHandle[Any] | BatchHandle[Any] = await what.trigger(payload, **options)
        if isinstance(handle, BatchHandle):
            return self._batch(handle)
        run = self._history.run(handle.id, what.endpoint.route)
        await self._look()
        return run

    # Time

    async def drive(self, *, until: datetime | int | None = None) -> None:
        """Deliver what is due, jump to what is due next, and so on until nothing is left.

        With `until` (a datetime with its time zone, or ms since the epoch) only what is due up to then is delivered,
        and the clock stands there. A process that dies is started again.

        Raises:
            Unanswered: a call was made that the test does not answer.
            StillWaiting: it goes on and on; what happened so far is printed.
        """
        end = None if until is None else parse_timestamp(until, option="until")
        store = self._require_open()
        try:
            while True:
                try:
                    await drive(self.app, self.clock, rounds=self._rounds, until=end)
                    break
                except Died:
                    self.app.engine.store = ProcessStore(store, self._history, self._faults)
        except StillWaiting as error:
            await self._look()
            raise StillWaiting(f"{error}\n{self}") from None
        await self._look()
        self._check_answered()

    async def advance(self, duration: Duration) -> None:
        """Let so much time pass, and deliver what is due up to then; "0s" delivers what is due now.

        Raises:
            Unanswered, StillWaiting: as for `drive`.
        """
        await self.drive(until=self.clock.now() + to_ms(duration, option="duration"))

    async def notify(self, event_id: str, data: object = None, run: HasId | str | None = None) -> Sequence[str]:
        """Give `data` to the runs that wait for an event, or to `run` alone; their ids. They go on at the next drive.

        Raises:
            InputError: the event id is none.
        """
        self._require_open()
        return await self.app.notify(event_id, data, id_of(run))

    # What became of it

    def _require_open(self) -> Store:
        if self._store is None:
            raise ConfigurationError("the test environment is not open; write 'async with flow_env(flow) as env:'")
        return self._store

    def _check_answered(self) -> None:
        unanswered, self._caller.unanswered = self._caller.unanswered, []
        if unanswered:
            raise Unanswered("\n".join([*dict.fromkeys(unanswered), str(self)]))

    async def _look(self) -> None:
        """Take up what only the store knows."""
        store = self._require_open()
        for run in [run for run in self._history.runs.values() if run.state not in FINAL]:
            stored = await store.run(run.id)
            if stored is not None:
                self._history.looked_up(stored)
        for run in self._history.runs.values():
            if run.codec is None and (served := self.app.served.get(run.function)) is not None:
                run.codec = served.result
        for batch in await store.batches(limit=_BATCHES):
            if (workflow := self.app.workflows.get(batch.workflow)) is not None:
                record = self._batch(workflow.batch(batch.id))
                if batch.is_final and record.ended is None:
                    record.ended = BatchSummary.of(batch)
                    record.results.update([result async for result in record.handle.results()])

    def _batch(self, handle: BatchHandle[Result]) -> BatchRecord[Result]:
        found = self._batches.get(handle.id)
        if found is None:
            found = self._batches[handle.id] = BatchRecord(handle=handle, told=self.__str__)
        return cast("BatchRecord[Result]", found)
