"""Direct delivery: a step is recorded in the store, and the function goes on."""

from collections.abc import Awaitable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial

from batchflow.core.message import Claim
from batchflow.core.ports import Plan, Runtime, Verdict
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Step
from batchflow.core.settlement import Effect
from batchflow.errors import StoreError
from batchflow.serve.failure import again_at


class DirectRecorder:
    """The recorder of one claim in the process that holds it. A step may start as soon as it is asked for."""

    __slots__ = ("_claim", "_entropy", "_insist", "_journaling", "clock", "policy", "stops")

    def __init__(self, claim: Claim, policy: RetryPolicy, runtime: Runtime) -> None:
        self._claim = claim
        self._journaling = runtime.journaling
        self._insist = runtime.insist
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

    async def record(self, step: Step, effects: tuple[Effect, ...]) -> Verdict:
        """See the port."""
        try:
            return await self._journaling.record(self._claim.id, self._claim.fence, step, effects)
        except StoreError as error:
            if not error.retryable or self._insist is None:
                raise
            # What was executed is not thrown away: it would have to be executed again.
            again = partial(self._journaling.record, self._claim.id, self._claim.fence, step, effects)
            return await self._insist(again, error)

    def again_at(self, error: BaseException, failures: int, retry: RetryPolicy | None) -> int | None:
        """See the port."""
        policy = retry or self.policy
        return again_at(error, failures, policy, now=self.clock.now(), chance=self._entropy.chance())
