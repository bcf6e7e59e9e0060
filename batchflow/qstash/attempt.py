"""One attempt of a function for a request of QStash: bounded, and settled or given up whatever user code does."""

import asyncio
from functools import partial
from itertools import count
from typing import TypeAlias

from batchflow.core import settlement
from batchflow.core.duration import format_duration
from batchflow.core.message import Claim
from batchflow.core.ports import STOP_REASON, TIMEOUT_REASON, Recorder, Runtime
from batchflow.core.secrets import printable_error
from batchflow.core.settlement import Settlement
from batchflow.engine.delivery import failed_attempt
from batchflow.engine.dispatcher import HUNG_GRACE_S
from batchflow.logs import safe_repr
from batchflow.serve.endpoint import Endpoint

RETRY_MS = 1000
"""The wait after an attempt that has failed outside of the function, as on the other engines."""

_Task: TypeAlias = "asyncio.Task[Settlement | None]"
_fences = count(1)


def next_fence() -> int:
    """The fence of another attempt: several requests about one run may be answered at once."""
    return next(_fences)


async def run_attempt(
    endpoint: Endpoint, claim: Claim, runtime: Runtime, recorder: Recorder | None
) -> Settlement | None:
    """Deliver a claim in a task of its own, within the time limit of one attempt, and tell the observers of its end.

    None: it could not be recorded.
    """
    observers = runtime.observers
    if observers.claimed is not None:
        observers.claimed(claim)
    task = asyncio.create_task(endpoint.deliver(claim, runtime, recorder))
    task.add_done_callback(partial(_forget, claim, runtime))
    try:
        await _wait_within(task, claim, runtime, endpoint.timeout_ms)
        if not task.done():
            await _interrupt(task, claim, runtime, TIMEOUT_REASON)
        ended = _ended(task, claim, runtime, endpoint.timeout_ms)
    except asyncio.CancelledError:
        # Nobody waits for the answer any more.
        if observers.lost is not None:
            observers.lost(claim)
        if not task.done():
            await _interrupt(task, claim, runtime, STOP_REASON)
        raise
    if ended is None:
        if observers.lost is not None:
            observers.lost(claim)
    elif observers.settled is not None:
        observers.settled(claim, ended)
    return ended


async def _wait_within(task: _Task, claim: Claim, runtime: Runtime, limit_ms: int | None) -> None:
    """Wait for the end of an attempt, or of its time; waiting for a thread does not count."""
    if limit_ms is None:
        await asyncio.wait({task})
        return
    now = asyncio.get_running_loop().time
    ends = now() + limit_ms / 1000
    while not task.done() and (left := ends + runtime.interrupts.thread_wait_s(claim, now()) - now()) > 0:
        await asyncio.wait({task}, timeout=left)


async def _interrupt(task: _Task, claim: Claim, runtime: Runtime, reason: str) -> None:
    """Cancel an attempt, and wait until it has ended or counts as hung."""
    # Before the cancellation: steps that the function begins while it unwinds are refused.
    runtime.interrupts.request(claim, reason)
    task.cancel()
    await asyncio.wait({task}, timeout=HUNG_GRACE_S)


def _ended(task: _Task, claim: Claim, runtime: Runtime, limit_ms: int | None) -> Settlement | None:
    """The end of an attempt; one of which the code has raised past its handler, or that hangs, has failed."""
    error: BaseException | None
    if not task.done():
        error = TimeoutError(f"it goes on after its timeout of {format_duration(limit_ms or 0)}, and was given up")
    elif task.cancelled():
        # Not by us: its own code has cancelled it.
        error = asyncio.CancelledError()
    elif (error := task.exception()) is None:
        return task.result()
    if isinstance(error, KeyboardInterrupt):
        raise error
    if (notify := runtime.observers.attempt_failed) is not None:
        notify(claim, failed_attempt(claim, error, "delivery"))
    return settlement.retry(claim, runtime.clock.now() + RETRY_MS, printable_error(safe_repr(error)))


def _forget(claim: Claim, runtime: Runtime, task: _Task) -> None:
    runtime.interrupts.discard(claim)
    if not task.cancelled():
        # Read, so that asyncio does not log what one has raised for which nobody waited.
        task.exception()
