"""The end of an attempt: its settlement, from the function's return or error and the state of the execution."""

import asyncio
from typing import cast

from batchflow.core.batch import Failure
from batchflow.core.duration import humanize_duration
from batchflow.core.failure_functions import is_failure_destination
from batchflow.core.ports import TIMEOUT_REASON
from batchflow.core.report import headline
from batchflow.core.run import Step
from batchflow.core.settlement import Settlement, Unlisten, cancelled, dead, parked, released, retry, suspended
from batchflow.errors import StepFailed, StoreError, step_text
from batchflow.logs import logger
from batchflow.serve.delivery_scope import CURRENT_STEP
from batchflow.serve.execution import Execution
from batchflow.serve.failure import (
    describe_error,
    error_report,
    failed_step,
    failure_of,
    is_program_exit,
    rate_limit,
    rate_limit_delay_ms,
    step_report,
)
from batchflow.serve.scheduler import IDLE_TURNS
from batchflow.serve.validation import swallowed_cancellation


async def settlement_of_return(execution: Execution, timeout_ms: int | None) -> tuple[bool, Settlement | None]:
    """Return whether the function's return counts as its result, or else the settlement that replaces it."""
    ending = execution.close()
    if unawaited := execution.unawaited_steps:
        logger().warning(
            "[batchflow] Steps are cut off, since their function has returned without awaiting them",
            run=execution.claim.id,
            steps=unawaited,
        )
    execution.uncancel_root()
    await _let_branches_catch_up(execution)
    await execution.cancel_branches()
    if ending == "interrupted":
        return False, _settlement_of_interruption(execution, timeout_ms)
    if ending == "suspended" and not execution.force_cancelled:
        return False, _dead(execution, swallowed_cancellation("returned"))
    if ending != "over":
        return False, _with_unlisten(execution, _settlement_of_ending(execution))
    fault = execution.replay.unrequested_error("returned")
    return (True, None) if fault is None else (False, _dead(execution, fault))


async def settlement_of_error(execution: Execution, error: BaseException, timeout_ms: int | None) -> Settlement | None:
    """Return the settlement after an exception of the function; None when the attempt leaves no trace.

    Raises:
        CancelledError: the task was cancelled from outside.
        KeyboardInterrupt, GeneratorExit: the program ends, or the task is destroyed.
    """
    if is_program_exit(error, execution.root, execution.loop):
        raise error
    execution.end_if_interrupted()
    ending = execution.close()
    execution.uncancel_root()
    try:
        await execution.cancel_branches(ignore_errors=True)
    except asyncio.CancelledError:
        if execution.interruption is None:
            raise
        ending = "interrupted"
    if ending == "interrupted":
        return _settlement_of_interruption(execution, timeout_ms)
    if ending != "over":
        return _with_unlisten(execution, _settlement_of_ending(execution))
    if isinstance(error, asyncio.CancelledError) and execution.root.cancelling():
        raise error
    # Without Unlisten: the next attempt may not raise this error, and would request the withdrawn steps again.
    return _settlement_of_failure(execution, error)


def _settlement_of_interruption(execution: Execution, timeout_ms: int | None) -> Settlement:
    """Return the settlement of an attempt that the engine has cancelled: timed out or released."""
    execution.root.uncancel()
    if execution.interruption == TIMEOUT_REASON:
        return _settlement_of_failure(execution, TimeoutError(_timeout_message(execution, timeout_ms)))
    return released(execution.claim, _unrecorded_steps(execution))


def _timeout_message(execution: Execution, timeout_ms: int | None) -> str:
    took = humanize_duration(timeout_ms) if timeout_ms else "it may"
    limit = "item_timeout" if execution.claim.batch else "timeout"
    run, _, step = CURRENT_STEP.get() or ("", 0, "")
    # The attempt may have gone on after it.
    last = f", last in {step_text(step)}" if run == execution.run_id else ""
    return f"the attempt took longer than {took} ({limit}){last}"


def _settlement_of_ending(execution: Execution) -> Settlement | None:
    """Return the settlement of an attempt that the execution has ended."""
    match execution.ending:
        case "cancelled":
            return cancelled(execution.claim)
        case "suspended" if execution.rate_limit is not None:
            until, why, failure = execution.rate_limit
            failures = (*execution.failed_attempts, failure)
            return parked(execution.claim, until, why, _unrecorded_steps(execution), failures)
        case "suspended":
            until = min(execution.ensure_scheduler().parked.values())
            steps, failures = _unrecorded_steps(execution), execution.failed_attempts
            return suspended(execution.claim, until, steps, failures=failures)
        case "refused" if execution.fault is not None:
            return _dead(execution, execution.fault)
        case _ if execution.fault is not None and not isinstance(execution.fault, StoreError):
            # Stores raise only StoreError; anything else is a bug in batchflow, which the engine has to see.
            raise execution.fault
        case _:
            return None


