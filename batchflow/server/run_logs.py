"""The routes of the log of workflow runs: what became of their steps."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from fastapi import APIRouter, Request, Response
from more_itertools import chunked
from pydantic_core import from_json, to_json

from batchflow.core.suggestions import did_you_mean
from batchflow.core.wire_runs import WireRun, WireRunState
from batchflow.errors import InputError
from batchflow.server.context import Context, ServerContext, Tenant
from batchflow.server.dlq_entries import read_page_cursor
from batchflow.server.filters import DATE_FILTERS, Filters, filter_parameters
from batchflow.server.run_histories import failure_callbacks, read_history
from batchflow.wire.run_config import RunConfig
from batchflow.wire.run_log import run_json

router = APIRouter(prefix="/v2/workflows", tags=["workflow logs"])

MAX_RUNS = 10
"""The largest number of runs in one answer."""

MAX_LOOKED_AT = 10_000
"""The number of runs that one request looks at; if there are more, its answer has a cursor."""

_MAX_CHARS = 8_000_000
_PAGE = 100
_GROUP_BY = "workflowRunId"
_FILTERS: Mapping[str, str] = {
    "workflowRunId": "the id of the run",
    "workflowRuns": "the ids of runs, each with the time in ms at which it began, as ID@TIME",
    "workflowCreatedAt": "the time in ms at which the run began",
    "workflowUrl": "the URL of the workflow",
    "host": "the host of this URL, with its port where it has one",
    "path": "the path of this URL",
    "state": "the state of the run: RUN_STARTED, RUN_SUCCESS, RUN_FAILED or RUN_CANCELED",
    "messageId": "the id of a message of the run",
    "label": "one of the labels",
    "flowControlKey": "the flow-control key",
    "callerIp": "the address of the sender of the first request",
    **DATE_FILTERS,
    "groupBy": "workflowRunId",
    "trimBody": "the largest number of characters of each body that is shown",
    "count": f"the largest number of runs, at most {MAX_RUNS}",
    "cursor": "the cursor of the page before",
}
_PARAMETERS = filter_parameters(_FILTERS)
_STATES: Sequence[str] = get_args(WireRunState)
_BODIES = ("out", "callBody", "callResponseBody", "invokedWorkflowRunBody")


class _RunPage(NamedTuple):
    """Runs as JSON texts, with the cursor of the next ones."""

    runs: list[bytes]
    cursor: str | None = None

    def answer(self) -> Response:
        last = b"" if self.cursor is None else b',"cursor":' + to_json(self.cursor)
        return Response(b'{"runs":[' + b",".join(self.runs) + b"]" + last + b"}", media_type="application/json")


@router.get("/events", summary="The log of workflow runs", openapi_extra=_PARAMETERS, response_class=Response)
async def list_runs(context: Context, tenant: Tenant, request: Request) -> Response:
    """The newest run first. All filters have to match. With a cursor there may be more runs."""
    return (await _find(context, tenant, Filters(request, _FILTERS))).answer()


@router.get("/logs", summary="The same log", openapi_extra=_PARAMETERS, response_class=Response)
async def list_logs(context: Context, tenant: Tenant, request: Request) -> Response:
    """As for events."""
    return (await _find(context, tenant, Filters(request, _FILTERS))).answer()


async def _find(context: ServerContext, tenant: str, filters: Filters) -> _RunPage:
    if filters.one("groupBy") not in (None, _GROUP_BY):
        raise InputError("'groupBy' is not workflowRunId; write that, or leave it out", field="groupBy", status=400)
    for state in filters.all("state"):
        if state not in _STATES:
            raise InputError(f"unknown state '{state[:60]}'{did_you_mean(state, _STATES)}", field="state", status=400)
    count, most_chars = filters.count(MAX_RUNS), filters.number("trimBody")
    runs, chars, looked_at, last = list[bytes](), 0, 0, ""
    async for run, message in _candidates(context, tenant, filters):
        if run.created_at < filters.earliest:
            break
        if len(runs) == count or chars > _MAX_CHARS or looked_at == MAX_LOOKED_AT:
            return _RunPage(runs, last)
        last = f"{run.created_at}-{run.id}"
        looked_at += 1
        if _matches(run, message, filters) and (text := await _run_text(context, run, most_chars)) is not None:
            runs.append(text)
            chars += len(text)
    return _RunPage(runs)


async def _run_text(context: ServerContext, run: WireRun, most_chars: int | None) -> bytes | None:
    """The JSON of a run; None if it was removed meanwhile."""
    history = await read_history(context, run)
    if history is None:
        return None
    failed = () if history.failed is None else (history.failed,)
    callbacks = await failure_callbacks(context, run.tenant, failed)
    # Thousands of steps take long: other requests are answered in between.
    shown = await asyncio.to_thread(run_json, history, next(iter(callbacks.values()), None))
    if most_chars is not None:
        _trim(shown, most_chars)
    return to_json(shown)


def _trim(shown: dict[str, Any], most: int) -> None:
    for group in shown["steps"]:
        for step in group["steps"]:
            step.update((name, step[name][:most]) for name in _BODIES if isinstance(step.get(name), str))


async def _candidates(
    context: ServerContext, tenant: str, filters: Filters
) -> AsyncIterator[tuple[WireRun, str | None]]:
    """Runs of which some filters may not match, the newest first, each with the message by which it was asked for."""
    before = read_page_cursor(filters.one("cursor"))
    named = await _named(context, tenant, filters)
    if named is not None:
        runs: list[WireRun] = []
        for part in chunked(named, _PAGE):
            found = await asyncio.gather(*(context.wire.wire_run(tenant, id) for id in part))
            runs += (it for it in found if it is not None)
        for run in sorted(runs, key=_place, reverse=True):
            if before is None or _place(run) < before:
                yield run, named[run.id]
        return
    while page := await context.wire.wire_runs(tenant, before=before, limit=_PAGE):
        before = _place(page[-1])
        for run in page:
            yield run, None


def _place(run: WireRun) -> tuple[int, str]:
    return run.created_at, run.id


async def _named(context: ServerContext, tenant: str, filters: Filters) -> dict[str, str | None] | None:
    """The ids of the runs that the filters name, each with the message by which it is named; None if they name none."""
    if "messageId" in filters:
        created = await context.wire.created_entries(tenant, filters.all("messageId"))
        described = {id: from_json(entry.detail) for id, entry in created.items()}
        return {about["workflowRunId"]: id for id, about in described.items() if "workflowRunId" in about}
    if "workflowRunId" in filters:
        return dict.fromkeys(filters.all("workflowRunId"))
    if "workflowRuns" in filters:
        return dict.fromkeys(it.rpartition("@")[0] for it in filters.all("workflowRuns"))
    return None


def _matches(run: WireRun, message: str | None, filters: Filters) -> bool:
    exact = {
        "workflowRunId": run.id,
        "workflowRuns": f"{run.id}@{run.created_at}",
        "workflowCreatedAt": str(run.created_at),
        "workflowUrl": run.url,
        "state": run.state,
    }
    if not all(name not in filters or value in filters.all(name) for name, value in exact.items()):
        return False
    config = RunConfig.of_text(run.config)
    about = {"url": run.url, "labels": config.labels, "flowControlKey": config.flow_key, "callerIP": config.caller_ip}
    return filters.covers(run.created_at) and filters.matches({**about, "messageId": message})
