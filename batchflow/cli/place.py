"""The store of commands that only look: one that is not there is not made."""

from pathlib import Path

from batchflow.app import open_store
from batchflow.engine.system import SystemClock
from batchflow.errors import InputError
from batchflow.settings import Settings
from batchflow.stores.protocol import Store
from batchflow.stores.sqlite import SqliteStore


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
