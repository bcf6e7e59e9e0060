"""The server as an ASGI application."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeAlias, cast

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from batchflow.engine.engine import Engine
from batchflow.errors import BatchflowError, InputError
from batchflow.server.answers import error_answer, http_answer, misfit_answer
from batchflow.server.context import ServerContext, Tenants
from batchflow.server.hooks import HookRoute, is_hook
from batchflow.server.openapi import ERRORS, ServerApi
from batchflow.server.publish import PublishRoutes
from batchflow.server.raw_request import TOKEN_PARAMETER, decoded_path, limited, query_token, raw_path
from batchflow.server.routes import ROUTERS
from batchflow.server.tokens import TokenStore
from batchflow.server.trigger import TriggerRoutes

DirectRoute: TypeAlias = Callable[[Scope, Receive, str], Coroutine[Any, Any, Response]]
"""Answers a POST without FastAPI; the text is the rest of the path, not decoded."""

_OPEN_PATHS = frozenset({"/openapi.json", "/docs"})
_NO_TOKEN = f"send a token of this server as 'Authorization: Bearer …' or as '?{TOKEN_PARAMETER}=…'"
_WRONG_TOKEN = "this is not a token of this server; send one that `batchflow server` has printed"
_DESCRIPTION = "The REST API of QStash, served by batchflow."


class QStashServer:
    """QStash over the store of an engine, as an ASGI application.

    Whoever mounts it opens the engine. Its routes are below `/v2`, its OpenAPI document is at `/openapi.json`. Every
    request but those for the documentation and those to webhooks needs a token; by default that of a tenant in
    `tokens`.
    """

    def __init__(self, engine: Engine, *, tenants: Tenants | None = None) -> None:
        self.tokens = TokenStore(engine)
        """The tokens of the tenants in the store."""
        self._context = ServerContext(engine, tenants or self.tokens)
        self._api = _api(self._context)
        self._hook = HookRoute(self._context)
        publishing, triggering = PublishRoutes(self._context), TriggerRoutes(self._context)
        self._direct: Mapping[str, DirectRoute] = {
            "/v2/publish/": publishing.publish,
            "/v2/enqueue/": publishing.enqueue,
            "/v2/batch": publishing.batch,
            "/v2/trigger/": triggering.trigger,
            "/v2/batch/trigger": triggering.batch,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; every error is answered as `{"error": "…"}`."""
        if scope["type"] != "http":
            await self._api(scope, receive, send)
            return
        began = False

        async def send_on(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self._answer(scope, receive, send_on)
        except Exception as error:
            # Otherwise the inner app has answered it.
            if not began:
                await error_answer(error)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_hook(scope):
            response = await self._hook(scope, receive)
            await response(scope, receive, send)
            return
        if decoded_path(scope) not in _OPEN_PATHS:
            scope = {**scope, "batchflow.tenant": await self._tenant(scope)}
        direct = self._direct_route(raw_path(scope))
        if direct is None:
            await self._api(scope, limited(scope, receive), send)
            return
        route, rest = direct
        if scope["method"] == "POST":
            response = await route(scope, receive, rest)
        else:
            response = http_answer(Request(scope), HTTPException(405, headers={"Allow": "POST"}))
        await response(scope, receive, send)

    def _direct_route(self, path: str) -> tuple[DirectRoute, str] | None:
        for beginning, route in self._direct.items():
            if path.startswith(beginning) and (path == beginning or beginning[-1] == "/"):
                return route, path[len(beginning) :]
        return None

    async def _tenant(self, scope: Scope) -> str:
        token = _token(scope)
        if token is None:
            raise InputError(_NO_TOKEN, status=401)
        tenant = await self._context.tenants.of_token(token)
        if tenant is None:
            raise InputError(_WRONG_TOKEN, status=401)
        return tenant


def _token(scope: Scope) -> str | None:
    given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    if not given:
        return query_token(scope)
    scheme, _, token = given[0].decode("latin-1").partition(" ")
    return token.strip() if len(given) == 1 and scheme.lower() == "bearer" else None


def _api(context: ServerContext) -> ServerApi:
    handlers: dict[Any, Any] = {
        BatchflowError: _on_error,
        RequestValidationError: _on_misfit,
        HTTPException: _on_http_error,
        Exception: _on_error,
    }
    api = ServerApi(
        title="QStash",
        description=_DESCRIPTION,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        exception_handlers=handlers,
        responses=ERRORS,
    )
    api.state.context = context
    for router in ROUTERS:
        api.include_router(router)
    return api


async def _on_error(_: Request, error: Exception) -> Response:
    return error_answer(error)


async def _on_misfit(_: Request, error: Exception) -> Response:
    return misfit_answer(cast("RequestValidationError", error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    return http_answer(request, cast("HTTPException", error))
