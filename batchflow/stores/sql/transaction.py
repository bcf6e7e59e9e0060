"""The transaction that verbs use: named statements, its time, and cached keys."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json

from batchflow.core.batch import NO_HEADERS
from batchflow.core.flow import FlowControl
from batchflow.core.settlement import Notice


class StaleCache(Exception):
    """The cache is out of date: the transaction must be repeated."""


class BatchHead(NamedTuple):
    """The fields of a batch that never change, and its circuit breaker.

    `every`: its items start whatever the ledger contains. `origin` is the key of the batch that a retry retries, None
    once that was removed.
    """

    key: int
    id: str
    ledger: int
    lane: int
    params: str
    headers: Mapping[str, str]
    complete: str | None
    complete_flow: str
    on_failure: str | None
    notify_url: str | None
    ledger_ttl: int | None
    keep_results: int
    every: int
    parent: str | None
    parent_step: int | None
    depth: int
    force: int
    is_retry: int
    origin: int | None
    canary: int | None
    max_in_a_row: int | None
    open_for: int | None


HEADERS = BatchHead._fields.index("headers")

_LISTS = 64


class Tx(ABC):
    """A connection of a dialect inside a transaction, and all that the verbs need of a database.

    A dialect runs the statements of its own `queries.sql`; the verbs know their names, parameters and the order of
    their columns. Verbs of two transactions never run at once: a database with more than one writer locks the namespace
    for each transaction. `now` is the time of the current transaction, in ms.
    """

    def __init__(self) -> None:
        self.now = 0
        self.notices: list[Notice] = []
        """The notices of the transaction."""
        self.idle_after = ""
        """The flow key after which the search for idle keys continues."""
        self.lanes: dict[tuple[str, str, int, int], int] = {}
        self.limits: dict[str, FlowControl] = {}
        self.heads: dict[int, BatchHead] = {}
        self.batch_keys: dict[str, int] = {}
        self._served: dict[tuple[str, ...], int] = {}
        self._latest: tuple[Sequence[str], int] = ((), 0)

    @abstractmethod
    def run(self, statement: str, /, **values: Any) -> int:
        """Run a writing statement, and return how many rows it changed."""

    @abstractmethod
    def run_rows(self, statement: str, rows: Sequence[Sequence[Any]], /, **values: Any) -> int:
        """Run a writing statement over `rows`, and return how many rows it changed."""

    @abstractmethod
    def one(self, statement: str, /, **values: Any) -> Any:
        """The first column of the first row; None without rows."""

    @abstractmethod
    def column(self, statement: str, /, **values: Any) -> list[Any]:
        """The first column of all rows."""

    @abstractmethod
    def json(self, statement: str, /, **values: Any) -> list[Any]:
        """All rows of a reading statement, each as a JSON array; the values themselves if it has one column."""

    @abstractmethod
    def json_rows(self, statement: str, rows: Sequence[Sequence[Any]], /, **values: Any) -> list[Any]:
        """The same for a statement over `rows`."""

    @abstractmethod
    def is_gone(self, worker: str) -> bool:
        """True if the process of a worker is known to have ended before its lease."""

    def forget_cached(self) -> None:
        """Clear the cache, since other processes have written."""
        for cache in (self.lanes, self.limits, self.heads, self.batch_keys):
            cache.clear()

    def forget_all(self) -> None:
        """Clear the whole cache, since the transaction was rolled back."""
        self.forget_cached()
        self.notices.clear()
        self._served.clear()
        self._latest = ((), 0)

    def destination_list(self, destinations: Sequence[str]) -> int:
        """The number of the list of these destinations, which a worker passes to each of its claims."""
        # A worker passes the same object each time; hashing thousands of names takes longer than a claim.
        if destinations is self._latest[0] and isinstance(destinations, tuple):
            return self._latest[1]
        names = tuple(destinations)
        number = self._served.get(names)
        if number is None:
            if not self._served or len(self._served) >= _LISTS:
                self._served.clear()
                self.run("served_clear")
            number = self._served[names] = max(self._served.values(), default=0) + 1
            self.run_rows("served_add", [(name,) for name in names], list=number)
        self._latest = (destinations, number)
        return number

    def batch_head(self, key: int) -> BatchHead:
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
