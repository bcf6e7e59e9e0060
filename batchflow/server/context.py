"""The context of the server's routes: the engine with its store, the time, new ids, and the tenant of a request."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, TypeAlias, cast

from fastapi import Depends, Request

from batchflow.core.posts import Post, Posted, Refusal
from batchflow.core.store import Store
from batchflow.core.wire_runs import MAX_ENTRIES_SIZE
from batchflow.core.wire_store import WireStore
from batchflow.engine.engine import Engine
from batchflow.errors import ConfigurationError, InputError


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
        return wire_store(self.engine)

    async def post(self, posts: Sequence[Post]) -> Sequence[Posted]:
        """Publish posts, as the store does, and have a worker of this process begin them at once.

        Raises:
            InputError: the workflow run of one of them does not take it; none is published.
        """
        # Woken first, so that the worker claims in the same transaction that publishes.
        self.engine.wake()
        posted = await self.wire.post(posts)
        if posted and (reason := posted[0].refused) is not None:
            raise refused_by_run(reason)
        return posted

    def now(self) -> int:
        """The time in ms."""
        return self.engine.now()

    def new_id(self, kind: Literal["msg", "scd"]) -> str:
        """A new id of a message or a schedule, which cannot be guessed."""
        return f"{kind}_{self.engine.new_id('run').removeprefix('run_')}"

    def new_message_id(self) -> str:
        """A new id of a message."""
        return self.new_id("msg")


NO_ROOM: dict[int | str, dict[str, Any]] = {
    412: {
        "description": "the workflow run has no room for it",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}},
    }
}
"""The answer of routes that add to a workflow run, for the OpenAPI document."""


def refused_by_run(reason: Refusal) -> InputError:
    """The error of a request that a workflow run does not take, with the status that the SDKs expect."""
    if reason == "ended":
        return InputError("the workflow run has ended or does not exist, so nothing can be added to it", status=400)
    if reason == "live":
        # With 412 an SDK fails the run that invokes; with 400 it would take that for one that has ended.
        sentence = "the workflow run to invoke goes on already; invoke one with another id, or after its end"
        return InputError(sentence, status=412)
    most = MAX_ENTRIES_SIZE // 2**20
    sentence = f"the workflow run would be larger than {most} MiB; keep large results elsewhere, and return where"
    return InputError(sentence, status=412)


def wire_store(engine: Engine) -> WireStore:
    """The store of an engine, as it keeps posts.

    Raises:
        ConfigurationError: it keeps none.
    """
    store = engine.store
    # Whether a store has all methods takes as long to check as the rest of a request.
    if type(store) not in _CHECKED:
        if not isinstance(store, WireStore):
            raise ConfigurationError(f"the store {store.location} keeps no posts; use SQLite or Redis")
        _CHECKED.add(type(store))
    return cast("WireStore", store)


_CHECKED: set[type[Store]] = set()


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
