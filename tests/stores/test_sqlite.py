"""The SQLite store's own behaviour: the file and its faults, other processes."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from importlib.resources import files
from pathlib import Path

import pytest

from batchflow.core.ports import Clock
from batchflow.engine.clock import SystemClock
from batchflow.errors import StoreError, StoreIncompatible, StoreUnavailable
from batchflow.stores.sqlite import SqliteStore, connection
from batchflow.testing.clock import ManualClock
from tests.conformance.scene import LEASE_MS, Scene, message, names
from tests.house.sources import ROOT
from tests.waiting import wait_until


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "batchflow.db")


@asynccontextmanager
async def opened(path: str, clock: Clock | None = None, synchronous: str = "NORMAL") -> AsyncGenerator[SqliteStore]:
    store = SqliteStore(path, clock=clock or ManualClock(), synchronous=synchronous)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@contextmanager
def raw(path: str) -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as direct:
        yield direct


def content(path: str) -> list[str]:
    """The statements that make the tables and rows of a file."""
    with raw(path) as direct:
        return sorted(direct.iterdump())


async def refusal(path: str) -> str:
    """The error that opening the file raises."""
    store = SqliteStore(path, clock=ManualClock())
    with pytest.raises(StoreIncompatible) as caught:
        await store.open()
    await store.close()
    return str(caught.value)


# The schema


async def test_migrations_one_by_one_make_the_schema_of_a_fresh_file(path: str, tmp_path: Path) -> None:
    """A file that was migrated through every version is like one that was made today."""
    async with opened(path):
        pass
    step_by_step = str(tmp_path / "old.db")
    with raw(step_by_step) as direct:
        for number, text in sorted(connection.migration_texts().items()):
            direct.executescript(text)
            direct.execute(f"PRAGMA application_id = {connection.APPLICATION_ID}")
            direct.execute(f"PRAGMA user_version = {number}")
    async with opened(step_by_step):
        pass
    assert content(step_by_step) == content(path)


async def test_a_file_of_the_schema_before_is_migrated_and_goes_on(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its waiting messages are claimed afterwards; a migration runs once."""
    scene = Scene(SqliteStore(path, clock=(clock := ManualClock())), clock)
    await scene.store.open()
    await scene.publish("a")
    await scene.store.close()
    known = connection.migration_texts()
    later = known | {max(known) + 1: "CREATE TABLE later (x);\nALTER TABLE message ADD COLUMN later TEXT;\n"}
    monkeypatch.setattr(connection, "migration_texts", lambda: later)
    for expected in (["a"], []):
        await scene.store.open()
        await scene.store.register("w1", LEASE_MS)
        assert names(await scene.claim()) == expected
        await scene.store.close()
    with raw(path) as direct:
        assert direct.execute("PRAGMA user_version").fetchone() == (max(later),)
        assert direct.execute("SELECT count(*) FROM later").fetchone() == (0,)


async def test_a_file_of_schema_10_goes_on_with_what_waits_in_it(path: str) -> None:
    """Of one key it is due, of another later: both are claimed in their time, and a flow key opens as it would have."""
    scene = Scene(SqliteStore(path, clock=(clock := ManualClock())), clock)
    with raw(path) as direct:
        direct.executescript(connection.migration_texts()[10])
        waiting = (("one", "now", 0), ("two", "later", clock.now() + 5_000))
        for lane, (key, id, due) in enumerate(waiting, 1):
            direct.execute("INSERT INTO flow (key) VALUES (?)", [key])
            direct.execute("INSERT INTO lane (key, destination, flow) VALUES (?, 'work', ?)", [lane, key])
            direct.execute("UPDATE lane SET ready_at = ? WHERE key = ?", [due, lane])
            direct.execute(
                "INSERT INTO message (id, lane, due, created_at, body) VALUES (?, ?, ?, 1, '1')", [id, lane, due]
            )
        direct.execute(f"PRAGMA application_id = {connection.APPLICATION_ID}")
        direct.execute("PRAGMA user_version = 10")
    await scene.store.open()
    await scene.store.register("w1", LEASE_MS)
    assert names(await scene.claim()) == ["now"]
    clock.advance("5s")
    assert names(await scene.claim()) == ["later"]
    await scene.store.close()


@pytest.mark.parametrize("schema", [1, 3])
async def test_a_file_of_before_the_first_release_is_refused(path: str, schema: int) -> None:
    """With a sentence that names the way for its ledger; it is left as it was."""
    with raw(path) as direct:
        direct.execute("CREATE TABLE workflow (key INTEGER PRIMARY KEY, name TEXT)")
        direct.execute(f"PRAGMA application_id = {connection.APPLICATION_ID}")
        direct.execute(f"PRAGMA user_version = {schema}")
    told = await refusal(path)
    assert f"before 0.1.0 (schema {schema})" in told
    assert "batchflow ledger export" in told
    assert "batchflow ledger import" in told
    with raw(path) as direct:
        assert direct.execute("PRAGMA user_version").fetchone() == (schema,)


