"""Reading the ids of a trigger from a file: the manifest of an export, CSV, JSON lines, or lines of text."""

import csv
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from pydantic_core import from_json

from batchflow.errors import InputError
from batchflow.serve.validation import format_value

_DEFAULT_COLUMN = "key"
# The name that an export gives to the id.
_FIELD_LIMIT = 2**31 - 1
# Of csv, whose own is 128 KiB; a result may be larger.


def read_ids(source: str) -> list[str]:
    """The ids of FILE, or of FILE:COLUMN.

    A file named `.csv` has a header, one named `.jsonl` or `.ndjson` ids or objects; their COLUMN is `key` unless it is
    named, or there is only one. One named `.json` is the manifest of an export. Any other, and `-` for stdin, has an id
    on each line.

    Raises:
        InputError: the file cannot be read, has no ids or one of them twice, or a line has none; the sentence has its
            number.
    """
    if source == "-":
        return _once(_lines(sys.stdin), "stdin")
    path, column = _split(source)
    try:
        if path.suffix == ".json":
            path = _exported_file(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            match path.suffix:
                case ".csv":
                    return _once(_csv_ids(file, path, column), f"'{path}'")
                case ".jsonl" | ".ndjson":
                    return _once(_json_ids(file, path, column), f"'{path}'")
                case _:
                    _refuse_column(path, column)
                    return _once(_lines(file), f"'{path}'")
    except OSError as error:
        raise InputError(f"'--ids-from' cannot read '{path}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"'--ids-from' cannot read '{path}': it is not text in UTF-8") from error


def _split(source: str) -> tuple[Path, str | None]:
    path = Path(source)
    name, colon, column = source.rpartition(":")
    # The name of a file may have a colon.
    return (Path(name), column) if colon and column and name and not path.exists() else (path, None)


def _exported_file(manifest: Path) -> Path:
    try:
        name = from_json(manifest.read_bytes())["file"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{manifest}' is not the manifest of an export, which names its 'file'") from error
    return manifest.with_name(Path(str(name)).name)


def _once(ids: Iterable[str], name: str) -> list[str]:
    found: dict[str, None] = {}
    for id in ids:
        if id in found:
            raise InputError(f"{name} has the id {format_value(id)} twice; an item runs once per batch")
        found[id] = None
    if not found:
        raise InputError(f"{name} has no ids; name another file, or leave '--ids-from' out to fetch them")
    return list(found)


def _lines(file: Iterable[str]) -> Iterator[str]:
    return (text for line in file if (text := line.strip()))


def _refuse_column(path: Path, column: str | None) -> None:
    if column is not None:
        raise InputError(f"'{path}' has no columns, as files named .csv and .jsonl have; write its name alone")


def _csv_ids(file: Iterable[str], path: Path, column: str | None) -> Iterator[str]:
    csv.field_size_limit(_FIELD_LIMIT)
    rows = csv.reader(file, strict=True)
    try:
        header = next(rows, list[str]())
        place = header.index(_choose_column(header, column, path))
        for row in rows:
            if row:
                if len(row) <= place or not row[place]:
                    raise InputError(f"line {rows.line_num:,} of '{path}' has no '{header[place]}'")
                yield row[place]
    except csv.Error as error:
        raise InputError(f"line {rows.line_num:,} of '{path}' is not CSV: {error}") from error


def _json_ids(file: Iterable[str], path: Path, column: str | None) -> Iterator[str]:
    chosen: str | None = None
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                value: object = from_json(line)
            except ValueError as error:
                raise InputError(f"line {number:,} of '{path}' is not JSON: {error}") from error
            if isinstance(value, dict):
                fields = cast("dict[str, Any]", value)
                # That of the first object is that of all.
                chosen = chosen or _choose_column(list(fields), column, path)
                if chosen not in fields:
                    raise InputError(f"line {number:,} of '{path}' has no '{chosen}'")
                value = fields[chosen]
            if isinstance(value, bool) or not isinstance(value, str | int):
                raise InputError(f"line {number:,} of '{path}' has no id; an id is a text or a whole number")
            yield str(value)


def _choose_column(names: list[str], column: str | None, path: Path) -> str:
    if column is None and len(names) == 1 and (";" in names[0] or "\t" in names[0]):
        raise InputError(
            f"'{path}' has one column, {format_value(names[0])}; separate columns by commas, or name it: {path}:COLUMN"
        )
    wanted = column or (names[0] if len(names) == 1 else _DEFAULT_COLUMN)
    if wanted in names:
        return wanted
    known = ", ".join(names) or "none"
    raise InputError(f"'{path}' has no column '{wanted}'; write one as {path}:COLUMN: {known}")
