"""The routes of the DLQ: list, show, delete and retry messages whose attempts are used up."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, NamedTuple

from fastapi import APIRouter, Request, Response
from pydantic_core import from_json, to_json

from batchflow.core.dead_letters import DeadLetter, DeadLetterQuery
from batchflow.core.posts import PUSH_DESTINATION, Post
from batchflow.errors import InputError, NotFoundError
from batchflow.server.context import Context, ServerContext, Tenant
from batchflow.server.filters import DATE_FILTERS, POST_FILTERS, Filters, body_filters, filter_parameters
from batchflow.server.raw_request import header_pairs, read_body
from batchflow.server.wire_model import WireModel
from batchflow.wire.envelope import Envelope
from batchflow.wire.messages import message_json
from batchflow.wire.publish import PublishRequest, parse_publish, posts_of

router = APIRouter(prefix="/v2/dlq", tags=["DLQ"])

_MAX_COUNT = 100
_MAX_CHARS = 8_000_000
# A page with more ends before its count: the descriptions of messages have their bodies.
_PAGE = 100
_FILTERS: Mapping[str, str] = {
    **POST_FILTERS,
    **DATE_FILTERS,
    "dlqIds": "the ids of entries",
    "responseStatus": "the status of the last response",
    "count": f"the largest number of entries, at most {_MAX_COUNT}",
    "cursor": "the cursor of the page before",
}
_WORKFLOW_FILTERS = ("source", "workflowUrl", "workflowRunId", "workflowCreatedAt", "failureFunctionState")
_PARAMETERS = filter_parameters(_FILTERS)
# The fields of an envelope that a header of a retry request takes the place of.
_OVERRIDES: Mapping[str, tuple[str, ...]] = {
    "upstash-method": ("method",),
    "upstash-retries": ("retries",),
    "upstash-retry-delay": ("retry_delay",),
    "upstash-timeout": ("timeout_ms",),
    "upstash-delay": ("not_before",),
    "upstash-not-before": ("not_before",),
    "upstash-callback": ("callback",),
    "upstash-failure-callback": ("failure_callback",),
    "upstash-flow-control-key": ("flow_key", "parallelism", "rate", "period_s"),
    "upstash-label": ("labels",),
    "upstash-redact-fields": ("redact",),
}


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


class _Found(NamedTuple):
    """Entries, and the cursor of the next ones."""

    entries: list[dict[str, Any]]
    cursor: str | None = None

    @property
    def ids(self) -> list[str]:
        return [it["dlqId"] for it in self.entries]


@router.get("", summary="Entries of the DLQ", openapi_extra=_PARAMETERS, response_model_exclude_none=True)
async def list_entries(context: Context, tenant: Tenant, request: Request) -> DlqPage:
    """The newest first. All filters have to match."""
    found = await _find(context, tenant, _filters(request))
    return DlqPage(messages=found.entries, cursor=found.cursor)


@router.get("/{id}", summary="An entry of the DLQ")
async def get_entry(context: Context, tenant: Tenant, id: str) -> dict[str, Any]:
    """The message and its last response."""
    _, entry = await _present(context, tenant, id)
    return entry


@router.delete("", summary="Delete entries", openapi_extra=_PARAMETERS, response_model_exclude_none=True)
async def delete_entries(context: Context, tenant: Tenant, request: Request) -> DlqDeleted:
    """Those that match, or those with the `dlqIds` of a JSON body; without filters all, a page with each request."""
    sent = await read_body(request.scope, request.receive)
    found = await _find(context, tenant, _filters(request, sent))
    deleted = await asyncio.gather(*(context.store.delete_dead_letter(id) for id in found.ids))
    return DlqDeleted(deleted=sum(deleted), cursor=found.cursor)


@router.delete("/{id}", summary="Delete an entry", response_class=Response)
async def delete_entry(context: Context, tenant: Tenant, id: str) -> Response:
    """Its message stays in the log."""
    await _present(context, tenant, id)
    await context.store.delete_dead_letter(id)
    return Response()


@router.post(
    "/retry", summary="Retry entries", status_code=201, openapi_extra=_PARAMETERS, response_model_exclude_none=True
)
async def retry_entries(context: Context, tenant: Tenant, request: Request) -> DlqRetried:
    """Each is published as a new message, and deleted here. `Upstash-*` headers change the new messages."""
    found = await _find(context, tenant, _filters(request))
    letters = await asyncio.gather(*(_found_letter(context, tenant, id) for id in found.ids))
    ids = await _retry(context, [it for it in letters if it is not None], request)
    return DlqRetried(responses=[RetriedMessage(message_id=id) for id in ids], cursor=found.cursor)


@router.post("/retry/{id}", summary="Retry an entry", status_code=201)
async def retry_entry(context: Context, tenant: Tenant, id: str, request: Request) -> RetriedMessage:
    """It is published as a new message, and deleted here. `Upstash-*` headers change the new message."""
    letter, _ = await _present(context, tenant, id)
    (new_id,) = await _retry(context, [letter], request)
    return RetriedMessage(message_id=new_id)


def _filters(request: Request, sent: bytes = b"") -> Filters:
    return Filters(request, (*_FILTERS, *_WORKFLOW_FILTERS), body_filters(sent, "dlqIds"))


async def _find(context: ServerContext, tenant: str, filters: Filters) -> _Found:
    """The newest entries that match."""
    found: list[dict[str, Any]] = []
    if any(name in filters for name in _WORKFLOW_FILTERS):
        # There are no workflow runs yet.
        return _Found(found)
    most, statuses, last = filters.count(_MAX_COUNT), filters.all("responseStatus"), ""
    chars = 0
    async for at, id, description in _candidates(context, tenant, filters):
        if not (filters.covers(at) and filters.matches(from_json(description))):
            continue
        entry = await _entry(context, tenant, id, description)
        if entry is None or (statuses and str(entry["responseStatus"]) not in statuses):
            continue
        if len(found) == most or chars > _MAX_CHARS:
            return _Found(found, last)
        found.append(entry)
        chars += len(description)
        last = f"{at}-{id}"
    return _Found(found)


async def _candidates(context: ServerContext, tenant: str, filters: Filters) -> AsyncIterator[tuple[int, str, str]]:
    """The times of death, ids and descriptions of messages of which some filters may not match, the newest first."""
    if "dlqIds" in filters:
        for id in dict.fromkeys(filters.all("dlqIds")):
            if (letter := await _found_letter(context, tenant, id)) is not None:
                yield letter.died_at, id, _description(letter)
        return
    last = filters.number("toDate")
    query = DeadLetterQuery(
        destination=PUSH_DESTINATION,
        label=tenant,
        since=filters.number("fromDate"),
        until=None if last is None else last + 1,
    )
    before = _read_cursor(filters.one("cursor"))
    while page := await context.store.dead_letters(query, _PAGE, before):
        before = page[-1].died_at, page[-1].id
        created = await context.wire.created_entries(tenant, [it.id for it in page])
        for letter in page:
            if (entry := created.get(letter.id)) is not None:
                yield letter.died_at, letter.id, entry.detail
            elif (whole := await _found_letter(context, tenant, letter.id)) is not None:
                # The log does not go back so far.
                yield whole.died_at, whole.id, _description(whole)


def _read_cursor(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    at, _, id = text.partition("-")
    if not (at.isascii() and at.isdigit() and len(at) < 17 and id):
        raise InputError(
            "'cursor' is not one of this list; send the one of the page before", field="cursor", status=400
        )
    return int(at), id


async def _entry(context: ServerContext, tenant: str, id: str, description: str) -> dict[str, Any] | None:
    """The JSON of an entry: the message, and the response of its last attempt.

    None while the log does not have its end. A message that died with its workers gets it from a worker: that one also
    publishes the failure callback and leaves the queue, and needs the dead letter for it.
    """
    logged = await context.wire.log_entries(tenant, message=id, limit=_PAGE)
    details = [it.entry.detail for it in logged if it.entry.state == "FAILED"]
    if logged and not details:
        return None
    failed: Mapping[str, Any] = from_json(details[0]) if details else {}
    response = {name: value for name, value in failed.items() if name.startswith("response")}
    return {**from_json(description), "dlqId": id, "responseStatus": 503, **response}


async def _found_letter(context: ServerContext, tenant: str, id: str) -> DeadLetter | None:
    found = await context.store.dead_letter(id)
    if found is None or found.message.destination != PUSH_DESTINATION or found.message.label != tenant:
        return None
    return found


async def _present(context: ServerContext, tenant: str, id: str) -> tuple[DeadLetter, dict[str, Any]]:
    """An entry, with its JSON.

    Raises:
        NotFoundError: it does not exist.
    """
    letter = await _found_letter(context, tenant, id)
    entry = None if letter is None else await _entry(context, tenant, id, _description(letter))
    if letter is None or entry is None:
        raise NotFoundError(f"there is no entry '{id}' in the DLQ; it may have been retried or deleted")
    return letter, entry


def _description(letter: DeadLetter) -> str:
    return to_json(message_json(Envelope.of_text(letter.message.body), letter.id)).decode()


async def _retry(context: ServerContext, letters: Sequence[DeadLetter], request: Request) -> list[str]:
    """Publish the messages of entries anew, all or none, and delete the entries; returns the new ids."""
    posts = [post for it in letters for post in _posts_again(it, request, context.now())]
    posted = await context.post(posts)
    await asyncio.gather(*(context.store.delete_dead_letter(it.id) for it in letters))
    return [it.id for it in posted]


def _posts_again(letter: DeadLetter, request: Request, now: int) -> list[Post]:
    """The post of a retry at `now`."""
    envelope = _overridden(Envelope.of_text(letter.message.body), request, now)
    again = PublishRequest(destination=envelope.topic or envelope.url, envelope=envelope)
    # It follows from that of the entry: of two retries at the same time one publishes.
    id = f"msg_{sha256(f'retry of {letter.id}'.encode()).hexdigest()[:32]}"
    return posts_of(again, lambda: id, [(envelope.url, envelope.endpoint)])


def _overridden(envelope: Envelope, request: Request, now: int) -> Envelope:
    """The envelope of a retry at `now`, with what the headers of its request change."""
    headers = header_pairs(request.scope)
    given = parse_publish(envelope.url, headers, b"", tenant=envelope.tenant, now=now, queue=envelope.queue).envelope
    names = {field for name, fields in _OVERRIDES.items() if name in request.headers for field in fields}
    forwarded = {name.lower() for name, _ in given.headers}
    kept = tuple(pair for pair in envelope.headers if pair[0].lower() not in forwarded)
    changes: dict[str, Any] = {name: getattr(given, name) for name in names}
    return replace(envelope, **{"created_at": now, "not_before": now, **changes, "headers": (*kept, *given.headers)})
