"""The routes of queues: make and change, list, show, delete, pause, resume."""

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field

from batchflow.core.posts import Queue
from batchflow.errors import NotFoundError
from batchflow.server.context import Context, ServerContext, Tenant
from batchflow.server.wire_model import WireModel
from batchflow.wire.publish_headers import check_name

router = APIRouter(prefix="/v2/queues", tags=["queues"])


class QueueRequest(WireModel):
    """A queue to make or to change; what is left out stays, and is 1 and not paused for a new one."""

    queue_name: str
    parallelism: Annotated[int, Field(ge=1, le=999_999_999)] | None = None
    paused: bool | None = None


class QueueInfo(WireModel):
    """A queue. `lag` is the number of its messages that have not ended. Times are in ms."""

    name: str
    parallelism: int
    created_at: int
    updated_at: int
    lag: int
    paused: bool

    @classmethod
    def of(cls, queue: Queue) -> "QueueInfo":
        """The JSON of a queue."""
        return cls.model_validate(queue, from_attributes=True)


@router.post("", summary="Make or change a queue", response_class=Response)
async def put_queue(context: Context, tenant: Tenant, request: QueueRequest) -> Response:
    """More parallelism is in force at once. Safe to repeat."""
    name = check_name(request.queue_name, "queueName")
    await context.wire.put_queue(tenant, name, parallelism=request.parallelism, paused=request.paused)
    return Response()


@router.get("", summary="The queues, by name")
async def list_queues(context: Context, tenant: Tenant) -> list[QueueInfo]:
    """All of them."""
    return [QueueInfo.of(it) for it in await context.wire.queues(tenant)]


@router.get("/{name}", summary="A queue")
async def get_queue(context: Context, tenant: Tenant, name: str) -> QueueInfo:
    """With the number of its messages."""
    return QueueInfo.of(await _queue(context, tenant, name))


@router.delete("/{name}", summary="Delete a queue", response_class=Response)
async def delete_queue(context: Context, tenant: Tenant, name: str) -> Response:
    """Its messages that wait are cancelled, those under way end as usual."""
    if not await context.wire.drop_queue(tenant, name):
        raise _not_found(name)
    return Response()


@router.post("/{name}/pause", summary="Pause a queue", response_class=Response)
async def pause_queue(context: Context, tenant: Tenant, name: str) -> Response:
    """It accepts messages, and delivers none until it is resumed; those under way go on. Safe to repeat."""
    await _queue(context, tenant, name)
    await context.wire.put_queue(tenant, name, paused=True)
    return Response()


@router.post("/{name}/resume", summary="Resume a queue", response_class=Response)
async def resume_queue(context: Context, tenant: Tenant, name: str) -> Response:
    """Safe to repeat."""
    await _queue(context, tenant, name)
    await context.wire.put_queue(tenant, name, paused=False)
    return Response()


async def _queue(context: ServerContext, tenant: str, name: str) -> Queue:
    found = await context.wire.queue(tenant, name)
    if found is None:
        raise _not_found(name)
    return found


def _not_found(name: str) -> NotFoundError:
    return NotFoundError(f"there is no queue '{name}'; make it with POST /v2/queues")
