"""The statements of `queries.sql`, carried out on a connection."""

import sqlite3
from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json

from batchflow.stores.sql.transaction import Tx
from batchflow.stores.sqlite.locks import WorkerLocks
from batchflow.stores.sqlite.queries import Queries, Row


class SqliteTx(Tx):
    """A connection to the file. A reading statement returns one JSON text, which is parsed here."""

    def __init__(self, connection: sqlite3.Connection, queries: Queries, locks: WorkerLocks) -> None:
        super().__init__()
        self.connection = connection
        self._queries = queries
        self._locks = locks

    def run(self, statement: str, /, **values: Any) -> int:
        """See `Tx`."""
        before = self.connection.total_changes
        self._queries[statement].execute(self.connection, **values)
        return self.connection.total_changes - before

    def run_rows(self, statement: str, rows: Sequence[Row], /, **values: Any) -> int:
        """See `Tx`."""
        # `rowcount` is not set for statements that begin with WITH.
        before = self.connection.total_changes
        for _ in self._queries[statement].execute_rows(self.connection, rows, **values):
            pass
        return self.connection.total_changes - before

    def one(self, statement: str, /, **values: Any) -> Any:
        """See `Tx`."""
        row = self._queries[statement].execute(self.connection, **values).fetchone()
        return None if row is None else row[0]

    def json(self, statement: str, /, **values: Any) -> list[Any]:
        """See `Tx`."""
        return from_json(self._queries[statement].execute(self.connection, **values).fetchone()[0])

    def json_rows(self, statement: str, rows: Sequence[Row], /, **values: Any) -> list[Any]:
        """See `Tx`."""
        found: list[Any] = []
        for cursor in self._queries[statement].execute_rows(self.connection, rows, **values):
            found.extend(from_json(cursor.fetchone()[0]))
        return found

    def is_gone(self, worker: str) -> bool:
        """See `Tx`."""
        return self._locks.is_free(worker)
