"""The log of a workflow run: the groups of its steps, their states, its end. As the JavaScript SDK types it."""

import json
from base64 import b64encode
from typing import Any

import pytest

from batchflow.core.call import Body
from batchflow.core.posts import LogEntry, LogState
from batchflow.core.wire_runs import RunEntry, RunMember
from batchflow.wire.messages import redacted, response_detail
from batchflow.wire.run_history import FailureCallback
from tests.wire.requests import NOW
from tests.wire.run_scene import FLOW_URL, RUN, Told

SETTINGS = {"retries": 3, "headers": {"X-User": ["17"]}}


ERROR = {"error": "answered 500", "body": "sorry", "headers": {"X-Why": ["because"]}, "status": 500, "time": NOW + 50}
INIT = ("sequential", ["init: SUCCESS"])


def test_a_new_run_has_its_initial_step_and_the_next_one() -> None:
    """With what its first request has given."""
    run = Told(labels=("one", "two"), flow_key="jobs", caller_ip="10.0.0.1")
    assert run.shown() == {
        "workflowRunId": RUN,
        "workflowUrl": FLOW_URL,
        "workflowState": "RUN_STARTED",
        "workflowRunCreatedAt": NOW,
        "workflowRunCallerIp": "10.0.0.1",
        "label": "one",
        "labels": ["one", "two"],
        "flowControlKey": "jobs",
        "steps": [
            {
                "steps": [
                    {
                        "stepName": "init",
                        "stepType": "Initial",
                        "callType": "step",
                        "messageId": "m0",
                        "out": "hello",
                        "concurrent": 1,
                        "state": "STEP_SUCCESS",
                        "createdAt": NOW,
                        **SETTINGS,
                    }
                ],
                "type": "sequential",
            },
            {"steps": [{"messageId": "m0", "retries": 3, "state": "STEP_PROGRESS"}], "type": "next"},
        ],
    }


def test_a_step_is_shown_with_its_result() -> None:
    """And the next one is that of its post."""
    run = Told()
    run.delivered("m0")
    run.step(1, '"a"')
    _, step, following = run.shown()["steps"]
    assert step == {
        "steps": [
            {
                "stepId": 1,
                "stepName": "step 1",
                "stepType": "Run",
                "callType": "step",
                "messageId": "m1",
                "concurrent": 1,
                "createdAt": NOW + 1,
                **SETTINGS,
                "out": '"a"',
                "state": "STEP_SUCCESS",
            }
        ],
        "type": "sequential",
    }
    assert following["steps"][0]["messageId"] == "m1"


def test_a_run_that_has_succeeded_has_no_next_step() -> None:
    """It has its result instead."""
    run = Told(state="RUN_SUCCESS")
    run.delivered("m0")
    run.step(1)
    run.result = '{"done":true}'
    shown = run.shown()
    assert run.steps() == [INIT, ("sequential", ["step 1: SUCCESS"])]
    assert (shown["workflowRunResponse"], shown["workflowRunCompletedAt"]) == ('{"done":true}', NOW + 99)


def test_the_next_step_has_the_errors_of_its_attempts() -> None:
    """Also while it is tried again."""
    run = Told()
    run.log("m0", "ACTIVE", "ERROR", "RETRY", "ACTIVE", status=500, error="answered 500")
    assert run.shown()["steps"][1]["steps"] == [
        {"messageId": "m0", "retries": 3, "state": "STEP_RETRY", "errors": [ERROR]}
    ]


def test_a_run_that_has_failed_has_its_dead_letter_and_its_failed_step() -> None:
    """The step is the next one."""
    run = Told(state="RUN_FAILED")
    run.delivered("m0")
    run.step(1)
    run.failed("m1")
    shown = run.shown()
    assert shown["dlqId"] == "m1"
    assert run.steps() == [INIT, ("sequential", ["step 1: SUCCESS"]), ("next", ["m1: FAILED"])]
    assert shown["steps"][2]["steps"][0]["errors"] == [ERROR]


def test_a_failed_step_has_the_name_that_its_endpoint_tells() -> None:
    """The SDK sends it as a header."""
    run = Told(state="RUN_FAILED")
    detail = response_detail(500, (("upstash-error-step-name", "pay"),), b"", error="answered 500")
    run.logs["m0"].append(LogEntry("m0", "t", "FAILED", NOW, detail))
    assert run.shown()["steps"][1]["steps"][0]["stepName"] == "pay"


def test_a_run_that_was_cancelled_has_a_cancelled_step() -> None:
    """It is the next one."""
    run = Told(state="RUN_CANCELED")
    run.log("m0", "CANCEL_REQUESTED", "CANCELED")
    assert run.steps() == [INIT, ("next", ["m0: CANCELED"])]


