"""The HTTP clients of calls, made from the proxies and certificates that the environment names."""

import logging
import os
from contextvars import ContextVar
from importlib.util import find_spec
from ssl import SSLError
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.parse import urlsplit

from batchflow.core.call import printable_url
from batchflow.errors import NonRetryable

if TYPE_CHECKING:
    import httpx

_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


class HttpClients(NamedTuple):
    """The clients of all calls: one that keeps connections open, and one that makes a new connection each time."""

    pooled: "httpx.AsyncClient"
    fresh: "httpx.AsyncClient"

    @classmethod
    def open(cls) -> "HttpClients":
        """Make them from the environment's proxies and certificates.

        Raises:
            NonRetryable: the environment names proxies or certificates that cannot be used.
        """
        # Imported on first use: a program without calls needs neither.
        from http.cookiejar import CookieJar, DefaultCookiePolicy

        import httpx

        for logger in (logging.getLogger("httpx"), logging.getLogger("httpcore.http11")):
            if _hide_secrets not in logger.filters:
                logger.addFilter(_hide_secrets)
        try:
            certificates = httpx.create_ssl_context()
        except OSError as error:
            name = _set_variable("SSL_CERT_FILE", "SSL_CERT_DIR")
            raise NonRetryable(
                f"no call can be made: {name} names {os.environ.get(name)}, which has no certificates that can be read "
                f"({os_reason(error) or type(error).__name__})"
            ) from error
        _check_proxies()

        def client(kept: int) -> httpx.AsyncClient:
            return httpx.AsyncClient(
                timeout=None,
                verify=certificates,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=kept),
                # Takes no cookie and returns none: those of one run are not for another.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            )

        return cls(client(100), client(0))

    async def close(self) -> None:
        """Close all connections."""
        await self.pooled.aclose()
        await self.fresh.aclose()


def _check_proxies() -> None:
    # Late: it imports a client of its own, with all that a mail is made of.
    from urllib.request import getproxies

    proxies = getproxies()
    for kind in ("http", "https", "all"):
        if not (value := proxies.get(kind)):
            continue
        name = _set_variable(f"{kind}_proxy", f"{kind.upper()}_PROXY")
        try:
            parts = urlsplit(value if "://" in value else f"http://{value}")
            port = parts.port
        except ValueError:
            raise NonRetryable(f"no call can be made: {name} is not a URL; write http://host:port") from None
        proxy = f"{parts.scheme}://{parts.hostname}{f':{port}' if port else ''}"
        if not parts.hostname or port == 0 or parts.scheme not in _PROXY_SCHEMES:
            raise NonRetryable(
                f"no call can be made: {name} names {proxy}, which is not the URL of a proxy; write http://host:port"
            )
        if parts.scheme.startswith("socks") and find_spec("socksio") is None:
            raise NonRetryable(
                f"no call can be made: {name} names the SOCKS proxy {proxy}, which needs the package socksio; "
                "install 'httpx[socks]'"
            )


def _set_variable(*names: str) -> str:
    """The first of these environment variables that is set."""
    return next((name for name in names if os.environ.get(name)), names[-1])


def proxy_variable(scheme: str) -> str:
    """The environment variable that names the proxy for URLs of this scheme."""
    return _set_variable(f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY")


IS_CALL: ContextVar[bool] = ContextVar("is_call", default=False)
"""True in the task of a call."""


def _hide_secrets(record: logging.LogRecord) -> bool:
    """Hide passwords and queries of URLs in the client's lines about calls; False for the headers of answers."""
    if not IS_CALL.get():
        return True
    if isinstance(record.args, tuple):
        record.args = tuple(printable_url(str(it)) if _is_url(it) else it for it in record.args)
    return not str(record.msg).startswith("receive_response_headers.complete")


def _is_url(value: object) -> bool:
    return type(value).__module__.startswith("httpx") and type(value).__name__ == "URL"


def os_reason(error: BaseException) -> str:
    """The reason of the system for an error or its cause, such as "Connection refused"; else an empty text."""
    left: list[BaseException] = [error]
    while left:
        at = left.pop(0)
        if isinstance(at, OSError) and at.errno is not None and not isinstance(at, SSLError):
            return os.strerror(at.errno) if at.errno > 0 else at.strerror or ""
        if isinstance(at, BaseExceptionGroup):
            left += cast("BaseExceptionGroup[BaseException]", at).exceptions
        if (cause := at.__cause__ or at.__context__) is not None:
            left.append(cause)
    return ""
