"""Requests of workflow runs, with the headers that the official SDKs send."""

from itertools import count
from typing import Any

from batchflow.core.call import Body
from batchflow.core.posts import Post
from batchflow.core.wire_runs import BeginRun, WireRun
from batchflow.wire.envelope import Envelope
from batchflow.wire.publish import PublishRequest, parse_publish
from batchflow.wire.run_config import RunConfig
from batchflow.wire.run_posts import begin_post

FLOW = "https://app.example/flow"
FAILED = "https://app.example/failed"
NOW = 1_700_000_000_000
BEGUN = NOW - 60_000

FEATURES = "LazyFetch,InitialBody,WF_DetectTrigger,WF_TriggerOnConfig"
JS_BASE = {
    "upstash-workflow-runid": "wfr_1",
    "upstash-workflow-url": FLOW,
    "upstash-feature-set": FEATURES,
    "upstash-workflow-sdk-version": "1",
    "upstash-telemetry-sdk": "@upstash/workflow@v1.3.3",
    "upstash-forward-upstash-workflow-sdk-version": "1",
    "content-type": "application/json",
    "upstash-method": "POST",
}
JS_STEP = {**JS_BASE, "upstash-workflow-init": "false"}
JS_FAILURE = {
    "upstash-failure-callback": FLOW,
    "upstash-failure-callback-forward-upstash-workflow-is-failure": "true",
    "upstash-failure-callback-forward-upstash-workflow-failure-callback": "true",
    "upstash-failure-callback-forward-x-user": "17",
    "upstash-failure-callback-workflow-runid": "wfr_1",
    "upstash-failure-callback-workflow-init": "false",
    "upstash-failure-callback-workflow-url": FLOW,
    "upstash-failure-callback-workflow-calltype": "failureCall",
    "upstash-failure-callback-feature-set": FEATURES,
    "upstash-failure-callback-retries": "1",
}
JS_TRIGGER = {
    **JS_BASE,
    **JS_FAILURE,
    "upstash-workflow-init": "true",
    "content-type": "text/plain",
    "upstash-forward-x-user": "17",
    "upstash-retries": "1",
    "upstash-retry-delay": "1000",
    "upstash-flow-control-key": "flow",
    "upstash-flow-control-value": "parallelism=2, rate=10, period=1m",
    "upstash-label": "red",
    "upstash-forward-upstash-label": "red",
    "upstash-redact-fields": "header[x-user]",
}
JS_CALL = {
    **{name: value for name, value in JS_STEP.items() if not name.startswith("upstash-forward-")},
    "upstash-retries": "2",
    "upstash-feature-set": "WF_NoDelete,InitialBody",
    "upstash-forward-authorization": "Bearer key",
    "upstash-callback": FLOW,
    "upstash-callback-workflow-runid": "wfr_1",
    "upstash-callback-workflow-calltype": "fromCallback",
    "upstash-callback-workflow-init": "false",
    "upstash-callback-workflow-url": FLOW,
    "upstash-callback-feature-set": FEATURES,
    "upstash-callback-forward-upstash-workflow-callback": "true",
    "upstash-callback-forward-upstash-workflow-stepid": "3",
    "upstash-callback-forward-upstash-workflow-stepname": "ask",
    "upstash-callback-forward-upstash-workflow-steptype": "Call",
    "upstash-callback-forward-upstash-workflow-concurrent": "1",
    "upstash-callback-forward-upstash-workflow-contenttype": "application/json",
    "upstash-workflow-calltype": "toCallback",
}
# It sends no version and no WF_TriggerOnConfig, so that each request has the headers of its user.
PY_STEP = {
    "Content-Type": "application/json",
    "Upstash-Workflow-Init": "false",
    "Upstash-Workflow-RunId": "wfr_1",
    "Upstash-Workflow-Url": FLOW,
    "Upstash-Feature-Set": "LazyFetch,InitialBody,WF_DetectTrigger",
    "Upstash-Forward-Upstash-Workflow-Sdk-Version": "1",
    "Upstash-Forward-x-user": "17",
    "Upstash-Failure-Callback": FAILED,
    "Upstash-Failure-Callback-Forward-Upstash-Workflow-Is-Failure": "true",
    "Upstash-Failure-Callback-Forward-Upstash-Workflow-Failure-Callback": "true",
    "Upstash-Failure-Callback-Workflow-Runid": "wfr_1",
    "Upstash-Failure-Callback-Workflow-Init": "false",
    "Upstash-Failure-Callback-Workflow-Url": FLOW,
    "Upstash-Failure-Callback-Workflow-Calltype": "failureCall",
    "Upstash-Failure-Callback-Feature-Set": "LazyFetch,InitialBody",
}


def asked(headers: dict[str, str], body: bytes = b"", *, to: str = FLOW, **options: Any) -> PublishRequest:
    return parse_publish(to, headers.items(), body, tenant="t", now=NOW, **options)


def numbered() -> Any:
    numbers = count(1)
    return lambda: f"msg_{next(numbers)}"


def begun(headers: dict[str, str] = JS_TRIGGER, body: bytes = b"hi") -> tuple[Post, Envelope, BeginRun]:
    post = begin_post(asked(headers, body), numbered())
    assert isinstance(post.link, BeginRun)
    return post, Envelope.of_text(post.message.body), post.link


def run_of(headers: dict[str, str] | None = None, **fields: Any) -> WireRun:
    """The run that a request with these headers has begun."""
    config = RunConfig().to_text() if headers is None else begun(headers)[2].config
    run = WireRun("wfr_1", "t", FLOW, "RUN_STARTED", config, None, BEGUN, None, None, 2)
    return run._replace(**fields)


def text_of(body: Body) -> str:
    return body.content.decode()
