"""Pushes posts through an HTTP proxy."""

from ssl import SSLContext
from typing import TYPE_CHECKING

from batchflow.engine.push_connection import CONNECT_S, KEEP_ALIVE_S, Disconnected, UnknownHost
from batchflow.engine.push_response import MAX_HEAD_BYTES, BrokenResponse, PushResponse
from batchflow.wire.envelope import HeaderPairs

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from yarl import URL


class ProxyFailed(Exception):
    """The proxy cannot be reached, or refuses the request."""


class ProxyClient:
    """Sends requests through the proxy at a URL, as `Connections` sends them without one."""

    def __init__(self, proxy: str, certificates: SSLContext) -> None:
        self._proxy = proxy
        self._certificates = certificates
        self._session: ClientSession | None = None

    async def exchange(
        self, url: "URL", method: str, headers: HeaderPairs, body: bytes, max_bytes: int
    ) -> PushResponse:
        """Send a request and read its response.

        Raises:
            ProxyFailed: the proxy fails.
            BrokenResponse: the response is not HTTP.
            OSError: there is no connection, or no whole response.
        """
        import aiohttp

        session = self._session = self._session or self._open()
        try:
            async with session.request(
                method, url, data=body or None, headers=headers, proxy=self._proxy, allow_redirects=False
            ) as response:
                kept = bytearray()
                while len(kept) < max_bytes and (part := await response.content.read(max_bytes - len(kept))):
                    kept += part
                found = ((name.decode("latin-1"), it.decode(errors="replace")) for name, it in response.raw_headers)
                return PushResponse(response.status, tuple(found), bytes(kept))
        except (aiohttp.ClientHttpProxyError, aiohttp.ClientProxyConnectionError) as error:
            raise ProxyFailed from error
        except aiohttp.ServerDisconnectedError as error:
            raise Disconnected from error
        except aiohttp.ClientConnectorDNSError as error:
            raise UnknownHost from error
        except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError) as error:
            raise BrokenResponse from error

    async def close(self) -> None:
        """Close the connections; safe to repeat."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> "ClientSession":
        # Imported when used: most programs push nothing through a proxy.
        import aiohttp

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._certificates, limit=0, keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            auto_decompress=False,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
        )
