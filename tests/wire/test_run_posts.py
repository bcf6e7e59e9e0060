"""The posts of workflow runs: first ones, steps, calls and their callbacks, first contact, invocations."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic_core import from_json, to_json

from batchflow.core.call import EMPTY_BODY, Body
from batchflow.core.secrets import masked_text
from batchflow.core.wire_runs import AddEntry, AdoptRun, BeginRun, JoinRun
from batchflow.errors import InputError
from batchflow.wire.callbacks import Outcome, callback_requests
from batchflow.wire.delivery import delivery_headers
from batchflow.wire.envelope import Envelope, RunPart
from batchflow.wire.messages import message_json
from batchflow.wire.run_config import RunConfig
from batchflow.wire.run_posts import begin_post, contact_post, invoker_of, invoker_post, run_post
from tests.wire.run_requests import (
    BEGUN,
    FAILED,
    FEATURES,
    FLOW,
    JS_CALL,
    JS_STEP,
    JS_TRIGGER,
    NOW,
    PY_STEP,
    asked,
    begun,
    numbered,
    run_of,
    text_of,
)

THIRD = "https://third.example/v1"
STEP = b'{"stepId":1,"stepName":"\xc3\xa9","stepType":"Run","out":"\\"x\\"","concurrent":1}'


def of(headers: dict[str, str], body: bytes = b"", *, run: Any = None, to: str = FLOW) -> tuple[Any, Envelope]:
    """The link and the envelope of the post of a request about a run."""
    post = run_post(asked(headers, body, to=to), run or run_of(JS_TRIGGER), numbered())
    return post.link, Envelope.of_text(post.message.body)


def called() -> tuple[Envelope, Envelope]:
    """A call, and its callback."""
    _, call = of(JS_CALL, b'{"q":1}', to=THIRD)
    outcome = Outcome(status=200, headers=(("content-type", "text/plain"),), body=b"ok", retried=1)
    (request,) = callback_requests(call, "msg_1", outcome, now=NOW)
    post = run_post(request, run_of(JS_TRIGGER), numbered())
    assert post.link == JoinRun("wfr_1")
    return call, Envelope.of_text(post.message.body)


# Beginning


def test_a_run_begins_with_the_body_of_its_first_request() -> None:
    """The post has no copy of it, and delivers an array of steps in JSON."""
    post, pushed, link = begun(body=b"hi")
    assert (link.run, link.url, link.entries, link.created_at) == ("wfr_1", FLOW, (Body(text="hi"),), NOW)
    assert link.invoker is None
    assert (pushed.body, pushed.content_type) == (EMPTY_BODY, "application/json")
    assert pushed.run == RunPart(run="wfr_1", url=FLOW, created_at=NOW, features=tuple(FEATURES.split(",")))
    assert pushed.headers == (("upstash-workflow-sdk-version", "1"), ("x-user", "17"), ("upstash-label", "red"))
    assert (post.message.id, post.dedup, post.queue) == ("msg_1", None, None)


def test_a_first_request_may_be_delayed_and_deduplicated() -> None:
    """As any other message."""
    post, *_ = begun({**JS_TRIGGER, "upstash-delay": "10s", "upstash-deduplication-id": "once"})
    assert (post.message.not_before, post.dedup) == (NOW + 10_000, "t:once")


def test_the_configuration_of_a_run_is_that_of_its_first_request() -> None:
    """All of it is secret, and the failure callback is that of any run which gets the configuration."""
    _, _, link = begun()
    config = RunConfig.of_text(link.config)
    assert (config.applies, config.content_type, config.retries, config.retry_delay) == (True, "text/plain", 1, "1000")
    assert (config.flow_key, config.parallelism, config.rate, config.period_s) == ("flow", 2, 10, 60)
    assert (config.labels, config.redact) == (("red",), ("header[x-user]",))
    assert config.failure_callback is not None
    assert (config.failure_callback.url, config.failure_callback.headers) == (
        FLOW,
        {
            "upstash-forward-upstash-workflow-is-failure": "true",
            "upstash-forward-upstash-workflow-failure-callback": "true",
            "upstash-forward-x-user": "17",
            "upstash-retries": "1",
        },
    )
    assert "17" not in masked_text(link.config)
    assert "17" not in repr(config)


# Steps


def test_a_step_is_kept_byte_for_byte_and_gets_the_configuration_of_its_run() -> None:
    """The SDK sends it without headers of the user, retries, flow control and failure callback."""
    link, pushed = of({**JS_STEP, "upstash-workflow-createdat": str(BEGUN)}, STEP)
    assert link == AddEntry("wfr_1", Body(text=STEP.decode()), BEGUN)
    assert (pushed.body, pushed.content_type, pushed.created_at) == (EMPTY_BODY, "application/json", NOW)
    assert pushed.run == RunPart(run="wfr_1", url=FLOW, created_at=BEGUN, features=tuple(FEATURES.split(",")))
    assert dict(pushed.headers) == {"upstash-workflow-sdk-version": "1", "x-user": "17", "upstash-label": "red"}
    assert (pushed.retries, pushed.retry_delay, pushed.flow_key, pushed.labels) == (1, "1000", "flow", ("red",))
    assert pushed.failure_callback is not None
    assert pushed.failure_callback.url == FLOW


def test_a_step_that_is_sent_again_is_the_same_post() -> None:
    """The endpoint has not learnt that it is recorded; its result may be another one."""

    def id_of(step: Any, **run: Any) -> str:
        return run_post(asked(JS_STEP, to_json(step)), run_of(JS_TRIGGER, **run), numbered()).message.id

    step = {"stepId": 3, "out": "1"}
    plans = [{"stepId": 0, "targetStep": target} for target in (3, 4)]
    others = [{"stepId": 4}, *plans]
    assert id_of(step) == id_of({**step, "out": "2"})
    assert len({id_of(step), id_of(step, created_at=BEGUN + 1), id_of(step, id="wfr_2"), *map(id_of, others)}) == 6
    assert id_of("no step") == "msg_1"


def test_a_step_of_the_python_sdk_has_what_it_says_itself() -> None:
    """Nothing of its run is added."""
    run = run_of({**PY_STEP, "Upstash-Workflow-Init": "true", "Upstash-Retries": "9", "Upstash-Forward-x-old": "1"})
    _, pushed = of(PY_STEP, STEP, run=run)
    assert dict(pushed.headers) == {"Upstash-Workflow-Sdk-Version": "1", "x-user": "17"}
    assert pushed.retries == 3
    assert pushed.failure_callback is not None
    assert pushed.failure_callback.url == FAILED


def test_a_header_of_the_step_wins_over_that_of_its_run() -> None:
    """Whatever the spelling of its name."""
    _, pushed = of({**JS_STEP, "Upstash-Forward-X-USER": "18"}, STEP)
    assert [value for name, value in pushed.headers if name.lower() == "x-user"] == ["18"]


@pytest.mark.parametrize(
    ("until", "header", "due"),
    [
        ((NOW + 5_600) / 1000, (NOW + 6_000) // 1000, NOW + 6_000),
        ((NOW + 5_400) / 1000, (NOW + 5_000) // 1000, NOW + 5_400),
        ((NOW + 5_400) / 1000, None, NOW + 5_400),
        ((NOW - 5_000) / 1000, (NOW - 5_000) // 1000, 0),
        (None, (NOW + 6_000) // 1000, NOW + 6_000),
        ("soon", (NOW + 6_000) // 1000, NOW + 6_000),
    ],
)
def test_a_step_that_sleeps_until_a_time_is_not_delivered_before(until: Any, header: int | None, due: int) -> None:
    """The SDK rounds the header to whole seconds; the step has the exact time."""
    body = to_json({"stepId": 1, "stepType": "SleepUntil", "sleepUntil": until})
    headers = JS_STEP if header is None else {**JS_STEP, "upstash-not-before": str(header)}
    assert run_post(asked(headers, body), run_of(), numbered()).message.not_before == due


def test_a_delivery_names_its_run() -> None:
    """By its id, its URL and the time at which it began; of the engine's headers no forwarded one is beside."""
    _, pushed = of({**JS_STEP, "upstash-forward-upstash-workflow-runid": "wfr_0"}, STEP)
    sent = {name.lower(): value for name, value in delivery_headers(pushed, "msg_1", 0)}
    assert len(sent) == len(delivery_headers(pushed, "msg_1", 0))
    assert {name: value for name, value in sent.items() if name.startswith("upstash-workflow-")} == {
        "upstash-workflow-sdk-version": "1",
        "upstash-workflow-runid": "wfr_1",
        "upstash-workflow-url": FLOW,
        "upstash-workflow-createdat": str(BEGUN),
    }
    assert (sent["content-type"], sent["upstash-label"]) == ("application/json", "red")


