"""Plain durable functions: what a signature says is read once, when the function is registered."""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ValidationError

from batchflow.core.codec import Codec, describe
from batchflow.core.duration import Duration, to_ms
from batchflow.core.flow import FlowControl
from batchflow.core.message import NO_HEADERS, Claim, Message
from batchflow.core.ports import Client
from batchflow.core.retry import RetryPolicy
from batchflow.errors import ConfigurationError, InputError
from batchflow.serve.callables import is_async
from batchflow.serve.context import WorkflowContext
from batchflow.serve.endpoint import HOUR_MS, Endpoint
from batchflow.serve.handle import RunHandle

Payload = TypeVar("Payload")
Result = TypeVar("Result")

_ROUTE = re.compile(r"(/[A-Za-z0-9._-]+)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedFunction(Generic[Payload, Result]):
    """A durable function that is served: what starts runs of it, and what is known of it."""

    function: Callable[[WorkflowContext[Payload]], Awaitable[Result]]
    endpoint: Endpoint
    payload: Codec[Payload]
    result: Codec[Result]
    client: Client

    async def trigger(self, payload: Payload, *, headers: Mapping[str, str] | None = None) -> RunHandle[Result]:
        """Start a run, durable when this returns.

        Raises:
            UnserializableError: the payload does not survive its JSON form.
        """
        body, _ = self.payload.round_trip(payload, where=f"the payload of '{self.endpoint.route}'")
        return await self.receive(body, headers or NO_HEADERS)

    def run(self, id: str) -> RunHandle[Result]:
        """The handle of one of the function's runs."""
        return RunHandle(id, self.result, self.client)

    async def receive(self, body: str, headers: Mapping[str, str]) -> RunHandle[Result]:
        """Start a run with a payload as it came over the wire: JSON text that `payload` has read."""
        id = self.client.new_id("run")
        message = Message(
            id=id,
            destination=self.endpoint.route,
            flow=self.endpoint.flow,
            body=body,
            headers=headers,
            keep=True,
        )
        await self.client.publish([message])
        return self.run(id)


def served_function(
    function: Callable[[WorkflowContext[Payload]], Awaitable[Result]],
    route: str,
    *,
    client: Client,
    retry: RetryPolicy | None = None,
    flow_control: FlowControl | None = None,
    timeout: Duration | None = None,
) -> ServedFunction[Payload, Result]:
    """Serve `async def function(ctx: WorkflowContext[Payload]) -> Result` at `route`, such as "/onboarding".

    Its messages wait under the key of `flow_control`, by default the route's words joined by dots. `retry` is the
    policy of its steps and of itself, `timeout` how long one attempt may take (1 hour; durable waits do not count).

    Raises:
        ConfigurationError: the signature is another one, or the route is none.
    """
    if not _ROUTE.fullmatch(route):
        raise ConfigurationError(f"'route' cannot be {route!r}; write a path such as '/onboarding'")
    payload, result = _payload_codec(function), Codec.of_result(function)
    name = route.strip("/").replace("/", ".")

    async def handler(ctx: WorkflowContext[Any]) -> str:
        return result.round_trip(await function(ctx), where=f"the result of '{name}'")[0]

    def read(claim: Claim) -> Payload:
        try:
            return payload.decode(claim.body)
        except ValidationError as error:
            raise InputError(_unfit(route, payload, error)) from error

    endpoint = Endpoint(
        route=route,
        name=name,
        handler=handler,
        payload=read,
        flow=(flow_control or FlowControl()).named(name),
        retry=retry or RetryPolicy(),
        timeout_ms=HOUR_MS if timeout is None else to_ms(timeout, option="timeout"),
    )
    return ServedFunction(function=function, endpoint=endpoint, payload=payload, result=result, client=client)


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


def _unfit(route: str, payload: Codec[Any], error: ValidationError) -> str:
    faults = [
        ": ".join(filter(None, (".".join(map(str, fault["loc"])), fault["msg"])))
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
    return f"the payload of '{route}' is no {describe(payload.annotation)}: {'; '.join(faults[:3])}{more}"
