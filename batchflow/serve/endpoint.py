"""Endpoints: a durable function at its route, and the delivery of one claim to it."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from batchflow.core.codec import DEFAULT_SIZE_LIMIT, SizeLimit
from batchflow.core.failure_functions import FAILURE_URL_HEADER, FailureUrlHeader
from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim
from batchflow.core.ports import NO_LOG_NAMES, LogNames, Plan, Recorder, RecordResult, Runtime
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Step
from batchflow.core.settlement import Effect, Settlement, dead, done, failed
from batchflow.errors import InputError
from batchflow.serve.app_url import NO_PUBLIC_URL, PublicUrl
from batchflow.serve.context import LayerContext
from batchflow.serve.delivery_scope import CURRENT_DELIVERY, DeliveryScope
from batchflow.serve.execution import Execution
from batchflow.serve.failure import describe_error, error_report, is_program_exit, retry_at
from batchflow.serve.outcome import settlement_of_error, settlement_of_return


class DirectRecorder:
    """Records the steps of one claim in the store, from the process that holds the claim. New steps start at once."""

    __slots__ = ("_claim", "_entropy", "_journaling", "clock", "policy", "stops")

    def __init__(self, claim: Claim, policy: RetryPolicy, runtime: Runtime) -> None:
        self._claim = claim
        self._journaling = runtime.journaling
        self._entropy = runtime.entropy
        self.policy = policy
        self.clock = runtime.clock
        self.stops = runtime.always_replay

    def check_step(self, retry: RetryPolicy) -> None:
        """See the port: each policy is kept."""

    def plan(self, asked: Sequence[Step], settled: AbstractSet[int]) -> Sequence[Plan]:
        """Execute every step."""
        return ("execute",) * len(asked)

    def record(self, step: Step, effects: tuple[Effect, ...]) -> Awaitable[RecordResult]:
        """Record the step in the store, under the claim's fence."""
        return self._journaling.record(self._claim.id, self._claim.fence, step, effects)

    start = record

    def retry_at(self, error: BaseException, failures: int, retry: RetryPolicy | None) -> int | None:
        """Return when to retry a failure, by the step's policy or the claim's."""
        policy = retry or self.policy
        return retry_at(error, failures, policy, now=self.clock.now(), chance=self._entropy.chance())


DEFAULT_TIMEOUT_MS = 3_600_000


class FailureResult(NamedTuple):
    """A result that ends the run as failed, without a retry and without a dead letter.

    `error` is the message, `result` the JSON text that the caller gets.
    """

    error: str
    result: str


DurableFunction: TypeAlias = Callable[[LayerContext[Any]], Awaitable[str | FailureResult]]
"""The function of an endpoint: returns its result as JSON text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A durable function and the route that serves it.

    `payload` reads the payload of a claim; its `InputError` ends the run as a dead letter with that message. `flow.key`
    is the flow key of the runs. `retry` applies to runs without their own policy. `timeout_ms` limits one attempt: the
    engine interrupts it, and the attempt counts as failed; `declared_timeout_ms` is the same if the code declares it.
    `verbose` logs every event of its runs. `env` is what `ctx.env` returns. `limit` is the maximum size of a step's
    result. `log` has the words of log lines about its runs. `on_failure` is where its runs are reported that fail for
    good; if that is `failure_url`, each run has a header.
    """

    route: str
    name: str
    function: DurableFunction
    payload: Callable[[Claim], Any]
    flow: FlowControl
    retry: RetryPolicy = RetryPolicy()
    timeout_ms: int | None = DEFAULT_TIMEOUT_MS
    declared_timeout_ms: int | None = None
    verbose: bool = False
    public_url: PublicUrl = NO_PUBLIC_URL
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)
    limit: SizeLimit = DEFAULT_SIZE_LIMIT
    log: LogNames = NO_LOG_NAMES
    on_failure: str | None = None
    failure_url: str | None = field(default=None, repr=False)

    def run_headers(self, headers: Mapping[str, str], not_before: int, retry: RetryPolicy | None) -> Mapping[str, str]:
        """Return the headers of a new run: those of its trigger, and its failure URL if there is one."""
        if self.failure_url is None:
            return headers
        retries = (retry or self.retry).attempts - 1
        return {**headers, FAILURE_URL_HEADER: str(FailureUrlHeader(not_before, retries, self.failure_url))}

    async def deliver(self, claim: Claim, runtime: Runtime, recorder: Recorder | None = None) -> Settlement | None:
        """Run the function for one claim, in the task created for that claim, and return how it ended.

        `recorder` makes the steps durable; by default they are recorded in the store. None is returned when the claim
        was lost or the store failed: the attempt left no trace, and the claim should be released. Cancelling the task
        from outside raises `CancelledError` once the function's own tasks have ended.
        """
        if recorder is None:
            recorder = DirectRecorder(claim, claim.retry or self.retry, runtime)
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
        context: LayerContext[Any] = LayerContext(payload, claim, execution, self.public_url, self.env)
        try:
            result = await self.function(context)
        except BaseException as error:
            return await settlement_of_error(execution, error, self.timeout_ms)
        if not execution.close_directly():
            counts, settlement = await settlement_of_return(execution, self.timeout_ms)
            if not counts:
                return settlement
        if isinstance(result, FailureResult):
            return failed(claim, result.error, result.result)
        return done(claim, result, context.effects)