def test_the_message_of_a_post_names_its_run() -> None:
    """And its kind."""
    _, pushed = of(JS_STEP, STEP)
    shown = message_json(pushed, "msg_1")
    assert {name: shown[name] for name in ("workflowRunId", "workflowUrl", "workflowCreatedAt", "callType")} == {
        "workflowRunId": "wfr_1",
        "workflowUrl": FLOW,
        "workflowCreatedAt": BEGUN,
        "callType": "step",
    }
    assert shown["header"]["X-User"][0].startswith("REDACTED:")


# Calls


def test_a_call_gets_nothing_of_its_run() -> None:
    """Neither headers of the user nor the id of the run: it goes to a third party."""
    link, call = of(JS_CALL, b'{"q":1}', to=THIRD)
    assert link == JoinRun("wfr_1")
    assert (call.url, text_of(call.body), call.content_type) == (THIRD, '{"q":1}', "application/json")
    assert (call.headers, call.retries, call.failure_callback) == ((("authorization", "Bearer key"),), 2, None)
    assert not [name for name, _ in delivery_headers(call, "msg_1", 0) if "workflow" in name.lower()]
    assert call.run is not None
    assert (call.run.call_type, call.run.features) == ("toCallback", ("WF_NoDelete", "InitialBody"))


def test_the_callback_of_a_call_gets_the_configuration_of_the_run() -> None:
    """But no version of the SDK: its body is not an array of steps."""
    _, callback = called()
    sent = {name.lower(): value for name, value in delivery_headers(callback, "msg_2", 0)}
    assert sent["x-user"] == "17"
    assert {name: value for name, value in sent.items() if name.startswith("upstash-workflow-")} == {
        "upstash-workflow-runid": "wfr_1",
        "upstash-workflow-url": FLOW,
        "upstash-workflow-createdat": str(BEGUN),
        "upstash-workflow-callback": "true",
        "upstash-workflow-stepid": "3",
        "upstash-workflow-stepname": "ask",
        "upstash-workflow-steptype": "Call",
        "upstash-workflow-concurrent": "1",
        "upstash-workflow-contenttype": "application/json",
    }
    assert (callback.retries, callback.flow_key, callback.callback_of) == (1, "flow", "msg_1")
    assert callback.failure_callback is not None
    assert callback.run is not None
    assert callback.run.call_type == "fromCallback"
    assert callback.redact == ("header[x-user]",)


