"""Failure functions: code of the user that is called once when a run has failed for good."""

import inspect
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, get_args, get_origin

from pydantic_core import from_json
from typing_extensions import TypeVar

from batchflow.core.call import is_credential
from batchflow.core.codec import Codec, type_name
from batchflow.core.dead_letters import DeadLetter
from batchflow.core.failure_functions import FailureResponse, failure_destination
from batchflow.core.message import Claim, failure_flow
from batchflow.core.ports import LogNames, RunClient
from batchflow.core.retry import RetryPolicy
from batchflow.errors import ConfigurationError
from batchflow.serve.app_url import NO_PUBLIC_URL, PublicUrl, check_url, user_headers
from batchflow.serve.callables import as_async
from batchflow.serve.context import LayerContext
from batchflow.serve.delivery_scope import keep_secrets
from batchflow.serve.endpoint import DEFAULT_TIMEOUT_MS, Endpoint
from batchflow.serve.validation import format_value

Payload = TypeVar("Payload", default=Any)

FAILURE_RETRY = RetryPolicy()
"""The policy of failure functions and failure URLs: 3 retries, whatever that of the run is."""


@dataclass(frozen=True, kw_only=True)
class RunFailure(Generic[Payload]):
    """A run that has failed for good, as its failure function gets it.

    `run_id` and `headers` are those of the run's context, and `url` is the public URL of its function, or its route if
    that is not known. `status`, `response`, `response_headers` and `stack` tell the failure in the terms of HTTP: 500
    for an exception, 504 for a time limit, 489 for `NonRetryable`, 503 for lost workers, 400 for a payload that does
    not fit; the message of the error; the headers of such a response; the traceback. `error` is the type of the
    exception. `attempts` are those that failed, the attempts of its steps and lost workers among them.
    """

    run_id: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    status: int
    error: str
    response: str
    response_headers: Mapping[str, str] = field(repr=False)
    stack: str = field(repr=False)
    attempts: int
    read_payload: Callable[[], Payload] = field(repr=False)
    """Returns the payload; see `payload`."""

    @property
    def payload(self) -> Payload:
        """The payload of the run.

        Raises:
            InputError: it does not fit its type, which may be why the run has failed.
        """
        return self.read_payload()


FailureFunction = Callable[[RunFailure[Any]], Awaitable[Any] | Any]


def about_failure(
    letter: DeadLetter, url: str, headers: Mapping[str, str], read_payload: Callable[[], Any]
) -> dict[str, Any]:
    """Return the fields of a `RunFailure`."""
    response = FailureResponse.of(letter)
    return {
        "run_id": letter.id,
        "url": url,
        "headers": user_headers(headers),
        "status": response.status,
        "error": response.error,
        "response": response.message,
        "response_headers": response.headers,
        "stack": response.stack,
        "attempts": letter.attempts,
        "read_payload": read_payload,
    }


def function_failure_endpoint(
    function: FailureFunction,
    *,
    route: str,
    name: str,
    read: Callable[[str], Any],
    client: RunClient,
    timeout_ms: int | None,
    public_url: PublicUrl,
    env: Mapping[str, str],
) -> Endpoint:
    """Return the endpoint of a failure function, which nobody but the store publishes to.

    `read` makes the payload of a run of its body, or raises `InputError`.
    """

    async def find(id: str) -> DeadLetter | None:
        return await client.run_store.dead_letter(id)

    async def failure_of(letter: DeadLetter, ctx: LayerContext[Any]) -> RunFailure[Any]:
        headers = letter.message.headers

        def read_payload() -> Any:
            return read(letter.message.body)

        return RunFailure(**about_failure(letter, ctx.url_of(route, headers), headers, read_payload))

    return failure_endpoint(
        FailureCode(
            find=find,
            read=failure_of,
            call=as_async(function),
            step=FAILURE_FUNCTION_STEP,
            result=Codec.of_result(function),
        ),
        route=route,
        name=name,
        log=LogNames(f"batchflow:{name}:failure", "The failure function failed for good"),
        client=client,
        timeout_ms=timeout_ms,
        public_url=public_url,
        env=env,
    )


FAILURE_FUNCTION_STEP = "failure-function"
"""The only step of the message of a failure function."""


