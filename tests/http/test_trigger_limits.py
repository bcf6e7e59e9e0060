"""The bounds of one trigger: its ids, and the flow keys that it may name."""

import pytest
from httpx import AsyncClient

from batchflow import Batchflow, FlowControl, WorkflowContext
from tests.http.conftest import client_of
from tests.http.samples import assert_error, serve_all

KEY, VALUE = "Upstash-Flow-Control-Key", "Upstash-Flow-Control-Value"


async def test_a_request_names_no_more_ids_than_the_setting_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """413, with the field at fault; nothing is started."""
    monkeypatch.setenv("BATCHFLOW_MAX_IDS", "3")
    flow = Batchflow("sqlite://", worker=False)
    serve_all(flow)
    async with flow, client_of(flow) as http:
        for path in ("/welcome/paginate-users", "/welcome/process-users"):
            refused = await http.post(path, json={"userIds": ["a", "b", "c", "d"]})
            assert_error(refused, (413, "raise BATCHFLOW_MAX_IDS", "userIds"))
            assert (await http.post(path, json={"userIds": ["a", "b", "c"]})).status_code == 202
        assert len((await http.get("/batches")).json()["batches"]) == 2


async def test_ten_thousand_ids_are_allowed_by_default(idle_http: AsyncClient) -> None:
    """And not one more."""
    ids = [str(number) for number in range(10_001)]
    assert (await idle_http.post("/welcome/paginate-users", json={"userIds": ids})).status_code == 413
    assert (await idle_http.post("/welcome/paginate-users", json={"userIds": ids[:-1]})).status_code == 202


async def test_a_request_cannot_set_the_limits_of_a_key_that_code_declares() -> None:
    """Of a workflow, of a function; those that are added later too. A key of its own it may limit."""
    flow = Batchflow("sqlite://", worker=False)
    http = client_of(flow)
    serve_all(flow)

    @flow.serve("/billed", flow_control=FlowControl(key="billing", parallelism=2))
    async def billed(ctx: WorkflowContext[None]) -> None: ...

    assert billed.endpoint.flow.key == "billing"
    async with flow, http:
        for key in ("billing", "greet.execute", "approvals"):
            headers = {KEY: key, VALUE: "parallelism=1,rate=1,period=36500d"}
            refused = await http.post("/nightly/cleanup", json=1, headers=headers)
            assert_error(refused, (422, "which the code of this app declares", KEY))
        assert (await http.get("/runs")).json()["runs"] == []
        for headers in ({KEY: "billing", VALUE: "parallelism=2"}, {KEY: "mine", VALUE: "rate=1"}):
            assert (await http.post("/nightly/cleanup", json=1, headers=headers)).status_code == 202


@pytest.mark.parametrize(
    "name",
    [
        "Callback",
        "Failure-Callback",
        "Timeout",
        "Cron",
        "Queue-Name",
        "Redact-Fields",
        "Method",
        "Nonsense",
        "Header-Forward",
    ],
)
@pytest.mark.parametrize("path", ["/nightly/cleanup", "/greet/paginate-items"])
async def test_a_header_that_would_change_nothing_is_refused(name: str, path: str, idle_http: AsyncClient) -> None:
    """Its sender expects that it does."""
    refused = await idle_http.post(path, json={"itemIds": ["a"]}, headers={f"Upstash-{name}": "x"})
    assert_error(refused, (422, "", f"upstash-{name.lower()}"))


SDK = {
    "Upstash-Method": "POST",
    "Upstash-Workflow-Init": "true",
    "Upstash-Workflow-Url": "http://x/y",
    "Upstash-Workflow-Sdk-Version": "1",
    "Upstash-Feature-Set": "LazyFetch,InitialBody",
    "Upstash-Telemetry-Sdk": "upstash-qstash-js@v2",
    "Upstash-Retried": "0",
    "Upstash-Message-Id": "msg_1",
    "Upstash-Signature": "a.b.c",
}


@pytest.mark.parametrize("path", ["/nightly/cleanup", "/greet/paginate-items"])
async def test_headers_that_only_describe_a_request_are_taken(path: str, idle_http: AsyncClient) -> None:
    """SDKs and QStash send them with everything."""
    body = 1 if path == "/nightly/cleanup" else {"itemIds": ["a"]}
    assert (await idle_http.post(path, json=body, headers=SDK)).status_code == 202