def test_the_body_of_the_callback_of_a_call_names_the_run() -> None:
    """Beside the request and the response."""
    body = from_json(called()[1].body.content)
    assert (body["status"], body["body"], body["retried"], body["maxRetries"]) == (200, "b2s=", 1, 2)
    assert (body["workflowRunId"], body["workflowCreatedAt"], body["url"]) == ("wfr_1", BEGUN, THIRD)


def test_a_callback_that_the_sender_wants_beside_is_a_post_like_others() -> None:
    """It tells of the post, and is no part of its run."""
    _, pushed, _ = begun({**JS_TRIGGER, "upstash-callback": THIRD})
    (request,) = callback_requests(pushed, "msg_1", Outcome(status=200), now=NOW)
    post = run_post(request, run_of(JS_TRIGGER), numbered())
    assert (post.link, Envelope.of_text(post.message.body).run) == (None, None)


# First contact


def test_first_contact_begins_a_run_and_says_that_the_sdk_is_not_known() -> None:
    """Its id has the prefix of runs."""
    request = asked({"Upstash-Forward-X-User": "17", "Upstash-Workflow-RunId": "mine"}, b"hi")
    post = contact_post(request, numbered(), "mine")
    pushed = Envelope.of_text(post.message.body)
    assert isinstance(post.link, BeginRun)
    assert (post.link.run, post.link.url, post.link.entries) == ("wfr_mine", FLOW, (Body(text="hi"),))
    sent = dict(delivery_headers(pushed, "msg_1", 0))
    assert (sent["Upstash-Workflow-Unknown-Sdk"], sent["Upstash-Workflow-RunId"]) == ("true", "wfr_mine")
    assert (sent["Content-Type"], sent["X-User"]) == ("application/json", "17")
    new = contact_post(asked({}), numbered(), None)
    assert isinstance(new.link, BeginRun)
    assert new.link.run == "wfr_1"
    with pytest.raises(InputError, match="upstash-workflow-runid"):
        contact_post(request, numbered(), "a b")