def test_parallel_steps_are_one_group_which_their_results_update() -> None:
    """There is a next step once all have one."""
    run = Told()
    run.delivered("m0", run.plan(1), run.plan(2))
    assert run.steps() == [INIT, ("parallel", ["step 1: PROGRESS", "step 2: PROGRESS"])]
    run.delivered(run.step(2, "2", concurrent=2))
    assert run.steps() == [INIT, ("parallel", ["step 1: PROGRESS", "step 2: SUCCESS"])]
    run.step(1, "1", concurrent=2)
    assert run.steps() == [INIT, ("parallel", ["step 1: SUCCESS", "step 2: SUCCESS"]), ("next", ["m4: PROGRESS"])]
    one, two = run.shown()["steps"][1]["steps"]
    assert [(it["stepId"], it["out"], it["messageId"], it["concurrent"]) for it in (one, two)] == [
        (1, "1", "m4", 2),
        (2, "2", "m3", 2),
    ]


def test_groups_follow_each_other() -> None:
    """Two parallel ones of the same size too."""
    run = Told()
    for number in (1, 3):
        run.plan(number)
        run.plan(number + 1)
        run.step(number, concurrent=2)
        run.step(number + 1, concurrent=2)
    run.step(5)
    assert [kind for kind, _ in run.steps()] == ["sequential", "parallel", "parallel", "sequential", "next"]


def test_the_failure_of_a_member_is_shown_in_its_group() -> None:
    """Not as the next step; the others were cancelled."""
    run = Told(state="RUN_FAILED")
    run.delivered("m0")
    run.failed(run.plan(1))
    run.log(run.plan(2), "CANCELED")
    assert run.steps() == [INIT, ("parallel", ["step 1: FAILED", "step 2: CANCELED"])]
    failed = run.shown()["steps"][1]["steps"][0]
    assert (failed["errors"], failed["messageId"]) == ([ERROR], "m1")
    assert run.shown()["dlqId"] == "m1"


def test_a_result_that_comes_after_the_failure_of_a_run_is_shown() -> None:
    """Such as that of a run it has invoked, without a post."""
    run = Told(state="RUN_FAILED")
    run.delivered("m0", run.plan(1, type="Invoke"))
    run.failed(run.plan(2))
    step = {"stepId": 1, "stepName": "step 1", "stepType": "Invoke", "concurrent": 2, "out": '{"isFailed":true}'}
    run.entries.append(RunEntry("unknown", Body(text=json.dumps({**step, "invokedWorkflowRunId": "wfr_2"})), NOW + 9))
    assert run.steps() == [INIT, ("parallel", ["step 1: SUCCESS", "step 2: FAILED"])]
    (shown, _) = run.shown()["steps"][1]["steps"]
    assert (shown["out"], shown["invokedWorkflowRunId"]) == ('{"isFailed":true}', "wfr_2")


def test_a_failed_delivery_of_an_earlier_step_is_the_next_one() -> None:
    """Its group has succeeded."""
    run = Told(state="RUN_FAILED")
    run.failed("m0")
    run.log(run.step(1), "CANCELED")
    assert run.steps()[-1] == ("next", ["m1: CANCELED", "m0: FAILED"])


def test_a_repeated_step_is_shown_once() -> None:
    """With its first result."""
    run = Told()
    run.delivered("m0", run.plan(1), run.plan(2), run.plan(1), run.plan(2))
    for out in ("1", "2"):
        run.delivered(run.step(1, out, concurrent=2))
    assert run.steps() == [INIT, ("parallel", ["step 1: SUCCESS", "step 2: PROGRESS"])]
    assert run.shown()["steps"][1]["steps"][0]["out"] == "1"


def test_a_step_that_sleeps_is_under_way() -> None:
    """Until its post is due."""
    run = Told()
    run.delivered("m0")
    step = {"stepId": 1, "stepName": "nap", "stepType": "SleepFor", "concurrent": 1, "sleepFor": 60}
    run.entry(step, delay="60s")
    assert run.steps() == [INIT, ("sequential", ["nap: PROGRESS"])]
    assert run.shown()["steps"][1]["steps"][0]["sleepFor"] == 60
    assert run.steps(now=NOW + 60_000) == [INIT, ("sequential", ["nap: SUCCESS"]), ("next", ["m1: PROGRESS"])]


def call(run: Told, number: int = 1, concurrent: int = 1) -> str:
    forwarded = {"stepid": str(number), "stepname": "pay", "steptype": "Call", "concurrent": str(concurrent)}
    headers = {f"callback_forward_upstash_workflow_{name}": value for name, value in forwarded.items()}
    options = {"method": "PUT", "retries": "0", "callback": FLOW_URL, **headers}
    return run.post(0, url="https://bank.example/pay", call_type="toCallback", **options)


