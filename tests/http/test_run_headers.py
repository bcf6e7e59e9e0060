"""The headers of a trigger of a run."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from httpx import AsyncClient

from batchflow import Batchflow, FlowControl, WorkflowContext
from batchflow.core.message import Message
from batchflow.serve.app_url import ROOT_HEADER
from tests.http.samples import PREFIX, assert_error

USER = {"email": "ada@example.org"}
VALUE = "Upstash-Flow-Control-Value"

WRONG: dict[str, tuple[dict[str, str], str, str]] = {
    "run id": (
        {"Upstash-Workflow-RunId": "a b"},
        "'Upstash-Workflow-RunId' cannot be 'a b'",
        "Upstash-Workflow-RunId",
    ),
    "run id of a batch": (
        {"Upstash-Workflow-RunId": "bat_1"},
        "'Upstash-Workflow-RunId' cannot be 'bat_1'",
        "Upstash-Workflow-RunId",
    ),
    "two ids": (
        {"Upstash-Workflow-RunId": "a", "Upstash-Deduplication-Id": "b"},
        "'Upstash-Workflow-RunId' and 'Upstash-Deduplication-Id' exclude each other",
        "Upstash-Workflow-RunId",
    ),
    "dedup id": (
        {"Upstash-Deduplication-Id": ""},
        "'Upstash-Deduplication-Id' is empty",
        "Upstash-Deduplication-Id",
    ),
    "delay": (
        {"Upstash-Delay": "soon"},
        "'Upstash-Delay' cannot be 'soon'",
        "Upstash-Delay",
    ),
    "delay beside a time": (
        {"Upstash-Delay": "-1s", "Upstash-Not-Before": "1900000000"},
        "'Upstash-Delay' cannot be '-1s'",
        "Upstash-Delay",
    ),
    "time": (
        {"Upstash-Not-Before": "9" * 18},
        "write a time in unix seconds",
        "Upstash-Not-Before",
    ),
    "label": ({"Upstash-Label": "x" * 201}, "a label has 1 to 200 characters, not 201", "Upstash-Label"),
    "retries": (
        {"Upstash-Retries": "-1"},
        "'Upstash-Retries' cannot be '-1'",
        "Upstash-Retries",
    ),
    "retry delay": (
        {"Upstash-Retries": "5", "Upstash-Retry-Delay": "10y"},
        "'Upstash-Retry-Delay' cannot be '10y'",
        "Upstash-Retry-Delay",
    ),
    "flow key": (
        {"Upstash-Flow-Control-Key": "a/b", VALUE: "rate=1"},
        "'Upstash-Flow-Control-Key' cannot be 'a/b'",
        "Upstash-Flow-Control-Key",
    ),
    "no flow key": (
        {VALUE: "rate=1"},
        "'Upstash-Flow-Control-Key' is missing; it goes with 'Upstash-Flow-Control-Value'",
        "Upstash-Flow-Control-Key",
    ),
    "no limits": (
        {"Upstash-Flow-Control-Key": "a"},
        "'Upstash-Flow-Control-Value' is missing; it goes with 'Upstash-Flow-Control-Key'",
        VALUE,
    ),
    "limits": (
        {"Upstash-Flow-Control-Key": "a", VALUE: "speed=1"},
        "cannot be 'speed=1'; write parallelism=N",
        VALUE,
    ),
    "a period alone": (
        {"Upstash-Flow-Control-Key": "a", VALUE: "period=1m"},
        "sets no limit with 'period=1m'",
        VALUE,
    ),
    "rate": (
        {"Upstash-Flow-Control-Key": "a", VALUE: "rate=fast"},
        "'rate' cannot be 'fast'",
        VALUE,
    ),
    "parallelism": (
        {"Upstash-Flow-Control-Key": "a", VALUE: "parallelism=0"},
        "'parallelism' cannot be 0",
        VALUE,
    ),
    "a header without a name": (
        {"Upstash-Forward-": "x"},
        "write Upstash-Forward-NAME",
        "Upstash-Forward-",
    ),
    "an unsupported header": (
        {"Upstash-Failure-Callback": "https://example.org"},
        "'upstash-failure-callback' is not supported",
        "upstash-failure-callback",
    ),
}


@pytest.fixture
def published(idle: Batchflow, monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """The published messages, in their order."""
    publish, seen = idle.engine.publish, list[Message]()

    async def noted(messages: Sequence[Message]) -> Sequence[bool]:
        seen.extend(messages)
        return await publish(messages)

    monkeypatch.setattr(idle.engine, "publish", noted)
    return seen


async def start(http: AsyncClient, headers: Any) -> str:
    response = await http.post("/onboarding", json=USER, headers=headers)
    assert response.status_code == 202, response.text
    return response.json()["workflowRunId"]


async def test_options_are_those_of_the_run(published: list[Message], idle_http: AsyncClient) -> None:
    """Every supported header."""
    headers = {
        "upstash-workflow-runid": "order:7",
        "Upstash-Label": "Größe".encode(),
        "Upstash-Retries": "7",
        "Upstash-Retry-Delay": "pow(2, retried) * 1000",
        "Upstash-Flow-Control-Key": "mail-api",
        VALUE: "parallelism=3, rate=10,period=60",
        "Upstash-Not-Before": "1900000000",
        "Upstash-Delay": "10s",
        "Upstash-Telemetry-Sdk": "curl",
        "X-Other": "stays outside",
    }
    assert await start(idle_http, headers) == "order:7"
    (message,) = published
    assert (message.id, message.label, message.not_before) == ("order:7", "Größe", 1_900_000_000_000)
    assert message.flow == FlowControl(parallelism=3, rate=10, period="1m", key="mail-api")
    assert message.retry is not None
    assert (message.retry.retries, message.retry.delay) == (7, "pow(2, retried) * 1000")
    assert dict(message.headers) == {ROOT_HEADER: f"http://test{PREFIX}"}


async def test_options_left_out_are_the_functions_own(published: list[Message], idle_http: AsyncClient) -> None:
    """Retries, limits, label, and a start at once."""
    response = await idle_http.post("/approvals", json="a")
    (message,) = published
    assert message.id == response.json()["workflowRunId"]
    assert (message.retry, message.flow.key, message.not_before, message.label) == (None, "approvals", 0, "approval")


@pytest.mark.parametrize(("text", "ms"), [("2h30m", 9_000_000), ("10", 10_000)])
async def test_a_delay_is_a_duration_or_seconds(
    text: str, ms: int, idle: Batchflow, published: list[Message], idle_http: AsyncClient
) -> None:
    """A bare number is seconds, as in QStash."""
    before = idle.engine.now()
    await start(idle_http, {"Upstash-Delay": text})
    assert before + ms <= published[0].not_before <= idle.engine.now() + ms


async def test_forwarded_headers_are_the_runs(published: list[Message], idle_http: AsyncClient) -> None:
    """Without the prefix; equal ones are joined, and none replaces one of batchflow's own."""
    headers = [
        ("Upstash-Forward-X-Tenant", "acme"),
        ("Upstash-Forward-Tag", "a"),
        ("upstash-forward-tag", "b"),
        ("Upstash-Forward-Batchflow-Root", "https://elsewhere.example.org"),
    ]
    await start(idle_http, headers)
    assert dict(published[0].headers) == {"x-tenant": "acme", "tag": "a, b", ROOT_HEADER: f"http://test{PREFIX}"}


