"""`batchflow ledger`: which items count as processed, listed, taken along, forgotten."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import typer
from more_itertools import chunked
from pydantic_core import from_json

from batchflow.app import open_store
from batchflow.cli.ledger_lines import Line, line_of, lines_in
from batchflow.cli.output import Output
from batchflow.cli.place import Json, Url, opened, store_at
from batchflow.core.ledger import Mark, workflow_of
from batchflow.core.store import Store
from batchflow.engine.clock import SystemClock
from batchflow.errors import InputError, NotFoundError
from batchflow.settings import Settings
from batchflow.stores.sqlite import SqliteStore, old_ledger

SLICE = 1_000
"""How many marks are read at once, and written in one transaction."""

Workflow = Annotated[str | None, typer.Option(metavar="NAME", help="Only the ledgers of this workflow.")]
Where = Annotated[str, typer.Argument(metavar="[FILE]", help="A file of JSON lines; - is the default.")]

group = typer.Typer(
    help="Which items count as processed: list, export, import, forget.", rich_markup_mode=None, no_args_is_help=False
)


@group.command("list")
@dataclass(frozen=True, kw_only=True)
class ListLedgers:
    """List the ledgers: one for each workflow, or for each value of its `processed_per`."""

    url: Url = None
    as_json: Json = False

    async def carry_out(self) -> int:
        """List them."""
        async with opened(self.url) as store:
            names = await store.ledgers()
        if self.as_json:
            Output().document({"ledgers": [_document(name) for name in names]})
        for name in names if not self.as_json else ():
            Output().say(name)
        if not names and not self.as_json:
            Output().say("No ledgers")
        return 0


@group.command("export")
@dataclass(frozen=True, kw_only=True)
class ExportLedger:
    """Write every mark as a line of JSON, to FILE or stdout. Places made before 0.1.0 are read as well."""

    file: Where = "-"
    workflow: Workflow = None
    url: Url = None

    async def carry_out(self) -> int:
        """Write them, a slice at a time."""
        count = 0
        try:
            with _writing(self.file) as out:
                async for ledger, mark in _marks(Settings.load(url=self.url)):
                    if self.workflow in (None, workflow_of(ledger)):
                        out.write(line_of(ledger, mark))
                        count += 1
                out.flush()
        except BrokenPipeError:
            # Who reads has read enough; nothing is to be flushed to it at exit either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        Output().err.print(f"Exported {count:,} marks", soft_wrap=True)
        return 0


@group.command("import")
@dataclass(frozen=True, kw_only=True)
class ImportLedger:
    """Take over the lines that `export` has written, from FILE or stdin. The same again changes nothing."""

    file: Where = "-"
    workflow: Workflow = None
    url: Url = None

    async def carry_out(self) -> int:
        """Mark them, a thousand in one transaction; what has expired meanwhile is left out."""
        count = 0
        store = open_store(Settings.load(url=self.url), SystemClock())
        if isinstance(store, SqliteStore) and store.path == ":memory:":
            raise InputError("the ledger would be lost as this command ends; name a file with --url or BATCHFLOW_URL")
        with _reading(self.file) as source:
            await store.open()
            try:
                for lines in chunked(lines_in(source), SLICE):
                    fitting = [it for it in lines if self.workflow in (None, workflow_of(it.ledger))]
                    count += await _mark(store, fitting)
            except InputError as error:
                raise InputError(f"{error}; {count:,} marks of the lines before it are taken over") from error
            finally:
                await store.close()
        Output().say(f"Imported {count:,} marks")
        return 0


@group.command("forget")
@dataclass(frozen=True, kw_only=True)
class ForgetMarks:
    """Have items done again: these, or all of a ledger. A workflow's name stands for all of its ledgers."""

    ledger: Annotated[str, typer.Argument(metavar="NAME", help="A workflow, or a ledger as `list` names it.")]
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="The items.")] = None
    all: Annotated[bool, typer.Option("--all", help="All items there are.")] = False
    url: Url = None
    as_json: Json = False

    async def carry_out(self) -> int:
        """Forget them; 1 where none was there."""
        if bool(self.ids) == self.all:
            raise InputError("say what to forget: the ids of items, or --all")
        async with opened(self.url) as store:
            there = await store.ledgers()
            names = [it for it in there if self.ledger in (it, workflow_of(it))]
            if not names:
                raise NotFoundError(f"there is no ledger '{self.ledger}' here; 'batchflow ledger list' lists them")
            count = sum([await store.forget(name, self.ids or None) for name in names])
        if self.as_json:
            Output().document({"success": True, "forgotten": count})
        else:
            Output().say(f"Forgot {count:,} marks")
        return 0 if count else 1


def _document(name: str) -> dict[str, Any]:
    workflow = workflow_of(name)
    return {"ledger": name, "workflow": workflow, "scope": from_json(name.removeprefix(workflow) or "{}")}


async def _marks(settings: Settings) -> AsyncIterator[tuple[str, Mark]]:
    """The marks at a place, those of one ledger after another."""
    now = SystemClock().now()
    store = store_at(settings)
    if isinstance(store, SqliteStore):
        if old_ledger.is_old(store.path):
            for it in old_ledger.marks(store.path, now):
                yield it
            return
    else:
        from batchflow.stores.redis import clients, keys
        from batchflow.stores.redis import old_ledger as old_on_redis

        client, prefix = clients.client_from_url(settings.url), keys.prefix(settings.namespace)
        try:
            if await old_on_redis.is_old(client, prefix):
                async for it in old_on_redis.marks(client, prefix, now):
                    yield it
                return
        finally:
            await clients.close(client)
    async with opened(settings.url) as store:
        for name in await store.ledgers():
            after: str | None = None
            while found := await store.marks(name, after=after, limit=SLICE):
                for mark in found:
                    yield name, mark
                after = found[-1].item


async def _mark(store: Store, lines: Iterable[Line]) -> int:
    """Mark a slice, all of it in the group that goes to the store in one transaction; how many."""
    # Anew for each slice, since a store is told for how long a mark holds.
    now = SystemClock().now()
    latest = {(it.ledger, it.item): it.expires_at for it in lines if it.expires_at is None or it.expires_at > now}
    alike: dict[tuple[str, int | None], list[str]] = {}
    for (ledger, item), expires_at in latest.items():
        alike.setdefault((ledger, expires_at), []).append(item)
    await asyncio.gather(
        *(store.mark(ledger, ids, None if until is None else until - now) for (ledger, until), ids in alike.items())
    )
    return len(latest)


def _reading(file: str) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdin.buffer) if file == "-" else _file(file, "rb", "read")


def _writing(file: str) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdout.buffer) if file == "-" else _file(file, "wb", "written")


def _file(file: str, mode: Literal["rb", "wb"], what: str) -> BinaryIO:
    try:
        return Path(file).open(mode)
    except OSError as error:
        raise InputError(f"'{file}' cannot be {what}: {error.strerror}") from error
