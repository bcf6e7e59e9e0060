"""The server as a whole: who is answered, and how errors are."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from batchflow.errors import StoreUnavailable
from batchflow.server.app import QStashServer
from batchflow.server.raw_request import MAX_BODY
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
        raise StoreUnavailable("redis://10.0.0.7:6379/0 cannot be reached")

    monkeypatch.setattr(server.tokens, "of_token", away)
    async with client_of(server, "x") as client:
        response = await client.get("/v2/none")
    sentence = "the store of this server cannot be reached; send the request again"
    assert (response.status_code, response.json()) == (503, {"error": sentence})
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


@pytest.fixture
async def mounted(server: QStashServer, token: str) -> AsyncIterator[AsyncClient]:
    """A client of an app in which the server is mounted."""
    app = FastAPI()
    app.mount("/a place/queue", server)
    headers = {"Authorization": f"Bearer {token}"}
    async with AsyncClient(transport=ASGITransport(app), base_url=URL, headers=headers) as client:
        yield client


async def test_the_server_can_be_mounted(mounted: AsyncClient) -> None:
    """Below the path of another app; destinations are as they were sent."""
    response = await mounted.post("/a%20place/queue/v2/publish/https://example.com//a%2Fb?x=1")
    assert response.json()["url"] == "https://example.com//a%2Fb?x=1"
    id = response.json()["messageId"]
    assert (await mounted.get(f"/a%20place/queue/v2/messages/{id}")).status_code == 200
    assert (await mounted.get("/a%20place/queue/openapi.json")).status_code == 200
    assert (await mounted.get("/a%20place/queue/v2/none")).status_code == 404


async def test_no_path_gets_past_the_token_of_a_mounted_server(mounted: AsyncClient) -> None:
    """Nor one that looks like that of the document."""
    response = await mounted.get("/a%20place/queue%2Fv2%2Fqueues/openapi.json", headers={"Authorization": ""})
    assert response.status_code == 401


async def test_a_proxy_may_take_the_place_from_the_path(server: QStashServer, token: str) -> None:
    """The root path is then not in it."""
    headers = {"Authorization": f"Bearer {token}"}
    transport = ASGITransport(server, root_path="/queue")
    async with AsyncClient(transport=transport, base_url=URL, headers=headers) as client:
        assert (await client.get("/openapi.json")).status_code == 200
        assert (await client.post("/v2/publish/https://example.com")).status_code == 201
        assert (await client.get("/v2/queues")).status_code == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b"\xff"])
async def test_a_wrong_body_is_answered_with_a_sentence(http: AsyncClient, body: bytes) -> None:
    """As every error is."""
    response = await http.post("/v2/queues", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert list(response.json()) == ["error"]


async def test_a_large_body_is_refused_on_every_route(http: AsyncClient) -> None:
    """Also where its length is not said before."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b"x" * 1024 * 1024

    for path in ("/v2/schedules/https://example.com", "/v2/publish/https://example.com"):
        assert (await http.post(path, content=chunks())).status_code == 413
        assert (await http.post(path, content=b"x" * (MAX_BODY + 1))).status_code == 413
