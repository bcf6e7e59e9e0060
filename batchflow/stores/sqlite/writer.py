"""The one thread that writes: groups of operations, each group a transaction."""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from batchflow.core.clock import Clock
from batchflow.errors import StoreError, StoreUnavailable
from batchflow.logs import logger
from batchflow.stores.grouping import Answers, Operation
from batchflow.stores.sql.transaction import Stale
from batchflow.stores.sql.verbs import carry_out
from batchflow.stores.sqlite.connection import Place, meanwhile, translated
from batchflow.stores.sqlite.transaction import SqliteTx

LOOK_AROUND_S = 0.05


class Writer:
    """Writes groups in the order they come, and the verbs of a group in theirs."""

    def __init__(
        self,
        tx: SqliteTx,
        *,
        path: str,
        clock: Clock,
        on_foreign_change: Callable[[], None],
    ) -> None:
        self.connection = tx.connection
        self._tx = tx
        self.place = Place(path)
        self._gone = False
        self._clock = clock
        self._on_foreign_change = on_foreign_change
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._version = 0
        self._looked_at = clock.now()
        self._thread = threading.Thread(target=self._work, name="batchflow-sqlite-writer", daemon=True)
        self._thread.start()

    def write(self, group: list[Operation], done: Callable[[Answers], None]) -> None:
        """Write a group; `done` is called on the event loop."""
        loop = asyncio.get_running_loop()

        def job() -> None:
            answers = self._carry_out([(operation.verb, operation.arguments) for operation in group])
            loop.call_soon_threadsafe(done, answers)

        self._jobs.put(job)

    def call(self, verb: str, *arguments: Any) -> Any:
        """Carry out one verb for another thread, which waits for it."""
        answer: Future[Any] = Future()

        def job() -> None:
            ((carried_out, value),) = self._carry_out([(verb, arguments)])
            if carried_out:
                answer.set_result(value)
            else:
                answer.set_exception(value)

        self._jobs.put(job)
        return answer.result()

    def stop(self) -> None:
        """Finish what was handed over, then end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=LOOK_AROUND_S)
            except queue.Empty:
                self._look_around()
                continue
            if job is None:
                return
            job()
            # Who writes without a pause is told of others' changes as well.
            if not 0 <= self._clock.now() - self._looked_at < LOOK_AROUND_S * 1000:
                self._look_around()

    def _look_around(self) -> None:
        self._looked_at = self._clock.now()
        self._look_at_file()
        # The number changes with commits of other connections only, at the price of a memory read.
        try:
            version = self._tx.connection.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error:
            return
        if version != self._version:
            self._version = version
            # What others have changed may be what is remembered.
            self._tx.forget()
            self._on_foreign_change()

    def _look_at_file(self) -> None:
        try:
            self.place.check()
            self._gone = False
        except StoreError as error:
            if not self._gone:
                logger().error("[batchflow:error] The database is gone", error=str(error))
            self._gone = True

    def _carry_out(self, calls: list[tuple[str, tuple[Any, ...]]]) -> Answers:
        try:
            try:
                return self._transaction(calls)
            except Stale:
                # What was remembered is forgotten by now.
                return self._transaction(calls)
        except Exception as error:
            if len(calls) == 1 or _concerns_all(error):
                return [(False, self._meaning(error)) for _ in calls]
            # One bad operation fails alone: each again, by itself.
            return [answer for call in calls for answer in self._carry_out([call])]

    def _transaction(self, calls: list[tuple[str, tuple[Any, ...]]]) -> Answers:
        connection = self._tx.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._tx.now = self._clock.now()
            answers = carry_out(self._tx, calls)
            self.place.check()
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._tx.undo()
            raise
        return answers

    def _meaning(self, error: Exception) -> Exception:
        if isinstance(error, StoreError):
            return error
        if isinstance(error, sqlite3.Error):
            meaning = meanwhile(translated(error, self.place.path))
        else:
            meaning = StoreError(f"'{self.place.path}' cannot take this: {type(error).__name__}: {error}")
        meaning.__cause__ = error
        return meaning


def _concerns_all(error: Exception) -> bool:
    # Each operation by itself would wait for the lock as long as the group did. (A full disk may have room for some.)
    if isinstance(error, StoreUnavailable):
        return True
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN"))
