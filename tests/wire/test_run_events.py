"""Waits, events, webhooks, failure callbacks and the arrays of steps of workflow runs."""

import json
from base64 import b64decode
from typing import Any

import pytest
from pydantic_core import from_json, to_json

from batchflow.core.call import EMPTY_BODY, Body
from batchflow.core.posts import Post
from batchflow.core.wire_runs import WAIT_TIMEOUT, AwaitEvent, RunEntry
from batchflow.errors import InputError
from batchflow.wire.callbacks import Outcome
from batchflow.wire.delivery import delivery_headers
from batchflow.wire.envelope import Envelope
from batchflow.wire.run_entries import event_tail, step_of, steps_array, webhook_data
from batchflow.wire.run_posts import failure_id, failure_post, run_post, wait_post, waiting_run
from tests.wire.run_requests import (
    BEGUN,
    FAILED,
    FEATURES,
    FLOW,
    JS_STEP,
    JS_TRIGGER,
    NOW,
    PY_STEP,
    asked,
    numbered,
    run_of,
)

WAIT: dict[str, Any] = {
    "url": FLOW,
    "timeout": "20s",
    "timeoutUrl": FLOW,
    "timeoutHeaders": {
        **{name: [value] for name, value in JS_STEP.items()},
        "Upstash-Workflow-Runid": ["wfr_1"],
        "Upstash-Workflow-Init": ["false"],
        "Upstash-Workflow-CallType": ["step"],
    },
    "step": {"stepId": 3, "stepType": "Wait", "stepName": "wäit", "concurrent": 1},
}


def waiting(body: dict[str, Any]) -> tuple[Post, AwaitEvent]:
    post = wait_post("paid", to_json(body), run_of(JS_TRIGGER), now=NOW, new_id=numbered())
    assert isinstance(post.link, AwaitEvent)
    return post, post.link


def test_a_wait_is_due_at_its_deadline() -> None:
    """Its post has the configuration of its run."""
    post, link = waiting(WAIT)
    assert (post.message.not_before, link.run, link.event, link.created_at) == (NOW + 20_000, "wfr_1", "paid", None)
    pushed = Envelope.of_text(post.message.body)
    assert (pushed.url, pushed.content_type, pushed.retries) == (FLOW, "application/json", 1)
    assert dict(pushed.headers)["x-user"] == "17"
    assert pushed.run is not None
    assert pushed.run.created_at == BEGUN
    assert waiting({**WAIT, "timeout": None})[0].message.not_before == NOW + 7 * 86_400_000


def test_an_entry_of_a_wait_is_the_step_with_the_data_of_the_event_or_the_timeout() -> None:
    """Without data there is none."""
    _, link = waiting(WAIT)
    step = {**WAIT["step"], "waitEventId": "paid"}
    ended = [from_json(link.head + tail) for tail in (event_tail(b"\xff{}"), event_tail(b""), WAIT_TIMEOUT)]
    assert ended == [{**step, "out": "/3t9"}, step, {**step, "waitTimeout": True}]
    assert "wäit" in link.head


def test_a_waiter_and_its_message_say_what_they_wait_for() -> None:
    """For listings and the log of the run."""
    post, link = waiting(WAIT)
    waiter = from_json(link.about)
    assert (waiter["url"], waiter["timeoutUrl"], waiter["deadline"]) == (FLOW, FLOW, (NOW + 20_000) // 1000)
    assert waiter["headers"]["Upstash-Workflow-Runid"] == ["wfr_1"]
    shown = from_json(post.description)
    assert (shown["waitEventId"], shown["waitTimeoutDuration"]) == ("paid", "20s")
    assert shown["step"] == {**WAIT["step"], "waitEventId": "paid"}


def test_the_body_of_a_wait_names_its_run() -> None:
    """With the time at which it began, if a newer SDK says that."""
    assert waiting_run(to_json(WAIT)) == ("wfr_1", None)
    headers = {**WAIT["timeoutHeaders"], "Upstash-Workflow-CreatedAt": [str(BEGUN)]}
    assert waiting_run(to_json({**WAIT, "timeoutHeaders": headers})) == ("wfr_1", BEGUN)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        to_json({**WAIT, "step": None}),
        to_json({**WAIT, "timeout": "soon"}),
        to_json({**WAIT, "timeoutHeaders": {}}),
        to_json({**WAIT, "timeoutHeaders": {"a": 1}}),
        to_json({**WAIT, "url": None, "timeoutUrl": None}),
    ],
)
def test_a_wrong_wait_is_refused(body: bytes) -> None:
    """Status 400."""
    with pytest.raises(InputError) as caught:
        wait_post("paid", body, run_of(), now=NOW, new_id=numbered())
    assert caught.value.status == 400


def test_a_webhook_is_told_as_its_request_was() -> None:
    """Its parts make the URL again."""
    url = "https://q.example:8080/v2/workflows/hooks/t/wfr_1/paid?a=b/c&d"
    data = from_json(webhook_data("PUT", (("content-type", "text/plain"), ("x-a", "1"), ("X-A", "2")), b"\xff", url))
    assert f"{data['proto']}://{data['host']}{data['url']}" == url
    assert (data["method"], data["body"]) == ("PUT", "/w==")
    assert data["header"] == {"Content-Type": ["text/plain"], "X-A": ["1", "2"]}
    assert "body" not in from_json(webhook_data("GET", (), b"", url))


