"""Connections that push posts over HTTP/1.1, with and without TLS, and that stay open between requests.

A client of its own, since the work of a general one is more than half of the cost of a delivery.
"""

import asyncio
import re
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from ssl import SSLContext
from typing import Any, NamedTuple, TypeAlias, cast

from batchflow.engine.push_response import BrokenResponse, PushResponse, ResponseReader

KEEP_ALIVE_S = 4.0
"""The time that an idle connection is kept: less than the 5 s of uvicorn and node, whose end no request must meet."""

CONNECT_S = 10.0
"""The time in which one address of a host has to accept a connection."""

RESOLVERS = 64
"""The most hosts whose addresses are looked up at a time, each in a thread that waits."""

# All control characters but the tab.
_NOT_OF_HEADERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

AddressInfo: TypeAlias = tuple[Any, ...]
"""An address of a host, as `socket.getaddrinfo` gives it."""

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[AddressInfo]]]


class RefusedAddress(Exception):
    """None of the addresses of a host is allowed."""


class UnknownHost(OSError):
    """A host has no address."""


class Disconnected(ConnectionError):
    """The connection was closed before there was a whole response."""


class Origin(NamedTuple):
    """The server of a URL. Of a `trusted` one each address is allowed."""

    host: str
    port: int
    tls: bool
    trusted: bool = False


class Connection(asyncio.Protocol):
    """One connection, which has one request at a time."""

    def __init__(self) -> None:
        self.transport = cast("asyncio.Transport", None)
        self.is_open = True
        self.idle_since = 0.0
        self._reader: ResponseReader | None = None
        self._waiter: asyncio.Future[PushResponse] | None = None

    async def exchange(self, request: bytes, method: str, max_bytes: int) -> PushResponse:
        """Send a request and read its response; the connection may be used again if it `is_open` afterwards."""
        self._reader = ResponseReader(method, max_bytes)
        self._waiter = asyncio.get_running_loop().create_future()
        if not self.is_open:
            raise Disconnected
        self.transport.write(request)
        try:
            response = await self._waiter
        except BaseException:
            self.close()
            raise
        finally:
            self._waiter = None
        # An answer that comes before the whole request was sent leaves the rest of it behind.
        if not self._reader.keeps_connection or self.transport.get_write_buffer_size():
            self.close()
        return response

    @property
    def has_answered(self) -> bool:
        """True if a part of the response has come."""
        return self._reader is not None and self._reader.has_begun

    def close(self) -> None:
        """Close it at once."""
        self.is_open = False
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._waiter is None or self._waiter.done() or self._reader is None:
            # It answers what nobody has asked.
            self.close()
            return
        try:
            response = self._reader.feed(data)
        except BrokenResponse as error:
            self._waiter.set_exception(error)
            return
        if response is not None:
            self._waiter.set_result(response)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self.is_open = False
        if self._waiter is None or self._waiter.done() or self._reader is None:
            return
        response = self._reader.end() if exc is None else None
        if response is not None:
            self._waiter.set_result(response)
        else:
            self._waiter.set_exception(exc if isinstance(exc, OSError) else Disconnected())


class Connections:
    """The idle connections by their server, and new ones to addresses that `allows` lets through.

    Each address is checked right before the connection to it is made, so that no name can be resolved to another one
    after the check. With `sends_again` a request that meets the end of a kept connection is sent once more.
    """

    def __init__(
        self,
        allows: Callable[[str], bool],
        certificates: Callable[[], SSLContext],
        resolve: Resolve | None = None,
        *,
        sends_again: bool = True,
    ) -> None:
        self._allows = allows
        self._certificates = certificates
        self._resolve = resolve or _resolve
        self._sends_again = sends_again
        self._idle: dict[Origin, deque[Connection]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    async def exchange(self, origin: Origin, request: bytes, method: str, max_bytes: int) -> PushResponse:
        """Send a request and read its response.

        A request that meets the end of a kept connection may be sent once more on a new one, if no byte of a response
        has come: the server may then see it twice.

        Raises:
            RefusedAddress: the server has no address that is allowed.
            BrokenResponse: the response is not HTTP.
            OSError: there is no connection, or no whole response.
        """
        kept = self._take(origin)
        if kept is not None:
            try:
                return await self._use(kept, origin, request, method, max_bytes)
            except OSError:
                # The server may have closed it at this moment. A retry of the message would come much later, and count.
                if kept.has_answered or not self._sends_again:
                    raise
        return await self._use(await self._connect(origin), origin, request, method, max_bytes)

    def close(self) -> None:
        """Close the idle connections."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    async def _use(
        self, connection: Connection, origin: Origin, request: bytes, method: str, max_bytes: int
    ) -> PushResponse:
        response = await connection.exchange(request, method, max_bytes)
        if connection.is_open:
            loop = asyncio.get_running_loop()
            connection.idle_since = loop.time()
            self._idle.setdefault(origin, deque()).append(connection)
            self._sweep = self._sweep or loop.call_later(KEEP_ALIVE_S, self._close_old)
        return response

    def _take(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        oldest = asyncio.get_running_loop().time() - KEEP_ALIVE_S
        while idle:
            # The one that was used last is the least likely to be closed by the server.
            connection = idle.pop()
            if connection.is_open and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    def _close_old(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - KEEP_ALIVE_S
        for origin, idle in list(self._idle.items()):
            while idle and (not idle[0].is_open or idle[0].idle_since <= oldest):
                idle.popleft().close()
            if not idle:
                del self._idle[origin]
        self._sweep = loop.call_later(KEEP_ALIVE_S, self._close_old) if self._idle else None

    async def _connect(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            found = await self._resolve(origin.host, origin.port)
        except (OSError, UnicodeError) as error:
            raise UnknownHost from error
        allowed = [it for it in found if origin.trusted or self._allows(it[4][0])]
        if not allowed:
            raise RefusedAddress if found else UnknownHost
        connected = await _connect(allowed)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = self._certificates() if origin.tls else None
        name = origin.host if origin.tls else None
        _, connection = await loop.create_connection(Connection, sock=connected, ssl=context, server_hostname=name)
        return connection


async def _connect(addresses: Sequence[AddressInfo]) -> socket.socket:
    """A connection to the first of these addresses that accepts one."""
    first: OSError | None = None
    for family, kind, protocol, _, address in addresses:
        connecting = socket.socket(family, kind, protocol)
        try:
            connecting.setblocking(False)
            async with asyncio.timeout(CONNECT_S):
                await asyncio.get_running_loop().sock_connect(connecting, address)
        except OSError as error:
            connecting.close()
            first = first or error
        except BaseException:
            connecting.close()
            raise
        else:
            return connecting
    raise first or UnknownHost()


async def _resolve(host: str, port: int) -> Sequence[AddressInfo]:
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    return await asyncio.get_running_loop().run_in_executor(_resolvers(), look_up)


@lru_cache(maxsize=1)
def _resolvers() -> ThreadPoolExecutor:
    # Those of the event loop are few: some names whose name servers are silent would keep all others waiting.
    return ThreadPoolExecutor(RESOLVERS, thread_name_prefix="batchflow-resolver")


def request_bytes(method: str, target: str, host: str, headers: Sequence[tuple[str, str]], body: bytes) -> bytes:
    """A request as it is sent.

    Raises:
        ValueError: a header would be another request.
    """
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers)]
    if body or method not in ("GET", "HEAD", "OPTIONS"):
        lines.append(f"Content-Length: {len(body)}")
    head = "\t".join(lines)
    if _NOT_OF_HEADERS.search(head):
        raise ValueError("a header has a control character")
    return "\r\n".join((*lines, "", "")).encode() + body
