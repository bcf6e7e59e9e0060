"""The statements of the SQLite store: each has one caller, and none walks through a large table."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchflow.stores.sqlite import connection
from batchflow.stores.sqlite.connection import SIZES, Queries, Query
from tests.house.sources import ROOT

FOLDER = ROOT / "batchflow/stores/sqlite"
CODE = [*FOLDER.glob("*.py"), *(ROOT / "batchflow/stores/sql").glob("*.py")]
TEXT = (FOLDER / "queries.sql").read_text()
PARTS = re.split(r"^-- (\w+) --$", TEXT, flags=re.MULTILINE)[1:]
NAMES = PARTS[::2]
BODIES = {
    name: "\n".join(line for line in body.splitlines() if not line.startswith("--"))
    for name, body in zip(NAMES, PARTS[1::2], strict=True)
}
LARGE = (
    "message", "step", "item", "mark", "run", "arrival", "listener", "kept_event", "webhook", "flow", "lane",
    "post_log", "open_post", "post_dedup", "queue", "queued_post", "queue_place", "document",
    "wire_run", "wire_entry", "wire_member", "wire_wait", "wire_kept_event",
)  # fmt: skip
SCAN = re.compile(r"SCAN (\w+)")
LEDGER = re.compile(r"SEARCH \w+ (?:EXISTS )?USING PRIMARY KEY \(ledger=\?\)")

# Statements that read a large table from one end to the other, with the reason.
WALKS: dict[str, str] = {
    "lanes_broken_off": "an index that holds nothing but what it looks for",
    "lanes_ready": "keys that are open, in the order of their turns, as far as the limit reaches",
    "work_unserved": "an index that holds only lanes in which something waits, once a minute",
    "ledger_list": "the first marks of each ledger",
    "flow_status_all": "all keys are asked for",
    "mark_forget_all": "all marks of one ledger are to go",
    "mark_forget_all_held": "all marks of one ledger are to go",
}


class Recorder:
    """Stands for a connection and keeps what it is told to execute."""

    def __init__(self) -> None:
        self.told: list[tuple[str, list[Any]]] = []

    def execute(self, sql: str, arguments: list[Any]) -> None:
        self.told.append((sql, arguments))


def bound(name: str, query: Query, *, rows: int) -> tuple[str, list[Any]]:
    """The statement as it is executed, with made-up values."""
    body = BODIES[name]
    values: dict[str, Any] = {
        parameter: "[]" if parameter in {"destinations", "ids", "keys"} else 1
        for parameter in re.findall(r":(\w+)", body)
        if parameter != "rows"
    }
    recorder: Any = Recorder()
    if given := re.search(r"given \(([^)]*)\)", body):
        list(query.execute_rows(recorder, [[1] * len(given[1].split(","))] * rows, **values))
    else:
        query.execute(recorder, **values)
    (told,) = recorder.told
    return told


def test_many_rows_are_read_before_the_next_call_so_that_its_statement_is_prepared_once() -> None:
    recorder: Any = Recorder()
    calls = Queries.load()["message_held"].execute_rows(recorder, [(slot, "id", 1) for slot in range(SIZES[-1] + 1)])
    next(calls)
    assert len(recorder.told) == 1
    next(calls)
    assert len(recorder.told) == 2
    assert not list(calls)


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[str]]]:
    path = str(tmp_path_factory.mktemp("plans") / "batchflow.db")
    opened = connection.connect(path, synchronous="OFF")
    connection.prepare(opened, path)
    queries = Queries.load()
    found: dict[str, list[str]] = {}
    for name in NAMES:
        sql, arguments = bound(name, queries[name], rows=64)
        found[name] = [row[3] for row in opened.execute(f"EXPLAIN QUERY PLAN {sql}", arguments)]
    yield found
    opened.close()


def walks(plan: list[str], sql: str) -> Iterator[str]:
    """The lines of a plan in which a large table or a whole ledger is scanned."""
    aliases = dict(re.findall(r"\b(?:FROM|JOIN|UPDATE|INTO)\s+(\w+)(?:\s+(?!ON|WHERE|SET|LEFT|CROSS|JOIN)(\w+))?", sql))
    named = {alias or table: table for table, alias in aliases.items()}
    for line in plan:
        match = SCAN.match(line)
        if (match and named.get(match[1], match[1]) in LARGE) or LEDGER.fullmatch(line):
            yield line


@pytest.mark.parametrize("name", NAMES)
def test_no_statement_walks_through_a_large_table(name: str, plans: dict[str, list[str]]) -> None:
    """Every access to what grows with the work is by an index."""
    found = list(walks(plans[name], BODIES[name]))
    automatic = [line for line in plans[name] if "AUTOMATIC" in line]
    if name in WALKS:
        assert found
    else:
        assert (found, automatic) == ([], [])


def test_every_statement_has_one_caller() -> None:
    """A statement nobody uses goes; one that two use is two promises."""
    # `columns.py` names them once more.
    code = "\n".join(path.read_text() for path in CODE if path.name != "columns.py")
    callers = {name: len(re.findall(rf'"{name}"', code)) for name in NAMES}
    assert {name: count for name, count in callers.items() if count != 1} == {}


def test_every_statement_says_what_it_is_for_once() -> None:
    """Names are unique."""
    assert sorted(set(NAMES)) == sorted(NAMES)


def test_no_statement_stands_in_the_code() -> None:
    """SQL is in `queries.sql` and the migrations; the code has PRAGMAs and transactions only."""
    statement = re.compile(r"\"(?:SELECT|INSERT|UPDATE|DELETE|CREATE|WITH)\b[^\"]*")
    found = {f"{Path(path).name}: {text}" for path in CODE for text in statement.findall(path.read_text())}
    assert found == {'connection.py: "SELECT count(*) FROM sqlite_master'}
