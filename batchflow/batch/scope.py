"""What a running hook can ask its workflow for: the parameters, the item, the ledger."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import NamedTuple

from pydantic import BaseModel

from batchflow.core.batch import NO_HEADERS
from batchflow.core.ports import Client


class Scope(NamedTuple):
    """What holds while a hook runs. `batch` is empty in a dry run, `item_id` in the layers above the items."""

    client: Client
    workflow: str
    params: BaseModel
    batch: str = ""
    item_id: str = ""
    headers: Mapping[str, str] = NO_HEADERS


SCOPE: ContextVar[Scope] = ContextVar("batchflow_scope")
"""Set by the layers around every hook; a hook in a worker thread sees it too."""


def scope_of(workflow: str, what: str) -> Scope:
    """The scope of the hook that is running.

    Raises:
        RuntimeError: no hook of this workflow is running; the sentence says `what` was asked for.
    """
    scope = SCOPE.get(None)
    if scope is None or scope.workflow != workflow:
        raise RuntimeError(f"{what} can only be used inside the hooks of '{workflow}' while they run")
    return scope
