"""Where things can be read: absolute URLs below the prefix that a request came in by."""

from urllib.parse import quote

from fastapi import Request


def url_beside(request: Request, own: str, path: str, app_url: str | None) -> str:
    """The absolute URL of `path`, where `own` is the path of the route that is answering; both as the router has them.

    The prefixes of routers and mounts come from the request, so that one router can be included at several. `app_url`
    is the public URL of the app, in place of the request's scheme, host and root path.
    """
    base = app_url or str(request.base_url)
    full: str = request.scope["path"]
    root: str = request.scope.get("root_path", "")
    app_root: str = request.scope.get("app_root_path", root)
    # Some servers leave the root path out of the path, where a proxy has cut it off.
    inside = full.removeprefix(root) if full.startswith(f"{root}/") else full
    return base.rstrip("/") + quote(f"{root.removeprefix(app_root)}{inside.removesuffix(own)}{path}")
