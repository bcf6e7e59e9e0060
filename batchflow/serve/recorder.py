"""Direct delivery: a step is recorded in the store, and the function goes on."""

from collections.abc import Awaitable, Sequence
from collections.abc import Set as AbstractSet

from batchflow.core.message import Claim
from batchflow.core.ports import Plan, Runtime, Verdict
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Step
from batchflow.core.settlement import Effect
from batchflow.serve.failure import again_at


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
        return again_at(error, failures, policy, now=self.clock.now(), chance=self._entropy.chance())