class FailureCode(NamedTuple):
    """The code that is called with the dead letters of an endpoint, as the step `step` of their failure messages.

    `find` returns the dead letter of an id, `read` makes its failure, `call` is the user's function of it, and
    `result` the type it returns.
    """

    find: Callable[[str], Awaitable[DeadLetter | None]]
    read: Callable[[DeadLetter, LayerContext[Any]], Awaitable[RunFailure[Any]]]
    call: Callable[[RunFailure[Any]], Awaitable[Any]]
    step: str
    result: Codec[Any]


def failure_endpoint(
    code: FailureCode,
    *,
    route: str,
    name: str,
    log: LogNames,
    client: RunClient,
    timeout_ms: int | None,
    public_url: PublicUrl = NO_PUBLIC_URL,
    env: Mapping[str, str] = os.environ,
) -> Endpoint:
    """Return the endpoint that calls the code with each dead letter of the endpoint at `route`."""

    async def handle(ctx: LayerContext[str]) -> str:
        letter = await code.find(ctx.payload)
        if letter is None:
            # It was resumed or deleted meanwhile: the run has not failed any more.
            return "null"
        _keep_secrets(letter)
        failure = await code.read(letter, ctx)
        result = await ctx.run_with_codec(code.step, code.result, code.call, failure, defer_to_settlement=True)
        return code.result.encode(result)

    destination = failure_destination(route)
    return Endpoint(
        route=destination,
        name=f"{name}.failure",
        function=handle,
        payload=_read_dead_letter_id,
        flow=failure_flow(destination),
        retry=FAILURE_RETRY,
        timeout_ms=timeout_ms or DEFAULT_TIMEOUT_MS,
        public_url=public_url,
        env=env,
        limit=client.limit,
        log=log,
    )


def _read_dead_letter_id(claim: Claim) -> str:
    return str(from_json(claim.body))


def _keep_secrets(letter: DeadLetter) -> None:
    """Let an error of the failure function not quote the secrets of the dead letter."""
    message = letter.message
    keep_secrets(
        (message.body, *(step.value for step in letter.journal if step.value is not None)),
        [value for name, value in message.headers.items() if is_credential(name)],
    )


def check_failure_options(function: object, url: object) -> None:
    """Raise `ConfigurationError` for a `failure_function` that is not a function, or an invalid `failure_url`."""
    check_url("failure_url", url, no_query=False)
    if function is not None and (not callable(function) or isinstance(function, type)):
        raise ConfigurationError(option="failure_function", got=format_value(function), want="write a function")


def check_failure_function(function: Callable[..., Any], payload: Codec[Any]) -> None:
    """Raise `ConfigurationError` unless a function can be called with the failure of a run with this payload."""
    name = getattr(function, "__qualname__", repr(function)).rpartition(".")[2]
    wanted = f"write 'async def {name}(failure: RunFailure[{type_name(payload.annotation)}]) -> None'"
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        # A builtin that does not tell.
        return
    try:
        signature.bind(None)
    except TypeError:
        takes = ", ".join(f"'{it}'" for it in signature.parameters) or "nothing"
        raise ConfigurationError(
            f"the failure function '{name}' is called with the failure and nothing else, and takes {takes}; {wanted}"
        ) from None
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"the failure function '{name}' yields where it has to return; {wanted}")
    declared = _declared_type(function, next(iter(signature.parameters)))
    if declared is None or declared is Any or declared is RunFailure:
        return
    if get_origin(declared) is not RunFailure:
        raise ConfigurationError(f"the failure function '{name}' is given a RunFailure; {wanted}")
    (read,) = get_args(declared)
    given = payload.annotation
    known = isinstance(given, type) and isinstance(read, type) and not issubclass(given, read)
    if known and Any not in (given, read):
        raise ConfigurationError(
            f"the failure function '{name}' declares a payload of {type_name(read)}, and the function's is "
            f"{type_name(given)}; {wanted}"
        )


def _declared_type(function: Callable[..., Any], parameter: str) -> Any:
    """Return the annotation of a parameter; None if there is none, or if its names cannot be resolved (yet)."""
    target = inspect.unwrap(function)
    while hasattr(target, "func"):
        target = target.func
    if not inspect.isroutine(target):
        target = type(target).__call__
    try:
        return inspect.get_annotations(target, eval_str=True).get(parameter)
    except Exception:
        return None
