"""What the verbs work with: a connection inside a transaction, the statements, the time, what is remembered."""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json

from batchflow.core.batch import NO_HEADERS
from batchflow.core.flow import FlowControl
from batchflow.stores.sqlite.queries import Queries, Row


class Stale(Exception):
    """What is remembered does not hold any more: the transaction is to be carried out anew."""


class BatchHead(NamedTuple):
    """What never changes of a batch. `every`: its items start whatever the ledger says."""

    key: int
    id: str
    ledger: int
    lane: int
    params: str
    headers: Mapping[str, str]
    complete: str | None
    complete_flow: str
    on_failure: str | None
    ledger_ttl: int | None
    keep_results: int
    every: int
    parent: str | None
    parent_step: int | None
    depth: int


HEADERS = BatchHead._fields.index("headers")


class Tx:
    """A connection, and what its verbs share. `now` is the time of the present transaction, in ms."""

    def __init__(self, connection: sqlite3.Connection, queries: Queries) -> None:
        self.connection = connection
        self.now = 0
        self._queries = queries
        self.idle_after = ""
        """The flow key after which the search for idle ones goes on."""
        self.lanes: dict[tuple[str, str, int, int], int] = {}
        self.limits: dict[str, FlowControl] = {}
        self.heads: dict[int, BatchHead] = {}
        self.batch_keys: dict[str, int] = {}

    def forget(self) -> None:
        """Drop what is remembered: a transaction was rolled back, or it has grown large."""
        for remembered in (self.lanes, self.limits, self.heads, self.batch_keys):
            remembered.clear()

    def run(self, statement: str, /, **values: Any) -> int:
        """Run a writing statement; how many rows it changed."""
        before = self.connection.total_changes
        self._queries[statement].execute(self.connection, **values)
        return self.connection.total_changes - before

    def run_rows(self, statement: str, rows: Sequence[Row], /, **values: Any) -> int:
        """Run a writing statement over `rows`; how many rows it changed."""
        # `rowcount` is not set for statements that begin with WITH.
        before = self.connection.total_changes
        self._queries[statement].execute_rows(self.connection, rows, **values)
        return self.connection.total_changes - before

    def one(self, statement: str, /, **values: Any) -> Any:
        """The first column of the first row; None when there is none."""
        row = self._queries[statement].execute(self.connection, **values).fetchone()
        return None if row is None else row[0]

    def json(self, statement: str, /, **values: Any) -> list[Any]:
        """The one JSON text that a reading statement returns, parsed."""
        return from_json(self._queries[statement].execute(self.connection, **values).fetchone()[0])

    def json_rows(self, statement: str, rows: Sequence[Row], /, **values: Any) -> list[Any]:
        """The same for a statement over `rows`."""
        found: list[Any] = []
        for cursor in self._queries[statement].execute_rows(self.connection, rows, **values):
            found.extend(from_json(cursor.fetchone()[0]))
        return found

    def head(self, key: int) -> BatchHead:
        """The head of a batch that exists."""
        found = self.heads.get(key)
        if found is None:
            if len(self.heads) > 1000:
                self.heads.clear()
            row = self.json("batch_head", batch=key)
            row[HEADERS] = from_json(row[HEADERS]) if row[HEADERS] else NO_HEADERS
            found = self.heads[key] = BatchHead._make(row)
        return found

    def batch_key(self, id: str) -> int | None:
        """The key of a batch, by its id."""
        found = self.batch_keys.get(id)
        if found is None:
            found = self.one("batch_key", id=id)
            if found is not None:
                if len(self.batch_keys) > 1000:
                    self.batch_keys.clear()
                self.batch_keys[id] = found
        return found
