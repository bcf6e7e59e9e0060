"""The endpoints of events: notify those that wait for one, and see who does."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic_core import from_json

from batchflow.core.call import Body
from batchflow.core.ports import Client
from batchflow.errors import InputError, NotFoundError
from batchflow.http.bodies import decode_text, has_json_content_type, read_body
from batchflow.http.errors import OpenRoute, json_response
from batchflow.http.openapi import ERROR_RESPONSES
from batchflow.http.schemas import ErrorResponse, NotifyResponse, WaiterInfo, WaiterList, WebhookResponse
from batchflow.serve import runs
from batchflow.serve.waits import WEBHOOK_REQUEST_CODEC, WebhookRequest, webhook_event_id

_EVENT_BODY: dict[str, Any] = {
    "required": False,
    "content": {"application/json": {"schema": {}}, "text/plain": {"schema": {"type": "string"}}},
}


class EventEndpoints:
    """Ids of events may hold slashes and colons."""

    def __init__(self, client: Client, *, max_body: int) -> None:
        self._client = client
        self._max_body = max_body

    def add_routes(self, router: APIRouter) -> None:
        """Add the routes."""
        router.add_api_route(
            "/events/{id:path}",
            self.notify,
            methods=["POST"],
            response_model=NotifyResponse,
            name="events:notify",
            summary="Give data to the runs that wait for an event",
            tags=["events"],
            responses=ERROR_RESPONSES,
            openapi_extra={"requestBody": _EVENT_BODY},
        )
        router.add_api_route(
            "/events/{id:path}/waiters",
            self.waiters,
            methods=["GET"],
            response_model=WaiterList,
            name="events:waiters",
            summary="The runs that wait for an event, those that have waited longest first",
            tags=["events"],
            responses={422: ERROR_RESPONSES[422], 503: ERROR_RESPONSES[503]},
        )

    async def notify(
        self, id: str, request: Request, run_id: Annotated[str | None, Query(alias="runId")] = None
    ) -> Response:
        """The body is the data: JSON, or text. With `runId` it is for that run, and kept until it waits for it."""
        data = _event_data(await read_body(request, self._max_body), is_json=has_json_content_type(request))
        told = await runs.notify_event(self._client, id, data, run_id)
        return json_response(NotifyResponse(event_id=id, run_ids=list(told)))

    async def waiters(self, id: str) -> Response:
        """With the step at which each waits, since when and until when."""
        found = await runs.list_waiters(self._client, id)
        return json_response(WaiterList(event_id=id, waiters=[WaiterInfo.of(it) for it in found]))


def _event_data(body: bytes, *, is_json: bool) -> Any:
    if not body:
        return None
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        if is_json:
            raise InputError(
                f"the body is not JSON ({error}), which its Content-Type says it is; send JSON, or text as text/plain",
                status=400,
            ) from error
        return decode_text(body)


_WEBHOOK_PATH = "/webhooks/{token}"
_RETRY_S = "10"


class WebhookEndpoint:
    """Takes requests of any method. The token is a secret: it stands in no answer and in no log of batchflow's."""

    def __init__(self, client: Client, *, max_body: int) -> None:
        self._client = client
        self._max_body = max_body

    def add_routes(self, router: APIRouter) -> None:
        """Add the route; the OpenAPI document shows it as a POST."""
        router.add_api_route(
            _WEBHOOK_PATH,
            self.receive,
            methods=["POST"],
            name="webhooks:take",
            summary="Send something to a run, by any method",
            tags=["webhooks"],
            status_code=202,
            responses={
                202: {"model": WebhookResponse, "description": "the request is its run's"},
                404: {"model": ErrorResponse, "description": "there is no such webhook, or its run has ended"},
                413: ERROR_RESPONSES[413],
                429: {
                    "model": ErrorResponse,
                    "description": "too much is kept for the run that it has not waited for yet",
                },
                503: ERROR_RESPONSES[503],
            },
            openapi_extra={"requestBody": {"required": False, "content": {"*/*": {"schema": {}}}}},
            route_class_override=OpenRoute,
        )
        # A route without methods takes every one. It needs an id, which is made of the method elsewhere.
        router.add_api_route(
            _WEBHOOK_PATH,
            self.receive,
            methods=[],
            name="webhooks:any",
            operation_id="webhooks",
            include_in_schema=False,
            route_class_override=OpenRoute,
        )

    async def receive(self, token: str, request: Request) -> Response:
        """Method, headers, query and body, whatever they are, reach the run; it is durable when this is answered."""
        run = await self._run(token)
        sent = WEBHOOK_REQUEST_CODEC.encode(await _read(request, self._max_body))
        self._client.limit.check(sent, "the request to this webhook")
        told = await self._client.notify(webhook_event_id(token), sent, run)
        if told:
            return json_response(WebhookResponse(workflow_run_id=run), 202)
        # It may have ended while the body came.
        await self._run(token)
        sentence = "too many requests are kept for the run of this webhook, which has not waited for them yet"
        return json_response(ErrorResponse(error=sentence), 429, Retry_After=_RETRY_S)

    async def _run(self, token: str) -> str:
        run = await self._client.store.webhook(token)
        if run is None:
            raise NotFoundError("there is no such webhook, or its run has ended")
        return run


async def _read(request: Request, limit: int) -> WebhookRequest:
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    query: bytes = request.scope["query_string"]
    body = Body.of(await read_body(request, limit))
    return WebhookRequest(method=request.method, headers=headers, query=query.decode("latin-1"), sent=body)
