"""The HTTP client that pushes posts: to public addresses only, without redirects, cookies or headers of its own."""

import re
from asyncio import Semaphore, timeout
from base64 import b64encode
from dataclasses import dataclass, field
from functools import lru_cache
from ssl import SSLCertVerificationError, SSLContext, SSLError
from typing import TYPE_CHECKING, NamedTuple, Protocol

from batchflow.core.call import printable_url
from batchflow.core.duration import humanize_duration
from batchflow.engine.http_clients import os_reason
from batchflow.engine.push_connection import (
    Connections,
    Disconnected,
    Origin,
    RefusedAddress,
    Resolve,
    UnknownHost,
    request_bytes,
)
from batchflow.engine.push_proxy import ProxyClient, ProxyFailed
from batchflow.engine.push_response import BrokenResponse, PushResponse
from batchflow.engine.push_settings import PushSettings
from batchflow.wire.envelope import HeaderPairs

if TYPE_CHECKING:
    from yarl import URL

MAX_CONNECTIONS = 100
"""The most requests to one host at a time; further ones wait, and their time limit begins after that."""

MAX_RESPONSE_BYTES = 1_000_000
"""The bytes of a response's body that are kept; the rest is not read."""

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
        """Send a request and read the response.

        It is sent a second time, within the same time limit, only if the server has closed a kept connection without
        an answer. The server may then have seen it, with the same headers, and so the same `Upstash-Message-Id`.

        Raises:
            PushError: there is no response.
        """
        ...

    async def close(self) -> None:
        """Close the connections; safe to repeat."""
        ...


@dataclass(slots=True)
class _Places:
    """The requests to one host: those that are sent, and all `users`, which may wait."""

    free: Semaphore = field(default_factory=lambda: Semaphore(MAX_CONNECTIONS))
    users: int = 0


class _Route(NamedTuple):
    """The way of the requests to a URL: the server to connect to, and what the request names."""

    url: "URL"
    origin: Origin
    target: str
    host: str
    credentials: str | None


class HttpPushClient:
    """Sends requests over connections that stay open, at most `MAX_CONNECTIONS` to one host.

    Redirects are not followed, cookies are not kept, bodies are not decoded, and no header is added but those that
    HTTP needs. `resolve` replaces the resolution of names by the system. Of the body of a response `max_bytes` are
    read. With `sends_again=False` a request that meets the end of a kept connection is not sent a second time.
    """

    def __init__(
        self,
        settings: PushSettings,
        *,
        resolve: Resolve | None = None,
        max_bytes: int = MAX_RESPONSE_BYTES,
        sends_again: bool = True,
    ) -> None:
        self._settings = settings
        self._max_bytes = max_bytes
        self._connections = Connections(settings.allows, _certificates, resolve, sends_again=sends_again)
        self._proxy = None if settings.proxy is None else ProxyClient(settings.proxy, _certificates())
        self._places: dict[Origin, _Places] = {}
        self._route = lru_cache(maxsize=1024)(self._find_route)

    async def send(self, request: PushRequest) -> PushResponse:
        """See the port."""
        route = self._route(request.url)
        places = self._places.get(route.origin) or self._places.setdefault(route.origin, _Places())
        places.users += 1
        try:
            async with places.free:
                return await self._send_in_time(request, route)
        finally:
            places.users -= 1
            if not places.users:
                del self._places[route.origin]

    async def close(self) -> None:
        """See the port."""
        self._connections.close()
        if self._proxy is not None:
            await self._proxy.close()

    async def _send_in_time(self, request: PushRequest, route: _Route) -> PushResponse:
        limit = timeout(request.timeout_ms / 1000)
        try:
            async with limit:
                return await self._exchange(request, route)
        except Exception as error:
            if limit.expired():
                within = humanize_duration(request.timeout_ms)
                raise PushError(f"no answer of {printable_url(request.url)} within {within}", status=504) from error
            raise _push_error(error, request) from error

    async def _exchange(self, request: PushRequest, route: _Route) -> PushResponse:
        method, _, headers, body, _ = request
        if self._proxy is not None and not route.origin.trusted:
            return await self._proxy.exchange(route.url, method, headers, body, self._max_bytes)
        if route.credentials is not None and all(name.lower() != "authorization" for name, _ in headers):
            headers = (("Authorization", route.credentials), *headers)
        content = request_bytes(method, route.target, route.host, headers, body)
        return await self._connections.exchange(route.origin, content, method, self._max_bytes)

    def _find_route(self, text: str) -> _Route:
        # Imported when used: most programs push nothing.
        from yarl import URL

        if _NOT_OF_URLS.search(text):
            raise PushError(f"{printable_url(text)!r} is not a URL", final=True)
        try:
            # As it is: the signature names it so, and its parts may be signed too.
            url = URL(text, encoded=text.isascii())
            host, port, name = url.host, url.port, url.host_port_subcomponent
        except ValueError as error:
            raise PushError(f"{printable_url(text)} is not a URL", final=True) from error
        if not host or not port or name is None or url.scheme not in ("http", "https"):
            raise PushError(f"{printable_url(text)} is not the URL of a server", final=True)
        settings = self._settings
        other = settings.egress.get(f"{host}:{port}") or settings.egress.get(host)
        if other is not None:
            to = URL(other)
            origin = Origin(to.host or "", to.port or 80, tls=False, trusted=True)
        else:
            origin = Origin(host, port, tls=url.scheme == "https")
            if self._proxy is not None and _is_address(host) and not settings.allows(host):
                raise _refused(text)
        return _Route(url, origin, url.raw_path_qs, name, _credentials(url))


@lru_cache(maxsize=1)
def _certificates() -> SSLContext:
    """The certificates of calls; to read them takes a fifth of a second."""
    import httpx

    return httpx.create_ssl_context()


def _credentials(url: "URL") -> str | None:
    if url.user is None and url.password is None:
        return None
    pair = f"{url.user or ''}:{url.password or ''}"
    return f"Basic {b64encode(pair.encode()).decode()}"


def _is_address(host: str) -> bool:
    """True for a host that is an address in any of the forms that systems know, such as 127.1 and 0x7f000001."""
    return ":" in host or re.fullmatch(r"(0x[0-9a-f]*|\d+)(\.(0x[0-9a-f]*|\d+))*\.?", host, re.IGNORECASE) is not None


def _refused(url: str) -> PushError:
    return PushError(
        f"{printable_url(url)} was not asked: its address is not public; the server may allow its network", final=True
    )


def _push_error(error: Exception, request: PushRequest) -> PushError:
    url = printable_url(request.url)
    match error:
        case RefusedAddress():
            return _refused(request.url)
        case UnknownHost():
            return PushError(f"no answer of {url}: its host is not known")
        case SSLCertVerificationError():
            return PushError(f"no answer of {url}: its certificate is not valid")
        case SSLError():
            return PushError(f"no answer of {url}: no secure connection can be made")
        case Disconnected():
            return PushError(f"no answer of {url}: it has closed the connection")
        case TimeoutError():
            return PushError(f"no answer of {url}: it has not accepted a connection in time", status=504)
        case BrokenResponse():
            return PushError(f"the answer of {url} cannot be read")
        case ProxyFailed():
            return PushError(f"no answer of {url}: the proxy of the server fails")
        case ValueError():
            return PushError(f"{url} was not asked: a header of the request is not valid", final=True)
        case _:
            return PushError(f"no answer of {url}: {os_reason(error) or type(error).__name__}")
