"""Errors of SQLite, and a file that disappears under a process: a temporary error is retried."""

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from batchflow import Batchflow
from batchflow.errors import StoreUnavailable
from batchflow.stores.sqlite import SqliteStore, connection
from batchflow.stores.sqlite.connection import translate_error
from batchflow.testing.clock import ManualClock
from tests.conformance.scene import message
from tests.stores.test_sqlite import opened
from tests.waiting import wait_until


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "batchflow.db")


def error(name: str, text: str = "said") -> sqlite3.Error:
    made: Any = sqlite3.OperationalError(text)
    made.sqlite_errorname = name
    return made


FINAL = ("SQLITE_TOOBIG", "SQLITE_MISMATCH", "SQLITE_RANGE", "SQLITE_CONSTRAINT_NOTNULL")
PASSING = (
    *("SQLITE_FULL", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR_WRITE"),
    *("SQLITE_NOMEM", "SQLITE_PROTOCOL", "SQLITE_INTERRUPT", "SQLITE_ERROR", "SQLITE_AUTH", "SQLITE_NOBODY_KNOWS", ""),
)


@pytest.mark.parametrize("name", [*FINAL, *PASSING])
def test_only_what_is_the_operations_own_fault_is_final(name: str) -> None:
    """An unknown error may be temporary."""
    assert translate_error(error(name), "a.db").retryable is (name not in FINAL)


@pytest.mark.parametrize(
    ("fault", "passes"),
    [
        (sqlite3.DataError("string or blob too big"), False),
        (sqlite3.InterfaceError("Error binding parameter 1"), False),
        (sqlite3.ProgrammingError("Cannot operate on a closed database."), True),
        (error("SQLITE_ERROR", "malformed JSON"), False),
        (error("SQLITE_ERROR", "no such table: message"), True),
    ],
)
def test_what_python_cannot_hand_over_is_final(fault: sqlite3.Error, passes: bool) -> None:
    """A closed file is not."""
    assert translate_error(fault, "a.db").retryable is passes


@pytest.mark.parametrize("how", ["removed", "replaced by another one"])
async def test_a_file_that_is_gone_takes_nothing_more(path: str, how: str) -> None:
    """Verbs are refused in one sentence, and no answer pretends that something was stored."""
    async with opened(path) as store:
        await store.publish([message("a")])
        Path(path).rename(f"{path}.away")
        if how != "removed":
            Path(path).touch()
        for _ in range(2):
            with pytest.raises(StoreUnavailable) as caught:
                await store.publish([message("b")])
            assert str(caught.value) == (
                f"'{path}' was {how} while it was in use, and nothing is written any more; "
                "put the file back, or start this program again to work with what is there now"
            )
        with pytest.raises(StoreUnavailable):
            await store.run("a")
        Path(f"{path}.away").replace(path)
        assert await store.run("b") is None
        assert await store.publish([message("b")]) == [True]


async def test_a_file_that_is_gone_is_told_once(path: str) -> None:
    """By a process that does nothing at all, too."""
    with capture_logs() as logs:
        async with opened(path):
            Path(path).rename(f"{path}.away")
            await wait_until(lambda: len(logs) == 1, description="it is said")
            await wait_until(lambda: True, description="and not again")
    assert [(it["log_level"], it["event"]) for it in logs] == [("error", "[batchflow:error] The database is gone")]


async def test_a_worker_goes_on_when_the_file_is_back(path: str) -> None:
    """Runs triggered before are executed."""
    flow = Batchflow(f"sqlite:///{path}")

    @flow.batch(flow=None)
    async def greet(user: str) -> str:
        return user

    async with flow:
        await (await greet.trigger(ids=["ada"])).wait(timeout=30)
        Path(path).rename(f"{path}.away")
        with pytest.raises(StoreUnavailable):
            await greet.trigger(ids=["bob"])
        Path(f"{path}.away").replace(path)
        assert (await (await greet.trigger(ids=["bob"])).wait(timeout=30)).counts.succeeded == 1


async def test_another_folder_is_no_loss_of_the_file(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may go where it likes; its file was named from where it began."""
    monkeypatch.chdir(Path(path).parent)
    async with opened("batchflow.db") as store:
        monkeypatch.chdir("/")
        assert await store.publish([message("a")]) == [True]


async def test_an_open_that_is_cancelled_leaves_no_connection(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connections: list[sqlite3.Connection] = []
    begun, may_end = threading.Event(), threading.Event()
    connect = connection.connect

    def connect_when_told(path: str, *, synchronous: str) -> sqlite3.Connection:
        begun.set()
        may_end.wait()
        connections.append(connect(path, synchronous=synchronous))
        return connections[-1]

    monkeypatch.setattr(connection, "connect", connect_when_told)
    store = SqliteStore(path, clock=ManualClock())
    opening = asyncio.create_task(store.open())
    await asyncio.to_thread(begun.wait)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    may_end.set()
    await store.open()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connections[0].execute("SELECT 1")
    await store.close()
