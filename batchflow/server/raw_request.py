"""Parts of a request that must be read as they were sent: a destination is a part of the path, with its own query."""

from collections.abc import Iterable, Iterator
from urllib.parse import quote, unquote, unquote_plus

from starlette.types import Scope

TOKEN_PARAMETER = "qstash_token"
_CONFIG = "upstash-"


def raw_path(scope: Scope) -> str:
    """The path of a request below the place where the server is mounted, not decoded."""
    sent: bytes | None = scope.get("raw_path")
    path = sent.decode("latin-1") if sent else quote(scope["path"])
    # The mount's path may be encoded differently, but it has as many slashes.
    root = str(scope.get("root_path", "")).rstrip("/")
    parts = path.split("/", root.count("/") + 1)
    return f"/{parts[-1]}" if len(parts) == root.count("/") + 2 else path


def query_pairs(scope: Scope) -> Iterator[tuple[str, str]]:
    """The parameters of a request, decoded, in their order."""
    for part in _parts(scope):
        name, _, value = part.partition("=")
        yield unquote_plus(name), unquote_plus(value)


def config_pairs(scope: Scope) -> list[tuple[str, str]]:
    """The parameters that count as headers, such as `upstash-retries`."""
    return [(name.lower(), value) for name, value in query_pairs(scope) if name.lower().startswith(_CONFIG)]


def query_token(scope: Scope) -> str | None:
    """The token in the query of a request; None without one."""
    for part in _parts(scope):
        name, _, value = part.partition("=")
        if unquote(name) == TOKEN_PARAMETER:
            return unquote(value)
    return None


def with_query(destination: str, scope: Scope) -> str:
    """A destination with the query of the request, as it was sent, without what is meant for the server."""
    query = "&".join(_of_destination(_parts(scope)))
    return f"{destination}?{query}" if query else destination


def _of_destination(parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        name = unquote(part.partition("=")[0]).lower()
        if name != TOKEN_PARAMETER and not name.startswith(_CONFIG):
            yield part


def _parts(scope: Scope) -> list[str]:
    query: bytes = scope.get("query_string", b"")
    return query.decode("latin-1").split("&") if query else []
