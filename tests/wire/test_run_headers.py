"""The headers of workflow runs: those of the official SDKs are read, wrong ones refused with what to write."""

from typing import Any

import pytest

from batchflow.errors import InputError
from batchflow.wire.run_headers import RunRequest
from tests.wire.run_requests import FEATURES, FLOW, JS_CALL, JS_STEP, JS_TRIGGER, PY_STEP, asked


def refused(headers: dict[str, str], **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        asked(headers, **options)
    assert caught.value.status == 400
    return str(caught.value)


def test_a_request_of_the_javascript_sdk_names_its_run() -> None:
    """And the features of the SDK."""
    js = RunRequest(run="wfr_1", url=FLOW, features=tuple(FEATURES.split(",")))
    assert asked(JS_STEP).run == js
    first = asked(JS_TRIGGER).run
    assert first is not None
    assert first.init
    assert asked({**JS_STEP, "upstash-workflow-createdat": "1700000000000"}).run == RunRequest(
        run="wfr_1", url=FLOW, features=js.features, created_at=1_700_000_000_000
    )


def test_a_request_of_the_python_sdk_names_its_run_without_a_version() -> None:
    """It has no features that the JavaScript SDK has later."""
    features = ("LazyFetch", "InitialBody", "WF_DetectTrigger")
    assert asked(PY_STEP).run == RunRequest(run="wfr_1", url=FLOW, features=features)


def test_a_call_names_its_run_and_its_callback_does_too() -> None:
    """Each with its kind."""
    request = asked(JS_CALL, to="https://third.example")
    assert request.run == RunRequest(
        run="wfr_1", url=FLOW, call_type="toCallback", features=("WF_NoDelete", "InitialBody")
    )
    assert request.envelope.callback is not None
    callback = asked(dict(request.envelope.callback.headers)).run
    assert callback == RunRequest(run="wfr_1", url=FLOW, call_type="fromCallback", features=tuple(FEATURES.split(",")))


def test_the_answer_to_first_contact_and_an_invocation_say_so() -> None:
    """Both begin with an init."""
    answer = asked({**JS_TRIGGER, "upstash-workflow-trigger-by-sdk": "true"}).run
    invoked = asked({**JS_TRIGGER, "Upstash-Workflow-Invoke": "true"}).run
    assert answer is not None
    assert invoked is not None
    assert (answer.answers_contact, answer.invoke) == (True, False)
    assert (invoked.answers_contact, invoked.invoke) == (False, True)


def test_headers_of_deliveries_that_are_sent_along_begin_no_run() -> None:
    """A message that names no run is a message like others."""
    assert asked({"Upstash-Feature-Set": FEATURES, "Upstash-Workflow-Sdk-Version": "1"}).run is None


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        (
            {"upstash-workflow-init": "yes"},
            "'upstash-workflow-init' cannot be 'yes'; write true or false",
        ),
        (
            {"upstash-workflow-runid": "a b"},
            "'upstash-workflow-runid' cannot be 'a b'; write a name of letters, digits, '-', '_' and '.', "
            "not '.' or '..'",
        ),
        (
            {"upstash-workflow-url": "app.example"},
            "'upstash-workflow-url' is not a URL with a host; write one such as https://example.com/path",
        ),
        (
            {"upstash-workflow-calltype": "stepConfig"},
            "'upstash-workflow-calltype' cannot be 'stepConfig'; write one of step, toCallback, fromCallback, "
            "failureCall",
        ),
        (
            {"upstash-workflow-createdat": "today"},
            "'upstash-workflow-createdat' cannot be 'today'; write the time in ms at which the run began, as its "
            "deliveries have it",
        ),
        (
            {"upstash-workflow-sdk-version": "2"},
            "'upstash-workflow-sdk-version' cannot be '2'; this server has version 1 of the protocol of workflows",
        ),
        (
            {"upstash-workflow-invoke": "true"},
            "'upstash-workflow-invoke' goes with a run that begins; send 'upstash-workflow-init: true'",
        ),
        (
            {"upstash-queue-name": "q"},
            "the posts of a workflow run have no queue; leave it out, or 'upstash-workflow-runid'",
        ),
        (
            {"upstash-cron": "* * * * *"},
            "the posts of a workflow run have no schedule; leave it out, or 'upstash-workflow-runid'",
        ),
        (
            {"upstash-callback": FLOW, "upstash-callback-workflow-runid": "wfr_2"},
            "a callback belongs to the run of its request; send 'upstash-workflow-runid' with the id of "
            "'upstash-callback-workflow-runid'",
        ),
        (
            {"upstash-callback": FLOW, "upstash-callback-workflow-init": "true"},
            "'upstash-workflow-runid' is missing; it goes with 'upstash-workflow-init'",
        ),
    ],
)
def test_a_wrong_header_of_a_run_is_refused_with_what_to_write(headers: dict[str, str], sentence: str) -> None:
    """Status 400, which the SDKs take as the end of the run."""
    assert refused({**JS_STEP, **headers}) == sentence


def test_a_header_of_a_run_without_its_id_is_refused() -> None:
    """Nothing would be added to any run."""
    assert refused({"Upstash-Workflow-Init": "true"}) == (
        "'upstash-workflow-runid' is missing; it goes with 'upstash-workflow-init'"
    )


def test_a_run_has_one_url() -> None:
    """Not those of a group."""
    assert "URL group" in refused(JS_STEP, to="group")
