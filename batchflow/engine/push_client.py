"""The HTTP client that pushes posts: to public addresses only, without redirects, cookies or headers of its own."""

import re
import socket
from asyncio import Semaphore, timeout
from dataclasses import dataclass, field
from functools import lru_cache
from ssl import SSLContext, SSLError
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from batchflow.core.call import printable_url
from batchflow.core.duration import humanize_duration
from batchflow.engine.http_clients import os_reason
from batchflow.engine.push_settings import PushSettings
from batchflow.wire.envelope import HeaderPairs

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from aiohttp.abc import AbstractResolver
    from yarl import URL

MAX_CONNECTIONS = 100
"""The most requests to one host at a time; further ones wait, and their time limit begins after that."""

MAX_RESPONSE_BYTES = 1_000_000
"""The bytes of a response's body that are kept; the rest is not read."""

_MAX_HEADER_BYTES = 65_536
_CONNECT_S = 30.0
# Below the 5 s of uvicorn and node: a request must not meet the end of an idle connection.
_KEEP_ALIVE_S = 4.0
# They would split the request, and no URL has them.
_NOT_OF_URLS = re.compile(r"[\x00-\x20\x7f]")


class PushRequest(NamedTuple):
    """A request to send. `timeout_ms` is the time in which the whole response has to be there."""

    method: str
    url: str
    headers: HeaderPairs
    body: bytes
    timeout_ms: int

    def __repr__(self) -> str:
        # Its headers and body may be secret.
        return f"PushRequest({self.method} {printable_url(self.url)})"


class PushResponse(NamedTuple):
    """A response with any status. Its body is cut after `MAX_RESPONSE_BYTES`."""

    status: int
    headers: HeaderPairs = ()
    body: bytes = b""

    def __repr__(self) -> str:
        return f"PushResponse({self.status}, {len(self.body)} bytes)"


class PushError(Exception):
    """There is no response. The message is a sentence without secrets.

    `status` stands for the one of the response: 503, or 504 if the time was over. With `final` no retry helps.
    """

    def __init__(self, sentence: str, *, status: int = 503, final: bool = False) -> None:
        super().__init__(sentence)
        self.status = status
        self.final = final


class PushClient(Protocol):
    """Sends requests; tests replace it."""

    async def send(self, request: PushRequest) -> PushResponse:
        """Send a request once and read the response.

        Raises:
            PushError: there is no response.
        """
        ...

    async def close(self) -> None:
        """Close the connections; safe to repeat."""
        ...


class _RefusedAddress(OSError):
    """An address is not allowed."""

    def __str__(self) -> str:
        # The same for all: aiohttp forgets the type of different ones.
        return "refused"


@dataclass(slots=True)
class _Places:
    """The requests to one host: those that are sent, and all `users`, which may wait."""

    free: Semaphore = field(default_factory=lambda: Semaphore(MAX_CONNECTIONS))
    users: int = 0


class _Sessions(NamedTuple):
    """`guarded` connects to addresses that are allowed, `trusted` to the servers of the settings."""

    guarded: "ClientSession"
    trusted: "ClientSession"


class _Route(NamedTuple):
    """The way of the requests to a URL: the URL to ask, a Host header if it is of another host, and a proxy."""

    url: "URL"
    origin: str
    host: str | None = None
    proxy: str | None = None

    @property
    def is_trusted(self) -> bool:
        return self.host is not None or self.proxy is not None


