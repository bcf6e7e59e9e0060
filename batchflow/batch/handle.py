"""`BatchHandle`: the status, end, items and results of a batch; pausing, approving, cancelling and retrying it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Generic, TypeVar, cast

from batchflow.batch.arguments import Id, check_failure_budget, check_priority
from batchflow.batch.export import Export, ExportFormat, Manifest, check_format
from batchflow.batch.items import ITEMS_PER_READ, BatchItem, batch_item, read_items
from batchflow.batch.retry import Retries, check_retry
from batchflow.batch.rollup import latest_items, read_retries
from batchflow.batch.runtime import WorkflowRuntime
from batchflow.batch.status import BatchStatus, BatchSummary
from batchflow.batch.wait_reason import WaitReasons, failing_text
from batchflow.batch.why import WaitReport, explain_wait
from batchflow.core.batch import Batch, ItemState
from batchflow.core.duration import Duration, to_ms
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.ids import entry_id
from batchflow.errors import BatchFailed, NotFoundError, StoreUnavailable
from batchflow.serve.delivery_scope import check_may_wait, check_not_polling
from batchflow.serve.runs import timeout_seconds, wait_until_over

Result = TypeVar("Result")


class BatchHandle(Generic[Result]):
    """A handle of one batch. It stores only the id; `workflow.batch(id)` creates another one in any process.

    `deduplicated` is True if the trigger started nothing, since the batch existed.

    Every method raises `NotFoundError` once retention has removed the batch.
    """

    __slots__ = ("_client", "_definition", "_runtime", "deduplicated", "id")

    def __init__(self, id: str, runtime: WorkflowRuntime, *, deduplicated: bool = False) -> None:
        self.id = id
        self.deduplicated = deduplicated
        self._runtime = runtime
        self._definition = runtime.definition
        self._client = runtime.client

    def __repr__(self) -> str:
        return f"BatchHandle('{self.id}')"

    @property
    def workflow(self) -> str:
        """The name of the workflow."""
        return self._definition.name

    @property
    def run_id(self) -> str:
        """The id of the entry's run."""
        return entry_id(self.id)

    async def status(self) -> BatchStatus:
        """Return the present status of the batch.

        Raises:
            InputError: a step of the same app polls it; waiting inside of a step is not allowed.
        """
        batch = await self._read()
        if not _is_over(batch):
            check_not_polling(self._client, self.id, f"batch '{self.id}'")
        return await self._status(batch, self._wait_reasons())

    async def why(self) -> WaitReport:
        """Return why the batch is not done: a sentence, the first open items, what holds them back, and who serves it.

            print(await batch.why())   # it waits for 3 items that are tried again, the next in 8s (…)

        A batch that is done says since when.
        """
        return await explain_wait(self._client, self._definition, await self._read())

    async def wait(self, timeout: Duration | None = None, *, check: bool = False) -> BatchSummary:
        """Return once the batch has ended and its `on_complete` has run. An unavailable store is waited for, too.

        Raises:
            TimeoutError: it has not ended within `timeout` (seconds, "10s", a timedelta); it goes on. The message says
                what it waits for.
            ConfigurationError: `timeout` is not a duration.
            InputError: it is called in a step, hook or function of the same app; use `ctx.invoke` there.
            StoreUnavailable: the app has been stopped.
            BatchFailed: `check` is set, and items have failed, the batch was cancelled, or its walk or its end failed.
        """
        limit = timeout_seconds(timeout)
        try:
            batch = await wait_until_over(self._client, self.id, self._read_if_over, limit, f"batch '{self.id}'")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; {await self._describe_wait()}") from None
        summary = BatchSummary.of(batch, await read_retries(self._client.store, batch))
        if check and not summary.succeeded:
            raise BatchFailed(summary.failure())
        return summary

    async def progress(self, interval: Duration = 0.5) -> AsyncIterator[BatchStatus]:
        """Yield the status now, then about every `interval`, and at last the final one.

        Raises:
            ConfigurationError: `interval` is not a duration.
            InputError: as for `wait`.
        """
        pause = to_ms(interval, option="interval") / 1000
        check_may_wait(self._client, f"batch '{self.id}'")
        reasons = self._wait_reasons()
        while True:
            batch = await self._read()
            yield await self._status(batch, reasons)
            if _is_over(batch):
                return
            with contextlib.suppress(TimeoutError):
                await wait_until_over(self._client, self.id, self._read_if_over, pause, f"batch '{self.id}'")

    def items(self, state: ItemState | None = None) -> AsyncIterator[BatchItem[Result]]:
        """Iterate over the started items, or those in `state`, ordered by number."""
        return read_items(self._client.store, self._definition, self.id, state)

    async def item(self, id: Id) -> BatchItem[Result]:
        """Return the started item with this id.

        Raises:
            NotFoundError: the batch has started no such item.
        """
        named = str(id)
        found = await self._client.store.find_item(self.id, named)
        if found is None:
            await self._read()
            raise NotFoundError(no_such_item(self.id, named))
        return batch_item(self._definition, found)

    async def results(self) -> AsyncIterator[tuple[str, Result]]:
        """Yield id and result of every succeeded item, ordered by number; each result as `execute` returned it.

        An item that a retry has run has the result of that; those that only a retry has run come last.
        """
        batch, store = await self._read(), self._client.store
        retries = await read_retries(store, batch)
        async for items in latest_items(store, batch, retries, "succeeded", ITEMS_PER_READ):
            for item in items:
                yield item.id, cast("Result", batch_item(self._definition, item).result)

    async def retry(
        self,
        *,
        failed: bool | None = None,
        missing: bool = False,
        ids: Sequence[Id] | None = None,
        force: bool = False,
        restart: bool = False,
    ) -> "BatchRetry[Result]":
        """Run a part of the batch again; without arguments what has failed.

        `failed` lets the dead letters of the batch and of its retries go on where they failed: recorded steps stay, and
        the batch is open again; with `restart` from the beginning. The others start a batch that is linked to this one:
        `missing` runs what the source has and the batch has not, `ids` these items. Of the ids, those that have
        succeeded are skipped, as are those that the ledger holds; `force` runs them too. An item that is under way is
        not started a second time.

        Raises:
            InputError: the arguments exclude each other, the batch has no such item, or it still walks its source.
        """
        request = check_retry(failed=failed, missing=missing, ids=ids, force=force, restart=restart)
        done = await Retries(self._client, self._runtime).retry(await self._read(), request)
        linked = done.linked and BatchHandle[Result](
            done.linked.id, self._runtime, deduplicated=done.linked.deduplicated
        )
        return BatchRetry(
            batch=self,
            linked=linked,
            resumed=done.resumed,
            skipped=done.skipped,
            lost=done.lost,
            _reopened=tuple(BatchHandle[Result](id, self._runtime) for id in done.reopened),
        )

    async def retries(self) -> "list[BatchHandle[Result]]":
        """Return the handles of the batches that `retry` has linked to this one, in the order in which they began."""
        return [BatchHandle(it.id, self._runtime) for it in await read_retries(self._client.store, await self._read())]

    async def cancel(self) -> bool:
        """Cancel the batch: no item starts any more, and running items end at their next step.

        Return False if the batch had ended before.
        """
        return await self._client.cancel_batch(self.id)

    async def export(
        self, folder: str | PathLike[str], format: ExportFormat = "jsonl", state: ItemState | None = None
    ) -> Manifest:
        """Write the started items, or those in `state`, into a folder: `items.jsonl` or `.csv`, and `manifest.json`.

        A line has the item's id as `key`, `number`, `outcome`, `result`, `error`, `attempts` and `endedAt`; secret
        values are masked. The manifest, which is returned, has the batch's counts, and the hash of the file.

        Raises:
            InputError: the folder has an export already, or cannot be written, or there is no such format.
        """
        return await Export(self._client.store, await self._read(), check_format(format), state).write(Path(folder))

    async def pause(self) -> bool:
        """Pause the batch: no item starts until `resume`; those under way go on to their end.

        Return False if the batch had ended before, or is being cancelled.
        """
        return await self._client.pause_batch(self.id)

    async def set_failure_budget(self, budget: FailureBudget | None) -> bool:
        """Set the failure budget of the batch, or remove it with None; it counts from now on.

        A batch that is paused stays paused. Return False if the batch had ended before, or is being cancelled.

        Raises:
            InputError: `budget` is not a `FailureBudget`.
        """
        return await self._client.set_failure_budget(self.id, check_failure_budget(budget))

    async def resume(self) -> bool:
        """Undo `pause`, and a pause by the failure budget. Return False if the batch was not paused.

        Its failure budget counts anew.
        """
        return await self._client.resume_batch(self.id)

    async def set_priority(self, priority: int) -> bool:
        """Change the priority, from 0 to 9: of the batches of a workflow, those with the highest start first.

        Return False if the batch had ended before, or is being cancelled.

        Raises:
            InputError: it is not a whole number from 0 to 9.
        """
        check_priority(priority)
        return await self._client.set_batch_priority(self.id, priority)

    async def approve(self) -> bool:
        """Let the batch go on after its canary, or already while that runs. `resume` does not approve it.

        Return False if it needs no approval: it had no canary, was approved or has ended before, or is being cancelled.
        """
        return await self._client.approve_batch(self.id)

    async def _describe_wait(self) -> str:
        """Return in one sentence how far the batch is, and why it goes no further."""
        try:
            status = await self._status(await self._read(), self._wait_reasons())
        except StoreUnavailable as error:
            return f"the store is away: {error}"
        parts = [f"{status.counts.ended:,} of {status.total:,} items have ended", failing_text(status)]
        parts += [status.wait_reason.sentence] if status.wait_reason else []
        return "; ".join(part for part in parts if part)

    def _wait_reasons(self) -> WaitReasons:
        return WaitReasons(self._client, self._definition)

    async def _status(self, batch: Batch, reasons: WaitReasons) -> BatchStatus:
        reason = await reasons.find(batch)
        now, walk_first = self._client.now(), self._definition.walk_first
        retries = await read_retries(self._client.store, batch)
        return BatchStatus.of(batch, now, walk_first=walk_first, wait_reason=reason, retries=retries)

    async def _read(self) -> Batch:
        batch = await self._client.store.batch(self.id)
        if batch is None:
            raise NotFoundError(f"there is no batch '{self.id}' of '{self.workflow}'; retention may have removed it")
        return batch

    async def _read_if_over(self) -> Batch | None:
        batch = await self._read()
        return batch if _is_over(batch) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRetry(Generic[Result]):
    """The work that a retry of `batch` has begun.

    `resumed` dead letters go on. `linked` is the batch that runs other items, or None; it is `deduplicated` if the same
    retry was under way. `skipped` ids have succeeded before. `lost` items have failed and cannot run again: neither
    their dead letters are kept, nor can the workflow load them.
    """

    batch: BatchHandle[Result]
    linked: BatchHandle[Result] | None = None
    resumed: int = 0
    skipped: int = 0
    lost: int = 0
    _reopened: tuple[BatchHandle[Result], ...] = field(default=(), repr=False)

    async def wait(self, timeout: Duration | None = None, *, check: bool = False) -> BatchSummary:
        """Return once all that the retry has begun has ended: the summary of the linked batch, or else of `batch`.

        Raises:
            TimeoutError, ConfigurationError, InputError, StoreUnavailable, BatchFailed: as for `BatchHandle.wait`.
        """
        limit, last = timeout_seconds(timeout), self.linked or self.batch
        others = [it for it in self._reopened if it.id != last.id]
        try:
            async with asyncio.timeout(limit):
                for handle in others:
                    await handle.wait()
                return await last.wait(check=check)
        except TimeoutError:
            # The sentence is that of the batch which has not ended.
            for handle in others:
                await handle.wait(0)
            return await last.wait(0, check=check)


def no_such_item(batch: str, id: str) -> str:
    """Return one sentence about an item that a batch has not started."""
    return f"the batch '{batch}' has started no item '{id}'; ids are compared as text"


def _is_over(batch: Batch) -> bool:
    return batch.items_ended and not batch.working
