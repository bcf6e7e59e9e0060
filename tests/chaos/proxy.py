"""What stands between the workers and the server, and does to their connections what networks do."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from enum import Enum, auto
from typing import Any

SCRIPT = b"FCALL"
CLAIMS = b'"claim"'
LATE_BY = 2


class Trick(Enum):
    """What is done to the next request of a line."""

    AFTER = auto()
    """It goes through whole, and its connection is cut before the answer comes."""
    INSIDE = auto()
    """Half of it goes through."""
    LATE = auto()
    """One that claims goes through when who asked has given up, is connected again, and has claimed more."""


def is_whole(request: bytes) -> bool:
    """Whether a request is there to its end, and not only its beginning."""
    try:
        end = request.index(b"\r\n")
        at = end + 2
        for _ in range(int(request[1:end])):
            end = request.index(b"\r\n", at)
            at = end + 2 + int(request[at + 1 : end]) + 2
    except ValueError:
        return False
    return at <= len(request)


class Link(asyncio.Protocol):
    """One connection of a worker, and the one to the server that goes with it."""

    def __init__(self, line: "Line") -> None:
        self._line = line
        self._client: asyncio.Transport | None = None
        self._server: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._held: bytearray | None = None
        self._answers: deque[tuple[float, bytes]] = deque()
        self._deaf = False
        self._claims = False
        self._on_its_own = False

    # The worker's end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._client = transport
        self._line.links.add(self)
        self._line.spawn(self._connect())

    def data_received(self, data: bytes) -> None:
        if self._server is None:
            self._early.append(data)
            return
        self._claims = self._claims or CLAIMS in data
        if self._held is not None:
            self._hold(data)
            return
        trick = self._line.trick
        if trick is None or SCRIPT not in data[:64] or (trick is Trick.LATE and CLAIMS not in data):
            self._server.write(data)
            return
        self._line.trick = None
        match trick:
            case Trick.AFTER:
                self._deaf = True
                self._server.write(data)
            case Trick.INSIDE:
                self._server.write(data[: len(data) // 2])
                self._line.done()
                # What was written has to leave before it is cut.
                self._server.close()
                self.cut()
            case Trick.LATE:
                self._held = bytearray()
                self._hold(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._line.links.discard(self)
        if self._deaf:
            self._line.again(Trick.AFTER)
        if self._held is not None and not self._on_its_own:
            self._line.again(Trick.LATE)
        self._hang_up()

    # The server's end

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: _Back(self), self._line.server[0], self._line.server[1]
            )
        except OSError:
            self.cut()

    def answers(self, transport: asyncio.Transport) -> None:
        """The server is there."""
        self._server = transport
        if self._client is None or self._client.is_closing():
            transport.abort()
            return
        early, self._early = self._early, []
        for data in early:
            self.data_received(data)

    def answered(self, data: bytes) -> None:
        """The server has sent something."""
        if self._deaf:
            self._deaf = False
            self._line.done()
            self.cut()
        elif self._held is None:
            if self._claims:
                self._claims = False
                self._line.claimed()
            self._hand_on(data)
        elif self._server is not None:
            # What came late is carried out, and nobody hears of it.
            self._server.close()

    def hung_up(self) -> None:
        """The server is gone."""
        self._server = None
        self.cut()

    def _hand_on(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._answers.append((loop.time() + self._line.delay_s, data))
        if len(self._answers) == 1:
            self._answer()

    def _answer(self) -> None:
        """Hand on what is due, in the order it came in."""
        loop = asyncio.get_running_loop()
        while self._answers:
            due, data = self._answers[0]
            if due > loop.time():
                loop.call_at(due, self._answer)
                return
            self._answers.popleft()
            if self._client is not None and not self._client.is_closing():
                self._client.write(data)

    def _hold(self, data: bytes) -> None:
        assert self._held is not None
        self._held += data
        if is_whole(request := bytes(self._held)):
            self._on_its_own = True
            server = self._server

            def deliver() -> None:
                if server is not None and not server.is_closing():
                    server.write(request)
                    self._line.done()
                else:
                    self._line.done(happened=False)

            self._line.after_claims(LATE_BY, deliver)
            self.cut()

    def cut(self) -> None:
        """Both ends are gone, without a word; what is held goes on its own way."""
        if self._client is not None:
            self._client.abort()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._server is not None and not self._on_its_own and not self._server.is_closing():
            self._server.abort()


class _Back(asyncio.Protocol):
    """The server's end of a link."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._link.answers(transport)

    def data_received(self, data: bytes) -> None:
        self._link.answered(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.hung_up()


class Line:
    """The way of one worker to the server."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.server = server
        self.port = 0
        self.links: set[Link] = set()
        self.trick: Trick | None = None
        self.delay_s = 0.0
        self._done: asyncio.Future[bool] | None = None
        self._waiting: tuple[int, Callable[[], None]] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen on a port of its own."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(lambda: Link(self), "127.0.0.1", 0)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Nobody comes through any more."""
        if self._listening is not None:
            self._listening.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """What a worker is given in place of the server's."""
        return f"redis://127.0.0.1:{self.port}"

    def cut(self) -> int:
        """Cut what is connected now; how many there were."""
        links = tuple(self.links)
        for link in links:
            link.cut()
        return len(links)

    async def play(self, trick: Trick) -> bool:
        """Do this to the next request, and return once it has happened; False when something else came in between."""
        self._done = asyncio.get_running_loop().create_future()
        self.trick = trick
        return await self._done

    def again(self, trick: Trick) -> None:
        """Something else came in between; the next request will do."""
        if self._done is not None and not self._done.done():
            self.trick = trick

    def done(self, *, happened: bool = True) -> None:
        """The trick has happened."""
        if self._done is not None and not self._done.done():
            self._done.set_result(happened)

    def claimed(self) -> None:
        """The answer of a claim has come through."""
        if self._waiting is not None:
            left, act = self._waiting
            self._waiting = (left - 1, act) if left > 1 else None
            if left <= 1:
                act()

    def after_claims(self, count: int, act: Callable[[], None]) -> None:
        """Call `act` once so many further claims have been answered."""
        self._waiting = count, act

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Have it done meanwhile."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
