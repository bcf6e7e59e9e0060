"""`batchflow batches pause`, `resume` and `cancel`: by id, label or workflow; `approve` and `priority`."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from batchflow.batch.names import quantity
from batchflow.batch.operations import BatchSelection, cancel_batches, pause_batches, resume_batches
from batchflow.batch.status import format_counts
from batchflow.cli.batches import BatchIdArgument, group, require_batch
from batchflow.cli.options import JsonOption, UrlOption, YesOption, confirm
from batchflow.cli.output import Output
from batchflow.cli.target import open_batches
from batchflow.core.batch import MAX_PRIORITY, Batch
from batchflow.core.ports import Client
from batchflow.engine.engine import Engine
from batchflow.errors import InputError, NotFoundError
from batchflow.http.schemas.base import ApiModel
from batchflow.http.schemas.batches import (
    ApproveBatchResponse,
    BatchInfo,
    BatchPriorityResponse,
    CancelBatchesResponse,
    CancelBatchResponse,
    PauseBatchesResponse,
    PauseBatchResponse,
    ResumeBatchesResponse,
    ResumeBatchResponse,
)

_COUNTED = 1_000
# The number of batches that a question counts.

BatchIdsArgument = Annotated[list[str] | None, typer.Argument(metavar="ID", help="The ids of the batches.")]
LabelOption = Annotated[str | None, typer.Option(metavar="TEXT", help="All open batches with this label.")]
WorkflowOption = Annotated[str | None, typer.Option(metavar="NAME", help="All open batches of this workflow.")]


@group.command("pause")
@dataclass(frozen=True, kw_only=True)
class PauseBatches:
    """Pause batches: no item starts until 'resume'; those under way go on to their end.

    Batches that are triggered later are not paused.

    Exit codes: 0 paused, 1 all had ended before, 2 usage.
    """

    ids: BatchIdsArgument = None
    label: LabelOption = None
    workflow: WorkflowOption = None
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Pause the batches; 1 if there is none to pause."""
        async with open_batches(self.url) as engine:
            changed, found = await _change(engine, _selection(self), pause_batches)
            now = engine.now()
        if self.as_json and len(found) == 1:
            info = BatchInfo.of(found[0], now)
            _print_document(PauseBatchResponse(paused=bool(changed), batch=info))
        elif self.as_json:
            _print_document(PauseBatchesResponse(paused=changed))
        elif len(found) == 1:
            Output().print(_paused_text(found[0]) if changed else _ended_text(found[0]))
        else:
            Output().print(f"Paused {quantity(changed, 'batch', 'batches')}{_rest_text(found, changed)}")
        return 0 if changed else 1


@group.command("resume")
@dataclass(frozen=True, kw_only=True)
class ResumeBatches:
    """Resume paused batches.

    Exit codes: 0 resumed, 1 none was paused, 2 usage.
    """

    ids: BatchIdsArgument = None
    label: LabelOption = None
    workflow: WorkflowOption = None
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Resume the batches; 1 if none was paused."""
        async with open_batches(self.url) as engine:
            changed, found = await _change(engine, _selection(self), resume_batches)
            now = engine.now()
        if self.as_json and len(found) == 1:
            _print_document(ResumeBatchResponse(resumed=bool(changed), batch=BatchInfo.of(found[0], now)))
        elif self.as_json:
            _print_document(ResumeBatchesResponse(resumed=changed))
        elif len(found) == 1:
            (batch,) = found
            Output().print(f"Batch {batch.id} {'goes on' if changed else _not_paused_text(batch)}")
        else:
            rest = len(found) - changed
            others = f"; {rest:,} {'was' if rest == 1 else 'were'} not paused" if found and rest else ""
            Output().print(f"Resumed {quantity(changed, 'batch', 'batches')}{others}")
        return 0 if changed else 1


@group.command("cancel")
@dataclass(frozen=True, kw_only=True)
class CancelBatches:
    """Cancel batches.

    Nothing of them starts any more; running items end at their next step. A selection by label or workflow is counted
    and confirmed first.

    Exit codes: 0 cancelled, 1 all had ended before, 2 usage.
    """

    ids: BatchIdsArgument = None
    label: LabelOption = None
    workflow: WorkflowOption = None
    yes: YesOption = False
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Cancel the batches; 1 if all had ended before."""
        which = _selection(self)
        async with open_batches(self.url) as engine:
            await _require_known(engine, which)
            if not which.ids and (question := await _cancel_question(engine, which)):
                confirm(question, yes=self.yes)
            # Otherwise the items that a dead worker holds would keep a batch in `cancelling`.
            await engine.store.expire()
            changed, found = await _change(engine, which, cancel_batches)
            now = engine.now()
        if self.as_json and len(found) == 1:
            _print_document(CancelBatchResponse(cancelled=bool(changed), batch=BatchInfo.of(found[0], now)))
        elif self.as_json:
            _print_document(CancelBatchesResponse(cancelled=changed))
        elif len(found) == 1:
            Output().print(_cancelled_text(found[0]) if changed else _ended_text(found[0]))
        else:
            Output().print(f"Cancelled {quantity(changed, 'batch', 'batches')}{_rest_text(found, changed)}")
        return 0 if changed else 1


