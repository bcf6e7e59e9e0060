"""Where a durable function is served, and how one claim of it is carried out."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from batchflow.core.flow import FlowControl
from batchflow.core.limit import DEFAULT, Limit
from batchflow.core.message import Claim
from batchflow.core.ports import Recorder, Runtime
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import Settlement, answered, dead, done
from batchflow.errors import InputError
from batchflow.serve.context import WorkflowContext
from batchflow.serve.delivering import SURROUNDING, Surrounding
from batchflow.serve.execution import Execution
from batchflow.serve.failure import describe, report
from batchflow.serve.leaving import is_end
from batchflow.serve.outcome import settlement_of_error, settlement_of_return
from batchflow.serve.recorder import DirectRecorder
from batchflow.serve.surroundings import NOWHERE, Surroundings

HOUR_MS = 3_600_000


class Answer(NamedTuple):
    """What a function returns in place of a result to say: failed, and no retry helps, but it is no dead letter.

    `error` is a sentence, `result` the JSON text that a caller gets.
    """

    error: str
    result: str


DurableFunction: TypeAlias = Callable[[WorkflowContext[Any]], Awaitable[str | Answer]]
"""What an endpoint serves: returns the JSON text of its result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A durable function at its route.

    `payload` makes the context's payload of a claim; it raises `InputError` for one that does not fit, which ends the
    run as dead with that sentence. `flow.key` is the key its messages wait under. `retry` holds for messages that bring
    no policy of their own. `timeout_ms` bounds one attempt: the engine sweeps for it and interrupts the attempt, which
    counts as a failed one. `verbose` asks for a log of each thing the engine does.
    `limit` is what each step's result is held to.
    """

    route: str
    name: str
    function: DurableFunction
    payload: Callable[[Claim], Any]
    flow: FlowControl
    retry: RetryPolicy = RetryPolicy()
    timeout_ms: int | None = HOUR_MS
    verbose: bool = False
    surroundings: Surroundings = NOWHERE
    limit: Limit = DEFAULT

    def deliver(self, claim: Claim, runtime: Runtime) -> Coroutine[Any, Any, Settlement | None]:
        """Carry out one claim, in the task that was made for it, with its steps recorded in the store."""
        return self.execute(claim, DirectRecorder(claim, claim.retry or self.retry, runtime), runtime)

    async def execute(self, claim: Claim, recorder: Recorder, runtime: Runtime) -> Settlement | None:
        """Carry out one claim, in the task that was made for it; `recorder` makes its steps durable. How it ended.

        None: the claim was lost or the store failed; the attempt was given up without a trace, and the claim is to be
        given back. Cancelling the task from outside lets `CancelledError` out once the function's own tasks have ended.
        """
        root = asyncio.current_task()
        assert root is not None
        SURROUNDING.set(Surrounding(runtime.threads, runtime, claim))
        try:
            payload = self.payload(claim)
        except InputError as error:
            return dead(claim, describe(error))
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) or is_end(error, root, root.get_loop()):
                raise
            return dead(claim, report(error))
        execution = Execution(claim, recorder, runtime, root, max_value=self.limit)
        context: WorkflowContext[Any] = WorkflowContext(payload, claim, execution, self.surroundings)
        try:
            result = await self.function(context)
        except BaseException as error:
            return await settlement_of_error(execution, error, self.timeout_ms)
        if execution.is_straightforward:
            execution.close()
        else:
            counts, settlement = await settlement_of_return(execution, self.timeout_ms)
            if not counts:
                return settlement
        if isinstance(result, Answer):
            return answered(claim, result.error, result.result)
        return done(claim, result, context.effects)
