"""The rules that decide which requests may reach a route: the token, loopback for operators, a browser's origin."""

import re
from collections.abc import Collection, Iterable
from hmac import compare_digest
from ipaddress import ip_address
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials

from batchflow.errors import InputError
from batchflow.serve.app_url import origin_of

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_IN_PROCESS = "testclient"  # the client of Starlette's TestClient; a server has the address of a socket there
_FORWARDING = (
    *("forwarded", "x-forwarded", "x-real-ip", "x-proxy", "via", "cf-", "true-client-ip", "client-ip"),
    *("x-client-ip", "x-cluster-client-ip", "x-originating-", "x-remote-", "x-envoy-", "x-amz", "x-azure-", "x-arr-"),
    *("x-host", "x-scheme", "x-rewrite-", "x-original", "cdn-loop"),
    *("x-appengine-", "x-cloud-trace-context", "x-vercel-", "fly-", "fastly-"),
)
"""The beginnings of the headers by which proxies are known."""

_NOT_LOOPBACK = (
    "this route is for operators, and without a token it answers only requests from this machine itself, "
    "not those of a proxy; set BATCHFLOW_TOKEN and send it as 'Authorization: Bearer …'"
)
_NO_TOKEN = "send the token of this app, BATCHFLOW_TOKEN, as 'Authorization: Bearer …'"
_WRONG_TOKEN = "this is not the token of this app; send BATCHFLOW_TOKEN as 'Authorization: Bearer …'"

_bearer = HTTPBearer(auto_error=False, scheme_name="token", description="The value of `BATCHFLOW_TOKEN`.")


class Access:
    """The rules of one app.

    Without a `token`, the routes of operators answer only requests from this machine; with `guarded`, they leave that
    to the app, which has dependencies of its own on them. `origins` are those from which a browser may send changes,
    beside the app's own.
    """

    def __init__(self, *, token: str | None, guarded: bool, origins: Collection[str], app_url: str | None) -> None:
        self._token = None if token is None else token.encode()
        self._guarded = guarded
        self._origins = frozenset(origins)
        self.app_url = app_url
        """The public URL of the app."""
        self._app_origin = None if app_url is None else origin_of(app_url)

    @property
    def trigger_rules(self) -> list[Any]:
        """The dependencies of the routes that start work."""
        rules = [self._check_origin]
        return [Depends(it) for it in (rules if self._token is None else [self._check_token, *rules])]

    async def check_start(self, request: Request) -> None:
        """The rules of the routes that start work, for one that answers other requests too.

        Raises:
            InputError: the request breaks one (401, 403).
        """
        if self._token is not None:
            await self._check_token(request)
        await self._check_origin(request)

    @property
    def admin_rules(self) -> list[Any]:
        """The dependencies of the routes of operators."""
        rule = self._check_loopback if self._token is None else self._check_token
        return [Depends(rule), Depends(self._check_origin)]

    @property
    def statuses(self) -> tuple[int, ...]:
        """The statuses of the requests that the rules refuse."""
        return (403,) if self._token is None else (401, 403)

    def is_operator(self, request: Request) -> bool:
        """True if the rules of operators accept the request."""
        if self._token is None:
            return self._guarded or is_from_this_machine(request)
        return self._has_token(request)

    async def _check_token(
        self,
        request: Request,
        _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None,
    ) -> None:
        """Raise `InputError` (401) unless the request has the token."""
        if not self._has_token(request):
            sent = "authorization" in request.headers
            raise InputError(_WRONG_TOKEN if sent else _NO_TOKEN, field="Authorization", status=401)

    async def _check_loopback(self, request: Request) -> None:
        """Raise `InputError` (403) unless the request is from this machine."""
        if not self._guarded and not is_from_this_machine(request):
            raise InputError(_NOT_LOOPBACK, status=403)

    async def _check_origin(self, request: Request) -> None:
        """Raise `InputError` (403) if a page of another origin makes a browser change something."""
        if request.method not in ("GET", "HEAD") and (origin := self._foreign_origin(request)) is not None:
            raise InputError(
                f"a browser sent this from {origin}, which may not change anything here; if that is a page of yours, "
                f"add its origin to BATCHFLOW_ALLOWED_ORIGINS",
                field="Origin",
                status=403,
            )

    def _has_token(self, request: Request) -> bool:
        given = request.headers.getlist("authorization")
        scheme, _, value = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        return (
            self._token is not None
            and scheme.lower() == "bearer"
            and compare_digest(value.strip().encode("utf-8", "surrogateescape"), self._token)
        )

    def _foreign_origin(self, request: Request) -> str | None:
        """The origin that a browser names, if it is neither the app's own nor allowed; None for other clients."""
        sites, origins = request.headers.getlist("sec-fetch-site"), request.headers.getlist("origin")
        if not sites and not origins:
            return None
        named = [origin_of(it) for it in origins]
        if len(named) == 1 and named[0] in self._origins:
            return None
        shown = "another site" if named in ([], [None]) else f"'{named[0]}'"
        if sites:
            # Pages cannot set this header, and a proxy that changes `Host` leaves it right.
            foreign = any(it not in ("same-origin", "none") for it in sites)
        else:
            foreign = len(named) > 1 or named[0] is None or named[0] not in self._own_origins(request)
        if not foreign and _is_rebound(request) and (named or [None])[0] != self._app_origin:
            # The page's own name leads to this machine: a browser thinks that this is its origin.
            foreign = True
        return shown if foreign else None

    def _own_origins(self, request: Request) -> Iterable[str | None]:
        # A proxy that ends TLS hides the scheme.
        host = request.headers.get("host", "")
        yield from (origin_of(f"{scheme}://{host}") for scheme in ("http", "https"))
        yield self._app_origin


