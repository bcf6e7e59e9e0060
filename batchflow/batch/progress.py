"""The line of progress: how far the batches of an app are, now and then, in its worker's log."""

import logging
from collections.abc import Container

from batchflow.batch.logs import LayerLog
from batchflow.batch.status import BatchStatus
from batchflow.core.batch import Batch
from batchflow.core.duration import show
from batchflow.core.ports import Client
from batchflow.logs import logger

YOUNG_MS = 30_000
"""A batch that is not older than this has no line yet; most are through by then."""

_AT_MOST = 50
# The latest open batches. Who has more of them asks for those that matter.


class ProgressLog:
    """Tells of the open batches of some workflows whenever it is asked to: of each that has come further since.

    It reads the batches at that time, so that no item and no page counts anything for it.
    """

    def __init__(self, client: Client, workflows: Container[str]) -> None:
        self._client = client
        self._workflows = workflows
        self._told: dict[str, tuple[int, int]] = {}

    async def tell(self) -> None:
        """Write the lines that are due.

        Raises:
            StoreError: the batches cannot be read.
        """
        if not logger().is_enabled_for(logging.INFO):
            return
        before, self._told = self._told, {}
        now = self._client.now()
        for batch in await self._client.store.batches(open_only=True, limit=_AT_MOST):
            if batch.workflow not in self._workflows or now - batch.created_at < YOUNG_MS:
                continue
            pages, ended = self._told[batch.id] = batch.pages, batch.counts.ended
            pages_before, ended_before = before.get(batch.id, (0, 0))
            if batch.state == "open" and pages > pages_before:
                LayerLog(batch.workflow, "paginate").info(
                    "Progress", pages=pages, eligible=batch.counts.eligible, batch=batch.id
                )
            if ended > ended_before:
                LayerLog(batch.workflow, "execute").info("Progress", **_values(batch, now))


def _values(batch: Batch, now: int) -> dict[str, object]:
    status = BatchStatus.of(batch, now)
    values: dict[str, object] = {"done": status.counts.ended, "batch": batch.id}
    values["total" if status.is_total_known else "total_so_far"] = status.total
    if status.counts.failed:
        values["failed"] = status.counts.failed
    if status.eta_ms:
        values["to_go"] = show(status.eta_ms)
    return values
