"""Measures SQLite and the interpreter on this machine: the references of all other figures."""

import asyncio
import sqlite3
import time
from pathlib import Path

ROWS = 100
PAYLOAD = '{"id":"user-0000000","name":"User user-0000000","visits":3}'


def sqlite_items(folder: Path, items: int = 20_000) -> float:
    """Items per second through the least SQLite work a durable queue can do: insert, claim, three steps, delete.

    100 rows a transaction, WAL, synchronous=FULL, the sqlite3 module from one thread.
    """
    connection = sqlite3.connect(folder / "reference.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE queue (id INTEGER PRIMARY KEY, payload TEXT, lease INTEGER)")
    connection.execute("CREATE INDEX queue_lease ON queue (lease, id)")
    connection.execute(
        "CREATE TABLE step (id INTEGER, number INTEGER, value TEXT, PRIMARY KEY (id, number)) WITHOUT ROWID"
    )
    begun = time.perf_counter()
    for low in range(0, items, ROWS):
        with _Transaction(connection):
            rows = [(number, PAYLOAD) for number in range(low, low + ROWS)]
            connection.executemany("INSERT INTO queue VALUES (?, ?, 0)", rows)
    for _ in range(0, items, ROWS):
        with _Transaction(connection):
            claimed = connection.execute(
                "UPDATE queue SET lease = 1 WHERE id IN (SELECT id FROM queue WHERE lease = 0 ORDER BY id LIMIT ?)"
                " RETURNING id, payload",
                (ROWS,),
            ).fetchall()
        ids = [(id,) for id, _ in claimed]
        for number in range(3):
            with _Transaction(connection):
                connection.executemany(f"INSERT INTO step VALUES (?, {number}, 'result')", ids)
        with _Transaction(connection):
            connection.executemany("DELETE FROM queue WHERE id = ?", ids)
            connection.executemany("DELETE FROM step WHERE id = ?", ids)
    taken = time.perf_counter() - begun
    connection.close()
    return items / taken


def python_items(items: int = 50_000) -> float:
    """Items per second of asyncio doing nothing: one task an item, which waits for three futures."""

    async def item(loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(3):
            future = loop.create_future()
            loop.call_soon(future.set_result, None)
            await future

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(0, items, ROWS):
            await asyncio.gather(*(item(loop) for _ in range(ROWS)))

    begun = time.perf_counter()
    asyncio.run(main())
    return items / (time.perf_counter() - begun)


class _Transaction:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self._connection.execute("COMMIT")
