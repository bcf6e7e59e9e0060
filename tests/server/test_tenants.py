"""Tenants are apart, on every route of the document: without a token nothing, with another one nothing of ours."""

import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from httpx import AsyncClient

from batchflow.engine.engine import Engine
from batchflow.server.app import QStashServer
from batchflow.server.context import wire_store
from batchflow.server.tokens import token_id
from batchflow.wire.url_groups import GroupEndpoint, endpoints_text
from tests.server.conftest import client_of
from tests.server.endpoint import FlowEndpoint, run_headers

MARK = "ours-alone.example"
OURS = (
    *("/v2/queues", "/v2/schedules", "/v2/topics", "/v2/events", "/v2/keys", "/v2/flowControl", "/v2/dlq"),
    *("/v2/workflows/runs/wfr_ours", "/v2/waiters/my-event", "/v2/workflows/logs", "/v2/workflows/dlq"),
)
WEBHOOK = "/v2/workflows/hooks/{user}/{run}/{event}"


async def operations(http: AsyncClient) -> list[tuple[str, str]]:
    """The methods and paths of the document."""
    paths = (await http.get("/openapi.json")).json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def filled(path: str, *names: str) -> Iterator[str]:
    """A path with each of these names in its places."""
    if "{destination}" in path:
        path = path.replace("{destination}", "https://example.com")
    for name in names:
        yield re.sub(r"\{[^}]+\}", name, path)


@pytest.fixture
def snapshot(http: AsyncClient) -> Callable[[], Awaitable[list[Any]]]:
    """Shows all that the tenant `ours` has."""

    async def show() -> list[Any]:
        return [(await http.get(it)).json() for it in OURS]

    return show


async def test_every_route_needs_a_token(stranger: AsyncClient, server: QStashServer, token: str) -> None:
    """Whatever it is asked, but for webhooks; a token that was revoked is none."""
    await server.tokens.revoke(token_id(token))
    async with client_of(server, token) as revoked:
        for method, path in await operations(stranger):
            if path == WEBHOOK:
                continue
            for name in filled(path, "x"):
                for client in (stranger, revoked):
                    response = await client.request(method, name)
                    assert (response.status_code, list(response.json())) == (401, ["error"]), (method, path)


async def test_another_tenant_neither_sees_nor_changes_anything(
    http: AsyncClient, other_http: AsyncClient, engine: Engine, snapshot: Any
) -> None:
    """On every route, with the names and ids of what is ours."""
    text = endpoints_text([GroupEndpoint(f"https://{MARK}/group")])
    await wire_store(engine).put_document("group", "ours/my-group", text)
    flow = {"Upstash-Flow-Control-Key": "my-key", "Upstash-Flow-Control-Value": "parallelism=1"}
    message = (await http.post(f"/v2/publish/https://{MARK}/a", headers=flow)).json()["messageId"]
    cron = {"Upstash-Cron": "* * * * *", "Upstash-Schedule-Id": "my-schedule"}
    assert (await http.post(f"/v2/schedules/https://{MARK}/b", headers=cron)).status_code < 300
    assert (await http.post(f"/v2/enqueue/my-queue/https://{MARK}/c")).status_code == 201
    endpoint = FlowEndpoint(http, f"https://{MARK}/flow")
    await endpoint.begin("wfr_ours")
    assert (await endpoint.wait("my-event", "wfr_ours")).status_code == 201
    before = await snapshot()
    assert str(before).count(MARK) >= 6
    headers = run_headers("wfr_ours", "https://example.com")
    choices: list[dict[str, Any]] = [
        {},
        {"params": {"messageIds": message}},
        {"params": {"workflowRunIds": "wfr_ours"}},
        {"json": {"messageIds": [message]}},
        {
            "json": {
                "timeoutHeaders": {it: [value] for it, value in headers.items()},
                "timeout": "1d",
                "step": {"stepId": 1},
            }
        },
    ]
    names = (message, "my-group", "my-schedule", "my-queue", "my-key", "wfr_ours", "my-event")
    for method, path in await operations(other_http):
        for name in filled(path, *names):
            for options in choices:
                response = await other_http.request(method, name, **options)
                assert response.status_code < 500, (method, name, response.text)
                assert MARK not in response.text, (method, name)
    assert await snapshot() == before
    assert (await http.get(f"/v2/messages/{message}")).status_code == 200
