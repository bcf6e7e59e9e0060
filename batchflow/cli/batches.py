"""`batchflow batches`: lists and shows the batches of a store, and their items."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

import typer

from batchflow.batch.export import MANIFEST, Export, check_format
from batchflow.batch.handle import no_such_item
from batchflow.batch.names import quantity
from batchflow.batch.operations import list_batches
from batchflow.cli.batch_reports import BatchDetails, print_batch, print_batches, print_item
from batchflow.cli.groups import CommandGroup
from batchflow.cli.options import JsonOption, UrlOption, option_names
from batchflow.cli.output import (
    Output,
)
from batchflow.cli.target import choose_workflow, load_flow, open_batches
from batchflow.core.batch import Batch, Item, ItemState
from batchflow.core.ids import item_run_id
from batchflow.core.store import Reads
from batchflow.engine.engine import Engine
from batchflow.errors import InputError, NotFoundError
from batchflow.http.schemas.batches import BatchDetail, BatchInfo, BatchList
from batchflow.http.schemas.dead_letters import DeadLetterInfo
from batchflow.http.schemas.items import ItemDetail
from batchflow.http.schemas.runs import RunDetail

_MAX_NUMBER_DIGITS = 9

BatchIdArgument = Annotated[str, typer.Argument(metavar="ID", help="The id of the batch, such as bat_….")]

group = typer.Typer(
    cls=CommandGroup, help="List, show, pause, resume and cancel batches, and show their items.", rich_markup_mode=None
)


@group.command("list")
@dataclass(frozen=True, kw_only=True)
class ListBatches:
    """List the latest batches, newest first.

    `batchflow batches` without a command does the same.
    """

    target: Annotated[str | None, typer.Argument(metavar="MODULE:ATTR", help="An app whose store to read.")] = None
    workflow: Annotated[str | None, typer.Option(metavar="NAME", help="Only batches of this workflow.")] = None
    label: Annotated[str | None, typer.Option(metavar="TEXT", help="Only batches with this label.")] = None
    open_only: Annotated[bool, typer.Option("--open", help="Only batches that have not ended.")] = False
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Show at most N batches.")] = 20
    cursor: Annotated[str | None, typer.Option(metavar="CURSOR", help="Continue after a page: its nextCursor.")] = None
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the list."""
        url = self.url if self.target is None else load_flow(self.target).settings.url
        async with open_batches(url) as engine:
            found, next_cursor = await list_batches(
                engine,
                workflow=self.workflow,
                label=self.label,
                open_only=self.open_only,
                cursor=self.cursor,
                limit=self.limit,
            )
            unserved = await engine.run_store.unserved() if any(not it.items_ended for it in found) else ()
            now = engine.now()
        # A store may hold batches of workflows that this app does not have.
        if self.target is not None and self.workflow is not None and not found and self.cursor is None:
            choose_workflow(load_flow(self.target), self.workflow, self.target)
        if self.as_json:
            batches = [BatchInfo.of(batch, now) for batch in found]
            Output().print_json(BatchList(batches=batches, next_cursor=next_cursor).document())
        else:
            print_batches(Output(), found, now, unserved)
            if next_cursor is not None:
                Output().print(f"more: --cursor {next_cursor}", style="dim")
        return 0


@group.command("show")
@dataclass(frozen=True, kw_only=True)
class ShowBatch:
    """Show the counts of a batch, its errors by kind, and its failed items."""

    id: BatchIdArgument
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Show at most N failed items.")] = 20
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the batch."""
        async with open_batches(self.url) as engine:
            batch = await require_batch(engine, self.id)
            details = await BatchDetails.read(engine, batch, self.limit)
            now = engine.now()
        if self.as_json:
            info = BatchInfo.of(batch, now, wait_reason=details.wait_reason)
            document = BatchDetail.of_info(info, batch, retries=details.retries).document()
            document["failedItems"] = [ItemDetail.of(item).document() for item in details.failed]
            document["deadLetters"] = [DeadLetterInfo.of(letter).document() for letter in details.letters]
            Output().print_json(document)
        else:
            print_batch(Output(), details, now)
        return 0


@group.command("item")
@dataclass(frozen=True, kw_only=True)
class ShowItem:
    """Show one item of a batch: its state, attempts, whole error, result and steps.

    ITEM is the id that the source gave it, or its number in the batch.
    """

    id: BatchIdArgument
    item: Annotated[str, typer.Argument(metavar="ITEM", help="The id or the number of the item.")]
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the item."""
        async with open_batches(self.url) as engine:
            batch = await require_batch(engine, self.id)
            item = await _find_item(engine.store, batch, self.item)
            run = await engine.store.run(item_run_id(self.id, item.number))
        if self.as_json:
            document = ItemDetail.of(item).document() | {"batchId": batch.id, "workflow": batch.workflow}
            Output().print_json(document | {"run": None if run is None else RunDetail.of(run).document()})
        else:
            print_item(Output(), batch, item, run)
        return 0


@group.command("export")
@dataclass(frozen=True, kw_only=True)
class ExportBatch:
    """Write all started items of a batch, to FOLDER with a manifest.json, or to stdout.

    A line has key, number, outcome, result, error, attempts and endedAt. 'batchflow run --ids-from' reads it.
    """

    id: BatchIdArgument
    folder: Annotated[
        str | None, typer.Argument(metavar="FOLDER", help="The folder of the files; stdout if it is left out.")
    ] = None
    format: Annotated[str, typer.Option(metavar="FORMAT", help="jsonl or csv.")] = "jsonl"
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="Only items that are open, succeeded, failed or cancelled.")
    ] = None
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Write the items, a page at a time."""
        with option_names():
            format, state = check_format(self.format), _check_state(self.state)
        if self.as_json and self.folder is None:
            raise InputError("--json prints the manifest, and there is none on stdout; name a FOLDER")
        async with open_batches(self.url) as engine:
            export = Export(engine.store, await require_batch(engine, self.id), format, state)
            if self.folder is None:
                async for piece in export.lines():
                    sys.stdout.buffer.write(piece)
                return 0
            manifest = await export.write(Path(self.folder))
        if self.as_json:
            Output().print_json(manifest.model_dump(mode="json", by_alias=True))
        else:
            path = Path(self.folder) / manifest.file
            Output().print(f"Wrote {quantity(manifest.rows, 'item')} of batch {self.id} to {path}, with {MANIFEST}")
        return 0


def _check_state(state: str | None) -> ItemState | None:
    for known in get_args(ItemState):
        if state == known:
            return known
    if state is None:
        return None
    want = f"write one of {', '.join(get_args(ItemState))}"
    raise InputError(option="state", got=repr(state), want=want)


async def _find_item(store: Reads, batch: Batch, named: str) -> Item:
    """The item with an id, or else with a number.

    Raises:
        NotFoundError: the batch has started no such item.
    """
    if (found := await store.find_item(batch.id, named)) is not None:
        return found
    if named.isdecimal() and len(named) <= _MAX_NUMBER_DIGITS:
        number = int(named)
        for item in await store.items(batch.id, after=number - 1, limit=1):
            if item.number == number:
                return item
    raise NotFoundError(no_such_item(batch.id, named))


async def require_batch(engine: Engine, id: str) -> Batch:
    """The batch with an id.

    Raises:
        NotFoundError: there is none.
    """
    batch = await engine.store.batch(id)
    if batch is None:
        raise NotFoundError(f"there is no batch '{id}' here; 'batchflow batches' lists them")
    return batch