def called_back(run: Told, number: int = 1) -> str:
    forwarded = {"stepid": str(number), "stepname": "pay", "steptype": "Call", "concurrent": "1"}
    headers = {f"forward_upstash_workflow_{name}": value for name, value in forwarded.items()}
    return run.post(0, call_type="fromCallback", **headers)


def test_a_call_is_shown_while_it_is_under_way_and_with_its_response() -> None:
    """First as a call, then as a callback, at last as a step."""
    run = Told()
    run.delivered("m0")
    call(run)
    assert run.shown()["steps"][1:] == [
        {
            "steps": [
                {
                    "callUrl": "https://bank.example/pay",
                    "callMethod": "PUT",
                    "callHeaders": {"X-User": ["17"]},
                    "callBody": "",
                    "stepId": 1,
                    "stepName": "pay",
                    "stepType": "Call",
                    "callType": "toCallback",
                    "messageId": "m1",
                    "concurrent": 1,
                    "createdAt": NOW + 1,
                    "retries": 0,
                    "headers": {"X-User": ["17"]},
                    "state": "STEP_PROGRESS",
                }
            ],
            "type": "sequential",
        }
    ]
    run.log("m1", "ACTIVE", "ERROR", "FAILED", status=500, error="answered 500")
    called_back(run)
    (step,) = run.shown()["steps"][1]["steps"]
    assert (step["callType"], step["messageId"], step["state"]) == ("fromCallback", "m2", "STEP_PROGRESS")
    assert "dlqId" not in run.shown()
    run.delivered("m2")
    response = {"status": 201, "body": "pa\u00c3\u00afd", "header": {"X-A": ["b"]}}
    run.step(1, json.dumps(response), type="Call")
    (step,) = run.shown()["steps"][1]["steps"]
    assert (step["callType"], step["state"], step["callUrl"]) == ("step", "STEP_SUCCESS", "https://bank.example/pay")
    assert (step["callResponseStatus"], step["callResponseBody"]) == (201, "païd")
    assert step["callResponseHeaders"] == {"X-A": ["b"]}
    assert run.steps()[2] == ("next", ["m3: PROGRESS"])


def test_a_call_in_a_group_is_found_when_its_headers_are_redacted() -> None:
    """By their hashes; nothing else of it is shown."""
    run = Told(redact=("header", "body"))
    run.delivered("m0", run.plan(1), run.plan(2, type="Call"))
    call(run, 2, 2)
    parallel = run.shown()["steps"][1]["steps"]
    assert [it["callType"] for it in parallel] == ["step", "toCallback"]
    assert len(parallel) == 2
    assert parallel[1]["callHeaders"] == {"X-User": [redacted(b"17")]}


def test_a_call_whose_callback_has_failed_is_the_failed_step() -> None:
    """With the errors of the endpoint."""
    run = Told(state="RUN_FAILED")
    run.delivered("m0", call(run))
    run.failed(called_back(run))
    assert run.steps() == [INIT, ("sequential", ["pay: FAILED"])]
    assert run.shown()["dlqId"] == "m2"
    assert run.shown()["steps"][1]["steps"][0]["errors"] == [ERROR]


