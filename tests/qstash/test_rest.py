"""The requests of an app to QStash: over connections that stay open, once, and through the proxy of the environment."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from batchflow.errors import StoreUnavailable
from batchflow.qstash.rest import QStashRest
from batchflow.wire.submissions import Submission
from tests.engine.test_push_connections import Answer, Server

CREATED = b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n[]"
BATCH = Submission("/v2/batch", {"content-type": "application/json"}, b"")


@asynccontextmanager
async def serving(answer: Answer) -> AsyncGenerator[tuple[Server, QStashRest]]:
    server = Server(answer)
    listening = await asyncio.start_server(server.accept, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    rest = QStashRest(server.url, "a token")
    try:
        yield server, rest
    finally:
        await rest.close()
        listening.close()
        await asyncio.gather(*server.tasks, return_exceptions=True)
        await listening.wait_closed()


async def say_created(_reader: object, writer: asyncio.StreamWriter, _number: int, _count: int) -> None:
    writer.write(CREATED)


async def test_requests_share_a_connection_and_have_the_token() -> None:
    async with serving(say_created) as (server, rest):
        assert await rest.submit(BATCH) is None
        assert await rest.get("/v2/dlq", {"label": "a b", "id": ["1", "2"]}) == []
        assert await rest.post(Submission("/v2/publish/https://example.com/ä b?x=%20y", {}, b"")) == []
    assert {number for number, _ in server.requests} == {0}
    lines = [request.partition(b"\r\n")[0].decode() for _, request in server.requests]
    assert lines == [
        "POST /v2/batch HTTP/1.1",
        "GET /v2/dlq?label=a+b&id=1&id=2 HTTP/1.1",
        "POST /v2/publish/https://example.com/%C3%A4%20b?x=%20y HTTP/1.1",
    ]
    assert all(b"\r\nauthorization: Bearer a token\r\n" in request for _, request in server.requests)


# QStash may have recorded it: then a second one would begin the next step twice.
async def test_a_request_whose_answer_is_lost_is_not_sent_again() -> None:
    async def answer(_: object, writer: asyncio.StreamWriter, number: int, count: int) -> None:
        if (number, count) == (0, 1):
            writer.close()
        else:
            writer.write(CREATED)

    async with serving(answer) as (server, rest):
        await rest.submit(BATCH)
        with pytest.raises(StoreUnavailable, match="does not answer .*it has closed the connection"):
            await rest.submit(BATCH)
        assert len(server.requests) == 2
        assert await rest.submit(BATCH) is None


async def test_nobody_at_the_address_is_a_sentence_without_the_token() -> None:
    async with serving(say_created) as (server, _):
        pass
    with pytest.raises(StoreUnavailable, match=f"QStash at {server.url} does not answer .*refused") as refused:
        await QStashRest(server.url, "a token").submit(BATCH)
    assert "a token" not in str(refused.value)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "all_proxy"])
async def test_the_proxy_of_the_environment_is_used(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(say_created) as (proxy, direct):
        monkeypatch.setenv(variable, proxy.url)
        rest = QStashRest("http://qstash.test", "a token")
        assert await rest.submit(BATCH) is None
        assert proxy.requests[0][1].startswith(b"POST http://qstash.test/v2/batch HTTP/1.1\r\n")
        await rest.close()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert await direct.submit(BATCH) is None
        assert proxy.requests[-1][1].startswith(b"POST /v2/batch HTTP/1.1\r\n")
