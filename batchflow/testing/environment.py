"""A user's app in memory and in virtual time, for the length of one test: stubs, faults, time, and what happened."""

import random
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar, cast, overload

from pydantic import BaseModel
from typing_extensions import Unpack

from batchflow.app import Batchflow
from batchflow.batch.arguments import Id
from batchflow.batch.bound import Workflow
from batchflow.batch.handle import BatchHandle
from batchflow.batch.status import BatchSummary
from batchflow.core.duration import Duration, to_ms
from batchflow.core.failure_budget import FailureBudget
from batchflow.errors import ConfigurationError, hook_step
from batchflow.serve.functions import ServedFunction
from batchflow.serve.runs import RunHandle
from batchflow.serve.trigger import Dedup, TriggerOptions
from batchflow.serve.validation import parse_timestamp
from batchflow.testing.clock import DEFAULT_START, FixedEntropy, ManualClock
from batchflow.testing.drive import StillWaiting
from batchflow.testing.faults import FaultPlan, PlannedCrash, require_positive
from batchflow.testing.history import History
from batchflow.testing.records import FINAL_STATES, BatchRecord, RunRecord, StepRecord, format_table
from batchflow.testing.stages import Play, stage_of
from batchflow.testing.stores import StoreOption, store_for
from batchflow.testing.stubs import (
    HasId,
    StepStubs,
    Stub,
    StubCaller,
    Unanswered,
    call_response,
    describe_unused_call,
    describe_unused_step,
    id_of,
    meant_step,
    names_step,
    raise_error,
    return_value,
)

Payload = TypeVar("Payload")
Params = TypeVar("Params", bound=BaseModel)
Result = TypeVar("Result")

_BATCHES = 1_000
"""The number of batches that a drive looks up at its end."""


class Unused(AssertionError):
    """The test arranged something that never came about; the message names it, and what may have been meant."""


class BatchOptions(TypedDict, total=False):
    """The options of a batch's trigger; see `Workflow.trigger`."""

    force: bool
    ids: Sequence[Id] | None
    limit: int | None
    dedup_id: str | None
    dedup: Dedup
    label: str | None
    batch_id: str | None
    delay: Duration | None
    not_before: datetime | int | None
    headers: Mapping[str, str] | None
    notify_url: str | None
    priority: int | None
    failure_budget: FailureBudget | None


