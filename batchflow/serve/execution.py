"""One attempt of a durable function: executes the steps that its code requests, and has them recorded."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias, TypeVar

from batchflow.core.batch import Failure
from batchflow.core.codec import DEFAULT_SIZE_LIMIT, Codec, SizeLimit
from batchflow.core.message import Claim
from batchflow.core.ports import Backlog, FailedAttempt, FailurePoint, Lease, Recorder, RecordResult, Runtime
from batchflow.core.report import headline, traceback_text
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import NEVER, Replay, Step, StepKind
from batchflow.core.secrets import SECRET_OUTCOME
from batchflow.core.settlement import Effect
from batchflow.core.store import LARGE_TEXT
from batchflow.errors import ReplayError, RunError, StepFailed, StoreError
from batchflow.logs import logger
from batchflow.serve.callables import call_with_timeout
from batchflow.serve.delivery_scope import CURRENT_STEP, ActiveStep, keep_result
from batchflow.serve.failure import (
    describe_error,
    error_report,
    failure_of,
    is_program_exit,
    rate_limit,
    rate_limit_delay_ms,
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
"""Why an attempt ended: the claim or the store was lost; the run was cancelled; the code does not fit the journal
("refused"); all branches are parked; the engine cancelled the root, as it stops or on a timeout; the function returned
or raised ("over")."""

_ROOT_IS_STOPPED = frozenset({"over", "interrupted"})
"""Endings at which the root has returned or is cancelled already."""

_STILL_RECORDS = frozenset({None, "interrupted"})
"""Endings at which the outcome of an executed step is still recorded."""

_RecordVerb: TypeAlias = Callable[[Step, tuple[Effect, ...]], Awaitable[RecordResult]]

MAX_LATE_REQUESTS = 1_000
"""The number of requests after the end that are rejected; later ones never return."""


class StepOptions(NamedTuple):
    """The options of one step.

    With `defer_to_settlement` its outcome is written with the settlement, and only such steps may follow. Otherwise
    `effects(result)` is written together with the outcome.
    """

    retry: RetryPolicy | None = None
    timeout_ms: int | None = None
    defer_to_settlement: bool = False
    effects: Callable[[Any], tuple[Effect, ...]] | None = None


DEFAULT_STEP = StepOptions()
FINAL_STEP = StepOptions(defer_to_settlement=True)

# Called for every step; the constructor of a named tuple takes three times as long.
_new_step: Callable[..., Step] = tuple[Any, ...].__new__

_NO_TASKS: frozenset["asyncio.Task[Any]"] = frozenset()


class Execution:
    """One attempt of a durable function in its own task, the root.

    It ends by cancelling the root, never by raising into a branch: a `TaskGroup` would cancel its siblings in the
    middle of a step. Only `recorder` knows how steps become durable.
    """

    # Created for every item. Most have neither a journal nor branches, so what only these need is created on demand.
    __slots__ = (
        "_backlog",
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
        "failed_attempts",
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
        max_value: SizeLimit = DEFAULT_SIZE_LIMIT,
    ) -> None:
        self.claim = claim
        self.run_id = claim.id
        self.recorder = recorder
        self.root = root
        self.loop = root.get_loop()
        self.replay = Replay(claim.journal)
        self.max_value = max_value
        """The maximum size of a step's result."""
        self.observers = runtime.observers
        self.entropy = runtime.entropy
        self._interrupts = runtime.interrupts
        self._record_until_stored = runtime.retry_record
        self._step_override = runtime.step_override
        self._backlog, self._lease = runtime.backlog, runtime.lease
        self._lease_losses = 0 if runtime.lease is None else runtime.lease.losses
        """The lease's number of losses when the attempt began."""
        self.scheduler: Scheduler | None = None
        """Created on the first recorded outcome, branch or parked step."""
        self.branches: set[asyncio.Task[Any]] | frozenset[asyncio.Task[Any]] = _NO_TASKS
        """The tasks other than the root that have requested steps."""
        self._is_direct = True
        """There is no scheduler, no step is executing, and the root may request one."""
        self._direct_step: ActiveStep | None = None
        """The step that the root is executing without a scheduler."""
        self._last_position = 0
        """The position of the latest outcome that the root got without a scheduler."""
        self.deferred: tuple[Step, ...] = ()
        """The outcomes that are written with the settlement."""
        self.failures = claim.failures
        """Failed attempts of the function since the last recorded step."""
        self.failed_attempts: tuple[Failure, ...] = ()
        """The failures of steps since the claim, as the batch groups them."""
        self.rate_limit: tuple[int, str, Failure] | None = None
        """Until when the flow key pauses, and why."""
        self.handled_errors: tuple[tuple[BaseException, str], ...] = ()
        """The exceptions that were being handled when new steps were requested, with the names of these steps."""
        self.time = claim.started_at
        """The time of the run: when the latest outcome that the code has seen was recorded."""
        self.ending: AttemptEnding | None = None
        self.fault: Exception | None = None
        self._returned = False
        """The function has returned or raised."""
        self._cancels = 0
        """The number of times the attempt has cancelled its own root."""
        self.force_cancelled = False
        """The branches are cancelled as well, since cancelling the root alone did not end it."""
        self._late_requests = 0
        """The number of requests after the end."""
        if claim.journal or recorder.stops:
            self._last_position = self.replay.position
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
        """Return the recorded result of a step, or that of `fn` once it is durable. The name is valid already."""
        if self._interrupts.requested:
            self.end_if_interrupted()
        # Nearly all runs are fresh and have no branches; they pay for nothing else.
        number = failures = 0
        if self._is_direct and sys.exc_info()[1] is None and asyncio.current_task(self.loop) is self.root:
            number = self.replay.request_fresh(name)
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
            if (backlog := self._backlog) is not None and backlog.is_full:
                await self._wait_for_backlog(backlog)
            if (lease := self._lease) is not None and lease.may_have_expired(self._lease_losses):
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
                if len(text) > self.max_value.safe_chars:
                    self.max_value.check(text, f"step '{name}'")
                if codec.has_secrets:
                    keep_result(text)
                at = self.recorder.clock.now()
                outcome = _new_step(
                    Step, (number, name, "run", "done", self.replay.next_position(), text, None, failures, 0, at)
                )
            except BaseException as error:
                # A SystemExit would stop this worker and the next one: it is a failure like any other.
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
        """Request a step through the scheduler; return its recorded outcome in its turn, or the step as it starts."""
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
        """Return when the sleep is `due`, or when its recorded start says so."""
        step = await self._request(name, "sleep")
        try:
            if step.position:
                await self.ensure_scheduler().wait_recorded(step)
            else:
                await self._wait_start(step, due)
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
            # Tasks that were just created get to request their steps.
            await asyncio.sleep(0)
        if step.due <= self.now():
            return
        if self.branches or self.recorder.stops:
            # Other branches may execute for long, and a crash would restart the sleep.
            self._begin(step)
            await self._record_start(step, ())
        else:
            # It is written with the settlement.
            self._notify_recorded(step)
        self.ensure_scheduler().pending[step.number] = step
        await self.ensure_scheduler().park(step, step.due)

    async def wait(
        self,
        name: str,
        kind: StepKind,
        effects: Callable[[int], tuple[Effect, ...]],
        *,
        due: int = 0,
        secret: bool = False,
    ) -> Step:
        """Wait for an outcome that arrives from outside, until `due` (0: indefinitely), and return it.

        A `secret` outcome is stored as a secret value, in whatever form it arrives.

        `effects(number)` starts what the step waits for. It is written on the first request, so that nothing that
        arrives while other branches execute is missed.
        """
        step = await self._request(name, kind)
        try:
            if not step.position:
                if not step.at:
                    await self._wait_start(step)
                    step = step._replace(due=due, at=self.now(), value=SECRET_OUTCOME if secret else None)
                    self._begin(step)
                    try:
                        await self._record_start(step, effects(step.number))
                    except asyncio.CancelledError:
                        self.ensure_scheduler().withdraw(step)
                        raise
                await self.ensure_scheduler().park(step, step.due or NEVER)
            await self.ensure_scheduler().wait_recorded(step)
            self._advance_time(step)
            if secret:
                keep_result(step.value or "null")
            if step.at >= self.replay.last_recorded_at:
                self._notify_recorded(step)
            return step
        finally:
            self._finish(step.number)

    async def record_effects(
        self, name: str, codec: Codec[T], make: Callable[[], T], effects: Callable[[T], tuple[Effect, ...]]
    ) -> T:
        """Run a step that only writes `effects(result)`, once, together with its outcome, and return the result."""
        step = await self._scheduled(name)
        if step.position:
            return self._recorded_result(step, codec)
        try:
            value = make()
            await self._commit(self._completed(step, codec.encode(value)), effects(value))
            return value
        finally:
            self._finish(step.number)

    # State for the user's code

    def now(self) -> int:
        """Return the current time, in ms since the epoch."""
        return self.recorder.clock.now()

    @property
    def current_step(self) -> str | None:
        """The name of the step that the calling code runs in."""
        active = CURRENT_STEP.get()
        return active[2] if active is not None and self._is_under_way(active) else None

    @property
    def is_replaying(self) -> bool:
        """True while recorded outcomes are left to deliver."""
        return self.replay.next_outcome is not None

    def cancel(self) -> NoReturn:
        """End the run as cancelled."""
        self.end("cancelled")
        raise asyncio.CancelledError

    # Requests and the scheduler

    def ensure_scheduler(self) -> Scheduler:
        """Return the scheduler, created on the first call with the step that the root is executing."""
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
        """Register a request, and return the recorded step or a new one."""
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
            step = self.replay.request(name, kind)
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

    async def _wait_start(self, step: Step, due: int = 0) -> None:
        """Wait until the step may start; park one that is due later, or that this attempt does not execute.

        A sleep that begins ends at `due`.
        """
        scheduler = self.ensure_scheduler()
        if step.due > self.now():
            scheduler.pending[step.number] = step
            await scheduler.park(step, step.due)
        if await scheduler.wait_start(step if step.due else step._replace(due=due)) == "park":
            await scheduler.park(step, NEVER)

    def _begin(self, step: Step) -> None:
        """Note that a step starts to execute."""
        self.ensure_scheduler().begin(step.number)
        CURRENT_STEP.set((self.run_id, step.number, step.name))

    def _finish(self, number: int) -> None:
        """Note that a request has returned or raised."""
        self._direct_step = None
        if self._interrupts.requested:
            self.end_if_interrupted()
        if self.scheduler is None:
            self._is_direct = self.ending is None and not self.deferred
        else:
            self.scheduler.finish(number)

    def _task_of(self, number: int) -> "asyncio.Task[Any] | None":
        """Return the task in which a step executes."""
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
        return step._replace(state="done", position=self.replay.next_position(), value=value, due=0, at=self.now())

    def _failed(self, number: int, name: str, failures: int, error: BaseException, retry: RetryPolicy | None) -> Step:
        """Return the step after a failure: pending until its retry, or failed."""
        limit, policy = rate_limit(error), retry or self.recorder.policy
        if limit is not None:
            wait = rate_limit_delay_ms(limit, policy)
            until = self.now() + wait
            if self.rate_limit is None or self.rate_limit[0] < until:
                self.rate_limit = until, describe_error(error), failure_of(error)
            outcome = Step(number, name, "run", "pending", failures=failures)
            self.report_failure(error, "step", failures + 1, policy.attempts, wait, parked=True, step=outcome)
            return outcome
        failures += 1
        self.failed_attempts += (failure_of(error),)
        at = self.recorder.retry_at(error, failures, retry)
        if at is None:
            outcome = Step(
                number,
                name,
                "run",
                "failed",
                self.replay.next_position(),
                None,
                error_report(error),
                failures,
                0,
                self.now(),
            )
        else:
            outcome = Step(number, name, "run", "pending", 0, None, describe_error(error), failures, at)
            self.ensure_scheduler().pending[number] = outcome
        wait = None if at is None else max(0, at - self.now())
        self.report_failure(error, "step", failures, policy.attempts, wait, step=outcome)
        return outcome

    def report_failure(
        self,
        error: BaseException,
        where: FailurePoint,
        number: int,
        attempts: int,
        wait_ms: int | None,
        *,
        parked: bool = False,
        step: Step | None = None,
    ) -> None:
        """Report attempt `number` of `attempts` to the observers; the next one is due in `wait_ms`, if there is one."""
        if (tell := self.observers.attempt_failed) is not None:
            failure = failure_of(error)
            tell(self.claim, FailedAttempt(error, where, failure, number, attempts, wait_ms, parked, step))

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
        """Make an outcome durable, and wait for its turn to be delivered."""
        position = outcome.position
        if self.ending not in _STILL_RECORDS:
            raise asyncio.CancelledError
        backlog = None
        if (value := outcome.value) is not None and len(value) > LARGE_TEXT and (backlog := self._backlog) is not None:
            backlog.add(len(value))
        try:
            try:
                verdict = await self.recorder.record(outcome, effects)
            except Exception as error:
                verdict = await self._record_again(self.recorder.record, outcome, effects, error)
            finally:
                if backlog is not None:
                    backlog.remove(len(value or ""))
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
            # Only now: outcomes that are delivered first have an earlier time, as on a replay.
            if self.time < outcome.at:
                self.time = outcome.at
        except asyncio.CancelledError:
            self._last_position = position
            if self.scheduler is not None:
                self.scheduler.skip(position)
            raise

    async def _record_start(self, step: Step, effects: tuple[Effect, ...]) -> None:
        """Make the start of a waiting step durable."""
        try:
            verdict = await self.recorder.start(step, effects)
        except Exception as error:
            verdict = await self._record_again(self.recorder.start, step, effects, error)
        self._check_verdict(verdict, step)

    async def _record_again(
        self, write: _RecordVerb, step: Step, effects: tuple[Effect, ...], error: Exception
    ) -> RecordResult:
        """Write again what the store could not take for now, until it can; otherwise end the attempt."""
        try:
            # An executed step is not thrown away: it would be executed again.
            if self._record_until_stored is not None and isinstance(error, StoreError) and error.retryable:
                return await self._record_until_stored(partial(write, step, effects), error)
        except Exception as refused:
            error = refused
        raise self._end_unrecorded(step, error) from None

    def _check_verdict(self, verdict: RecordResult, step: Step) -> None:
        """End the attempt when the claim was lost or the run was cancelled."""
        if verdict != "recorded":
            self.end("lost" if verdict == "stale" else "cancelled")
            raise asyncio.CancelledError
        self._notify_recorded(step)

    def _notify_recorded(self, step: Step) -> None:
        """Notify observers of a step that is recorded, or will be with the settlement."""
        if (tell := self.observers.step_recorded) is not None:
            tell(self.claim, step)

    def _end_unrecorded(self, step: Step, error: Exception) -> asyncio.CancelledError:
        """End the attempt, since a step could not be recorded; return the error for its code."""
        if isinstance(error, StoreError) and not error.retryable:
            self.fail(unstorable_step(step, error))
        else:
            self.end("lost", error)
        return asyncio.CancelledError()

    async def _wait_for_backlog(self, backlog: Backlog) -> None:
        """Wait until the store has written enough of what is executed already."""
        await backlog.wait()
        if self._interrupts.requested:
            self.end_if_interrupted()
        if self.ending is not None:
            raise asyncio.CancelledError

    async def _check_lease(self, lease: Lease) -> None:
        """End the attempt when the lease has ended: another worker may have executed the step meanwhile."""
        if not await lease.holds(self._lease_losses):
            self.give_up()

    def give_up(self) -> NoReturn:
        """End the attempt without a trace, since its claim may be another worker's."""
        self.end("lost")
        raise asyncio.CancelledError

    # The end

    @property
    def interruption(self) -> str | None:
        """The reason why the engine interrupts the attempt, or None."""
        return self._interrupts.reason(self.claim)

    def end_if_interrupted(self) -> None:
        """End the attempt if the engine has cancelled the root, so that nothing starts while it unwinds."""
        if self.interruption:
            self.end("interrupted")

    def close_directly(self) -> bool:
        """End the attempt, since the function has returned; False, and nothing is done, if there is more to look at.

        That is: the attempt has ended otherwise, has had branches, or has recorded steps left.
        """
        if self.ending is not None:
            return False
        if self.scheduler is None:
            # Nearly all attempts are such, and every item is one: there is nothing else to stop.
            self._returned, self._is_direct, self.ending = True, False, "over"
            return True
        if self.branches or self.replay.next_outcome is not None:
            return False
        self.close()
        return True

    def close(self) -> AttemptEnding:
        """End the attempt, since the function has returned or raised; return an earlier ending, or "over"."""
        self._returned = True
        self.end("over")
        assert self.ending is not None
        return self.ending

    def fail(self, fault: RunError) -> None:
        """End the attempt: the code does not fit the journal, or the store will never accept a step."""
        self.end("refused", fault)

    def end(self, ending: AttemptEnding, fault: Exception | None = None) -> None:
        """Stop all progress; only the first ending counts. The calling user code gets a `CancelledError`."""
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
        """The names of the steps that execute in branches which were not cancelled."""
        if self.scheduler is None or all(branch.done() or branch.cancelling() for branch in self.branches):
            return []
        return [self.scheduler.requested[number] for number in sorted(self.scheduler.executing)]

    async def cancel_branches(self, *, ignore_errors: bool = False) -> None:
        """Cancel the remaining branches and wait for their end.

        With `ignore_errors` asyncio logs none of their errors, which the function had no chance to retrieve.
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
        """Suspend the run until a later attempt."""
        self.end("suspended")

    def _force_cancel(self, turns: int) -> None:
        # A TaskGroup that is aborting swallows the cancellation and waits for its tasks.
        if self._returned:
            return
        if turns:
            self.loop.call_soon(self._force_cancel, turns - 1)
            return
        self.force_cancelled = True
        for branch in self.branches:
            branch.cancel()

    async def _reject_late_request(self, name: str) -> NoReturn:
        """Reject a request after the end. A root that caught its cancellation and goes on is noticed here."""
        task = asyncio.current_task()
        if self.ending == "over" and not self.replay.mark_requested(name):
            logger().warning(
                "[batchflow] A step is not executed, since its function returned before requesting it; await the step",
                run=self.run_id,
                step=name,
            )
        # While `finally` and `except` blocks run there is a current exception: the root unwinds, as it should.
        if self.ending == "suspended" and task is self.root and not self.force_cancelled and sys.exc_info()[1] is None:
            self.ending, self.fault = "refused", swallowed_cancellation(f"asked for step '{name}'")
        self._late_requests += 1
        if self._late_requests > MAX_LATE_REQUESTS:
            # Code that catches this and requests again, forever, would block the event loop.
            await asyncio.get_running_loop().create_future()
        raise asyncio.CancelledError


def _step_failed(outcome: Step) -> StepFailed:
    """Return the error of a step that failed finally, the same on the first pass and on every replay."""
    error = outcome.error or ""
    failed = StepFailed(outcome.name, headline(error), attempts=outcome.failures)
    if frames := traceback_text(error):
        failed.add_note(frames)
    return failed
