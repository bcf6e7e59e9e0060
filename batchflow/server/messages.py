"""The routes of messages: show one, cancel one, cancel several."""

from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter, Request, Response
from more_itertools import chunked
from pydantic_core import from_json

from batchflow.core.posts import LogEntry, LogState
from batchflow.core.wire_store import Posts
from batchflow.errors import NotFoundError
from batchflow.server.context import Context, Tenant
from batchflow.server.filters import DATE_FILTERS, MESSAGE_FILTERS, Filters, body_filters, filter_parameters
from batchflow.server.wire_model import WireModel

router = APIRouter(prefix="/v2/messages", tags=["messages"])

_PAGE = 100
_NO_LIMIT = 2**53
_FILTERS = {**MESSAGE_FILTERS, **DATE_FILTERS, "count": "the largest number of messages to cancel"}
_CANCELLED: frozenset[LogState] = frozenset({"CANCEL_REQUESTED", "CANCELED"})


class Cancelled(WireModel):
    """The number of messages that were cancelled."""

    cancelled: int


@router.get("/{id}", summary="A message")
async def get_message(context: Context, tenant: Tenant, id: str) -> Response:
    """A message that has ended is shown until its log is pruned; one that was cancelled is not found."""
    created = (await context.wire.created_entries(tenant, [id])).get(id)
    if created is None:
        raise _not_found(id)
    latest = await context.wire.log_entries(tenant, message=id, limit=1)
    if latest and latest[0].entry.state in _CANCELLED:
        raise NotFoundError(f"the message '{id}' was cancelled")
    return Response(created.detail, media_type="application/json")


@router.delete("/{id}", summary="Cancel a message")
async def cancel_message(context: Context, tenant: Tenant, id: str) -> Cancelled:
    """Nothing is delivered any more; a delivery that is under way goes on. One that has ended is not found."""
    if not await context.wire.cancel_posts(tenant, [id]):
        if id in await context.wire.created_entries(tenant, [id]):
            raise NotFoundError(f"the message '{id}' has ended already, so it cannot be cancelled")
        raise _not_found(id)
    return Cancelled(cancelled=1)


@router.delete("", summary="Cancel messages", openapi_extra=filter_parameters(_FILTERS))
async def cancel_messages(context: Context, tenant: Tenant, request: Request) -> Cancelled:
    """All that match the filters, of which those of the query may also be in a JSON body; without filters, all.

    Messages that are unknown or have ended are passed over.
    """
    filters = Filters(request, _FILTERS, body_filters(await request.body(), "messageIds"))
    left = filters.number("count", least=1) or _NO_LIMIT
    cancelled = 0
    async for page in _select(context.wire, tenant, filters):
        found = await context.wire.cancel_posts(tenant, page[:left])
        cancelled += len(found)
        left -= len(found)
        if left == 0:
            break
    return Cancelled(cancelled=cancelled)


async def _select(posts: Posts, tenant: str, filters: Filters) -> AsyncIterator[Sequence[str]]:
    """The ids of the messages that match, in pages; some may have ended."""
    if "messageIds" in filters:
        ids = dict.fromkeys(filters.all("messageIds"))
        for part in chunked(ids, _PAGE):
            created = await posts.created_entries(tenant, part)
            yield [id for id in part if id in created and _matches(created[id], filters)]
        return
    after = 0
    while page := await posts.open_posts(tenant, after=after, limit=_PAGE):
        after = page[-1].key
        yield [it.entry.message for it in page if _matches(it.entry, filters)]


def _matches(created: LogEntry, filters: Filters) -> bool:
    return filters.covers(created.at) and filters.matches(from_json(created.detail))


def _not_found(id: str) -> NotFoundError:
    return NotFoundError(f"there is no message '{id}'; its log may have been pruned")
