"""`batchflow ledger`: what is processed, listed, taken from one place to another, forgotten."""

import asyncio
import io
import json
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fakeredis import FakeAsyncRedis

from batchflow.core.batch import Mark
from batchflow.engine.clock import SystemClock
from batchflow.stores.redis import keys, old_ledger
from batchflow.stores.sqlite import SqliteStore
from batchflow.stores.sqlite.connection import APPLICATION_ID
from tests.cli.command_line import CommandLine

T = TypeVar("T")
YEARS = ('reports{"year":2030}', 'reports{"year":2031}')
LATER = "2090-01-02T03:04:05.678Z"


def at(path: Path, ask: Callable[[SqliteStore], Awaitable[T]]) -> T:
    """The answer of a store at a path."""

    async def asked() -> T:
        store = SqliteStore(str(path), clock=SystemClock())
        await store.open()
        try:
            return await ask(store)
        finally:
            await store.close()

    return asyncio.run(asked())


async def filled(store: SqliteStore) -> None:
    await store.mark("greet", ["ada", "b\0b", "é"], None)
    await store.mark(YEARS[0], [f"c{number:04}" for number in range(2_500)], 3_600_000)
    await store.mark(YEARS[1], ["c1"], None)


@pytest.fixture
def full(command: CommandLine) -> CommandLine:
    """The command beside a store with three ledgers."""
    at(command.folder / "batchflow.db", filled)
    return command


