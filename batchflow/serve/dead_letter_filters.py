"""The dead letters that a command is for: filters and selections."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple, TypedDict, cast

from batchflow.core.dead_letters import DeadLetterQuery
from batchflow.core.suggestions import check_options
from batchflow.errors import InputError
from batchflow.serve.validation import format_value, is_valid_text, validate_text


class DeadLetterFilter(TypedDict, total=False):
    """The dead letters that are meant: all parts have to match.

    `workflow` is the name of a batch workflow or the route of a function, `url` the URL or route of an endpoint,
    `run_id` that of the run, `group` a fingerprint of `groups`. `since` and `until` (not included) are times of death.
    """

    workflow: str | None
    url: str | None
    run_id: str | None
    batch_id: str | None
    item: str | None
    label: str | None
    status: int | None
    group: str | None
    since: datetime | None
    until: datetime | None


_TEXTS = {
    "workflow": "the name of a workflow or the route of a function",
    "url": "the URL or the route of an endpoint",
    "run_id": "the id of a run",
    "batch_id": "the id of a batch",
    "item": "the id of an item",
    "label": "the label of a run or batch",
    "group": "the fingerprint of a group",
}
_FIELDS = {"url": "destination", "run_id": "run", "batch_id": "batch", "group": "fingerprint"}
FILTER_NAMES = (*_TEXTS, "status", "since", "until")
"""The names of the parts of a filter."""


class DeadLetterSelection(NamedTuple):
    """The dead letters that a command is for: these ids, or those that match; `left_out` are not among the latter."""

    ids: tuple[str, ...] | None = None
    query: DeadLetterQuery = DeadLetterQuery()
    left_out: frozenset[str] = frozenset()

    def until(self, at: int) -> "DeadLetterSelection":
        """Those of them that died before this time."""
        limit = at if self.query.until is None else min(at, self.query.until)
        return self._replace(query=self.query._replace(until=limit))

    def without(self, ids: Sequence[str]) -> "DeadLetterSelection":
        """All but these."""
        if self.ids is not None:
            return self._replace(ids=tuple(id for id in self.ids if id not in ids))
        return self._replace(left_out=frozenset(ids))


def select(ids: Sequence[str], all: bool, filter: DeadLetterFilter, command: str) -> DeadLetterSelection:
    """The selection of these ids, of this filter, or of all, for a command.

    Raises:
        InputError: nothing is selected, ids are given beside a filter, or a part is not valid.
    """
    query = parse_filter(filter, command)
    narrowed = query != DeadLetterQuery()
    if ids and (narrowed or all):
        raise InputError("name the dead letters by their ids or by a filter, not both", field="ids")
    if not ids and not narrowed and all is not True:
        raise InputError("say which dead letters: their ids, a filter, or all of them", field="ids")
    # No ids are not all dead letters: those of a canary are taken away.
    return DeadLetterSelection(tuple(dict.fromkeys(map(valid_id, ids))) if ids else None, query)


def parse_filter(filter: DeadLetterFilter, command: str) -> DeadLetterQuery:
    """A filter as the store has it.

    Raises:
        InputError: a part is unknown or not valid.
    """
    given = {name: value for name, value in cast("dict[str, object]", filter).items() if value is not None}
    check_options(f"dead_letters.{command}", [it for it in given if it not in FILTER_NAMES], FILTER_NAMES)
    found: dict[str, object] = {}
    for name, value in given.items():
        if name in _TEXTS:
            make = partial(InputError, field=name)
            found[_FIELDS.get(name, name)] = validate_text(f"'{name}'", value, make, _TEXTS[name])
        elif name == "status":
            if isinstance(value, bool) or not isinstance(value, int) or not 100 <= value <= 999:
                raise InputError(option=name, got=format_value(value), want="write a status such as 500 or 504")
            found[name] = value
        else:
            found[name] = _time(name, value)
    return DeadLetterQuery(**cast("dict[str, None]", found))


def _time(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (datetime, int)):
        raise InputError(option=name, got=format_value(value), want="write a datetime with its time zone")
    if isinstance(value, int):
        return value
    if value.tzinfo is None:
        raise InputError(option=name, got=format_value(value), want="give it a time zone, such as tzinfo=UTC")
    return int(value.timestamp() * 1000)


def valid_id(id: object) -> str:
    """The id, if it can be that of a dead letter.

    Raises:
        InputError: it cannot.
    """
    if not is_valid_text(id) or not id:
        raise InputError(option="ids", got=format_value(id), want="write the id of a dead letter")
    return cast("str", id)