def test_migrations_are_named_by_the_schema_they_lead_to() -> None:
    """`0010_…`, `0011_…`, without a gap from that of 0.1.0 on."""
    names = sorted(entry.name for entry in files("batchflow.stores.sqlite").joinpath("migrations").iterdir())
    known = connection.migration_texts()
    assert [name[:5] for name in names if name.endswith(".sql")] == [f"{number:04d}_" for number in sorted(known)]
    assert sorted(known) == list(range(10, 10 + len(known)))


async def test_the_file_carries_our_mark_and_its_version(path: str) -> None:
    """`file batchflow.db` and a later version know whose it is."""
    async with opened(path):
        pass
    with raw(path) as direct:
        assert direct.execute("PRAGMA application_id").fetchone() == (connection.APPLICATION_ID,)
        assert direct.execute("PRAGMA user_version").fetchone() == (max(connection.migration_texts()),)
        assert direct.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize(("asked", "level"), [("FULL", 2), ("NORMAL", 1)])
def test_synchronous_is_as_asked(path: str, asked: str, level: int) -> None:
    """FULL is on disk when it is answered."""
    with closing(connection.connect(path, synchronous=asked)) as direct:
        assert direct.execute("PRAGMA synchronous").fetchone() == (level,)


def test_synchronous_is_full_unless_said_otherwise(path: str) -> None:
    """Durable is the default."""
    assert SqliteStore(path, clock=ManualClock()).synchronous == "FULL"


# What can be wrong with the file


async def test_a_newer_file_is_refused(path: str) -> None:
    """It is left as it was."""
    async with opened(path):
        pass
    with raw(path) as direct:
        direct.execute("PRAGMA user_version = 99")
    known = max(connection.migration_texts())
    assert await refusal(path) == (
        f"'{path}' was made by a newer batchflow (schema 99, this one knows {known}); "
        "upgrade batchflow, or name another file"
    )


async def test_a_foreign_database_is_refused(path: str) -> None:
    """And not changed: neither its tables nor its journal mode."""
    with raw(path) as direct:
        direct.execute("CREATE TABLE theirs (x)")
    before = Path(path).read_bytes()
    assert await refusal(path) == (f"'{path}' is the database of another program; give batchflow a file of its own")
    assert Path(path).read_bytes() == before


async def test_a_file_that_is_no_database_is_refused(path: str) -> None:
    """And not changed."""
    Path(path).write_text("id,name\n1,Ada\n" * 100)
    assert await refusal(path) == f"'{path}' is not a SQLite database, or is damaged; name another file"
    assert Path(path).read_text().startswith("id,name\n1,Ada\n")


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """Nobody wants a folder made by a slip of the pen."""
    message = f"there is no folder '{tmp_path}/data' for the database 'batchflow.db'; make it first"
    assert await refusal(str(tmp_path / "data" / "batchflow.db")) == message


async def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """The message names a file in it."""
    message = f"'{tmp_path}' is a folder; name a file in it, such as sqlite:///{tmp_path}/batchflow.db"
    assert await refusal(str(tmp_path)) == message


@pytest.mark.parametrize("closed", ["file", "folder"])
async def test_what_cannot_be_written_is_refused(closed: str) -> None:
    """A read-only file, or a folder in which nothing can be made."""
    # Not under tmp_path, whose parents nobody else may enter: the test may have to become somebody else.
    run = await asyncio.to_thread(_as_nobody, closed)
    assert run.stdout.strip().endswith("cannot be written; make the file and its folder writable, or name another")


READ_ONLY = """
    import asyncio, os, pathlib, sys, tempfile
    from batchflow.errors import StoreIncompatible
    from batchflow.stores.sqlite import SqliteStore
    from batchflow.testing.clock import ManualClock

    async def main() -> None:
        warm = SqliteStore(":memory:", clock=ManualClock())  # nobody may not read what is imported late
        await warm.open()
        await warm.close()
        if os.geteuid() == 0:
            os.setuid(65534)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "batchflow.db"
            if sys.argv[1] == "file":
                store = SqliteStore(str(path), clock=ManualClock())
                await store.open()
                await store.close()
                path.chmod(0o400)
            else:
                pathlib.Path(folder).chmod(0o500)
            try:
                store = SqliteStore(str(path), clock=ManualClock())
                await store.open()
                await store.publish([])
            except StoreIncompatible as error:
                print(error)
            finally:
                await store.close()
                pathlib.Path(folder).chmod(0o700)

    asyncio.run(main())
"""


def _as_nobody(closed: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(READ_ONLY), closed]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


