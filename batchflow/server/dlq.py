"""The routes of the DLQ: list, show, delete and retry messages whose attempts are used up."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from fastapi import APIRouter, Request, Response

from batchflow.core.dead_letters import DeadLetter
from batchflow.core.posts import Post
from batchflow.errors import InputError
from batchflow.server.context import Context, ServerContext, Tenant
from batchflow.server.dlq_entries import DLQ_FILTERS, find_entries, found_letter, is_of_run, present_entry
from batchflow.server.filters import Filters, body_filters, filter_parameters
from batchflow.server.overrides import overrides_of
from batchflow.server.raw_request import read_body
from batchflow.server.wire_model import WireModel
from batchflow.wire.envelope import Envelope
from batchflow.wire.publish import PublishRequest, posts_of

router = APIRouter(prefix="/v2/dlq", tags=["DLQ"])

_PARAMETERS = filter_parameters(DLQ_FILTERS)


class DlqPage(WireModel):
    """Entries of the DLQ, the newest first; `cursor` is that of the next page, if there is one."""

    messages: list[dict[str, Any]]
    cursor: str | None = None


class DlqDeleted(WireModel):
    """The number of entries that were deleted; with `cursor` there may be more."""

    deleted: int
    cursor: str | None = None


class RetriedMessage(WireModel):
    """The message that a retry has published."""

    message_id: str


class DlqRetried(WireModel):
    """The messages that a retry has published; with `cursor` there may be more entries."""

    responses: list[RetriedMessage]
    cursor: str | None = None


@router.get("", summary="Entries of the DLQ", openapi_extra=_PARAMETERS, response_model_exclude_none=True)
async def list_entries(context: Context, tenant: Tenant, request: Request) -> DlqPage:
    """The newest first. All filters have to match."""
    found = await find_entries(context, tenant, Filters(request, DLQ_FILTERS))
    return DlqPage(messages=found.entries, cursor=found.cursor)


@router.get("/{id}", summary="An entry of the DLQ")
async def get_entry(context: Context, tenant: Tenant, id: str) -> dict[str, Any]:
    """The message and its last response."""
    _, entry = await present_entry(context, tenant, id)
    return entry


@router.delete("", summary="Delete entries", openapi_extra=_PARAMETERS, response_model_exclude_none=True)
async def delete_entries(context: Context, tenant: Tenant, request: Request) -> DlqDeleted:
    """Those that match, or those with the `dlqIds` of a JSON body; without filters all, a page with each request."""
    sent = await read_body(request.scope, request.receive)
    found = await find_entries(context, tenant, Filters(request, DLQ_FILTERS, body_filters(sent, "dlqIds")))
    deleted = await asyncio.gather(*(context.store.delete_dead_letter(id) for id in found.ids))
    return DlqDeleted(deleted=sum(deleted), cursor=found.cursor)


@router.delete("/{id}", summary="Delete an entry", response_class=Response)
async def delete_entry(context: Context, tenant: Tenant, id: str) -> Response:
    """Its message stays in the log."""
    await present_entry(context, tenant, id)
    await context.store.delete_dead_letter(id)
    return Response()


@router.post(
    "/retry", summary="Retry entries", status_code=201, openapi_extra=_PARAMETERS, response_model_exclude_none=True
)
async def retry_entries(context: Context, tenant: Tenant, request: Request) -> DlqRetried:
    """Each is published as a new message, and deleted here. `Upstash-*` headers change the new messages.

    Those of workflow runs are passed over: their runs can be resumed or restarted.
    """
    found = await find_entries(context, tenant, Filters(request, DLQ_FILTERS), of_runs=False)
    letters = await asyncio.gather(*(found_letter(context, tenant, id) for id in found.ids))
    ids = await _retry(context, [it for it in letters if it is not None], request)
    return DlqRetried(responses=[RetriedMessage(message_id=id) for id in ids], cursor=found.cursor)


@router.post("/retry/{id}", summary="Retry an entry", status_code=201)
async def retry_entry(context: Context, tenant: Tenant, id: str, request: Request) -> RetriedMessage:
    """It is published as a new message, and deleted here. `Upstash-*` headers change the new message."""
    letter, entry = await present_entry(context, tenant, id)
    if is_of_run(entry):
        way = f"POST /v2/workflows/dlq/resume/{id} or /v2/workflows/dlq/restart/{id}"
        raise InputError(f"the entry '{id}' is that of a workflow run, which goes on with {way}", status=400)
    (new_id,) = await _retry(context, [letter], request)
    return RetriedMessage(message_id=new_id)


async def _retry(context: ServerContext, letters: Sequence[DeadLetter], request: Request) -> list[str]:
    """Publish the messages of entries anew, all or none, and delete the entries; returns the new ids."""
    posts = [post for it in letters for post in _posts_again(it, request, context.now())]
    posted = await context.post(posts)
    await asyncio.gather(*(context.store.delete_dead_letter(it.id) for it in letters))
    return [it.id for it in posted]


def _posts_again(letter: DeadLetter, request: Request, now: int) -> list[Post]:
    """The post of a retry at `now`."""
    envelope = Envelope.of_text(letter.message.body)
    given, changes = overrides_of(request, envelope, now)
    forwarded = {name.lower() for name, _ in given.headers}
    kept = tuple(pair for pair in envelope.headers if pair[0].lower() not in forwarded)
    fields: dict[str, Any] = {"created_at": now, "not_before": now, **changes, "headers": (*kept, *given.headers)}
    again = PublishRequest(destination=envelope.topic or envelope.url, envelope=replace(envelope, **fields))
    # It follows from that of the entry: of two retries at the same time one publishes.
    id = f"msg_{sha256(f'retry of {letter.id}'.encode()).hexdigest()[:32]}"
    return posts_of(again, lambda: id, [(envelope.url, envelope.endpoint)])
