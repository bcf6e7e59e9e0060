"""Listing batches; pausing, resuming and cancelling them by id, label or workflow; cancelling runs with them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

from batchflow.core.batch import Batch
from batchflow.core.ports import Client
from batchflow.errors import InputError
from batchflow.serve.runs import validate_label_filter
from batchflow.serve.validation import validate_run_id, validate_text

_BATCHES_PER_READ = 500


class BatchSelection(NamedTuple):
    """A selection of batches: those with these ids, or the open ones of a label, of a workflow, or of both."""

    ids: tuple[str, ...] = ()
    label: str | None = None
    workflow: str | None = None


class Selection(NamedTuple):
    """A selection of what to cancel: runs and batches by id, or all of a label, a function or a workflow."""

    ids: tuple[str, ...] = ()
    label: str | None = None
    destination: str | None = None
    workflow: str | None = None


class BatchPage(NamedTuple):
    """A page of batches, newest first. `next_cursor` is the cursor of the next page, or None."""

    batches: Sequence[Batch]
    next_cursor: str | None = None


async def list_batches(
    client: Client,
    *,
    workflow: str | None = None,
    label: str | None = None,
    open_only: bool = False,
    cursor: str | None = None,
    limit: int = 50,
) -> BatchPage:
    """Return a page of batches, without their parameters.

    It is empty if retention has removed the last batch of the page before.

    Raises:
        InputError: the label or the cursor is not text.
    """
    label = validate_label_filter(label, "batch")
    if cursor is not None:
        validate_text("'cursor'", cursor, partial(InputError, field="cursor"), "the nextCursor of the page before")
    found = await client.store.batches(
        workflow=workflow, label=label, open_only=open_only, limit=limit + 1, params=False, before=cursor
    )
    return BatchPage(found[:limit], found[limit - 1].id if len(found) > limit else None)


async def pause_batches(client: Client, which: BatchSelection) -> int:
    """Start no more items of these batches until they are resumed, and return the number of those that have not ended.

    Batches that are triggered later are not paused.

    Raises:
        InputError: nothing is selected, or ids are given beside a label or a workflow.
    """
    return await _for_each(client, which, client.pause_batch, "pause")


async def resume_batches(client: Client, which: BatchSelection) -> int:
    """Undo `pause_batches`, and return the number of batches that were paused.

    Raises:
        InputError: as for `pause_batches`.
    """
    return await _for_each(client, which, client.resume_batch, "resume")


async def cancel_batches(client: Client, which: BatchSelection) -> int:
    """Cancel these batches, and return the number of those that had not ended and were not being cancelled.

    Raises:
        InputError: as for `pause_batches`.
    """
    return await _for_each(client, which, client.cancel_batch, "cancel")


async def cancel(client: Client, which: Selection) -> int:
    """Cancel runs and batches, at once while they wait and at their next step while they execute; return their number.

    A label without a function or workflow selects both kinds.

    Raises:
        InputError: nothing is selected, or things that exclude each other.
    """
    if which.ids:
        _check_ids_alone({"label": which.label, "function": which.destination, "workflow": which.workflow})
        ids = dict.fromkeys([validate_run_id(id, "ids") for id in which.ids])
        batches = tuple(id for id in ids if is_batch_id(id))
        count = await cancel_batches(client, BatchSelection(batches)) if batches else 0
        return count + await client.cancel_runs(ids=[id for id in ids if not is_batch_id(id)])
    if which.workflow is not None and which.destination is not None:
        raise InputError("a workflow has batches and a function has runs; name one of them", field="workflow")
    label = validate_label_filter(which.label)
    if which.workflow is not None:
        return await cancel_batches(client, BatchSelection((), label, which.workflow))
    if label is None and which.destination is None:
        raise InputError("say what to cancel: ids, a label, a function or a workflow", field="ids")
    # Batches first, so that they start nothing meanwhile.
    count = await cancel_batches(client, BatchSelection((), label)) if which.destination is None else 0
    return count + await client.cancel_runs(destination=which.destination, label=label)


def is_batch_id(id: str) -> bool:
    """Return True for the id of a batch, and False for that of a run of one."""
    return id.startswith("bat_") and "." not in id


def as_ids(ids: object) -> tuple[str, ...]:
    """Return one id or several as a tuple; anything else, such as a handle, is left to be rejected as an id."""
    several = isinstance(ids, Iterable) and not isinstance(ids, str)
    return tuple(cast("Iterable[Any]", ids)) if several else (cast("str", ids),)


async def _for_each(client: Client, which: BatchSelection, act: Callable[[str], Awaitable[bool]], verb: str) -> int:
    count = 0
    async for ids in _selected(client, which, verb):
        count += sum(await asyncio.gather(*[act(id) for id in ids]))
    return count


async def _selected(client: Client, which: BatchSelection, verb: str) -> AsyncIterator[Sequence[str]]:
    """Yield the ids of the selected batches, some at a time."""
    label = validate_label_filter(which.label, "batch")
    if which.ids:
        _check_ids_alone({"label": label, "workflow": which.workflow})
        refuse = partial(InputError, field="ids")
        what = "the id of a batch, such as the id of its handle"
        ids = list(dict.fromkeys([validate_text("'ids'", id, refuse, what) for id in which.ids]))
        for start in range(0, len(ids), _BATCHES_PER_READ):
            yield ids[start : start + _BATCHES_PER_READ]
        return
    if label is None and which.workflow is None:
        raise InputError(f"say which batches to {verb}: their ids, a label or a workflow", field="ids")
    found: Sequence[Batch] = ()
    while found := await client.store.batches(
        workflow=which.workflow,
        label=label,
        open_only=True,
        limit=_BATCHES_PER_READ,
        params=False,
        before=found[-1].id if found else None,
    ):
        yield [batch.id for batch in found if batch.state != "cancelling"]


def _check_ids_alone(others: Mapping[str, str | None]) -> None:
    for name, value in others.items():
        if value is not None:
            raise InputError(f"'ids' and '{name}' exclude each other; give one of them", field="ids")