# Failures


def failed(headers: dict[str, str], first: dict[str, str]) -> tuple[Post, Envelope]:
    """The failure callback of a step with these headers, of a run whose first request had those of `first`."""
    run = run_of(first)
    step = Envelope.of_text(run_post(asked(headers, b"{}"), run, numbered()).message.body)
    outcome = Outcome(status=500, body=b'{"message":"no"}', retried=3, dlq_id="msg_9")
    post = failure_post(step, "msg_9", outcome, run, Body(text="hi"), now=NOW)
    assert post is not None
    return post, Envelope.of_text(post.message.body)


def test_the_failure_callback_of_a_run_has_the_initial_body() -> None:
    """It names the run and the dead letter; it belongs to no run, since that has ended."""
    post, pushed = failed(JS_STEP, JS_TRIGGER)
    body = from_json(pushed.body.content)
    assert (b64decode(body["sourceBody"]), b64decode(body["body"])) == (b"hi", b'{"message":"no"}')
    assert {name: body[name] for name in ("status", "retried", "maxRetries", "url", "method", "dlqId")} == {
        "status": 500,
        "retried": 3,
        "maxRetries": 1,
        "url": FLOW,
        "method": "POST",
        "dlqId": "msg_9",
    }
    assert (body["workflowRunId"], body["workflowCreatedAt"], body["sourceMessageId"]) == ("wfr_1", BEGUN, "msg_9")
    assert (post.message.id, post.link, pushed.retries) == (failure_id("msg_9"), None, 1)
    assert failure_id("msg_9") != failure_id("msg_9", 1) != failure_id("msg_9", 2)


def test_the_failure_callback_of_a_run_is_told_from_its_other_posts() -> None:
    """It has the marks of the SDK and its user's headers, and no version."""
    _, pushed = failed(JS_STEP, JS_TRIGGER)
    sent = {name.lower(): value for name, value in delivery_headers(pushed, "msg_1", 0)}
    assert {name: value for name, value in sent.items() if name.startswith(("upstash-workflow", "x-"))} == {
        "upstash-workflow-is-failure": "true",
        "upstash-workflow-failure-callback": "true",
        "upstash-workflow-runid": "wfr_1",
        "upstash-workflow-url": FLOW,
        "upstash-workflow-createdat": str(BEGUN),
        "x-user": "17",
    }
    assert sent["content-type"] == "application/json"
    assert pushed.run is not None
    assert pushed.run.call_type == "failureCall"
    assert pushed.redact == ("header[x-user]", "body")


def test_the_failure_callback_of_a_step_of_the_python_sdk_is_its_own() -> None:
    """One that has none has that of the run."""
    first = {**PY_STEP, "Upstash-Workflow-Init": "true"}
    assert failed({**PY_STEP, "Upstash-Failure-Callback": FLOW}, first)[1].url == FLOW
    bare = {name: value for name, value in PY_STEP.items() if "Failure" not in name}
    assert failed(bare, first)[1].url == FAILED
    step = Envelope.of_text(run_post(asked(bare, b"{}"), run_of(), numbered()).message.body)
    assert failure_post(step, "msg_9", Outcome(status=500), run_of(), EMPTY_BODY, now=NOW) is None


def test_a_failure_callback_without_an_sdk_gets_what_an_sdk_gives() -> None:
    """The headers of the user go to the endpoint of the run only."""
    step = {**JS_STEP, "upstash-forward-x-user": "17"}
    _, own = failed(JS_STEP, {**step, "upstash-workflow-init": "true", "upstash-failure-callback": FLOW})
    _, other = failed(JS_STEP, {**step, "upstash-workflow-init": "true", "upstash-failure-callback": FAILED})
    marks = {"Upstash-Workflow-Is-Failure": "true", "Upstash-Workflow-Failure-Callback": "true"}
    assert dict(own.headers) == {"x-user": "17", **marks}
    assert dict(other.headers) == marks


# Steps


def test_an_array_of_steps_is_what_javascript_writes_again() -> None:
    """Compact, in the order of the entries, their bytes in base64."""
    entries = [
        RunEntry("msg_1", Body(text="hé"), 1),
        RunEntry("msg_1", Body.of(b"\xff"), 1),
        RunEntry("msg_2", Body(text='{"stepId":1}'), 2),
    ]
    array = steps_array(entries)
    assert array.decode() == json.dumps(from_json(array), separators=(",", ":"), ensure_ascii=False)
    assert from_json(array) == [
        {"messageId": "msg_1", "body": "aMOp", "callType": "step"},
        {"messageId": "msg_1", "body": "/w==", "callType": "step"},
        {"messageId": "msg_2", "body": "eyJzdGVwSWQiOjF9", "callType": "step"},
    ]


def test_an_entry_that_is_no_step_has_no_step() -> None:
    """Initial bodies may be anything."""
    assert step_of(Body(text='{"stepId":1}')) == {"stepId": 1}
    assert [step_of(it) for it in (Body(text="{"), Body(text="[1]"), EMPTY_BODY, Body.of(b"\xff"))] == [{}] * 4


def test_features_of_a_wait_are_those_of_its_request() -> None:
    """They say what the endpoint can do."""
    pushed = Envelope.of_text(waiting(WAIT)[0].message.body)
    assert pushed.run is not None
    assert ",".join(pushed.run.features) == FEATURES
