"""The endpoints of plain durable functions: start a run, and see how it stands."""

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter, ValidationError

from batchflow.core.ports import Client
from batchflow.errors import InputError
from batchflow.http.answers import Refusal, RunAnswer, RunStarted, respond
from batchflow.http.bodies import documented, parse, read_body
from batchflow.http.places import url_beside
from batchflow.http.refusals import unknown
from batchflow.http.triggers import REFUSALS
from batchflow.serve.served import ServedFunction


class FunctionEndpoint:
    """The route of one durable function: a POST starts a run with the body as its payload."""

    def __init__(self, function: ServedFunction[Any, Any], *, max_body: int, app_url: str | None) -> None:
        self._function = function
        self._endpoint = function.endpoint
        self._payload: TypeAdapter[Any] = TypeAdapter(function.payload.annotation)
        self._max_body = max_body
        self._app_url = app_url

    def mount(self, router: APIRouter) -> None:
        """Add the route."""
        started = {"model": RunStarted, "description": "a run is started"}
        router.add_api_route(
            self._endpoint.route,
            self.start,
            methods=["POST"],
            name=f"{self._endpoint.name}:start",
            summary=f"Start a run of {self._endpoint.name}",
            tags=[self._endpoint.name],
            status_code=202,
            responses={**REFUSALS, 202: started},
            openapi_extra=documented(self._function.payload.annotation, required=True),
        )

    async def start(self, request: Request) -> Response:
        """The run is durable when this is answered."""
        body = await read_body(request, self._max_body)
        parse(body)
        run = await self._function.trigger(self._read(body))
        url = url_beside(request, self._endpoint.route, f"/runs/{run.id}", self._app_url)
        return respond(RunStarted(workflow_run_id=run.id, status_url=url), 202, Location=url)

    def _read(self, body: bytes) -> Any:
        """The payload; where there is no body, null stands in for one if it fits, else an empty object."""
        texts = [body] if body.strip() else [b"null", b"{}"]
        fault: ValidationError | None = None
        for text in texts:
            try:
                return self._payload.validate_json(text, by_alias=True, by_name=True)
            except ValidationError as error:
                fault = error
        assert fault is not None
        raise _unfit(fault) from fault


class RunEndpoints:
    """What can be asked of runs."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def mount(self, router: APIRouter) -> None:
        """Add the route."""
        router.add_api_route(
            "/runs/{id}",
            self.status,
            methods=["GET"],
            response_model=RunAnswer,
            name="runs:status",
            summary="A run as it stands",
            tags=["runs"],
            responses={404: {"model": Refusal, "description": "there is none"}, 422: REFUSALS[422], 503: REFUSALS[503]},
        )

    async def status(self, id: str) -> Response:
        """State, result and error. Runs of batches can be asked for too, as long as they are kept."""
        run = await self._client.run(id)
        if run is None:
            raise unknown("run", id)
        return respond(RunAnswer.of(run))


def _unfit(error: ValidationError) -> InputError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return InputError(f"'{field}' does not fit: {first['msg']}" if field else first["msg"], field=field or None)