class HttpPushClient:
    """Sends requests over connections that stay open, at most `MAX_CONNECTIONS` to one host.

    Redirects are not followed, cookies are not kept, bodies are not decoded, and no header is added but those that
    HTTP needs. Each connection is checked against the settings by the address that it is about to be made to, so that
    no name can be resolved to another one after the check. `resolver` replaces the one of the system.
    """

    def __init__(self, settings: PushSettings, *, resolver: "AbstractResolver | None" = None) -> None:
        self._settings = settings
        self._resolver = resolver
        self._sessions: _Sessions | None = None
        self._places: dict[str, _Places] = {}
        self._route = lru_cache(maxsize=1024)(self._find_route)

    async def send(self, request: PushRequest) -> PushResponse:
        """See the port."""
        route = self._route(request.url)
        places = self._places.get(route.origin) or self._places.setdefault(route.origin, _Places())
        places.users += 1
        try:
            async with places.free, timeout(request.timeout_ms / 1000):
                return await self._exchange(request, route)
        except PushError:
            raise
        except TimeoutError as error:
            within = humanize_duration(request.timeout_ms)
            raise PushError(f"no answer of {printable_url(request.url)} within {within}", status=504) from error
        except Exception as error:
            raise _push_error(error, request) from error
        finally:
            places.users -= 1
            if not places.users:
                del self._places[route.origin]

    async def close(self) -> None:
        """See the port."""
        sessions, self._sessions = self._sessions, None
        for session in sessions or ():
            await session.close()

    async def _exchange(self, request: PushRequest, route: _Route) -> PushResponse:
        sessions = self._sessions or self._open()
        session = sessions.trusted if route.is_trusted else sessions.guarded
        headers = request.headers if route.host is None else (("Host", route.host), *request.headers)
        async with session.request(
            request.method,
            route.url,
            data=request.body or None,
            headers=headers,
            proxy=route.proxy,
            allow_redirects=False,
        ) as response:
            body = bytearray()
            while len(body) < MAX_RESPONSE_BYTES:
                part = await response.content.read(MAX_RESPONSE_BYTES - len(body))
                if not part:
                    break
                body += part
            found = ((name.decode("latin-1"), value.decode(errors="replace")) for name, value in response.raw_headers)
            return PushResponse(response.status, tuple(found), bytes(body))

    def _open(self) -> _Sessions:
        self._sessions = _Sessions(self._session(self._guarded_socket), self._session(None))
        return self._sessions

    def _session(self, socket_factory: Any) -> "ClientSession":
        # Imported when used: most programs push nothing.
        import aiohttp

        connector = aiohttp.TCPConnector(
            ssl=_certificates(),
            limit=0,
            keepalive_timeout=_KEEP_ALIVE_S,
            resolver=self._resolver,
            socket_factory=socket_factory,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            auto_decompress=False,
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
        )

    def _guarded_socket(self, address: Any) -> socket.socket:
        """The socket of a connection to an address that was resolved; all connections are made with one."""
        family, kind, protocol, _, at = address
        if not self._settings.allows(at[0]):
            raise _RefusedAddress
        return socket.socket(family, kind, protocol)

    def _find_route(self, text: str) -> _Route:
        from yarl import URL

        if _NOT_OF_URLS.search(text):
            raise PushError(f"{printable_url(text)!r} is not a URL", final=True)
        try:
            # As it is: the signature names it so, and its parts may be signed too.
            url = URL(text, encoded=text.isascii())
            host, port, origin = url.host, url.port, str(url.origin())
        except ValueError as error:
            raise PushError(f"{printable_url(text)} is not a URL", final=True) from error
        assert host is not None
        settings = self._settings
        target = settings.egress.get(f"{host}:{port}") or settings.egress.get(host)
        if target is not None:
            other = URL(target)
            to = url.with_scheme("http").with_host(other.host or "").with_port(other.port)
            return _Route(to, str(to.origin()), host=url.host_port_subcomponent)
        if settings.proxy is not None:
            if _is_address(host) and not settings.allows(host):
                raise _refused(text)
            return _Route(url, origin, proxy=settings.proxy)
        return _Route(url, origin)


@lru_cache(maxsize=1)
def _certificates() -> SSLContext:
    """The certificates of calls; to read them takes a fifth of a second."""
    import httpx

    return httpx.create_ssl_context()


def _is_address(host: str) -> bool:
    """True for a host that is an address in any of the forms that systems know, such as 127.1 and 0x7f000001."""
    return ":" in host or re.fullmatch(r"(0x[0-9a-f]*|\d+)(\.(0x[0-9a-f]*|\d+))*\.?", host, re.IGNORECASE) is not None


def _refused(url: str) -> PushError:
    return PushError(
        f"{printable_url(url)} was not asked: its address is not public; the server may allow its network", final=True
    )


def _push_error(error: Exception, request: PushRequest) -> PushError:
    import aiohttp

    url = printable_url(request.url)
    match error:
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, _RefusedAddress):
            return _refused(request.url)
        case aiohttp.InvalidURL():
            return PushError(f"{url} is not a URL that can be asked", final=True)
        case aiohttp.ClientConnectorDNSError():
            return PushError(f"no answer of {url}: its host is not known")
        case aiohttp.ClientConnectorCertificateError():
            return PushError(f"no answer of {url}: its certificate is not valid")
        case aiohttp.ClientHttpProxyError() | aiohttp.ClientProxyConnectionError():
            return PushError(f"no answer of {url}: the proxy of the server fails")
        case aiohttp.ClientSSLError() | SSLError():
            return PushError(f"no answer of {url}: no secure connection can be made")
        case aiohttp.ServerDisconnectedError():
            return PushError(f"no answer of {url}: it has closed the connection")
        case aiohttp.ClientPayloadError() | aiohttp.ClientResponseError():
            return PushError(f"the answer of {url} cannot be read")
        case ValueError():
            return PushError(f"{url} was not asked: a header of the request is not valid", final=True)
        case _:
            return PushError(f"no answer of {url}: {os_reason(error) or type(error).__name__}")
