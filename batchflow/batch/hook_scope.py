"""The context of a running hook: its parameters, its item, its ledger."""

from collections.abc import Awaitable, Mapping
from contextvars import ContextVar
from typing import NamedTuple, TypeVar

from pydantic import BaseModel

from batchflow.core.batch import NO_HEADERS
from batchflow.core.ports import Client
from batchflow.errors import RateLimited, StoreError


class HookScope(NamedTuple):
    """The context of a running hook. `batch` is empty in a dry run, `item_id` in the layers above the items."""

    client: Client
    workflow: str
    params: BaseModel
    batch: str = ""
    item_id: str = ""
    headers: Mapping[str, str] = NO_HEADERS


CURRENT_HOOK: ContextVar[HookScope] = ContextVar("batchflow_scope")
"""The layers set it around every hook; a hook in a worker thread sees it too."""


def require_hook_scope(workflow: str, usage: str) -> HookScope:
    """Return the scope of the running hook.

    Raises:
        RuntimeError: no hook of this workflow is running; the message names the `usage`.
    """
    scope = CURRENT_HOOK.get(None)
    if scope is None or scope.workflow != workflow:
        raise RuntimeError(f"{usage} can only be used inside the hooks of '{workflow}' while they run")
    return scope


RETRY_AFTER_S = 5.0
"""The pause before the next call to an unavailable ledger."""

T = TypeVar("T")


async def call_ledger(call: Awaitable[T]) -> T:
    """Await a call to the external ledger, which may be unavailable while the engine is not.

    Raises:
        RateLimited: the ledger is unavailable. The run and all others under its flow key wait; the item has not failed.
    """
    try:
        return await call
    except StoreError as error:
        if not error.retryable:
            raise
        raise RateLimited(RETRY_AFTER_S, f"the ledger is unavailable: {error}") from error
