"""The lines of an exported ledger: `{"ledger": "welcome", "item": "u1", "expiresAt": null}`."""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple, cast

from pydantic_core import from_json

from batchflow.cli.documents import moment
from batchflow.core.ledger import Mark, ledger_name, workflow_of
from batchflow.errors import InputError

_FIELDS = ("ledger", "item", "expiresAt")


class Line(NamedTuple):
    """One mark of a ledger."""

    ledger: str
    item: str
    expires_at: int | None


def line_of(ledger: str, mark: Mark) -> bytes:
    """A mark as a line."""
    fields = {"ledger": ledger, "item": mark.item, "expiresAt": moment(mark.expires_at)}
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def lines_in(source: Iterable[bytes]) -> Iterator[Line]:
    """The marks in lines; empty ones are passed over.

    Raises:
        InputError: a line is none; the sentence has its number.
    """
    for number, raw in enumerate(source, 1):
        text = raw.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else raw.strip()
        if text:
            try:
                yield _line(text)
            except ValueError as error:
                raise InputError(f"line {number:,} {error}") from error


def _line(text: bytes) -> Line:
    try:
        fields: object = from_json(text)
    except ValueError as error:
        raise ValueError(f"is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError('is no JSON object such as {"ledger": "welcome", "item": "u1", "expiresAt": null}')
    given = cast("dict[str, Any]", fields)
    for name in given:
        if name not in _FIELDS:
            raise ValueError(f"has the field '{name}', and a line has ledger, item and expiresAt")
    return Line(_ledger(_named(given, "ledger")), _named(given, "item"), _until(given.get("expiresAt")))


def _named(given: dict[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"has no '{name}' that is a non-empty text")
    return value


def _ledger(name: str) -> str:
    """The name as it is written here, whatever the order of its scope."""
    workflow = workflow_of(name)
    if workflow == name:
        return name
    try:
        scope: object = from_json(name.removeprefix(workflow))
    except ValueError:
        scope = None
    if not workflow or not isinstance(scope, dict) or not scope:
        raise ValueError(f"names no ledger with {name!r}, which is a workflow's name, and a JSON object of its scope")
    return ledger_name(workflow, cast("dict[str, object]", scope))


def _until(value: object) -> int | None:
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ValueError(f"has {value!r} as 'expiresAt'; it is a time such as '2030-01-01T00:00:00.000Z', or null")
    return round(found.timestamp() * 1000)
