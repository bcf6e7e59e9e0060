"""The routes of workflow runs: show the steps of one, end one, cancel several."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from more_itertools import chunked

from batchflow.core.posts import Post
from batchflow.core.settlement import EndRun
from batchflow.core.wire_runs import MAX_ENTRIES_SIZE, AddEntry, WireRun, WireRunState
from batchflow.engine.push_runs import invoker_posts
from batchflow.errors import InputError, NotFoundError
from batchflow.server.context import NO_ROOM, Context, ServerContext, Tenant, refused_by_run
from batchflow.server.filters import DATE_FILTERS, Filters, body_filters, filter_parameters
from batchflow.server.raw_request import read_body
from batchflow.server.wire_model import WireModel
from batchflow.wire.run_config import RunConfig
from batchflow.wire.run_entries import steps_array

router = APIRouter(prefix="/v2/workflows/runs", tags=["workflow runs"])

_PAGE = 100
_NO_LIMIT = 2**53
_CREATED_AT = "Upstash-Workflow-CreatedAt"
_FILTERS: Mapping[str, str] = {
    "workflowRunIds": "the ids of the runs",
    "workflowUrl": "the URL of the workflow, or its beginning",
    "workflowUrlExactMatch": "true: 'workflowUrl' is the whole URL",
    "label": "one of the labels",
    "callerIp": "the address of the sender of the first request",
    "flowControlKey": "the flow-control key",
    **DATE_FILTERS,
    "count": "the largest number of runs to cancel",
}
_STEP = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("messageId", "body", "callType")},
    "required": ["messageId", "body", "callType"],
}
_STEPS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"schema": {"type": "array", "items": _STEP}}}}
}
_ENDING: dict[str, Any] = {
    "parameters": [
        {
            "name": _CREATED_AT,
            "in": "header",
            "description": "the time in ms at which the run began: one of this id that began at another time goes on",
            "schema": {"type": "integer"},
        }
    ],
    "requestBody": {
        "description": "the JSON of the result, for a run that succeeds",
        "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
    },
}


class RunsCancelled(WireModel):
    """The number of runs that were cancelled."""

    cancelled: int


@router.get("/{id}", summary="The steps of a workflow run", response_class=Response, responses=_STEPS)
async def get_steps(context: Context, tenant: Tenant, id: str) -> Response:
    """All of them, as they are delivered to its endpoint. A run that has ended is not found."""
    run = await context.wire.wire_run(tenant, id)
    if run is None:
        raise NotFoundError(f"there is no workflow run '{id}'")
    if run.state != "RUN_STARTED":
        raise NotFoundError(f"the workflow run '{id}' has ended")
    return Response(steps_array(await context.wire.run_entries(tenant, id)), media_type="application/json")


@router.delete("/{id}", summary="End a workflow run", response_class=Response, responses=NO_ROOM, openapi_extra=_ENDING)
async def end_run(context: Context, tenant: Tenant, request: Request, id: str, cancel: bool = True) -> Response:
    """It is cancelled, or with `cancel=false` it has succeeded, with the body as its result.

    Nothing is delivered for it any more. Nothing happens if it is unknown or has ended.
    """
    result = None if cancel else await _read_result(request)
    run, created_at = await context.wire.wire_run(tenant, id), _read_created_at(request)
    if run is not None and created_at in (None, run.created_at):
        await _end(context, run, "RUN_CANCELED" if cancel else "RUN_SUCCESS", result)
    return Response()


@router.delete("", summary="Cancel workflow runs", openapi_extra=filter_parameters(_FILTERS))
async def cancel_runs(context: Context, tenant: Tenant, request: Request) -> RunsCancelled:
    """All that match the filters, of which those of the query may also be in a JSON body; without filters, all.

    Runs that are unknown or have ended are passed over.
    """
    sent = await read_body(request.scope, request.receive)
    filters = Filters(request, _FILTERS, body_filters(sent, "workflowRunIds"))
    exact = _read_exact(filters)
    left = filters.number("count", least=1) or _NO_LIMIT
    cancelled = 0
    async for page in _select(context, tenant, filters, exact):
        ended = await asyncio.gather(*(_end(context, run, "RUN_CANCELED") for run in page[:left]))
        cancelled += sum(ended)
        left -= sum(ended)
        if left == 0:
            break
    return RunsCancelled(cancelled=cancelled)


async def _end(context: ServerContext, run: WireRun, state: WireRunState, result: str | None = None) -> bool:
    """End a run, and tell the run that waits for it; False if it has ended already."""
    if run.state != "RUN_STARTED":
        return False
    now, new_id = context.now(), context.new_message_id
    posts = await invoker_posts(context.wire, run, state, result, now=now, new_id=new_id)
    if state == "RUN_SUCCESS":
        await _check_room(context, posts)
    context.engine.wake()
    return await context.wire.end_run(EndRun(run.tenant, run.id, state, result, posts, run.created_at))


async def _check_room(context: ServerContext, posts: Sequence[Post]) -> None:
    """Refuse a result for which the run that waits for it has no room, so that its deliveries do not grow without end.

    Any other end is told to it for all that.
    """
    for post in posts:
        invoker = None if post.link is None else await context.wire.wire_run(post.tenant, post.link.run)
        if invoker is None or not isinstance(post.link, AddEntry) or invoker.state != "RUN_STARTED":
            continue
        if invoker.size + len(post.link.body.text) > MAX_ENTRIES_SIZE:
            sentence = "the run that waits for this one has no room for its result; return where to find it instead"
            raise InputError(sentence, status=412)


async def _select(
    context: ServerContext, tenant: str, filters: Filters, exact: bool
) -> AsyncIterator[Sequence[WireRun]]:
    """The runs that match and have not ended, in pages."""
    if "workflowRunIds" in filters:
        for part in chunked(dict.fromkeys(filters.all("workflowRunIds")), _PAGE):
            found = await asyncio.gather(*(context.wire.wire_run(tenant, id) for id in part))
            yield [run for run in found if run is not None and _matches(run, filters, exact)]
        return
    before: tuple[int, str] | None = None
    while page := await context.wire.wire_runs(tenant, before=before, limit=_PAGE):
        before = page[-1].created_at, page[-1].id
        yield [run for run in page if _matches(run, filters, exact)]


def _matches(run: WireRun, filters: Filters, exact: bool) -> bool:
    if run.state != "RUN_STARTED" or not filters.covers(run.created_at):
        return False
    urls = filters.all("workflowUrl")
    if "workflowUrl" in filters and not any(run.url == it if exact else run.url.startswith(it) for it in urls if it):
        return False
    config = RunConfig.of_text(run.config)
    return filters.matches({"labels": config.labels, "flowControlKey": config.flow_key, "callerIP": config.caller_ip})


def _read_exact(filters: Filters) -> bool:
    if "workflowUrlExactMatch" not in filters:
        return False
    text = filters.one("workflowUrlExactMatch") or ""
    if text not in ("true", "false"):
        raise InputError(
            option="workflowUrlExactMatch",
            got=repr(text[:60]),
            want="write true or false",
            field="workflowUrlExactMatch",
            status=400,
        )
    return text == "true"


async def _read_result(request: Request) -> str | None:
    body = await read_body(request.scope, request.receive)
    if len(body) > MAX_ENTRIES_SIZE:
        raise refused_by_run("full")
    return body.decode(errors="replace") if body else None


def _read_created_at(request: Request) -> int | None:
    text = request.headers.get(_CREATED_AT)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 17):
        raise InputError(
            option=_CREATED_AT,
            got=repr(text[:60]),
            want="write the time in ms at which the run began",
            field=_CREATED_AT,
            status=400,
        )
    return int(text)