async def test_a_full_disk_is_for_now(path: str) -> None:
    """A write that does not fit fails with a sentence; stored data stays, and work continues once there is room."""
    async with opened(path) as store:
        await store.publish([message("a")])
        writing = vars(store)["_writer"].connection
        pages = writing.execute("PRAGMA page_count").fetchone()[0]
        writing.execute(f"PRAGMA max_page_count = {pages}")
        big = [message(f"big{number}", body=f'"{"x" * 4_000}"') for number in range(50)]
        with pytest.raises(StoreUnavailable) as caught:
            await store.publish(big)
        told = f"the disk is full: '{path}' cannot grow; free some space, the work goes on by itself"
        assert str(caught.value) == told
        writing.execute("PRAGMA max_page_count = 1000000")
        assert list(await store.publish(big)) == [True] * 50


async def test_a_locked_file_is_waited_for(path: str) -> None:
    """Another program's transaction delays ours, it does not break it."""
    async with opened(path) as store:
        with raw(path) as direct:
            direct.execute("BEGIN IMMEDIATE")
            publishing = asyncio.ensure_future(store.publish([message("a")]))
            await asyncio.wait([publishing], timeout=0.2)
            assert not publishing.done()
            direct.execute("COMMIT")
            assert await publishing == [True]


async def test_a_lock_that_stays_fails_all_who_wait_after_one_wait(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many operations wait together, not one after the other."""
    monkeypatch.setattr(connection, "BUSY_TIMEOUT_MS", 100)
    async with opened(path) as store:
        with raw(path) as direct:
            direct.execute("BEGIN IMMEDIATE")
            loop = asyncio.get_running_loop()
            begun = loop.time()
            publishing = [store.publish([message(f"m{number}")]) for number in range(200)]
            answers = await asyncio.gather(*publishing, return_exceptions=True)
            assert loop.time() - begun < 5
            assert {type(answer) for answer in answers} == {StoreUnavailable}
            assert "was locked by another process" in str(answers[0])
            direct.execute("COMMIT")
        assert await store.publish([message("m0")]) == [True]


async def test_reading_fails_with_our_own_errors(path: str) -> None:
    """Callers see a `StoreError` for any error of SQLite."""
    async with opened(path) as store:
        with raw(path) as direct:
            direct.execute("DROP TABLE run")
        with pytest.raises(StoreError):
            await store.run("a")
        assert await store.batches() == []


# Processes


@contextmanager
def process(path: str, verb: str) -> Generator[subprocess.Popen[str]]:
    """Another process on the file, which has done what it was to do."""
    command = [sys.executable, "-m", "tests.stores.crashing", path, verb]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            yield other
        finally:
            other.kill()


async def _line(other: subprocess.Popen[str]) -> str:
    assert other.stdout is not None
    return (await asyncio.to_thread(other.stdout.readline)).strip()


async def test_claims_of_a_killed_process_come_back_at_once(path: str) -> None:
    """Its lease would have gone on for an hour; the lock of its worker went with it."""
    async with opened(path, SystemClock()) as store:
        await store.publish([message("a"), message("b")])
        await store.register("w1", LEASE_MS)
        with process(path, "claim") as other:
            assert await _line(other) == "2"
            assert await store.expire() == 0
            os.kill(other.pid, signal.SIGKILL)
            await asyncio.to_thread(other.wait)
            lost = (await store.workers())[0]
            assert (lost.name, lost.held, lost.lost) == ("doomed", 2, True)
            assert await store.expire() == 2
            assert [it.name for it in await store.workers()] == ["w1"]
        claims = (await store.claim("w1", ["work"], 10)).claims
        assert [(claim.id, claim.losses) for claim in claims] == [("a", 1), ("b", 1)]


async def test_processes_wake_each_other(path: str) -> None:
    """A publish in one is told of in the other."""
    async with opened(path, SystemClock()) as store:
        told: list[bool] = []
        store.on_change(told.append)
        await wait_until(lambda: True in told, description="the look at the past is over")
        told.clear()
        with process(path, "publish") as other:
            assert await _line(other) == "published"
            await wait_until(lambda: True in told, description="the other process's publish is told of")
        await store.register("w1", LEASE_MS)
        assert names((await store.claim("w1", ["work"], 10)).claims) == ["theirs"]


async def test_processes_that_start_together_share_a_fresh_file(path: str) -> None:
    """The first process sets the file up; none takes it for another program's."""
    with process(path, "publish") as one, process(path, "publish") as two, process(path, "publish") as three:
        assert [await _line(other) for other in (one, two, three)] == ["published"] * 3


async def test_locks_of_workers_go_with_them(path: str) -> None:
    """Nothing is left beside the file when all have stopped."""
    async with opened(path) as store:
        scene = Scene(store, ManualClock())
        await store.register("w1", LEASE_MS)
        await store.register("w2", LEASE_MS)
        await store.deregister("w1")
        assert await scene.claim() == []
    assert [entry.name for entry in Path(path).parent.iterdir()] == ["batchflow.db"]


async def test_memory_is_empty_each_time() -> None:
    """Two stores in memory have nothing in common."""
    async with opened(":memory:") as one, opened(":memory:") as two:
        await one.publish([message("a")])
        assert await two.run("a") is None
