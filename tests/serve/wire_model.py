"""A plain model of QStash: a run is what was appended to it, and each entry is delivered with all before it.

The requests are those that an endpoint makes. A delivery that is not answered is repeated, just as it was; one that is
answered with a failure is repeated later, and counted.
"""

import asyncio
import json
from base64 import b64encode
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, NamedTuple, TypeAlias
from urllib.parse import unquote

from batchflow.core.message import Claim, Message
from batchflow.core.ports import Plan, RecordResult, Runtime
from batchflow.core.run import Arrival, Journal, Step
from batchflow.core.settlement import Effect, Listen, OpenBatch, Settlement
from batchflow.errors import StoreUnavailable
from batchflow.qstash.endpoint import waits_for_retry
from batchflow.qstash.recorder import WireRecorder
from batchflow.serve.endpoint import Endpoint
from batchflow.wire.steps import DeliveredRun, call_record, read_delivery
from batchflow.wire.submissions import Address, Submission
from tests.serve.simulated_worlds import CALL_MS, Outside
from tests.serve.store_model import THREADS, Even, ManualClock

Mishap: TypeAlias = Literal["killed", "refused", "reply lost"]
"""A fault of a submission: the process dies after it, or it fails before or after it was appended."""

ADDRESS = Address("wfr_run_1", "https://app.example.com/test", created_at=1)
RETRIES = 2


class Delivery(NamedTuple):
    """An entry to be delivered by its place, from `due` on, after so many failed attempts."""

    due: int
    place: int
    retried: int = 0


class WatchedRecorder(WireRecorder):
    """The recorder of an endpoint; the model notes by which entry a step is started.

    Without the rule, a delivery starts what earlier ones have unlocked too.
    """

    wire: "Wire"

    def plan(self, asked: Sequence[Step], settled: AbstractSet[int]) -> Sequence[Plan]:
        plans = super().plan(asked, settled if self.wire.keeps_the_rule else frozenset())
        for step, plan in zip(asked, plans, strict=True):
            if plan == "execute":
                self.wire.unlocked_by.setdefault(step.name, set()).add(self.wire.place)
        return plans


