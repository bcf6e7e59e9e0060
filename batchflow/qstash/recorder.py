"""The recorder of one delivery of QStash: submits the steps that this delivery has unlocked."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from batchflow.core.call import CALL_DESTINATION, call_request_codec
from batchflow.core.message import Message
from batchflow.core.ports import Clock, Entropy, Plan, RecordResult
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Step
from batchflow.core.settlement import AcceptWebhook, Effect, Listen, Notify, OpenBatch, Publish
from batchflow.errors import ConfigurationError, InputError
from batchflow.qstash.rest import QStashRefused
from batchflow.qstash.run_options import check_call_headers, check_run_options
from batchflow.serve.failure import retry_at
from batchflow.wire.steps import DeliveredRun
from batchflow.wire.submissions import (
    Address,
    Submission,
    call_submission,
    notify_submission,
    outcome_submission,
    plans_submission,
    sleep_submission,
    wait_submission,
    wire_id,
)

_ONE_ATTEMPT = RetryPolicy.none()


class Submitter(Protocol):
    """Makes the requests of an endpoint to QStash."""

    async def submit(self, address: Address, submission: Submission) -> bool:
        """Submit something about a run; False if the run has ended or does not exist.

        Raises:
            StoreError: QStash refuses it, or cannot take it now.
        """
        ...

    def child_submission(self, address: Address, step: Step, concurrent: int, child: Message) -> Submission:
        """The request that starts a child, whose end is the outcome of a step."""
        ...

    async def invoke_batch(self, address: Address, step: Step, concurrent: int, opens: OpenBatch) -> bool:
        """Open a batch, whose end is the outcome of a step. Safe to repeat; False if the run has ended.

        Raises:
            StoreError: as for `submit`, or there is no store for batches.
        """
        ...


class WireRecorder:
    """The recorder of one delivery: it starts what its own last entry has unlocked, and nothing else.

    The code asks for some steps before the last recorded outcome is handed out: those belong to earlier deliveries. The
    steps that it asks for after that are this delivery's round. A single one is executed and submitted; of several, the
    plans are submitted, each of which is delivered, and executes what was planned. So each request executes one step,
    and what has happened is the same for each of them: all entries up to its own. What a repeated delivery has begun
    before is passed over, if the run knows of it.
    """

    stops = True

    def __init__(
        self,
        address: Address,
        run: DeliveredRun,
        qstash: Submitter,
        *,
        retried: int,
        policy: RetryPolicy,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self.policy = policy
        """See the port."""
        self.clock = clock
        """See the port."""
        self.plans: Sequence[Step] = ()
        """The steps of the round, of which the plans are to be submitted once the attempt has ended."""
        self.has_ended = False
        """QStash has said that the run has ended: there is nothing more to tell."""
        self._address = address
        self._run = run
        self._qstash = qstash
        self._retried = retried
        self._entropy = entropy

    @property
    def _concurrent(self) -> int:
        return self._run.concurrent if self._run.target else 1

    def check_step(self, retry: RetryPolicy) -> None:
        """See the port: QStash delivers as often as the policy of the run says."""
        if retry.attempts > self.policy.attempts:
            raise ConfigurationError(
                f"has {retry.retries} retries, and QStash delivers a run of this function {self.policy.attempts} times",
                option="retry",
                want=f"give the function more: @flow.serve(…, retries={retry.retries})",
            )
        try:
            check_run_options(None, retry, None, {})
        except InputError as error:
            raise ConfigurationError(str(error)) from error

    def plan(self, asked: Sequence[Step], settled: AbstractSet[int]) -> Sequence[Plan]:
        """See the class."""
        if self._run.target:
            unlocked = {self._run.target} - self._run.known
        else:
            fresh = [step for step in asked if step.number not in settled | self._run.known]
            if len(fresh) > 1 or (fresh and fresh[0].kind == "sleep" and not self._is_alone(fresh[0], asked)):
                self.plans = fresh
                fresh = []
            unlocked = {step.number for step in fresh}
        return ["execute" if step.number in unlocked else "park" for step in asked]

    def _is_alone(self, step: Step, asked: Sequence[Step]) -> bool:
        """True if no entry can come before the delivery of what this step submits.

        The outcome of a sleep is appended when it begins: a delivery of another entry would have it too early. A plan
        has no outcome until it is delivered.
        """
        recorded = sum(it.state != "pending" for it in self._run.journal)
        return len(asked) == 1 and recorded == step.number - 1

    async def start(self, step: Step, effects: tuple[Effect, ...]) -> RecordResult:
        """Submit the step that waits; the engine appends its outcome."""
        match effects:
            case (Listen(_, event, _),):
                now = self.clock.now()
                return await self._submitted(wait_submission(self._address, step, self._concurrent, event, now=now))
            case (Publish((message,)),) if message.destination == CALL_DESTINATION:
                request = call_request_codec().decode(message.body)
                retry = message.retry or _ONE_ATTEMPT
                try:
                    check_run_options(message.flow, retry, None, {})
                    check_call_headers(request.headers)
                except InputError as error:
                    raise QStashRefused(str(error)) from error
                return await self._submitted(
                    call_submission(self._address, step, self._concurrent, request, retry, message.flow)
                )
            case (Publish((message,)),):
                return await self._submitted(
                    self._qstash.child_submission(self._address, step, self._concurrent, message)
                )
            case (OpenBatch() as opens,):
                return self._recorded(await self._qstash.invoke_batch(self._address, step, self._concurrent, opens))
            case ():
                return await self._submitted(sleep_submission(self._address, step))
            case _:
                raise AssertionError(f"an endpoint of QStash cannot carry out {effects}")

    async def record(self, step: Step, effects: tuple[Effect, ...]) -> RecordResult:
        """Submit the outcome of an executed step; an event is sent before."""
        type = None
        for effect in effects:
            match effect:
                case Notify(event, data, run):
                    type = "Notify"
                    await self._submitted(notify_submission(event, data, None if run is None else wire_id(run)))
                case AcceptWebhook():
                    type = "CreateWebhook"
                case _:
                    raise AssertionError(f"an endpoint of QStash cannot carry out {effect}")
        outcome = step._replace(failures=self._retried + (step.state == "failed"), due=self._run.due)
        return await self._submitted(outcome_submission(self._address, outcome, self._concurrent, type=type))

    async def submit_plans(self) -> RecordResult:
        """Submit the plans of the round, if there are some."""
        return await self._submitted(plans_submission(self._address, self.plans)) if self.plans else "recorded"

    def retry_at(self, error: BaseException, failures: int, retry: RetryPolicy | None) -> int | None:
        """A delivery executes one step at most: its attempts are those of the step."""
        policy = retry or self.policy
        return retry_at(error, self._retried + 1, policy, now=self.clock.now(), chance=self._entropy.chance())

    async def _submitted(self, submission: Submission) -> RecordResult:
        # A run that has ended takes nothing: what its other deliveries do is of no use any more.
        return self._recorded(await self._qstash.submit(self._address, submission))

    def _recorded(self, goes_on: bool) -> RecordResult:
        self.has_ended |= not goes_on
        return "recorded" if goes_on else "cancelled"
