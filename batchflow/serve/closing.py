"""How an attempt ends: what came out of the function, and what its driver knows, become a settlement."""

import asyncio
from typing import cast

from batchflow.core.duration import show
from batchflow.core.interrupts import TIMEOUT
from batchflow.core.message import Claim
from batchflow.core.run import Step
from batchflow.core.settlement import Settlement, Unlisten, cancelled, dead, parked, released, retry, suspended
from batchflow.errors import StoreError
from batchflow.logs import logger
from batchflow.serve.driver import Driver
from batchflow.serve.failure import describe, headline, limit_ms, rate_limit, report
from batchflow.serve.leaving import is_end
from batchflow.serve.pump import REST
from batchflow.serve.refusal import swallowed


async def returned(driver: Driver, claim: Claim, timeout_ms: int | None) -> tuple[bool, Settlement | None]:
    """The function has returned: whether that counts, and if not, how the claim ends instead."""
    ending = driver.close()
    if forgotten := driver.forgotten:
        logger().warning(
            "[batchflow] Steps are cut off, since their function has returned without awaiting them",
            run=claim.id,
            steps=forgotten,
        )
    driver.take_back_cancels()
    await _let_branches_ask(driver)
    await driver.dismiss()
    if ending == "interrupted":
        return False, _interrupted(driver, claim, timeout_ms)
    if ending == "suspended" and not driver.insisted:
        return False, dead(claim, report(swallowed("returned")), _steps(driver))
    if ending != "over":
        return False, _withdrawn(driver, _ended(driver, claim))
    fault = driver.replay.leftover("returned")
    return (True, None) if fault is None else (False, dead(claim, report(fault), _steps(driver)))


async def raised(driver: Driver, claim: Claim, error: BaseException, timeout_ms: int | None) -> Settlement | None:
    """An exception came out of the function: how the claim ends.

    Raises:
        CancelledError: the task was cancelled from outside.
        KeyboardInterrupt, GeneratorExit: the program ends, or the task is thrown away.
    """
    if is_end(error, driver.root, driver.loop):
        raise error
    driver.heed_interruption()
    ending = driver.close()
    driver.take_back_cancels()
    try:
        await driver.dismiss(unheard=True)
    except asyncio.CancelledError:
        if driver.recorder.interruption is None:
            raise
        ending = "interrupted"
    if ending == "interrupted":
        return _interrupted(driver, claim, timeout_ms)
    if ending != "over":
        return _withdrawn(driver, _ended(driver, claim))
    if isinstance(error, asyncio.CancelledError) and driver.root.cancelling():
        raise error
    # What was withdrawn on the way out is asked for again by the next attempt, which this error may not meet.
    return _judged(driver, claim, error)


def _interrupted(driver: Driver, claim: Claim, timeout_ms: int | None) -> Settlement:
    """The engine has cancelled the attempt. What came out of the function meanwhile follows from that."""
    driver.root.uncancel()
    if driver.recorder.interruption == TIMEOUT:
        took = show(timeout_ms) if timeout_ms else "it may"
        return _judged(driver, claim, TimeoutError(f"the attempt took longer than {took}"))
    return released(claim, _steps(driver))


def _ended(driver: Driver, claim: Claim) -> Settlement | None:
    """The attempt was ended by the driver."""
    match driver.ending:
        case "cancelled":
            return cancelled(claim)
        case "suspended" if driver.limit is not None:
            until, why = driver.limit
            return parked(claim, until, why, _steps(driver))
        case "suspended":
            return suspended(claim, min(driver.share().waits.values()), _steps(driver))
        case "refused" if driver.fault is not None:
            return dead(claim, report(driver.fault), _steps(driver))
        case _ if driver.fault is not None and not isinstance(driver.fault, StoreError):
            # Stores promise StoreError; anything else is a fault of the house, and the engine has to see it.
            raise driver.fault
        case _:
            return None


def _withdrawn(driver: Driver, settlement: Settlement | None) -> Settlement | None:
    """With what a run that goes on later does not wait for any more."""
    if settlement is None or driver.pump is None or not driver.pump.withdrawn:
        return settlement
    if settlement.ending not in ("suspended", "parked"):
        return settlement
    return settlement._replace(effects=(Unlisten(tuple(sorted(driver.pump.withdrawn))),))


def _judged(driver: Driver, claim: Claim, error: BaseException) -> Settlement:
    """The function failed outside steps, or with a step that failed for good."""
    steps, limit = _steps(driver), rate_limit(error)
    at = driver.recorder.again_at(error, driver.failures + 1)
    if (at or limit) is not None and (step := _on_the_way_out(driver, error)) is not None:
        # Tried again, the code may not come to that step, which is done.
        text, why = report(error), f"not tried again, since step '{step}' was executed on the way out"
        return dead(claim, text.replace(headline(text), f"{headline(text)} ({why})", 1), steps)
    if limit is not None:
        return parked(claim, driver.now() + limit_ms(limit, driver.recorder.policy), describe(error), steps)
    if at is not None:
        return retry(claim, at, describe(error), steps)
    if fault := driver.replay.leftover("raised"):
        fault.__cause__ = error
        error = fault
    return dead(claim, report(error), steps)


def _on_the_way_out(driver: Driver, error: BaseException) -> str | None:
    """A step that was asked for while this error was being handled, or one that led to it."""
    left, seen = [error], set[int]()
    while left:
        at = left.pop()
        if id(at) in seen:
            continue
        seen.add(id(at))
        for handled, step in driver.handling:
            if handled is at:
                return step
        left += [it for it in (at.__cause__, at.__context__) if it is not None]
        if isinstance(at, BaseExceptionGroup):
            left += cast("BaseExceptionGroup[BaseException]", at).exceptions
    return None


def _steps(driver: Driver) -> tuple[Step, ...]:
    """What the attempt found out about steps and has not recorded yet."""
    pending = () if driver.pump is None else driver.pump.pending.values()
    return driver.replay.changed((*pending, *driver.riding))


async def _let_branches_ask(driver: Driver) -> None:
    # A branch that nobody waits for may be a few turns behind the function itself.
    for _ in range(REST):
        if not driver.replay.unasked():
            break
        await asyncio.sleep(0)
