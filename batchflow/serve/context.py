"""What a durable function is given: its payload, and the steps it can ask for."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar, TypeVarTuple, Unpack, overload
from uuid import UUID

from batchflow.core.codec import Codec
from batchflow.core.duration import Duration, to_ms
from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import Effect, Notify
from batchflow.logs import Log, logger
from batchflow.serve.app_url import NO_PUBLIC_URL, ROOT_HEADER, PublicUrl, user_headers
from batchflow.serve.callables import as_async
from batchflow.serve.calls import CallOptions, CallResponse, build_call_request, call_step
from batchflow.serve.children import Invocable, InvokeOptions, check_invocable, invoke_step, validate_child_options
from batchflow.serve.execution import DEFAULT_STEP, FINAL_STEP, Execution, StepOptions
from batchflow.serve.validation import (
    check_response_type,
    check_retry,
    check_step_name,
    not_callable,
    parse_timeout,
    parse_timestamp,
    require_key,
    validate_awaitables,
    validate_run_id,
)
from batchflow.serve.waits import (
    NONE_CODEC,
    WEBHOOK_REQUEST_CODEC,
    Deadline,
    EventResult,
    Webhook,
    WebhookRequest,
    check_webhook,
    event_step,
    first_of,
    serialize_event_data,
    validate_event_id,
    webhook_event_id,
    webhook_step,
)


class RunLog:
    """A structlog logger bound to a run, silent while recorded steps are replayed.

    `log.info("charged %s", id, amount=3)`: arguments by place go into the text, those by name are values of the line,
    whatever their names. A line that cannot be written is left out; it never fails the run.

    So what was logged before a recorded step is not logged again; what an attempt logged after the last one is, when
    that part of the code runs again: after a failure, or a crash.
    """

    __slots__ = ("_bound", "_is_replaying")

    def __init__(self, bound: Log, is_replaying: Callable[[], bool]) -> None:
        self._bound = bound
        self._is_replaying = is_replaying

    def bind(self, /, **values: Any) -> "RunLog":
        """The same with more values bound to it."""
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
    """Numbers drawn from a run's id, one after the other: as even as chance, and the same on every attempt.

    Whoever knows the id can draw them too: they are no secrets.
    """

    __slots__ = ("_drawn", "_run")

    def __init__(self, run: str) -> None:
        self._run = run
        self._drawn = 0

    def random(self) -> float:
        """A number from 0 up to 1, 1 excluded."""
        return (int.from_bytes(self._draw(7)) >> 3) / (1 << 53)

    def uuid(self) -> UUID:
        """A UUID of version 4."""
        return UUID(bytes=self._draw(16), version=4)

    def _draw(self, size: int) -> bytes:
        self._drawn += 1
        return blake2b(f"{self._run}\n{self._drawn}".encode(), digest_size=size).digest()


Payload = TypeVar("Payload")
P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Sent = TypeVar("Sent")

DEFAULT_CALL_FLOW = FlowControl(key="batchflow.call")
"""What calls wait under that set no limits of their own."""


class WorkflowContext(Generic[Payload]):
    """One execution of a durable function.

    `payload` is what it was started with. Everything that must not happen twice goes through a step; code between
    steps runs again on every replay, and awaits nothing but the context's own methods.
    """

    # `claim`, `effects` and `run_with_codec` are for the layers of a batch and no part of the public face.
    __slots__ = ("_execution", "_public_url", "_random", "claim", "effects", "payload")

    def __init__(
        self, payload: Payload, claim: Claim, execution: Execution, public_url: PublicUrl = NO_PUBLIC_URL
    ) -> None:
        self.payload = payload
        self.claim = claim
        self.effects: tuple[Effect, ...] = ()
        self._execution = execution
        self._public_url = public_url
        self._random: DeterministicRandom | None = None

    @property
    def run_id(self) -> str:
        """The id of this run, the same on every attempt."""
        return self.claim.id

    @property
    def headers(self) -> Mapping[str, str]:
        """What the message carried beside its payload."""
        return user_headers(self.claim.headers)

    @property
    def attempt(self) -> int:
        """Which attempt of the function this is, from 1 on. Steps count their own; each recorded one starts it anew."""
        return self.claim.failures + 1

    @overload
    def run(
        self, name: str, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def run(
        self, name: str, fn: Callable[P, Awaitable[T] | T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...
    def run(self, name: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Call `fn` once and remember its result: `await ctx.run("charge", charge, order_id)`.

        The result is durable before this returns; a replay returns it without calling `fn` again. It passes through
        the JSON form of the type `fn` declares, both times. `name` is unique within the run. A plain function runs in
        a worker thread. A failure is retried by the run's `RetryPolicy` before the code sees anything of it.

        Raises:
            StepFailed: the step's attempts are used up, or what it raised forbids another one.
        """
        if not callable(fn):
            raise not_callable(name, fn)
        check_step_name(name)
        return self._execution.run_step(name, Codec.of_result(fn), as_async(fn), args, kwargs, DEFAULT_STEP)

    def step(self, *, retry: RetryPolicy | None = None, timeout: Duration | None = None) -> "StepRunner":
        """Options for one step: `await ctx.step(retry=RetryPolicy(retries=9), timeout="5s").run("charge", charge, id)`.

        `retry` replaces the run's policy; `timeout` is how long one attempt may take: it is cancelled then, and counts
        as failed with a `TimeoutError`. A plain function cannot be cancelled: its thread runs on, unheard.
        """
        check_retry(retry)
        return StepRunner(self._execution, StepOptions(retry=retry, timeout_ms=parse_timeout(timeout)))

    def sleep(self, name: str, duration: Duration, /) -> Coroutine[Any, Any, None]:
        """Go on after `duration`, counted from the first time the code comes here. Meanwhile the run takes no place."""
        return self._execution.sleep(name, self._execution.now() + to_ms(duration, option="duration"))

    def sleep_until(self, name: str, when: datetime | int, /) -> Coroutine[Any, Any, None]:
        """Go on at `when`, a datetime with its time zone or ms since the epoch; at once when it has passed."""
        return self._execution.sleep(name, parse_timestamp(when, now=self._execution.now()))

    @overload
    def call(
        self, name: str, /, url: str, *, response: type[T], **options: Unpack[CallOptions]
    ) -> Coroutine[Any, Any, CallResponse[T]]: ...
    @overload
    def call(
        self, name: str, /, url: str, *, response: None = None, **options: Unpack[CallOptions]
    ) -> Coroutine[Any, Any, CallResponse[Any]]: ...
    def call(
        self, name: str, /, url: str, *, response: type[Any] | None = None, **options: Unpack[CallOptions]
    ) -> Coroutine[Any, Any, CallResponse[Any]]:
        """Call a URL, outside of the function's own time: `await ctx.call("ask", url, body={…}, response=Answer)`.

        The engine makes the call; the run is suspended meanwhile and takes no place. `method` is GET, or POST where
        there is a `body`: text and bytes go as they are, anything else as JSON, with `headers`. An answer that is not
        2xx is a result as well, once `retries` more attempts (0), each after `retry_delay`, have not made it one. One
        attempt takes at most `timeout`, of up to two hours. `flow_control`, with a key, limits calls over all runs.
        With `response`, the body is validated as that.

        Raises:
            ConfigurationError: an argument is wrong.
            StepFailed: there was no answer: no connection, or none in time.
            UnserializableError: a 2xx answer is no `response`.
        """
        request = build_call_request(name, url, options)
        check_response_type(response)
        retry = RetryPolicy.of(retries=options.get("retries", 0), delay=options.get("retry_delay"))
        return call_step(
            self._execution, request, retry, require_key(options.get("flow_control")) or DEFAULT_CALL_FLOW, response
        )

    def invoke(
        self, name: str, target: Invocable[Sent, T], payload: Sent, /, **options: Unpack[InvokeOptions]
    ) -> Coroutine[Any, Any, T]:
        """Run another served function, or a batch, as a child, and wait for what it returns.

        `headers`, `label`, `delay` and `not_before` are as those of a trigger; so are `retries`, `retry_delay` and
        `flow_control` of a function, `ids`, `limit` and `force` of a batch. The id of a child is derived from the step.
        The result of a batch is its summary, whatever became of its items; its retries and limits are its own. What is
        cancelled cancels the children it waits for. A chain of children is at most 100 deep.

        Raises:
            ChildFailed: the child failed for good.
            ChildCancelled: the child was cancelled.
            InputError, UnserializableError: the payload is not one of the target's.
        """
        check_invocable(name, target)
        # A webhook of the child is reached as the parent was.
        root = {name: value for name, value in self.claim.headers.items() if name == ROOT_HEADER}
        child = validate_child_options(options, root)
        return invoke_step(self._execution, self.claim.depth, name, target, payload, child)

    @overload
    def wait_for_event(
        self, name: str, event_id: str, /, *, timeout: Duration | None = None, data: type[T]
    ) -> Coroutine[Any, Any, EventResult[T]]: ...
    @overload
    def wait_for_event(
        self, name: str, event_id: str, /, *, timeout: Duration | None = None, data: None = None
    ) -> Coroutine[Any, Any, EventResult[Any]]: ...
    def wait_for_event(
        self, name: str, event_id: str, /, *, timeout: Duration | None = None, data: type[Any] | None = None
    ) -> Coroutine[Any, Any, EventResult[Any]]:
        """Wait until somebody notifies `event_id`: `(await ctx.wait_for_event("paid", f"paid:{id}")).data`.

        Without a `timeout` it waits as long as it takes. `data` is the type of what is sent with the event. An event
        that is sent before anybody waits for it is lost, unless it is sent to this run alone.

        Raises:
            InputError: what was sent is no `data`.
        """
        codec: Codec[Any] = Codec.of(Any if data is None else data)
        until = 0 if timeout is None else self._execution.now() + to_ms(timeout, option="timeout")
        return event_step(self._execution, name, validate_event_id(event_id), codec, until)

    def notify(
        self, name: str, event_id: str, /, data: object = None, *, run_id: str | None = None
    ) -> Coroutine[Any, Any, None]:
        """Notify who waits for `event_id`, exactly once; with `run_id` that run alone, which need not wait yet."""
        event = validate_event_id(event_id)
        text = serialize_event_data(data, event)
        self._execution.max_value.check(text, f"the data of event '{event}'")
        run = None if run_id is None else validate_run_id(run_id)
        return self._execution.record_effects(name, NONE_CODEC, lambda: None, lambda _: (Notify(event, text, run),))

    def create_webhook(self, name: str, /) -> Coroutine[Any, Any, Webhook]:
        """A URL of this run's own, to be given to a third party; see `wait_for_webhook`.

        Raises:
            ConfigurationError: the app's public URL is not known.
        """
        root = self._public_url.resolve(self.claim.headers)
        return webhook_step(self._execution, name, root)

    def wait_for_webhook(
        self, name: str, webhook: Webhook, /, *, timeout: Duration | None = None
    ) -> Coroutine[Any, Any, EventResult[WebhookRequest]]:
        """Wait for a request to `webhook`. One that has come already is handed out at once, the oldest first."""
        check_webhook(name, webhook)
        until = 0 if timeout is None else self._execution.now() + to_ms(timeout, option="timeout")
        return event_step(self._execution, name, webhook_event_id(webhook.token), WEBHOOK_REQUEST_CODEC, until)

    def first(self, *waits: Awaitable[T]) -> Coroutine[Any, Any, tuple[int, T]]:
        """The place (0, 1, …) and the result of the wait that ends first; the others are not waited for any more.

        `place, _ = await ctx.first(ctx.wait_for_event("paid", event), ctx.sleep("patience", "3d"))`. For durable
        waits: a step that executes is not interrupted by one that comes, and is cancelled if another was first. A child
        that is not waited for any more goes on. What the first one raises is raised.
        """
        return first_of(validate_awaitables(waits))

    def timeout(self, name: str, delay: Duration, /) -> Deadline:
        """`async with ctx.timeout("limit", "1h"):` raises `TimeoutError` when the block takes longer.

        For durable waits: a step that executes is let go on first. Around a step that executes belongs
        `ctx.step(timeout=…)`.
        """
        limit = to_ms(delay, option="delay")
        return Deadline(name, limit, self._execution.sleep(name, self._execution.now() + limit))

    def now(self) -> datetime:
        """The time, in UTC, the same on every replay: when the latest step was recorded, or the run began."""
        return datetime.fromtimestamp(self._execution.time / 1000, UTC)

    def random(self) -> float:
        """A number from 0 up to 1, the same on every replay. Drawn from the run's id: no secret."""
        return self._deterministic_random().random()

    def uuid(self) -> UUID:
        """A UUID, the same on every replay. Drawn from the run's id: no secret."""
        return self._deterministic_random().uuid()

    @property
    def log(self) -> RunLog:
        """A logger bound to run, step and attempt; silent on replay."""
        execution = self._execution
        bound = logger().bind(run=self.run_id, attempt=self.attempt)
        step = execution.current_step
        return RunLog(bound if step is None else bound.bind(step=step), lambda: execution.is_replaying)

    @property
    def env(self) -> Mapping[str, str]:
        """The environment the function was given (`@flow.serve(env=…)`), by default the process's."""
        return self._public_url.env

    def _deterministic_random(self) -> DeterministicRandom:
        if self._random is None:
            self._random = DeterministicRandom(self.run_id)
        return self._random

    def cancel(self) -> NoReturn:
        """End the run here, as cancelled: neither a result nor a failure. Does not return."""
        self._execution.cancel()

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
        """As `run`, of an async function whose codec is known, under a name that a step can have.

        With `last` the step is not recorded on its own: only others that are `last` may follow it, and its outcome goes
        with the settlement. It is dropped with the journal when the run ends as done, so a crash before that calls `fn`
        again. `effects`, of its result, are written together with a step that is recorded on its own.
        """
        options = (
            FINAL_STEP if defer_to_settlement else DEFAULT_STEP if effects is None else StepOptions(effects=effects)
        )
        return self._execution.run_step(name, codec, fn, args, {}, options)


class StepRunner:
    """A step with options of its own, made by `WorkflowContext.step`."""

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
        """As `WorkflowContext.run`, with these options."""
        if not callable(fn):
            raise not_callable(name, fn)
        check_step_name(name)
        return self._execution.run_step(name, Codec.of_result(fn), as_async(fn), args, kwargs, self._options)
