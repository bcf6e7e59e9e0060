"""Asking a ledger that is kept beside the engine, and so may be away while the engine is not."""

from collections.abc import Awaitable, Mapping
from contextvars import ContextVar
from typing import NamedTuple, TypeVar

from pydantic import BaseModel

from batchflow.core.batch import NO_HEADERS
from batchflow.core.ports import Client
from batchflow.errors import RateLimited, StoreError


class HookScope(NamedTuple):
    """What holds while a hook runs. `batch` is empty in a dry run, `item_id` in the layers above the items."""

    client: Client
    workflow: str
    params: BaseModel
    batch: str = ""
    item_id: str = ""
    headers: Mapping[str, str] = NO_HEADERS


CURRENT_HOOK: ContextVar[HookScope] = ContextVar("batchflow_scope")
"""Set by the layers around every hook; a hook in a worker thread sees it too."""


def require_hook_scope(workflow: str, usage: str) -> HookScope:
    """The scope of the hook that is running.

    Raises:
        RuntimeError: no hook of this workflow is running; the sentence says `what` was asked for.
    """
    scope = CURRENT_HOOK.get(None)
    if scope is None or scope.workflow != workflow:
        raise RuntimeError(f"{usage} can only be used inside the hooks of '{workflow}' while they run")
    return scope


RETRY_AFTER_S = 5.0
"""How long to wait for a ledger that is away."""

T = TypeVar("T")


async def call_ledger(call: Awaitable[T]) -> T:
    """What the ledger answers.

    Raises:
        RateLimited: it is away. The run, and all under its flow key, waits for it; that is no failure of the item.
    """
    try:
        return await call
    except StoreError as error:
        if not error.retryable:
            raise
        raise RateLimited(RETRY_AFTER_S, f"the ledger is away: {error}") from error
