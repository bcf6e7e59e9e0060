"""Reading the ledger of a file made before 0.1.0. Such a file is refused as a store, and it is not changed here."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib.resources import files
from pathlib import Path

from batchflow.core.batch import Mark
from batchflow.stores.sqlite.connection import APPLICATION_ID, migration_texts, translate_error


def is_old(path: str) -> bool:
    """True if the file was made before 0.1.0.

    Raises:
        StoreIncompatible: the file is not a SQLite database, or cannot be read.
    """
    try:
        with closing(_opened(path)) as connection:
            owner: int = connection.execute("PRAGMA application_id").fetchone()[0]
            version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as error:
        raise translate_error(error, path) from error
    return owner == APPLICATION_ID and 0 < version < min(migration_texts())


def marks(path: str, now: int) -> Iterator[tuple[str, Mark]]:
    """The marks that have not expired at `now`, each with its workflow, by workflow and id.

    Raises:
        StoreIncompatible: the file is damaged, or cannot be read.
    """
    query = files("batchflow.stores.sqlite").joinpath("old_ledger.sql").read_text()
    try:
        with closing(_opened(path)) as connection:
            for workflow, item, expires_at in connection.execute(query, (now,)):
                yield workflow, Mark(item, expires_at)
    except sqlite3.Error as error:
        raise translate_error(error, path) from error


def _opened(path: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)
