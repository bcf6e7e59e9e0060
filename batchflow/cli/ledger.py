"""`batchflow ledger`: lists, exports, imports and forgets the marks of processed items.

A line of an export is `{"ledger": "welcome", "item": "u1", "expiresAt": null}`.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple, cast

import typer
from more_itertools import chunked
from pydantic_core import from_json

from batchflow.cli.groups import CommandGroup
from batchflow.cli.options import JsonOption, UrlOption
from batchflow.cli.output import Output
from batchflow.cli.target import existing_store, open_existing_store, store_settings
from batchflow.core.batch import Mark, ledger_name, workflow_of_ledger
from batchflow.core.store import Store
from batchflow.engine.clock import SystemClock
from batchflow.errors import InputError, NotFoundError
from batchflow.http.schemas.base import to_datetime
from batchflow.settings import Settings, open_store
from batchflow.stores.sqlite import SqliteStore, old_ledger

_FIELDS = ("ledger", "item", "expiresAt")


class LedgerLine(NamedTuple):
    """One mark of a ledger."""

    ledger: str
    item: str
    expires_at: int | None


def format_line(ledger: str, mark: Mark) -> bytes:
    """A mark as a line."""
    fields = {"ledger": ledger, "item": mark.item, "expiresAt": _format_time(mark.expires_at)}
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def _format_time(ms: int | None) -> str | None:
    moment = to_datetime(ms)
    return None if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_lines(source: Iterable[bytes]) -> Iterator[LedgerLine]:
    """The marks in lines; empty lines are skipped.

    Raises:
        InputError: a line is malformed; the sentence has its number.
    """
    for number, raw in enumerate(source, 1):
        text = raw.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else raw.strip()
        if text:
            try:
                yield _parse_line(text)
            except ValueError as error:
                raise InputError(f"line {number:,} {error}") from error


def _parse_line(text: bytes) -> LedgerLine:
    try:
        fields: object = from_json(text)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError('is not a JSON object such as {"ledger": "welcome", "item": "u1", "expiresAt": null}')
    given = cast("dict[str, Any]", fields)
    for name in given:
        if name not in _FIELDS:
            raise ValueError(f"has the unknown field '{name}'; a line has ledger, item and expiresAt")
    return LedgerLine(
        _canonical_name(_require_text(given, "ledger")),
        _require_text(given, "item"),
        _parse_expiry(given.get("expiresAt")),
    )


def _require_text(given: dict[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"needs a non-empty text as '{name}'")
    return value


def _canonical_name(name: str) -> str:
    """The name of the ledger, with the fields of its scope in the order of the store."""
    workflow = workflow_of_ledger(name)
    if workflow == name:
        return name
    try:
        scope: object = from_json(name.removeprefix(workflow))
    except ValueError:
        scope = None
    if not workflow or not isinstance(scope, dict) or not scope:
        raise ValueError(f"has {name!r} as 'ledger'; write the name of a workflow, and its scope as a JSON object")
    return ledger_name(workflow, cast("dict[str, object]", scope))


def _parse_expiry(value: object) -> int | None:
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ValueError(f"has {value!r} as 'expiresAt'; write a time such as '2030-01-01T00:00:00.000Z', or null")
    return round(found.timestamp() * 1000)


CHUNK_SIZE = 1_000
"""The number of marks that are read at once, and written in one transaction."""

WorkflowOption = Annotated[str | None, typer.Option(metavar="NAME", help="Only the ledgers of this workflow.")]
FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="A file of JSON lines; - for stdin or stdout.")]

group = typer.Typer(
    cls=CommandGroup,
    help="List, export, import and forget the marks of processed items.",
    rich_markup_mode=None,
    no_args_is_help=False,
)


@group.command("list")
@dataclass(frozen=True, kw_only=True)
class ListLedgers:
    """List the ledgers.

    A workflow has one, or one for each value of its `processed_per`.
    """

    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the list."""
        async with open_existing_store(self.url) as store:
            names = await store.ledgers()
        if self.as_json:
            Output().print_json({"ledgers": [_ledger_info(name) for name in names]})
        for name in names if not self.as_json else ():
            Output().print(name)
        if not names and not self.as_json:
            Output().print("No ledgers")
        return 0


