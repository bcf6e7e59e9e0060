"""The database file: opening it, migrating it, its errors, and the locks of workers beside it."""

import contextlib
import hashlib
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from batchflow.errors import StoreError, StoreIncompatible, StoreUnavailable
from batchflow.stores.sql import columns

Row = Sequence[Any]

SIZES = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)
"""A padding row costs as much as a real one; usual chunk sizes fill these sizes by nine tenths."""
_NAME = re.compile(r"^-- (\w+) --$", re.MULTILINE)
_PARAMETER = re.compile(r":(\w+)")
_COLUMN = re.compile(r"(?:json\()?(?:\w+\.)?(\w+)\)?")
_GIVEN = re.compile(r"given\s*\(([^)]*)\)")


class Query:
    """One statement of the file."""

    def __init__(self, name: str, sql: str) -> None:
        self.name = name
        self._parameters: list[str] = _PARAMETER.findall(sql)
        self._template = _PARAMETER.sub(lambda found: "{rows}" if found[1] == "rows" else "?", sql)
        given = _GIVEN.search(sql)
        self.given: tuple[str, ...] = tuple(it.strip() for it in given[1].split(",")) if given else ()
        self.found = tuple(_name_of(it) for it in _columns(sql))
        self._width = len(self.given)
        self._texts: dict[int, str] = {}
        place = self._parameters.index("rows") if "rows" in self._parameters else 0
        self._before, self._after = self._parameters[:place], self._parameters[place + 1 :]
        self._plain = self._template if "rows" not in self._parameters else None

    def execute(self, connection: sqlite3.Connection, **values: Any) -> sqlite3.Cursor:
        """Run the statement with scalar parameters only."""
        assert self._plain is not None, self.name
        return connection.execute(self._plain, [values[name] for name in self._parameters])

    def execute_rows(
        self, connection: sqlite3.Connection, rows: Sequence[Row], **values: Any
    ) -> Iterator[sqlite3.Cursor]:
        """Run the statement with `rows`, in as few calls as the largest size allows, one for each yielded cursor.

        Read a cursor before requesting the next one: a statement that is still in use would be prepared anew.
        """
        for start in range(0, len(rows), SIZES[-1]):
            part = rows[start : start + SIZES[-1]]
            size = next(size for size in SIZES if size >= len(part))
            arguments = [values[name] for name in self._before]
            arguments.extend(chain.from_iterable(part))
            arguments.extend(repeat(None, (size - len(part)) * self._width))
            arguments.extend([values[name] for name in self._after])
            yield connection.execute(self._text(size), arguments)

    def _text(self, size: int) -> str:
        text = self._texts.get(size)
        if text is None:
            row = "(" + ",".join("?" * self._width) + ")"
            text = self._texts[size] = self._template.replace("{rows}", ",".join([row] * size))
        return text


class Queries:
    """All statements, by name."""

    def __init__(self, text: str) -> None:
        parts = _NAME.split(text)[1:]
        self._queries: dict[str, Query] = {}
        for name, body in zip(parts[::2], parts[1::2], strict=True):
            lines = [line for line in body.splitlines() if not line.startswith("--")]
            self._queries[name] = Query(name, "\n".join(lines).strip().removesuffix(";"))

    @classmethod
    @cache
    def load(cls) -> "Queries":
        """The statements of `queries.sql`, whose columns are checked."""
        loaded = cls(files("batchflow.stores.sqlite").joinpath("queries.sql").read_text())
        loaded.check()
        return loaded

    def check(self) -> None:
        """Compare the columns of all statements with those that the verbs expect."""
        statements = self._queries.values()
        columns.check(
            {it.name: it.given for it in statements if len(it.given) > 1},
            {it.name: it.found for it in statements if it.found},
        )

    def __getitem__(self, name: str) -> Query:
        return self._queries[name]


def _columns(sql: str) -> list[str]:
    """The columns of the JSON rows that a statement returns; empty if it has one column."""
    _, found, text = sql.partition("json_array(")
    columns, depth = [""] if found else [], 0
    for character in text if found else "":
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            break
        if character == "," and not depth:
            columns.append("")
        else:
            columns[-1] += character
    return columns


def _name_of(column: str) -> str | None:
    """The name of a column without its table; None for an expression."""
    name = _COLUMN.fullmatch(column.strip())
    return name[1] if name else None


try:
    import fcntl
except ImportError:  # not on Windows: there a dead worker is known by its lease alone
    fcntl = None


