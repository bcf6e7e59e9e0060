"""The store of commands that need no module: one that is not there is not made."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from batchflow.app import Batchflow, open_store
from batchflow.core.store import Store
from batchflow.engine.clock import SystemClock
from batchflow.engine.engine import Engine
from batchflow.errors import InputError
from batchflow.settings import Settings
from batchflow.stores.sqlite import SqliteStore

Url = Annotated[
    str | None, typer.Option(metavar="URL", help="Where the state lives; by default BATCHFLOW_URL says it.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


@asynccontextmanager
async def engine_at(url: str | None) -> AsyncGenerator[Engine]:
    """The engine of an app without functions, at the store of `url`: it asks, and does no work.

    Raises:
        InputError: as for `store_at`.
    """
    settings = Settings.load(url=url)
    async with Batchflow(store_at(settings), worker=False) as flow:
        yield flow.engine


@asynccontextmanager
async def opened(url: str | None) -> AsyncGenerator[Store]:
    """The store of `url`, open.

    Raises:
        InputError: as for `store_at`.
    """
    store = store_at(Settings.load(url=url))
    try:
        await store.open()
        yield store
    finally:
        await store.close()


def store_at(settings: Settings) -> Store:
    """The store of the settings' URL, not opened.

    Raises:
        InputError: it is a file, and there is none, or it is the memory of another process.
    """
    store = open_store(settings, SystemClock())
    if isinstance(store, SqliteStore):
        if store.path == ":memory:":
            raise InputError(f"'{settings.url}' is the memory of one process; name a file with --url or BATCHFLOW_URL")
        if not Path(store.path).is_file():
            raise InputError(
                f"there is no database '{store.path}' here; go to its folder, or name it with --url or BATCHFLOW_URL"
            )
    return store
