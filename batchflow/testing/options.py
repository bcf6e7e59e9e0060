"""What can be set for a test environment, and for what is started in it."""

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypedDict

from batchflow.core.clock import Clock
from batchflow.stores.protocol import Store

StoreOption: TypeAlias = str | Store | Callable[[Clock], Store] | None
"""Where a test's state lives: "fakeredis", a URL, what makes a store with the test's clock, or a store made by hand."""


class BatchOptions(TypedDict, total=False):
    """What a trigger of a batch may set; see `Workflow.trigger`."""

    force: bool
    ids: Sequence[str] | None
    limit: int | None
    dedup_id: str | None
    label: str | None
