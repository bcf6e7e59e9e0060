"""The answers of the server: JSON, and errors as `{"error": "…"}`."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from batchflow.errors import BatchflowError, InputError, StoreUnavailable
from batchflow.logs import logger

_STORE_RETRY = {"Retry-After": "1"}
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
_AWAY = "the store of this server cannot be reached; send the request again"
_INTERNAL = "the server made a mistake, which its log describes; send the request again"


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The response with this value as its JSON body, compact and in UTF-8."""
    return Response(to_json(value), status, headers, "application/json")


def error_answer(error: Exception) -> Response:
    """The response to an error, with its sentence; one that is not of batchflow is logged, and not described."""
    match error:
        case InputError():
            status = error_status(error)
            return _error(str(error), status, _CHALLENGE if status == 401 else None)
        case StoreUnavailable():
            # Its sentence names the place of the store, which is not for strangers.
            logger().warning("[batchflow:server] A request was not answered", error=str(error))
            return _error(_AWAY, error.status, _STORE_RETRY)
        case BatchflowError():
            logger().error("[batchflow:server:error] A request failed", error=str(error), exc_info=error)
            return _error(str(error), error.status)
        case _:
            logger().error("[batchflow:server:error] A request failed", error=type(error).__name__, exc_info=error)
            return _error(_INTERNAL, 500)


def error_status(error: InputError) -> int:
    """The status of an answer to a wrong request: QStash has 400 for what cannot be read."""
    return 400 if error.status == 422 else error.status


def misfit_answer(error: RequestValidationError) -> Response:
    """The response to a request of which FastAPI could not read a part."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _error("the body is not JSON; send a JSON object", 400)
    if first["type"] == "model_attributes_type" and first["loc"] == ("body",):
        return _error("the body is not a JSON object; send one, with 'Content-Type: application/json'", 400)
    # The location begins with "query", "path" or "body".
    place = ".".join(str(part) for part in first["loc"][1:])
    return _error(f"'{place}' does not fit: {first['msg']}" if place else f"the body does not fit: {first['msg']}", 400)


def http_answer(request: Request, error: HTTPException) -> Response:
    """The response to a request that was not routed: there is no route, or none with its method."""
    match error.status_code:
        case 404:
            sentence = f"there is no route {request.method} {request.scope['path']}"
        case 405:
            allowed = (error.headers or {}).get("Allow", "")
            sentence = f"{request.method} is not possible here; send {allowed.replace(', ', ' or ')}"
        case _:
            sentence = error.detail
    return _error(sentence, error.status_code, error.headers)


def _error(sentence: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    return json_answer({"error": sentence}, status, headers)


def error_list(sentences: Sequence[str], status: int) -> Response:
    """The response to a batch that was refused: an array of errors."""
    return json_answer([{"error": it} for it in sentences], status)