@group.command("approve")
@dataclass(frozen=True, kw_only=True)
class ApproveBatch:
    """Approve a batch: all items after its canary may start, also while the canary still runs.

    Exit codes: 0 approved, 1 it needed no approval, 2 usage.
    """

    id: BatchIdArgument
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Approve the batch; 1 if it needed no approval."""
        async with open_batches(self.url) as engine:
            await require_batch(engine, self.id)
            approved = await engine.approve_batch(self.id)
            batch, now = await require_batch(engine, self.id), engine.now()
        if self.as_json:
            _print_document(ApproveBatchResponse(approved=approved, batch=BatchInfo.of(batch, now)))
        else:
            Output().print(f"Batch {batch.id} {'is approved and goes on' if approved else _no_approval_text(batch)}")
        return 0 if approved else 1


def _no_approval_text(batch: Batch) -> str:
    if batch.items_ended or batch.state == "cancelling":
        return f"needs no approval: it is {batch.state}"
    return "needs no approval: " + ("it has no canary" if batch.canary is None else "it is approved already")


@group.command("priority")
@dataclass(frozen=True, kw_only=True)
class SetBatchPriority:
    """Change the priority of a batch, from 0 to 9.

    Of the batches of a workflow, those with the highest priority start their pages and items first; running ones go on
    to their end.

    Exit codes: 0 changed, 1 it had ended before, 2 usage.
    """

    id: BatchIdArgument
    priority: Annotated[int, typer.Argument(metavar="N", min=0, max=MAX_PRIORITY, help="The priority.")]
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Change the priority; 1 if the batch had ended before."""
        async with open_batches(self.url) as engine:
            await require_batch(engine, self.id)
            changed = await engine.set_batch_priority(self.id, self.priority)
            batch, now = await require_batch(engine, self.id), engine.now()
        if self.as_json:
            _print_document(BatchPriorityResponse(changed=changed, batch=BatchInfo.of(batch, now)))
        elif changed:
            Output().print(f"Batch {batch.id} has the priority {batch.priority}")
        else:
            Output().print(_ended_text(batch))
        return 0 if changed else 1


def _selection(command: PauseBatches | ResumeBatches | CancelBatches) -> BatchSelection:
    """The batches that a command line names.

    Raises:
        InputError: it names none, or ids beside a label or a workflow.
    """
    ids = tuple(dict.fromkeys(command.ids or ()))
    narrowed = command.label is not None or command.workflow is not None
    if ids and narrowed:
        raise InputError("ids exclude --label and --workflow; give either")
    if not ids and not narrowed:
        raise InputError("no batches are named; give their ids, --label TEXT or --workflow NAME")
    return BatchSelection(ids, command.label, command.workflow)


async def _change(
    engine: Engine, which: BatchSelection, act: Callable[[Client, BatchSelection], Awaitable[int]]
) -> tuple[int, Sequence[Batch]]:
    """Act on batches; returns how many have changed, and those that were named by id as they are then.

    Raises:
        NotFoundError: as `_require_known`; nothing has changed.
    """
    await _require_known(engine, which)
    changed = await act(engine, which)
    return changed, [await require_batch(engine, id) for id in which.ids]


async def _require_known(engine: Engine, which: BatchSelection) -> None:
    """Check the names of a selection.

    Raises:
        NotFoundError: an id is not known, or the store has no batch of that workflow, or with that label.
    """
    for id in which.ids:
        await require_batch(engine, id)
    if not which.ids and not await engine.store.batches(
        workflow=which.workflow, label=which.label, limit=1, params=False
    ):
        of = f" of '{which.workflow}'" if which.workflow is not None else ""
        label = f" with the label '{which.label}'" if which.label is not None else ""
        raise NotFoundError(f"there is no batch{of}{label} here; 'batchflow batches' lists them")


async def _cancel_question(engine: Engine, which: BatchSelection) -> str:
    """The question before a cancel; "" if no batch is open."""
    found = await engine.store.batches(workflow=which.workflow, label=which.label, open_only=True, limit=_COUNTED + 1)
    if not found:
        return ""
    many = f"more than {_COUNTED:,} batches" if len(found) > _COUNTED else quantity(len(found), "batch", "batches")
    left = sum(batch.counts.open for batch in found[:_COUNTED])
    return f"Cancel {many} with {quantity(left, 'open item')}"


def _paused_text(batch: Batch) -> str:
    waiting = f"{quantity(batch.counts.open, 'item')} open" if batch.counts.open else "no item is open"
    return f"Batch {batch.id} is paused ({waiting}); go on with: batchflow batches resume {batch.id}"


def _not_paused_text(batch: Batch) -> str:
    if batch.waits_for_approval:
        return f"is not paused; after its canary it goes on with: batchflow batches approve {batch.id}"
    return f"was not paused: it is {batch.state}"


def _cancelled_text(batch: Batch) -> str:
    if batch.items_ended:
        return f"Batch {batch.id} is cancelled: {format_counts(batch.counts)}"
    running = batch.counts.open
    ending = "1 running item ends at its" if running == 1 else f"{running:,} running items end at their"
    return f"Batch {batch.id} is being cancelled: {ending} next step"


def _ended_text(batch: Batch) -> str:
    return f"Batch {batch.id} had ended before: it is {batch.state}"


def _rest_text(found: Sequence[Batch], changed: int) -> str:
    rest = len(found) - changed
    return f"; {rest:,} had ended before" if found and rest else ""


def _print_document(document: ApiModel) -> None:
    Output().print_json(document.document())
