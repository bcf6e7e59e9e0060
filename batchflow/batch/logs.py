"""The log lines of a workflow: of its layers, `[welcome:paginate] Got batch`, and of its batches: progress and end."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Container

from batchflow.batch.status import BatchStatus, BatchSummary, budget_sentence
from batchflow.core.batch import Batch
from batchflow.core.duration import humanize_duration
from batchflow.core.ports import Client, Observer
from batchflow.core.report import one_line
from batchflow.errors import StoreError
from batchflow.logs import log_of, logger


class LayerLog:
    """Writes lines that begin with workflow and layer.

    `verbose` is True if lines of pages, chunks and items are written. `refresh` reads the level once per page or
    batch: reading it for every item would cost more than the item.
    """

    __slots__ = ("_log", "_prefix", "verbose")

    def __init__(self, workflow: str, layer: str) -> None:
        self._prefix = f"[{workflow}:{layer}] "
        self._log = log_of(f"{workflow}:{layer}")
        self.verbose = False

    def refresh(self) -> None:
        """Read the log level."""
        self.verbose = self._log.is_enabled_for(logging.DEBUG)

    def info(self, text: str, **values: object) -> None:
        """Write a line about a batch."""
        self._log.info(self._prefix + text, **values)

    def debug(self, text: str, **values: object) -> None:
        """Write a line about a page, chunk or item, if `verbose`. For items, callers check `verbose` first."""
        if self.verbose:
            self._log.debug(self._prefix + text, **values)

    def warning(self, text: str, **values: object) -> None:
        """Write a possible problem that is not an error of an item."""
        self._log.warning(self._prefix + text, **values)


MIN_BATCH_AGE_MS = 30_000
"""Younger batches have no line of progress; most have ended by this age."""

FINISH_S = 2.0
"""The time for which the end of a process waits for lines about batches that have ended."""

_MAX_BATCHES = 50
# Only the latest open batches have lines.
_MAX_ERRORS = 3


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
        for batch in await self._client.store.batches(open_only=True, limit=_MAX_BATCHES, params=False):
            if batch.workflow not in self._workflows or now - batch.created_at < MIN_BATCH_AGE_MS:
                continue
            pages, ended = self._logged[batch.id] = batch.pages, batch.counts.ended
            pages_before, ended_before = before.get(batch.id, (0, 0))
            if batch.state == "open" and pages > pages_before:
                LayerLog(batch.workflow, "paginate").info(
                    "Progress", pages=pages, eligible=batch.counts.eligible, batch=batch.id
                )
            if ended > ended_before:
                LayerLog(batch.workflow, "execute").info("Progress", **_progress_values(batch, now))


class BatchEndLog(Observer):
    """Writes a line at the end of each batch and its canary, and when its failure budget stops it, from the store."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._writing: set[asyncio.Task[None]] = set()

    def batch_ended(self, batch: str) -> None:
        """See the protocol."""
        if logger().is_enabled_for(logging.INFO):
            self._begin(batch, _write_end)

    def canary_ended(self, batch: str) -> None:
        """See the protocol."""
        if logger().is_enabled_for(logging.INFO):
            self._begin(batch, _write_canary)

    def budget_exceeded(self, batch: str) -> None:
        """See the protocol."""
        self._begin(batch, _write_budget_exceeded)

    async def finish(self) -> None:
        """Wait for the lines of batches that have ended, but not long for a store that does not answer."""
        loop = asyncio.get_running_loop()
        if left := [task for task in self._writing if task.get_loop() is loop]:
            _, late = await asyncio.wait(left, timeout=FINISH_S)
            for task in late:
                task.cancel()

    def _begin(self, id: str, write: Callable[[Batch], None]) -> None:
        task = asyncio.get_running_loop().create_task(self._read_and(write, id))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _read_and(self, write: Callable[[Batch], None], id: str) -> None:
        # A store that fails costs the line.
        with contextlib.suppress(StoreError):
            batch = await self._client.store.batch(id)
            if batch is not None:
                write(batch)


def _write_end(batch: Batch) -> None:
    LayerLog(batch.workflow, "process").info("Batch ended", **_end_values(batch))


def _write_canary(batch: Batch) -> None:
    log, values = LayerLog(batch.workflow, "process"), _canary_values(batch)
    if batch.needs_approval:
        log.info("Waits for approval", **values, go_on=f"batchflow batches approve {batch.id}")
    else:
        log.info("The canary approves the batch", **values)


def _canary_values(batch: Batch) -> dict[str, object]:
    return {"canary": batch.canary, "ended": batch.counts.ended, "failed": batch.counts.failed, "batch": batch.id}


def _write_budget_exceeded(batch: Batch) -> None:
    is_cancelled = batch.state in ("cancelling", "cancelled")
    text = f"{'Cancelled' if is_cancelled else 'Paused'}: {budget_sentence(batch)}"
    go_on = {} if is_cancelled else {"go_on": f"batchflow batches resume {batch.id}"}
    LayerLog(batch.workflow, "process").warning(text, batch=batch.id, **go_on)


def _progress_values(batch: Batch, now: int) -> dict[str, object]:
    status = BatchStatus.of(batch, now)
    values: dict[str, object] = {"done": status.counts.ended, "batch": batch.id}
    values["total" if status.is_total_known else "total_so_far"] = status.total
    if status.counts.failed:
        values["failed"] = status.counts.failed
    if status.eta_ms:
        values["to_go"] = humanize_duration(status.eta_ms)
    return values


def _end_values(batch: Batch) -> dict[str, object]:
    summary, counts = BatchSummary.of(batch), batch.counts
    named = {
        "failed": counts.failed,
        "cancelled": counts.cancelled,
        "already_processed": counts.already_processed,
        "in_flight": counts.in_flight,
        "duplicates": counts.duplicates,
        "left_out": counts.left_out,
        "label": batch.label,
        "errors": ", ".join(map(str, batch.errors[:_MAX_ERRORS])),
        "error": one_line(summary.error or ""),
    }
    return {
        "state": batch.state,
        "succeeded": counts.succeeded,
        **{name: value for name, value in named.items() if value},
        "took": humanize_duration(summary.duration_ms),
        "batch": batch.id,
    }
