"""Retries of a batch: its dead letters go on, and other items run in a batch that is linked to it."""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

from pydantic_core import to_json

from batchflow.batch.arguments import Id, check_ids, check_source
from batchflow.batch.payloads import EntryBody
from batchflow.batch.runtime import WorkflowRuntime
from batchflow.batch.trigger import OpenedBatch, PreparedBatch, open_prepared
from batchflow.core.batch import Batch, Item
from batchflow.core.dead_letters import DeadLetter, DeadLetterQuery
from batchflow.core.ids import completes, item_run_id
from batchflow.core.ports import Client
from batchflow.errors import InputError, NotFoundError
from batchflow.serve.validation import format_value

RetryKind: TypeAlias = Literal["failed", "missing", "ids"]

_SLICE = 200
# The dead letters that one transaction changes: others wait only a moment.
_IDS_PER_READ = 1_000
_NAMED_IDS = 3
# The unknown ids that a sentence names.


class RetryRequest(NamedTuple):
    """The items of a batch to retry: those that failed, what is missing, or `ids`."""

    kind: RetryKind
    ids: Iterable[Id] = ()
    force: bool = False
    restart: bool = False


class RetryResult(NamedTuple):
    """The work that a retry has begun.

    `resumed` dead letters go on, in the batches `reopened`. `linked` is the batch that runs the others. `skipped` ids
    have succeeded. `lost` items have failed, and cannot run again: their dead letters are gone, and so are the items.
    """

    resumed: int = 0
    reopened: tuple[str, ...] = ()
    linked: OpenedBatch | None = None
    skipped: int = 0
    lost: int = 0


def check_retry(
    *, failed: object = None, missing: object = False, ids: Iterable[Id] | None = None, force: object, restart: object
) -> RetryRequest:
    """Check the arguments of a retry; nothing selected means what has failed.

    Raises:
        InputError: several are selected, or none; or an option does not go with what is selected.
    """
    for name, value in {"missing": missing, "force": force, "restart": restart}.items():
        if not isinstance(value, bool):
            raise InputError(option=name, got=format_value(value), want="write True or False")
    if failed is not None and not isinstance(failed, bool):
        raise InputError(option="failed", got=format_value(failed), want="write True or False")
    selected: dict[RetryKind, bool] = {"failed": failed is True, "missing": missing is True, "ids": ids is not None}
    given: list[RetryKind] = [name for name, is_given in selected.items() if is_given]
    if len(given) > 1:
        raise InputError("exclude each other", option=given[0], other=given[1], want="give one of them")
    if not given and failed is False:
        raise InputError("selects nothing", option="failed", want="write failed=True, missing=True or ids=[…]")
    kind: RetryKind = given[0] if given else "failed"
    if force and kind == "failed":
        want = "leave it out: they run again whatever the ledger holds"
        raise InputError("is not for failed items", option="force", want=want)
    if restart and kind != "failed":
        want = "leave it out: others run from the beginning"
        raise InputError("is for failed items", option="restart", want=want)
    return RetryRequest(kind, () if ids is None else ids, force is True, restart is True)