@group.command("export")
@dataclass(frozen=True, kw_only=True)
class ExportLedger:
    """Write every mark as a line of JSON, to FILE or stdout.

    Stores of versions before 0.1.0 can be exported, too.
    """

    file: FileArgument = "-"
    workflow: WorkflowOption = None
    url: UrlOption = None

    async def execute(self) -> int:
        """Write the marks, a chunk at a time."""
        count = 0
        try:
            with _open_output(self.file) as out:
                async for ledger, mark in _read_marks(store_settings(self.url)):
                    if self.workflow in (None, workflow_of_ledger(ledger)):
                        out.write(format_line(ledger, mark))
                        count += 1
                out.flush()
        except BrokenPipeError:
            # The reader has closed the pipe; nothing must be flushed to it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        Output().stderr.print(f"Exported {count:,} marks", soft_wrap=True)
        return 0


@group.command("import")
@dataclass(frozen=True, kw_only=True)
class ImportLedger:
    """Import the lines of `export`, from FILE or stdin.

    Importing the same lines again changes nothing.
    """

    file: FileArgument = "-"
    workflow: WorkflowOption = None
    url: UrlOption = None

    async def execute(self) -> int:
        """Write the marks, a chunk in each transaction, without those that have expired."""
        count = 0
        store = open_store(store_settings(self.url), SystemClock())
        if isinstance(store, SqliteStore) and store.path == ":memory:":
            raise InputError("the ledger would be lost after this command; name a file with --url or BATCHFLOW_URL")
        with _open_input(self.file) as source:
            await store.open()
            try:
                for lines in chunked(parse_lines(source), CHUNK_SIZE):
                    fitting = [it for it in lines if self.workflow in (None, workflow_of_ledger(it.ledger))]
                    count += await _write_marks(store, fitting)
            except InputError as error:
                raise InputError(f"{error}; {count:,} marks of the lines before it are imported") from error
            finally:
                await store.close()
        Output().print(f"Imported {count:,} marks")
        return 0


@group.command("forget")
@dataclass(frozen=True, kw_only=True)
class ForgetMarks:
    """Have items processed again: these, or all of a ledger.

    The name of a workflow means all of its ledgers.

    Exit codes: 0 forgotten, 1 none of them was marked, 2 usage.
    """

    ledger: Annotated[str, typer.Argument(metavar="NAME", help="A workflow, or a ledger as `list` names it.")]
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="The ids of the items.")] = None
    all: Annotated[bool, typer.Option("--all", help="All items of the ledger.")] = False
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Delete the marks; 1 if none of the items was marked."""
        if bool(self.ids) == self.all:
            raise InputError("nothing to forget; give either the ids of items or --all")
        async with open_existing_store(self.url) as store:
            there = await store.ledgers()
            names = [it for it in there if self.ledger in (it, workflow_of_ledger(it))]
            if not names:
                raise NotFoundError(f"there is no ledger '{self.ledger}' here; 'batchflow ledger list' lists them")
            count = sum([await store.forget(name, self.ids or None) for name in names])
        if self.as_json:
            Output().print_json({"success": True, "forgotten": count})
        else:
            Output().print(f"Forgot {count:,} marks")
        return 0 if count else 1


def _ledger_info(name: str) -> dict[str, Any]:
    workflow = workflow_of_ledger(name)
    return {"ledger": name, "workflow": workflow, "scope": from_json(name.removeprefix(workflow) or "{}")}


async def _read_marks(settings: Settings) -> AsyncIterator[tuple[str, Mark]]:
    """All marks of a store, ledger by ledger."""
    now = SystemClock().now()
    store = existing_store(settings)
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
    async with open_existing_store(settings.url) as store:
        for name in await store.ledgers():
            after: str | None = None
            while found := await store.marks(name, after=after, limit=CHUNK_SIZE):
                for mark in found:
                    yield name, mark
                after = found[-1].item


async def _write_marks(store: Store, lines: Iterable[LedgerLine]) -> int:
    """Write a chunk of marks, all in one transaction; the number of them."""
    # Read for each chunk: a store is given the time that is left to a mark.
    now = SystemClock().now()
    latest = {(it.ledger, it.item): it.expires_at for it in lines if it.expires_at is None or it.expires_at > now}
    alike: dict[tuple[str, int | None], list[str]] = {}
    for (ledger, item), expires_at in latest.items():
        alike.setdefault((ledger, expires_at), []).append(item)
    await asyncio.gather(
        *(store.mark(ledger, ids, None if until is None else until - now) for (ledger, until), ids in alike.items())
    )
    return len(latest)


def _open_input(file: str) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdin.buffer) if file == "-" else _open_file(file, "rb", "read")


def _open_output(file: str) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdout.buffer) if file == "-" else _open_file(file, "wb", "written")


def _open_file(file: str, mode: Literal["rb", "wb"], what: str) -> BinaryIO:
    try:
        return Path(file).open(mode)
    except OSError as error:
        raise InputError(f"'{file}' cannot be {what}: {error.strerror}") from error
