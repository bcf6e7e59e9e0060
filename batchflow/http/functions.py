"""The endpoint of one plain durable function: start a run of it."""

from typing import Any

from fastapi import APIRouter, Request, Response

from batchflow.errors import InputError
from batchflow.http.answers import RunStarted, respond
from batchflow.http.bodies import documented, read_body, says_json
from batchflow.http.options import documented_headers, in_headers, read_options
from batchflow.http.payloads import PayloadReader
from batchflow.http.places import url_beside
from batchflow.http.triggers import REFUSALS
from batchflow.serve.functions import ServedFunction

_TEXT: dict[str, Any] = {"schema": {"type": "string"}}


class FunctionEndpoint:
    """The route of one durable function: a POST starts a run with the body as its payload."""

    def __init__(self, function: ServedFunction[Any, Any], *, max_body: int, app_url: str | None) -> None:
        self._function = function
        self._endpoint = function.endpoint
        self._payload = PayloadReader(function)
        self._max_body = max_body
        self._app_url = app_url

    def mount(self, router: APIRouter) -> None:
        """Add the route."""
        started = {"model": RunStarted, "description": "a run is started, or it is there already"}
        router.add_api_route(
            self._endpoint.route,
            self.start,
            methods=["POST"],
            name=f"{self._endpoint.name}:start",
            summary=f"Start a run of {self._endpoint.name}",
            tags=[self._endpoint.name],
            status_code=202,
            responses={**REFUSALS, 202: started},
            openapi_extra={**self._documented(), "parameters": documented_headers()},
        )

    async def start(self, request: Request) -> Response:
        """The run is durable when this is answered. A header `Upstash-Forward-NAME` becomes NAME of the run."""
        own = self._endpoint.route
        options = read_options(request.headers.raw, self._endpoint.retry, url_beside(request, own, "", self._app_url))
        payload = self._payload.read(await read_body(request, self._max_body), is_json=says_json(request))
        try:
            (run,) = await self._function.trigger_many([payload], options)
        except InputError as error:
            raise in_headers(error) from error
        url = url_beside(request, own, f"/runs/{run.id}", self._app_url)
        return respond(
            RunStarted(workflow_run_id=run.id, deduplicated=run.deduplicated, status_url=url), 202, Location=url
        )

    def _documented(self) -> dict[str, Any]:
        extra = documented(self._function.payload.annotation, required=True)
        if self._function.parse is not None:
            extra["requestBody"]["content"]["text/plain"] = _TEXT
        return extra