class Retries:
    """Retries items of batches. Without a `runtime`, for a workflow that the app does not have, dead letters only."""

    def __init__(self, client: Client, runtime: WorkflowRuntime | None) -> None:
        self._client = client
        self._store = client.store
        self._runtime = runtime

    async def retry(self, batch: Batch, request: RetryRequest) -> RetryResult:
        """Carry out a retry of a batch.

        Raises:
            InputError: the batch has not walked its source, has no such items, or its workflow cannot run them.
            NotFoundError: it is itself a retry of a batch that retention has removed.
        """
        if request.kind == "failed":
            return await self._retry_failed(batch, restart=request.restart)
        runtime, first = self._require_runtime(batch), await self._first(batch)
        if request.kind == "missing":
            return RetryResult(linked=await self._start_missing(runtime, first, force=request.force))
        ids = check_ids(runtime.definition, request.ids) or []
        return await self._start_ids(runtime, first, ids, force=request.force)

    # What has failed

    async def _retry_failed(self, batch: Batch, *, restart: bool) -> RetryResult:
        family = [batch] if batch.retry_of is not None else [batch, *await self._store.retries(batch.id)]
        resumed, reopened = 0, list[str]()
        for member in family:
            count = await self._resume(member.id, restart=restart)
            resumed += count
            reopened += [member.id] if count else []
        gone = [id for member in family for id in await self._without_letters(batch.retry_of or batch.id, member)]
        if not gone:
            return RetryResult(resumed, tuple(reopened))
        runtime = self._runtime
        if runtime is None or runtime.definition.needs_items:
            return RetryResult(resumed, tuple(reopened), lost=len(gone))
        started = await self._start_ids(runtime, await self._first(batch), gone, force=False, past_ledger=True)
        return started._replace(resumed=resumed, reopened=tuple(reopened))

    async def _resume(self, batch: str, *, restart: bool) -> int:
        """Let the dead letters of a batch go on that are there by now; return how many."""
        query = DeadLetterQuery(batch=batch, until=self._client.now() + 1)
        count, completions = 0, list[DeadLetter]()
        before: tuple[int, str] | None = None
        while letters := await self._store.dead_letters(query, _SLICE, before):
            before = letters[-1].died_at, letters[-1].id
            completions += [it for it in letters if completes(it.id, batch)]
            count += await self._redrive([it for it in letters if not completes(it.id, batch)], restart=restart)
        # A batch that goes on completes again by itself.
        return count or await self._redrive(completions[:1], restart=restart)

    async def _redrive(self, letters: Sequence[DeadLetter], *, restart: bool) -> int:
        # Commands of one moment share a transaction.
        redrive = partial(self._client.dead_letter_store.redrive, restart=restart, retry=None, flow=None)
        return sum(id is not None for id in await asyncio.gather(*(redrive(it.id) for it in letters)))

    async def _without_letters(self, first: str, batch: Batch) -> list[str]:
        """The ids of failed items of a batch that no retry has started again and that have no dead letter."""
        found: list[str] = []
        after = -1
        while items := await self._store.items(batch.id, state="failed", after=after, limit=_SLICE, results=False):
            after = items[-1].number
            retried = await self._store.retried_items(first, [it.id for it in items])
            latest = [it for it in items if _is_latest(batch.id, it, retried.get(it.id))]
            letters = await asyncio.gather(
                *(self._store.dead_letter(item_run_id(batch.id, it.number)) for it in latest)
            )
            found += [item.id for item, letter in zip(latest, letters, strict=True) if letter is None]
        return found

    # A linked batch

    async def _first(self, batch: Batch) -> Batch:
        """The batch that a retry of this one belongs to: a retry has none of its own."""
        if batch.retry_of is None:
            return batch
        first = await self._store.batch(batch.retry_of)
        if first is None:
            raise NotFoundError(
                f"the batch '{batch.id}' is a retry of '{batch.retry_of}', which retention has removed; trigger the "
                f"workflow with ids"
            )
        return first

    def _require_runtime(self, batch: Batch) -> WorkflowRuntime:
        if self._runtime is None:
            raise InputError(f"this app has no workflow '{batch.workflow}', which 'missing' and 'ids' need", field="id")
        return self._runtime

    async def _start_missing(self, runtime: WorkflowRuntime, first: Batch, *, force: bool) -> OpenedBatch:
        check_source(runtime.definition)
        if first.named:
            raise InputError(
                f"the batch '{first.id}' has run ids that its trigger listed, so nothing of the source is missing there"
            )
        if not first.items_ended and first.state != "sealed":
            raise InputError(f"the batch '{first.id}' still walks over its source; wait until it has, or cancel it")
        # A batch that was forced goes past the filter, and so does what is missing there.
        every = force or first.force
        prepared = self._prepare(runtime, first, EntryBody(force=every, missing=True), "missing")
        return await open_prepared(runtime, prepared)

    async def _start_ids(
        self, runtime: WorkflowRuntime, first: Batch, ids: Sequence[str], *, force: bool, past_ledger: bool = False
    ) -> RetryResult:
        numbers, succeeded = await self._find(first, ids)
        if succeeded == len(ids) and not force:
            return RetryResult(skipped=succeeded)
        past_ledger = past_ledger or force or first.force or first.named
        entry = EntryBody(force=past_ledger, total=len(ids))
        digest = hashlib.sha256(to_json([force, past_ledger, list(ids)])).hexdigest()[:32]
        prepared = self._prepare(runtime, first, entry, digest)
        batch = replace(prepared.batch, force=force, named=past_ledger)
        again = [numbers.get(id, -1) for id in ids]
        opened = await open_prepared(runtime, prepared._replace(batch=batch, ids=ids, again=again))
        return RetryResult(linked=opened, skipped=0 if force else succeeded)

    async def _find(self, first: Batch, ids: Sequence[str]) -> tuple[dict[str, int], int]:
        """The numbers of items in a batch, by id, and how many of the ids have succeeded there or in a retry.

        Raises:
            InputError: neither the batch nor a retry has started one of them.
        """
        numbers, known, succeeded = dict[str, int](), set[str](), 0
        for start in range(0, len(ids), _IDS_PER_READ):
            part = ids[start : start + _IDS_PER_READ]
            own = {it.id: it for it in await self._store.items_with_ids(first.id, part)}
            retried = {id: item for id, (_, item) in (await self._store.retried_items(first.id, part)).items()}
            numbers |= {id: it.number for id, it in own.items()}
            known |= own.keys() | retried.keys()
            succeeded += sum(it.state == "succeeded" for it in (own | retried).values())
        if unknown := [id for id in ids if id not in known]:
            named = ", ".join(f"'{id}'" for id in unknown[:_NAMED_IDS])
            more = f" and {len(unknown) - _NAMED_IDS:,} more" if len(unknown) > _NAMED_IDS else ""
            raise InputError(
                f"the batch '{first.id}' has started no item {named}{more}; retry with missing, or trigger the "
                f"workflow with these ids",
                field="ids",
            )
        return numbers, succeeded

    def _prepare(self, runtime: WorkflowRuntime, first: Batch, entry: EntryBody, key: str) -> PreparedBatch:
        """Prepare a batch that is linked to the first; while one with the same `key` has not ended, it is that one."""
        params = runtime.read_params(first.params)
        opened = runtime.messages.batch(
            self._client.new_id("batch"), first.params, runtime.definition.ledger_name(params), None
        )
        batch = replace(
            opened,
            force=entry.force,
            label=first.label,
            headers=first.headers,
            priority=first.priority,
            notify_url=first.notify_url,
            failure_budget=first.failure_budget,
            open_dedup=f"retry:{first.id}:{key}",
            retry_of=first.id,
        )
        return PreparedBatch(batch, entry, (), 0, is_known_id=False)


def _is_latest(batch: str, item: Item, retried: tuple[str, Item] | None) -> bool:
    return retried is None or (retried[0], retried[1].number) == (batch, item.number)
