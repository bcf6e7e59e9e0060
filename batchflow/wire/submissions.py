"""The requests of a workflow endpoint and of its clients to QStash, as the official SDK for JavaScript makes them.

Each is the item of a batch, or a path with headers and a body. https://upstash.com/docs/workflow has the protocol.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote

from pydantic_core import to_json

from batchflow.core.call import CallRequest
from batchflow.core.duration import format_duration
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Step
from batchflow.wire.envelope import HeaderPairs
from batchflow.wire.publish_headers import DEFAULT_RETRIES
from batchflow.wire.steps import outcome_record, plan_record, seconds_after, waiting_record

FEATURES = "LazyFetch,InitialBody,WF_DetectTrigger,WF_TriggerOnConfig"
"""The features of our endpoints: the engine keeps the configuration of a run, and may leave out a large body."""

PROTOCOL = "1"
"""The version of the workflow protocol."""

LONGEST_WAIT = "365d"
"""The timeout of a wait without one: QStash has no waits without a limit."""

ID_PREFIX = "wfr_"
"""The prefix of the ids of runs in QStash; our own ids are without it."""

DEFAULT_WAITS = RetryPolicy().expression()
"""The waits of policies that say nothing about them; QStash is not told of them, and has its own."""

FIRST_WAITS = "2000 * pow(3, retried)"
"""The waits, in ms, before QStash repeats a message that the app does not answer: 2 s, 6 s, 18 s."""

LATER_WAITS = "60000 * pow(5, retried)"
"""Those of the failure callback, which brings a message again that QStash has given up: 1 min, 5 min, 25 min."""

LONGEST_TIMEOUT_MS = 43_200_000
"""QStash waits no longer for the answer to a request."""

ANSWER_MS = 60_000
"""The time to record and to answer, after the time limit of what a request executes."""

_WEBHOOK = "batchflow:webhook:"
_FAILURE_CALLBACK = "upstash-failure-callback"
_CALL_FEATURES = "WF_NoDelete,InitialBody"
_DEPTH = "upstash-forward-upstash-workflow-invoke-count"
_JSON = "application/json"
_POST: Mapping[str, str] = MappingProxyType({"upstash-method": "POST"})
_OF_NAMES = " !#$&'()*+,/:;=?@[]"
# Beside letters and digits these stand for themselves in the header that has the name of a step.


def wire_id(id: str) -> str:
    """The id of a run as QStash has it."""
    return id if id.startswith(ID_PREFIX) else ID_PREFIX + id


def own_id(wire: str) -> str:
    """Our id of a run of QStash."""
    return wire.removeprefix(ID_PREFIX)


def webhook_event(token: str) -> str:
    """The id of the event that QStash sends for a request to a webhook with this token."""
    return f"evt_{token.rpartition('.whk_')[2]}"


class Address(NamedTuple):
    """A run and the URL of its endpoint. It began at `created_at` (ms, 0: not known).

    `depth` is the number of its ancestors; the headers of `telemetry` describe us. `timeout_ms` is the time limit of
    one of its steps.
    """

    run: str
    url: str
    created_at: int = 0
    depth: int = 0
    telemetry: HeaderPairs = ()
    timeout_ms: int | None = None

    def __repr__(self) -> str:
        # The URL may have a secret.
        return f"Address('{self.run}')"


class Submission(NamedTuple):
    """A request to QStash: what is posted where."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"Submission({len(self.body)} bytes)"


class RunSettings(NamedTuple):
    """The options of a new run. `headers` are the user's own; `not_before` is in ms (0: at once).

    `retry_delay` is the expression of the waits before retries, None for those of QStash.
    """

    headers: Mapping[str, str] = {}
    label: str | None = None
    not_before: int = 0
    retry: RetryPolicy | None = None
    retry_delay: str | None = None
    flow: FlowControl | None = None
    failure_url: str | None = None