PRIVATE = 0o600
"""The mode of files that are created here: they hold what payloads and results hold."""


class WorkerLocks:
    """A lock of the operating system for each worker, which ends with its process, as a file beside the database."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._held: dict[str, int] = {}
        self._usable = fcntl is not None and path != ":memory:"

    def hold(self, worker: str) -> None:
        """Take the worker's lock until `release`, or until the process ends."""
        if self._usable and worker not in self._held:
            descriptor = self._try(worker)
            if descriptor is not None:
                self._held[worker] = descriptor

    def is_free(self, worker: str) -> bool:
        """True if the process that held the worker's lock has ended. A lock of unknown state is not free."""
        if not self._usable or worker in self._held:
            return False
        descriptor = self._try(worker)
        if descriptor is None:
            return False
        self._remove(worker, descriptor)
        return True

    def release(self, worker: str) -> None:
        """Release the worker's lock."""
        descriptor = self._held.pop(worker, None)
        if descriptor is not None:
            self._remove(worker, descriptor)

    def release_all(self) -> None:
        """Release all locks."""
        for worker in list(self._held):
            self.release(worker)

    def _file(self, worker: str) -> Path:
        return Path(f"{self._path}-worker-{hashlib.sha256(worker.encode()).hexdigest()[:12]}")

    def _try(self, worker: str) -> int | None:
        assert fcntl is not None
        try:
            descriptor = os.open(self._file(worker), os.O_RDWR | os.O_CREAT, PRIVATE)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor

    def _remove(self, worker: str, descriptor: int) -> None:
        # Removed while it is still held, so that no other process locks a file that is about to be removed.
        self._file(worker).unlink(missing_ok=True)
        os.close(descriptor)


APPLICATION_ID = 0x62666C77  # "bflw"
BUSY_TIMEOUT_MS = 15_000


def connect(path: str, *, synchronous: str) -> sqlite3.Connection:
    """Open a connection, which only one thread at a time may use."""
    parent = Path(path).parent
    if path != ":memory:" and not parent.is_dir():
        raise StoreIncompatible(f"there is no folder '{parent}' for the database '{Path(path).name}'; make it first")
    if Path(path).is_dir():
        raise StoreIncompatible(f"'{path}' is a folder; name a file in it, such as sqlite:///{path}/batchflow.db")
    _create_private(path)
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=1536)
    except sqlite3.Error as error:
        raise without_retry(translate_error(error, path)) from error
    try:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.executescript(_temporary())
        connection.execute("PRAGMA cache_size = -16000")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
    except sqlite3.Error as error:
        connection.close()
        raise without_retry(translate_error(error, path)) from error
    return connection


def _create_private(path: str) -> None:
    """Create the file, unless it exists, so that only its owner can read it; SQLite gives its mode to those beside it.

    If this is not possible, SQLite has the better error.
    """
    if path != ":memory:":
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE))


@cache
def _temporary() -> str:
    return files("batchflow.stores.sqlite").joinpath("temporary.sql").read_text()


