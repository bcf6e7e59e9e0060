"""The filters of lists and bulk requests: parameters of the query, of which each may have several values."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request

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

_FIELDS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "host": lambda about: urlsplit(str(about["url"])).netloc.rpartition("@")[2],
    "path": lambda about: urlsplit(str(about["url"])).path or "/",
    "callerIp": lambda about: about.get("callerIP"),
}


class Filters:
    """The parameters of a request: the values of one are alternatives, and all parameters have to match.

    `known` are the names of the parameters that its route takes.

    Raises:
        InputError: there is another one. If it were passed over, a request that it narrows down would do too much.
    """

    def __init__(self, request: Request, known: Collection[str]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in query_pairs(request.scope):
            if name == TOKEN_PARAMETER or not value:
                continue
            if name not in known:
                raise InputError(f"unknown filter '{name}'{did_you_mean(name, known)}", field=name, status=400)
            # A URL may have a comma.
            values = [value] if name in ("url", "path") else [it for part in value.split(",") if (it := part.strip())]
            self._values.setdefault(name, []).extend(values)

    def __bool__(self) -> bool:
        return bool(self._values)

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

    def number(self, name: str, *, least: int = 0, most: int = 2**53) -> int | None:
        """The value of a parameter that is a whole number.

        Raises:
            InputError: it has several, or is not a number of this range.
        """
        text = self.one(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 17 and least <= int(text) <= most):
            want = f"write a whole number from {least} to {most}"
            raise InputError(option=name, got=repr(text[:60]), want=want, field=name, status=400)
        return int(text)

    def count(self, most: int) -> int:
        """The number of entries that are asked for; without one, and for more, `most`."""
        found = self.number("count", least=1)
        return most if found is None else min(found, most)

    def matches(self, about: Mapping[str, Any]) -> bool:
        """True for a message with this description if all `POST_FILTERS` of the request match it."""
        return all(
            any(value in values for value in _values(about, name))
            for name, values in self._values.items()
            if name in POST_FILTERS
        )


def _values(about: Mapping[str, Any], name: str) -> Sequence[Any]:
    if name == "label":
        labels: list[str] = about.get("labels", [])
        return labels
    read = _FIELDS.get(name)
    return [about.get(name) if read is None else read(about)]


def filter_parameters(described: Mapping[str, str]) -> dict[str, Any]:
    """The filters of a route, with their descriptions, for its OpenAPI document."""
    schema = {"type": "array", "items": {"type": "string"}}
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "description": text, "schema": schema}
            for name, text in described.items()
        ]
    }
