"""The thread that writes: groups of operations, each group in one transaction."""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from pydantic_core import from_json

from batchflow.core.ports import Clock
from batchflow.core.settlement import Notice
from batchflow.errors import StoreError, StoreUnavailable
from batchflow.logs import logger
from batchflow.stores.base import Answers, Operation
from batchflow.stores.sql.store import run_group
from batchflow.stores.sql.transaction import StaleCache, Tx
from batchflow.stores.sqlite.connection import DatabaseFile, Queries, Row, WorkerLocks, as_temporary, translate_error


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

    def column(self, statement: str, /, **values: Any) -> list[Any]:
        """See `Tx`."""
        return [value for (value,) in self._queries[statement].execute(self.connection, **values)]

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


CHECK_INTERVAL_S = 0.05


class Writer:
    """Writes groups in the order in which they are submitted, each in one transaction."""

    def __init__(
        self,
        tx: SqliteTx,
        *,
        path: str,
        clock: Clock,
        on_foreign_change: Callable[[], None],
        on_notices: Callable[[Sequence[Notice]], None],
    ) -> None:
        self.connection = tx.connection
        self._tx = tx
        self.file = DatabaseFile(path)
        self._file_gone = False
        self._clock = clock
        self._on_foreign_change = on_foreign_change
        self._on_notices = on_notices
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._version = 0
        self._checked_at = clock.now()
        self._thread = threading.Thread(target=self._work, name="batchflow-sqlite-writer", daemon=True)
        self._thread.start()

    def write(self, group: list[Operation], done: Callable[[Answers], None]) -> None:
        """Write a group, and call `done` with the answers on the event loop."""
        loop = asyncio.get_running_loop()

        def job() -> None:
            answers = self._run_group([(operation.verb, operation.arguments) for operation in group])
            loop.call_soon_threadsafe(done, answers)

        self._jobs.put(job)

    def call(self, verb: str, *arguments: Any) -> Any:
        """Run one verb for another thread, which waits for the answer."""
        answer: Future[Any] = Future()

        def job() -> None:
            ((carried_out, value),) = self._run_group([(verb, arguments)])
            if carried_out:
                answer.set_result(value)
            else:
                answer.set_exception(value)

        self._jobs.put(job)
        return answer.result()

    def stop(self) -> None:
        """Finish the submitted groups, then end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=CHECK_INTERVAL_S)
            except queue.Empty:
                self._check_for_changes()
                continue
            if job is None:
                return
            job()
            # A writer that is always busy must notice the changes of other processes too.
            if not 0 <= self._clock.now() - self._checked_at < CHECK_INTERVAL_S * 1000:
                self._check_for_changes()

    def _check_for_changes(self) -> None:
        self._checked_at = self._clock.now()
        self._check_file()
        # The version changes only with commits of other connections; reading it costs a memory access.
        try:
            version = self._tx.connection.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error:
            return
        if version != self._version:
            self._version = version
            # Other processes may have changed cached rows.
            self._tx.forget_cached()
            self._on_foreign_change()

    def _check_file(self) -> None:
        try:
            self.file.check()
            self._file_gone = False
        except StoreError as error:
            if not self._file_gone:
                logger().error("[batchflow:error] The database is gone", error=str(error))
            self._file_gone = True

    def _run_group(self, calls: list[tuple[str, tuple[Any, ...]]]) -> Answers:
        try:
            try:
                return self._transaction(calls)
            except StaleCache:
                # The rollback has cleared the cache.
                return self._transaction(calls)
        except Exception as error:
            if len(calls) == 1 or _fails_all(error):
                return [(False, self._store_error(error)) for _ in calls]
            # A bad operation must fail alone: each runs again by itself.
            return [answer for call in calls for answer in self._run_group([call])]

    def _transaction(self, calls: list[tuple[str, tuple[Any, ...]]]) -> Answers:
        connection = self._tx.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._tx.now = self._clock.now()
            answers = run_group(self._tx, calls)
            self.file.check()
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._tx.forget_all()
            raise
        if notices := self._tx.notices:
            self._tx.notices = []
            self._on_notices(notices)
        return answers

    def _store_error(self, error: Exception) -> Exception:
        if isinstance(error, StoreError):
            return error
        if isinstance(error, sqlite3.Error):
            meaning = as_temporary(translate_error(error, self.file.path))
        else:
            meaning = StoreError(f"'{self.file.path}' cannot take this: {type(error).__name__}: {error}")
        meaning.__cause__ = error
        return meaning


def _fails_all(error: Exception) -> bool:
    # Each operation alone would wait for the lock as long as the group did. (A full disk may have room for some.)
    if isinstance(error, StoreUnavailable):
        return True
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN"))
