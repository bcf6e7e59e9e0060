"""The steps of a workflow run as JSON: what a delivery to an endpoint carries, and what the endpoint submits.

https://upstash.com/docs/workflow has the protocol. The fields `at`, `due`, `error` and `run` are batchflow's own:
engines keep what an endpoint submits byte for byte, so that every engine of the protocol carries them.
"""

from base64 import b64decode
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from pydantic_core import from_json, to_json

from batchflow.core.call import Body, CallResult, call_result_codec
from batchflow.core.run import Journal, Step, StepKind
from batchflow.errors import BatchflowError, InputError

_KINDS: Mapping[str, StepKind] = MappingProxyType(
    {
        "Run": "run",
        "Notify": "run",
        "CreateWebhook": "run",
        "SleepFor": "sleep",
        "SleepUntil": "sleep",
        "Call": "call",
        "Wait": "wait",
        "WaitForWebhook": "wait",
        "Invoke": "invoke",
    }
)
_TYPES: Mapping[StepKind, str] = MappingProxyType(
    {"run": "Run", "sleep": "SleepUntil", "call": "Call", "wait": "Wait", "invoke": "Invoke"}
)
_NO_ANSWER = frozenset({503, 504})
"""The statuses of a call's callback that may stand for a server that did not answer, if there are no headers."""

_BATCH_EVENT = "batchflow:batch:"
_NO_REASON = "it failed; its log has the reason"


class DeliveredRun(NamedTuple):
    """The part of a run that one delivery carries.

    `payload` is the initial body. `journal` has the outcomes in the order in which they were appended, and the sleeps
    that were planned. The last entry is the plan of `target`, one of `concurrent` (0: it is an outcome, or the start of
    the run); `due` is that of a sleep. With `is_repeated` it repeats an earlier entry. `known` are the numbers of steps
    that later entries have, if somebody has looked (`known_steps`).
    """

    payload: bytes
    journal: Journal = ()
    target: int = 0
    concurrent: int = 1
    due: int = 0
    is_repeated: bool = False
    known: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        return f"DeliveredRun({len(self.journal)} steps, target={self.target})"


def read_delivery(
    body: bytes, *, started_at: int, now: int, until: str | None = None, run: str | None = None
) -> DeliveredRun:
    """Read the array of a delivery; with `until` only up to the entry of this message, as after a lazy fetch.

    `run` is the id of the run: one that was resumed begins with the entries of the run that has failed. If the failure
    of a step is the last of them, that step is executed again, as if its plan were delivered.

    The time of an outcome that has none is that of the one before it, first `started_at`. A sleep whose plan is
    delivered is due.

    Raises:
        InputError: it is not such an array, or does not have the entry `until`.
    """
    entries = _read_entries(body, until)
    if not entries:
        raise InputError("the body has no steps; QStash sends an array that begins with the initial one", status=400)
    steps: dict[int, Step] = {}
    seen: set[tuple[int, int]] = set()
    at, target, concurrent, due, is_repeated = started_at, 0, 1, 0, False
    records = [_read_record(entry) for entry in entries[1:]]
    latest = {_number(it, "stepId"): place for place, it in enumerate(records, 2) if not it.get("targetStep")}
    for place, record in enumerate(records, 2):
        number, target = _number(record, "stepId"), _number(record, "targetStep")
        concurrent, due = _number(record, "concurrent"), _due(record)
        if run is not None and record.get("run", run) != run and (place == len(entries) or place < latest[number]):
            # Of the run that has failed; later entries may have the outcome of the other attempt.
            target, is_repeated = number, False
            continue
        is_repeated = (number, target) in seen
        seen.add((number, target))
        if target:
            if _kind(record) == "sleep" and target not in steps:
                # Once it is delivered, the engine has seen to the time.
                waits_until = min(due, now) if place == len(entries) else due
                steps[target] = _step(record, target, at)._replace(state="pending", due=waits_until)
            continue
        if is_repeated:
            continue
        step = _outcome(record, number, at)
        at = max(at, step.at)
        position = 1 + sum(it.position > 0 for it in steps.values())
        steps[number] = step._replace(position=position, due=0, at=at)
    payload = b64decode(entries[0])
    return DeliveredRun(payload, tuple(steps.values()), target, concurrent, due, is_repeated)


def known_steps(body: bytes, target: int) -> frozenset[int]:
    """The numbers of the steps that a whole run has, with which a delivery has nothing to do any more.

    Those are the recorded ones, and the planned ones too if `target` is 0: the plan of another is executed.

    Raises:
        InputError: it is not the array of a run.
    """
    records = [_read_record(entry) for entry in _read_entries(body, None)[1:]]
    names = ("stepId",) if target else ("stepId", "targetStep")
    return frozenset(number for record in records for name in names if (number := _number(record, name)))


