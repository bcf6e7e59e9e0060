"""Where a durable function is served, and how one claim of it is carried out."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from batchflow.core.flow import FlowControl
from batchflow.core.limit import DEFAULT, Limit
from batchflow.core.message import Claim
from batchflow.core.ports import Plan, Recorder, Runtime, Verdict
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Step
from batchflow.core.settlement import Effect, Settlement, answered, dead, done
from batchflow.errors import InputError
from batchflow.serve.app_url import NO_PUBLIC_URL, PublicUrl
from batchflow.serve.context import WorkflowContext
from batchflow.serve.delivery import CURRENT_DELIVERY, DeliveryScope
from batchflow.serve.execution import Execution
from batchflow.serve.failure import describe_error, error_report, is_program_exit, retry_at
from batchflow.serve.outcome import settlement_of_error, settlement_of_return


class DirectRecorder:
    """The recorder of one claim in the process that holds it. A step may start as soon as it is asked for."""

    __slots__ = ("_claim", "_entropy", "_journaling", "clock", "policy", "stops")

    def __init__(self, claim: Claim, policy: RetryPolicy, runtime: Runtime) -> None:
        self._claim = claim
        self._journaling = runtime.journaling
        self._entropy = runtime.entropy
        self.policy = policy
        self.clock = runtime.clock
        self.stops = runtime.always_replay

    def plan(self, asked: Sequence[Step], settled: AbstractSet[int]) -> Sequence[Plan]:
        """Everything executes."""
        return ("execute",) * len(asked)

    def start(self, step: Step, effects: tuple[Effect, ...]) -> Awaitable[Verdict]:
        """See the port."""
        return self.record(step, effects)

    def record(self, step: Step, effects: tuple[Effect, ...]) -> Awaitable[Verdict]:
        """See the port."""
        claim = self._claim
        return self._journaling.record(claim.id, claim.fence, step, effects)

    def again_at(self, error: BaseException, failures: int, retry: RetryPolicy | None) -> int | None:
        """See the port."""
        policy = retry or self.policy
        return retry_at(error, failures, policy, now=self.clock.now(), chance=self._entropy.chance())


DEFAULT_TIMEOUT_MS = 3_600_000


class FailureResult(NamedTuple):
    """What a function returns in place of a result to say: failed, and no retry helps, but it is no dead letter.

    `error` is a sentence, `result` the JSON text that a caller gets.
    """

    error: str
    result: str


DurableFunction: TypeAlias = Callable[[WorkflowContext[Any]], Awaitable[str | FailureResult]]
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
    timeout_ms: int | None = DEFAULT_TIMEOUT_MS
    verbose: bool = False
    public_url: PublicUrl = NO_PUBLIC_URL
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
        CURRENT_DELIVERY.set(DeliveryScope(runtime.threads, runtime, claim))
        try:
            payload = self.payload(claim)
        except InputError as error:
            return dead(claim, describe_error(error))
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) or is_program_exit(error, root, root.get_loop()):
                raise
            return dead(claim, error_report(error))
        execution = Execution(claim, recorder, runtime, root, max_value=self.limit)
        context: WorkflowContext[Any] = WorkflowContext(payload, claim, execution, self.public_url)
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
        if isinstance(result, FailureResult):
            return answered(claim, result.error, result.result)
        return done(claim, result, context.effects)
