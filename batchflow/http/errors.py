"""What went wrong with a request becomes its answer, inside the route: a router cannot do it for the user's app."""

from collections.abc import Callable, Collection, Coroutine, Iterator
from math import ceil
from typing import Any, TypeAlias

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.security import APIKeyQuery
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from batchflow.core.spelling import did_you_mean
from batchflow.errors import (
    BatchflowError,
    InputError,
    NotFoundError,
    RetryAfter,
    StoreError,
    StoreUnavailable,
    UnserializableError,
)
from batchflow.http.schemas import ErrorResponse
from batchflow.logs import logger


def json_response(answer: BaseModel, status: int = 200, **headers: str) -> Response:
    """The response that carries an answer; `Retry_After="1"` gives the header `Retry-After`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    skip_none = isinstance(answer, ErrorResponse)
    return Response(
        answer.model_dump_json(by_alias=True, exclude_none=skip_none), status, named, media_type="application/json"
    )


RouteHandler: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]

_STORE_RETRY_S = "1"


class ErrorHandlingRoute(APIRoute):
    """A route that answers batchflow's own errors, and those of FastAPI's validation, as an `ErrorResponse`.

    What it does not know (errors of user code, an `HTTPException` of a dependency) goes on to the app as it came.
    """

    def get_route_handler(self) -> RouteHandler:
        """FastAPI's handler, with its errors answered."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return error_response(_invalid_parameter(error))
            except BatchflowError as error:
                return error_response(error)
            except ClientDisconnect:
                # Nobody reads this; it only keeps the server from logging an error.
                return json_response(ErrorResponse(error="the connection was closed before the body had come"), 400)

        return handled


def error_response(error: BatchflowError) -> Response:
    """The answer to an error."""
    match error:
        case InputError():
            return json_response(ErrorResponse(error=str(error), field=error.field), error.status)
        case UnserializableError():
            # What came over the wire fitted its type and has no JSON form all the same, such as 1e999.
            return json_response(ErrorResponse(error=str(error)), 422)
        case StoreUnavailable():
            return json_response(ErrorResponse(error=str(error)), error.status, Retry_After=_STORE_RETRY_S)
        case StoreError():
            return json_response(ErrorResponse(error=str(error)), error.status)
        case RetryAfter():
            return json_response(ErrorResponse(error=str(error)), 503, Retry_After=_retry_after(error))
        case _:
            logger().error("[batchflow:http:error] A request failed", error=str(error), exc_info=error)
            return json_response(ErrorResponse(error=str(error)), error.status)


def _retry_after(error: RetryAfter) -> str:
    return _STORE_RETRY_S if error.delay_ms is None else str(ceil(error.delay_ms / 1000))


def not_found(what: str, id: str) -> NotFoundError:
    """What was asked for does not exist."""
    return NotFoundError(f"there is no {what} '{id}'; retention may have removed it")


def workflow_not_found(name: str, known: list[str]) -> NotFoundError:
    """A workflow that neither the app nor the store knows."""
    return NotFoundError(f"there is no workflow '{name}'{did_you_mean(name, known)}", field="workflow")


def function_not_found(route: str, known: Collection[str]) -> NotFoundError:
    """A function that neither the app nor the store knows."""
    return NotFoundError(f"no function is served at '{route}'{did_you_mean(route, known)}", field="function")


def _invalid_parameter(error: RequestValidationError) -> InputError:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    sentence = f"'{place}' does not fit: {first['msg']}" if place else str(first["msg"])
    return InputError(sentence, field=place or None)


class OpenRoute(ErrorHandlingRoute):
    """A route whose requests may bring any parameters: third parties send them."""


async def check_query_params(request: Request) -> None:
    """Check the names of a request's parameters, as a dependency of all routes.

    What dependencies of the including app take is known too, where they declare it.

    Raises:
        InputError: one is unknown. Left out of account, it might be what was to narrow the request down.
    """
    route = request.scope["route"]
    if isinstance(route, OpenRoute):
        return
    known = set(_parameter_names(route.dependant))
    if known.issuperset(request.query_params):
        return
    # The route is the router's; what was added where it is included stands there.
    for included in iter_route_contexts(getattr(request.scope.get("app"), "routes", ())):
        if included.original_route is route:
            known.update(_parameter_names(included.dependant))
    for name in request.query_params:
        if name not in known:
            choice = did_you_mean(name, known) if known else "; this route takes none in its URL"
            raise InputError(f"unknown parameter '{name}'{choice}", field=name)


def _parameter_names(dependant: Any) -> Iterator[str]:
    for parameter in dependant.query_params:
        model = parameter.field_info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield from (field.alias or name for name, field in model.model_fields.items())
        else:
            yield parameter.alias
    if isinstance(dependant.call, APIKeyQuery):
        yield dependant.call.model.name
    for part in dependant.dependencies:
        yield from _parameter_names(part)
