"""The endpoint of webhooks: what is sent to one is an event of its run."""

from fastapi import APIRouter, Request, Response

from batchflow.core.call import Body
from batchflow.core.ports import Client
from batchflow.errors import NotFoundError
from batchflow.http.answers import Refusal, respond
from batchflow.http.bodies import read_body
from batchflow.http.parameters import OpenRoute
from batchflow.http.run_answers import WebhookTaken
from batchflow.http.triggers import REFUSALS
from batchflow.serve.waits import WEBHOOK_REQUEST_CODEC, WebhookRequest, webhook_event_id

_PATH = "/webhooks/{token}"
_RETRY_S = "10"


class WebhookEndpoint:
    """Takes requests of any method. The token is a secret: it stands in no answer and in no log of batchflow's."""

    def __init__(self, client: Client, *, max_body: int) -> None:
        self._client = client
        self._max_body = max_body

    def mount(self, router: APIRouter) -> None:
        """Add the route; the OpenAPI document shows it as a POST."""
        router.add_api_route(
            _PATH,
            self.take,
            methods=["POST"],
            name="webhooks:take",
            summary="Send something to a run, by any method",
            tags=["webhooks"],
            status_code=202,
            responses={
                202: {"model": WebhookTaken, "description": "the request is its run's"},
                404: {"model": Refusal, "description": "there is no such webhook, or its run has ended"},
                413: REFUSALS[413],
                429: {"model": Refusal, "description": "too much is kept for the run that it has not waited for yet"},
                503: REFUSALS[503],
            },
            openapi_extra={"requestBody": {"required": False, "content": {"*/*": {"schema": {}}}}},
            route_class_override=OpenRoute,
        )
        # A route without methods takes every one. It needs an id, which is made of the method elsewhere.
        router.add_api_route(
            _PATH,
            self.take,
            methods=[],
            name="webhooks:any",
            operation_id="webhooks",
            include_in_schema=False,
            route_class_override=OpenRoute,
        )

    async def take(self, token: str, request: Request) -> Response:
        """Method, headers, query and body, whatever they are, reach the run; it is durable when this is answered."""
        run = await self._run(token)
        sent = WEBHOOK_REQUEST_CODEC.encode(await _read(request, self._max_body))
        self._client.limit.check(sent, "the request to this webhook")
        told = await self._client.notify(webhook_event_id(token), sent, run)
        if told:
            return respond(WebhookTaken(workflow_run_id=run), 202)
        # It may have ended while the body came.
        await self._run(token)
        sentence = "too many requests are kept for the run of this webhook, which has not waited for them yet"
        return respond(Refusal(error=sentence), 429, Retry_After=_RETRY_S)

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
