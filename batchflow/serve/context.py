"""The context of a durable function: steps, calls, children, events, and the helpers that are safe on replay."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Generic, Never, NoReturn, ParamSpec, TypeVarTuple, cast, overload
from uuid import UUID

from typing_extensions import TypeVar

from batchflow.core.codec import Codec
from batchflow.core.duration import Duration, to_ms
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import Effect, Notify
from batchflow.logs import SafeLogger, logger
from batchflow.serve.app_url import ROOT_HEADER, PublicUrl, user_headers
from batchflow.serve.callables import as_async
from batchflow.serve.calls import CallResponse, build_call_request, call_step
from batchflow.serve.children import ChildOptions, Invocable, check_invocable, check_not_for_children, invoke_step
from batchflow.serve.execution import DEFAULT_STEP, FINAL_STEP, Execution, StepOptions
from batchflow.serve.validation import (
    check_no_unknown_options,
    check_response_type,
    check_retry,
    check_step_name,
    not_callable,
    parse_timeout,
    parse_timestamp,
    require_key,
    validate_awaitables,
    validate_headers,
    validate_label,
    validate_run_id,
)
from batchflow.serve.waits import (
    Deadline,
    EventResult,
    Webhook,
    WebhookRequest,
    check_webhook,
    event_step,
    first_of,
    none_codec,
    serialize_event_data,
    validate_event_id,
    webhook_event_id,
    webhook_request_codec,
    webhook_step,
)


class RunLog:
    """A structlog logger bound to a run, silent while recorded steps are replayed.

    `log.info("charged %s", id, amount=3)`: positional arguments are formatted into the text, keyword arguments become
    values of the line under any name. A line that cannot be formatted is dropped; it never fails the run.

    A line before a recorded step is logged once. A line after the last recorded step is logged again when a failure or
    a crash makes that code run again.
    """

    __slots__ = ("_bound", "_is_replaying")

    def __init__(self, bound: SafeLogger, is_replaying: Callable[[], bool]) -> None:
        self._bound = bound
        self._is_replaying = is_replaying

    def bind(self, /, **values: Any) -> "RunLog":
        """Return a copy with these values bound to it."""
        return RunLog(self._bound.bind(**values), self._is_replaying)

    def debug(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level DEBUG."""
        if not self._is_replaying():
            self._bound.debug(event, *args, **values)

    def info(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level INFO."""
        if not self._is_replaying():
            self._bound.info(event, *args, **values)

    def warning(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level WARNING."""
        if not self._is_replaying():
            self._bound.warning(event, *args, **values)

    def error(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level ERROR."""
        if not self._is_replaying():
            self._bound.error(event, *args, **values)

    def exception(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level ERROR, with the exception that is being handled."""
        self.error(event, *args, **{"exc_info": True, **values})

    def critical(self, event: object, /, *args: object, **values: Any) -> None:
        """Log at the level CRITICAL."""
        if not self._is_replaying():
            self._bound.critical(event, *args, **values)


class DeterministicRandom:
    """Pseudo-random values derived from a run id: the same sequence on every attempt.

    Anyone who knows the id can compute them: they are not secrets.
    """

    __slots__ = ("_drawn", "_run")

    def __init__(self, run: str) -> None:
        self._run = run
        self._drawn = 0

    def random(self) -> float:
        """Return the next number in [0, 1)."""
        return (int.from_bytes(self._draw(7)) >> 3) / (1 << 53)

    def uuid(self) -> UUID:
        """Return the next UUID, of version 4."""
        return UUID(bytes=self._draw(16), version=4)

    def _draw(self, size: int) -> bytes:
        self._drawn += 1
        return blake2b(f"{self._run}\n{self._drawn}".encode(), digest_size=size).digest()


Payload = TypeVar("Payload")
P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Sent = TypeVar("Sent")

AnyT = TypeVar("AnyT", default=Any)
_UNTYPED = cast("type[Any]", None)
"""The default of an optional type: None, from which type checkers infer `Any` even inside of `ctx.first(…)`."""

DEFAULT_CALL_FLOW = FlowControl(key="batchflow.call")
"""The flow key of calls without their own `flow_control`."""


class WorkflowContext(Generic[Payload]):
    """The context of one run of a durable function: its payload, and the steps it can take.

    Everything that must not happen twice belongs in a step. Code between steps runs again on every replay and may await
    nothing but the methods of this context.
    """

    __slots__ = ("_claim", "_env", "_execution", "_public_url", "_random", "payload")

    def __init__(
        self, payload: Payload, claim: Claim, execution: Execution, public_url: PublicUrl, env: Mapping[str, str]
    ) -> None:
        self.payload = payload
        self._claim = claim
        self._execution = execution
        self._public_url = public_url
        self._env = env
        self._random: DeterministicRandom | None = None

    @property
    def run_id(self) -> str:
        """The id of this run, the same on every attempt."""
        return self._claim.id

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that the run was triggered with."""
        return user_headers(self._claim.headers)

    @property
    def attempt(self) -> int:
        """The number of this attempt of the function, from 1. A recorded step resets it."""
        return self._claim.failures + 1

    @overload
    def run(
        self, name: str, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def run(
        self, name: str, fn: Callable[P, Awaitable[T] | T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...
    def run(self, name: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Call `fn` once and store its result: `await ctx.run("charge", charge, order_id)`.

        The result is durable before this returns, and a replay returns it without calling `fn` again. Both times it
        has passed through the JSON form of the return type that `fn` declares. `name` must be unique within the run. A
        plain function runs in a worker thread. A failure is retried by the run's `RetryPolicy`; the code sees only the
        last one.

        Raises:
            StepFailed: the step has no attempts left, or its error is not retryable.
        """
        if not callable(fn):
            raise not_callable(name, fn)
        check_step_name(name)
        return self._execution.run_step(name, Codec.of_result(fn), as_async(fn), args, kwargs, DEFAULT_STEP)

    def step(self, *, retry: RetryPolicy | None = None, timeout: Duration | None = None) -> "StepRunner":
        """Set options of a step: `await ctx.step(retry=RetryPolicy(retries=9), timeout="5s").run("pay", pay, id)`.

        `retry` replaces the run's policy. An attempt that takes longer than `timeout` is cancelled and fails with a
        `TimeoutError`. A plain function cannot be cancelled: its thread runs on, and its result is dropped.
        """
        check_retry(retry)
        if retry is not None:
            self._execution.recorder.check_step(retry)
        return StepRunner(self._execution, StepOptions(retry=retry, timeout_ms=parse_timeout(timeout)))

    def sleep(self, name: str, duration: Duration, /) -> Coroutine[Any, Any, None]:
        """Sleep for `duration`, counted from the first call. A sleeping run occupies no worker."""
        return self._execution.sleep(name, self._execution.now() + to_ms(duration, option="duration"))

    def sleep_until(self, name: str, when: datetime | int, /) -> Coroutine[Any, Any, None]:
        """Sleep until `when`, a datetime with a time zone or ms since the epoch. A time in the past returns at once."""
        return self._execution.sleep(name, parse_timestamp(when, now=self._execution.now()))

    def call(
        self,
        name: str,
        /,
        url: str,
        *,
        method: str | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        response: type[AnyT] | None = _UNTYPED,
        retries: int = 0,
        retry_delay: RetryPolicy | Duration | None = None,
        timeout: Duration = "2h",
        flow_control: FlowControl | None = None,
        **unknown: Never,
    ) -> Coroutine[Any, Any, CallResponse[AnyT]]:
        """Call a URL while the run is suspended: `await ctx.call("ask", url, body={…}, response=Answer)`.

        The engine makes the call, and the run occupies no worker meanwhile. `method` defaults to GET, or to POST when
        there is a `body`. Text and bytes are sent as they are, any other body as JSON. A response outside 2xx is
        returned like any other after `retries` more attempts, each after `retry_delay`. `timeout` limits one attempt
        and may be up to two hours. `flow_control` needs a key and limits calls across all runs. `response` is the type
        that `CallResponse.body` is validated as.

        Raises:
            ConfigurationError: an argument is wrong.
            StepFailed: the server did not answer, or not in time.
            UnserializableError: the body of a 2xx response is not a valid `response`.
        """
        check_no_unknown_options("ctx.call", unknown, self.call)
        request = build_call_request(name, url, method=method, body=body, headers=headers, timeout=timeout)
        check_response_type(response)
        retry = RetryPolicy.of(retries=retries, delay=retry_delay)
        flow = require_key(flow_control) or DEFAULT_CALL_FLOW
        return call_step(self._execution, request, retry, flow, response)

    def invoke(
        self,
        name: str,
        target: Invocable[Sent, T],
        payload: Sent,
        /,
        *,
        headers: Mapping[str, str] | None = None,
        label: str | None = None,
        delay: Duration | None = None,
        not_before: datetime | int | None = None,
        retries: int | None = None,
        retry_delay: RetryPolicy | Duration | None = None,
        flow_control: FlowControl | None = None,
        ids: Sequence[str | int | UUID] | None = None,
        limit: int | None = None,
        force: bool | None = None,
        priority: int | None = None,
        failure_budget: FailureBudget | None = None,
        **unknown: Never,
    ) -> Coroutine[Any, Any, T]:
        """Run another served function, or a batch, as a child and wait for its result.

        `headers`, `label`, `delay` and `not_before` mean the same as for a trigger. A function also takes `retries`,
        `retry_delay` and `flow_control`; a batch takes `ids`, `limit`, `force`, `priority` and `failure_budget`, and
        returns its summary even when items failed. The child's id is derived from the step. Cancelling the run cancels
        the children that it waits for. Children can be nested 100 levels deep.

        Raises:
            ChildFailed: the child failed.
            ChildCancelled: the child was cancelled.
            InputError, UnserializableError: the payload does not fit the target.
        """
        check_invocable(name, target)
        check_not_for_children(unknown)
        check_no_unknown_options("ctx.invoke", unknown, self.invoke)
        if retries is not None or retry_delay is not None:
            RetryPolicy.of(retries=retries, delay=retry_delay)
        # A webhook of the child has the same public URL as one of its parent.
        root = {name: value for name, value in self._claim.headers.items() if name == ROOT_HEADER}
        options = ChildOptions(
            headers={**root, **validate_headers(headers)},
            label=validate_label(label),
            delay=delay,
            not_before=not_before,
            retries=retries,
            retry_delay=retry_delay,
            flow_control=require_key(flow_control),
            ids=ids,
            limit=limit,
            force=force,
            priority=priority,
            failure_budget=failure_budget,
        )
        return invoke_step(self._execution, self._claim.depth, name, target, payload, options)

    def wait_for_event(
        self, name: str, event_id: str, /, *, timeout: Duration | None = None, data: type[AnyT] | None = _UNTYPED
    ) -> Coroutine[Any, Any, EventResult[AnyT]]:
        """Wait for a notification of `event_id`: `(await ctx.wait_for_event("paid", f"paid:{id}")).data`.

        Without `timeout` it waits indefinitely. `data` is the type that the event's data is validated as. An event
        that nobody waits for is lost, unless it was sent to this run alone.

        Raises:
            InputError: the event's data is not a valid `data`. The code may catch it and wait again.
        """
        codec: Codec[AnyT] = Codec.of(Any if data is None else data)
        return event_step(self._execution, name, validate_event_id(event_id), codec, self._deadline(timeout))

    def notify(
        self, name: str, event_id: str, /, data: object = None, *, run_id: str | None = None
    ) -> Coroutine[Any, Any, None]:
        """Notify the runs that wait for `event_id`, exactly once.

        With `run_id` the event is for that run alone, and is kept until the run waits for it.
        """
        event = validate_event_id(event_id)
        text = serialize_event_data(data, event)
        self._execution.max_value.check(text, f"the data of event '{event}'")
        run = None if run_id is None else validate_run_id(run_id)
        return self._execution.record_effects(name, none_codec(), lambda: None, lambda _: (Notify(event, text, run),))

    def create_webhook(self, name: str, /) -> Coroutine[Any, Any, Webhook]:
        """Create a URL of this run that a third party can call; see `wait_for_webhook`.

        Raises:
            ConfigurationError: the public URL of the app is not configured.
        """
        return webhook_step(self._execution, name, self._public_url.webhooks(self._claim.headers))

    def wait_for_webhook(
        self, name: str, webhook: Webhook, /, *, timeout: Duration | None = None
    ) -> Coroutine[Any, Any, EventResult[WebhookRequest]]:
        """Wait for a request to `webhook`. Requests that arrived earlier are returned first, oldest first."""
        check_webhook(name, webhook)
        event = webhook_event_id(webhook.token)
        return event_step(self._execution, name, event, webhook_request_codec(), self._deadline(timeout))

    def first(self, *waits: Awaitable[T]) -> Coroutine[Any, Any, tuple[int, T]]:
        """Return the index and the result of the wait that ends first, and stop waiting for the others.

        `index, _ = await ctx.first(ctx.wait_for_event("paid", event), ctx.sleep("reminder", "3d"))`. Meant for durable
        waits: a step that is executing runs to its end before another wait can win, and is cancelled if it lost. A
        child that lost continues. An error of the first wait is raised.
        """
        return first_of(validate_awaitables(waits))

    def timeout(self, name: str, delay: Duration, /) -> Deadline:
        """Limit a block: `async with ctx.timeout("limit", "1h"):` raises `TimeoutError` when it takes longer.

        Meant for durable waits: a step that is executing runs to its end first. Limit such a step with
        `ctx.step(timeout=…)`.
        """
        limit = to_ms(delay, option="delay")
        return Deadline(name, limit, self._execution.sleep(name, self._execution.now() + limit))

    def now(self) -> datetime:
        """Return the time of the latest recorded step, or of the run's start: in UTC, the same on every replay."""
        return datetime.fromtimestamp(self._execution.time / 1000, UTC)

    def random(self) -> float:
        """Return a number in [0, 1), the same on every replay. It is derived from the run id and not a secret."""
        return self._deterministic_random().random()

    def uuid(self) -> UUID:
        """Return a UUID, the same on every replay. It is derived from the run id and not a secret."""
        return self._deterministic_random().uuid()

    @property
    def log(self) -> RunLog:
        """A logger bound to run, step and attempt, silent during replay."""
        execution = self._execution
        bound = logger().bind(run=self.run_id, attempt=self.attempt)
        step = execution.current_step
        return RunLog(bound if step is None else bound.bind(step=step), lambda: execution.is_replaying)

    @property
    def env(self) -> Mapping[str, str]:
        """The function's environment (`@flow.serve(env=…)`), by default that of the process."""
        return self._env

    def _deterministic_random(self) -> DeterministicRandom:
        if self._random is None:
            self._random = DeterministicRandom(self.run_id)
        return self._random

    def cancel(self) -> NoReturn:
        """End the run as cancelled, with neither a result nor an error. This does not return."""
        self._execution.cancel()

    def _deadline(self, timeout: Duration | None) -> int:
        """When a wait times out, in ms since the epoch; 0: never."""
        return 0 if timeout is None else self._execution.now() + to_ms(timeout, option="timeout")


class LayerContext(WorkflowContext[Payload]):
    """The context of an endpoint's own code, such as the layers of a batch. Users see it as a `WorkflowContext`."""

    __slots__ = ("claim", "effects")

    def __init__(
        self, payload: Payload, claim: Claim, execution: Execution, public_url: PublicUrl, env: Mapping[str, str]
    ) -> None:
        super().__init__(payload, claim, execution, public_url, env)
        self.claim = claim
        self.effects: tuple[Effect, ...] = ()
        """The effects to write with the settlement when the function returns."""

    def give_up(self) -> NoReturn:
        """End the attempt without a trace, since the claim may be another worker's. This does not return."""
        self._execution.give_up()

    def url_of(self, route: str, headers: Mapping[str, str]) -> str:
        """Return the URL of an endpoint of the app, for a run with these headers; `route` if it is not known."""
        return self._public_url.url_of(route, headers)

    def run_with_codec(
        self,
        name: str,
        codec: Codec[T],
        fn: Callable[[*Ts], Awaitable[T]],
        /,
        *args: *Ts,
        defer_to_settlement: bool = False,
        effects: Callable[[T], tuple[Effect, ...]] | None = None,
    ) -> Coroutine[Any, Any, T]:
        """Run a step as `run` does, with a known codec and an async function. The name is not checked.

        A step with `defer_to_settlement` is written with the settlement instead of on its own; only such steps may
        follow it. A crash before the settlement calls `fn` again. Otherwise `effects(result)` is written together with
        the step.
        """
        options = (
            FINAL_STEP if defer_to_settlement else DEFAULT_STEP if effects is None else StepOptions(effects=effects)
        )
        return self._execution.run_step(name, codec, fn, args, {}, options)


class StepRunner:
    """A step with its own options, created by `WorkflowContext.step`."""

    __slots__ = ("_execution", "_options")

    def __init__(self, execution: Execution, options: StepOptions) -> None:
        self._execution = execution
        self._options = options

    @overload
    def run(
        self, name: str, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def run(
        self, name: str, fn: Callable[P, Awaitable[T] | T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...
    def run(self, name: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Run the step as `WorkflowContext.run` does, with these options."""
        if not callable(fn):
            raise not_callable(name, fn)
        check_step_name(name)
        return self._execution.run_step(name, Codec.of_result(fn), as_async(fn), args, kwargs, self._options)
