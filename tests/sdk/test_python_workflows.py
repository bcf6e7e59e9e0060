"""The official Python workflow SDK."""

import datetime as dt
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.sdk.receiver import Answer
from tests.sdk.server import ServerProcess, client_of
from tests.sdk.stage import Stage
from tests.sdk.workflows import Context, WorkflowRequest, WorkflowServer, executed
from tests.waiting import wait_until_sync


@pytest.fixture(scope="module")
def workflows(server: ServerProcess) -> Iterator[WorkflowServer]:
    workflows = WorkflowServer(server.environment)
    yield workflows
    workflows.close()


def begin(stage: Stage, url: str, body: Any = None, **headers: str) -> str:
    """Begin a run by a message to its endpoint; the value of a header that all its requests have."""
    mark = stage.name("run")
    stage.client.message.publish_json(url=url, body=body, headers={"X-Mark": mark, **headers}, retries=0)
    return mark


def arrived(workflows: WorkflowServer, mark: str) -> list[WorkflowRequest]:
    return [it for it in workflows.requests if it.headers.get("x-mark") == mark]


def ended(stage: Stage, workflows: WorkflowServer, mark: str) -> Mapping[str, Any]:
    """The log of a run, once it has ended."""
    found: list[Mapping[str, Any]] = []

    def has_ended() -> bool:
        ids = {it.run for it in arrived(workflows, mark) if it.run is not None}
        if len(ids) == 1:
            (id,) = ids
            listed = stage.client.http.request(
                path="/v2/workflows/events",
                method="GET",
                params={"groupBy": "workflowRunId", "workflowRunId": str(id)},
            )
            found[:] = [run for run in listed["runs"] if run["workflowState"] != "RUN_STARTED"]
        return bool(found)

    wait_until_sync(has_ended, description="the run has ended")
    return found[0]


def test_a_run_has_steps_sleeps_and_calls(stage: Stage, workflows: WorkflowServer) -> None:
    """Each is executed once, and the headers of the first request are those of all."""
    target = stage.receiver.endpoint(
        Answer(500, headers={"Retry-After": "0"}),
        Answer(201, '{"text": "Zoë"}'.encode(), {"X-Answer": "yes", "Content-Type": "application/json"}),
    )
    times: list[float] = []
    found: list[Any] = []

    async def later() -> str:
        executed("later")
        times.append(time.time())
        return "later"

    def named(name: str) -> Any:
        executed(name)
        times.append(time.time())
        return {"name": name, "list": [1, None, "ü"]}

    async def many_steps(context: Context) -> None:
        first = await context.run("first", lambda: named("first"))
        await context.sleep("sleep", 1)
        second = await context.run("second", later)
        await context.sleep_until("until", dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1))
        third = await context.run("third", lambda: named("third"))
        called = await context.call(
            "call", url=target.url, method="POST", body={"a": "ü"}, headers={"X-Call": "one"}, retries=1
        )
        await context.run("fourth", lambda: found.extend([first, second, third, called, context.request_payload]))

    mark = begin(stage, workflows.add(many_steps), {"b": "Zoë"})
    log = ended(stage, workflows, mark)

    first, second, third, called, payload = found
    assert (first["name"], second, third["list"], payload) == ("first", "later", [1, None, "ü"], {"b": "Zoë"})
    assert (called.status, called.body, called.header["X-Answer"]) == (201, {"text": "Zoë"}, ["yes"])
    assert times[1] - times[0] >= 1
    steps = [name for it in arrived(workflows, mark) for name in it.steps]
    assert steps == ["first", "later", "third"]
    assert [it.headers["x-call"] for it in target.received] == ["one", "one"]
    assert {it.headers.get("x-mark") for it in target.received} == {None}
    # The message, the beginning, seven steps of which the call has a callback.
    assert len(arrived(workflows, mark)) == 2 + 7 + 1
    assert log["workflowState"] == "RUN_SUCCESS"
    assert [step["stepName"] for group in log["steps"] for step in group["steps"]] == [
        "init",
        "first",
        "sleep",
        "second",
        "until",
        "third",
        "call",
        "fourth",
    ]


def test_a_failed_run_calls_its_failure_function(stage: Stage, workflows: WorkflowServer) -> None:
    """With the reason, once all retries have failed too."""
    told: list[tuple[Any, ...]] = []

    def broken() -> None:
        executed("broken")
        raise ValueError("broken €")

    async def told_of(context: Context, status: int, response: str, headers: Mapping[str, Any]) -> None:
        told.append((context.request_payload, context.headers["x-mark"], status, response, bool(headers)))

    async def failing(context: Context) -> None:
        await context.run("broken", broken)

    mark = begin(stage, workflows.add(failing, retries=1, failure_function=told_of), {"b": "Zoë"})
    log = ended(stage, workflows, mark)

    wait_until_sync(lambda: len(told) > 0, description="the failure function was called")
    assert told == [({"b": "Zoë"}, mark, 500, "broken €", True)]
    assert log["workflowState"] == "RUN_FAILED"
    assert [name for it in arrived(workflows, mark) for name in it.steps] == ["broken", "broken"]
    # The message, two attempts, the failure function.
    assert len(arrived(workflows, mark)) == 4


def test_a_failed_run_tells_its_failure_url(stage: Stage, workflows: WorkflowServer) -> None:
    """The body names the run."""
    target = stage.receiver.endpoint()

    def broken() -> None:
        raise ValueError("broken")

    async def failing_elsewhere(context: Context) -> None:
        await context.run("fine", lambda: 1)
        await context.run("broken", broken)

    mark = begin(stage, workflows.add(failing_elsewhere, retries=0, failure_url=target.url))
    log = ended(stage, workflows, mark)

    told = target.only()
    assert log["workflowRunId"].encode() in told.body
    assert log["failureFunction"]["url"] == target.url
    stage.verify(told, target.url)


def test_an_endpoint_refuses_what_is_not_signed(stage: Stage, workflows: WorkflowServer) -> None:
    """With the keys of another tenant neither."""

    async def refusing(context: Context) -> None:
        await context.run("never", lambda: executed("never"))

    url = workflows.add(refusing)
    with_other_keys = stage.server.add_tenant(stage.name("other"))
    with client_of(with_other_keys) as stranger:
        stranger.message.publish(url=url, retries=0, headers={"X-Mark": stage.id})
    wait_until_sync(lambda: len(arrived(workflows, stage.id)) == 1, description="it has arrived")
    wait_until_sync(lambda: arrived(workflows, stage.id)[0].status == 500, description="it was refused")
    assert arrived(workflows, stage.id)[0].steps == []
