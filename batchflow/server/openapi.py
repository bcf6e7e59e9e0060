"""The OpenAPI document of the server: FastAPI's, with the routes that it does not answer, and errors as they are."""

from typing import Any

from fastapi import FastAPI

from batchflow.server.hooks import METHODS
from batchflow.server.raw_request import TOKEN_PARAMETER
from batchflow.server.wire_model import WireModel

_JSON = "application/json"
_TEXT = {"type": "string"}
_SECURITY = {
    "token": {"type": "http", "scheme": "bearer"},
    "parameter": {"type": "apiKey", "in": "query", "name": TOKEN_PARAMETER},
}
_POSTED = {
    "type": "object",
    "properties": {"messageId": _TEXT, "url": _TEXT, "deduplicated": {"type": "boolean"}},
    "required": ["messageId", "url"],
}
_POSTED_TO = {"anyOf": [_POSTED, {"type": "array", "items": _POSTED}], "description": "an array for a URL group"}
_ITEM = {
    "type": "object",
    "properties": {
        "destination": {"type": "string", "minLength": 1},
        "headers": {"type": "object", "additionalProperties": _TEXT},
        "body": {"type": ["string", "null"]},
        "queue": {"type": ["string", "null"]},
    },
    "required": ["destination"],
}
_BEGUN = {
    "type": "object",
    "properties": {
        "workflowRunId": _TEXT,
        "workflowCreatedAt": {"type": "integer"},
        "deduplicated": {"type": "boolean"},
    },
    "required": ["workflowRunId", "workflowCreatedAt"],
}
_WISHED = (
    "`Upstash-Workflow-RunId` is the id of the run, to which `wfr_` is added; while a run with it goes on, nothing "
    "begins."
)
_SETTINGS = (
    "Headers such as `Upstash-Retries`, which may also be parameters of the query, configure the message, and "
    "`Upstash-Forward-NAME` is delivered as `NAME`."
)


class ErrorAnswer(WireModel):
    """The reason why a request was refused, in one sentence."""

    error: str


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "the request cannot be understood"},
    401: {"model": ErrorAnswer, "description": "the token is missing, or not one of this server"},
    404: {"model": ErrorAnswer, "description": "it does not exist"},
    413: {"model": ErrorAnswer, "description": "the body is too large"},
    503: {"model": ErrorAnswer, "description": "the store is away; Retry-After says when to try again"},
}
"""The errors of every route."""


class ServerApi(FastAPI):
    """The inner app of the server, whose document has all routes."""

    def openapi(self) -> dict[str, Any]:
        """The document, made with the first use."""
        if self.openapi_schema is not None:
            return self.openapi_schema
        document = super().openapi()
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        for path in document["paths"].values():
            for operation in path.values():
                # What FastAPI calls unprocessable is answered as a bad request.
                operation["responses"].pop("422", None)
        document["paths"] = {**_publish_paths(), **document["paths"], **_hook_paths()}
        document["components"]["securitySchemes"] = _SECURITY
        document["security"] = [{name: []} for name in _SECURITY]
        return document


def _publish_paths() -> dict[str, Any]:
    destination = _parameter("destination", "a URL as it is, with its query, or the name of a URL group")
    queue = _parameter("queue", "the queue, which is made if it does not exist")
    items = {"required": True, "content": {_JSON: {"schema": {"type": "array", "items": _ITEM}}}}
    body = {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
    return {
        "/v2/publish/{destination}": _post("Publish a message", _SETTINGS, body, _POSTED_TO, destination),
        "/v2/enqueue/{queue}/{destination}": _post(
            "Publish a message to a queue", _SETTINGS, body, _POSTED_TO, queue, destination
        ),
        "/v2/batch": _post(
            "Publish messages",
            "All of them, or none: then each wrong item has its error in the answer.",
            items,
            {"type": "array", "items": _POSTED_TO},
        ),
        "/v2/trigger/{destination}": _post(
            "Begin a workflow run",
            f"At an endpoint of an SDK. {_WISHED} {_SETTINGS}",
            body,
            _BEGUN,
            _parameter("destination", "the URL of the endpoint as it is, with its query"),
        ),
        "/v2/batch/trigger": _post(
            "Begin workflow runs",
            f"All of them, or none: then each wrong item has its error in the answer. {_WISHED}",
            items,
            {"type": "array", "items": _BEGUN},
        ),
    }


def _hook_paths() -> dict[str, Any]:
    names = {"user": "the tenant", "run": "the id of the run", "event": "the name that the SDK has made"}
    error = {"$ref": "#/components/schemas/ErrorAnswer"}
    operation = {
        "tags": ["webhooks"],
        "summary": "Call a webhook of a workflow run",
        "description": "The run gets the request as an event, or keeps it until it waits. It needs no token.",
        "parameters": [_parameter(name, text) for name, text in names.items()],
        "security": [],
        "responses": {
            "200": {"description": "whether or not there is such a run"},
            **{str(status): _response(about["description"], error) for status, about in ERRORS.items()},
        },
    }
    return {"/v2/workflows/hooks/{user}/{run}/{event}": {method.lower(): operation for method in METHODS}}


def _parameter(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": _TEXT}


def _post(
    summary: str, description: str, body: dict[str, Any], answer: dict[str, Any], *parameters: dict[str, Any]
) -> dict[str, Any]:
    error = {"$ref": "#/components/schemas/ErrorAnswer"}
    errors: dict[str, Any] = {"anyOf": [error, {"type": "array", "items": error}]} if not parameters else error
    statuses = {status: about["description"] for status, about in ERRORS.items()}
    statuses[412] = "this server does not allow so much, such as so many retries"
    return {
        "post": {
            "tags": ["publish"],
            "summary": summary,
            "description": description,
            "parameters": list(parameters),
            "requestBody": body,
            "responses": {
                "201": _response("it is published", answer),
                "202": _response("it is deduplicated: nothing new is published", answer),
                **{str(status): _response(text, errors) for status, text in statuses.items()},
            },
        }
    }


def _response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {_JSON: {"schema": schema}}}
