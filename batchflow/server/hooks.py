"""The webhooks of workflow runs: whoever knows the URL of one sends events to it, without a token."""

import re
from urllib.parse import quote, unquote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from batchflow.errors import InputError
from batchflow.server.answers import http_answer
from batchflow.server.context import ServerContext
from batchflow.server.raw_request import decoded_path, raw_path, read_body
from batchflow.server.waits import event_text
from batchflow.wire.run_entries import webhook_data

HOOKS = "/v2/workflows/hooks/"
"""The beginning of the paths of webhooks."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""The methods of webhooks: those of which the SDKs can make a request again."""

_EVENT = re.compile(r"evt_[A-Za-z0-9_-]{8,}")
# The SDKs make the names of webhooks by chance. Other events, which can be guessed, need a token.
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_MAX_PORT = 65_535


def is_hook(scope: Scope) -> bool:
    """True for a request to a webhook."""
    return decoded_path(scope).startswith(HOOKS)


class HookRoute:
    """Answers requests to webhooks."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive) -> Response:
        """Give an event to a run, or keep it until the run waits for it.

        The answer does not depend on whether the run exists.
        """
        if scope["method"] not in METHODS:
            return http_answer(Request(scope), HTTPException(405, headers={"Allow": ", ".join(METHODS)}))
        path = raw_path(scope)
        tenant, run, event, *more = [*map(unquote, path.removeprefix(HOOKS).split("/")), "", ""]
        if not (path.startswith(HOOKS) and tenant and run and _EVENT.fullmatch(event)) or any(more):
            return http_answer(Request(scope), HTTPException(404))
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        url = _public_url(scope, path)
        data = webhook_data(scope["method"], headers, await read_body(scope, receive), url)
        self._context.engine.wake()
        await self._context.wire.notify_event(tenant, event, event_text(data), run)
        return Response()


def _public_url(scope: Scope, path: str) -> str:
    """The URL of a request, as its sender knows it."""
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"host"]
    # The endpoint makes a request of it again, and would fail with a wrong one.
    host = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if host is None or int(host[1] or 0) > _MAX_PORT:
        raise InputError("'Host' is not the name of a host; send that of the URL", field="Host", status=400)
    root = quote(str(scope.get("root_path", "")).rstrip("/"))
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{scope['scheme']}://{hosts[0]}{root}{path}{'?' if query else ''}{query}"