def test_the_answer_to_first_contact_replaces_the_headers_and_keeps_all_else() -> None:
    """The retries, the flow control and the failure callback are those of the trigger."""
    trigger = {
        "Upstash-Retries": "5",
        "Upstash-Failure-Callback": FAILED,
        "Upstash-Forward-X-Old": "1",
        "Upstash-Label": "red",
    }
    contact = contact_post(asked(trigger), numbered(), "1")
    assert isinstance(contact.link, BeginRun)
    run = run_of()._replace(config=contact.link.config)
    answer = {
        **JS_STEP,
        "upstash-workflow-init": "true",
        "upstash-workflow-trigger-by-sdk": "true",
        "upstash-forward-x-new": "2",
    }
    link, pushed = of(answer, b"hi", run=run)
    assert isinstance(link, AdoptRun)
    config = RunConfig.of_text(link.config)
    assert (config.applies, config.retries, config.labels) == (True, 5, ("red",))
    assert dict(config.headers) == {"upstash-workflow-sdk-version": "1", "x-new": "2"}
    assert (pushed.headers, pushed.retries) == (config.headers, 5)
    assert pushed.failure_callback is not None
    assert pushed.failure_callback.url == FAILED
    assert pushed.run == RunPart(run="wfr_1", url=FLOW, created_at=BEGUN, features=tuple(FEATURES.split(",")))
    ids = {
        run_post(asked(answer), it, numbered()).message.id
        for it in (run, run, run._replace(tenant="u"), run._replace(created_at=NOW))
    }
    assert len(ids) == 3


# Invocations

PARENT = {
    "upstash-workflow-init": ["false"],
    "Upstash-Workflow-RunId": ["wfr_0"],
    "Upstash-Workflow-Url": [FLOW],
    "Upstash-Feature-Set": [FEATURES],
    "Upstash-Workflow-Sdk-Version": ["1"],
    "Upstash-Forward-Upstash-Workflow-Sdk-Version": ["1"],
    "Upstash-Workflow-Runid": ["wfr_0"],
    "content-type": ["application/json"],
}
INVOKE: dict[str, Any] = {
    "body": '{"é":1}',
    "headers": PARENT,
    "workflowRunId": "wfr_0",
    "workflowRunCreatedAt": BEGUN,
    "workflowUrl": FLOW,
    "step": {"stepId": 2, "stepName": "child", "stepType": "Invoke", "concurrent": 1},
}
INVOKED = {
    **JS_TRIGGER,
    "upstash-workflow-invoke": "true",
    "upstash-forward-upstash-workflow-invoke-count": "1",
}


