"""What went wrong with a request becomes its answer, inside the route: a router cannot do it for the user's app."""

from collections.abc import Callable, Collection, Coroutine
from math import ceil
from typing import Any, TypeAlias

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
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
from batchflow.http.answers import Refusal, respond
from batchflow.logs import logger

Handler: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]

_STORE_RETRY_S = "1"


class RefusingRoute(APIRoute):
    """A route that answers batchflow's own errors, and those of FastAPI's validation, as a `Refusal`.

    What it does not know (errors of user code, an `HTTPException` of a dependency) goes on to the app as it came.
    """

    def get_route_handler(self) -> Handler:
        """FastAPI's handler, with its errors answered."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return refused(_input_error(error))
            except BatchflowError as error:
                return refused(error)
            except ClientDisconnect:
                # Nobody reads this; it only keeps the server from logging an error.
                return respond(Refusal(error="the connection was closed before the body had come"), 400)

        return handled


def refused(error: BatchflowError) -> Response:
    """The answer to an error."""
    match error:
        case InputError():
            return respond(Refusal(error=str(error), field=error.field), error.status)
        case UnserializableError():
            # What came over the wire fitted its type and has no JSON form all the same, such as 1e999.
            return respond(Refusal(error=str(error)), 422)
        case StoreUnavailable():
            return respond(Refusal(error=str(error)), error.status, Retry_After=_STORE_RETRY_S)
        case StoreError():
            return respond(Refusal(error=str(error)), error.status)
        case RetryAfter():
            return respond(Refusal(error=str(error)), 503, Retry_After=_wait_s(error))
        case _:
            logger().error("[batchflow:http:error] A request failed", error=str(error), exc_info=error)
            return respond(Refusal(error=str(error)), error.status)


def _wait_s(error: RetryAfter) -> str:
    return _STORE_RETRY_S if error.delay_ms is None else str(ceil(error.delay_ms / 1000))


def unknown(what: str, id: str) -> NotFoundError:
    """What was asked for does not exist."""
    return NotFoundError(f"there is no {what} '{id}'; retention may have removed it")


def unknown_workflow(name: str, known: list[str]) -> NotFoundError:
    """A workflow that neither the app nor the store knows."""
    return NotFoundError(f"there is no workflow '{name}'{did_you_mean(name, known)}", field="workflow")


def unknown_function(route: str, known: Collection[str]) -> NotFoundError:
    """A function that neither the app nor the store knows."""
    return NotFoundError(f"no function is served at '{route}'{did_you_mean(route, known)}", field="function")


def _input_error(error: RequestValidationError) -> InputError:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    sentence = f"'{place}' does not fit: {first['msg']}" if place else str(first["msg"])
    return InputError(sentence, field=place or None)
