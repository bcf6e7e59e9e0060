"""Absolute URLs of what a request has started, and the prefix under which an app includes the router."""

from collections.abc import Iterator, Sequence
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, Mount

from batchflow.serve.app_url import router_url


def absolute_url(request: Request, route: str, path: str, app_url: str | None) -> str:
    """The absolute URL of `path`, in answer to a request to `route`; the router knows both without its prefixes.

    The prefixes of routers and mounts come from the request, so that one router can be included several times.
    `app_url` is the router's public URL, in full or up to these prefixes; without it the request's own base is taken.
    """
    full: str = request.scope["path"]
    root: str = request.scope.get("root_path", "")
    app_root: str = request.scope.get("app_root_path", root)
    # Some servers leave the root path out of the path, where a proxy has cut it off.
    inside = full.removeprefix(root) if full.startswith(f"{root}/") else full
    prefix = quote(f"{root.removeprefix(app_root)}{inside.removesuffix(route)}")
    base = str(request.base_url).rstrip("/") + prefix if app_url is None else router_url(app_url, prefix)
    return base + quote(path)


def router_prefix(app: object, router: APIRouter) -> str | None:
    """The prefix under which an app, or one that is mounted in it, includes the router.

    With several it is the first one. None if there is no prefix, or all of them have parameters.
    """
    prefixes = _prefixes(getattr(app, "routes", ()), router.routes[0])
    return next((quote(prefix) for prefix in prefixes if "{" not in prefix), None)


def _prefixes(routes: Sequence[BaseRoute], wanted: BaseRoute) -> Iterator[str]:
    for found in iter_route_contexts(routes):
        route = found.original_route
        if route is wanted:
            yield (found.path_format or "").removesuffix(str(getattr(wanted, "path_format", "")))
        elif isinstance(route, Mount):
            yield from (f"{found.path}{inside}" for inside in _prefixes(route.routes, wanted))