def plan_record(step: Step, concurrent: int) -> str:
    """The JSON of the plan to execute `step`, one of `concurrent` steps."""
    sleep = _sleep_fields(step) if step.kind == "sleep" else {}
    due = {"due": step.due} if step.kind == "sleep" else {}
    plan = {**_identity(step, None, 0), **sleep, "concurrent": concurrent, "targetStep": step.number, **due}
    return to_json(plan).decode()


def outcome_record(step: Step, concurrent: int, *, type: str | None = None, run: str | None = None) -> str:
    """The JSON of an executed step's outcome, or of a sleep; `type` is its step type, by default that of its kind.

    A failure belongs to `run`: see `read_delivery`.
    """
    if step.kind == "sleep":
        sleep = {**_sleep_fields(step), "concurrent": concurrent, "due": step.due}
        return to_json({**_identity(step, type), **sleep}).decode()
    outcome = {"out": step.value or "null", "concurrent": concurrent, "at": step.at}
    if step.failures:
        outcome["failures"] = step.failures
    if step.state == "failed":
        outcome |= {"error": step.error or "", "run": run}
    return to_json({**_identity(step, type), **outcome}).decode()


def waiting_record(step: Step, concurrent: int, *, type: str | None = None) -> dict[str, Any]:
    """The record that the engine completes with what arrives for a step that waits."""
    identity = _identity(step, type)
    number, name, kind = identity.values()
    # As the official SDK orders them.
    return {"stepId": number, "stepType": kind, "stepName": name, "concurrent": concurrent}


def batch_event(id: str) -> str:
    """The event of the end of a batch that a run has invoked; no other event has such a name."""
    return f"{_BATCH_EVENT}{id}"


def batch_ended(step: Step) -> str:
    """The data of that event, from the step that has waited for the batch."""
    ended = {"isCanceled": step.state == "cancelled", "isFailed": step.state == "failed"}
    told = {"body": step.value} if step.state == "done" else {"error": step.error}
    return to_json({**ended, **told}).decode()


def call_record(identity: Mapping[str, Any], callback: Mapping[str, Any], at: int, run: str | None = None) -> str:
    """The JSON of the outcome of a call, whose callback has this JSON.

    A failure belongs to `run`: see `read_delivery`.
    """
    body = Body.of(b64decode(callback.get("body") or ""))
    headers: Any = callback.get("header") or {}
    answer = {"status": callback.get("status"), "body": body.text, "header": headers}
    if body.base64:
        answer["base64"] = True
    record: dict[str, Any] = {name: identity[name] for name in ("stepId", "stepName", "stepType")}
    record |= {"out": to_json(answer).decode(), "concurrent": identity["concurrent"], "at": at}
    if answer["status"] in _NO_ANSWER and not headers:
        record["run"] = run
    return to_json(record).decode()


def _identity(step: Step, type: str | None, number: int | None = None) -> dict[str, Any]:
    shown = step.number if number is None else number
    return {"stepId": shown, "stepName": step.name, "stepType": type or _TYPES[step.kind]}


def _sleep_fields(step: Step) -> dict[str, Any]:
    return {"sleepUntil": seconds_after(step.due)}


