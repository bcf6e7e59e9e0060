"""What can be set for a test environment, and for what is started in it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias, TypedDict

from batchflow.batch.item_ids import Id
from batchflow.core.clock import Clock
from batchflow.core.duration import Duration
from batchflow.core.store import Store
from batchflow.serve.trigger import Dedup

StoreOption: TypeAlias = str | Store | Callable[[Clock], Store] | None
"""Where a test's state lives: "fakeredis", a URL, what makes a store with the test's clock, or a store made by hand."""


class BatchOptions(TypedDict, total=False):
    """What a trigger of a batch may set; see `Workflow.trigger`."""

    force: bool
    ids: Sequence[Id] | None
    limit: int | None
    dedup_id: str | None
    dedup: Dedup
    label: str | None
    batch_id: str | None
    delay: Duration | None
    not_before: datetime | int | None
    headers: Mapping[str, str] | None