def is_from_this_machine(request: Request) -> bool:
    """True if the operator's own machine sent the request: over loopback, to a loopback host, through no proxy.

    A proxy on the same machine is known by the headers that it adds, and by HTTP/1.0, which some speak by default. The
    host keeps out a web page whose name leads to this machine. A request within the process, as of a test, is from it.
    """
    client = request.client
    if client is None or request.scope.get("http_version") == "1.0":
        return False
    if _is_forwarded(request):
        return False
    if client.host == _IN_PROCESS:
        return True
    return _is_loopback_address(client.host) and (
        _is_loopback_name(host := host_name(request)) or (_is_label(host) and host == _server_name(request))
    )


def names_this_server(request: Request) -> bool:
    """True if the `Host` of a request cannot lead elsewhere.

    It is a loopback name, the server's own address, or a name without a dot, as in a container network.
    """
    host = host_name(request)
    if _is_loopback_name(host) or _is_label(host):
        return True
    client = request.client
    in_process = client is not None and (client.host == _IN_PROCESS or _is_loopback_address(client.host))
    return host is not None and host == _server_name(request) and (in_process or _is_address(host))


def host_name(request: Request) -> str | None:
    """The name or address in the `Host` of a request, in lower case; None if there is not exactly one."""
    given = request.headers.getlist("host")
    found = _HOST.fullmatch(given[0]) if len(given) == 1 else None
    return found[1].strip("[]").rstrip(".").lower() if found else None


def _is_rebound(request: Request) -> bool:
    """True if a request arrives over loopback under a name that is not this machine's, without a proxy."""
    client, host = request.client, host_name(request)
    return (
        client is not None
        and _is_loopback_address(client.host)
        and not (_is_loopback_name(host) or _is_label(host))
        and not _is_forwarded(request)
    )


def _is_forwarded(request: Request) -> bool:
    """True if a proxy has added a header; some write "_" for "-"."""
    return any(name.replace("_", "-").startswith(_FORWARDING) for name in request.headers)


def _server_name(request: Request) -> str | None:
    server = request.scope.get("server")
    return str(server[0]).lower() if server else None


def _is_label(host: str | None) -> bool:
    return host is not None and "." not in host and ":" not in host and not host.isdecimal()


def _is_loopback_name(host: str | None) -> bool:
    return host is not None and (host == "localhost" or host.endswith(".localhost") or _is_loopback_address(host))


def _is_loopback_address(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
