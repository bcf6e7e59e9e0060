"""The endpoints of schedules: make, list, show, pause, resume, fire, delete."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from pydantic.alias_generators import to_camel

from batchflow.batch.schedules import ScheduleAdmin
from batchflow.core.ports import Client
from batchflow.core.schedule import Overlap, ScheduleStatus
from batchflow.errors import InputError
from batchflow.http.bodies import invalid_field, read_object
from batchflow.http.errors import json_response, rename_options
from batchflow.http.openapi import BODY_ERRORS, error_responses, request_body
from batchflow.http.schemas.schedules import (
    DeleteScheduleResponse,
    ScheduleInfo,
    ScheduleList,
    TriggerScheduleResponse,
    served_by,
)

MAX_PAGE_SIZE = 500


class ScheduleRequest(BaseModel):
    """A schedule to make: the workflow or function `target`, by its name or route, at the times of `cron`.

    `params` are those of a workflow, `payload` is that of a function. With the id of a schedule that was made so
    before, it replaces that one.
    """

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)

    target: str
    cron: str
    schedule_id: str | None = None
    timezone: str | None = None
    params: dict[str, JsonValue] | None = None
    payload: JsonValue = None
    overlap: Overlap = "skip"
    label: str | None = None
    headers: dict[str, str] | None = None


class ScheduleEndpoints:
    """Makes, lists, shows, pauses, resumes, fires and deletes schedules.

    What they start is `always_served` if another program calls it, and no worker.
    """

    def __init__(self, client: Client, schedules: ScheduleAdmin, *, max_body: int, always_served: bool = False) -> None:
        self._client = client
        self._schedules = schedules
        self._max_body = max_body
        self._always_served = always_served

    def add_routes(self, router: APIRouter) -> None:
        """Add the routes."""

        def add(method: str, path: str, endpoint: Any, model: Any, summary: str, **options: Any) -> None:
            options.setdefault("responses", error_responses(404, 422, 503))
            router.add_api_route(
                f"/schedules{path}",
                endpoint,
                methods=[method],
                response_model=model,
                name=f"schedules:{endpoint.__name__}",
                summary=summary,
                tags=["schedules"],
                **options,
            )

        add("GET", "", self.list, ScheduleList, "The schedules, by id", responses=error_responses(422, 503))
        described = {404: "there is no such workflow or function"}
        errors = error_responses(*BODY_ERRORS, described=described)
        body = request_body(ScheduleRequest, required=True)
        add("POST", "", self.create, ScheduleInfo, "Make a schedule", responses=errors, openapi_extra=body)
        add("GET", "/{id}", self.show, ScheduleInfo, "A schedule")
        described = {409: "the code of the app declares it"}
        errors = error_responses(404, 422, 503, described=described)
        add("DELETE", "/{id}", self.delete, DeleteScheduleResponse, "Delete a schedule", responses=errors)
        add("POST", "/{id}/pause", self.pause, ScheduleInfo, "Pause a schedule")
        add("POST", "/{id}/resume", self.resume, ScheduleInfo, "Resume a schedule")
        add("POST", "/{id}/trigger", self.trigger, TriggerScheduleResponse, "Fire a schedule now")

    async def list(
        self,
        cursor: Annotated[str | None, Query(max_length=200)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)] = 100,
    ) -> Response:
        """Those of all apps of the store. The next page is read with `nextCursor` as `cursor`."""
        found = await self._schedules.list(after=cursor or "", limit=limit + 1)
        served = await self._served()
        page = [ScheduleInfo.of(it, served) for it in found[:limit]]
        more = page[-1].schedule_id if len(found) > limit else None
        return json_response(ScheduleList(schedules=page, next_cursor=more))

    async def create(self, request: Request) -> Response:
        """The schedule of an id that was made so before is replaced; its history and its pause stay."""
        fields = await read_object(request, self._max_body)
        try:
            asked = ScheduleRequest.model_validate(fields, strict=True)
        except ValidationError as error:
            raise invalid_field(error) from error
        try:
            made = await self._schedules.create(
                asked.target,
                asked.cron,
                id=asked.schedule_id,
                timezone=asked.timezone,
                params=asked.params,
                payload=asked.payload,
                overlap=asked.overlap,
                label=asked.label,
                headers=asked.headers,
            )
        except InputError as error:
            raise rename_options(error, _field_name) from error
        return await self._info(made)

    async def show(self, id: str) -> Response:
        """Its definition, its next fires and its latest ones."""
        return await self._info(await self._schedules.get(id))

    async def delete(self, id: str) -> Response:
        """The batches and runs that it has started go on."""
        await self._schedules.delete(id)
        return json_response(DeleteScheduleResponse(schedule_id=id))

    async def pause(self, id: str) -> Response:
        """It fires no more until it is resumed, also after a deploy. Safe to repeat."""
        return await self._change(self._schedules.pause, id)

    async def resume(self, id: str) -> Response:
        """It fires again from its next time on. Safe to repeat."""
        return await self._change(self._schedules.resume, id)

    async def trigger(self, id: str) -> Response:
        """Fire now, paused or not; its overlap rule applies, and its next fire stays."""
        result = await self._schedules.trigger(id)
        return json_response(TriggerScheduleResponse.of(result, await self._served()))

    async def _change(self, act: Callable[[str], Awaitable[ScheduleStatus]], id: str) -> Response:
        return await self._info(await act(id))

    async def _info(self, status: ScheduleStatus) -> Response:
        return json_response(ScheduleInfo.of(status, await self._served()))

    async def _served(self) -> frozenset[str]:
        if self._always_served:
            return self._schedules.destinations
        return served_by(await self._client.store.workers())


def _field_name(option: str) -> str:
    return "scheduleId" if option == "id" else to_camel(option)