def _with_unlisten(execution: Execution, settlement: Settlement | None) -> Settlement | None:
    """Add to the settlement of a run that continues later the events it no longer waits for."""
    if settlement is None or execution.scheduler is None or not execution.scheduler.withdrawn:
        return settlement
    if settlement.ending not in ("suspended", "parked"):
        return settlement
    return settlement._replace(effects=(Unlisten(tuple(sorted(execution.scheduler.withdrawn))),))


def _settlement_of_failure(execution: Execution, error: BaseException) -> Settlement:
    """Return the settlement of a function that failed, outside steps or with a step that failed finally."""
    steps, limit = _unrecorded_steps(execution), rate_limit(error)
    at = execution.recorder.retry_at(error, execution.failures + 1, None)
    if (at or limit) is not None and (step := _step_run_while_handling(execution, error)) is not None:
        # A retry might not reach that step, which is done already: its result would be lost.
        text, why = error_report(error), f"not tried again, since {step_text(step)} was executed on the way out"
        return _dead(execution, error, text.replace(headline(text), f"{headline(text)} ({why})", 1))
    if limit is not None:
        wait = rate_limit_delay_ms(limit, execution.recorder.policy)
        _report(execution, error, wait, parked=True)
        until, why = execution.now() + wait, describe_error(error)
        return parked(execution.claim, until, why, steps, _failures(execution, error))
    if at is not None:
        _report(execution, error, max(0, at - execution.now()))
        return retry(execution.claim, at, describe_error(error), steps, failures=_failures(execution, error))
    if fault := execution.replay.unrequested_error("raised"):
        fault.__cause__ = error
        error = fault
    is_of_hook = execution.claim.number >= 0 or is_failure_destination(execution.claim.destination)
    if type(error) is StepFailed and is_of_hook:
        # An item has failed for the reason that its step had; a run also tells which step.
        return _dead(execution, error, step_report(error))
    return _dead(execution, error)


def _dead(execution: Execution, error: BaseException, text: str | None = None) -> Settlement:
    """Return the settlement of a run that has failed for good; `text` is the error to store."""
    _report(execution, error, None)
    steps, failures = _unrecorded_steps(execution), _failures(execution, error)
    return dead(execution.claim, text or error_report(error), steps, failures=failures)


def _report(execution: Execution, error: BaseException, wait_ms: int | None, *, parked: bool = False) -> None:
    number, attempts = execution.failures + 1, execution.recorder.policy.attempts
    if (step := failed_step(error)) is not None:
        number = attempts = step.attempts
    execution.report_failure(error, "function", number, attempts, wait_ms, parked=parked)


def _failures(execution: Execution, last: BaseException) -> tuple[Failure, ...]:
    """Return the failures of an attempt of which this one was the last; that of a step is among them already."""
    failure = failure_of(last)
    found = list(execution.failed_attempts)
    if failure in found:
        found.remove(failure)
    return (*found, failure)


def _step_run_while_handling(execution: Execution, error: BaseException) -> str | None:
    """Return a step that was requested while this error, or one that caused it, was being handled."""
    left, seen = [error], set[int]()
    while left:
        at = left.pop()
        if id(at) in seen:
            continue
        seen.add(id(at))
        for handled, step in execution.handled_errors:
            if handled is at:
                return step
        left += [it for it in (at.__cause__, at.__context__) if it is not None]
        if isinstance(at, BaseExceptionGroup):
            left += cast("BaseExceptionGroup[BaseException]", at).exceptions
    return None


def _unrecorded_steps(execution: Execution) -> tuple[Step, ...]:
    """Return the changes of steps that the attempt has not recorded yet."""
    pending = () if execution.scheduler is None else execution.scheduler.pending.values()
    return execution.replay.changed_steps((*pending, *execution.deferred))


async def _let_branches_catch_up(execution: Execution) -> None:
    # A branch that nobody awaits may be a few turns of the event loop behind the function.
    for _ in range(IDLE_TURNS):
        if not execution.replay.unrequested_steps():
            break
        await asyncio.sleep(0)
