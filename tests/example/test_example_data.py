"""The example's database: made once, whole, and the same everywhere."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from examples.welcome_placeholder.data import connect, create

TABLES = ("users", "subscriptions", "agents", "placeholders", "agent_welcomes")


def rows(path: Path, table: str) -> list[tuple[object, ...]]:
    with connect(path) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()


def content(path: Path) -> dict[str, list[tuple[object, ...]]]:
    return {table: rows(path, table) for table in TABLES}


def test_create_makes_users_subscriptions_and_agents(tmp_path: Path) -> None:
    """1,000 users, 400 of them subscribed, 300 agents; no texts yet."""
    create(tmp_path / "welcome.db")
    sizes = {table: len(found) for table, found in content(tmp_path / "welcome.db").items()}
    assert sizes == {"users": 1000, "subscriptions": 400, "agents": 300, "placeholders": 0, "agent_welcomes": 0}


def test_create_gives_the_same_rows_every_time(tmp_path: Path) -> None:
    """Two databases made apart are equal."""
    create(tmp_path / "one.db")
    create(tmp_path / "two.db")
    assert content(tmp_path / "one.db") == content(tmp_path / "two.db")


def test_create_leaves_an_existing_database_as_it_is(tmp_path: Path) -> None:
    """What was written or changed since stays."""
    path = tmp_path / "welcome.db"
    create(path)
    with connect(path) as connection:
        connection.execute("DELETE FROM subscriptions WHERE user_id > 'user-0500'")
        connection.execute("INSERT INTO placeholders VALUES ('user-0001', '{}')")
    before = content(path)
    create(str(path))
    assert content(path) == before


def test_create_may_be_called_by_many_at_once(tmp_path: Path) -> None:
    """The rows are made by one of the callers, and nobody fails."""
    path = tmp_path / "welcome.db"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, [path] * 8))
    assert len(rows(path, "users")) == 1000


def test_connect_rolls_back_when_its_block_fails(tmp_path: Path) -> None:
    """An error leaves nothing of the unit of work behind."""
    path = tmp_path / "welcome.db"
    create(path)

    def change_and_fail() -> None:
        with connect(path) as connection:
            connection.execute("INSERT INTO placeholders VALUES ('user-0001', '{}')")
            raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError, match="changed my mind"):
        change_and_fail()
    assert rows(path, "placeholders") == []


def test_connect_closes_the_connection(tmp_path: Path) -> None:
    """Nothing can be asked of it afterwards."""
    with connect(tmp_path / "other.db") as connection:
        pass
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_connect_holds_references_to_what_they_point_at(tmp_path: Path) -> None:
    """Placeholders of a user who is not there are refused."""
    path = tmp_path / "welcome.db"
    create(path)
    with pytest.raises(sqlite3.IntegrityError), connect(path) as connection:
        connection.execute("INSERT INTO placeholders VALUES ('nobody', '{}')")