def test_a_wait_is_shown_with_its_timeout_before_and_after_its_event() -> None:
    """The event is the result."""
    run = Told()
    run.delivered("m0")
    named = {"stepId": 1, "stepName": "approval", "stepType": "Wait", "concurrent": 1}
    about = {"step": named, "waitEventId": "approved", "waitTimeoutDuration": "7d"}
    waits = run.post(0, not_before=str(NOW // 1000 + 604_800), about=about)
    times = {"waitTimeoutDuration": "7d", "waitTimeoutDeadline": NOW + 604_800_000}
    (step,) = run.shown()["steps"][1]["steps"]
    assert step.items() >= {**named, "waitEventId": "approved", **times, "state": "STEP_PROGRESS"}.items()
    data = b64encode(b'"yes"').decode()
    run.entries.append(RunEntry(waits, Body(text=json.dumps({**named, "waitEventId": "approved", "out": data})), NOW))
    run.members[-1] = RunMember(waits, 2, NOW)
    _, group, following = run.shown()["steps"]
    (step,) = group["steps"]
    done = {"waitEventId": "approved", "waitTimeout": False, "out": data, "state": "STEP_SUCCESS"}
    assert step.items() >= {**times, **done}.items()
    assert following["steps"][0]["messageId"] == waits


def test_a_wait_that_was_not_ended_is_cancelled_with_its_run() -> None:
    """As a member of a group, which has its plan."""
    run = Told(state="RUN_CANCELED")
    run.delivered("m0", run.plan(1, type="Wait", waitEventId="e", timeout="20s"), run.plan(2))
    named = {"stepId": 1, "stepName": "step 1", "stepType": "Wait", "concurrent": 2}
    about = {"step": named, "waitEventId": "e", "waitTimeoutDuration": "20s"}
    run.log(run.post(0, about=about), "CANCELED")
    assert run.steps() == [INIT, ("parallel", ["step 1: CANCELED", "step 2: CANCELED"])]
    assert run.shown()["steps"][1]["steps"][0]["waitTimeoutDuration"] == "20s"


def test_the_run_that_waits_for_this_one_is_shown() -> None:
    """Its id, its URL and the time at which it began."""
    run = Told()
    expected = {"workflowRunId": "wfr_0", "workflowUrl": FLOW_URL, "workflowRunCreatedAt": 7}
    invoker = {**expected, "headers": {"a": ["secret"]}}
    run.invoker = json.dumps(invoker)
    assert run.shown()["invoker"] == expected
    run.invoker = json.dumps({**invoker, "workflowRunCreatedAt": None})
    assert run.shown()["invoker"] == {"workflowRunId": "wfr_0", "workflowUrl": FLOW_URL}


@pytest.mark.parametrize(
    ("states", "state", "responses"),
    [
        ((), "CALLBACK_INPROGRESS", 0),
        (("ACTIVE", "ERROR", "RETRY"), "CALLBACK_INPROGRESS", 1),
        (("ACTIVE", "DELIVERED"), "CALLBACK_SUCCESS", 1),
        (("ACTIVE", "ERROR", "FAILED"), "CALLBACK_FAIL", 1),
        (("CANCELED",), "CALLBACK_CANCELED", 0),
    ],
)
def test_a_failure_function_is_shown_with_its_state(states: list[LogState], state: str, responses: int) -> None:
    """And with the response that made the run fail."""
    run = Told(state="RUN_FAILED")
    run.failed("m0")
    log = [LogEntry("f", "t", "CREATED", NOW)]
    log += [LogEntry("f", "t", it, NOW, response_detail(418 if responses else None, (), b"teapot")) for it in states]
    failure = FailureCallback({"messageId": "f", "url": "https://app.example/failed", "maxRetries": 2}, log)
    shown = run.shown(failure)["failureFunction"]
    expected = {
        "messageId": "f",
        "url": "https://app.example/failed",
        "state": state,
        "failHeaders": {"X-Why": ["because"]},
        "failStatus": 500,
        "failResponse": "sorry",
        "dlqId": "m0",
        "maxRetries": 2,
    }
    answered: dict[str, Any] = (
        {"responseStatus": 418, "responseHeaders": {}, "responseBody": "teapot"} if responses else {}
    )
    errors = shown.pop("errors", [])
    assert shown == {**expected, **answered}
    assert len(errors) == states.count("ERROR")
    assert failure.info() == {"state": state, **answered}


def test_what_is_redacted_is_not_in_the_log() -> None:
    """Neither bodies nor headers."""
    run = Told(initial="secret 1", redact=("body", "header[X-User]"), state="RUN_SUCCESS")
    run.step(1, "secret 2")
    run.step(2, json.dumps({"status": 200, "body": "secret 3", "header": {}}), type="Call")
    run.result = "secret 4"
    text = json.dumps(run.shown())
    assert "secret" not in text
    assert all(redacted(f"secret {it}".encode()) in text for it in (1, 2, 3, 4))
    assert run.shown()["steps"][0]["steps"][0]["headers"] == {"X-User": [redacted(b"17")]}


@pytest.mark.parametrize(
    "body",
    [
        *("", "null", "[]", "{}", '{"stepId":"x"}', '{"stepId":[],"concurrent":{},"targetStep":[1]}', '{"out":null}'),
        *('{"stepId":1,"stepType":"Call","out":"no json"}', '{"stepId":1,"stepType":"Call","out":"[]"}'),
        *('{"stepId":1,"stepType":"Wait","out":5}', '{"stepId":true,"concurrent":-5,"stepName":null}'),
    ],
)
def test_whatever_was_sent_as_a_step_can_be_shown(body: str) -> None:
    """An SDK would not send it, but anyone with a token can."""
    run = Told()
    run.entry(body)
    run.plan(1)
    assert run.shown()["steps"][0]["steps"][0]["stepName"] == "init"


def test_a_binary_initial_body_is_shown_in_base64() -> None:
    """As JSON cannot have bytes."""
    run = Told()
    run.entries[0] = RunEntry("m0", Body.of(b"\xff"), NOW)
    assert run.shown()["steps"][0]["steps"][0]["out"] == "/w=="
