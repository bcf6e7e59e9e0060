"""The endpoint of a served function as QStash calls it: one request is one delivery of a run."""

from base64 import b64decode
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias, cast
from urllib.parse import unquote

from pydantic_core import from_json, to_json

from batchflow.core.dead_letters import DeadLetter
from batchflow.core.failure_functions import FailureResponse
from batchflow.core.message import Claim
from batchflow.core.ports import Recorder, Runtime
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Step
from batchflow.core.settlement import Settlement
from batchflow.errors import ConfigurationError, InputError, NotFoundError, StoreError
from batchflow.logs import logger
from batchflow.qstash.attempt import next_fence, run_attempt
from batchflow.qstash.receiver import Receiver
from batchflow.qstash.recorder import Submitter, WireRecorder
from batchflow.qstash.run_options import CALLBACK, FAILURE, LONGEST_RETRY_WAIT_MS, UNKNOWN_SDK, VERSION, trigger_headers
from batchflow.qstash.runs import ShownFailureCallback
from batchflow.serve.endpoint import Endpoint
from batchflow.serve.failure_functions import FAILURE_FUNCTION_STEP
from batchflow.wire.envelope import HeaderPairs
from batchflow.wire.headers import REDELIVERED
from batchflow.wire.signature import SIGNATURE
from batchflow.wire.steps import DeliveredRun, call_record, known_steps, read_delivery
from batchflow.wire.submissions import (
    PROTOCOL,
    Address,
    RunSettings,
    batch_submission,
    called_submission,
    init_item,
    own_id,
)

RUN_ID = "upstash-workflow-runid"

_ANSWERED: Mapping[str, str] = MappingProxyType(
    {"Upstash-Workflow-Sdk-Version": PROTOCOL, "Upstash-workflow-sdk": "v1.3.0", "Content-Type": "application/json"}
)
# The version of the protocol, and that of the SDK for JavaScript that has it: QStash looks at both.


class WireRequest(NamedTuple):
    """A request of QStash; the names of its headers are in lower case."""

    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"WireRequest({len(self.body)} bytes)"


class WireAnswer(NamedTuple):
    """The answer to a request of QStash."""

    status: int
    headers: Mapping[str, str]
    body: bytes


ObserveRecorder: TypeAlias = Callable[[Claim, Recorder], Recorder]
"""Returns the recorder to use in place of that of a delivery."""


class WireEngine(Submitter, Protocol):
    """QStash, as an endpoint uses it."""

    @property
    def runtime(self) -> Runtime:
        """The parts of the app that deliveries use."""
        ...

    @property
    def telemetry(self) -> HeaderPairs:
        """The headers that describe this program."""
        ...

    @property
    def observe(self) -> ObserveRecorder | None:
        """Replaces the recorders of deliveries in a test."""
        ...

    @property
    def told(self) -> dict[str, DeadLetter]:
        """The dead letters that failure functions are being told of, by the ids of their runs."""
        ...

    async def steps_of(self, run: str) -> bytes:
        """All steps of a run, as a delivery has them.

        Raises:
            NotFoundError: the run has ended.
        """
        ...

    async def finish(self, address: Address, result: str | None) -> None:
        """End a run with its result (JSON text). Safe to repeat."""
        ...

    async def cancel(self, address: Address) -> None:
        """Cancel a run. Safe to repeat."""
        ...