def init_item(address: Address, payload: str, settings: RunSettings) -> dict[str, Any]:
    """The item that begins a run."""
    headers = {**run_headers(address, init=True), **settings_headers(settings)}
    user = {f"upstash-forward-{name.lower()}": value for name, value in settings.headers.items()}
    failure = _failure_headers(address, settings, user)
    return _item(address.url, {**headers, **_POST, **user, **failure}, payload)


def settings_headers(settings: RunSettings) -> dict[str, str]:
    """The headers of a run's options."""
    headers: dict[str, str] = {}
    if settings.retry is not None and (retries := settings.retry.attempts - 1) != DEFAULT_RETRIES:
        headers["upstash-retries"] = str(retries)
    if settings.retry_delay is not None:
        headers["upstash-retry-delay"] = settings.retry_delay
    if settings.flow is not None:
        headers |= flow_headers(settings.flow)
    if settings.label is not None:
        headers |= {"upstash-label": settings.label, "upstash-forward-upstash-label": settings.label}
    if settings.not_before:
        headers["upstash-not-before"] = str(seconds_after(settings.not_before))
    return headers


def batch_submission(items: Sequence[Mapping[str, Any]]) -> Submission:
    """The request that publishes all of these items, or none."""
    return Submission("/v2/batch", {"content-type": _JSON}, to_json(items))


def outcome_submission(address: Address, step: Step, concurrent: int, *, type: str | None = None) -> Submission:
    """The request of the outcome of a step."""
    record = outcome_record(step, concurrent, type=type, run=address.run)
    return batch_submission([_item(address.url, {**run_headers(address), **_POST}, record)])


def sleep_submission(address: Address, step: Step) -> Submission:
    """The request of a sleep, which is delivered when it is due."""
    headers = {**run_headers(address), **_POST, **_due_header(step)}
    return batch_submission([_item(address.url, headers, outcome_record(step, 1))])


def plans_submission(address: Address, steps: Sequence[Step]) -> Submission:
    """The request of the plans to execute these steps; that of a sleep is delivered when it is due."""
    headers = {**run_headers(address), **_POST}
    return batch_submission(
        [_item(address.url, {**headers, **_due_header(it)}, plan_record(it, len(steps))) for it in steps]
    )


def call_submission(
    address: Address, step: Step, concurrent: int, request: CallRequest, retry: RetryPolicy, flow: FlowControl | None
) -> Submission:
    """The request of a call, whose callback comes to the endpoint."""
    headers: dict[str, str] = {}
    delay = retry.expression()
    for name, value in request.headers.items():
        is_type = name.lower() == "content-type"
        headers["content-type" if is_type else f"upstash-forward-{name.lower()}"] = value
    headers |= {
        "upstash-method": request.method,
        "upstash-retries": str(retry.attempts - 1),
        **({"upstash-retry-delay": delay} if retry.attempts > 1 and delay != DEFAULT_WAITS else {}),
        "upstash-timeout": f"{-(-request.timeout_ms // 1000)}s",
        "upstash-feature-set": _CALL_FEATURES,
        "upstash-workflow-calltype": "toCallback",
        **began_header(address),
        "upstash-workflow-init": "false",
        "upstash-workflow-runid": address.run,
        "upstash-workflow-sdk-version": PROTOCOL,
        "upstash-workflow-url": address.url,
        **_callback_headers(address, step, concurrent),
        **(flow_headers(flow) if flow is not None else {}),
        **dict(address.telemetry),
    }
    if request.body.base64:
        # The items of a batch have texts.
        return Submission(f"/v2/publish/{request.url}", headers, request.body.content)
    return batch_submission([_item(request.url, headers, request.body.text)])


