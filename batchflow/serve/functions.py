"""Durable functions that are served at a route. Their signature is read once, when they are registered."""

import contextlib
import inspect
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from datetime import datetime
from typing import Any, Generic, Literal, Never, TypeVar, Unpack, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from batchflow.core.codec import Codec, type_name
from batchflow.core.duration import Duration
from batchflow.core.failure_functions import FAILURE_URL_DESTINATION
from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim, Message
from batchflow.core.ports import Client, LogNames
from batchflow.core.retry import RetryPolicy
from batchflow.core.schedule import (
    NewSchedule,
    Schedule,
    ScheduledStart,
    schedule_key,
    scheduled_headers,
    scheduled_run_id,
)
from batchflow.core.settlement import Effect, Publish
from batchflow.errors import BatchflowError, ConfigurationError, InputError
from batchflow.serve.app_url import NO_PUBLIC_URL, PublicUrl
from batchflow.serve.callables import is_async
from batchflow.serve.children import ChildOptions, ParentLink
from batchflow.serve.context import WorkflowContext
from batchflow.serve.endpoint import DEFAULT_TIMEOUT_MS, Endpoint
from batchflow.serve.failure_functions import FailureFunction, function_failure_endpoint
from batchflow.serve.runs import RunHandle
from batchflow.serve.trigger import (
    Dedup,
    TriggerOptions,
    check_trigger_options,
    run_message,
    run_retry_policy,
    start_time,
)
from batchflow.serve.validation import (
    check_no_unknown_options,
    check_retry,
    format_value,
    validate_headers,
    validate_label,
    validate_run_id,
)

Payload = TypeVar("Payload")


Result = TypeVar("Result")

DEFAULT_RETRY = RetryPolicy()

