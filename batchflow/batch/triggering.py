"""What a trigger of a batch may set beside the parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from batchflow.batch.item_ids import Id
from batchflow.core.duration import Duration
from batchflow.serve.trigger import Dedup


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTrigger:
    """What a trigger sets beside the parameters; see `Workflow.trigger`."""

    force: bool = False
    ids: Sequence[Id] | None = None
    limit: int | None = None
    dedup_id: str | None = None
    dedup: Dedup = "kept"
    label: str | None = None
    batch_id: str | None = None
    delay: Duration | None = None
    not_before: datetime | int | None = None
    headers: Mapping[str, str] | None = None
