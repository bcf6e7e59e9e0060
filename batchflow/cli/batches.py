"""`batchflow batches`: what is in the store, without the module that put it there."""

from dataclasses import dataclass
from typing import Annotated

import typer

from batchflow.cli import documents, report
from batchflow.cli.output import Output
from batchflow.cli.place import Json, Url, opened
from batchflow.cli.target import choose_workflow, load_flow
from batchflow.core.batch import Batch
from batchflow.core.store import Store
from batchflow.errors import NotFoundError

BatchId = Annotated[str, typer.Argument(metavar="ID", help="The id of the batch: bat_….")]

group = typer.Typer(help="List batches, look into one, cancel one.", rich_markup_mode=None)


@group.command("list")
@dataclass(frozen=True, kw_only=True)
class ListBatches:
    """List the latest batches, newest first; `batchflow batches` alone does the same."""

    target: Annotated[str | None, typer.Argument(metavar="[MODULE:ATTR]", help="An app, to look into its store.")] = (
        None
    )
    workflow: Annotated[str | None, typer.Option(metavar="NAME", help="Only batches of this workflow.")] = None
    label: Annotated[str | None, typer.Option(metavar="TEXT", help="Only batches with this label.")] = None
    open_only: Annotated[bool, typer.Option("--open", help="Only batches that have not ended.")] = False
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many.")] = 20
    url: Url = None
    as_json: Json = False

    async def carry_out(self) -> int:
        """List them."""
        url = self.url if self.target is None else load_flow(self.target).settings.url
        async with opened(url) as store:
            found = await store.batches(
                workflow=self.workflow, label=self.label, open_only=self.open_only, limit=self.limit
            )
        # A store may hold batches of workflows that this app does not have.
        if self.target is not None and self.workflow is not None and not found:
            choose_workflow(load_flow(self.target), self.workflow, self.target)
        if self.as_json:
            Output().document({"batches": [documents.of_batch(batch) for batch in found]})
        else:
            report.batches(Output(), found)
        return 0


@group.command("show")
@dataclass(frozen=True, kw_only=True)
class ShowBatch:
    """Show one batch: its counts, the items that have failed and why, its dead letters."""

    id: BatchId
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many failed items.")] = 20
    url: Url = None
    as_json: Json = False

    async def carry_out(self) -> int:
        """Look into it."""
        async with opened(self.url) as store:
            batch = await _batch(store, self.id)
            failed = await store.items(self.id, state="failed", limit=self.limit)
            letters = await store.dead_letters(batch=self.id, limit=self.limit)
        if self.as_json:
            document = documents.of_batch(batch)
            document["failedItems"] = documents.of_items(failed)
            document["deadLetters"] = documents.of_dead_letters(letters)
            Output().document(document)
        else:
            report.batch(Output(), batch, failed, letters)
        return 0


@group.command("cancel")
@dataclass(frozen=True, kw_only=True)
class CancelBatch:
    """Cancel a batch: nothing of it starts any more, and items at work end at their next step."""

    id: BatchId
    url: Url = None
    as_json: Json = False

    async def carry_out(self) -> int:
        """Cancel it; 1 where it had ended before."""
        async with opened(self.url) as store:
            await _batch(store, self.id)
            # What a dead worker holds would be waited for.
            await store.expire()
            cancelled = await store.cancel_batch(self.id)
            batch = await _batch(store, self.id)
        if self.as_json:
            Output().document({"success": True, "cancelled": cancelled, "batch": documents.of_batch(batch)})
        elif cancelled:
            Output().say(report.cancelled(batch))
        else:
            Output().say(f"Batch {batch.id} had ended before: it is {batch.state}")
        return 0 if cancelled else 1


async def _batch(store: Store, id: str) -> Batch:
    batch = await store.batch(id)
    if batch is None:
        raise NotFoundError(f"there is no batch '{id}' here; 'batchflow batches' lists those there are")
    return batch