@pytest.mark.parametrize("header", ["Upstash-Workflow-RunId", "Upstash-Deduplication-Id"])
async def test_a_known_id_starts_nothing(header: str, idle: Batchflow, idle_http: AsyncClient) -> None:
    """The response is that of the first one, which keeps its payload."""
    first = await start(idle_http, {header: "order-7"})
    again = await idle_http.post("/onboarding", json={"email": "other@example.org"}, headers={header: "order-7"})
    assert (again.status_code, again.json()["workflowRunId"]) == (202, first)
    assert again.headers["Location"].endswith(f"/runs/{first}")
    (run,) = (await idle.runs()).runs
    assert "ada@example.org" in (await idle.run(run.id).status()).payload


@pytest.mark.parametrize(("headers", "phrase", "field"), WRONG.values(), ids=WRONG)
async def test_a_wrong_option_is_one_sentence(
    headers: dict[str, str], phrase: str, field: str, idle: Batchflow, idle_http: AsyncClient
) -> None:
    """422, with the header as the field; nothing is started."""
    assert_error(await idle_http.post("/onboarding", json=USER, headers=headers), (422, phrase, field))
    assert (await idle.runs()).runs == []


@pytest.mark.parametrize(
    ("header", "meant"),
    [
        ("upstash-dely", "Upstash-Delay"),
        ("upstash-workflow-run-id", "Upstash-Workflow-RunId"),
        ("upstash-notbefore", "Upstash-Not-Before"),
    ],
)
async def test_a_misspelt_option_is_refused(header: str, meant: str, idle: Batchflow, idle_http: AsyncClient) -> None:
    """A typo would be ignored; other headers that Upstash sends are."""
    response = await idle_http.post("/onboarding", json=USER, headers={header: "5"})
    assert_error(response, (422, f"did you mean '{meant}'?", header))
    assert (await idle.runs()).runs == []
    sent = {"Upstash-Retried": "0", "Upstash-Message-Id": "msg_1", "Upstash-Workflow-Url": "https://h", "X-Delay": "1"}
    await start(idle_http, sent)