class WireEndpoint:
    """Answers the requests of QStash for one endpoint."""

    def __init__(self, endpoint: Endpoint, failure: Endpoint | None, engine: WireEngine) -> None:
        self._endpoint = endpoint
        self._failure = failure
        self._engine = engine

    async def answer(self, request: WireRequest, url: str, receiver: Receiver | None) -> WireAnswer:
        """Answer one request; `url` is the public URL of the endpoint. Without a `receiver` nobody verifies its sender.

        Raises:
            InputError: QStash has not sent it (401), or it is not what QStash sends.
        """
        headers = request.headers
        may_repeat = REDELIVERED in headers
        if receiver is not None:
            now = self._engine.runtime.clock.now()
            may_repeat |= receiver.verify(headers.get(SIGNATURE.lower()), url, request.body, now=now)
        if (wire_run := headers.get(RUN_ID)) is None:
            raise InputError(f"the header '{RUN_ID}' is missing; QStash sends it", status=400)
        if headers.get(VERSION, PROTOCOL) != PROTOCOL:
            raise InputError(f"batchflow speaks version {PROTOCOL} of the workflow protocol", field=VERSION, status=400)
        address = Address(
            wire_run,
            url,
            created_at=_number(headers, "upstash-workflow-createdat"),
            depth=_number(headers, "upstash-workflow-invoke-count"),
            telemetry=self._engine.telemetry,
            timeout_ms=self._endpoint.declared_timeout_ms,
        )
        try:
            if FAILURE in headers:
                return await self._fail(request, address)
            if CALLBACK in headers:
                return await self._called(request, address)
            run = await self._read(request, wire_run, may_repeat=may_repeat)
            if UNKNOWN_SDK in headers:
                return await self._begin(request, address, run)
            return _success(wire_run) if run.is_repeated else await self._deliver(request, address, run)
        except NotFoundError:
            # It has ended meanwhile.
            return _success(wire_run)
        except StoreError as error:
            if not error.retryable:
                logger().error(
                    "[batchflow] QStash will not take the end of a run", error=str(error), run=own_id(wire_run)
                )
            return unstored_answer(error)

    async def _read(self, request: WireRequest, wire_run: str, *, may_repeat: bool) -> DeliveredRun:
        headers, now = request.headers, self._engine.runtime.clock.now()
        whole = None
        # QStash leaves out what is large. What is delivered again may have been recorded before its answer was lost.
        if not request.body or _number(headers, "upstash-retried") or may_repeat:
            whole = await self._engine.steps_of(wire_run)
        body = request.body or whole or b""
        until = None if request.body else headers.get("upstash-message-id")
        started_at = _number(headers, "upstash-workflow-createdat") or now
        with _reading():
            run = read_delivery(body, started_at=started_at, now=now, until=until, run=wire_run)
            return run if whole is None else run._replace(known=known_steps(whole, run.target))

    async def _deliver(self, request: WireRequest, address: Address, run: DeliveredRun) -> WireAnswer:
        headers, runtime = request.headers, self._engine.runtime
        retried = _number(headers, "upstash-retried")
        claim = Claim(
            own_id(address.run),
            next_fence(),
            self._endpoint.route,
            run.payload.decode(errors="replace") or "null",
            failures=retried,
            headers=trigger_headers(headers),
            journal=run.journal,
            started_at=address.created_at or runtime.clock.now(),
            depth=address.depth,
        )
        recorder = WireRecorder(
            address,
            run,
            self._engine,
            retried=retried,
            policy=_policy(self._endpoint.retry, headers),
            clock=runtime.clock,
            entropy=runtime.entropy,
        )
        observe = self._engine.observe
        settlement = await run_attempt(
            self._endpoint, claim, runtime, observe(claim, recorder) if observe else recorder
        )
        now = runtime.clock.now()
        if settlement is None:
            return failure_answer(FailureResponse(500, "StoreError", "QStash could not record a step", ""))
        match settlement.ending:
            case "done":
                await self._engine.finish(address, settlement.result)
            case "suspended" if waits_for_retry(settlement):
                return _retry_answer(settlement, now)
            case "suspended":
                await recorder.submit_plans()
            case "retry" | "parked" | "released":
                return _retry_answer(settlement, now)
            case "dead" | "failed":
                return failure_answer(FailureResponse.of_error(489, settlement.error or ""))
            case "cancelled" if not recorder.has_ended:
                await self._engine.cancel(address)
            case "cancelled":
                pass
        return _success(address.run)

    async def _begin(self, request: WireRequest, address: Address, run: DeliveredRun) -> WireAnswer:
        """Take over a run that somebody has started without knowing what serves it."""
        settings = RunSettings(headers=trigger_headers(request.headers))
        item = init_item(address, run.payload.decode(errors="replace"), settings)
        item["headers"] |= {"upstash-workflow-trigger-by-sdk": "true"}
        await self._engine.submit(address, batch_submission([item]))
        return _success(address.run)

    async def _called(self, request: WireRequest, address: Address) -> WireAnswer:
        """Submit the outcome of a call, of which QStash tells by its callback."""
        headers = request.headers
        identity = {
            "stepId": _number(headers, "upstash-workflow-stepid"),
            "stepName": unquote(headers.get("upstash-workflow-stepname", "")),
            "stepType": "Call",
            "concurrent": _number(headers, "upstash-workflow-concurrent") or 1,
        }
        body = request.body
        if not body:
            body = _entry_of(await self._engine.steps_of(address.run), headers.get("upstash-message-id"))
        callback = _read_object(body)
        with _reading():
            status, most = int(callback.get("status") or 0), callback.get("maxRetries") or 0
            record = call_record(identity, callback, self._engine.runtime.clock.now(), address.run)
        if 200 <= status < 300 or callback.get("retried", 0) == most:
            await self._engine.submit(address, called_submission(address, record))
        return _success(address.run, "fromCallback")

    async def _fail(self, request: WireRequest, address: Address) -> WireAnswer:
        """Call the failure function."""
        if self._failure is None:
            answer = _success(address.run, "failure-callback-undefined")
            return answer._replace(headers={**answer.headers, "Upstash-Workflow-Failure-Callback-Notfound": "true"})
        runtime = self._engine.runtime
        with _reading():
            letter = ShownFailureCallback.model_validate(_read_object(request.body)).to_letter(
                own_id(address.run), self._endpoint, trigger_headers(request.headers), runtime.clock.now()
            )
        self._engine.told[letter.id] = letter
        retried = _number(request.headers, "upstash-retried")
        claim = Claim(
            f"{letter.id}.failure",
            next_fence(),
            self._failure.route,
            to_json(letter.id).decode(),
            failures=retried,
            journal=(Step(1, FAILURE_FUNCTION_STEP, "run", "pending", failures=retried),) if retried else (),
            started_at=runtime.clock.now(),
            retry=_policy(self._failure.retry, request.headers),
        )
        try:
            settlement = await run_attempt(self._failure, claim, runtime, None)
        finally:
            self._engine.told.pop(letter.id, None)
        if settlement is None:
            return failure_answer(FailureResponse(500, "StoreError", "the failure function could not be called", ""))
        if settlement.ending == "done":
            result: Any = from_json(settlement.result or "null")
            return WireAnswer(200, _ANSWERED, to_json({"result": result}))
        if settlement.ending in ("retry", "parked", "released") or waits_for_retry(settlement):
            return _retry_answer(settlement, runtime.clock.now())
        return failure_answer(FailureResponse.of_error(489, settlement.error or ""))


