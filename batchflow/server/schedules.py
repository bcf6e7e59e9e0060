"""The routes of schedules: make or replace, list, show, delete, pause, resume."""

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from batchflow.core.schedule import ScheduleStatus
from batchflow.engine.push_schedules import schedule_request, stored_schedule_id
from batchflow.errors import NotFoundError
from batchflow.server.context import Context, ServerContext, Tenant
from batchflow.server.publish import read_publish
from batchflow.server.raw_request import raw_path
from batchflow.server.scheduling import make_schedule
from batchflow.server.wire_model import WireModel
from batchflow.wire.messages import message_json

router = APIRouter(prefix="/v2/schedules", tags=["schedules"])

_PAGE = 500
_TEXT = {"type": "string"}
_DOCUMENTED: dict[str, Any] = {
    "parameters": [
        {
            "name": "destination",
            "in": "path",
            "required": True,
            "description": "a URL as it is, with its query, or the name of a URL group",
            "schema": _TEXT,
        },
        {"name": "Upstash-Cron", "in": "header", "required": True, "description": "five fields", "schema": _TEXT},
        {"name": "Upstash-Schedule-Id", "in": "header", "description": "the schedule to replace", "schema": _TEXT},
    ],
    "requestBody": {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}},
}


class ScheduleCreated(WireModel):
    """The id of a schedule that was made or replaced."""

    schedule_id: str


class ScheduleJson(WireModel):
    """A schedule, with the parts of its messages that are set. Times are in ms, `delay` and `timeout` in seconds."""

    schedule_id: str
    destination: str
    cron: str
    created_at: int
    is_paused: bool
    method: str
    retries: int
    header: Mapping[str, list[str]] | None = None
    body: str | None = None
    body_base64: str | None = None
    delay: int | None = None
    timeout: int | None = None
    callback: str | None = None
    failure_callback: str | None = None
    callback_header: Mapping[str, list[str]] | None = None
    failure_callback_header: Mapping[str, list[str]] | None = None
    retry_delay_expression: str | None = None
    queue_name: str | None = None
    flow_control_key: str | None = None
    parallelism: int | None = None
    rate: int | None = None
    period: int | None = None
    label: str | None = None
    labels: list[str] | None = None
    caller_ip: Annotated[str | None, Field(alias="callerIP")] = None
    last_schedule_time: int | None = None
    next_schedule_time: int | None = None
    error: str | None = None

    @classmethod
    def of(cls, status: ScheduleStatus) -> "ScheduleJson":
        """The JSON of a schedule of posts."""
        request = schedule_request(status.schedule)
        envelope = request.envelope
        id = envelope.schedule_id or ""
        about = message_json(envelope, id)
        own = {
            "scheduleId": id,
            "destination": request.destination,
            "cron": request.cron,
            "createdAt": status.created_at,
            "isPaused": status.paused,
            "retries": envelope.retries,
            "body": about.get("body") or None,
            "delay": (envelope.not_before - envelope.created_at) // 1000 or None,
            "lastScheduleTime": status.last_at,
            "nextScheduleTime": None if status.paused else status.next_at,
            "error": status.error,
        }
        return cls.model_validate({**about, **own})


@router.get("", summary="The schedules, by id", response_model_exclude_none=True)
async def list_schedules(context: Context, tenant: Tenant) -> list[ScheduleJson]:
    """All of them."""
    return [ScheduleJson.of(it) async for it in _schedules(context, tenant)]


@router.get("/{id}", summary="A schedule", response_model_exclude_none=True)
async def get_schedule(context: Context, tenant: Tenant, id: str) -> ScheduleJson:
    """With the times of its latest and its next fire."""
    return ScheduleJson.of(await _schedule(context, tenant, id))


@router.delete("/{id}", summary="Delete a schedule", response_class=Response)
async def delete_schedule(context: Context, tenant: Tenant, id: str) -> Response:
    """The messages that it has published are delivered."""
    if not await context.store.delete_schedule(stored_schedule_id(tenant, id)):
        raise _not_found(id)
    return Response()


@router.post("/{id}/pause", summary="Pause a schedule", response_class=Response)
@router.patch("/{id}/pause", summary="Pause a schedule", response_class=Response)
async def pause_schedule(context: Context, tenant: Tenant, id: str) -> Response:
    """It publishes nothing until it is resumed. Safe to repeat."""
    await _schedule(context, tenant, id)
    await context.store.pause_schedule(stored_schedule_id(tenant, id))
    return Response()


@router.post("/{id}/resume", summary="Resume a schedule", response_class=Response)
@router.patch("/{id}/resume", summary="Resume a schedule", response_class=Response)
async def resume_schedule(context: Context, tenant: Tenant, id: str) -> Response:
    """It fires from its next time on; what the pause has left out is not made up for. Safe to repeat."""
    status = await _schedule(context, tenant, id)
    await context.store.resume_schedule(status.id, status.schedule.cron.next_after(context.now()))
    context.engine.wake_schedules()
    return Response()


# After the routes above, whose paths it takes too.
@router.post(
    "/{destination:path}", summary="Make a schedule, or replace the one with its id", openapi_extra=_DOCUMENTED
)
async def create_schedule(context: Context, tenant: Tenant, request: Request) -> ScheduleCreated:
    """`Upstash-Cron` is the cron expression; all other headers and the body are those of a publish request.

    `Upstash-Schedule-Id` names the schedule. One that is replaced keeps its pause.
    """
    path = raw_path(request.scope).removeprefix(f"{router.prefix}/")
    asked = await read_publish(request.scope, request.receive, path, context.now())
    return ScheduleCreated(schedule_id=await make_schedule(context, asked))


async def _schedule(context: ServerContext, tenant: str, id: str) -> ScheduleStatus:
    found = await context.store.schedule(stored_schedule_id(tenant, id))
    if found is None:
        raise _not_found(id)
    return found


async def _schedules(context: ServerContext, tenant: str) -> AsyncIterator[ScheduleStatus]:
    # They are in the order of their ids, of which those of a tenant have the same beginning.
    prefix = after = stored_schedule_id(tenant, "")
    while page := await context.store.schedules(after=after, limit=_PAGE):
        after = page[-1].id
        for status in page:
            if not status.id.startswith(prefix):
                return
            yield status


def _not_found(id: str) -> NotFoundError:
    return NotFoundError(f"there is no schedule '{id}'; make it with POST /v2/schedules")