def seconds_after(due: int) -> int:
    """The first whole second, in unix seconds, that is not before `due` (ms): engines know no shorter times."""
    return -(-due // 1000)


def _read_entries(body: bytes, until: str | None) -> list[str]:
    try:
        items = from_json(body)
    except ValueError as error:
        raise InputError(f"the body is not JSON ({error}); QStash sends an array of steps", status=400) from error
    entries: list[str] = []
    ids: list[str] = []
    for item in cast("list[Any]", items) if isinstance(items, list) else [None]:
        match item:
            case {"messageId": str(id), "body": str(content)}:
                if item.get("callType", "step") == "step":
                    entries.append(content)
                    ids.append(id)
            case _:
                raise InputError("the body is not an array of steps, as QStash sends it", status=400)
    if until is None or len(entries) == 1:
        return entries
    if until not in ids:
        raise InputError("the run does not have the step of this delivery", status=400)
    return entries[: ids.index(until) + 1]


def _read_record(entry: str) -> Mapping[str, Any]:
    try:
        record = from_json(b64decode(entry, validate=True))
    except ValueError as error:
        raise InputError(f"a step of the body is not JSON ({error})", status=400) from error
    if not isinstance(record, dict):
        raise InputError("a step of the body is not a JSON object", status=400)
    return cast("Mapping[str, Any]", record)


def _number(record: Mapping[str, Any], name: str) -> int:
    number = record.get(name) or 0
    if not isinstance(number, int):
        raise InputError(f"'{name}' of a step is not a number", status=400)
    return number


def _kind(record: Mapping[str, Any]) -> StepKind:
    return kind_of(str(record.get("stepType")))


def kind_of(type: str) -> StepKind:
    """The kind of a step of this type.

    Raises:
        InputError: it is not known.
    """
    kind = _KINDS.get(type)
    if kind is None:
        raise InputError("a step of the body has a type that batchflow does not know; update batchflow", status=400)
    return kind


def _step(record: Mapping[str, Any], number: int, at: int) -> Step:
    return Step(number, str(record.get("stepName")), _kind(record), "done", value="null", at=at)


def _due(record: Mapping[str, Any]) -> int:
    match record:
        case {"due": int(due)}:
            return due
        case {"sleepUntil": int() | float() as until}:
            return round(until * 1000)
        case _:
            return 0


def _outcome(record: Mapping[str, Any], number: int, at: int) -> Step:
    step = _step(record, number, at)
    own = record.get("at")
    step = step._replace(at=own if isinstance(own, int) else at, due=_due(record))
    step = step._replace(failures=_number(record, "failures"))
    if str(record.get("waitEventId", "")).startswith(_BATCH_EVENT):
        return _awaited_batch(step._replace(kind="invoke"), record)
    if (error := record.get("error")) is not None:
        return step._replace(state="failed", value=None, error=str(error))
    match step.kind:
        case "run" if record.get("stepType") == "Notify":
            # Official SDKs record what QStash has answered.
            return step
        case "run":
            return step._replace(value=_text(record))
        case "call":
            return _called(step, _text(record))
        case "wait" if record.get("waitTimeout"):
            return step._replace(state="timeout")
        case "wait":
            content = b64decode(_text(record, ""))
            hook = record.get("stepType") == "WaitForWebhook"
            return step._replace(value=_webhook_value(content) if hook else as_json(content))
        case "invoke":
            return _invoked(step, _text(record, "{}"))
        case "sleep":
            return step


def shown_outcome(step: Step, type: str, out: object, *, timed_out: bool) -> Step:
    """A step of the log of a run with its outcome: `out`, of which each type of step has its own form.

    What does not have that form is shown as it is.
    """
    record = {"stepType": type, "stepName": step.name, "out": out, "waitTimeout": timed_out}
    try:
        read = _outcome(record, step.number, step.at)
        state, value, error = read.state, read.value, read.error
    except (ValueError, KeyError, TypeError, AttributeError, BatchflowError):
        state, value, error = step.state, _text(record), None
    return step._replace(state=state, value=None if value is None else as_json(value.encode()), error=error)


def _text(record: Mapping[str, Any], default: str = "null") -> str:
    out = record.get("out")
    return default if out is None else out if isinstance(out, str) else to_json(out).decode()


def _called(step: Step, out: str) -> Step:
    answer = from_json(out)
    status, headers = int(answer["status"]), cast("Mapping[str, Sequence[str]]", answer.get("header") or {})
    body = Body(text=str(answer.get("body") or ""), base64=bool(answer.get("base64")))
    if status in _NO_ANSWER and not headers:
        return step._replace(state="failed", value=None, error=body.text or "the server did not answer")
    joined = {name.lower(): ", ".join(values) for name, values in headers.items()}
    return step._replace(value=call_result_codec().encode(CallResult(status=status, headers=joined, body=body)))


def _awaited_batch(step: Step, record: Mapping[str, Any]) -> Step:
    if record.get("waitTimeout"):
        return step._replace(state="failed", value=None, error="it has not ended in the time that QStash waits")
    return _invoked(step, b64decode(_text(record, "")).decode())


def _invoked(step: Step, out: str) -> Step:
    ended = cast("Mapping[str, Any]", from_json(out))
    if ended.get("isCanceled"):
        return step._replace(state="cancelled", value=None)
    if ended.get("isFailed"):
        return step._replace(state="failed", value=None, error=str(ended.get("error") or _NO_REASON))
    return step._replace(value=str(ended.get("body") or "null"))


def as_json(content: bytes) -> str:
    """The JSON text of what somebody has sent: as it came, or a JSON string if it is not JSON; null if it is empty."""
    if not content:
        return "null"
    try:
        from_json(content)
    except ValueError:
        return to_json(content.decode(errors="replace")).decode()
    return content.decode()


def _webhook_value(content: bytes) -> str:
    request = cast("Mapping[str, Any]", from_json(content))
    headers = cast("Mapping[str, Sequence[str]]", request.get("header") or {})
    body = Body.of(b64decode(request.get("body") or ""))
    return to_json(
        {
            "method": request.get("method", "POST"),
            "headers": {name.lower(): ", ".join(values) for name, values in headers.items()},
            "query": str(request.get("url", "")).partition("?")[2],
            "sent": {"text": body.text, "base64": body.base64},
        }
    ).decode()
