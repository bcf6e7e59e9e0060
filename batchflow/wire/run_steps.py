"""The steps of a workflow run in groups, each with its state, as the log of the run shows them.

They come from the entries of the run; the log of its posts has the states of those that are under way.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from batchflow.core.wire_runs import RunEntry, RunMember
from batchflow.wire.messages import redacted
from batchflow.wire.run_entries import step_of
from batchflow.wire.run_history import RunHistory, call_type, sent_object, shown_text, step_error

_FORWARD = "upstash-forward-"
_STEP = "upstash-workflow-step"
_PROGRESS, _RETRY, _SUCCESS = "STEP_PROGRESS", "STEP_RETRY", "STEP_SUCCESS"
_FAILED, _CANCELED = "STEP_FAILED", "STEP_CANCELED"
_SLEEPS = ("SleepFor", "SleepUntil")
_COPIED = (
    *("sleepFor", "sleepUntil", "waitEventId"),
    *("invokedWorkflowRunId", "invokedWorkflowUrl", "invokedWorkflowCreatedAt"),
)


def step_groups(history: RunHistory) -> list[dict[str, Any]]:
    """The groups of the steps of a run, in the order in which their first steps were recorded."""
    return _Steps(history).groups()


class _Steps:
    """Makes the groups of the steps of a run."""

    def __init__(self, history: RunHistory) -> None:
        self._history = history
        self._is_over = history.run.state != "RUN_STARTED"
        self._groups: list[dict[str, Any]] = []
        self._by_number: dict[int, dict[str, Any]] = {}
        self._parallel: tuple[list[dict[str, Any]], int] | None = None

    def groups(self) -> list[dict[str, Any]]:
        """The groups, in the order in which their first steps were recorded."""
        first, *others = self._history.entries
        self._place(None, 1).update(self._initial(first))
        last = first
        for entry in others:
            if self._add(entry):
                last = entry
        for member in self._history.members:
            if member.entry == 0:
                self._add_pending(member)
        if coming := self._next(last):
            self._groups.append({"steps": coming, "type": "next"})
        return self._groups

    def _place(self, number: int | None, concurrent: int) -> dict[str, Any]:
        """The step of this number; a new one in the group where it belongs, if there is none."""
        if number is not None and number in self._by_number:
            return self._by_number[number]
        step: dict[str, Any] = {}
        if number is not None:
            self._by_number[number] = step
        if concurrent == 1:
            self._groups.append({"steps": [step], "type": "sequential"})
        else:
            if self._parallel is None or self._parallel[1] != concurrent or len(self._parallel[0]) >= concurrent:
                self._parallel = ([], concurrent)
                self._groups.append({"steps": self._parallel[0], "type": "parallel"})
            self._parallel[0].append(step)
        return step

    def _initial(self, entry: RunEntry) -> dict[str, Any]:
        out = {"out": shown_text(entry.body.text, self._history.config)} if entry.body.text else {}
        step = {"stepName": "init", "stepType": "Initial", "callType": "step", "messageId": entry.message, **out}
        return {**step, "concurrent": 1, "state": _SUCCESS, "createdAt": entry.at, **self._settings(entry.message)}

    def _add(self, entry: RunEntry) -> bool:
        """Show an entry; true if it is the result of a step. What repeats an earlier one is passed over."""
        step = step_of(entry.body)
        if not step:
            return False
        target = _number(step.get("targetStep"))
        number, concurrent = target or _number(step.get("stepId")), max(1, _number(step.get("concurrent")) or 1)
        shown = self._place(number, concurrent)
        if shown.get("state") == _SUCCESS or (target and shown):
            return False
        shown.update(_identity(number, step), callType="step", messageId=entry.message, concurrent=concurrent)
        shown.update(createdAt=entry.at, **self._settings(entry.message), **self._details(entry, step))
        shown.pop("errors", None)
        shown.update(self._attempts(entry.message) if target else {"state": _SUCCESS})
        return not target

    def _details(self, entry: RunEntry, step: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that belong to the type of a step."""
        about = self._history.created.get(entry.message, {})
        details = {name: step[name] for name in _COPIED if step.get(name) is not None}
        out = step.get("out")
        if out is not None:
            details["out"] = shown_text(out if isinstance(out, str) else to_json(out).decode(), self._history.config)
        match step.get("stepType"):
            case "Wait" | "WaitForWebhook" if step.get("targetStep"):
                details["waitTimeoutDuration"] = step.get("timeout")
            case "Wait" | "WaitForWebhook":
                details.update(_wait_times(about), waitTimeout=step.get("waitTimeout") is True)
            case "Call" if isinstance(out, str):
                details.update(self._response(sent_object(out)))
            case _:
                pass
        return details

    def _response(self, response: Mapping[str, Any]) -> dict[str, Any]:
        body = response.get("body")
        text = body if isinstance(body, str) else to_json(body).decode()
        return {
            "callResponseStatus": response.get("status"),
            "callResponseBody": shown_text(_decoded(text), self._history.config),
            "callResponseHeaders": response.get("header"),
        }

    def _add_pending(self, member: RunMember) -> None:
        """Show a post that is not an entry: a call, its callback, a wait."""
        about = self._history.created.get(member.message)
        if about is None:
            return
        match call_type(about):
            case "toCallback":
                step, call = self._named_by(about.get("callbackHeader", {})), _call_fields(about)
            case "fromCallback":
                step, call = self._named_by(about.get("header", {})), {}
            case "step" if "step" in about:
                step, call = about["step"], {"waitEventId": about.get("waitEventId"), **_wait_times(about)}
            case _:
                return
        number = _number(step.get("targetStep")) or _number(step.get("stepId"))
        concurrent = max(1, _number(step.get("concurrent")) or 1)
        shown = self._place(number, concurrent)
        shown.update(call)
        if shown.get("state") in (_SUCCESS, _FAILED):
            return
        shown.update(_identity(number, step), callType=call_type(about), messageId=member.message)
        shown.update(concurrent=concurrent, createdAt=member.at, **self._settings(member.message))
        attempts = self._attempts(member.message)
        if attempts["state"] == _FAILED and call_type(about) == "toCallback":
            attempts = {"state": _PROGRESS if not self._is_over else _CANCELED}
        shown.pop("errors", None)
        shown.update(attempts)

    def _named_by(self, headers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """The step that the headers of a callback name."""
        named = {name.lower().removeprefix(_FORWARD): values[0] for name, values in headers.items()}
        number = named.get(f"{_STEP}id", "")
        known = {redacted(str(it).encode()): it for it in self._by_number} if number.startswith("REDACTED") else {}
        return {
            "stepId": int(number) if number.isascii() and number.isdigit() and len(number) < 9 else known.get(number),
            "stepName": named.get(f"{_STEP}name", ""),
            "stepType": "Call",
            "concurrent": _digits(named.get("upstash-workflow-concurrent", "1")),
        }

    def _settings(self, message: str) -> dict[str, Any]:
        """The settings of the post of a step."""
        about = self._history.created.get(message)
        if about is None:
            return {}
        settings = {"retries": about["maxRetries"], "retryDelay": about.get("retryDelayExpression")}
        settings["headers"] = about.get("header", {})
        return {name: value for name, value in settings.items() if value is not None}

    def _attempts(self, message: str) -> dict[str, Any]:
        """The state of what a post is to do, and the errors of its attempts."""
        latest = self._history.latest.get(message)
        log = self._history.attempts.get(message, ())
        errors = [step_error(it) for it in log if it.state == "ERROR"] or [
            step_error(it) for it in log if it.state == "FAILED"
        ]
        if latest is not None and latest.state == "FAILED":
            state = _FAILED
        elif self._is_over or (latest is not None and latest.state in ("CANCEL_REQUESTED", "CANCELED")):
            state = _CANCELED
        else:
            state = _RETRY if errors else _PROGRESS
        return {"state": state, **({"errors": errors} if errors else {})}

    def _next(self, last: RunEntry) -> list[dict[str, Any]]:
        """The posts that are to make the next step, and those that have failed: `last` is the latest result."""
        if self._history.run.state == "RUN_SUCCESS":
            return []
        found: list[str] = []
        if self._is_complete() and not self._sleeps(last.message):
            found.append(last.message)
        shown = {it["messageId"] for group in self._groups for it in group["steps"] if it["state"] == _FAILED}
        failed = self._history.failed
        if failed is not None and failed not in (*found, *shown):
            found.append(failed)
        return [self._coming(message) for message in found if self._is_open(message)]

    def _is_complete(self) -> bool:
        """True if the steps of the last group have all succeeded."""
        group = self._groups[-1]["steps"]
        return all(it["state"] == _SUCCESS for it in group) and len(group) == group[0]["concurrent"]

    def _sleeps(self, message: str) -> bool:
        """True if the last step sleeps; it is then under way."""
        (step, *_) = self._groups[-1]["steps"]
        due = self._history.created.get(message, {}).get("notBefore", 0)
        if step["concurrent"] != 1 or step["stepType"] not in _SLEEPS or self._is_over or due <= self._history.now:
            return False
        step["state"] = _PROGRESS
        return True

    def _is_open(self, message: str) -> bool:
        latest = self._history.latest.get(message)
        return latest is not None and latest.state != "DELIVERED"

    def _coming(self, message: str) -> dict[str, Any]:
        settings = self._settings(message)
        settings.pop("headers", None)
        attempts = self._attempts(message)
        names = [
            value for it in attempts.get("errors", ()) for value in it["headers"].get("Upstash-Error-Step-Name", ())
        ]
        named = {"stepName": names[-1]} if names else {}
        return {"messageId": message, **named, **settings, **attempts}


def _identity(number: int | None, step: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"stepId": number, "stepName": str(step.get("stepName", "")), "stepType": str(step.get("stepType", ""))}
    return {name: value for name, value in shown.items() if value is not None}


def _call_fields(about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "callUrl": about["url"],
        "callMethod": about["method"],
        "callHeaders": about.get("header", {}),
        "callBody": about.get("body", about.get("bodyBase64", "")),
    }


def _wait_times(about: Mapping[str, Any]) -> dict[str, Any]:
    """The timeout of a wait, whose post is due at the deadline."""
    if "waitTimeoutDuration" not in about:
        return {}
    return {"waitTimeoutDuration": about["waitTimeoutDuration"], "waitTimeoutDeadline": about["notBefore"]}


def _decoded(text: str) -> str:
    """The text of a response, of which the SDK of JavaScript records each byte as a character."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _digits(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 1


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