async def test_an_option_given_twice_is_refused(idle_http: AsyncClient) -> None:
    """Neither value would be certain."""
    headers = [("Upstash-Delay", "1s"), ("upstash-delay", "2s")]
    response = await idle_http.post("/onboarding", json=USER, headers=headers)
    assert_error(response, (422, "is given twice", "Upstash-Delay"))


async def test_a_retry_delay_that_grows_without_end_is_refused(idle_http: AsyncClient) -> None:
    """The sentence comes from the retry policy."""
    headers = {"Upstash-Retries": "9999", "Upstash-Retry-Delay": "pow(9, retried)"}
    response = await idle_http.post("/onboarding", json=USER, headers=headers)
    assert_error(response, (422, "'pow(9, retried)' is infinite for retried = 9999", "Upstash-Retry-Delay"))


JSON_TYPES = ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json", "text/json"]
OTHER_TYPES = [None, "text/plain", "application/x-www-form-urlencoded", "", "application/jsonp", "json"]


def typed(content_type: str | None) -> dict[str, str]:
    return {} if content_type is None else {"Content-Type": content_type}


@pytest.mark.parametrize("content_type", JSON_TYPES)
async def test_a_body_with_a_json_content_type_is_not_parsed_as_text(
    content_type: str, published: list[Message], idle_http: AsyncClient
) -> None:
    """It is the payload; a body that is not JSON is refused."""
    headers = typed(content_type)
    response = await idle_http.post("/signup", content=b'{"email": "ada@example.org"}', headers=headers)
    assert response.status_code == 202
    assert [message.body for message in published] == ['{"email":"ada@example.org","invited_by":null}']
    response = await idle_http.post("/signup", content=b"mail: ada@example.org", headers=headers)
    assert_error(response, (400, "the body is not JSON", None))


@pytest.mark.parametrize("content_type", OTHER_TYPES)
@pytest.mark.parametrize("text", ["abc", "12", "null", '{"a": 1}', ""])
async def test_any_other_body_goes_to_the_parser(
    text: str, content_type: str | None, idle: Batchflow, idle_http: AsyncClient
) -> None:
    """Even if it looks like JSON: the data does not decide who reads a body."""

    @idle.serve("/notes", initial_payload_parser=str)
    async def notes(ctx: WorkflowContext[str]) -> None: ...

    assert notes.endpoint.route == "/notes"
    response = await idle_http.post("/notes", content=text.encode(), headers=typed(content_type))
    assert response.status_code == 202
    (run,) = (await idle.runs(function="/notes")).runs
    assert json.loads((await idle.run(run.id).status()).payload) == text


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            b"nobody",
            (
                422,
                "the parser 'address_line' of 'signup' cannot read this: ValueError: not enough values",
                None,
            ),
        ),
        (b"\xff\xfe", (400, "the body is neither JSON nor UTF-8 text", None)),
    ],
)
async def test_a_body_that_the_parser_cannot_read_is_refused(
    body: bytes, expected: tuple[int, str, str | None], idle_http: AsyncClient
) -> None:
    """The sentence names the parser and its error."""
    assert_error(await idle_http.post("/signup", content=body), expected)
