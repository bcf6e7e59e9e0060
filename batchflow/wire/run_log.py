"""The log of a workflow run, as the REST API shows it. Pure values."""

from typing import Any

from batchflow.core.secrets import unmarked_text
from batchflow.core.wire_runs import WireRun
from batchflow.wire.run_history import (
    FailureCallback,
    RunHistory,
    body_of,
    entry_detail,
    sent_object,
    shown_text,
    step_error,
)
from batchflow.wire.run_steps import step_groups


def run_json(history: RunHistory, failure: FailureCallback | None = None) -> dict[str, Any]:
    """The run of the REST API, without the fields that do not apply. What is redacted is shown as a hash."""
    run, config = history.run, history.config
    fields: dict[str, Any] = {
        "workflowRunId": run.id,
        "workflowUrl": run.url,
        "workflowState": run.state,
        "workflowRunCreatedAt": run.created_at,
        "workflowRunCompletedAt": run.ended_at,
        "workflowRunCallerIp": config.caller_ip,
        "workflowRunResponse": None if run.result is None else shown_text(run.result, config),
        "invoker": _invoker(run),
        "dlqId": history.failed,
        "label": config.labels[0] if config.labels else None,
        "labels": list(config.labels) or None,
        "flowControlKey": config.flow_key,
        "failureFunction": None if failure is None else _failure_function(history, failure),
    }
    shown = {name: value for name, value in fields.items() if value is not None}
    return {**shown, "steps": step_groups(history)}


def _invoker(run: WireRun) -> dict[str, Any] | None:
    if run.invoker is None:
        return None
    about = sent_object(unmarked_text(run.invoker))
    names = ("workflowRunId", "workflowUrl", "workflowRunCreatedAt")
    return {name: about[name] for name in names if about.get(name) is not None}


def _failure_function(history: RunHistory, failure: FailureCallback) -> dict[str, Any]:
    failed = history.failed
    log = history.attempts.get(failed or "", ())
    detail = entry_detail(log[-1]) if log else {}
    errors = [step_error(it) for it in failure.log if it.state == "ERROR"]
    return {
        "messageId": failure.id,
        "url": failure.description["url"],
        "state": failure.state,
        "failHeaders": detail.get("responseHeader", {}),
        "failStatus": detail.get("responseStatus", 0),
        "failResponse": body_of(detail),
        "dlqId": failed,
        **({"errors": errors} if errors else {}),
        **failure.response(),
        "maxRetries": failure.description["maxRetries"],
    }
