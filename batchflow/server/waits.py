"""The routes of events: wait for one as a step of a workflow run, notify, show the runs that wait."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Path, Request
from pydantic_core import from_json

from batchflow.core.wire_runs import MAX_ENTRIES_SIZE, EventWait
from batchflow.errors import InputError, TooLarge
from batchflow.server.context import NO_ROOM, Context, ServerContext, Tenant, refused_by_run
from batchflow.server.raw_request import raw_path, read_body
from batchflow.server.wire_model import WireModel
from batchflow.wire.run_entries import event_tail
from batchflow.wire.run_posts import wait_post, waiting_run

router = APIRouter(tags=["workflow events"])

_NOTIFY = "/v2/notify/"
_DATA: dict[str, Any] = {
    "requestBody": {
        "description": "the data of the event, as it is",
        "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_TEXT = {"type": "string"}
_WAIT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "url": _TEXT,
                        "timeout": _TEXT,
                        "timeoutUrl": _TEXT,
                        "timeoutHeaders": {"type": "object"},
                        "step": {"type": "object"},
                    },
                    "required": ["timeoutHeaders", "step"],
                }
            }
        },
    }
}

_Event = Annotated[str, Path(description="the name of the event")]


class WaitAdded(WireModel):
    """The message that is delivered when the event comes, or the time is over."""

    message_id: str


class WaiterJson(WireModel):
    """A run that waits. `deadline` is in seconds."""

    url: str
    deadline: int
    headers: Mapping[str, Sequence[str]] = {}
    timeout_url: str | None = None
    timeout_headers: Mapping[str, Sequence[str]] | None = None

    @classmethod
    def of(cls, wait: EventWait) -> "WaiterJson":
        """The JSON of a wait."""
        return cls.model_validate({**from_json(wait.about), "deadline": wait.due // 1000})


class NotifiedWaiter(WireModel):
    """A run that has got the event, with the message that is delivered for it; `error` is empty."""

    waiter: WaiterJson
    message_id: str
    workflow_run_id: str
    workflow_created_at: int
    error: str = ""

    @classmethod
    def of(cls, wait: EventWait) -> "NotifiedWaiter":
        """The JSON of a wait that has ended with the event."""
        return cls(
            waiter=WaiterJson.of(wait),
            message_id=wait.message,
            workflow_run_id=wait.run,
            workflow_created_at=wait.created_at,
        )


@router.post(
    "/v2/wait/{event:path}",
    summary="Wait for an event in a workflow run",
    status_code=201,
    responses=NO_ROOM,
    openapi_extra=_WAIT,
)
async def wait_for_event(context: Context, tenant: Tenant, request: Request, event: _Event) -> WaitAdded:
    """The endpoint of a run sends it as a step, in the form of the SDKs. An event that was kept for the run comes at
    once.
    """
    body = await read_body(request.scope, request.receive)
    id, created_at = waiting_run(body)
    run = await context.wire.wire_run(tenant, id)
    if run is None or created_at not in (None, run.created_at):
        raise refused_by_run("ended")
    post = wait_post(_named(event), body, run, now=context.now(), new_id=context.new_message_id)
    [posted] = await context.post([post])
    return WaitAdded(message_id=posted.id)


@router.post(
    "/v2/notify/{event}", summary="Notify all that wait", openapi_extra=_DATA, response_model_exclude_none=True
)
async def notify(context: Context, tenant: Tenant, request: Request, event: _Event) -> list[NotifiedWaiter]:
    """All runs that wait for the event go on, with the body as its data. Without one that waits it is lost."""
    return await _notify(context, tenant, request, event)


@router.post(
    "/v2/notify/{run}/{event:path}",
    summary="Notify a workflow run",
    openapi_extra=_DATA,
    response_model_exclude_none=True,
)
async def notify_run(
    context: Context, tenant: Tenant, request: Request, run: str, event: _Event
) -> list[NotifiedWaiter]:
    """The event is kept until the run waits for it, or ends. Nothing happens if the run is unknown or has ended."""
    sent_run, slash, sent_event = raw_path(request.scope).removeprefix(_NOTIFY).partition("/")
    if not slash or await context.wire.wire_run(tenant, unquote(sent_run)) is None:
        # The name of an event may have a slash, and SDKs do not encode it.
        return await _notify(context, tenant, request, f"{run}/{event}")
    return await _notify(context, tenant, request, unquote(sent_event), unquote(sent_run))


@router.get("/v2/waiters/{event:path}", summary="The runs that wait for an event", response_model_exclude_none=True)
async def list_waiters(context: Context, tenant: Tenant, event: _Event) -> list[WaiterJson]:
    """Those that have waited longest first."""
    return [WaiterJson.of(it) for it in await context.wire.event_waits(tenant, _named(event))]


def event_text(data: bytes) -> str:
    """The end of the entries that get an event with this data.

    Raises:
        TooLarge: no run has room for it.
    """
    tail = event_tail(data)
    if len(tail) > MAX_ENTRIES_SIZE:
        most = MAX_ENTRIES_SIZE // 2**20
        raise TooLarge(f"the event is larger than a run may become, which is {most} MiB in base64; send a URL instead")
    return tail


async def _notify(
    context: ServerContext, tenant: str, request: Request, event: str, run: str | None = None
) -> list[NotifiedWaiter]:
    tail = event_text(await read_body(request.scope, request.receive))
    context.engine.wake()
    return [NotifiedWaiter.of(it) for it in await context.wire.notify_event(tenant, _named(event), tail, run)]


def _named(event: str) -> str:
    if not event:
        raise InputError("the name of the event is missing; write it at the end of the path", field="event", status=400)
    return event
