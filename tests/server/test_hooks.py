"""Webhooks of workflow runs: whoever knows the URL of one sends events, and learns nothing."""

import json
from base64 import b64decode
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from batchflow.server.app import QStashServer
from batchflow.server.hooks import METHODS
from batchflow.server.raw_request import MAX_BODY
from tests.server.conftest import URL
from tests.server.endpoint import FlowEndpoint

EVENT = "evt_abcdefghijklmno"
HOOK = f"/v2/workflows/hooks/ours/wfr_1/{EVENT}"


@pytest.fixture(autouse=True)
async def run(endpoint: FlowEndpoint) -> None:
    """A run of the tenant `ours`."""
    await endpoint.begin()


async def calls(endpoint: FlowEndpoint) -> list[dict[str, Any]]:
    """The requests that the run has got."""
    return [json.loads(b64decode(it["out"])) for it in (await endpoint.steps())[1:]]


async def test_a_webhook_gives_the_whole_request_to_its_run(stranger: AsyncClient, endpoint: FlowEndpoint) -> None:
    """Without a token, and with any method; its URL can be put together again."""
    headers = [(b"X-Sign", b"a"), (b"X-Sign", b"b"), (b"X-Name", "grüße".encode())]
    for method in METHODS:
        await endpoint.wait(EVENT)
        response = await stranger.request(method, f"{HOOK}?a=b%20c&d", headers=headers, content=b"\xffdata")
        assert (response.status_code, response.content) == (200, b"")
    found = await calls(endpoint)
    assert [it["method"] for it in found] == list(METHODS)
    for call in found:
        assert f"{call['proto']}://{call['host']}{call['url']}" == f"{URL}{HOOK}?a=b%20c&d"
        assert call["header"]["X-Sign"] == ["a", "b"]
        assert call["header"]["X-Name"][0].encode("latin-1") == "grüße".encode()
        assert b64decode(call["body"]) == b"\xffdata"


async def test_webhooks_are_kept_until_the_run_waits(stranger: AsyncClient, endpoint: FlowEndpoint) -> None:
    """In their order."""
    for number in range(2):
        await stranger.post(HOOK, content=str(number).encode())
    for _ in range(2):
        await endpoint.wait(EVENT)
    assert [b64decode(it["body"]) for it in await calls(endpoint)] == [b"0", b"1"]


async def test_a_webhook_does_not_say_whether_there_is_a_run(
    http: AsyncClient, stranger: AsyncClient, endpoint: FlowEndpoint
) -> None:
    """Unknown, ended, of another tenant, alive: the answer is the same."""
    await endpoint.begin("wfr_2")
    await http.delete("/v2/workflows/runs/wfr_2")
    names = ("ours/wfr_1", "ours/wfr_2", "ours/wfr_3", "theirs/wfr_1", "nobody/wfr_1")
    answers = [await stranger.post(f"/v2/workflows/hooks/{it}/{EVENT}") for it in names]
    assert {(it.status_code, it.content, str(it.headers)) for it in answers} == {(200, b"", str(answers[0].headers))}


async def test_a_webhook_reaches_no_run_of_another_tenant_and_no_other_event(
    stranger: AsyncClient, endpoint: FlowEndpoint
) -> None:
    """Names that can be guessed need a token."""
    await endpoint.wait("paid")
    await endpoint.wait(EVENT)
    for path in (f"theirs/wfr_1/{EVENT}", f"theirs%2Fours/wfr_1/{EVENT}", f"ours/%2E%2E/{EVENT}"):
        assert (await stranger.post(f"/v2/workflows/hooks/{path}")).status_code == 200
    for path in ("ours/wfr_1/paid", f"ours/wfr_1/{EVENT}/x", f"ours/{EVENT}", f"/wfr_1/{EVENT}", "ours/wfr_1/", ""):
        assert (await stranger.post(f"/v2/workflows/hooks/{path}")).status_code == 404
    assert await calls(endpoint) == []


async def test_a_webhook_that_no_endpoint_can_read_is_refused(stranger: AsyncClient, endpoint: FlowEndpoint) -> None:
    """It would fail the run."""
    await endpoint.wait(EVENT)
    cases = [("POST", "a b", 1, 400), ("POST", "a:65536", 1, 400), ("POST", "user@a", 1, 400), ("TRACE", "a", 1, 405)]
    for method, host, size, status in [*cases, ("POST", "a", MAX_BODY + 1, 413), ("POST", "a", 7_000_000, 413)]:
        response = await stranger.request(method, HOOK, headers={"Host": host}, content=b"x" * size)
        assert (response.status_code, list(response.json())) == (status, ["error"]), (method, host)
    assert await calls(endpoint) == []


async def test_a_webhook_may_come_to_any_port(stranger: AsyncClient, endpoint: FlowEndpoint) -> None:
    """The highest one too."""
    await endpoint.wait(EVENT)
    assert (await stranger.post(HOOK, headers={"Host": "a:65535"})).status_code == 200
    assert [it["host"] for it in await calls(endpoint)] == ["a:65535"]


async def test_webhooks_of_a_mounted_server_have_its_place(server: QStashServer, endpoint: FlowEndpoint) -> None:
    """And no path of a webhook opens another route."""
    app = FastAPI()
    app.mount("/a place/queue", server)
    async with AsyncClient(transport=ASGITransport(app), base_url=URL) as client:
        await endpoint.wait(EVENT)
        assert (await client.get(f"/a%20place/queue{HOOK}")).status_code == 200
        [call] = await calls(endpoint)
        assert call["url"] == f"/a%20place/queue{HOOK}"
        for path in (
            "queue%2Fv2%2Fworkflows%2Fhooks/v2/publish/https://example.com",
            f"queue%2Fv2%2Fwait/{HOOK[1:]}",
            f"queue%2Fv2%2Fpublish/{HOOK[1:]}",
        ):
            assert (await client.post(f"/a%20place/{path}")).status_code in (401, 404), path