def _callback_headers(address: Address, step: Step, concurrent: int) -> dict[str, str]:
    identity = {
        "callback": "true",
        "concurrent": str(concurrent),
        "contenttype": _JSON,
        "stepid": str(step.number),
        "stepname": quote(step.name, safe=_OF_NAMES),
        "steptype": "Call",
    }
    return {
        "upstash-callback": address.url,
        "upstash-callback-feature-set": FEATURES,
        "upstash-callback-workflow-calltype": "fromCallback",
        "upstash-callback-workflow-init": "false",
        "upstash-callback-workflow-runid": address.run,
        "upstash-callback-workflow-url": address.url,
        **{f"upstash-callback-forward-upstash-workflow-{name}": value for name, value in identity.items()},
        **{f"upstash-callback{name[7:]}": value for name, value in timeout_header(address.timeout_ms).items()},
    }


def wait_submission(address: Address, step: Step, concurrent: int, event: str, *, now: int) -> Submission:
    """The request that registers the wait of a step for an event, until it is due."""
    headers = {**run_headers(address), "upstash-workflow-calltype": "step"}
    timeout = f"{max(1, -(-(step.due - now) // 1000))}s" if step.due else LONGEST_WAIT
    kind = "Wait"
    if event.startswith(_WEBHOOK):
        kind, event = "WaitForWebhook", webhook_event(event)
    body = {
        "url": address.url,
        "timeout": timeout,
        "timeoutUrl": address.url,
        "timeoutHeaders": {name: [value] for name, value in headers.items()},
        "step": waiting_record(step, concurrent, type=kind),
    }
    return Submission(f"/v2/wait/{quote(event, safe='')}", headers, to_json(body))


def invoke_submission(
    address: Address, step: Step, concurrent: int, child: Address, payload: str, settings: RunSettings
) -> Submission:
    """The request that starts a child, whose end is the outcome of a step."""
    item = init_item(child, payload, settings)
    headers = {**item["headers"], "upstash-workflow-invoke": "true"}
    record = waiting_record(step, concurrent)
    body = {
        "body": payload,
        "headers": {name: [value] for name, value in run_headers(address).items()},
        "workflowRunId": address.run,
        "workflowRunCreatedAt": address.created_at,
        "workflowUrl": address.url,
        "step": {name: record[name] for name in ("stepId", "stepName", "stepType", "concurrent")},
    }
    return Submission(f"/v2/publish/{child.url}", headers, to_json(body))


def notify_submission(event: str, data: str, run: str | None = None) -> Submission:
    """The request that sends an event, with `run` to this run alone."""
    path = quote(event, safe="") if run is None else f"{quote(run, safe='')}/{quote(event, safe='')}"
    return Submission(f"/v2/notify/{path}", {}, data.encode())


def run_path(run: str) -> str:
    """The path of a run, by which its steps are read and it is ended."""
    return f"/v2/workflows/runs/{quote(run, safe='')}"


def called_submission(address: Address, record: str) -> Submission:
    """The request that submits the outcome of a call."""
    return Submission(f"/v2/publish/{address.url}", {**run_headers(address), **_POST}, record.encode())


def run_headers(address: Address, *, init: bool = False) -> dict[str, str]:
    """The headers of a request about a run."""
    headers = {
        **began_header(address),
        "content-type": _JSON,
        "upstash-feature-set": FEATURES,
        "upstash-forward-upstash-workflow-sdk-version": PROTOCOL,
        "upstash-workflow-init": "true" if init else "false",
        "upstash-workflow-runid": address.run,
        "upstash-workflow-sdk-version": PROTOCOL,
        "upstash-workflow-url": address.url,
        **timeout_header(address.timeout_ms),
        **dict(address.telemetry),
    }
    if address.depth:
        headers[_DEPTH] = str(address.depth)
    return headers


def began_header(address: Address) -> dict[str, str]:
    """The header that says which run of this id is meant: a later one takes nothing that was meant for this one."""
    return {"upstash-workflow-createdat": str(address.created_at)} if address.created_at else {}


