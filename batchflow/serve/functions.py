"""Plain durable functions: what a signature says is read once, when the function is registered."""

import inspect
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar, Unpack, cast, get_args, get_origin, get_type_hints

from pydantic import ValidationError

from batchflow.core.codec import Codec, describe
from batchflow.core.duration import Duration, to_ms
from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim, Message
from batchflow.core.ports import Client
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import Effect, Publish
from batchflow.errors import ConfigurationError, InputError
from batchflow.serve.app_url import PublicUrl, check_url
from batchflow.serve.callables import is_async
from batchflow.serve.children import ChildOptions, ParentLink
from batchflow.serve.context import WorkflowContext
from batchflow.serve.endpoint import DEFAULT_TIMEOUT_MS, Endpoint
from batchflow.serve.runs import RunHandle
from batchflow.serve.trigger import (
    NO_OPTIONS,
    Trigger,
    TriggerOptions,
    run_message,
    run_retry_policy,
    start_time,
    validate_trigger,
)
from batchflow.serve.validation import (
    check_flow,
    check_payload_parser,
    check_retry,
    check_string_mapping,
    format_value,
    parse_timeout,
    validate_label,
    validate_run_id,
)

Payload = TypeVar("Payload")


class Serving(TypedDict, total=False):
    """What `Batchflow.serve` may be given; see there."""

    retry: RetryPolicy | None
    retries: int | None
    retry_delay: RetryPolicy | Duration | None
    flow_control: FlowControl | None
    timeout: Duration | None
    failure_function: Callable[..., Any] | None
    failure_url: str | None
    initial_payload_parser: Callable[[str], Any] | None
    label: str | None
    verbose: bool
    url: str | None
    base_url: str | None
    env: Mapping[str, str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions(Generic[Payload]):
    """The same, checked, with what is not given at its default.

    Raises:
        ConfigurationError: an option is wrong, or two exclude each other.
    """

    retry: RetryPolicy | None = None
    retries: int | None = None
    retry_delay: RetryPolicy | Duration | None = None
    flow_control: FlowControl | None = None
    timeout: Duration | None = None
    failure_function: Callable[..., Any] | None = None
    failure_url: str | None = None
    initial_payload_parser: Callable[[str], Payload] | None = None
    label: str | None = None
    verbose: bool = False
    url: str | None = None
    base_url: str | None = None
    env: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.retry is not None and not (self.retries is None and self.retry_delay is None):
            raise ConfigurationError("'retry' is a whole policy; give either it, or 'retries' and 'retry_delay'")
        check_retry(self.retry)
        self.policy()
        check_flow(self.flow_control)
        parse_timeout(self.timeout)
        self._check_failure()
        check_payload_parser(self.initial_payload_parser)
        validate_label(self.label, ConfigurationError)
        # None would be the default of every other option.
        if not isinstance(cast("object", self.verbose), bool):
            raise ConfigurationError(f"'verbose' cannot be {format_value(self.verbose)}; write True or False")
        check_url("url", self.url)
        check_url("base_url", self.base_url)
        check_string_mapping("env", self.env)

    def _check_failure(self) -> None:
        if self.failure_function is not None and self.failure_url is not None:
            raise ConfigurationError("'failure_function' and 'failure_url' exclude each other; give one of them")
        check_url("failure_url", self.failure_url, no_query=False)
        if self.failure_function is not None and not callable(self.failure_function):
            raise ConfigurationError(
                f"'failure_function' cannot be {format_value(self.failure_function)}; write a function"
            )
        # Delivered with the operations on dead letters, which are not there yet: better refused than never called.
        for option in ("failure_function", "failure_url"):
            if getattr(self, option) is not None:
                raise ConfigurationError(
                    f"'{option}' is not delivered by this version of batchflow; leave it out, "
                    f"and read failed runs with flow.runs(state='failed')"
                )

    def policy(self) -> RetryPolicy:
        """How the function and its steps are retried."""
        return self.retry or RetryPolicy.of(retries=self.retries, delay=self.retry_delay)

    def public_url(self, route: str) -> PublicUrl:
        """Where the function stands."""
        return PublicUrl(
            route=route, url=self.url, base_url=self.base_url, env=os.environ if self.env is None else self.env
        )


DEFAULT_OPTIONS: ServeOptions[Any] = ServeOptions()


Result = TypeVar("Result")

_ROUTE = re.compile(r"(/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedFunction(Generic[Payload, Result]):
    """A durable function that is served: what starts runs of it, and what is known of it."""

    function: Callable[[WorkflowContext[Payload]], Awaitable[Result]]
    endpoint: Endpoint
    payload: Codec[Payload]
    result: Codec[Result]
    client: Client
    label: str | None = None
    parse: Callable[[str], Payload] | None = None
    """Makes a payload of a request's body that is not JSON."""

    async def trigger(self, payload: Payload, **options: Unpack[TriggerOptions]) -> RunHandle[Result]:
        """Start a run, durable when this returns.

        `run_id` names the run, and `dedup_id` what it is for: a second trigger of the function with the same one starts
        nothing and returns the handle of the first, which says so (`deduplicated`), as long as that is kept; with
        `dedup="open"` only until it has ended. It starts after `delay`, or at `not_before`: a
        datetime with its time zone, or ms since the epoch. `headers` are what `ctx.headers` shows, `label` is what
        runs are found by. `retries`, `retry_delay` and `flow_control`, with a key, take the place of the function's
        own for this run.

        Raises:
            InputError: an id or a label is none, the id is that of another function's run, or, as `TooLarge`, the
                payload is too large.
            ConfigurationError: a time or another option is wrong.
            UnserializableError: the payload does not survive its JSON form.
        """
        return (await self.trigger_many([payload], validate_trigger(options, self.client.now())))[0]

    async def trigger_many(self, payloads: Sequence[Payload], options: Trigger = NO_OPTIONS) -> list[RunHandle[Result]]:
        """Start a run of each payload, all of them in one transaction.

        Raises:
            InputError, ConfigurationError, UnserializableError: as for `trigger`; nothing was started.
        """
        bodies = [self._body(payload) for payload in payloads]
        messages = [run_message(self.endpoint, self.client, body, options, self.label) for body in bodies]
        if len(messages) > 1 and (options.run_id or options.dedup_id):
            raise InputError("name one run", option="run_id", other="dedup_id", want="trigger several without them")
        if options.dedup == "open":
            return [await self._trigger_open(message) for message in messages]
        new = await self.client.publish(messages) if messages else ()
        if options.run_id is not None and not all(new):
            await self._check_is_own_run(options.run_id)
        named = options.run_id is not None or options.dedup_id is not None
        return [self._handle(it, deduplicated=named and not is_new) for it, is_new in zip(messages, new, strict=True)]

    async def _trigger_open(self, message: Message) -> RunHandle[Result]:
        """Start a run unless another with the same `open_dedup` is under way."""
        while True:
            (new,) = await self.client.publish([message])
            if new:
                return self._handle(message)
            known = await self.client.store.under_way(message.open_dedup or "")
            if known is None and await self.client.store.run(message.id) is not None:
                # It was stored, though the answer was lost, and has ended since.
                known = message.id
            if known is not None:
                return RunHandle(known, self.result, self.client, deduplicated=known != message.id)
            # The one that was under way has ended just now.

    def _handle(self, message: Message, *, deduplicated: bool = False) -> RunHandle[Result]:
        return RunHandle(message.id, self.result, self.client, deduplicated=deduplicated)

    async def _check_is_own_run(self, id: str) -> None:
        run = await self.client.store.run(id)
        if run is not None and run.destination != self.endpoint.route:
            raise InputError(f"which is a run of '{run.destination}'", option="run_id", got=f"'{id}'")

    def run(self, id: str) -> RunHandle[Result]:
        """The handle of one of the function's runs."""
        return RunHandle(validate_run_id(id, "id"), self.result, self.client)

    # As a child (`batchflow.serve.children.Invocable`)

    @property
    def title(self) -> str:
        """Its name."""
        return self.endpoint.name

    def invoked(self, payload: Payload, link: ParentLink, options: ChildOptions) -> tuple[Effect, ...]:
        """The message that starts a run for its parent."""
        options.reject(self.title, "that is a batch's, and this is a function", "ids", "limit", "force")
        child = Message(
            id=link.id,
            destination=self.endpoint.route,
            flow=options.flow_control or self.endpoint.flow,
            body=self._body(payload),
            headers=options.headers,
            not_before=start_time(options.delay, options.not_before, self.client.now(), check_era=True),
            retry=run_retry_policy(self.endpoint, options.retries, options.retry_delay),
            keep=True,
            label=options.label or self.label,
            parent=link.parent,
            depth=link.depth,
        )
        return (Publish((child,)),)

    def outcome(self, text: str) -> Result:
        """The result its parent gets."""
        return self.result.decode(text)

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
    options: "ServeOptions[Any]" = DEFAULT_OPTIONS,
) -> ServedFunction[Payload, Result]:
    """Serve `async def function(ctx: WorkflowContext[Payload]) -> Result` at `route`, such as "/onboarding".

    Raises:
        ConfigurationError: the signature is another one, the route is none, or an option is wrong.
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

    endpoint = Endpoint(
        route=route,
        name=name,
        function=handler,
        payload=read,
        flow=(options.flow_control or FlowControl()).named(name),
        retry=options.policy(),
        timeout_ms=DEFAULT_TIMEOUT_MS if options.timeout is None else to_ms(options.timeout, option="timeout"),
        verbose=options.verbose,
        public_url=options.public_url(route),
        limit=limit,
    )
    return ServedFunction(
        function=function,
        endpoint=endpoint,
        payload=payload,
        result=result,
        client=client,
        label=options.label,
        parse=options.initial_payload_parser,
    )


def check_route(route: object) -> None:
    """A path such as "/onboarding".

    Raises:
        ConfigurationError: it is none, or the function itself, as of a decorator without parentheses.
    """
    if callable(route):
        raise ConfigurationError(
            f"{format_value(route)} is given no route to be served at; write @flow.serve('/route')"
        )
    if not isinstance(route, str) or not _ROUTE.fullmatch(route):
        raise ConfigurationError(f"'route' cannot be {format_value(route)}; write a path such as '/onboarding'")


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
        found = "has no annotation" if annotation is inspect.Parameter.empty else f"is a {describe(annotation)}"
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
    return f"the payload of '{route}' is no {describe(payload.annotation)}: {'; '.join(faults[:3])}{more}"
