"""The context that all routes of the server share: the engine with its store, the time, new ids, and the tenant of a request."""

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, TypeAlias

from fastapi import Depends, Request

from batchflow.core.store import Store
from batchflow.core.wire_store import WireStore
from batchflow.engine.engine import Engine
from batchflow.errors import ConfigurationError


class Tenants(Protocol):
    """Knows the tenants by their tokens."""

    async def of_token(self, token: str) -> str | None:
        """The tenant of a token; None for one that is unknown or was revoked."""
        ...


@dataclass(frozen=True, slots=True)
class ServerContext:
    """The engine whose store the server uses, and its tenants."""

    engine: Engine
    tenants: Tenants

    @property
    def store(self) -> Store:
        """The store of the engine."""
        return self.engine.store

    @property
    def wire(self) -> WireStore:
        """The same store, as it keeps posts."""
        store = self.engine.store
        if not isinstance(store, WireStore):
            raise ConfigurationError(f"the store {store.location} keeps no posts; use SQLite or Redis")
        return store

    def now(self) -> int:
        """The time in ms."""
        return self.engine.now()

    def new_id(self, kind: Literal["msg", "scd"]) -> str:
        """A new id of a message or a schedule, which cannot be guessed."""
        return f"{kind}_{self.engine.new_id('run').removeprefix('run_')}"


def context_of(request: Request) -> ServerContext:
    """The context of the server that answers a request."""
    context: ServerContext = request.app.state.context
    return context


def tenant_of(request: Request) -> str:
    """The tenant of a request, whose token was checked before it was routed."""
    tenant: str = request.scope["batchflow.tenant"]
    return tenant


Context: TypeAlias = Annotated[ServerContext, Depends(context_of)]
Tenant: TypeAlias = Annotated[str, Depends(tenant_of)]
