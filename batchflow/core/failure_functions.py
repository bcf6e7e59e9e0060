"""Failure functions and failure URLs: where their messages go, and the response that a failure stands for. Pure."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from pydantic_core import to_json

from batchflow.core.call import CALL_DESTINATION
from batchflow.core.dead_letters import DeadLetter, own_line
from batchflow.core.message import NOTIFICATION_DESTINATION
from batchflow.core.report import traceback_text

FAILURE_URL_DESTINATION = "batchflow:failure-url"
"""The destination of the failure messages of runs with a failure URL. Routes cannot have this name."""

FAILURE_URL_HEADER = "batchflow-failure-url"
"""The header of a run with a failure URL, which any worker can call: the `FailureUrlHeader` as text."""

_TYPE = re.compile(r"([^\W\d][\w.]*): +")


_PREFIX = "batchflow:failure"

HTTP_CALLS = frozenset({CALL_DESTINATION, FAILURE_URL_DESTINATION, NOTIFICATION_DESTINATION})
"""The destinations of messages that a worker sends over HTTP, and that run no code of the user."""


def failure_destination(route: str) -> str:
    """The destination of the failure function of an endpoint. Routes cannot have this name."""
    return f"{_PREFIX}{route}"


def is_failure_destination(destination: str) -> bool:
    """True for the destination of a failure function."""
    return destination.startswith(f"{_PREFIX}/")


class FailureUrlHeader(NamedTuple):
    """A failure URL as the header of a run has it, with what is not known of its dead letter otherwise.

    `not_before` is in ms, 0 if the run was due at once.
    """

    not_before: int
    max_retries: int
    url: str

    def __str__(self) -> str:
        return f"{self.not_before} {self.max_retries} {self.url}"

    def __repr__(self) -> str:
        # The URL may hold a token.
        return f"FailureUrlHeader(not_before={self.not_before}, max_retries={self.max_retries})"

    @classmethod
    def parse(cls, text: str) -> "FailureUrlHeader":
        """The header of this text."""
        not_before, max_retries, url = text.split(" ", 2)
        return cls(int(not_before), int(max_retries), url)


_JSON_HEADERS: Mapping[str, str] = MappingProxyType({"Content-Type": "application/json"})
_NON_RETRYABLE_HEADERS: Mapping[str, str] = MappingProxyType({**_JSON_HEADERS, "Upstash-NonRetryable-Error": "true"})


class FailureResponse(NamedTuple):
    """The last failure of a dead letter as a response over HTTP would tell it."""

    status: int
    error: str
    message: str
    stack: str

    @classmethod
    def of(cls, letter: DeadLetter) -> "FailureResponse":
        """The response of a dead letter: the type of its error, its message (else the type again), its traceback.

        A run that has failed with a step has failed for the reason that the step had.
        """
        return cls.of_error(letter.status, letter.error)

    @classmethod
    def of_error(cls, status: int, text: str) -> "FailureResponse":
        """The response of a run that has failed with this error."""
        line = own_line(text)
        found = _TYPE.match(line)
        error = found[1] if found else line if line.isidentifier() else "Error"
        return cls(status, error, line[found.end() :] if found else line, traceback_text(text))

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers."""
        return _NON_RETRYABLE_HEADERS if self.status == 489 else _JSON_HEADERS

    @property
    def body(self) -> bytes:
        """Its body: JSON with `error`, `message` and `stack`, as QStash's endpoints answer."""
        return to_json({"error": self.error, "message": self.message, "stack": self.stack})
