"""The filters of lists and bulk requests: parameters of the query, of which each may have several values."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from fastapi import Request
from pydantic_core import from_json

from batchflow.core.suggestions import did_you_mean
from batchflow.errors import InputError
from batchflow.server.raw_request import TOKEN_PARAMETER, query_pairs

POST_FILTERS: Mapping[str, str] = {
    "messageId": "the id of the message",
    "url": "the URL",
    "host": "the host of the URL, with its port where it has one",
    "path": "the path of the URL",
    "topicName": "the name of the URL group",
    "queueName": "the name of the queue",
    "scheduleId": "the id of the schedule",
    "callerIp": "the address of the sender",
    "label": "one of the labels",
    "flowControlKey": "the flow-control key",
}
"""The filters of messages by their description, with what each is compared to."""

MESSAGE_FILTERS: Mapping[str, str] = {**POST_FILTERS, "messageIds": "the ids of the messages"}
"""The same, and one with several ids."""

DATE_FILTERS: Mapping[str, str] = {
    "fromDate": "the first time, in ms",
    "toDate": "the last time, in ms",
}
"""The filters by time."""

_FIELDS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "messageIds": lambda about: about.get("messageId"),
    "host": lambda about: urlsplit(str(about["url"])).netloc.rpartition("@")[2],
    "path": lambda about: urlsplit(str(about["url"])).path or "/",
    "callerIp": lambda about: about.get("callerIP"),
}
_NUMBERS = frozenset({"count", *DATE_FILTERS})
_WHOLE = frozenset({"url", "path", "workflowUrl"})
# These may have a comma.
_LATEST_MS = 2**53


class Filters:
    """The parameters of a request: the values of one are alternatives, and all parameters have to match.

    `known` are the names of the parameters that its route takes. One without a value matches nothing. `others` are
    parameters from elsewhere, such as the body.

    Raises:
        InputError: there is another one. If it were passed over, a request that it narrows down would do too much.
    """

    def __init__(self, request: Request, known: Collection[str], others: Iterable[tuple[str, str]] = ()) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in [*query_pairs(request.scope), *others]:
            if name == TOKEN_PARAMETER:
                continue
            if name not in known:
                raise InputError(f"unknown filter '{name[:60]}'{did_you_mean(name, known)}", field=name, status=400)
            values = [value] if name in _WHOLE else [it for part in value.split(",") if (it := part.strip())]
            self._values.setdefault(name, []).extend(values)
        self.earliest = self.number("fromDate") or 0
        """The time in ms before which nothing matches."""
        latest = self.number("toDate")
        self._latest = _LATEST_MS if latest is None else latest

    def __bool__(self) -> bool:
        return bool(self._values)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def all(self, name: str) -> Sequence[str]:
        """The values of a parameter; empty if it is not there."""
        return self._values.get(name, ())

    def one(self, name: str) -> str | None:
        """The value of a parameter that has one.

        Raises:
            InputError: it has several.
        """
        values = self.all(name)
        if len(values) > 1:
            raise InputError("is given twice", option=name, want="give it once", field=name, status=400)
        return values[0] if values else None

    def number(self, name: str, *, least: int = 0, most: int = _LATEST_MS) -> int | None:
        """The value of a parameter that is a whole number.

        Raises:
            InputError: it has several, or is not a number of this range.
        """
        if name not in self:
            return None
        # One without a value must not do as much as none.
        text = self.one(name) or ""
        if not (text.isascii() and text.isdigit() and len(text) < 17 and least <= int(text) <= most):
            want = f"write a whole number from {least} to {most}"
            raise InputError(option=name, got=repr(text[:60]), want=want, field=name, status=400)
        return int(text)

    def count(self, most: int) -> int:
        """The number of entries that are asked for; without one, and for more, `most`."""
        found = self.number("count", least=1)
        return most if found is None else min(found, most)

    def matches(self, about: Mapping[str, Any]) -> bool:
        """True for a message with this description if all `MESSAGE_FILTERS` of the request match it."""
        return all(
            any(value in values for value in _values(about, name))
            for name, values in self._values.items()
            if name in MESSAGE_FILTERS
        )

    def covers(self, at: int) -> bool:
        """True for a time in ms between those of the `DATE_FILTERS`."""
        return self.earliest <= at <= self._latest


def _values(about: Mapping[str, Any], name: str) -> Sequence[Any]:
    if name == "label":
        labels: list[str] = about.get("labels", [])
        return labels
    read = _FIELDS.get(name)
    return [about.get(name) if read is None else read(about)]


def body_filters(body: bytes, ids: str) -> list[tuple[str, str]]:
    """The filters in a JSON body, `{"messageIds": ["…", "…"]}`, as parameters; an empty body has none.

    `ids` is the name of the filter that an error shows.

    Raises:
        InputError: it is not a JSON object of texts, numbers and lists of texts.
    """
    if not body.strip():
        return []
    want = f'send an object such as {{"{ids}": ["…"]}}'
    try:
        fields = from_json(body)
    except ValueError as error:
        raise InputError(f"the body is not JSON; {want}", status=400) from error
    if not isinstance(fields, dict):
        raise InputError(f"the body is not a JSON object; {want}", status=400)
    pairs: list[tuple[str, str]] = []
    for name, value in cast("dict[str, object]", fields).items():
        values: Sequence[object] = cast("list[object]", value) if isinstance(value, list) else [value]
        for it in values or [""]:
            if isinstance(it, bool) or not isinstance(it, str | int):
                raise InputError("is not a text or a list of texts", option=name, field=name, status=400)
            pairs.append((name, str(it)))
    return pairs


def filter_parameters(described: Mapping[str, str]) -> dict[str, Any]:
    """The filters of a route, with their descriptions, for its OpenAPI document."""
    texts = {"type": "array", "items": {"type": "string"}}
    number = {"type": "integer", "minimum": 1}
    return {
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": text,
                "schema": number if name in _NUMBERS else texts,
            }
            for name, text in described.items()
        ]
    }
