"""Where things can be read: absolute URLs below the prefix that a request came in by, or that an app has."""

from collections.abc import Iterator, Sequence
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, Mount

from batchflow.serve.app_url import router_url


def absolute_url(request: Request, route: str, path: str, app_url: str | None) -> str:
    """The absolute URL of `path`, where `route` is the one that is answering; both as the router has them.

    The prefixes of routers and mounts come from the request, so that one router can be included at several. `app_url`
    is where the router is reached from outside, in full or as far as these prefixes; else the request says it.
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
    """Under which path an app, or one that is mounted in it, has included the router.

    The first one, where there are several; None where there is none, or where it has parameters.
    """
    return next(
        (quote(path) for path in _prefixes(getattr(app, "routes", ()), router.routes[0]) if "{" not in path), None
    )


def _prefixes(routes: Sequence[BaseRoute], wanted: BaseRoute) -> Iterator[str]:
    for found in iter_route_contexts(routes):
        route = found.original_route
        if route is wanted:
            yield (found.path_format or "").removesuffix(str(getattr(wanted, "path_format", "")))
        elif isinstance(route, Mount):
            yield from (f"{found.path}{inside}" for inside in _prefixes(route.routes, wanted))
