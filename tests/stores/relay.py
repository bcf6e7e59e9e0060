"""A port that leads to another one, which can be changed: what is connected stays where it is."""

import asyncio
from typing import Self


class Relay:
    """Passes bytes on, both ways, to `port_behind` as it is when somebody connects."""

    def __init__(self, port_behind: int) -> None:
        self.port_behind = port_behind
        self._server: asyncio.Server | None = None
        self._passing: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.port_behind)
        for source, target in ((reader, back), (there, writer)):
            self._passing.add(asyncio.create_task(_passed_on(source, target)))


async def _passed_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65_536):
            target.write(data)
    finally:
        target.close()
