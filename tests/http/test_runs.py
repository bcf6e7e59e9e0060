"""Runs and workers over HTTP."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from httpx import AsyncClient

from batchflow import Batchflow, WorkflowContext
from batchflow.core.codec import Codec
from batchflow.core.message import WorkerStatus
from batchflow.core.run import NEVER, Step
from batchflow.errors import InputError
from batchflow.http.bodies import PayloadReader, ReceivedBody
from batchflow.http.schemas.runs import StepInfo
from batchflow.http.schemas.workers import WorkerInfo
from tests.http.conftest import client_of
from tests.http.samples import PREFIX, assert_error
from tests.waiting import wait_until


async def ended(http: AsyncClient, answer: Any) -> Any:
    run: Any = {}

    async def over() -> bool:
        run.update((await http.get(answer["statusUrl"])).json())
        return run["endedAt"] is not None

    await wait_until(over, description="the run has ended")
    return run


async def test_a_post_starts_a_run(flow: Batchflow, http: AsyncClient) -> None:
    """202 with its id, and its state, result and error at the URL."""
    response = await http.post("/onboarding", json={"email": "ada@example.org"})
    body = response.json()
    assert response.status_code == 202
    assert body["statusUrl"] == f"http://test{PREFIX}/runs/{body['workflowRunId']}" == response.headers["Location"]
    run = await ended(http, body)
    assert (run["workflowRunId"], run["route"]) == (body["workflowRunId"], "/onboarding")
    assert (run["state"], run["result"], run["error"]) == ("completed", {"welcomed": "ada@example.org"}, None)


async def test_a_failed_run_shows_its_error(flow: Batchflow, http: AsyncClient) -> None:
    """The result is null, and the error has its sentence."""
    run = await ended(http, (await http.post("/onboarding", json={"email": "nowhere"})).json())
    assert (run["state"], run["result"]) == ("failed", None)
    assert "that is no address" in run["error"]


async def test_a_run_is_whole_where_it_is_read_alone(flow: Batchflow, http: AsyncClient) -> None:
    """With payload, result and traceback; a list has the sentence of its error and the line of the code."""
    failed = await ended(http, (await http.post("/onboarding", json={"email": "nowhere"})).json())
    assert failed["payload"]["email"] == "nowhere"
    assert failed["traceback"].startswith("Traceback")
    (listed,) = (await http.get("/runs")).json()["runs"]
    assert listed.keys() == failed.keys() - {"payload", "result", "traceback", "steps"}
    assert listed["error"] == failed["error"]
    assert re.fullmatch(r"NonRetryable: that is no address \(samples\.py:\d+ in onboarding\)", listed["error"])


async def test_the_entry_of_a_batch_is_a_run_too(flow: Batchflow, http: AsyncClient) -> None:
    """`workflowRunId` of a trigger can be read like any other."""
    started = (await http.post("/welcome/process-users", json={"paidOnly": True})).json()
    await flow.workflows["welcome"].batch(started["batchId"]).wait(30)
    run = (await http.get(f"/runs/{started['workflowRunId']}")).json()
    assert (run["route"], run["state"], run["batchId"]) == ("/welcome/process-users", "completed", started["batchId"])
    assert run["result"]["success"] is True


async def test_lists_have_nothing_that_may_be_large() -> None:
    """However large payloads and results are, a list is small, and they are not read for it."""
    flow = Batchflow("sqlite://")

    @flow.serve("/large")
    async def large(ctx: WorkflowContext[str]) -> str:
        return ctx.payload

    assert large.endpoint.route == "/large"
    async with flow, client_of(flow) as http:
        runs = await flow.trigger_many(large, ["x" * 100_000] * 20)
        for run in runs:
            await run.wait(30)
        answer = await http.get("/runs?limit=1000")
        assert len(answer.json()["runs"]) == 20
        assert len(answer.content) < 20_000
        assert {(it.payload, it.result) for it in (await flow.runs()).runs} == {("null", None)}
        assert len((await http.get(f"/runs/{runs[0].id}")).json()["result"]) == 100_000


async def test_a_function_without_a_payload_needs_no_body(flow: Batchflow, http: AsyncClient) -> None:
    """Its route has several parts."""
    run = await ended(http, (await http.post("/nightly/cleanup")).json())
    assert (run["state"], run["result"]) == ("completed", [0])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (422, "'email' does not fit: Field required", "email")),
        (b'{"mail": "a@b"}', (422, "'email' does not fit: Field required", "email")),
        (b'{"email": 5}', (422, "'email' does not fit: Input should be a valid string", "email")),
        (b"[]", (422, "Input should be an object", None)),
    ],
)
async def test_a_payload_that_does_not_fit_is_422(
    body: bytes, expected: tuple[int, str, str | None], idle_http: AsyncClient
) -> None:
    """The sentence names the field."""
    assert_error(await idle_http.post("/onboarding", content=body), expected)


NOT_JSON: dict[Any, str] = {
    str: "send a JSON string, in double quotes",
    list[str]: "send a JSON array",
    dict[str, int]: "send a JSON object",
    int: "send a number",
    bool: "send true or false",
    str | int: "send JSON",
    Callable[[], int]: "send JSON",
}


@pytest.mark.parametrize("payload", NOT_JSON)
def test_a_body_that_is_not_json_is_answered_with_a_hint(payload: Any) -> None:
    """The hint names the JSON type of the payload."""

    async def function(ctx: WorkflowContext[int]) -> None: ...

    served = Batchflow("sqlite://").serve("/function")(function)
    reader: PayloadReader[Any] = PayloadReader(replace(served, payload=Codec.of(payload)))
    with pytest.raises(InputError, match=rf"^the body is not JSON \(.+\); {NOT_JSON[payload]}$") as caught:
        reader.read(ReceivedBody(b"{]", "application/json"))
    assert caught.value.status == 400


async def test_an_unknown_run_is_404(idle_http: AsyncClient) -> None:
    """The sentence names it."""
    assert_error(await idle_http.get("/runs/run_nope"), (404, "there is no run 'run_nope'", None))


async def waiting(flow: Batchflow, http: AsyncClient, payload: str, **headers: str) -> str:
    """A run of `approvals` that waits for its decision."""
    run: str = (await http.post("/approvals", json=payload, headers=headers)).json()["workflowRunId"]

    async def waits() -> bool:
        # It is a waiter before its attempt has ended.
        return (await flow.run(run).status()).state == "waiting"

    await wait_until(waits, description="the run waits")
    return run


async def test_a_run_shows_its_steps(flow: Batchflow, http: AsyncClient) -> None:
    """Outcome and time of each, and the end of its wait."""
    run = await waiting(flow, http, "a")
    story = (await http.get(f"/runs/{run}")).json()
    assert (story["state"], story["label"], story["parent"], story["endedAt"]) == ("waiting", "approval", None, None)
    assert story["createdAt"] <= story["startedAt"]
    prepared, decided = story["steps"]
    assert story["startedAt"] <= prepared.pop("recordedAt")
    assert prepared == {
        "name": "prepare",
        "kind": "run",
        "state": "done",
        "attempts": 1,
        "dueAt": None,
        "result": "A",
        "error": None,
        "traceback": None,
    }
    assert decided == {
        "name": "decided",
        "kind": "wait",
        "state": "pending",
        "attempts": None,
        "recordedAt": None,
        "dueAt": None,
        "result": None,
        "error": None,
        "traceback": None,
    }


def step(**fields: Any) -> StepInfo:
    return StepInfo.of(Step(1, "a", "run", "done", 1)._replace(**fields))


def test_a_step_shows_its_attempts_times_and_error() -> None:
    """Attempts of steps that execute, known times, and the headline of an error."""
    failed = step(state="failed", failures=3, at=1000, error="ValueError: no\nTraceback (most recent call last):\n  x")
    assert (failed.attempts, failed.error) == (3, "ValueError: no")
    assert failed.recorded_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert step(failures=1).attempts == 2
    assert step(at=0).recorded_at is None
    nap = step(kind="sleep", state="pending", position=0, due=1000)
    assert (nap.attempts, nap.recorded_at, nap.due_at) == (None, None, datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    assert step(kind="sleep", state="pending", position=0, due=NEVER).due_at is None


async def test_runs_are_listed_page_by_page(idle_http: AsyncClient) -> None:
    """The latest first, narrowed by state, function and label."""
    ids = [(await idle_http.post("/approvals", json=str(it))).json()["workflowRunId"] for it in range(3)]
    labelled = {"Upstash-Label": "special"}
    other = (await idle_http.post("/nightly/cleanup", headers=labelled)).json()["workflowRunId"]
    seen: list[str] = []
    params = {"limit": "2"}
    while True:
        page = (await idle_http.get("/runs", params=params)).json()
        seen += [it["workflowRunId"] for it in page["runs"]]
        assert all("steps" not in it for it in page["runs"])
        if page["nextCursor"] is None:
            break
        params["cursor"] = page["nextCursor"]
    assert seen == [other, *reversed(ids)]

    async def listed(**params: str) -> int:
        return len((await idle_http.get("/runs", params=params)).json()["runs"])

    assert await listed(function="/approvals") == await listed(label="approval") == 3
    assert await listed(label="special", function="/nightly/cleanup", state="waiting") == 1
    assert await listed(state="completed") == await listed(function="/onboarding") == 0


@pytest.mark.parametrize(
    ("query", "phrase", "field"),
    [
        ("state=done", "'state' does not fit", "state"),
        ("limit=1001", "'limit' does not fit", "limit"),
        ("cursor=x", "'cursor' cannot be 'x'", "cursor"),
        (f"cursor={'9' * 30}.x", "'cursor' cannot be '999", "cursor"),
        ("cursor=1.", "'cursor' cannot be '1.'", "cursor"),
        ("function=/approval", "did you mean '/approvals'?", "function"),
    ],
)
async def test_an_invalid_list_parameter_is_refused(
    query: str, phrase: str, field: str, idle_http: AsyncClient
) -> None:
    """One sentence that names the parameter."""
    assert_error(await idle_http.get(f"/runs?{query}"), (404 if field == "function" else 422, phrase, field))


async def test_a_run_is_cancelled(flow: Batchflow, http: AsyncClient) -> None:
    """At once while it waits; a second time nothing happens."""
    run = await waiting(flow, http, "a")
    answers = [(await http.post(f"/runs/{run}/cancel")).json() for _ in range(2)]
    assert [it["cancelled"] for it in answers] == [True, False]
    assert [it["run"]["state"] for it in answers] == ["cancelled", "cancelled"]
    assert_error(await http.post("/runs/run_nope/cancel"), (404, "there is no run 'run_nope'", None))


async def test_many_runs_are_cancelled(idle_http: AsyncClient) -> None:
    """By ids, by label, by function; the response has the number."""

    async def start() -> str:
        return (await idle_http.post("/approvals", json="a")).json()["workflowRunId"]

    async def cancelled(body: object) -> int:
        response = await idle_http.post("/runs/cancel", json=body)
        assert (response.status_code, response.json()["success"]) == (200, True)
        return response.json()["cancelled"]

    first = await start()
    await start()
    assert await cancelled({"ids": [first, first, "run_nope"]}) == 1
    assert await cancelled({"label": "approval"}) == 1
    await start()
    assert await cancelled({"label": "none", "function": "/approvals"}) == 0
    assert await cancelled({"function": "/approvals", "label": None}) == 1


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("{}", (422, "say what to cancel: ids, a label", "ids")),
        ('{"ids": []}', (422, "'ids' is empty", "ids")),
        ('{"ids": [], "label": "b"}', (422, "'ids' is empty", "ids")),
        ('{"ids": ["a"], "label": "b"}', (422, "'ids' and 'label' exclude each other", "ids")),
        ('{"ids": "a"}', (422, "'ids' does not fit", "ids")),
        ('{"labels": "a"}', (422, "'labels' does not fit", "labels")),
        ("[]", (422, "the body is a JSON array", None)),
        ("{", (400, "the body is not JSON (EOF", None)),
        ('{"function": "/onboard"}', (404, "did you mean '/onboarding'?", "function")),
    ],
)
async def test_an_ambiguous_cancel_is_refused(
    body: str, expected: tuple[int, str, str | None], idle_http: AsyncClient
) -> None:
    """An ambiguous request is refused."""
    assert_error(await idle_http.post("/runs/cancel", content=body), expected)


async def test_workers_are_listed_with_what_they_hold(idle: Batchflow, idle_http: AsyncClient) -> None:
    """By name, from all processes."""
    assert (await idle_http.get("/workers")).json() == {"workers": [], "unserved": []}
    store = idle.engine.store
    await store.register("w2", 30_000, 7)
    await store.register("w1", 30_000)
    for payload in ("1", "2"):
        await idle_http.post("/approvals", json=payload)
    assert len((await store.claim("w2", ["/approvals"], 5)).claims) == 2
    one, two = (await idle_http.get("/workers")).json()["workers"]
    assert (one["name"], one["state"], one["concurrency"], one["held"], one["holds"]) == ("w1", "working", None, 0, {})
    assert (two["name"], two["concurrency"], two["held"], two["holds"]) == ("w2", 7, 2, {"/approvals": 2})
    assert one["serves"] == two["serves"] == []
    assert two["since"] == two["seenAt"] < two["leaseUntil"]


async def test_a_worker_that_works_here_is_among_them(flow: Batchflow, http: AsyncClient) -> None:
    """It has the concurrency of its app."""
    (worker,) = (await http.get("/workers")).json()["workers"]
    assert (worker["state"], worker["concurrency"]) == ("working", flow.settings.concurrency)


def test_fields_that_an_older_worker_does_not_report_are_null() -> None:
    """Its start and heartbeat are null; one that has died is lost."""
    answer = WorkerInfo.of(WorkerStatus("w", 0, 0, 1_000, 0, 3, {"b": 1, "a": 2}, True))
    assert (answer.since, answer.seen_at, answer.concurrency, answer.hanging) == (None, None, None, 3)
    assert (answer.state, answer.held, list(answer.holds)) == ("lost", 3, ["a", "b"])


async def test_the_progress_of_a_run_is_a_stream(flow: Batchflow, http: AsyncClient) -> None:
    """Its last event is `done`, and has the result."""
    body = (await http.post("/onboarding", json={"email": "ada@example.org"})).json()
    text = (await http.get(f"/runs/{body['workflowRunId']}/progress?interval=0.1")).text
    *_, last = [block for block in text.split("\r\n\r\n") if "data:" in block]
    assert last.startswith("event: done")
    assert '"state":"completed"' in last
    assert_error(await http.get("/runs/run_gone/progress"), (404, "run_gone", None))