def _failure_headers(address: Address, settings: RunSettings, user: Mapping[str, str]) -> dict[str, str]:
    prefix = _FAILURE_CALLBACK
    headers = {
        prefix: settings.failure_url or address.url,
        f"{prefix}-feature-set": FEATURES,
        f"{prefix}-forward-upstash-workflow-failure-callback": "true",
        f"{prefix}-forward-upstash-workflow-is-failure": "true",
        f"{prefix}-workflow-calltype": "failureCall",
        f"{prefix}-workflow-init": "false",
        f"{prefix}-workflow-runid": address.run,
        f"{prefix}-workflow-url": address.url,
    }
    own = timeout_header(address.timeout_ms)
    if address.depth:
        own[_DEPTH] = str(address.depth)
    nested = {**own, **user, **{name: it for name, it in settings_headers(settings).items() if name in _OF_FAILURES}}
    return {**headers, **{f"{prefix}{name.removeprefix('upstash')}": value for name, value in nested.items()}}


_OF_FAILURES = frozenset(
    f"upstash-{name}"
    for name in ("retries", "retry-delay", "flow-control-key", "flow-control-value", "forward-upstash-label")
)


def flow_headers(flow: FlowControl) -> dict[str, str]:
    """The headers of the limits of a key; none for a key without limits."""
    limits = (("parallelism", flow.parallelism), ("rate", flow.rate))
    value = [f"{name}={limit}" for name, limit in limits if limit is not None]
    if not value:
        return {}
    if flow.rate is not None:
        value.append(f"period={format_duration(flow.period_ms)}")
    return {"upstash-flow-control-key": str(flow.key), "upstash-flow-control-value": ", ".join(value)}


def message_item(
    url: str,
    body: str,
    *,
    dedup_id: str,
    flow: FlowControl | None = None,
    label: str | None = None,
    not_before: int = 0,
    timeout_ms: int | None = None,
) -> dict[str, Any]:
    """The item of a message without a run; it is delivered from `not_before` on (ms, 0: at once).

    While nobody answers it comes again within seconds, three times as on every plan, and then as the source of its
    failure callback, for half an hour. `timeout_ms` is the time limit of what it executes.
    """
    settings = RunSettings(label=label, not_before=not_before, retry_delay=FIRST_WAITS, flow=flow)
    headers = {"upstash-deduplication-id": dedup_id, **settings_headers(settings), **timeout_header(timeout_ms)}
    headers.pop("upstash-forward-upstash-label", None)
    again = {name: headers[name] for name in (*_OF_FAILURES, "upstash-timeout") if name in headers}
    again["upstash-retry-delay"] = LATER_WAITS
    nested = {f"{_FAILURE_CALLBACK}{name.removeprefix('upstash')}": value for name, value in again.items()}
    return _item(url, {"content-type": _JSON, **_POST, **headers, _FAILURE_CALLBACK: url, **nested}, body)


def timeout_header(timeout_ms: int | None) -> dict[str, str]:
    """The header of the time that QStash waits for the answer to what has this time limit."""
    if timeout_ms is None:
        return {}
    return {"upstash-timeout": f"{-(-min(timeout_ms + ANSWER_MS, LONGEST_TIMEOUT_MS) // 1000)}s"}


def schedule_submission(url: str, cron: str, id: str, body: str) -> Submission:
    """The request that creates the schedule `id`, or replaces it: a POST to a URL, repeated within seconds."""
    headers = {
        "content-type": _JSON,
        "upstash-cron": cron,
        "upstash-retry-delay": FIRST_WAITS,
        "upstash-schedule-id": id,
        **_POST,
    }
    return Submission(f"/v2/schedules/{url}", headers, body.encode())


def _due_header(step: Step) -> dict[str, str]:
    return {"upstash-not-before": str(seconds_after(step.due))} if step.kind == "sleep" and step.due else {}


def _item(url: str, headers: Mapping[str, str], body: str) -> dict[str, Any]:
    # Sorted by name, as the headers of `fetch` are.
    return {"destination": url, "headers": dict(sorted(headers.items())), "body": body}