@dataclass(kw_only=True)
class Wire:
    """One run and the engine that delivers it, in an order that `seed` decides.

    `mishaps` maps the number of a submission, from 1 on, to what befalls it; the answers of `unanswered` deliveries,
    counted likewise, are lost. `keeps_the_rule` is off to see what the rule is good for.
    """

    mishaps: dict[int, Mishap] = field(default_factory=dict[int, Mishap])
    unanswered: frozenset[int] = frozenset()
    seed: int = 0
    keeps_the_rule: bool = True
    clock: ManualClock = field(default_factory=ManualClock)
    entries: list[str] = field(default_factory=lambda: ["null"])
    queue: list[Delivery] = field(default_factory=lambda: [Delivery(0, 0)])
    waiting: dict[int, tuple[dict[str, Any], int]] = field(default_factory=dict[int, tuple[dict[str, Any], int]])
    names: dict[int, str] = field(default_factory=dict[int, str])
    unlocked_by: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    delivered: dict[int, int] = field(default_factory=dict[int, int])
    order: list[int] = field(default_factory=list[int])
    place: int = 0
    submissions: int = 0
    deliveries: int = 0
    task: "asyncio.Task[Settlement | None] | None" = None
    retried: int = 0

    def __post_init__(self) -> None:
        self.outside = Outside(self.clock, self._arrive)
        self._random = Random(self.seed)

    # What the program sees

    def failures_of(self, step: str) -> int:
        """See `World`."""
        return self.retried

    def is_recorded(self, step: str) -> bool:
        """See `World`: what a repeated delivery cannot know is not known to it."""
        return any(it.name == step and it.state != "pending" for it in self.journal(self.place))

    def arrange(self, event: str, delay_ms: int) -> None:
        """See `World`."""
        self.outside.arrange(event, delay_ms)

    # What is submitted, and what the engine makes of it

    async def submit(self, address: Address, submission: Submission) -> bool:
        """One request to the engine: all of it, or nothing."""
        self.submissions += 1
        mishap = self.mishaps.get(self.submissions)
        await asyncio.sleep(0)
        if mishap == "refused":
            raise StoreUnavailable("the engine does not answer")
        self._take(submission)
        if mishap == "killed":
            assert self.task is not None
            self.task.cancel()
            await asyncio.get_running_loop().create_future()
        if mishap == "reply lost":
            raise StoreUnavailable("the answer is lost")
        return True

    def child_submission(self, address: Address, step: Step, concurrent: int, child: Message) -> Submission:
        """There are no children."""
        raise AssertionError("not of these stories")

    async def invoke_batch(self, address: Address, step: Step, concurrent: int, opens: OpenBatch) -> bool:
        """There are no batches."""
        raise AssertionError("not of these stories")

    def _take(self, submission: Submission) -> None:
        match submission.path.split("/")[2:]:
            case ["batch"]:
                for item in json.loads(submission.body):
                    if item["destination"] == ADDRESS.url:
                        not_before = int(item["headers"].get("upstash-not-before", 0)) * 1000
                        self._append(item["body"], not_before)
                    else:
                        self._call(item)
            case ["notify", _, event]:
                self.outside.notify(unquote(event), submission.body.decode())
            case ["wait", event]:
                wait = json.loads(submission.body)
                number, due = wait["step"]["stepId"], self.clock.now() + int(wait["timeout"].rstrip("sd")) * 1000
                if wait["timeout"].endswith("s"):
                    self.outside.later(due, lambda: self._time_out(number))
                self.waiting[number] = wait["step"], due
                self.outside.apply(Listen(number, unquote(event), 0))
            case other:
                raise AssertionError(other)

    def _append(self, record: str, due: int = 0) -> None:
        """Append an entry, which is delivered then, or when it is due."""
        step = json.loads(record)
        number = step.get("targetStep") or step["stepId"]
        name = self.names.setdefault(number, step["stepName"])
        assert name == step["stepName"], "a number has one name"
        assert list(self.names.values()).count(name) == 1, "a name has one number"
        self.entries.append(record)
        self.queue.append(Delivery(max(due, self.clock.now()), len(self.entries) - 1))

    def _call(self, item: dict[str, Any]) -> None:
        """Make a call with two retries that fails as often as its URL says."""
        headers, prefix = item["headers"], "upstash-callback-forward-upstash-workflow-"
        assert headers["upstash-retries"] == str(RETRIES)
        *_, failures, how = item["destination"].split("/")
        has_failed = int(failures) > RETRIES
        callback: dict[str, Any] = {"status": 200, "header": {"Date": ["today"]}, "body": b64encode(b"hello").decode()}
        if has_failed:
            callback |= {"status": 500, "body": ""}
        if has_failed and how != "answered":
            callback = {"status": 503, "header": {}, "body": b64encode(b"ConnectError: nobody answers").decode()}
        identity = {
            "stepId": int(headers[f"{prefix}stepid"]),
            "stepName": unquote(headers[f"{prefix}stepname"]),
            "stepType": "Call",
            "concurrent": int(headers[f"{prefix}concurrent"]),
        }
        due = self.clock.now() + CALL_MS
        self.outside.later(due, lambda: self._append(call_record(identity, callback, self.clock.now())))

    def _arrive(self, arrival: Arrival) -> None:
        if (wait := self.waiting.pop(arrival.number, None)) is not None:
            out = b64encode((arrival.value or "").encode()).decode()
            self._append(json.dumps({**wait[0], "waitEventId": "an event", "out": out}))

    def _time_out(self, number: int) -> None:
        if (wait := self.waiting.get(number)) is not None and wait[1] <= self.clock.now():
            del self.waiting[number]
            self._append(json.dumps({**wait[0], "waitEventId": "an event", "waitTimeout": True}))

    def _wait(self) -> None:
        """Let time pass until something is due."""
        dues = [due for due, _, _ in self.outside.due[:1]] + [delivery.due for delivery in self.queue]
        assert dues, "the run waits for nothing, and has not ended"
        self.clock.time = max(self.clock.time, min(dues))

    # Delivering

    def _read(self, place: int) -> DeliveredRun:
        entries = [
            {"messageId": str(number), "body": b64encode(record.encode()).decode(), "callType": "step"}
            for number, record in enumerate(self.entries[: place + 1])
        ]
        return read_delivery(json.dumps(entries).encode(), started_at=1, now=self.clock.now())

    def journal(self, place: int) -> Journal:
        """The steps that the delivery of an entry carries; of repeated ones the first counts."""
        return self._read(place).journal

    async def drive(self, endpoint: Endpoint, limit: int = 2_000) -> Settlement:
        """Deliveries until the run has ended."""
        for _ in range(limit):
            self.outside.catch_up()
            ready = [delivery for delivery in self.queue if delivery.due <= self.clock.now()]
            if not ready:
                self._wait()
                continue
            delivery = self._random.choice(ready)
            self.queue.remove(delivery)
            ending = await self._deliver(endpoint, delivery)
            if ending is not None:
                return ending
        raise AssertionError("the run does not end")

    async def _deliver(self, endpoint: Endpoint, delivery: Delivery) -> Settlement | None:
        """One delivery; how the run has ended, None while it goes on."""
        run = self._read(delivery.place)
        if run.is_repeated:
            return None
        self.deliveries += 1
        self.place, self.retried = delivery.place, delivery.retried
        self.order.append(delivery.place)
        self.delivered[delivery.place] = self.delivered.get(delivery.place, 0) + 1
        recorder = WatchedRecorder(
            ADDRESS, run, self, retried=delivery.retried, policy=endpoint.retry, clock=self.clock, entropy=Even()
        )
        recorder.wire = self
        self.task = asyncio.get_running_loop().create_task(self._answer(endpoint, delivery, run, recorder))
        unanswered = self.deliveries in self.unanswered
        try:
            ending = await self.task
        except asyncio.CancelledError:
            ending = None
        if ending is None or (unanswered and ending.ending == "suspended"):
            self.queue.append(delivery)
            return None
        if waits_for_retry(ending):
            self.queue.append(delivery._replace(due=ending.due, retried=delivery.retried + 1))
        return None if ending.ending == "suspended" else ending

    async def _answer(
        self, endpoint: Endpoint, delivery: Delivery, run: DeliveredRun, recorder: WireRecorder
    ) -> Settlement | None:
        """Deliver to the endpoint and submit its plans; return how the attempt ended."""
        claim = Claim("run_1", 1, "/test", "null", failures=delivery.retried, journal=run.journal, started_at=1)
        runtime = Runtime(journaling=_Nowhere(), clock=self.clock, entropy=Even(), threads=THREADS)
        ending = await endpoint.deliver(claim, runtime, recorder)
        if ending is not None and ending.ending == "suspended" and not waits_for_retry(ending):
            try:
                await recorder.submit_plans()
            except StoreUnavailable:
                return None
        return ending


class _Nowhere:
    """There is no store."""

    async def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> RecordResult:
        raise AssertionError("nothing is recorded beside the wire")
