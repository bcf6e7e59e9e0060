"""A workflow run with its entries, its posts, and what happened to them. Pure values."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from pydantic_core import from_json

from batchflow.core.posts import LogEntry
from batchflow.core.wire_runs import RunEntry, RunMember, WireRun
from batchflow.wire.messages import redacted
from batchflow.wire.run_config import RunConfig

_CALLBACK_STATES = {
    "DELIVERED": "CALLBACK_SUCCESS",
    "FAILED": "CALLBACK_FAIL",
    "CANCEL_REQUESTED": "CALLBACK_CANCELED",
    "CANCELED": "CALLBACK_CANCELED",
}


class RunHistory(NamedTuple):
    """A run with all that is known of it at `now` (ms).

    By the ids of its posts: `created` are their descriptions, `latest` the latest entries of their logs, and `attempts`
    the whole logs, from the oldest entry on, of those that are neither new nor delivered.
    """

    run: WireRun
    config: RunConfig
    entries: Sequence[RunEntry]
    members: Sequence[RunMember]
    created: Mapping[str, Mapping[str, Any]]
    latest: Mapping[str, LogEntry]
    attempts: Mapping[str, Sequence[LogEntry]]
    now: int

    def __repr__(self) -> str:
        return f"RunHistory('{self.run.id}')"

    @property
    def failed(self) -> str | None:
        """The id of the post whose failure has ended the run, which is that of its dead letter."""
        return next((it.message for it in self.members if self._has_failed(it.message)), None)

    def _has_failed(self, message: str) -> bool:
        # A call that has failed is told to the run by its callback.
        latest = self.latest.get(message)
        return latest is not None and latest.state == "FAILED" and call_type(self.created.get(message)) != "toCallback"


class FailureCallback(NamedTuple):
    """The failure callback of a run: the description of its post and its log, from the oldest entry on.

    `attempt` is the number of times that it was retried from the DLQ.
    """

    description: Mapping[str, Any]
    log: Sequence[LogEntry]
    attempt: int = 0

    def __repr__(self) -> str:
        return f"FailureCallback('{self.id}')"

    @property
    def id(self) -> str:
        """The id of its post."""
        return self.description["messageId"]

    @property
    def state(self) -> str:
        """The state, such as `CALLBACK_SUCCESS`."""
        return _CALLBACK_STATES.get(self.log[-1].state, "CALLBACK_INPROGRESS")

    def response(self) -> dict[str, Any]:
        """The last response, if there is one: `responseStatus`, `responseHeaders`, `responseBody`."""
        answered = next((found for it in reversed(self.log) if "responseStatus" in (found := entry_detail(it))), None)
        if answered is None:
            return {}
        return {
            "responseStatus": answered["responseStatus"],
            "responseHeaders": answered["responseHeader"],
            "responseBody": body_of(answered),
        }

    def info(self) -> dict[str, Any]:
        """The `failureCallbackInfo` of an entry of the DLQ."""
        return {"state": self.state, **self.response()}


def step_error(entry: LogEntry) -> dict[str, Any]:
    """The error of an attempt, as its entry in the log tells it."""
    detail = entry_detail(entry)
    return {
        "error": detail.get("error", ""),
        "body": body_of(detail),
        "headers": detail.get("responseHeader", {}),
        "status": detail.get("responseStatus", 0),
        "time": entry.at,
    }


def body_of(detail: Mapping[str, Any]) -> str:
    """The body of the response in the detail of an entry; "" without one."""
    return detail.get("responseBody", detail.get("responseBodyBase64", ""))


def entry_detail(entry: LogEntry) -> dict[str, Any]:
    """The detail of an entry of the log."""
    return from_json(entry.detail)


def shown_text(text: str, config: RunConfig) -> str:
    """A text that comes from a body; its hash, if bodies are redacted."""
    return redacted(text.encode()) if "body" in config.redact else text


def sent_object(text: str) -> dict[str, Any]:
    """The JSON object of a text that was sent; empty for another text."""
    try:
        found = from_json(text)
    except ValueError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def call_type(about: Mapping[str, Any] | None) -> str:
    """The kind of a post with this description."""
    return "step" if about is None else str(about.get("callType", "step"))
