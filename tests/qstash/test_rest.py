"""The requests of an app to QStash: over connections that stay open, once, and through the proxy of the environment."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest

from batchflow import Batchflow, QStash, WorkflowContext
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


PAGE = b"<!doctype html><title>An app</title>"


@pytest.mark.parametrize("content", [PAGE, b"", b"null", b"[1]"], ids=bytes.decode)
async def test_what_is_not_qstash_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """QSTASH_URL may name a web page, which answers everything with 200."""
    monkeypatch.setenv("APP_URL", "https://app.example.com/")
    asked: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(200, content=content)

    options = QStash(url="http://page.test", token="e30=", verify=False, transport=httpx.MockTransport(answer))
    flow = Batchflow(options)

    @flow.serve("/function")
    async def function(ctx: WorkflowContext[None]) -> None: ...

    sentence = "what answers at http://page.test is not QStash; check QSTASH_URL"
    async with flow:
        for ask in (
            lambda: function.trigger(None),
            flow.runs,
            flow.schedules.list,
            flow.dead_letters.list,
            flow.limits.list,
        ):
            with pytest.raises(StoreUnavailable, match=sentence):
                await ask()
    assert asked


async def test_an_address_that_httpx_cannot_read_is_told_in_one_sentence() -> None:
    rest = QStashRest("http://qstash.test", "a token", transport=httpx.MockTransport(lambda _: httpx.Response(200)))
    with pytest.raises(StoreUnavailable, match=r"QStash at http://qstash.test does not answer \(InvalidURL\)"):
        await rest.get("/v2/\x00")
