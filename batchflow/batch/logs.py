"""The log of one layer of a workflow: `[welcome:paginate] Got batch`."""

import logging
from collections.abc import Container

from batchflow.batch.status import BatchStatus
from batchflow.core.batch import Batch
from batchflow.core.duration import humanize_duration
from batchflow.core.ports import Client
from batchflow.logs import logger, safe_str


class LayerLog:
    """Writes lines that begin with workflow and layer.

    `verbose` says whether lines of pages, chunks and items are wanted. It is asked once per page or batch, by
    `refresh`: asking for every item costs more than the item.
    """

    __slots__ = ("_error_prefix", "_prefix", "verbose")

    def __init__(self, workflow: str, layer: str) -> None:
        self._prefix = f"[{workflow}:{layer}] "
        self._error_prefix = f"[{workflow}:{layer}:error] "
        self.verbose = False

    def refresh(self) -> None:
        """Ask whether DEBUG lines are written."""
        self.verbose = logger().is_enabled_for(logging.DEBUG)

    def info(self, text: str, **values: object) -> None:
        """A line per batch."""
        logger().info(self._prefix + text, **values)

    def debug(self, text: str, **values: object) -> None:
        """A line per page, chunk or item, where they are wanted. For items, callers look at `verbose` first."""
        if self.verbose:
            logger().debug(self._prefix + text, **values)

    def warning(self, text: str, **values: object) -> None:
        """What may be wrong, and is none of an item's."""
        logger().warning(self._prefix + text, **values)

    def error(self, error: BaseException | str, **values: object) -> None:
        """What went wrong."""
        logger().error(self._error_prefix + _error_text(error), **values)


def _error_text(error: BaseException | str) -> str:
    return error if isinstance(error, str) else safe_str(error) or type(error).__name__


MIN_BATCH_AGE_MS = 30_000
"""A batch that is not older than this has no line yet; most are through by then."""

_MAX_BATCHES = 50
# The latest open batches. Who has more of them asks for those that matter.


class ProgressLog:
    """Tells of the open batches of some workflows whenever it is asked to: of each that has come further since.

    It reads the batches at that time, so that no item and no page counts anything for it.
    """

    def __init__(self, client: Client, workflows: Container[str]) -> None:
        self._client = client
        self._workflows = workflows
        self._logged: dict[str, tuple[int, int]] = {}

    async def write(self) -> None:
        """Write the lines that are due.

        Raises:
            StoreError: the batches cannot be read.
        """
        if not logger().is_enabled_for(logging.INFO):
            return
        before, self._logged = self._logged, {}
        now = self._client.now()
        for batch in await self._client.store.batches(open_only=True, limit=_MAX_BATCHES):
            if batch.workflow not in self._workflows or now - batch.created_at < MIN_BATCH_AGE_MS:
                continue
            pages, ended = self._logged[batch.id] = batch.pages, batch.counts.ended
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
        values["to_go"] = humanize_duration(status.eta_ms)
    return values
