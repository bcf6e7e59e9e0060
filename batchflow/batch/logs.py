"""The log lines of a workflow: of its layers, `[welcome:paginate] Got batch`, and of the progress of its batches."""

import logging
from collections.abc import Container

from batchflow.batch.status import BatchStatus
from batchflow.core.batch import Batch
from batchflow.core.duration import humanize_duration
from batchflow.core.ports import Client
from batchflow.logs import logger, safe_str


class LayerLog:
    """Writes lines that begin with workflow and layer.

    `verbose` is True if lines of pages, chunks and items are written. `refresh` reads the level once per page or
    batch: reading it for every item would cost more than the item.
    """

    __slots__ = ("_error_prefix", "_prefix", "verbose")

    def __init__(self, workflow: str, layer: str) -> None:
        self._prefix = f"[{workflow}:{layer}] "
        self._error_prefix = f"[{workflow}:{layer}:error] "
        self.verbose = False

    def refresh(self) -> None:
        """Read the log level."""
        self.verbose = logger().is_enabled_for(logging.DEBUG)

    def info(self, text: str, **values: object) -> None:
        """Write a line about a batch."""
        logger().info(self._prefix + text, **values)

    def debug(self, text: str, **values: object) -> None:
        """Write a line about a page, chunk or item, if `verbose`. For items, callers check `verbose` first."""
        if self.verbose:
            logger().debug(self._prefix + text, **values)

    def warning(self, text: str, **values: object) -> None:
        """Write a possible problem that is not an error of an item."""
        logger().warning(self._prefix + text, **values)

    def error(self, error: BaseException | str, **values: object) -> None:
        """Write an error."""
        logger().error(self._error_prefix + _error_text(error), **values)


def _error_text(error: BaseException | str) -> str:
    return error if isinstance(error, str) else safe_str(error) or type(error).__name__


MIN_BATCH_AGE_MS = 30_000
"""Younger batches have no line; most have ended by this age."""

_MAX_BATCHES = 50
# Only the latest open batches have lines.


class ProgressLog:
    """Writes a line for each open batch of some workflows that has advanced since the last call.

    It reads the batches from the store, so that items and pages count nothing for it.
    """

    def __init__(self, client: Client, workflows: Container[str]) -> None:
        self._client = client
        self._workflows = workflows
        self._logged: dict[str, tuple[int, int]] = {}

    async def write(self) -> None:
        """Write a line for each batch that has advanced.

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
