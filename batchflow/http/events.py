"""The endpoints of events: notify those that wait for one, and see who does."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic_core import from_json

from batchflow.core.ports import Client
from batchflow.errors import InputError
from batchflow.http.answers import respond
from batchflow.http.bodies import read_body, says_json
from batchflow.http.payloads import read_text
from batchflow.http.run_answers import EventTaken, WaiterAnswer, WaiterList
from batchflow.http.triggers import REFUSALS
from batchflow.serve import runs

_BODY: dict[str, Any] = {
    "required": False,
    "content": {"application/json": {"schema": {}}, "text/plain": {"schema": {"type": "string"}}},
}


class EventEndpoints:
    """Ids of events may hold slashes and colons."""

    def __init__(self, client: Client, *, max_body: int) -> None:
        self._client = client
        self._max_body = max_body

    def mount(self, router: APIRouter) -> None:
        """Add the routes."""
        router.add_api_route(
            "/events/{id:path}",
            self.notify,
            methods=["POST"],
            response_model=EventTaken,
            name="events:notify",
            summary="Give data to the runs that wait for an event",
            tags=["events"],
            responses=REFUSALS,
            openapi_extra={"requestBody": _BODY},
        )
        router.add_api_route(
            "/events/{id:path}/waiters",
            self.waiters,
            methods=["GET"],
            response_model=WaiterList,
            name="events:waiters",
            summary="The runs that wait for an event, those that have waited longest first",
            tags=["events"],
            responses={422: REFUSALS[422], 503: REFUSALS[503]},
        )

    async def notify(
        self, id: str, request: Request, run_id: Annotated[str | None, Query(alias="runId")] = None
    ) -> Response:
        """The body is the data: JSON, or text. With `runId` it is for that run, and kept until it waits for it."""
        data = _data(await read_body(request, self._max_body), is_json=says_json(request))
        told = await runs.notify_event(self._client, id, data, run_id)
        return respond(EventTaken(event_id=id, run_ids=list(told)))

    async def waiters(self, id: str) -> Response:
        """With the step at which each waits, since when and until when."""
        found = await runs.list_waiters(self._client, id)
        return respond(WaiterList(event_id=id, waiters=[WaiterAnswer.of(it) for it in found]))


def _data(body: bytes, *, is_json: bool) -> Any:
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
        return read_text(body)
