"""Direct delivery: a step is recorded in the store, and the function goes on."""

from collections.abc import Awaitable, Callable, Sequence

from batchflow.core.message import Claim
from batchflow.core.ports import Asked, Plan, Runtime, Verdict
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Step
from batchflow.core.settlement import Effect
from batchflow.serve.failure import again_at


class DirectRecorder:
    """The recorder of one claim in the process that holds it. A step may start as soon as it is asked for."""

    __slots__ = (
        "_claim",
        "_journaling",
        "always_replay",
        "clock",
        "entropy",
        "insist",
        "interrupts",
        "lease",
        "losses",
        "policy",
    )

    def __init__(self, claim: Claim, policy: RetryPolicy, runtime: Runtime) -> None:
        self._claim = claim
        self._journaling = runtime.journaling
        self.entropy = runtime.entropy
        self.policy = policy
        self.clock = runtime.clock
        self.lease = runtime.lease
        """The worker's; None where there is none."""
        self.losses = 0 if runtime.lease is None else runtime.lease.losses
        """How often that had ended when the attempt began."""
        self.interrupts = runtime.interrupts
        self.insist = runtime.insist
        """Records again what the store could not record for now; None: the attempt is given up."""
        self.always_replay = runtime.always_replay
        """Whether the attempt ends after every step, so that each is replayed."""

    @property
    def immediate(self) -> bool:
        """True."""
        return True

    @property
    def interruption(self) -> str | None:
        """Why the engine interrupts this claim; None: it does not."""
        return self.interrupts.why(self._claim)

    def when_interrupted(self, heed: Callable[[], None]) -> None:
        """Call `heed` when the engine interrupts this claim."""
        self.interrupts.on_request(self._claim, heed)

    def plan(self, asked: Sequence[Asked]) -> Sequence[Plan]:
        """Timers and retries that are not due park; a timer that is due is recorded, everything else executes."""
        now = self.clock.now()
        return [_plan(one, now) for one in asked]

    def record(self, step: Step, effects: tuple[Effect, ...] = ()) -> Awaitable[Verdict]:
        """Hand the step to the store; resolves when it is durable."""
        return self._journaling.record(self._claim.id, self._claim.fence, step, effects)

    def failed(self, asked: Asked, error: BaseException, retry: RetryPolicy | None = None) -> int | None:
        """When the step is tried again by `retry`, or by the run's policy; None: this failure is final."""
        failures = asked.pending.failures + 1 if asked.pending else 1
        return self.again_at(error, failures, retry)

    def again_at(self, error: BaseException, failures: int, retry: RetryPolicy | None = None) -> int | None:
        """When to try again after so many failures, this one counted; None: never."""
        policy, now = retry or self.policy, self.clock.now()
        return again_at(error, failures, policy, now=now, chance=self.entropy.chance())


def _plan(asked: Asked, now: int) -> Plan:
    due = asked.pending.due if asked.pending else asked.due
    if due > now:
        return "park"
    return "record" if asked.kind == "sleep" else "execute"
