"""The proxy does to connections what it says: seen from both of their ends."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from tests.chaos.proxy import Line, Trick, is_whole
from tests.waiting import wait_until


def request(text: str) -> bytes:
    """A call of the script with this argument."""
    parts = ["FCALL", "0123", text]
    return "".join([f"*{len(parts)}\r\n", *(f"${len(part)}\r\n{part}\r\n" for part in parts)]).encode()


class Server:
    """Remembers what it is sent, and answers each whole request."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.connected = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        came = bytearray()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1_000):
                came += data
                if is_whole(bytes(came)):
                    self.got.append(bytes(came))
                    came.clear()
                    writer.write(b"+%d\r\n" % len(self.got))
        if came:
            self.got.append(bytes(came))
        writer.close()
        self.connected -= 1


@asynccontextmanager
async def lined() -> AsyncGenerator[tuple[Line, Server]]:
    """A line to a server."""
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    line = Line(("127.0.0.1", listening.sockets[0].getsockname()[1]))
    await line.open()
    try:
        yield line, server
    finally:
        await line.close()
        await wait_until(lambda: not server.connected, description="all connections are gone")
        listening.close()


async def asked(line: Line, text: str) -> bytes:
    """What comes back on a new connection; nothing where it is cut."""
    reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
    try:
        writer.write(request(text))
        async with asyncio.timeout(30):
            return await reader.read(100)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def test_a_whole_request_is_known_from_its_beginning() -> None:
    """However it is cut."""
    whole = request('["claim"]\r\n')
    assert is_whole(whole)
    assert not any(is_whole(whole[:length]) for length in range(len(whole)))


@pytest.mark.parametrize(
    ("trick", "arrives"),
    [(Trick.AFTER, request('"claim"')), (Trick.INSIDE, request('"claim"')[: len(request('"claim"')) // 2])],
)
async def test_a_request_is_cut_from_its_answer(trick: Trick, arrives: bytes) -> None:
    """It arrives whole, or half; who asked hears nothing, and the next one is answered."""
    async with lined() as (line, server):
        playing = asyncio.create_task(line.play(trick))
        await asyncio.sleep(0)
        assert await asked(line, '"claim"') == b""
        assert await playing
        await wait_until(lambda: server.got == [arrives], description="it arrives")
        assert await asked(line, "next") == b"+2\r\n"


async def test_a_late_claim_arrives_after_those_that_follow_it() -> None:
    """Who asked hears nothing of it."""
    async with lined() as (line, server):
        playing = asyncio.create_task(line.play(Trick.LATE))
        await asyncio.sleep(0)
        assert await asked(line, '"claim"') == b""
        for number, text in enumerate(('"claim",1', "other", "other", '"claim",2'), 1):
            assert await asked(line, text) == b"+%d\r\n" % number
        assert await playing
        await wait_until(lambda: len(server.got) == 5, description="it arrives")
        assert server.got[-1] == request('"claim"')


async def test_what_is_delayed_keeps_its_order() -> None:
    """Also when the line is quick again."""
    async with lined() as (line, server):
        reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
        line.delay_s = 0.2
        writer.write(request("1"))
        await wait_until(lambda: len(server.got) == 1, description="it arrives")
        line.delay_s = 0.0
        writer.write(request("2"))
        assert await reader.readexactly(8) == b"+1\r\n+2\r\n"
        writer.close()


async def test_cutting_ends_all_connections_there_are() -> None:
    """And those that are made afterwards stand."""
    async with lined() as (line, _):
        readers = [(await asyncio.open_connection("127.0.0.1", line.port)) for _ in range(2)]
        await wait_until(lambda: len(line.links) == 2, description="both are there")
        assert line.cut() == 2
        for reader, writer in readers:
            with pytest.raises(ConnectionResetError):
                if not await reader.read(1):
                    raise ConnectionResetError
            writer.close()
        assert await asked(line, "next") == b"+1\r\n"
