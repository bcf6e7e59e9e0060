"""The health of an app, as probes ask for it."""

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from batchflow import Batchflow
from batchflow.errors import StoreUnavailable
from batchflow.http import health
from tests.http.conftest import client_of


async def test_an_app_that_works_is_ready(flow: Batchflow, http: AsyncClient) -> None:
    """Operators see the number of its workers."""
    answer = await http.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "reason": None, "workers": 1})


async def test_an_app_that_has_not_started_is_not_ready() -> None:
    """It is alive: a restart would not help."""
    async with client_of(Batchflow("sqlite://")) as http:
        answer = await http.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
        assert (await http.get("/health/live")).json()["status"] == "ok"


async def test_a_store_that_is_away_is_told_to_operators_alone(
    idle: Batchflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers see that the app is not ready, and not why."""

    async def away() -> Any:
        raise StoreUnavailable("redis at 10.0.0.7 is away")

    monkeypatch.setattr(idle.engine.store, "workers", away)
    app = FastAPI()
    app.include_router(idle.router)
    for client, reason in ((("127.0.0.1", 1), "redis at 10.0.0.7 is away"), (("203.0.113.9", 1), None)):
        async with AsyncClient(transport=ASGITransport(app, client=client), base_url="http://localhost") as http:
            answer = await http.get("/health")
            assert (answer.status_code, answer.json()["reason"]) == (503, reason)


async def test_a_store_that_does_not_answer_is_not_waited_for(
    idle: Batchflow, idle_http: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe gets an answer in any case."""

    async def silent() -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(idle.engine.store, "workers", silent)
    monkeypatch.setattr(health, "_LONGEST_READ_S", 0.01)
    answer = await idle_http.get("/health")
    assert (answer.status_code, "has not answered" in answer.json()["reason"]) == (503, True)
