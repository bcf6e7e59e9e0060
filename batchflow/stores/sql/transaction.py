"""What the verbs work with: a transaction that carries out statements by name, its time, and what is remembered."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json

from batchflow.core.batch import NO_HEADERS
from batchflow.core.flow import FlowControl


class StaleCache(Exception):
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

_LISTS = 64


class Tx(ABC):
    """One connection of a dialect, inside a transaction: what all verbs of `stores/sql` ask of a database.

    A dialect carries out the statements of its own `queries.sql`; the verbs name them, and know the names of their
    parameters and the order of their columns. Verbs of two transactions never run at once: a database that has more
    than one writer locks the namespace for each of them. `now` is the time of the present transaction, in ms.
    """

    def __init__(self) -> None:
        self.now = 0
        self.idle_after = ""
        """The flow key after which the search for idle ones goes on."""
        self.lanes: dict[tuple[str, str, int, int], int] = {}
        self.limits: dict[str, FlowControl] = {}
        self.heads: dict[int, BatchHead] = {}
        self.batch_keys: dict[str, int] = {}
        self._served: dict[tuple[str, ...], int] = {}
        self._latest: tuple[Sequence[str], int] = ((), 0)

    @abstractmethod
    def run(self, statement: str, /, **values: Any) -> int:
        """Run a writing statement; how many rows it changed."""

    @abstractmethod
    def run_rows(self, statement: str, rows: Sequence[Sequence[Any]], /, **values: Any) -> int:
        """Run a writing statement over `rows`; how many rows it changed."""

    @abstractmethod
    def one(self, statement: str, /, **values: Any) -> Any:
        """The first column of the first row; None when there is none."""

    @abstractmethod
    def json(self, statement: str, /, **values: Any) -> list[Any]:
        """All rows that a reading statement returns, each as JSON has it; a statement of one column gives values."""

    @abstractmethod
    def json_rows(self, statement: str, rows: Sequence[Sequence[Any]], /, **values: Any) -> list[Any]:
        """The same for a statement over `rows`."""

    @abstractmethod
    def is_gone(self, worker: str) -> bool:
        """Whether the process of a worker is known to have ended, though its lease has not. What is unknown is not."""

    def forget_cached(self) -> None:
        """Drop what is remembered, since others have written."""
        for remembered in (self.lanes, self.limits, self.heads, self.batch_keys):
            remembered.clear()

    def forget_all(self) -> None:
        """Drop what is remembered, since the transaction was rolled back."""
        self.forget_cached()
        self._served.clear()
        self._latest = ((), 0)

    def destination_list(self, destinations: Sequence[str]) -> int:
        """The number under which statements find these destinations, which a worker gives at each of its claims."""
        # A worker gives the same object each time; to hash thousands of names takes longer than a claim.
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
