"""Connections that stay open: they are used again, and neither a late end nor a stray answer harms a request."""

import asyncio
import contextlib
import itertools
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import pytest
import trustme

from batchflow.engine import push_client, push_connection, push_proxy
from batchflow.engine.push_client import HttpPushClient, PushError, PushRequest
from batchflow.engine.push_settings import PushSettings
from tests.waiting import wait_until

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int, int], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Server:
    """Calls `answer` with the numbers of the connection and of the request on it."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.url = ""
        self.requests: list[tuple[int, bytes]] = []
        self.closed = 0
        self.tasks = set[asyncio.Task[None]]()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer in a task that the end of the block waits for."""
        self.tasks.add(asyncio.create_task(self._serve(reader, writer, len(self.tasks))))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            try:
                for count in itertools.count():
                    self.requests.append((number, await reader.readuntil(b"\r\n\r\n")))
                    await self.answer(reader, writer, number, count)
            finally:
                self.closed += 1
                writer.close()
                await writer.wait_closed()


Pushing: TypeAlias = AsyncGenerator[tuple[Server, HttpPushClient]]


@asynccontextmanager
async def pushing(answer: Answer, context: ssl.SSLContext | None = None) -> Pushing:
    server = Server(answer)
    listening = await asyncio.start_server(server.accept, "127.0.0.1", 0, ssl=context)
    scheme = "http" if context is None else "https"
    server.url = f"{scheme}://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
    client = HttpPushClient(PushSettings.of(allow="loopback"))
    try:
        yield server, client
    finally:
        await client.close()
        for task in server.tasks:
            task.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)
        listening.close()
        await listening.wait_closed()


