"""Runs that begin again from the DLQ: what their endpoints do once more, and with which settings."""

import json
from typing import Any

import pytest

from batchflow.core.call import Body
from batchflow.core.wire_runs import AddEntry, BeginRun, RunEntry
from batchflow.wire.envelope import CallbackTarget, Envelope, RunPart
from batchflow.wire.run_again import ResumedEntries, again_id, again_posts
from batchflow.wire.run_config import RunConfig
from tests.wire.requests import NOW, URL

CONFIG = RunConfig(
    applies=True,
    features=("InitialBody", "WF_TriggerOnConfig"),
    headers=(("Upstash-Workflow-Sdk-Version", "1"), ("X-User", "17")),
    retries=7,
    flow_key="jobs",
    rate=2,
    labels=("one",),
    redact=("body",),
    failure_callback=CallbackTarget(url="https://app.example/failed"),
    caller_ip="10.0.0.1",
    resumed="msg_dead",
)


def plan(target: int, of: int = 2, **fields: Any) -> str:
    return step(0, concurrent=of, targetStep=target, **fields)


def step(number: int, *, concurrent: int = 1, **fields: Any) -> str:
    return json.dumps({"stepId": number, "stepName": "s", "stepType": "Run", "concurrent": concurrent, **fields})


def resumed(*steps: str) -> tuple[list[str], list[str]]:
    """The entries with which a run with these ones goes on, without the initial one."""
    entries = [RunEntry("msg_0", Body(text="initial"), NOW), *(RunEntry("msg_1", Body(text=it), NOW) for it in steps)]
    found = ResumedEntries.of(entries)
    assert found.begun[0] == Body(text="initial")
    return [it.text for it in found.begun[1:]], [it.text for it in found.added]


RESULT_1, RESULT_2, RESULT_3 = (step(it, concurrent=2, out="1") for it in (1, 2, 3))


@pytest.mark.parametrize(
    ("steps", "begun", "added"),
    [
        pytest.param([], [], [], id="it failed before its first step"),
        pytest.param([step(1), step(2)], [step(1), step(2)], [], id="sequential: the last step is delivered again"),
        pytest.param(
            [step(1, stepType="SleepFor", sleepFor=5)],
            [step(1, stepType="SleepFor", sleepFor=5)],
            [],
            id="after a sleep",
        ),
        pytest.param(
            [plan(1), plan(2), RESULT_2], [plan(2), RESULT_2, plan(1)], [], id="parallel: one member has no result"
        ),
        pytest.param(
            [plan(1, 3), plan(2, 3), plan(3, 3), RESULT_2],
            [plan(2, 3), RESULT_2, plan(1, 3)],
            [plan(3, 3)],
            id="parallel: several members have none",
        ),
        pytest.param([plan(1), plan(2)], [plan(1)], [plan(2)], id="parallel: no member has one"),
        pytest.param(
            [plan(1, stepType="Wait", waitEventId="e"), plan(2, stepType="Call"), step(2, concurrent=2, out="{}")],
            [plan(2, stepType="Call"), step(2, concurrent=2, out="{}"), plan(1, stepType="Wait", waitEventId="e")],
            [],
            id="parallel: a wait was pending",
        ),
        pytest.param(
            [plan(1), plan(2), RESULT_2, RESULT_1],
            [plan(1), plan(2), RESULT_2, RESULT_1],
            [],
            id="parallel: the step after the group has failed",
        ),
        pytest.param(
            [plan(1), plan(2), RESULT_1, RESULT_2, step(3)],
            [plan(1), plan(2), RESULT_1, RESULT_2, step(3)],
            [],
            id="a step after a group",
        ),
        pytest.param(
            [step(1), plan(2), plan(3), RESULT_2], [step(1), plan(2), RESULT_2, plan(3)], [], id="a group after a step"
        ),
        pytest.param([step(1, out="1"), step(1, out="2")], [step(1, out="1")], [], id="a step was recorded twice"),
        pytest.param(
            [plan(1), plan(2), plan(1), plan(2), RESULT_1], [plan(1), RESULT_1, plan(2)], [], id="a plan was too"
        ),
        pytest.param(["no JSON", "[]", step(1)], ["no JSON", "[]", step(1)], [], id="what is not a step stays"),
        pytest.param(
            [step(1, targetStep=None), step(0)],
            [step(1, targetStep=None), step(0)],
            [],
            id="fields without a value",
        ),
    ],
)
def test_a_run_goes_on_with_what_its_endpoint_has_to_do_again(
    steps: list[str], begun: list[str], added: list[str]
) -> None:
    """Which comes last."""
    assert resumed(*steps) == (begun, added)


def again(first_contact: bool = False, **options: Any) -> Any:
    part = RunPart(run="wfr_old", url=URL, created_at=5, first_contact=first_contact)
    failed = Envelope(url=URL, tenant="t", created_at=5, run=part)
    entries = ResumedEntries((Body(text="initial"), Body(text=plan(1))), (Body(text=plan(2)), Body(text=plan(3))))
    return again_posts("msg_dead", URL, failed, entries, CONFIG, **{"not_before": NOW, "now": NOW, **options})


def test_a_run_begins_with_its_entries_and_delivers_the_others_by_a_post_each() -> None:
    """With the settings of the failed one, under a new id."""
    first, *others = again()
    id = again_id("msg_dead")
    assert id.startswith("wfr_")
    assert first.link == BeginRun(id, URL, (Body(text="initial"), Body(text=plan(1))), NOW, CONFIG.to_text(), None)
    assert [it.link for it in others] == [AddEntry(id, Body(text=plan(2)), NOW), AddEntry(id, Body(text=plan(3)), NOW)]
    for post in (first, *others):
        envelope = Envelope.of_text(post.message.body)
        assert (envelope.headers, envelope.retries, envelope.flow_key) == (CONFIG.headers, 7, "jobs")
        assert (envelope.labels, envelope.redact) == (("one",), ("body",))
        assert (envelope.failure_callback, envelope.caller_ip) == (CONFIG.failure_callback, "10.0.0.1")
        assert (envelope.content_type, envelope.body) == ("application/json", Body())
        assert envelope.run == RunPart(run=id, url=URL, created_at=NOW, features=CONFIG.features)
        assert post.message.label == post.tenant == "t"


def test_a_repeated_request_has_the_same_posts() -> None:
    """So that it changes nothing in a store; another entry has others."""
    first, second = again(), again(now=NOW + 5)
    ids = [it.message.id for it in first]
    assert ids == [it.message.id for it in second]
    assert len(set(ids)) == 3
    assert again_id("msg_dead") == first[0].link.run != again_id("msg_other")


def test_a_run_that_was_never_reached_by_its_sdk_makes_first_contact_again() -> None:
    """Its endpoint does not know it."""
    assert all(Envelope.of_text(it.message.body).run.first_contact for it in again(first_contact=True))  # type: ignore[union-attr]


def test_a_run_that_begins_later_is_not_due_before() -> None:
    """As a delay asks for."""
    assert {it.message.not_before for it in again(not_before=NOW + 60_000)} == {NOW + 60_000}
