"""The declaration of a durable function: its options are checked and its signature is read, when it is registered."""

import inspect
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ValidationError

from batchflow.core.codec import Codec, type_name
from batchflow.core.duration import Duration
from batchflow.core.failure_functions import FAILURE_URL_DESTINATION
from batchflow.core.flow import LIMIT_OPTIONS, FlowControl
from batchflow.core.ports import LogNames, RunClient
from batchflow.core.retry import RETRIES_WORDS, RetryPolicy
from batchflow.errors import ConfigurationError, InputError
from batchflow.serve.app_url import NO_PUBLIC_URL, PublicUrl
from batchflow.serve.callables import is_async
from batchflow.serve.context import WorkflowContext
from batchflow.serve.endpoint import DEFAULT_TIMEOUT_MS, Endpoint
from batchflow.serve.failure_functions import (
    FailureFunction,
    RunFailure,
    check_failure_function,
    check_failure_options,
    function_failure_endpoint,
)
from batchflow.serve.functions import ServedFunction, decode_payload, payload_error
from batchflow.serve.validation import (
    check_flag,
    check_flow,
    check_payload_parser,
    check_retry,
    check_string_mapping,
    format_value,
    validate_label,
)

Payload = TypeVar("Payload")
Result = TypeVar("Result")

DEFAULT_RETRY = RetryPolicy()
_ROUTE = re.compile(r"(/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)+")

WORDS_OF_SERVE = {
    **{word: f"flow_control=FlowControl({limit})" for word, limit in LIMIT_OPTIONS.items()},
    "flow": "flow_control=FlowControl(…)",
    "execute_flow": "flow_control=FlowControl(…)",
    "item_timeout": "timeout=…",
    **RETRIES_WORDS,
    "name": "the route: the name is made of it",
    **dict.fromkeys(("on_failure", "on_item_failure", "on_error"), "failure_function=…"),
}
"""The words of other APIs for the options of a function, with what to write."""


def serve_function(
    function: Callable[[WorkflowContext[Payload]], Awaitable[Result]],
    route: str,
    *,
    client: RunClient,
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

    flow = (flow_control or FlowControl()).with_default_key(name)
    try:
        client.check_run(flow, retry, label, {})
    except InputError as error:
        raise ConfigurationError(str(error)) from error
    limit, where = client.limit, f"the result of '{name}'"

    async def handler(ctx: WorkflowContext[Any]) -> str:
        text, _ = result.round_trip(await function(ctx), where=where)
        limit.check(text, where)
        return text

    def read(body: str) -> Payload:
        try:
            return decode_payload(payload, body, initial_payload_parser, name)
        except ValidationError as error:
            raise InputError(payload_error(route, payload, error)) from error

    failures = None
    if failure_function is not None:
        check_failure_function(failure_function, payload)
        failures = function_failure_endpoint(
            failure_function,
            route=route,
            name=name,
            read=read,
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
        payload=lambda claim: read(claim.body),
        flow=flow,
        retry=retry,
        timeout_ms=timeout_ms or DEFAULT_TIMEOUT_MS,
        declared_timeout_ms=timeout_ms,
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


def check_serve_options(
    flow_control: object,
    failure_function: Callable[[RunFailure[Any]], Any] | None,
    failure_url: str | None,
    initial_payload_parser: object,
    label: str | None,
    verbose: object,
    env: object,
) -> None:
    """Raise `ConfigurationError` for an option of `flow.serve` that is not what it takes."""
    check_flow(flow_control)
    check_failure_options(failure_function, failure_url)
    check_payload_parser(initial_payload_parser)
    validate_label(label, ConfigurationError)
    check_flag("verbose", verbose)
    check_string_mapping("env", env)


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