def given(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Replace stdin."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_ledgers_are_listed_by_name(full: CommandLine) -> None:
    """One for each workflow, or each of its scopes; `batchflow ledger` alone does the same."""
    answer = full("ledger")
    assert (answer.code, answer.out.splitlines()) == (0, ["greet", *YEARS])
    found = full("ledger", "list", "--json").document["ledgers"]
    assert found[1] == {"ledger": YEARS[0], "workflow": "reports", "scope": {"year": 2030}}


def test_a_ledger_is_exported_and_imported(full: CommandLine) -> None:
    """Every mark is a line, with its time; imported elsewhere it is the same, however often."""
    assert full("ledger", "export", "marks.jsonl").err == "Exported 2,504 marks\n"
    lines = [json.loads(line) for line in (full.folder / "marks.jsonl").read_text().splitlines()]
    assert lines[:3] == [{"ledger": "greet", "item": item, "expiresAt": None} for item in ("ada", "b\0b", "é")]
    before = at(full.folder / "batchflow.db", lambda store: store.marks(YEARS[0], limit=9_999))
    for _ in range(2):
        answer = full("ledger", "import", "marks.jsonl", "--url", "sqlite:///new.db")
        assert (answer.code, answer.out) == (0, "Imported 2,504 marks\n")
    after = at(full.folder / "new.db", lambda store: store.marks(YEARS[0], limit=9_999))
    assert [it.item for it in after] == [it.item for it in before]
    for old, new in zip(before, after, strict=True):
        assert abs((old.expires_at or 0) - (new.expires_at or 0)) < 5_000
    assert at(full.folder / "new.db", lambda store: store.ledgers()) == ["greet", *YEARS]


def test_an_export_may_be_of_one_workflow_and_go_to_stdout(full: CommandLine) -> None:
    """All of its scopes, and nothing but lines."""
    answer = full("ledger", "export", "--workflow", "reports")
    assert {json.loads(line)["ledger"] for line in answer.out.splitlines()} == set(YEARS)
    assert len(full("ledger", "export", "-", "--workflow", "greet").out.splitlines()) == 3


def test_an_import_reads_stdin(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty lines and expired marks are skipped; the fields of a scope can have any order."""
    lines = (
        '\ufeff{"ledger": "w", "item": "a"}\n\n'
        '{"ledger": "w{\\"b\\": 1, \\"a\\": [2]}", "item": "x", "expiresAt": "2090-01-02T04:04:05.678+01:00"}\n'
        '{"ledger": "w", "item": "old", "expiresAt": "2001-01-01T00:00:00Z"}\n'
        '{"ledger": "other", "item": "b", "expiresAt": null}\n'
    )
    given(monkeypatch, lines)
    assert command("ledger", "import", "--workflow", "w").out == "Imported 2 marks\n"
    ledgers = at(command.folder / "batchflow.db", lambda store: store.ledgers())
    assert ledgers == ["w", 'w{"a":[2],"b":1}']
    line = json.loads(command("ledger", "export").out.splitlines()[1])
    assert (line["ledger"], line["item"]) == (ledgers[1], "x")
    # A store is given the time that is left to a mark, not its end.
    assert line["expiresAt"].startswith("2090-01-02T03:04:0")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "is not JSON"),
        ("7", "is not a JSON object"),
        ('{"ledger": "w"}', "needs a non-empty text as 'item'"),
        ('{"ledger": "", "item": "a"}', "needs a non-empty text as 'ledger'"),
        ('{"ledger": "w", "item": 7}', "needs a non-empty text as 'item'"),
        (
            '{"ledger": "w", "item": "a", "until": 7}',
            "has the unknown field 'until'",
        ),
        (
            '{"ledger": "w", "item": "a", "expiresAt": 7}',
            "has 7 as 'expiresAt'",
        ),
        ('{"ledger": "w", "item": "a", "expiresAt": "2030-01-01"}', "has '2030-01-01' as 'expiresAt'"),
        (
            '{"ledger": "w{7}", "item": "a"}',
            "has 'w{7}' as 'ledger'",
        ),
    ],
)
def test_a_line_that_is_none_is_named(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, line: str, sentence: str
) -> None:
    """The error has its number, and the number of marks imported before it."""
    before = "\n".join(f'{{"ledger": "w", "item": "i{number}"}}' for number in range(1_500))
    given(monkeypatch, f"{before}\n{line}\n")
    answer = command("ledger", "import")
    assert answer.is_usage_error(f"line 1,501 {sentence}")
    assert answer.is_usage_error("; 1,000 marks of the lines before it are imported")


def test_marks_are_forgotten(full: CommandLine) -> None:
    """By id, in all ledgers of a workflow or in one; or all there are."""
    assert full("ledger", "forget", "reports", "c1", "c0001").out == "Forgot 2 marks\n"
    assert full("ledger", "forget", YEARS[0], "c0002", "nobody", "--json").document["forgotten"] == 1
    assert full("ledger", "forget", "reports", "--all").out == "Forgot 2,498 marks\n"
    answer = full("ledger", "forget", "greet", "nobody")
    assert (answer.code, answer.out) == (1, "Forgot 0 marks\n")
    assert full("ledger").out == "greet\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("forget", "greet"), "nothing to forget"),
        (("forget", "greet", "a", "--all"), "nothing to forget"),
        (("forget", "gret", "a"), "there is no ledger 'gret' here"),
        (("import", "nowhere.jsonl"), "'nowhere.jsonl' cannot be read"),
        (("export", "no/where.jsonl"), "'no/where.jsonl' cannot be written"),
        (
            ("import", "--url", "sqlite://"),
            "the ledger would be lost",
        ),
    ],
)
def test_a_wrong_command_is_refused(full: CommandLine, arguments: tuple[str, ...], sentence: str) -> None:
    """One sentence, and nothing is changed."""
    answer = full("ledger", *arguments)
    assert answer.is_usage_error(sentence)


OLD = """
CREATE TABLE workflow (key INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE ledger (
    workflow INTEGER NOT NULL, item TEXT NOT NULL, processed_at INTEGER, expires_at INTEGER, holder INTEGER,
    PRIMARY KEY (workflow, item)
) WITHOUT ROWID;
INSERT INTO workflow VALUES (1, 'welcome'), (2, 'greet');
INSERT INTO ledger VALUES
    (1, 'u1', 1700000000000, NULL, NULL), (1, 'u2', 1700000000000, 3787009445678, 7),
    (1, 'expired', 1700000000000, 1700000000001, NULL), (1, 'in flight', NULL, NULL, 7),
    (2, 'a', 1700000000000, NULL, NULL);
PRAGMA journal_mode = WAL;
"""


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_a_file_made_before_the_first_release_can_be_exported(command: CommandLine, schema: int) -> None:
    """As a store it is refused with a sentence that names the way; it is read and not changed."""
    old = sqlite3.connect(command.folder / "batchflow.db")
    old.executescript(f"{OLD}PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {schema};")
    old.close()
    assert "'batchflow ledger export'" in command("ledger", "list").err
    answer = command("ledger", "export", "marks.jsonl")
    assert (answer.code, answer.err) == (0, "Exported 3 marks\n")
    assert [json.loads(line) for line in (command.folder / "marks.jsonl").read_text().splitlines()] == [
        {"ledger": "greet", "item": "a", "expiresAt": None},
        {"ledger": "welcome", "item": "u1", "expiresAt": None},
        {"ledger": "welcome", "item": "u2", "expiresAt": LATER},
    ]
    assert command("ledger", "import", "marks.jsonl", "--url", "sqlite:///new.db").out == "Imported 3 marks\n"
    check = sqlite3.connect(command.folder / "batchflow.db")
    assert check.execute("PRAGMA user_version").fetchone() == (schema,)
    check.close()


def test_a_file_that_is_none_is_refused(command: CommandLine) -> None:
    """In words."""
    (command.folder / "batchflow.db").write_text("this is no database at all, though it is long enough to be one " * 40)
    assert "is not a SQLite database, or is damaged" in command("ledger", "export").err


@pytest.mark.parametrize("decoded", [False, True])
async def test_a_namespace_made_before_the_first_release_can_be_read(decoded: bool) -> None:
    """On Redis, whatever the client makes of its answers."""
    client: Any = FakeAsyncRedis(decode_responses=decoded)
    prefix = keys.prefix("batchflow")
    assert not await old_ledger.is_old(client, prefix)
    await client.hset(f"{prefix}meta", "schema", 1)
    assert await old_ledger.is_old(client, prefix)
    await client.sadd(f"{prefix}ws", "welcome", "empty", "greet")
    many = {f"u{number}": "+inf" for number in range(3_000)}
    await client.zadd(f"{prefix}l:welcome", many | {"é": 3787009445678, "expired": 1_700_000_000_001})
    await client.zadd(f"{prefix}l:greet", {"a": "+inf"})
    found = [it async for it in old_ledger.marks(client, prefix, SystemClock().now())]
    assert found[0] == ("greet", Mark("a"))
    assert set(found[1:]) == {("welcome", Mark(item)) for item in many} | {("welcome", Mark("é", 3787009445678))}
    await client.hset(f"{prefix}meta", "schema", 10)
    assert not await old_ledger.is_old(client, prefix)
    await client.aclose()
