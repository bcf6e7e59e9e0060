"""An HTTP server on a free port that answers as it is told and notes what it was asked."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple


class Asked(NamedTuple):
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """`answers` are given one after the other, the last one from then on: status line and headers, body.

    A connection has one answer. With `keeps` it stays open after that, and its second request closes it; before that
    the server sends the bytes of `part`.
    """

    answers: list[tuple[str, bytes]]
    url: str = ""
    asked: list[Asked] = field(default_factory=list[Asked])
    silent: bool = False
    cut: bool = False
    keeps: bool = False
    part: bytes = b""
    tasks: "set[asyncio.Task[None]]" = field(default_factory=set["asyncio.Task[None]"])

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer in a task that the end of the block waits for."""
        self.tasks.add(asyncio.create_task(self._answer(reader, writer)))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._exchange(reader, writer)
            if self.keeps:
                await self._take(reader)
                writer.write(self.part)
        except asyncio.IncompleteReadError:
            pass  # the client has closed the connection
        finally:
            writer.close()
            await writer.wait_closed()

    async def _take(self, reader: asyncio.StreamReader) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = first.split(" ")
        self.asked.append(Asked(method, path, headers, body))

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._take(reader)
        if self.silent:
            await asyncio.Event().wait()
        if not self.cut:
            status, content = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            length = f"content-length: {len(content)}\r\nconnection: {'keep-alive' if self.keeps else 'close'}"
            writer.write(f"HTTP/1.1 {status}\r\n{length}\r\n\r\n".encode("latin-1") + content)
            await writer.drain()


@asynccontextmanager
async def serving(
    *answers: tuple[str, bytes], silent: bool = False, cut: bool = False, keeps: bool = False
) -> AsyncGenerator[Server]:
    """A server for the time of a block."""
    server = Server(list(answers) or [("200 OK", b"")], silent=silent, cut=cut, keeps=keeps)
    listening = await asyncio.start_server(server.accept, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    server.url = f"http://127.0.0.1:{port}"
    try:
        yield server
    finally:
        for task in server.tasks:
            task.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)
        listening.close()
        await listening.wait_closed()