_ROUTE = re.compile(r"(/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)+")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ServedFunction(Generic[Payload, Result]):
    """A durable function at its route: starts runs of it and finds them."""

    function: Callable[[WorkflowContext[Payload]], Awaitable[Result]]
    endpoint: Endpoint
    payload: Codec[Payload]
    result: Codec[Result]
    client: Client
    label: str | None = None
    parse: Callable[[str], Payload] | None = None
    """Reads the payload from the body of a request that is not JSON."""
    failure_endpoint: Endpoint | None = None
    """The endpoint of its failure function, which has no route over HTTP."""
    declared_schedule: NewSchedule | None = None
    """The schedule that its code declares."""

    def __repr__(self) -> str:
        return f"ServedFunction('{self.route}')"

    def __call__(self, ctx: WorkflowContext[Payload], /) -> Awaitable[Result]:
        """Call the function itself with a context, as a test with one of its own does: without the engine."""
        return self.function(ctx)

    @property
    def route(self) -> str:
        """The route at which it is served, such as "/onboarding"."""
        return self.endpoint.route

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Its endpoint, and that of its failure function if there is one."""
        return (self.endpoint,) if self.failure_endpoint is None else (self.endpoint, self.failure_endpoint)

    async def trigger(
        self,
        payload: Payload,
        *,
        run_id: str | None = None,
        dedup_id: str | None = None,
        dedup: Dedup = "kept",
        delay: Duration | None = None,
        not_before: datetime | int | None = None,
        label: str | None = None,
        headers: Mapping[str, str] | None = None,
        retries: int | None = None,
        retry_delay: RetryPolicy | Duration | None = None,
        flow_control: FlowControl | None = None,
        **unknown: Never,
    ) -> RunHandle[Result]:
        """Start a run; it is durable when this returns.

        `run_id` is the id of the run; `dedup_id` says what the run is for. A second trigger of the function with the
        same one starts nothing and returns the handle of the first run, with `deduplicated` set: as long as the first
        is kept, or with `dedup="open"` only until it has ended. The run starts after `delay`, or at `not_before`: a
        datetime with a time zone, or ms since the epoch. `headers` are returned by `ctx.headers`, and `label` can be
        searched for. `retries`, `retry_delay` and `flow_control`, with a key, replace those of the function for this
        run.

        Raises:
            InputError: an id or a label is invalid, or the id belongs to a run of another function. Its subclass
                `TooLarge`: the payload is too large.
            ConfigurationError: a time or another option is wrong.
            UnserializableError: the payload changes on its way through JSON.
        """
        check_no_unknown_options("trigger", unknown, self.trigger)
        handles = await self.trigger_many(
            [payload],
            run_id=run_id,
            dedup_id=dedup_id,
            dedup=dedup,
            delay=delay,
            not_before=not_before,
            label=label,
            headers=headers,
            retries=retries,
            retry_delay=retry_delay,
            flow_control=flow_control,
        )
        return handles[0]

    async def trigger_many(
        self, payloads: Sequence[Payload], **options: Unpack[TriggerOptions]
    ) -> list[RunHandle[Result]]:
        """Start a run of each payload, all in one transaction, with the options of `trigger`.

        Raises:
            InputError, ConfigurationError, UnserializableError: see `trigger`; nothing was started.
        """
        check_trigger_options(options, self.client.now())
        return await self.start(payloads, options)

    async def start(self, payloads: Sequence[Payload], options: TriggerOptions) -> list[RunHandle[Result]]:
        """Start runs as `trigger_many` does, but accept a `not_before` of any age."""
        bodies = [self._body(payload) for payload in payloads]
        messages = [run_message(self.endpoint, self.client, body, options, self.label) for body in bodies]
        run_id, dedup_id = options.get("run_id"), options.get("dedup_id")
        if len(messages) > 1 and (run_id or dedup_id):
            raise InputError("name one run", option="run_id", other="dedup_id", want="trigger several without them")
        if options.get("dedup") == "open":
            return [await self._trigger_open(message) for message in messages]
        new = await self.client.publish(messages) if messages else ()
        if run_id is not None and not all(new):
            await self._check_is_own_run(run_id)
        named = run_id is not None or dedup_id is not None
        return [self._handle(it, deduplicated=named and not is_new) for it, is_new in zip(messages, new, strict=True)]

    async def _trigger_open(self, message: Message) -> RunHandle[Result]:
        """Start a run unless one with the same `open_dedup` has not ended yet."""
        while True:
            (new,) = await self.client.publish([message])
            if new:
                return self._handle(message)
            known = await self.client.store.under_way(message.open_dedup or "")
            if known is None and await self.client.store.run(message.id) is not None:
                # Publishing did store it, although the reply was lost, and it has ended since.
                known = message.id
            if known is not None:
                return RunHandle(known, self.result, self.client, deduplicated=known != message.id)
            # The other run has ended just now: try again.

    def _handle(self, message: Message, *, deduplicated: bool = False) -> RunHandle[Result]:
        return RunHandle(message.id, self.result, self.client, deduplicated=deduplicated)

    async def _check_is_own_run(self, id: str) -> None:
        run = await self.client.store.run(id)
        if run is not None and run.destination != self.endpoint.route:
            raise InputError(f"which is a run of '{run.destination}'", option="run_id", got=f"'{id}'")

    def run(self, id: str) -> RunHandle[Result]:
        """Return the handle of a run of this function."""
        return RunHandle(validate_run_id(id, "id"), self.result, self.client)

    # As a child (`batchflow.serve.children.Invocable`)

    @property
    def title(self) -> str:
        """The name of the function."""
        return self.endpoint.name

    def child_effects(self, payload: Payload, link: ParentLink, options: ChildOptions) -> tuple[Effect, ...]:
        """Return the effect that starts a run for its parent."""
        of_batches = ("ids", "limit", "force", "priority", "failure_budget")
        options.reject(self.title, "that is a batch's, and this is a function", *of_batches)
        not_before = start_time(options.delay, options.not_before, self.client.now(), check_era=True)
        retry = run_retry_policy(self.endpoint, options.retries, options.retry_delay)
        child = Message(
            id=link.id,
            destination=self.endpoint.route,
            flow=options.flow_control or self.endpoint.flow,
            body=self._body(payload),
            headers=self.endpoint.run_headers(options.headers, not_before, retry),
            not_before=not_before,
            retry=retry,
            keep=True,
            label=options.label or self.label,
            parent=link.parent,
            depth=link.depth,
            on_failure=self.endpoint.on_failure,
        )
        return (Publish((child,)),)

    def decode_result(self, text: str) -> Result:
        """Decode the result for the parent."""
        return self.result.decode(text)

    # By a schedule (`batchflow.core.ports.ScheduleTarget`)

    @property
    def schedule_route(self) -> str:
        """Its route."""
        return self.route

    @property
    def schedule_starts(self) -> Literal["run"]:
        """A fire starts a run."""
        return "run"

    def schedule_payload(self, params: object, payload: object) -> str:
        """Check the payload of a schedule, a value of its type or its JSON, and return the JSON text.

        Without one it is null, or else an empty object, so that a model needs none if it has defaults.

        Raises:
            InputError: it does not fit.
        """
        if params is not None:
            raise InputError(f"belongs to workflows, and '{self.title}' takes 'payload'", option="params")
        is_value = isinstance(payload, BaseModel) or is_dataclass(payload) or self.payload.annotation is Any
        return self._body(cast("Payload", payload) if is_value else self._read_payload(payload))

    def _read_payload(self, json: object) -> Payload:
        try:
            if json is None:
                with contextlib.suppress(ValidationError):
                    return self.payload.decode_input("null")
                return self.payload.decode_input("{}")
            return self.payload.decode_input(to_json(json))
        except ValidationError as error:
            raise InputError(_payload_error(self.route, self.payload, error), field="payload") from error
        except PydanticSerializationError as error:
            want = f"write a {type_name(self.payload.annotation)}, or its JSON"
            raise InputError(option="payload", got=format_value(json), want=want) from error

    def scheduled_start(self, schedule: NewSchedule, at: int) -> ScheduledStart:
        """Return the message of the run of a fire.

        Raises:
            InputError: its payload does not fit any more.
        """
        try:
            payload = self.payload.decode(schedule.payload)
        except ValidationError as error:
            raise InputError(_payload_error(self.route, self.payload, error)) from error
        options = TriggerOptions(
            run_id=scheduled_run_id(schedule.id, at), label=schedule.label, headers=scheduled_headers(schedule, at)
        )
        message = run_message(self.endpoint, self.client, self._body(payload), options, self.label or schedule.id)
        if schedule.overlap != "allow":
            message = replace(message, open_dedup=schedule_key(schedule.id))
        return ScheduledStart(None, (message,))

    def with_schedule(self, schedule: Schedule) -> "ServedFunction[Payload, Result]":
        """Return it with a schedule that its code declares; its id is the function's name.

        Raises:
            ConfigurationError: the payload or an option does not fit.
        """
        try:
            declared = NewSchedule(
                id=self.title,
                target=self.title,
                destination=self.route,
                cron=schedule.times,
                payload=self.schedule_payload(schedule.params, schedule.payload),
                overlap=schedule.overlap,
                label=validate_label(schedule.label),
                headers=validate_headers(schedule.headers),
                declared=True,
            )
        except BatchflowError as error:
            raise ConfigurationError(f"the schedule of '{self.route}': {error}") from error
        return replace(self, declared_schedule=declared)

    def _body(self, payload: Payload) -> str:
        where = f"the payload of '{self.endpoint.route}'"
        text, _ = self.payload.round_trip(payload, where=where)
        self.client.limit.check(text, where)
        return text


def serve_function(
    function: Callable[[WorkflowContext[Payload]], Awaitable[Result]],
    route: str,
    *,
    client: Client,
    retry: RetryPolicy = DEFAULT_RETRY,
    flow_control: FlowControl | None = None,
    timeout_ms: int | None = None,
    initial_payload_parser: Callable[[str], Any] | None = None,
    label: str | None = None,
    verbose: bool = False,
    failure_function: FailureFunction | None = None,
    failure_url: str | None = None,
    public_url: PublicUrl = NO_PUBLIC_URL,
    env: Mapping[str, str] = os.environ,
) -> ServedFunction[Payload, Result]:
    """Serve `async def function(ctx: WorkflowContext[Payload]) -> Result` at `route`, such as "/onboarding".

    Raises:
        ConfigurationError: the function or its failure function has another signature, or the route is invalid.
    """
    check_route(route)
    payload, result = _payload_codec(function), Codec.of_result(function)
    name = route.strip("/").replace("/", ".")

    limit, where = client.limit, f"the result of '{name}'"

    async def handler(ctx: WorkflowContext[Any]) -> str:
        text, _ = result.round_trip(await function(ctx), where=where)
        limit.check(text, where)
        return text

    def read(claim: Claim) -> Payload:
        try:
            return payload.decode(claim.body)
        except ValidationError as error:
            raise InputError(_payload_error(route, payload, error)) from error

    failures = None
    if failure_function is not None:
        failures = function_failure_endpoint(
            failure_function,
            route=route,
            name=name,
            payload=payload,
            client=client,
            timeout_ms=timeout_ms,
            public_url=public_url,
            env=env,
        )
        failure_url = None
    endpoint = Endpoint(
        route=route,
        name=name,
        function=handler,
        payload=read,
        flow=(flow_control or FlowControl()).with_default_key(name),
        retry=retry,
        timeout_ms=timeout_ms or DEFAULT_TIMEOUT_MS,
        verbose=verbose,
        public_url=public_url,
        env=env,
        limit=limit,
        log=LogNames(f"batchflow:{name}"),
        on_failure=FAILURE_URL_DESTINATION if failure_url is not None else failures and failures.route,
        failure_url=failure_url,
    )
    return ServedFunction(
        function=function,
        endpoint=endpoint,
        payload=payload,
        result=result,
        client=client,
        label=label,
        parse=initial_payload_parser,
        failure_endpoint=failures,
    )


def serve_retry_policy(
    retry: RetryPolicy | None, retries: int | None, retry_delay: RetryPolicy | Duration | None
) -> RetryPolicy:
    """Return the policy of a function and its steps.

    Raises:
        ConfigurationError: an option is wrong, or `retry` is given beside the others.
    """
    check_retry(retry)
    if retry is None:
        return RetryPolicy.of(retries=retries, delay=retry_delay)
    if retries is not None or retry_delay is not None:
        raise ConfigurationError(
            "is a whole policy", option="retry", want="give either it, or 'retries' and 'retry_delay'"
        )
    return retry


def check_route(route: object) -> None:
    """Raise `ConfigurationError` unless `route` is a path such as "/onboarding".

    A function in its place comes from the decorator without parentheses.
    """
    if callable(route):
        raise ConfigurationError(
            f"{format_value(route)} is given no route to be served at; write @flow.serve('/route')"
        )
    if not isinstance(route, str) or not _ROUTE.fullmatch(route):
        raise ConfigurationError(option="route", got=format_value(route), want="write a path such as '/onboarding'")


def _payload_codec(function: Callable[..., Any]) -> Codec[Any]:
    name = getattr(function, "__qualname__", repr(function))
    wanted = f"write 'async def {name.rpartition('.')[2]}(ctx: WorkflowContext[Payload]) -> Result'"
    if not is_async(function):
        raise ConfigurationError(f"'{name}' is served as a durable function and is not async; {wanted}")
    parameters = list(inspect.signature(function).parameters.values())
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(required) != 1 or required[0].kind is inspect.Parameter.KEYWORD_ONLY:
        takes = ", ".join(f"'{p.name}'" for p in required) or "nothing"
        raise ConfigurationError(f"'{name}' is called with a context and nothing else, and takes {takes}; {wanted}")
    annotation = _annotation(function, required[0].name, name)
    if annotation is WorkflowContext:
        return Codec.of(Any)
    if get_origin(annotation) is not WorkflowContext:
        found = "has no annotation" if annotation is inspect.Parameter.empty else f"is a {type_name(annotation)}"
        raise ConfigurationError(f"the parameter '{required[0].name}' of '{name}' {found}; {wanted}")
    return Codec.of(get_args(annotation)[0])


def _annotation(function: Callable[..., Any], parameter: str, name: str) -> Any:
    target = inspect.unwrap(function)
    while hasattr(target, "func"):
        target = target.func
    if not inspect.isroutine(target):
        target = type(target).__call__
    try:
        return get_type_hints(target, include_extras=True).get(parameter, inspect.Parameter.empty)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise ConfigurationError(
            f"the annotations of '{name}' cannot be read ({error}); "
            f"name types that can be imported there, outside TYPE_CHECKING"
        ) from error


def _payload_error(route: str, payload: Codec[Any], error: ValidationError) -> str:
    faults = [
        ": ".join(filter(None, (".".join(map(str, fault["loc"])), fault["msg"])))
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
    return f"the payload of '{route}' is not a valid {type_name(payload.annotation)}: {'; '.join(faults[:3])}{more}"
