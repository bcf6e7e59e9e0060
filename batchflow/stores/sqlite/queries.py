"""Reads `queries.sql`: named statements, some of which take many rows at once.

A statement is one call into SQLite however many rows it takes, because each call releases the interpreter lock and has
to acquire it again. Rows are bound as one `VALUES` list (`:rows`), padded with NULL rows to a few fixed sizes so that
prepared statements are reused, and a read returns one JSON text (`json_group_array`) instead of rows.
"""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import chain, repeat
from typing import Any

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
