"""The HTTP client of the REST API of QStash: the one that a server pushes with, or httpx where it is asked for."""

from ipaddress import ip_network
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from batchflow.engine.push_client import HttpPushClient, PushClient, PushError, PushRequest
from batchflow.engine.push_response import PushResponse
from batchflow.engine.push_settings import PushSettings

if TYPE_CHECKING:
    import httpx

MAX_ANSWER_BYTES = 64 * 2**20
"""The largest answer: it has all steps of a run."""

_EVERYWHERE = PushSettings(allow=(ip_network("0.0.0.0/0"), ip_network("::/0")))


def open_client(url: str, transport: "httpx.AsyncBaseTransport | None") -> PushClient:
    """The client of one event loop for the QStash at this URL.

    A request of a general client costs as much as the rest of a step together. So only a `transport` in place of the
    network, and proxies that the environment names, are used with httpx.
    """
    if transport is not None or _has_proxy(url):
        return _HttpxClient(transport)
    # What is sent again may be recorded twice; QStash delivers the step again instead, and says so.
    return HttpPushClient(_EVERYWHERE, max_bytes=MAX_ANSWER_BYTES, sends_again=False)


def _has_proxy(url: str) -> bool:
    parts, proxies = urlsplit(url), getproxies()
    return any(it in proxies for it in (parts.scheme, "all")) and not proxy_bypass(parts.hostname or "")


class _HttpxClient:
    """See `batchflow.engine.push_client.PushClient`."""

    def __init__(self, transport: "httpx.AsyncBaseTransport | None") -> None:
        # Imported when used: it takes a tenth of a second.
        import httpx

        self._client = httpx.AsyncClient(transport=transport)

    async def send(self, request: PushRequest) -> PushResponse:
        """See the port."""
        import httpx

        method, url, headers, body, timeout_ms = request
        try:
            # A value may have any letters.
            encoded = [(name.encode(), value.encode()) for name, value in headers]
            response = await self._client.request(method, url, headers=encoded, content=body, timeout=timeout_ms / 1000)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # Its text may have the URL, which is not secret, and never the token.
            raise PushError(type(error).__name__) from error
        return PushResponse(response.status_code, tuple(response.headers.items()), response.content)

    async def close(self) -> None:
        """See the port."""
        await self._client.aclose()