def prepare(connection: sqlite3.Connection, path: str) -> bool:
    """Set up an empty file, migrate an older one, and refuse any other; True if it was empty."""
    try:
        _check_owner(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        return _migrate(connection, path) == 0
    except sqlite3.Error as error:
        raise without_retry(translate_error(error, path)) from error


def _check_owner(connection: sqlite3.Connection, path: str) -> None:
    # Both in one transaction: another process may be setting the file up.
    connection.execute("BEGIN")
    tables: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    owner: int = connection.execute("PRAGMA application_id").fetchone()[0]
    connection.execute("COMMIT")
    if tables and owner != APPLICATION_ID:
        raise StoreIncompatible(f"'{path}' is the database of another program; give batchflow a file of its own")


def _migrate(connection: sqlite3.Connection, path: str) -> int:
    """Bring a file to the latest schema; the one that it had, 0 for an empty file."""
    migrations = migration_texts()
    connection.execute("BEGIN IMMEDIATE")
    try:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        latest = max(migrations)
        if version > latest:
            raise StoreIncompatible(
                f"'{path}' was made by a newer batchflow (schema {version}, this one knows {latest}); "
                "upgrade batchflow, or name another file"
            )
        if 0 < version < min(migrations):
            raise StoreIncompatible(
                f"'{path}' was made by a batchflow before 0.1.0 (schema {version}), which this one does not read; "
                "let that version finish what is in it, save which items are processed with 'batchflow ledger export', "
                "name another file, and take them over with 'batchflow ledger import'"
            )
        for statement in _steps(migrations, version) if version else _latest_schema():
            connection.execute(statement)
        if version < latest:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        # Always written: BEGIN IMMEDIATE succeeds on a file that cannot be written, and this does not.
        connection.execute(f"PRAGMA user_version = {latest}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return version


def migration_texts() -> dict[int, str]:
    """The migrations by the schema to which each leads, the number at the start of its name."""
    folder = files("batchflow.stores.sqlite").joinpath("migrations")
    return {int(it.name[:4]): it.read_text() for it in folder.iterdir() if it.name.endswith(".sql")}


def _steps(migrations: dict[int, str], version: int) -> Iterator[str]:
    for number in sorted(migrations):
        if number > version:
            yield from _statements(migrations[number])


@cache
def _latest_schema() -> tuple[str, ...]:
    """The statements that make an empty file one of the latest schema, in a tenth of the time of all migrations."""
    with contextlib.closing(sqlite3.connect(":memory:")) as migrated:
        for statement in _steps(migration_texts(), 0):
            migrated.execute(statement)
        # Without its first and last statement, which are BEGIN and COMMIT.
        return tuple(migrated.iterdump())[1:-1]


def _statements(text: str) -> list[str]:
    found: list[str] = []
    pending = ""
    for line in text.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending)
            pending = ""
    return found


_OWN_FAULT = ("SQLITE_TOOBIG", "SQLITE_MISMATCH", "SQLITE_RANGE", "SQLITE_CONSTRAINT")
"""Errors that the same operation would get again. Any other error, above all an unknown one, may be temporary: no write
may be lost because of it."""

_CLOSED = "closed database"


def translate_error(error: sqlite3.Error, path: str) -> StoreError:
    """The store error for an error of SQLite, with advice."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_FULL"):
        return StoreUnavailable(f"the disk is full: '{path}' cannot grow; free some space, the work goes on by itself")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreUnavailable(
            f"'{path}' was locked by another process for more than {BUSY_TIMEOUT_MS // 1000} s; it is tried again"
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return StoreIncompatible(f"'{path}' cannot be written; make the file and its folder writable, or name another")
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return StoreIncompatible(f"'{path}' is not a SQLite database, or is damaged; name another file")
    if _is_own_fault(error, name):
        return StoreError(f"'{path}' cannot take this: {error} ({name or type(error).__name__})")
    return StoreUnavailable(f"'{path}': {error} ({name or type(error).__name__}); it is tried again")


def _is_own_fault(error: sqlite3.Error, name: str) -> bool:
    if name == "SQLITE_ERROR":
        # Rows are passed as JSON. Any other SQLITE_ERROR, such as a missing table, is not the operation's fault.
        return "JSON" in str(error)
    # An error without a name comes from Python, which cannot pass the value on.
    unnamed = (sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
    return name.startswith(_OWN_FAULT) or (not name and isinstance(error, unnamed) and _CLOSED not in str(error))


def as_temporary(error: StoreError) -> StoreError:
    """An error of a file that was usable before: it is temporary."""
    return StoreUnavailable(f"{error}; it is tried again meanwhile") if isinstance(error, StoreIncompatible) else error


def without_retry(error: StoreError) -> StoreError:
    """An error at the start, where nothing is retried."""
    what, again, _ = str(error).partition("; it is tried again")
    return type(error)(f"{what}; try again") if again else error


class DatabaseFile:
    """The identity of the file at the time when it was opened."""

    def __init__(self, path: str) -> None:
        self.path = path
        # Absolute, since the program may change its folder.
        self._at = None if path == ":memory:" else Path(path).absolute()
        self._known = self._now()

    def check(self) -> None:
        """Check that the file is still in its place: SQLite itself continues with a deleted file.

        Raises:
            StoreUnavailable: the file was removed or replaced.
        """
        if self._at is not None and (now := self._now()) != self._known:
            what = "removed" if now is None else "replaced by another one"
            raise StoreUnavailable(
                f"'{self.path}' was {what} while it was in use, and nothing is written any more; "
                "put the file back, or start this program again to work with what is there now"
            )

    def _now(self) -> tuple[int, int] | None:
        if self._at is None:
            return None
        try:
            found = self._at.stat()
        except FileNotFoundError:
            return None
        except OSError:
            # The file may still be there.
            return self._known
        return found.st_dev, found.st_ino
