"""The endpoints of events and webhooks: notify waiting runs, list them, receive requests for a run."""

from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Path, Query, Request, Response

from batchflow.core.call import Body
from batchflow.core.ports import Client
from batchflow.errors import InputError, NotFoundError
from batchflow.http.bodies import ReceivedBody, parse_json, read_body
from batchflow.http.errors import ErrorHandlingRoute, OpenRoute, json_response
from batchflow.http.openapi import BODY_ERRORS, QueryParam, error_responses
from batchflow.http.schemas.base import BatchflowErrorResponse
from batchflow.http.schemas.events import NotifyResponse, WaiterInfo, WaiterList, WebhookResponse
from batchflow.serve import runs
from batchflow.serve.waits import MAX_EVENT_ID, WebhookRequest, webhook_event_id, webhook_request_codec

_EVENT_BODY: dict[str, Any] = {
    "required": False,
    "content": {"application/json": {"schema": {}}, "text/plain": {"schema": {"type": "string"}}},
}
_NOT_NOTIFIED = "the path is that of the list of waiters, which takes GET"
_NO_PATH = "the id has a line feed, which no path of a router may have"
_WEBHOOK_PATH = "/webhooks/{token}"
_WEBHOOK_GONE = "there is no such webhook, or its run has ended"
_WEBHOOK_RETRY_S = "10"
_ALLOW = {"Allow": "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"}


EventId: TypeAlias = Annotated[str, Path(json_schema_extra={"minLength": 1, "maxLength": MAX_EVENT_ID})]


class _NotifyRoute(ErrorHandlingRoute):
    """The route of an event, whose id may have any number of slashes."""

    other_routes = ("/waiters",)


class EventEndpoints:
    """Notifies events and lists the runs that wait for one. Ids of events may contain slashes and colons."""

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
            summary="Notify the runs that wait for an event",
            tags=["events"],
            responses=error_responses(*BODY_ERRORS, described={404: _NO_PATH, 405: _NOT_NOTIFIED}),
            openapi_extra={"requestBody": _EVENT_BODY},
            route_class_override=_NotifyRoute,
        )
        router.add_api_route(
            "/events/{id:path}/waiters",
            self.waiters,
            methods=["GET"],
            response_model=WaiterList,
            name="events:waiters",
            summary="The runs that wait for an event, the longest wait first",
            tags=["events"],
            responses=error_responses(422, 503, described={404: _NO_PATH}),
        )

    async def notify(
        self, id: EventId, request: Request, run_id: Annotated[QueryParam[str], Query(alias="runId")] = None
    ) -> Response:
        """The body is the data: JSON, or text. With `runId` it is for that run alone, and kept until the run waits.

        Only Python and the command notify an event whose id ends in `/waiters`.
        """
        data = _event_data(await read_body(request, self._max_body))
        notified = await runs.notify_event(self._client, id, data, run_id)
        return json_response(NotifyResponse(event_id=id, run_ids=list(notified)))

    async def waiters(self, id: EventId) -> Response:
        """Each with the step at which it waits, and the start and end of the wait."""
        found = await runs.list_waiters(self._client, id)
        return json_response(WaiterList(event_id=id, waiters=[WaiterInfo.of(it) for it in found]))


def _event_data(body: ReceivedBody) -> Any:
    if not (text := body.json_text):
        return None if body.is_json or not body.content else body.to_text()
    try:
        return parse_json(text, "send JSON, or text as text/plain", allow_inf_nan=False)
    except InputError:
        if body.is_json:
            raise
        return body.to_text()


class WebhookEndpoint:
    """Receives requests of any method but HEAD and OPTIONS, with which third parties probe a URL.

    The token is a secret: no response and no log line of batchflow contains it.
    """

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
            summary="Send a request to a run",
            tags=["webhooks"],
            status_code=202,
            responses={
                **error_responses(
                    413,
                    415,
                    503,
                    described={
                        400: "the body is not packed as its Content-Encoding says",
                        404: _WEBHOOK_GONE,
                        429: "too many requests wait for the run",
                    },
                ),
                202: {"model": WebhookResponse, "description": "the request is stored for its run"},
            },
            openapi_extra={"requestBody": {"required": False, "content": {"*/*": {"schema": {}}}}},
            route_class_override=OpenRoute,
        )
        # A route without methods accepts all of them. It needs an operation id, which FastAPI derives from the method.
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
        """The run receives method, headers, query and body. The request is stored before this is answered.

        HEAD and OPTIONS ask about the URL and tell the run nothing: they are answered alike for every token.
        """
        match request.method:
            case "HEAD":
                return Response(status_code=200, headers=_ALLOW)
            case "OPTIONS":
                return Response(status_code=204, headers=_ALLOW)
            case "TRACE":
                return Response(status_code=405, headers=_ALLOW)
            case _:
                pass
        run = await self._run(token)
        sent = webhook_request_codec().encode(await _webhook_request(request, self._max_body))
        self._client.limit.check(sent, "the request to this webhook")
        if await self._client.notify(webhook_event_id(token), sent, run):
            return json_response(WebhookResponse(workflow_run_id=run), 202)
        # The run may have ended while the body was read.
        await self._run(token)
        sentence = "too many requests are kept for the run of this webhook, which has not waited for them yet"
        return json_response(BatchflowErrorResponse(error=sentence), 429, Retry_After=_WEBHOOK_RETRY_S)

    async def _run(self, token: str) -> str:
        run = await self._client.store.webhook(token)
        if run is None:
            raise NotFoundError(_WEBHOOK_GONE)
        return run


async def _webhook_request(request: Request, limit: int) -> WebhookRequest:
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    query: bytes = request.scope["query_string"]
    body = Body.of((await read_body(request, limit)).content)
    return WebhookRequest(method=request.method, headers=headers, query=query.decode("latin-1"), sent=body)
