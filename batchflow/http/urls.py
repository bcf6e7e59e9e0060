"""The public URLs of the routers, as a request reaches them, and the prefixes under which an app includes them."""

import re
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, Mount, compile_path

from batchflow.http.access import host_name, names_this_server
from batchflow.logs import logger
from batchflow.serve.app_url import router_url

_PREFIX = re.compile(r"(/[A-Za-z0-9._~%!$&'()*+,;=:@-]+)+")


class Urls:
    """Builds the URLs in answers and of webhooks.

    `app_url` is the public URL of the routers, in full or up to their prefix. Without it the URL of the request counts,
    whose `Host` anybody may invent: URLs that name a foreign one have only their path. With `trust_prefix` the header
    `X-Forwarded-Prefix` names the part of the path that a proxy has cut off.
    """

    def __init__(self, admin: APIRouter, webhooks: APIRouter, *, app_url: str | None, trust_prefix: bool) -> None:
        self._admin = admin
        self._webhooks = webhooks
        self._app_url = app_url
        self._trust_prefix = trust_prefix
        self._warned = False

    def status(self, request: Request, route: str, path: str) -> str | None:
        """The URL of `path` on the admin router, in answer to a request to `route`.

        None if the app of the request does not include that router.
        """
        root = self._root(request, route, self._admin)
        return None if root is None else root + quote(path)

    def webhooks(self, request: Request, route: str) -> str | None:
        """The URL of the webhooks router, or only its path, beginning with a slash, if that is all that can be known.

        None if the app of the request does not include that router.
        """
        root = self._root(request, route, self._webhooks)
        return "/" if root == "" else root

    def _root(self, request: Request, route: str, router: APIRouter) -> str | None:
        full: str = request.scope["path"]
        root: str = request.scope.get("root_path", "")
        app_root: str = request.scope.get("app_root_path", root)
        # Some servers leave the root path out of the path, where a proxy has cut it off.
        inside = full.removeprefix(root) if full.startswith(f"{root}/") else full
        mount, own = root.removeprefix(app_root), inside.removesuffix(route)
        found = _prefix_near(request.scope.get("app"), router, own)
        if found is None:
            return None
        prefix, own = quote(mount + found), quote(mount + own)
        if self._app_url is not None:
            # An APP_URL in full ends with the prefix of the router that was asked.
            return router_url(self._app_url, own).removesuffix(own) + prefix
        base = request.base_url
        path = self._forwarded_prefix(request) + base.path.rstrip("/") + prefix
        if names_this_server(request):
            return f"{base.scheme}://{base.netloc}{path}"
        self._warn(request)
        return path

    def _forwarded_prefix(self, request: Request) -> str:
        given = request.headers.get("x-forwarded-prefix", "").rstrip("/") if self._trust_prefix else ""
        return given if _PREFIX.fullmatch(given) else ""

    def _warn(self, request: Request) -> None:
        if not self._warned:
            self._warned = True
            logger().warning(
                "[batchflow:http] A request names a host that may not be this server's: URLs in answers have only "
                "their path, and runs cannot make webhooks. Set APP_URL to the public URL of the router.",
                host=host_name(request),
            )


def router_prefix(app: object, router: APIRouter) -> str | None:
    """The prefix under which an app, or one that is mounted in it, includes the router.

    With several it is the first one. None if there is no prefix, or all of them have parameters.
    """
    prefixes = _prefixes(getattr(app, "routes", ()), router.routes[0])
    return next((quote(prefix) for prefix in prefixes if "{" not in prefix), None)


def _prefix_near(app: object, router: APIRouter, prefix: str) -> str | None:
    """The prefix of a router in an app: the given one if the router is there too, else its first without parameters."""
    first: str | None = None
    for found in _prefixes(getattr(app, "routes", ()), router.routes[0]):
        if "{" not in found:
            if found == prefix:
                return prefix
            first = found if first is None else first
        elif compile_path(found)[0].fullmatch(prefix):
            return prefix
    return first


def _prefixes(routes: Sequence[BaseRoute], wanted: BaseRoute) -> Iterator[str]:
    for found in iter_route_contexts(routes):
        route = found.original_route
        if route is wanted:
            yield (found.path_format or "").removesuffix(str(getattr(wanted, "path_format", "")))
        elif isinstance(route, Mount):
            yield from (f"{found.path}{inside}" for inside in _prefixes(route.routes, wanted))
