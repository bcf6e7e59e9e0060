"""Parts of a request that must be read as they were sent: a destination is a part of the path, with its own query."""

from collections.abc import Iterable, Iterator
from urllib.parse import quote, unquote, unquote_plus

from starlette.types import Message, Receive, Scope

from batchflow.errors import InputError, TooLarge

MAX_BODY = 16 * 1024 * 1024
"""The largest body of a request, in bytes."""

TOKEN_PARAMETER = "qstash_token"
_CONFIG = "upstash-"
_SCHEMES = ("http://", "https://")


def raw_path(scope: Scope) -> str:
    """The path of a request below the place where the server is mounted, not decoded."""
    sent: bytes | None = scope.get("raw_path")
    path = sent.decode("latin-1") if sent else quote(scope["path"])
    root = _root(scope)
    # The place may be encoded differently, but it has as many slashes.
    return f"/{path.split('/', root.count('/') + 1)[-1]}" if root else path


def decoded_path(scope: Scope) -> str:
    """The path of a request below the place where the server is mounted."""
    path: str = scope["path"]
    return path[len(_root(scope)) :]


def _root(scope: Scope) -> str:
    """The place where the server is mounted; "" if a proxy has taken it from the path."""
    root = str(scope.get("root_path", "")).rstrip("/")
    return root if str(scope["path"]).startswith(f"{root}/") else ""


def header_pairs(scope: Scope) -> list[tuple[str, str]]:
    """The headers of a request, whose values are UTF-8, as nearly all clients send them, else Latin-1."""
    return [(name.decode("latin-1"), _decoded(value)) for name, value in scope["headers"]]


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def limited(scope: Scope, receive: Receive) -> Receive:
    """Receive a request whose body has at most `MAX_BODY` bytes.

    Raises:
        TooLarge: it has more; also while it is received.
    """
    for name, value in scope["headers"]:
        # No server takes longer ones; int() of those would take long.
        if name == b"content-length" and value[:20].isdigit() and int(value[:20]) > MAX_BODY:
            raise _too_large()
    size = 0

    async def receive_limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY:
            raise _too_large()
        return message

    return receive_limited


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The body of a request.

    Raises:
        TooLarge: it has more than `MAX_BODY` bytes.
        InputError: the connection was closed before its end; nobody reads the answer.
    """
    receive = limited(scope, receive)
    chunks: list[bytes] = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InputError("the connection was closed before the body was complete", status=400)
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(chunks)


def _too_large() -> TooLarge:
    return TooLarge(f"the body is larger than {MAX_BODY:,} bytes; send less, or a URL from which to fetch it")


def caller_ip(scope: Scope) -> str | None:
    """The address of the sender of a request."""
    client = scope.get("client")
    return str(client[0]) if client else None


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


def destination_of(path: str, scope: Scope) -> str:
    """The destination in a path that is not decoded: a URL as it was sent, with the query, or the name of a group."""
    if path[:8].lower().startswith(_SCHEMES):
        return _with_query(path, scope)
    decoded = unquote(path)
    return _with_query(decoded, scope) if decoded[:8].lower().startswith(_SCHEMES) else decoded


def _with_query(destination: str, scope: Scope) -> str:
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
