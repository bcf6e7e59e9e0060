"""One attempt of a durable function: runs the steps that its code asks for, has them recorded, knows how it ended."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias, TypeVar

from batchflow.core.codec import Codec
from batchflow.core.limit import DEFAULT, Limit
from batchflow.core.message import Claim
from batchflow.core.ports import Lease, Recorder, Runtime, Verdict
from batchflow.core.replay import Replay
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import NEVER, Step, StepKind
from batchflow.core.settlement import Effect
from batchflow.errors import ReplayError, RunError, StepFailed, StoreError
from batchflow.logs import logger
from batchflow.serve.callables import call_with_timeout
from batchflow.serve.delivery import CURRENT_STEP, ActiveStep
from batchflow.serve.failure import (
    describe_error,
    error_report,
    headline,
    is_program_exit,
    rate_limit,
    rate_limit_delay_ms,
    traceback_text,
)
from batchflow.serve.scheduler import IDLE_TURNS, Scheduler
from batchflow.serve.validation import (
    check_step_name,
    nested_step,
    step_after_final,
    swallowed_cancellation,
    unreadable_result,
    unstorable_step,
)

T = TypeVar("T")

AttemptEnding: TypeAlias = Literal["lost", "cancelled", "refused", "suspended", "interrupted", "over"]
"""Why nothing goes on: the claim or the store is lost; the run is cancelled; code and journal do not fit; all branches
are parked; the engine has cancelled the root, as it stops or for the time it took; the function has come back."""

_ROOT_IS_STOPPED = frozenset({"over", "interrupted"})
"""Endings at which the root has come back, or is cancelled already."""

_STILL_RECORDS = frozenset({None, "interrupted"})
"""Endings at which what was executed is still recorded."""

_RecordVerb: TypeAlias = Callable[[Step, tuple[Effect, ...]], Awaitable[Verdict]]

MAX_LATE_REQUESTS = 1_000
"""How often code may ask after the end before it gets no answer at all."""


class StepOptions(NamedTuple):
    """What is set for one step.

    `defer_to_settlement`: its outcome is written with the settlement, and only such steps may follow. `effects`, of its
    result, are written together with it otherwise.
    """

    retry: RetryPolicy | None = None
    timeout_ms: int | None = None
    defer_to_settlement: bool = False
    effects: Callable[[Any], tuple[Effect, ...]] | None = None


DEFAULT_STEP = StepOptions()
FINAL_STEP = StepOptions(defer_to_settlement=True)

# Made for every step there is; the constructor of a named tuple takes three times as long.
_new_step: Callable[..., Step] = tuple[Any, ...].__new__

_NO_TASKS: frozenset["asyncio.Task[Any]"] = frozenset()


class Execution:
    """One attempt of a durable function in its own task, the root.

    It is ended by cancelling the root, never by raising into a branch: a `TaskGroup` would cancel its siblings in the
    middle of a step. How steps become durable is known to `recorder` alone.
    """

    # One is made for every item, and most have neither journal nor branches: what only those need is made for those.
    __slots__ = (
        "_cancels",
        "_direct_step",
        "_interrupts",
        "_is_direct",
        "_last_position",
        "_late_requests",
        "_lease",
        "_lease_losses",
        "_record_until_stored",
        "_returned",
        "_step_override",
        "branches",
        "claim",
        "deferred",
        "ending",
        "entropy",
        "failures",
        "fault",
        "force_cancelled",
        "handled_errors",
        "loop",
        "max_value",
        "observers",
        "rate_limit",
        "recorder",
        "replay",
        "root",
        "run_id",
        "scheduler",
        "time",
    )

    def __init__(
        self,
        claim: Claim,
        recorder: Recorder,
        runtime: Runtime,
        root: "asyncio.Task[Any]",
        *,
        max_value: Limit = DEFAULT,
    ) -> None:
        self.claim = claim
        self.run_id = claim.id
        self.recorder = recorder
        self.root = root
        self.loop = root.get_loop()
        self.replay = Replay(claim.journal)
        self.max_value = max_value
        """What each step's result is held to."""
        self.observers = runtime.observers
        self.entropy = runtime.entropy
        self._interrupts = runtime.interrupts
        self._record_until_stored = runtime.insist
        self._step_override = runtime.stand_in
        self._lease = runtime.lease
        self._lease_losses = 0 if runtime.lease is None else runtime.lease.losses
        """How often the lease had ended when the attempt began."""
        self.scheduler: Scheduler | None = None
        """Made when there is somebody to wait for: recorded outcomes, siblings, parked steps."""
        self.branches: set[asyncio.Task[Any]] | frozenset[asyncio.Task[Any]] = _NO_TASKS
        """The tasks that have asked for steps beside the root."""
        self._is_direct = True
        """No scheduler, nothing executing, and the root may ask."""
        self._direct_step: ActiveStep | None = None
        """The step that the root has started without a scheduler."""
        self._last_position = 0
        """The position of the latest outcome that went to the root without a scheduler."""
        self.deferred: tuple[Step, ...] = ()
        """The outcomes that go with the settlement."""
        self.failures = claim.failures
        """Failed attempts of the function so far; a recorded step starts them anew."""
        self.rate_limit: tuple[int, str] | None = None
        """Until when the flow key is to wait, and why."""
        self.handled_errors: tuple[tuple[BaseException, str], ...] = ()
        """The exceptions that were being handled when new steps were asked for, with those steps."""
        self.time = claim.started_at
        """The run's own time: when the latest outcome was recorded that the code has seen."""
        self.ending: AttemptEnding | None = None
        self.fault: Exception | None = None
        self._returned = False
        """The function has come back."""
        self._cancels = 0
        """How often the attempt has cancelled its own root."""
        self.force_cancelled = False
        """The branches are cancelled too, since the root did not come back of its own cancellation alone."""
        self._late_requests = 0
        """How often somebody has asked after the end."""
        if claim.journal or recorder.stops:
            self._last_position = self.replay.last
            self.ensure_scheduler()

    # Steps

    async def run_step(
        self,
        name: str,
        codec: Codec[T],
        fn: Callable[..., Awaitable[T]],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: StepOptions,
    ) -> T:
        """The result of a step: the recorded one, or that of `fn` once it is durable. The name is checked already."""
        if self._interrupts.requested:
            self.end_if_interrupted()
        # Nearly all runs are fresh and have no branches; they pay for nothing else.
        number = failures = 0
        if self._is_direct and sys.exc_info()[1] is None and asyncio.current_task(self.loop) is self.root:
            number = self.replay.begin(name)
        if number:
            self._is_direct = False
            self._direct_step = active = (self.run_id, number, name)
            CURRENT_STEP.set(active)
        else:
            step = await self._scheduled(name, deferred=options.defer_to_settlement)
            if step.position:
                return self._recorded_result(step, codec)
            number, failures = step.number, step.failures
        try:
            if (lease := self._lease) is not None and lease.is_doubtful(self._lease_losses):
                await self._check_lease(lease)
            if self._step_override is not None:
                fn = self._step_override(self.run_id, name, fn)
            if (tell := self.observers.step_started) is not None:
                tell(self.claim, name, self._has_branches)
            value: Any = None
            try:
                if options.timeout_ms is None:
                    value = await fn(*args, **kwargs)
                else:
                    value = await call_with_timeout(options.timeout_ms, fn, args, kwargs)
                text, value = codec.round_trip(value, where=f"step '{name}'")
                if len(text) > self.max_value.sure:
                    self.max_value.check(text, f"step '{name}'")
                at = self.recorder.clock.now()
                outcome = _new_step(
                    Step, (number, name, "run", "done", self.replay.place(), text, None, failures, 0, at)
                )
            except BaseException as error:
                # What would take the worker along, and the next one, is a failure like any other.
                if isinstance(error, asyncio.CancelledError) or is_program_exit(
                    error, self._task_of(number), self.loop
                ):
                    raise
                outcome = self._failed(number, name, failures, error, options.retry)
            if not outcome.position:
                await self.ensure_scheduler().park(outcome, outcome.due)
            if options.defer_to_settlement and not self.branches and self.ending in _STILL_RECORDS:
                self.deferred += (outcome,)
                if (tell := self.observers.step_recorded) is not None:
                    tell(self.claim, outcome)
            else:
                wanted = options.effects
                await self._commit(outcome, () if wanted is None or outcome.state == "failed" else wanted(value))
            if outcome.state == "failed":
                raise _step_failed(outcome)
            return value
        finally:
            self._finish(number)

    async def _scheduled(self, name: str, *, deferred: bool = False) -> Step:
        """Ask for a step beside a journal or siblings: as it is recorded, once that is handed out, or as it starts."""
        step = await self._request(name, "run", deferred=deferred)
        try:
            if step.position:
                await self.ensure_scheduler().wait_recorded(step)
                self._finish(step.number)
            else:
                await self._wait_start(step)
                self._begin(step)
        except BaseException:
            self._finish(step.number)
            raise
        return step

    async def sleep(self, name: str, due: int) -> None:
        """Come back once it is `due`, or what is recorded as due."""
        step = await self._request(name, "sleep")
        try:
            if step.position:
                await self.ensure_scheduler().wait_recorded(step)
            else:
                await self._wait_start(step)
                if not step.due:
                    step = step._replace(due=due)
                    await self._begin_sleep(step)
                self._begin(step)
                step = self._completed(step, "null")
                await self._commit(step)
            self._advance_time(step)
        finally:
            self._finish(step.number)

    async def _begin_sleep(self, step: Step) -> None:
        """Park a new sleep that is not due."""
        if not self.branches:
            # Tasks that were just made get to ask for what they are for.
            await asyncio.sleep(0)
        if step.due <= self.now():
            return
        if self.branches or self.recorder.stops:
            # What executes beside it may take long, and a crash would start it anew.
            self._begin(step)
            await self._record_start(step, ())
        else:
            # It is written with the settlement.
            self._notify_recorded(step)
        self.ensure_scheduler().pending[step.number] = step
        await self.ensure_scheduler().park(step, step.due)

    async def wait(
        self, name: str, kind: StepKind, effects: Callable[[int], tuple[Effect, ...]], *, due: int = 0
    ) -> Step:
        """The outcome of a step for something from outside, at the latest at `due` (0: as long as it takes).

        `effects`, of the step's number, start what it waits for; they are written when it is asked for first, so that
        nothing is missed that comes while other branches execute.
        """
        step = await self._request(name, kind)
        try:
            if not step.position:
                if not step.at:
                    await self._wait_start(step)
                    step = step._replace(due=due, at=self.now())
                    self._begin(step)
                    try:
                        await self._record_start(step, effects(step.number))
                    except asyncio.CancelledError:
                        self.ensure_scheduler().withdraw(step)
                        raise
                await self.ensure_scheduler().park(step, step.due or NEVER)
            await self.ensure_scheduler().wait_recorded(step)
            self._advance_time(step)
            if step.at >= self.replay.newest:
                self._notify_recorded(step)
            return step
        finally:
            self._finish(step.number)

    async def record_effects(
        self, name: str, codec: Codec[T], make: Callable[[], T], effects: Callable[[T], tuple[Effect, ...]]
    ) -> T:
        """The result of a step that does nothing but write `effects`, once, together with its outcome."""
        step = await self._scheduled(name)
        if step.position:
            return self._recorded_result(step, codec)
        try:
            value = make()
            await self._commit(self._completed(step, codec.encode(value)), effects(value))
            return value
        finally:
            self._finish(step.number)

    # What the code may ask

    def now(self) -> int:
        """The time, in ms since the epoch."""
        return self.recorder.clock.now()

    @property
    def current_step(self) -> str | None:
        """The name of the step in which the code is that asks."""
        active = CURRENT_STEP.get()
        return active[2] if active is not None and self._is_under_way(active) else None

    @property
    def is_replaying(self) -> bool:
        """Whether the code does again what it did on an earlier attempt."""
        return self.replay.upcoming is not None

    def cancel(self) -> NoReturn:
        """End the run as cancelled."""
        self.end("cancelled")
        raise asyncio.CancelledError

    # Who goes on

    def ensure_scheduler(self) -> Scheduler:
        """The scheduler; made at the first call, and then it knows what the root has under way."""
        scheduler = self.scheduler
        if scheduler is None:
            self._is_direct = False
            scheduler = Scheduler(self.replay, self.recorder, self._last_position + 1, self._suspend, self.fail)
            self.scheduler = scheduler
            if self._direct_step is not None:
                _, number, name = self._direct_step
                scheduler.requested[number] = name
                scheduler.executing[number] = self.root, self.root.cancelling()
        return scheduler

    async def _request(self, name: str, kind: StepKind, *, deferred: bool = False) -> Step:
        """Register a request: the step as it is recorded, or a new one."""
        check_step_name(name)
        task = asyncio.current_task()
        if self._interrupts.requested:
            self.end_if_interrupted()
        if self.ending is not None:
            await self._reject_late_request(name)
        active = CURRENT_STEP.get()
        if active is not None and self._is_under_way(active):
            self.fail(nested_step(name, active[2]))
            raise asyncio.CancelledError
        if self.deferred and not deferred:
            self.fail(step_after_final(name, self.deferred[-1].name))
            raise asyncio.CancelledError
        try:
            step = self.replay.ask(name, kind)
        except ReplayError as error:
            self.fail(error)
            raise asyncio.CancelledError from None
        if not step.position and (error := sys.exc_info()[1]) is not None:
            self.handled_errors += ((error, name),)
        scheduler = self.ensure_scheduler()
        scheduler.requested[step.number] = name
        if task is not None and task is not self.root:
            if not self.branches:
                self.branches = set()
                self._interrupts.on_request(self.claim, self.end_if_interrupted)
            self.branches |= {task}
            scheduler.is_root_only = False
        if not scheduler.is_root_only:
            scheduler.wake()
        return step

    async def _wait_start(self, step: Step) -> None:
        """Wait until the step may start; one that is to be tried again later, or not by this attempt, parks."""
        scheduler = self.ensure_scheduler()
        if step.due > self.now():
            scheduler.pending[step.number] = step
            await scheduler.park(step, step.due)
        if await scheduler.wait_start(step) == "park":
            await scheduler.park(step, NEVER)

    def _begin(self, step: Step) -> None:
        """A step starts to execute."""
        self.ensure_scheduler().begin(step.number)
        CURRENT_STEP.set((self.run_id, step.number, step.name))

    def _finish(self, number: int) -> None:
        """A request has come back, in whatever way."""
        self._direct_step = None
        if self._interrupts.requested:
            self.end_if_interrupted()
        if self.scheduler is None:
            self._is_direct = self.ending is None and not self.deferred
        else:
            self.scheduler.finish(number)

    def _task_of(self, number: int) -> "asyncio.Task[Any] | None":
        """The task in which a step executes."""
        return self.root if self.scheduler is None else self.scheduler.executing.get(number, (None, 0))[0]

    def _is_under_way(self, active: ActiveStep) -> bool:
        run, number, _ = active
        if run != self.run_id:
            return False
        return active is self._direct_step or (self.scheduler is not None and number in self.scheduler.executing)

    @property
    def _has_branches(self) -> bool:
        return any(not branch.done() for branch in self.branches)

    # Outcomes

    def _completed(self, step: Step, value: str) -> Step:
        return step._replace(state="done", position=self.replay.place(), value=value, due=0, at=self.now())

    def _failed(self, number: int, name: str, failures: int, error: BaseException, retry: RetryPolicy | None) -> Step:
        """What a failure makes of a step: pending until it is tried again, or failed."""
        limit = rate_limit(error)
        if limit is not None:
            until = self.now() + rate_limit_delay_ms(limit, retry or self.recorder.policy)
            self.rate_limit = max(self.rate_limit or (0, ""), (until, describe_error(error)))
            return Step(number, name, "run", "pending", failures=failures)
        failures += 1
        at = self.recorder.again_at(error, failures, retry)
        if at is None:
            outcome = Step(
                number, name, "run", "failed", self.replay.place(), None, error_report(error), failures, 0, self.now()
            )
        else:
            outcome = Step(number, name, "run", "pending", 0, None, describe_error(error), failures, at)
            self.ensure_scheduler().pending[number] = outcome
        if (tell := self.observers.attempt_failed) is not None:
            tell(self.claim, error, "step", outcome)
        return outcome

    def _advance_time(self, outcome: Step) -> None:
        self.time = max(self.time, outcome.at)

    def _recorded_result(self, outcome: Step, codec: Codec[T]) -> T:
        self._advance_time(outcome)
        if outcome.state == "failed":
            raise _step_failed(outcome)
        try:
            return codec.decode(outcome.value or "null")
        except Exception as error:
            self.fail(unreadable_result(outcome, codec, error))
            raise asyncio.CancelledError from None

    async def _commit(self, outcome: Step, effects: tuple[Effect, ...] = ()) -> None:
        """Make an outcome durable, and wait until it is its turn to be handed out."""
        position = outcome.position
        if self.ending not in _STILL_RECORDS:
            raise asyncio.CancelledError
        try:
            try:
                verdict = await self.recorder.record(outcome, effects)
            except Exception as error:
                verdict = await self._record_again(self.recorder.record, outcome, effects, error)
            if verdict != "recorded" or self.observers.step_recorded is not None:
                self._check_verdict(verdict, outcome)
            if self.ending is not None:
                raise asyncio.CancelledError
            self.failures = 0
            if self.recorder.stops:
                self.ensure_scheduler().skip(position)
                await self.ensure_scheduler().park(outcome, self.now())
            if self.scheduler is None:
                self._last_position = position
            elif self.scheduler.is_root_only:
                self.scheduler.delivered_directly(position)
            else:
                await self.scheduler.deliver(outcome.number, position)
            # Not before it is handed out: what others are handed first has an earlier time, as on a replay.
            if self.time < outcome.at:
                self.time = outcome.at
        except asyncio.CancelledError:
            self._last_position = position
            if self.scheduler is not None:
                self.scheduler.skip(position)
            raise

    async def _record_start(self, step: Step, effects: tuple[Effect, ...]) -> None:
        """Make durable that a step waits."""
        try:
            verdict = await self.recorder.start(step, effects)
        except Exception as error:
            verdict = await self._record_again(self.recorder.start, step, effects, error)
        self._check_verdict(verdict, step)

    async def _record_again(
        self, write: _RecordVerb, step: Step, effects: tuple[Effect, ...], error: Exception
    ) -> Verdict:
        """Make durable, once the store can, what it could not for now; else the attempt ends."""
        try:
            # What was executed is not thrown away: it would have to be executed again.
            if self._record_until_stored is not None and isinstance(error, StoreError) and error.retryable:
                return await self._record_until_stored(partial(write, step, effects), error)
        except Exception as refused:
            error = refused
        raise self._end_unrecorded(step, error) from None

    def _check_verdict(self, verdict: Verdict, step: Step) -> None:
        """Whoever cannot record has lost the claim, and goes on with nothing."""
        if verdict != "recorded":
            self.end("lost" if verdict == "stale" else "cancelled")
            raise asyncio.CancelledError
        self._notify_recorded(step)

    def _notify_recorded(self, step: Step) -> None:
        """A step is recorded, or is so with the settlement."""
        if (tell := self.observers.step_recorded) is not None:
            tell(self.claim, step)

    def _end_unrecorded(self, step: Step, error: Exception) -> asyncio.CancelledError:
        """End the attempt, since a step could not be recorded; what its code is to see of that."""
        if isinstance(error, StoreError) and not error.retryable:
            self.fail(unstorable_step(step, error))
        else:
            self.end("lost", error)
        return asyncio.CancelledError()

    async def _check_lease(self, lease: Lease) -> None:
        """A worker that was suspended past its lease starts nothing that others have done meanwhile."""
        if not await lease.holds(self._lease_losses):
            self.end("lost")
            raise asyncio.CancelledError

    # The end

    @property
    def is_straightforward(self) -> bool:
        """Whether nothing stood in the way: no branches, nothing left of a journal."""
        # Without a scheduler there is neither.
        alone = self.scheduler is None or (not self.branches and self.replay.upcoming is None)
        return alone and self.ending is None

    @property
    def interruption(self) -> str | None:
        """Why the engine interrupts the attempt; None: it does not."""
        return self._interrupts.why(self.claim)

    def end_if_interrupted(self) -> None:
        """Let nothing more start where the engine has cancelled the root, also while it unwinds."""
        if self.interruption:
            self.end("interrupted")

    def close(self) -> AttemptEnding:
        """The function has come back: nothing goes on. How the attempt had ended before, else `over`."""
        self._returned = True
        self.end("over")
        assert self.ending is not None
        return self.ending

    def fail(self, fault: RunError) -> None:
        """Code and journal do not fit, or the store never takes what there is to record."""
        self.end("refused", fault)

    def end(self, ending: AttemptEnding, fault: Exception | None = None) -> None:
        """Let nothing more go on; only the first ending counts. User code that led here gets a `CancelledError`."""
        if self.ending is not None:
            return
        self.ending, self.fault = ending, fault
        self._is_direct = False
        if self.scheduler is not None:
            self.scheduler.close()
        if ending not in _ROOT_IS_STOPPED and asyncio.current_task() is not self.root:
            self._cancels += 1
            self.root.cancel()
        if ending != "over" and self.branches:
            self._force_cancel(IDLE_TURNS)

    def uncancel_root(self) -> None:
        """Undo the attempt's own cancellations of the root."""
        for _ in range(self._cancels):
            self.root.uncancel()
        self._cancels = 0

    @property
    def unawaited_steps(self) -> list[str]:
        """The steps that execute in branches which nobody has cancelled: their names."""
        if self.scheduler is None or all(branch.done() or branch.cancelling() for branch in self.branches):
            return []
        return [self.scheduler.requested[number] for number in sorted(self.scheduler.executing)]

    async def cancel_branches(self, *, ignore_errors: bool = False) -> None:
        """Cancel the branches that are left over, and wait for their end.

        `unheard`: the function was kept from looking at how they ended, so nobody is to complain of that.
        """
        left = [branch for branch in self.branches if not branch.done()]
        for branch in left:
            branch.cancel()
        if left:
            await asyncio.wait(left)
        if ignore_errors:
            for branch in self.branches:
                _ = branch.cancelled() or branch.exception()

    def _suspend(self) -> None:
        """Everything waits for a later attempt."""
        self.end("suspended")

    def _force_cancel(self, turns: int) -> None:
        # A TaskGroup that is aborting keeps the cancellation to itself, and waits for its tasks.
        if self._returned:
            return
        if turns:
            self.loop.call_soon(self._force_cancel, turns - 1)
            return
        self.force_cancelled = True
        for branch in self.branches:
            branch.cancel()

    async def _reject_late_request(self, name: str) -> NoReturn:
        """Turn away who asks after the end: the root is found out if it caught its cancellation and goes on."""
        task = asyncio.current_task()
        if self.ending == "over" and not self.replay.note(name):
            logger().warning(
                "[batchflow] A step is not executed, since its function had returned before it was asked for; await it",
                run=self.run_id,
                step=name,
            )
        # While `finally` and `except` blocks run, the exception is at hand: the root unwinds, which is as it should be.
        if self.ending == "suspended" and task is self.root and not self.force_cancelled and sys.exc_info()[1] is None:
            self.ending, self.fault = "refused", swallowed_cancellation(f"asked for step '{name}'")
        self._late_requests += 1
        if self._late_requests > MAX_LATE_REQUESTS:
            # Code that catches this and asks again, for ever, would keep the event loop for itself.
            await asyncio.get_running_loop().create_future()
        raise asyncio.CancelledError


def _step_failed(outcome: Step) -> StepFailed:
    """What the code sees of a failure that is final, on the first pass and on every replay alike."""
    error = outcome.error or ""
    failed = StepFailed(outcome.name, headline(error), attempts=outcome.failures)
    if frames := traceback_text(error):
        failed.add_note(frames)
    return failed