class Environment:
    """`async with Environment(flow) as env:` runs an app, as it was made, in memory and in virtual time.

    It leaves the app's own store and clock untouched and puts them back at the end. Turned into text, it is a table of
    all runs and steps. `store` names another place for the state than memory: "fakeredis"; a URL, on a Redis server in
    a namespace that is removed at the end; a function that makes a store with the test's clock; or a store made with
    the clock that is passed as `start`. Otherwise `start` is the time at which the clock begins. `seed` decides ids and
    jitter; `always_replay` suspends runs after every step; `allow_network` makes calls that the test does not answer;
    `rounds` bounds one drive. With `strict` every step of an item, of a function and every `on_complete` and failure
    function (the step "failure-function") has to be answered, so that none of the app's own code reaches anything;
    `fetch`, `filter` and `count` execute as they are.

    An app on QStash is called by a QStash in memory, without sockets: whatever its account is, nothing reaches it.
    `store` is then the place of its batches.

    Raises:
        ConfigurationError: on entering: the app is running already, the URL names no store, or fakeredis is missing.
        Unused: on leaving: the test arranged something that never came about.
    """

    clock: ManualClock
    """The time, which stands still until the app is driven."""

    def __init__(
        self,
        app: Batchflow,
        *,
        store: StoreOption = None,
        start: ManualClock | datetime | int = DEFAULT_START,
        seed: int = 0,
        always_replay: bool | None = None,
        allow_network: bool = False,
        strict: bool = False,
        rounds: int = 10_000,
    ) -> None:
        self.app = app
        self.clock = start if isinstance(start, ManualClock) else ManualClock(parse_timestamp(start, option="start"))
        self._store_option = store
        self._history = History(self.clock.now, self.__str__)
        self._batches: dict[str, BatchRecord[Any]] = {}
        self._start = self._history.now()
        self._steps = StepStubs(self._history, strict=strict)
        self._caller = StubCaller(self._history, allow_network=allow_network)
        self._faults = FaultPlan()
        self._stage = stage_of(
            Play(
                app=app,
                clock=self.clock,
                entropy=FixedEntropy(seed),
                history=self._history,
                caller=self._caller,
                faults=self._faults,
                always_replay=always_replay,
                rounds=rounds,
            )
        )
        self._stack: AsyncExitStack | None = None
        self._overrides = ExitStack()

    def __str__(self) -> str:
        return format_table(self._start, self.now, self._history.runs.values(), self._batches.values())

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    # Enter and leave

    async def __aenter__(self) -> Self:
        engine, app = self.app.engine, self.app
        async with AsyncExitStack() as stack:
            store, close = store_for(self._store_option, app.settings, self.clock)
            stack.callback(self._overrides.close)
            stack.push_async_callback(close)
            stack.push_async_callback(self._caller.close)
            stack.push_async_callback(self._stage.close)
            await self._stage.open(store, self._overrides)
            self._overrides.callback(setattr, app, "worker", app.worker)
            # A lifespan that is entered in the test starts no worker, which would work in real time.
            app.worker = False
            engine.step_override, engine.caller = self._steps.replace, self._caller
            self._caller.limit = engine.limit
            stack.push_async_callback(app.stop)
            await app.start(worker=False)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()
        if error is None:
            self._check_used()

    @property
    def is_open(self) -> bool:
        """True between entering and leaving."""
        return self._stack is not None

    def restore(self) -> None:
        """Put the app's own store and clock back without an event loop, if a test never left `async with`."""
        stack, self._stack = self._stack, None
        if stack is not None:
            self._overrides.close()
            self.app.resources.drop()

    def _require_open(self) -> None:
        if self._stack is None:
            raise ConfigurationError("the test environment is not open; write 'async with flow_env(flow) as env:'")

    def _check_used(self) -> None:
        kinds = self._history.kinds()
        requests = self._history.calls.values()
        calls = {name for request in requests for name in (request.step, request.url)}
        sentences = [
            *(describe_unused_step(stub, kinds) for stub in self._steps.stubs.unused()),
            *(describe_unused_call(stub, calls, kinds) for stub in self._caller.stubs.unused()),
            *self._faults.describe_unused(),
        ]
        if sentences:
            raise Unused("\n".join([*sentences, str(self)]))

    # Stubs

    def answer(self, step: str, value: object, *, run: HasId | str | None = None) -> None:
        """Execute something else in place of a step: return `value`, or call it if it is a function.

        A step of a workflow goes by its own name or its hook's: "reviews:process-item", "reviews:execute". The function
        receives the step's arguments, and may be async. The value passes through the step's type. `run` restricts the
        stub to one run.
        """
        self._steps.stubs.add(Stub(kind="answer", target=step, run=id_of(run), act=return_value(value)))

    def fail(
        self,
        step: str,
        error: Exception | type[Exception],
        *,
        times: int | None = 1,
        run: HasId | str | None = None,
    ) -> None:
        """Raise `error` in place of a step, the first `times` times; None: always.

        Raises:
            ConfigurationError: `times` is below 1.
        """
        self._steps.stubs.add(Stub(kind="fail", target=step, run=id_of(run), act=raise_error(error), times=times))

    def answer_call(
        self,
        call: str,
        status: int = 200,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        times: int | None = None,
        run: HasId | str | None = None,
    ) -> None:
        """Answer `ctx.call`: the step of that name, or every call to a URL that begins so: a `failure_url` too.

        Text and bytes are sent as they are, anything else as JSON; a function receives the `CallRequest` and returns
        the body. With `times` it answers that often, before stubs that always answer: a 503 first, then a 200.

        Raises:
            ConfigurationError: `times` is below 1.
        """
        act = call_response(status, body, headers)
        self._caller.stubs.add(Stub(kind="answer_call", target=call, run=id_of(run), act=act, times=times))

    def fail_call(
        self,
        call: str,
        error: Exception | str = "connection refused",
        *,
        times: int | None = 1,
        run: HasId | str | None = None,
    ) -> None:
        """Let a call fail without an answer, the first `times` times; None: always. `call` is as for `answer_call`.

        Raises:
            ConfigurationError: `times` is below 1.
        """
        act = raise_error(ConnectionError(error) if isinstance(error, str) else error)
        self._caller.stubs.add(Stub(kind="fail_call", target=call, run=id_of(run), act=act, times=times))

    # Faults

    def crash_before(self, step: int | str) -> None:
        """Crash the process before it writes a step, which was executed and left no trace. See `crash_after`."""
        self._crash(PlannedCrash(step, "before"))

    def crash_after(self, step: int | str) -> None:
        """Crash the process right after it writes a step; a new process goes on when the lease has expired.

        `step` is a name, or counts the steps of all runs in the order in which they are first written, from 1. A step
        that waits is written when its wait begins. A test may arrange several crashes; each happens once.

        Raises:
            ConfigurationError: the number is below 1.
        """
        self._crash(PlannedCrash(step, "after"))

    def deliver_twice(self, delivery: int = 1) -> None:
        """Deliver the n-th delivery a second time while the first one is still running.

        Both execute the next step; the store rejects what the first one writes after that. A run is delivered again
        after every wait; calls do not count.

        Raises:
            ConfigurationError: the number is below 1.
        """
        self._faults.twice.add(require_positive(delivery, "delivery"))

    def deliver_late(self, by: Duration) -> None:
        """Deliver everything that much later than it is due, from now on."""
        self._faults.late_ms = to_ms(by, option="by")

    def reorder(self, seed: int = 0) -> None:
        """Deliver due messages one by one in a random order, which is the same for the same `seed`."""
        self._faults.order = random.Random(seed)

    def _crash(self, crash: PlannedCrash) -> None:
        if not isinstance(crash.step, str):
            require_positive(crash.step, "step")
        self._faults.crashes.append(crash)

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
        return await self._trigger(what, payload, options)

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
        record = await self._trigger(what, payload, options)
        await self.drive()
        return record

    async def _trigger(self, what: Any, payload: Any, options: dict[str, Any]) -> Any:
        self._require_open()
        handle: RunHandle[Any] | BatchHandle[Any] = await what.trigger(payload, **options)
        if isinstance(handle, BatchHandle):
            return self._batch_record(handle)
        run = self._history.run(handle.id, what.endpoint.route)
        await self._refresh()
        return run

    # Time

    async def drive(self, *, until: datetime | int | None = None) -> None:
        """Deliver what is due, jump to what is due next, and so on until nothing is left.

        With `until` (a datetime with its time zone, or ms since the epoch) it delivers what is due up to then, and
        leaves the clock there. A process that crashes is started again.

        Raises:
            Unanswered: the app made a call, or with `strict` executed a step, that the test does not answer.
            StillWaiting: it does not come to rest; the message shows what happened so far.
        """
        end = None if until is None else parse_timestamp(until, option="until")
        self._require_open()
        try:
            await self._stage.drive(end)
        except StillWaiting as error:
            await self._refresh()
            raise StillWaiting(f"{error}\n{self}") from None
        await self._refresh()
        self._check_answered()

    async def advance(self, duration: Duration) -> None:
        """Let that much time pass, and deliver what is due up to then; "0s" delivers what is due now.

        Raises:
            Unanswered, StillWaiting: as for `drive`.
        """
        await self.drive(until=self.clock.now() + to_ms(duration, option="duration"))

    async def notify(self, event_id: str, data: object = None, run: HasId | str | None = None) -> Sequence[str]:
        """Send `data` to the runs that wait for an event, or to `run` alone, and return their ids.

        They continue at the next drive.

        Raises:
            InputError: the event id is invalid.
        """
        self._require_open()
        return await self.app.notify(event_id, data, id_of(run))

    def _check_answered(self) -> None:
        unanswered = [*self._steps.unanswered, *self._caller.unanswered]
        self._steps.unanswered, self._caller.unanswered = [], []
        if unanswered:
            raise Unanswered("\n".join([*dict.fromkeys(unanswered), str(self)]))

    async def _refresh(self) -> None:
        """Read what only the store and the engine know."""
        self._require_open()
        engine = self.app.engine
        for run in [run for run in self._history.runs.values() if run.state not in FINAL_STATES]:
            stored = await self._stage.run(run.id)
            if stored is not None:
                self._history.update(stored)
        for run in self._history.runs.values():
            if run.codec is None and (served := self.app.served.get(run.function)) is not None:
                run.codec = served.result
        for run in self._history.runs.values():
            if run.state == "failed" and not run.is_layer:
                letter = await engine.dead_letter_store.find(run.id)
                run.failure = None if letter is None else letter.failure
        for batch in await engine.store.batches(limit=_BATCHES):
            if (workflow := self.app.workflows.get(batch.workflow)) is not None:
                record = self._batch_record(workflow.batch(batch.id))
                if batch.items_ended and record.ended is None:
                    record.ended = BatchSummary.of(batch)
                    record.results.update([result async for result in record.handle.results()])

    def _batch_record(self, handle: BatchHandle[Result]) -> BatchRecord[Result]:
        found = self._batches.get(handle.id)
        if found is None:
            found = self._batches[handle.id] = BatchRecord(handle=handle, describe=self.__str__)
        return cast("BatchRecord[Result]", found)

    # What happened

    @property
    def now(self) -> datetime:
        """The virtual time, in UTC."""
        return self._history.now()

    @property
    def runs(self) -> list[RunRecord[Any]]:
        """All runs in the order in which they first appeared: triggered ones, children, items of batches."""
        return [run for run in self._history.runs.values() if not run.is_layer]

    @property
    def steps(self) -> list[StepRecord]:
        """Every execution of a step, and every end of one that waited, of all runs, in order."""
        return list(self._history.steps)

    def assert_ran(self, step: str, *, times: int | None = None, run: HasId | str | None = None) -> None:
        """Assert that the step was executed, `times` times or at least once.

        Repeats after failures and crashes count. A step that waits counts when its wait has ended. `run` restricts the
        assertion to one run.

        Raises:
            AssertionError: it was not; the message shows all that happened.
        """
        count = self._count(step, run)
        if count == times or (times is None and count):
            return
        known = self._history.kinds()
        near = meant_step(step, known) if hook_step(step) not in known and step not in known else ""
        wanted = "" if times is None else f", not {_times(times)}"
        raise AssertionError(f"step '{step}' ran {_times(count)}{wanted}{near}\n{self}")

    def assert_not_ran(self, step: str, *, run: HasId | str | None = None) -> None:
        """Assert that the step was never executed.

        Raises:
            AssertionError: it was; the message shows all that happened.
        """
        if count := self._count(step, run):
            raise AssertionError(f"step '{step}' ran {_times(count)}\n{self}")

    def assert_steps(self, run: HasId | str, steps: Sequence[str]) -> None:
        """Assert that these steps of the run have ended, in the order in which their outcomes were recorded.

        Raises:
            AssertionError: other steps have; the message shows all that happened.
        """
        id = id_of(run) or ""
        found = self._history.runs.get(id)
        if found is None:
            raise AssertionError(f"there is no run '{id}'\n{self}")
        if found.steps != [it if it in found.steps else hook_step(it) for it in steps]:
            raise AssertionError(f"the steps of run '{id}' are {found.steps}, not {list(steps)}\n{self}")

    def _count(self, step: str, run: HasId | str | None) -> int:
        id = id_of(run)
        return sum(names_step(step, record.name) and id in (None, record.run) for record in self._history.steps)