def invoked(body: dict[str, Any]) -> BeginRun:
    post = begin_post(asked(INVOKED, to_json(body)), numbered())
    assert isinstance(post.link, BeginRun)
    return post.link


def test_an_invoked_run_begins_with_the_body_that_its_invoker_gives() -> None:
    """It knows who waits; an invocation without a body has an empty one."""
    link = invoked(INVOKE)
    assert link.entries == (Body(text='{"é":1}'),)
    assert invoker_of(run_of(invoker=link.invoker)) == ("wfr_0", BEGUN)
    assert invoked({**INVOKE, "body": None}).entries == (EMPTY_BODY,)
    assert invoker_of(run_of()) is None


@pytest.mark.parametrize(
    ("state", "result", "out"),
    [
        ("RUN_SUCCESS", '"é"', {"body": '"é"', "isCanceled": False, "isFailed": False}),
        ("RUN_SUCCESS", None, {"isCanceled": False, "isFailed": False}),
        ("RUN_FAILED", None, {"isCanceled": False, "isFailed": True}),
        ("RUN_CANCELED", None, {"isCanceled": True, "isFailed": False}),
    ],
)
def test_the_end_of_an_invoked_run_is_a_step_of_its_invoker(state: Any, result: str | None, out: Any) -> None:
    """Even if that one has ended; its post has the configuration of that one."""
    parent = run_of(JS_TRIGGER, id="wfr_0")
    child = run_of(invoker=invoked(INVOKE).invoker, id="wfr_1")
    post = invoker_post(child, state, result, parent, now=NOW, new_id=numbered())
    assert isinstance(post.link, AddEntry)
    assert (post.link.run, post.link.created_at, post.link.late) == ("wfr_0", BEGUN, True)
    step = from_json(post.link.body.text)
    assert from_json(step.pop("out")) == out
    invoked_run = {"invokedWorkflowRunId": "wfr_1", "invokedWorkflowUrl": child.url, "invokedWorkflowCreatedAt": BEGUN}
    assert step == {**INVOKE["step"], **invoked_run}
    pushed = Envelope.of_text(post.message.body)
    assert (pushed.url, pushed.content_type, pushed.retries) == (FLOW, "application/json", 1)
    assert dict(pushed.headers)["x-user"] == "17"
    assert pushed.run is not None
    assert pushed.run.run == "wfr_0"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {**INVOKE, "body": 1},
        {**INVOKE, "headers": {"a": "b"}},
        {**INVOKE, "step": {}},
        {**INVOKE, "workflowUrl": "x"},
    ],
)
def test_a_wrong_invocation_is_refused(body: dict[str, Any]) -> None:
    """Status 400."""
    with pytest.raises(InputError) as caught:
        invoked(body)
    assert caught.value.status == 400


def test_a_chain_of_invocations_has_an_end() -> None:
    """The SDK makes a failure of status 412 that no retry helps."""
    headers = {**INVOKED, "upstash-forward-upstash-workflow-invoke-count": "100"}
    with pytest.raises(InputError, match="100 runs") as caught:
        begin_post(asked(headers, to_json(INVOKE)), numbered())
    assert caught.value.status == 412


def test_the_configuration_of_another_run_says_nothing_about_this_one() -> None:
    """Without WF_TriggerOnConfig nothing is given to posts."""
    config = replace(RunConfig.of_text(begun()[2].config), applies=False)
    _, pushed = of(JS_STEP, STEP, run=run_of()._replace(config=config.to_text()))
    assert dict(pushed.headers) == {"upstash-workflow-sdk-version": "1"}
