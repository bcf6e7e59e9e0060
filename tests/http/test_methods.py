"""Methods that a path does not have, and HEAD, which it has wherever there is GET."""

import asyncio
import re

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from batchflow import Batchflow
from tests.http.conftest import client_of
from tests.http.samples import assert_error, serve_all
from tests.waiting import DEADLINE_S

METHODS = ("GET", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "POST", "PROPFIND")


def documented() -> dict[str, set[str]]:
    """The methods of each path in the OpenAPI document."""
    flow = Batchflow("sqlite://")
    serve_all(flow)
    app = FastAPI()
    app.include_router(flow.router)
    return {path: {it.upper() for it in methods} for path, methods in app.openapi()["paths"].items()}


PATHS = {path: methods for path, methods in documented().items() if not path.startswith("/webhooks/")}


@pytest.mark.parametrize("path", PATHS)
async def test_another_method_is_405_with_those_of_the_path(path: str, idle: Batchflow) -> None:
    """`Allow` has exactly the documented ones, and HEAD beside GET; a path of its own is no id of another route."""
    allowed = PATHS[path] | ({"HEAD"} if "GET" in PATHS[path] else set[str]())
    async with client_of(idle) as http:
        for method in (*METHODS, *({"HEAD"} - allowed)):
            if method in PATHS[path]:
                continue
            response = await http.request(method, re.sub(r"\{[^}]*\}", "x", path))
            assert {*response.headers["allow"].split(", ")} == allowed, method
            if method != "HEAD":
                assert_error(response, (405, "is not possible here; send ", None))


async def test_head_is_get_without_the_body(idle: Batchflow) -> None:
    """Status and headers are the same."""
    async with client_of(idle) as http:
        for path in ("/runs", "/batches", "/runs/none", "/runs?limit=x", "/health", "/events/e/waiters"):
            head, get = await http.head(path), await http.get(path)
            assert head.content == b""
            assert (head.status_code, head.headers) == (get.status_code, get.headers)


async def test_head_of_a_stream_ends_at_once(flow: Batchflow, http: AsyncClient) -> None:
    """The run waits on, and nobody watches it."""
    run = (await http.post("/approvals", json="x")).json()["workflowRunId"]
    response = await asyncio.wait_for(http.head(f"/runs/{run}/progress"), DEADLINE_S)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"].startswith("text/event-stream")


async def test_a_line_feed_at_the_end_is_another_path(idle: Batchflow) -> None:
    """It is not cut off: an event of another name would be notified."""
    async with client_of(idle) as http:
        for path in ("/events/e%0A", "/onboarding%0A", "/welcome/process-users%0A"):
            assert (await http.post(path, json={})).status_code == 404
        assert (await http.post("/runs/cancel%0A", json={})).status_code == 405
        assert (await http.post("/runs/cancel%0A/cancel", json={})).json()["error"].startswith("there is no run")


@pytest.mark.parametrize("path", ["/runs/{}", "/batches/{}", "/flow/{}", "/schedules/{}"])
async def test_an_id_with_a_line_feed_is_one_that_nobody_has(idle: Batchflow, path: str) -> None:
    """It is answered in the form of all errors."""
    async with client_of(idle) as http:
        response = await http.get(path.format("x%0A"))
    assert response.status_code == 404
    assert "detail" not in response.json()