class FlowEnv:
    """Makes test environments: `async with flow_env(flow) as env:`. `store` is their default place for the state."""

    def __init__(self, store: StoreOption = None) -> None:
        self._store = store
        self._made: list[Environment] = []

    def __call__(
        self,
        app: Batchflow,
        *,
        store: StoreOption = None,
        start: ManualClock | datetime | int = DEFAULT_START,
        seed: int = 0,
        always_replay: bool | None = None,
        allow_network: bool = False,
        strict: bool = False,
        rounds: int = 10_000,
    ) -> Environment:
        """Make an environment for `app`; the options are those of `Environment`."""
        made = Environment(
            app,
            store=self._store if store is None else store,
            start=start,
            seed=seed,
            always_replay=always_replay,
            allow_network=allow_network,
            strict=strict,
            rounds=rounds,
        )
        self._made.append(made)
        return made

    def close(self) -> None:
        """Check at the end of the test that it left all of them.

        Raises:
            AssertionError: it did not leave one, whose app is restored all the same.
        """
        left = [made for made in self._made if made.is_open]
        for made in left:
            made.restore()
        if left:
            raise AssertionError(
                "a test environment was entered and not left; write 'async with flow_env(flow) as env:'"
            )


def _times(count: int) -> str:
    return f"{count} time{'' if count == 1 else 's'}"
