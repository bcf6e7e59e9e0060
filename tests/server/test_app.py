"""The server as a whole: who is answered, and how errors are."""

from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from batchflow.errors import StoreUnavailable
from batchflow.server.app import QStashServer
from tests.server.conftest import URL, client_of


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer ", "Basic x", "Bearer x", "Bearer \xff"], ids=repr)
async def test_a_request_without_a_valid_token_is_refused(stranger: AsyncClient, header: str | None) -> None:
    """With a sentence that says what to send."""
    headers = [] if header is None else [(b"Authorization", header.encode("latin-1"))]
    response = await stranger.get("/v2/none", headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert list(response.json()) == ["error"]
    assert "token" in response.json()["error"]


async def test_the_token_may_be_in_the_query(stranger: AsyncClient, token: str) -> None:
    """As hosted QStash takes it."""
    response = await stranger.get("/v2/none", params={"qstash_token": token})
    assert response.status_code == 404


async def test_a_wrong_header_is_not_mended_by_the_query(stranger: AsyncClient, token: str) -> None:
    """The header counts."""
    response = await stranger.get("/v2/none", params={"qstash_token": token}, headers={"Authorization": "Bearer x"})
    assert response.status_code == 401


async def test_an_unknown_route_is_answered_with_a_sentence(http: AsyncClient) -> None:
    """As every error is."""
    response = await http.get("/v2/none")
    assert (response.status_code, response.json()) == (404, {"error": "there is no route GET /v2/none"})


async def test_the_document_of_the_api_needs_no_token(stranger: AsyncClient) -> None:
    """It tells nothing of a tenant."""
    response = await stranger.get("/openapi.json")
    assert response.status_code == 200
    assert response.json()["info"]["title"] == "QStash"


async def test_a_store_that_is_away_is_said_with_a_time(server: QStashServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client tries again."""

    async def away(_: str) -> str:
        raise StoreUnavailable("the store is away")

    monkeypatch.setattr(server.tokens, "of_token", away)
    async with client_of(server, "x") as client:
        response = await client.get("/v2/none")
    assert (response.status_code, response.json()) == (503, {"error": "the store is away"})
    assert response.headers["retry-after"] == "1"


async def test_a_mistake_of_the_server_is_answered_without_its_text(
    server: QStashServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text may have secrets."""

    async def wrong(_: str) -> Any:
        raise ValueError("sig_secret")

    monkeypatch.setattr(server.tokens, "of_token", wrong)
    async with client_of(server, "x") as client:
        response = await client.get("/v2/none")
    assert response.status_code == 500
    assert list(response.json()) == ["error"]
    assert "sig_secret" not in response.text


async def test_the_server_can_be_mounted(server: QStashServer, token: str) -> None:
    """Below the path of another app."""
    app = FastAPI()
    app.mount("/queue", server)
    headers = {"Authorization": f"Bearer {token}"}
    async with AsyncClient(transport=ASGITransport(app), base_url=URL, headers=headers) as client:
        assert (await client.get("/queue/openapi.json")).status_code == 200
        assert (await client.get("/queue/v2/none")).status_code == 404