def trusted_context(monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The TLS of a server whose certificate is valid for clients that are made after this."""
    authority, of_server = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(of_server)  # pyright: ignore[reportUnknownMemberType]
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    monkeypatch.setattr(push_client, "_certificates", lambda: trusting)
    return of_server


async def push(client: HttpPushClient, url: str, *, ms: int = 5_000) -> int:
    return (await client.send(PushRequest("GET", url, (), b"", ms))).status


async def say_ok(_reader: object, writer: asyncio.StreamWriter, _number: int, _count: int) -> None:
    writer.write(OK)


# Requests after each other share a connection, which is closed with the client.
async def test_a_connection_is_used_again() -> None:
    async with pushing(say_ok) as (server, client):
        assert [await push(client, server.url) for _ in range(3)] == [200] * 3
        assert {number for number, _ in server.requests} == {0}
        await client.close()
        await wait_until(lambda: server.closed == 1, description="the connection is closed")


# An idle connection is closed before servers close theirs.
async def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_connection, "KEEP_ALIVE_S", 0.02)
    async with pushing(say_ok) as (server, client):
        await push(client, server.url)
        await wait_until(lambda: server.closed == 1, description="the connection is closed")
        assert await push(client, server.url) == 200


# A request that meets the end of a kept connection is sent again on a new one; one that has begun to be answered not.
@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 2"])
async def test_a_request_that_meets_the_end_of_a_connection_is_sent_again(part: bytes) -> None:
    async def answer(_: object, writer: asyncio.StreamWriter, number: int, count: int) -> None:
        if (number, count) == (0, 1):
            writer.write(part)
            raise ConnectionError
        writer.write(OK)

    async with pushing(answer) as (server, client):
        assert await push(client, server.url) == 200
        if part:
            with pytest.raises(PushError, match="it has closed the connection"):
                await push(client, server.url)
        else:
            assert await push(client, server.url) == 200
        assert len(server.requests) == (2 if part else 3)


# A server that ends each connection right after its answer, without a word, sees each request once.
@pytest.mark.parametrize("with_tls", [False, True])
async def test_connections_that_are_closed_while_idle_cost_no_attempt(
    with_tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(_: object, writer: asyncio.StreamWriter, _number: int, _count: int) -> None:
        writer.write(OK)
        raise ConnectionError

    async with pushing(answer, trusted_context(monkeypatch) if with_tls else None) as (server, client):
        assert [await push(client, server.url) for _ in range(20)] == [200] * 20
        assert [number for number, _ in server.requests] == list(range(20))


# Over TLS too: of requests that meet the end of a connection at the same time, each is sent once more.
@pytest.mark.parametrize("with_tls", [False, True])
async def test_requests_that_meet_the_end_together_are_sent_again(
    with_tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = asyncio.Barrier(2)

    async def answer(_: object, writer: asyncio.StreamWriter, number: int, count: int) -> None:
        if count:
            writer.transport.abort()
            raise ConnectionError
        if number < 2:
            await both.wait()
        writer.write(OK)

    async with pushing(answer, trusted_context(monkeypatch) if with_tls else None) as (server, client):
        for _ in range(2):
            assert await asyncio.gather(*(push(client, server.url) for _ in range(2))) == [200] * 2
        assert sorted(number for number, _ in server.requests) == [0, 0, 1, 1, 2, 3]


# The second sending is the last one, and has what is left of the time limit.
@pytest.mark.parametrize("is_silent", [False, True])
async def test_a_request_is_sent_at_most_twice(is_silent: bool) -> None:
    async def answer(_: object, writer: asyncio.StreamWriter, number: int, count: int) -> None:
        if number and is_silent:
            await asyncio.Event().wait()
        if number or count:
            raise ConnectionError
        writer.write(OK)

    async with pushing(answer) as (server, client):
        assert await push(client, server.url) == 200
        with pytest.raises(PushError, match="within 200ms" if is_silent else "it has closed the connection"):
            await push(client, server.url, ms=200)
        assert [number for number, _ in server.requests] == [0, 0, 1]


# Connections to a proxy are closed as early.
async def test_an_idle_connection_to_a_proxy_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_proxy, "KEEP_ALIVE_S", 0.02)
    async with pushing(say_ok) as (server, _):
        client = HttpPushClient(PushSettings.of(egress=f"proxy={server.url}"))
        assert await push(client, "http://nowhere.invalid/") == 200
        await wait_until(lambda: server.closed == 1, description="the connection is closed")
        await client.close()


# A new connection that ends without an answer is a failure: the request is not sent twice.
async def test_a_request_on_a_new_connection_is_sent_once() -> None:
    async def answer(*_: object) -> None:
        raise ConnectionError

    async with pushing(answer) as (server, client):
        with pytest.raises(PushError, match="it has closed the connection"):
            await push(client, server.url)
        assert len(server.requests) == 1


# An answer that nobody has asked for is never that of the next request.
async def test_a_stray_answer_is_of_no_request() -> None:
    async def answer(_: object, writer: asyncio.StreamWriter, number: int, _count: int) -> None:
        writer.write(OK + (b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n" if number == 0 else b""))

    async with pushing(answer) as (server, client):
        assert [await push(client, server.url) for _ in range(2)] == [200, 200]
        assert [number for number, _ in server.requests] == [0, 1]


# A request that is given up closes its connection: its answer is not that of another one.
async def test_a_late_answer_is_of_no_request() -> None:
    async def answer(_: object, writer: asyncio.StreamWriter, number: int, count: int) -> None:
        if (number, count) == (0, 0):
            await asyncio.Event().wait()
        writer.write(OK)

    async with pushing(answer) as (server, client):
        with pytest.raises(PushError, match="within 500ms"):
            await push(client, server.url, ms=500)
        assert await push(client, server.url) == 200
        assert [number for number, _ in server.requests] == [0, 1]


# Over TLS it is the same, with a certificate that is valid.
async def test_connections_have_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pushing(say_ok, trusted_context(monkeypatch)) as (server, client):
        assert [await push(client, server.url) for _ in range(2)] == [200] * 2
        assert {number for number, _ in server.requests} == {0}


# The user and the password of a URL are sent as HTTP wants them.
async def test_the_password_of_a_url_is_a_header() -> None:
    async with pushing(say_ok) as (server, client):
        await push(client, server.url.replace("//", "//me:p%40ss@"))
    (_, head) = server.requests[0]
    assert b"Authorization: Basic bWU6cEBzcw==\r\n" in head
    assert b"me:" not in head
