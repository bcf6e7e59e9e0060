"""Responses, errors included. Errors are handled in the route: a router cannot add exception handlers to an app."""

from collections.abc import Callable, Collection, Coroutine, Iterator
from math import ceil
from typing import Any, TypeAlias

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.security import APIKeyQuery
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Message, Receive, Scope, Send

from batchflow.core.suggestions import did_you_mean
from batchflow.errors import (
    BatchflowError,
    InputError,
    NotFoundError,
    RetryAfter,
    StoreError,
    StoreUnavailable,
    UnserializableError,
)
from batchflow.http.bodies import does_not_fit
from batchflow.http.schemas.base import BatchflowErrorResponse
from batchflow.logs import logger
from batchflow.serve.app_url import PublicUrlUnknown

RouteHandler: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]

_STORE_RETRY_S = "1"


class ErrorHandlingRoute(APIRoute):
    """A route that answers batchflow's errors, and FastAPI's validation errors, with an `BatchflowErrorResponse`.

    All others (errors of user code, an `HTTPException` of a dependency) go on to the app unchanged.
    """

    other_routes: tuple[str, ...] = ()
    """The ends of the paths that would match, and are those of other routes with other methods."""

    def get_route_handler(self) -> RouteHandler:
        """FastAPI's handler, with its errors handled."""
        handle = super().get_route_handler()

        async def handle_errors(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return error_response(_invalid_parameter(error))
            except BatchflowError as error:
                return error_response(error)
            except ClientDisconnect:
                # Nobody reads this; it only keeps the server from logging an error.
                return json_response(
                    BatchflowErrorResponse(error="the connection was closed before the body was complete"), 400
                )

        return handle_errors

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match as FastAPI does, and HEAD wherever there is GET."""
        match, child_scope = super().matches(scope)
        if match is Match.NONE or not self.takes(scope["path"]):
            return Match.NONE, {}
        if match is Match.PARTIAL and self._takes_as_get(scope["method"]):
            match = Match.FULL
        return match, child_scope

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer HEAD as GET without the body, and a method that the path does not have with 405."""
        if not self.methods or scope["method"] in self.methods:
            await super().handle(scope, receive, send)
        elif self._takes_as_get(scope["method"]):
            await super().handle({**scope, "method": "GET"}, receive, _head_only(send))
        else:
            allowed = sorted(_allowed_methods(scope, self.methods))
            choice = " or ".join(it for it in allowed if it != "HEAD")
            document = BatchflowErrorResponse(error=f"{scope['method']} is not possible here; send {choice}")
            await json_response(document, 405, Allow=", ".join(allowed))(scope, receive, send)

    def takes(self, path: str) -> bool:
        """True if a path that matches is not that of another route."""
        # Most patterns also match before a line feed at the end: the path would be that of another id. An id takes it.
        cuts = not self.path.endswith("}") or self.path.endswith(":path}")
        return not path.endswith(("\n", *self.other_routes) if cuts else self.other_routes)

    def _takes_as_get(self, method: str) -> bool:
        return method == "HEAD" and self.methods is not None and "GET" in self.methods


def _head_only(send: Send) -> Send:
    """Send the head of a response, end it there, and drop the rest: a stream then stops, as its client has gone."""
    ended = False

    async def send_head(message: Message) -> None:
        nonlocal ended
        if not ended:
            ended = True
            await send(message)
            await send({"type": "http.response.body", "body": b""})

    return send_head


def _allowed_methods(scope: Scope, own: set[str]) -> set[str]:
    """The methods of all routes of the app that take the path of a request."""
    root, path = scope.get("root_path", ""), scope["path"]
    path = path[len(root) :] if path.startswith(f"{root}/") else path
    found = set(own)
    for route in iter_route_contexts(getattr(scope.get("app"), "routes", ())):
        pattern, original = getattr(route, "path_regex", None), route.original_route
        if route.methods and pattern is not None and pattern.match(path):
            found |= set() if isinstance(original, ErrorHandlingRoute) and not original.takes(path) else route.methods
    return found | {"HEAD"} if "GET" in found else found


class OpenRoute(ErrorHandlingRoute):
    """A route that accepts any query parameters, since third parties choose them."""


def json_response(document: BaseModel, status: int = 200, **headers: str) -> Response:
    """The response with a document as its body; `Retry_After="1"` sets the header `Retry-After`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = document.model_dump_json(by_alias=True, exclude_none=isinstance(document, BatchflowErrorResponse))
    return Response(body, status, named, media_type="application/json")


def error_response(error: BatchflowError) -> Response:
    """The response to an error."""
    document = BatchflowErrorResponse(error=str(error), field=error.field if isinstance(error, InputError) else None)
    match error:
        case InputError():
            challenge = {"WWW_Authenticate": "Bearer"} if error.status == 401 else {}
            return json_response(document, error.status, **challenge)
        case UnserializableError():
            # A value of the request has the right type and yet no JSON form, such as 1e999.
            return json_response(document, 422)
        case StoreUnavailable():
            return json_response(document, error.status, Retry_After=_STORE_RETRY_S)
        case RetryAfter():
            return json_response(document, 503, Retry_After=_retry_after(error))
        case StoreError() | PublicUrlUnknown():
            return json_response(document, error.status)
        case _:
            logger().error("[batchflow:http:error] A request failed", error=str(error), exc_info=error)
            return json_response(document, error.status)


def _retry_after(error: RetryAfter) -> str:
    return _STORE_RETRY_S if error.delay_ms is None else str(ceil(error.delay_ms / 1000))


def _invalid_parameter(error: RequestValidationError) -> InputError:
    first = error.errors()[0]
    # The location begins with "query", "path" or "header".
    return does_not_fit(first["loc"][1:], str(first["msg"]))


def rename_options(error: InputError, name: Callable[[str], str]) -> InputError:
    """The same error, with each option under the name that it has in the request."""
    option = error.option or error.field
    field = None if option is None else name(option)
    return InputError(error.sentence(name), field=field, status=error.status)


def not_found(kind: str, id: str) -> NotFoundError:
    """The error for a batch or run that does not exist."""
    return NotFoundError(f"there is no {kind} '{id}'; retention may have removed it")


def workflow_not_found(name: str, known: Collection[str]) -> NotFoundError:
    """The error for a workflow that neither the app nor the store knows."""
    return NotFoundError(f"there is no workflow '{name}'{did_you_mean(name, known)}", field="workflow")


def function_not_found(route: str, known: Collection[str]) -> NotFoundError:
    """The error for a function that neither the app nor the store knows."""
    return NotFoundError(f"no function is served at '{route}'{did_you_mean(route, known)}", field="function")


async def check_query_params(request: Request) -> None:
    """Refuse unknown query parameters; a dependency of all routes.

    Parameters that dependencies of the including app declare are known too.

    Raises:
        InputError: a parameter is unknown. If it were ignored, a request that it was to narrow down would do too much.
    """
    route = request.scope["route"]
    if isinstance(route, OpenRoute):
        return
    known = set(_parameter_names(route.dependant))
    for name in known.intersection(request.query_params):
        if len(request.query_params.getlist(name)) > 1:
            raise InputError("is given twice", option=name, want="give it once", field=name)
    if known.issuperset(request.query_params):
        return
    # `route` is the router's own; dependencies that were added where it is included are on the app's copy.
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
