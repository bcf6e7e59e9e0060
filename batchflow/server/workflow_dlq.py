"""The routes of the DLQ of workflow runs: list, show and delete entries, resume and restart runs, retry callbacks."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

from fastapi import APIRouter, Request, Response

from batchflow.core.dead_letters import DeadLetter
from batchflow.core.wire_runs import RunEntry, WireRun
from batchflow.errors import InputError, NotFoundError
from batchflow.server.context import Context, ServerContext, Tenant
from batchflow.server.dlq import DlqDeleted, DlqPage
from batchflow.server.dlq_entries import DLQ_FILTERS, find_entries, found_letter, present_entry
from batchflow.server.filters import Filters, body_filters, filter_parameters
from batchflow.server.overrides import overrides_of
from batchflow.server.raw_request import read_body
from batchflow.server.run_histories import failure_callbacks
from batchflow.server.wire_model import WireModel
from batchflow.wire.envelope import Envelope
from batchflow.wire.publish import post_of
from batchflow.wire.run_again import ResumedEntries, again_id, again_posts
from batchflow.wire.run_config import RunConfig
from batchflow.wire.run_posts import failure_id

router = APIRouter(prefix="/v2/workflows/dlq", tags=["workflow DLQ"])

_MAX_RUNS = 50
_PARAMETERS = filter_parameters(DLQ_FILTERS)
_RUN_PARAMETERS = filter_parameters({**DLQ_FILTERS, "count": f"the largest number of runs, at most {_MAX_RUNS}"})
_CONFIG_FIELDS = frozenset(it.name for it in fields(RunConfig))

_ChooseEntries = Callable[[Sequence[RunEntry]], ResumedEntries]


class RunAgain(WireModel):
    """The run that has begun, with the time in ms at which it did."""

    workflow_run_id: str
    workflow_created_at: int


class RunsAgain(WireModel):
    """The runs that have begun; with `cursor` there may be more entries."""

    workflow_runs: list[RunAgain]
    cursor: str | None = None


class _Failed(NamedTuple):
    """A failed run: its dead letter, its envelope, and its entries."""

    letter: DeadLetter
    envelope: Envelope
    run: WireRun
    entries: Sequence[RunEntry]


@router.get("", summary="Entries of workflow runs", openapi_extra=_PARAMETERS, response_model_exclude_none=True)
async def list_entries(context: Context, tenant: Tenant, request: Request) -> DlqPage:
    """The newest first. All filters have to match."""
    found = await find_entries(context, tenant, Filters(request, DLQ_FILTERS), of_runs=True)
    return DlqPage(messages=found.entries, cursor=found.cursor)


@router.get("/{id}", summary="An entry of a workflow run")
async def get_entry(context: Context, tenant: Tenant, id: str) -> dict[str, Any]:
    """The message that has failed, its last response, and the state of the failure callback."""
    _, entry = await present_entry(context, tenant, id, of_runs=True)
    return entry


@router.delete(
    "", summary="Delete entries of workflow runs", openapi_extra=_PARAMETERS, response_model_exclude_none=True
)
async def delete_entries(context: Context, tenant: Tenant, request: Request) -> DlqDeleted:
    """Those that match, or those with the `dlqIds` of a JSON body; without filters all, a page with each request."""
    sent = await read_body(request.scope, request.receive)
    filters = Filters(request, DLQ_FILTERS, body_filters(sent, "dlqIds"))
    found = await find_entries(context, tenant, filters, of_runs=True)
    deleted = await asyncio.gather(*(context.store.delete_dead_letter(id) for id in found.ids))
    return DlqDeleted(deleted=sum(deleted), cursor=found.cursor)


@router.delete("/{id}", summary="Delete an entry of a workflow run", response_class=Response)
async def delete_entry(context: Context, tenant: Tenant, id: str) -> Response:
    """The run stays in the log."""
    await present_entry(context, tenant, id, of_runs=True)
    await context.store.delete_dead_letter(id)
    return Response()


@router.post("/resume", summary="Resume workflow runs", openapi_extra=_RUN_PARAMETERS, response_model_exclude_none=True)
async def resume_runs(context: Context, tenant: Tenant, request: Request) -> RunsAgain:
    """Each goes on as a new run, which has the results of the failed one; its entry is deleted.

    `Upstash-*` headers change the new runs.
    """
    return await _begin_again(context, tenant, request, ResumedEntries.of)


@router.post("/resume/{id}", summary="Resume a workflow run")
async def resume_run(context: Context, tenant: Tenant, request: Request, id: str) -> RunAgain:
    """It goes on as a new run, which has the results of the failed one; its entry is deleted.

    `Upstash-*` headers change the new run.
    """
    return await _begin_one_again(context, tenant, request, id, ResumedEntries.of)


@router.post(
    "/restart", summary="Restart workflow runs", openapi_extra=_RUN_PARAMETERS, response_model_exclude_none=True
)
async def restart_runs(context: Context, tenant: Tenant, request: Request) -> RunsAgain:
    """Each begins as a new run with the same initial body; its entry is deleted. `Upstash-*` headers change it."""
    return await _begin_again(context, tenant, request, _initial)


@router.post("/restart/{id}", summary="Restart a workflow run")
async def restart_run(context: Context, tenant: Tenant, request: Request, id: str) -> RunAgain:
    """It begins as a new run with the same initial body; its entry is deleted. `Upstash-*` headers change it."""
    return await _begin_one_again(context, tenant, request, id, _initial)


@router.post("/callback/{id}", summary="Retry the failure callback of a workflow run")
async def retry_callback(context: Context, tenant: Tenant, id: str) -> RunAgain:
    """It must have failed. The answer has the run that it is about."""
    _, entry = await present_entry(context, tenant, id, of_runs=True)
    callback = (await failure_callbacks(context, tenant, [id])).get(id)
    if callback is None:
        raise InputError(f"the workflow run of the entry '{id}' has no failure callback", status=400)
    letter = await found_letter(context, tenant, callback.id)
    if letter is None or callback.state != "CALLBACK_FAIL":
        sentence = f"the failure callback of the entry '{id}' is {callback.state}; only one that has failed is retried"
        raise InputError(sentence, status=400)
    now = context.now()
    envelope = replace(Envelope.of_text(letter.message.body), created_at=now, not_before=now)
    await context.post([post_of(envelope, failure_id(id, callback.attempt + 1))])
    await context.store.delete_dead_letter(letter.id)
    return RunAgain(workflow_run_id=entry["workflowRunId"], workflow_created_at=entry["workflowCreatedAt"])


@router.delete("/callback/{id}", summary="Cancel the failure callback of a workflow run", response_class=Response)
async def cancel_callback(context: Context, tenant: Tenant, id: str) -> Response:
    """Nothing is delivered any more. One that has ended is not found."""
    await present_entry(context, tenant, id, of_runs=True)
    callback = (await failure_callbacks(context, tenant, [id])).get(id)
    if callback is None or not await context.wire.cancel_posts(tenant, [callback.id]):
        raise NotFoundError(f"the workflow run of the entry '{id}' has no failure callback that is under way")
    return Response()


def _initial(entries: Sequence[RunEntry]) -> ResumedEntries:
    """The entries of a run that starts over."""
    return ResumedEntries((entries[0].body,))


async def _begin_again(context: ServerContext, tenant: str, request: Request, choose: _ChooseEntries) -> RunsAgain:
    """Begin again the runs of the entries that match; those whose run was removed are passed over."""
    found = await find_entries(context, tenant, Filters(request, DLQ_FILTERS), most=_MAX_RUNS, of_runs=True)
    begun: list[RunAgain] = []
    # One after the other: all of their entries at once may be more than a process can hold.
    for id in found.ids:
        letter = await found_letter(context, tenant, id)
        failed = None if letter is None else await _failed_run(context, letter)
        if failed is not None:
            begun.append(await _begin(context, failed, request, choose))
    return RunsAgain(workflow_runs=begun, cursor=found.cursor)


async def _begin_one_again(
    context: ServerContext, tenant: str, request: Request, id: str, choose: _ChooseEntries
) -> RunAgain:
    letter, _ = await present_entry(context, tenant, id, of_runs=True)
    failed = await _failed_run(context, letter)
    if failed is None:
        raise NotFoundError(f"the workflow run of the entry '{id}' was removed; begin a new one at its endpoint")
    return await _begin(context, failed, request, choose)


async def _failed_run(context: ServerContext, letter: DeadLetter) -> _Failed | None:
    """The run of a dead letter; None if it was removed, or replaced by another run with its id."""
    envelope = Envelope.of_text(letter.message.body)
    part = envelope.run
    assert part is not None, "an entry of a run"
    run, entries = await asyncio.gather(
        context.wire.wire_run(envelope.tenant, part.run), context.wire.run_entries(envelope.tenant, part.run)
    )
    if run is None or not entries or run.created_at != part.created_at:
        return None
    return _Failed(letter, envelope, run, entries)


async def _begin(context: ServerContext, failed: _Failed, request: Request, choose: _ChooseEntries) -> RunAgain:
    """Begin a run again; if it has begun already, by the same entry, nothing more happens."""
    id, run, now = failed.letter.id, failed.run, context.now()
    _, changes = overrides_of(request, replace(failed.envelope, queue=None), now)
    known = {name: value for name, value in changes.items() if name in _CONFIG_FIELDS}
    config = replace(RunConfig.of_text(run.config), resumed=id, **known)
    due = changes.get("not_before", now)
    await context.post(
        again_posts(id, run.url, failed.envelope, choose(failed.entries), config, not_before=due, now=now)
    )
    await context.store.delete_dead_letter(id)
    begun = await context.wire.wire_run(run.tenant, again_id(id))
    return RunAgain(workflow_run_id=again_id(id), workflow_created_at=now if begun is None else begun.created_at)