def waits_for_retry(settlement: Settlement) -> bool:
    """True for the end of an attempt with a step that has failed and is tried again."""
    return any(step.state == "pending" and step.failures for step in settlement.steps)


def _success(run: str, condition: str = "success") -> WireAnswer:
    return WireAnswer(200, _ANSWERED, to_json({"workflowRunId": run, "finishCondition": condition}))


def failure_answer(response: FailureResponse, **headers: str) -> WireAnswer:
    """The answer that tells of a failure."""
    final = {"Upstash-NonRetryable-Error": "true"} if response.status == 489 else {}
    return WireAnswer(response.status, {**_ANSWERED, **final, **headers}, response.body)


def unstored_answer(error: StoreError) -> WireAnswer:
    """The answer if something cannot be given to QStash: it sends the request again, unless that does not help."""
    return failure_answer(FailureResponse(500 if error.retryable else 489, type(error).__name__, str(error), ""))


def _retry_answer(settlement: Settlement, now: int) -> WireAnswer:
    """Ask for another delivery when the settlement wants it: QStash knows whole seconds."""
    error = settlement.error or (settlement.failures[-1].message if settlement.failures else "")
    response = FailureResponse.of_error(429 if settlement.ending == "parked" else 500, error)
    wait = min(max(0, settlement.due - now), LONGEST_RETRY_WAIT_MS)
    return failure_answer(response, **{"Retry-After": str(-(-wait // 1000))})


def _policy(policy: RetryPolicy, headers: Mapping[str, str]) -> RetryPolicy:
    """The policy of a run: its trigger may have set other retries and waits than those of the function."""
    if "upstash-max-retries" not in headers:
        return policy
    retries, delay = _number(headers, "upstash-max-retries"), headers.get("upstash-retry-delay")
    if delay in (None, policy.expression()):
        return RetryPolicy.of(retries=retries, default=policy)
    return _own_policy(policy, retries, delay)


@lru_cache(maxsize=256)
def _own_policy(policy: RetryPolicy, retries: int, delay: str) -> RetryPolicy:
    try:
        return RetryPolicy(retries=retries, delay=delay, cap="24h", jitter=policy.jitter)
    except ConfigurationError as error:
        logger().warning(
            "[batchflow] A run has a retry delay that only QStash can read; that of its function counts",
            error=str(error),
        )
        return RetryPolicy.of(retries=retries, default=policy)


@contextmanager
def _reading() -> Generator[None]:
    """Refuse a body that is not what QStash sends, wherever that is noticed."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise InputError(f"the body is not what QStash sends ({type(error).__name__})", status=400) from error


def _number(headers: Mapping[str, str], name: str) -> int:
    text = headers.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        read: Any = from_json(body)
    except ValueError as error:
        raise InputError(f"the body is not JSON ({error})", status=400) from error
    if not isinstance(read, dict):
        raise InputError("the body is not a JSON object, as QStash sends it", status=400)
    return cast("dict[str, Any]", read)


def _entry_of(steps: bytes, message: str | None) -> bytes:
    found: Any = next((it for it in from_json(steps) if it.get("messageId") == message), None)
    if found is None:
        raise NotFoundError("the callback is not there any more")
    return b64decode(found["body"])
