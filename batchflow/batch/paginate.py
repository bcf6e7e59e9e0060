"""Layer 2, one run per page or chunk, fetches and filters ids, starts their items and publishes the next page."""

from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from batchflow.batch import answers
from batchflow.batch.hook_scope import call_ledger
from batchflow.batch.payloads import PaginateBody
from batchflow.batch.runtime import WorkflowRuntime
from batchflow.batch.source import FetchedPage, SelectedItems
from batchflow.batch.status import ROWS_MOVED
from batchflow.core.codec import Codec
from batchflow.core.message import Message
from batchflow.core.settlement import FinishWalk, Publish, RecordPage, StartItems
from batchflow.serve.context import LayerContext

MAX_STARTED_AT_ONCE = 1_000
"""The most items of a page that start in one transaction if its chunks have no limits."""


class PaginateLayer:
    """Handles the messages of `paginate-{entities}`.

    The items of a page are numbered from `page × page_size` on. A page starts its first chunk itself. Its items, the
    message of the next page and the result of its last step are written together with its settlement. An empty page
    ends the walk unless it has a next cursor: a source that filters behind its cursor may have an empty page in the
    middle, and the items after it must not be lost. With `walk_first` every chunk is a message that is held until the
    walk has ended.
    """

    def __init__(self, runtime: WorkflowRuntime) -> None:
        self._runtime = runtime
        self._log = runtime.paginate_log
        self._definition = runtime.definition
        self._has_filter = "filter" in runtime.definition.defined_hooks
        flow = runtime.definition.paginate_flow
        self._unlimited = flow.parallelism is None and flow.rate is None
        self._fetched_codec: Codec[FetchedPage] = Codec.of(FetchedPage)
        self._selected_codec: Codec[list[str] | SelectedItems] = Codec.of(list[str] | SelectedItems)

    async def handle(self, ctx: LayerContext[Any]) -> str:
        """Handle one paginate message."""
        with self._runtime.layer_scope(ctx, self._log):
            body = self._runtime.payloads.read_page(ctx.claim.body)
            if body.item_ids is not None:
                return await self._chunk(ctx, body, body.item_ids)
            return await self._page(ctx, body)

    async def _chunk(self, ctx: LayerContext[Any], body: PaginateBody, ids: list[str]) -> str:
        batch = ctx.claim.batch or ""
        self._log.debug("Processing specific itemIds", count=len(ids), batch=batch)
        selected = SelectedItems(ids, body.marked, dict(zip(ids, body.data, strict=True)) if body.data else None)
        if body.named:
            ctx.effects += (RecordPage(batch, len(ids), chunks=1),)
        started = await self._start_items(ctx, body, body.first, selected)
        return answers.chunk(started)

    async def _page(self, ctx: LayerContext[Any], body: PaginateBody) -> str:
        batch, source = ctx.claim.batch or "", self._runtime.source
        page = await self._fetch_step(ctx, body)
        self._log.debug("Got batch", size=len(page.ids), next_cursor=page.next_cursor, page=body.page, batch=batch)
        # Before anything is started: a walk in a cycle fails here.
        probe = body.probe if page.next_cursor is None else source.advance(body.probe, page.next_cursor)
        if not page.named and page.next_cursor is None:
            ctx.effects += (RecordPage(batch, 0),)
            self._end_walk(ctx, body)
            return answers.walk_complete()
        needed = await self._filter_step(ctx, body, page)
        skipped = len(page.ids) - len(needed.ids)
        self._log.debug("After filtering", need=len(needed.ids), skipped=skipped, batch=batch)
        to_start = needed.first(body.remaining)
        count = len(to_start.ids)
        is_end = page.next_cursor is None or body.remaining == count
        chunks, messages = await self._start_or_chunk(ctx, body, to_start, is_end=is_end)
        ctx.effects += (RecordPage(batch, page.named, skipped, page.duplicates, len(needed.ids) - count, chunks),)
        walked = body.model_copy(
            update={
                "probe": probe,
                "remaining": None if body.remaining is None else body.remaining - count,
                "eligible": body.eligible + page.named,
                "to_process": body.to_process + count,
            }
        )
        if is_end:
            self._end_walk(ctx, walked)
        elif not page.ahead:
            messages += (self._next_page(ctx, walked, page.next_cursor),)
        if messages:
            ctx.effects += (Publish(messages),)
        return answers.page(count, skipped, page.next_cursor)

    async def _fetch_step(self, ctx: LayerContext[Any], body: PaginateBody) -> FetchedPage:
        """Fetch the page at the cursor as a step.

        The step needs a commit of its own only if code of the user's sees the page next. The first page has none, so
        that its items start earlier. Later pages are committed together with the message of the next page, which is
        fetched while the items of this one start. That is not possible if the next page depends on the items of this
        one, nor if the filter may fail: it would fail on page after page.
        """
        defers = body.force or not (self._has_filter or self._runtime.client.ledger)
        ahead = (
            defers and body.page > 0 and not body.force and body.remaining is None and not self._definition.walk_first
        )

        def publish_next_page(page: FetchedPage) -> tuple[Publish, ...]:
            if not page.ahead:
                return ()
            probe = self._runtime.source.advance(body.probe, page.next_cursor or "")
            walked = body.model_copy(update={"probe": probe, "eligible": body.eligible + page.named})
            return (Publish((self._next_page(ctx, walked, page.next_cursor),)),)

        return await ctx.run_with_codec(
            self._definition.steps.get_batch,
            self._fetched_codec,
            self._fetch,
            ctx.payload,
            body.cursor,
            ahead,
            ctx.claim.batch if body.missing else None,
            defer_to_settlement=defers and not ahead,
            effects=publish_next_page if ahead else None,
        )

    async def _fetch(self, params: BaseModel, cursor: str | None, ahead: bool, retry: str | None) -> FetchedPage:
        page = await self._runtime.source.fetch(params, cursor, self._definition.page_size)
        if retry is not None:
            # With the step: what another retry starts meanwhile would be skipped by a replay.
            page = page.only(await self._runtime.client.store.missing_items(retry, page.ids))
        return replace(page, ahead=True) if ahead and page.next_cursor is not None else page

    async def _filter_step(self, ctx: LayerContext[Any], body: PaginateBody, page: FetchedPage) -> SelectedItems:
        if body.force or not page.ids:
            return SelectedItems(page.ids, brought=page.by_id)
        # All steps are recorded before an external ledger is read.
        defers = self._runtime.client.ledger is None
        found = await ctx.run_with_codec(
            self._definition.steps.filter_existing,
            self._selected_codec,
            self._filter_page,
            ctx.payload,
            page.ids,
            defer_to_settlement=defers,
        )
        return replace(found if isinstance(found, SelectedItems) else SelectedItems(found), brought=page.by_id)

    async def _filter_page(self, params: BaseModel, ids: list[str]) -> list[str] | SelectedItems:
        """Filter the ids of a page, and find those of the result that the ledger contained before."""
        source, client = self._runtime.source, self._runtime.client
        if not self._has_filter:
            return await source.filter(params, ids)
        # Read before the filter runs: marks that are set meanwhile were not known to the filter.
        processed = await self._read_ledger(client.marks.processed(self._definition.ledger_name(params), ids))
        needed = await source.filter(params, ids)
        marked = tuple(id for id in needed if id in processed)
        return SelectedItems(needed, marked) if marked else needed

    async def _read_ledger(self, call: Awaitable[frozenset[str]]) -> frozenset[str]:
        return await (call if self._runtime.client.ledger is None else call_ledger(call))

    async def _start_or_chunk(
        self, ctx: LayerContext[Any], body: PaginateBody, selected: SelectedItems, *, is_end: bool
    ) -> tuple[int, tuple[Message, ...]]:
        """Start the first chunk of a page; return the number of its chunks, and the messages of the others.

        So the first items of a walk start two commits earlier than with a message, and without limits all of them do.
        With `walk_first` no item is started: every chunk is a message, held unless the walk ends here (`is_end`).
        """
        first, size, batch = body.page * self._definition.page_size, self._definition.chunk_size, ctx.claim.batch or ""
        walk_first = self._definition.walk_first
        if len(selected.ids) <= size and not walk_first:
            await self._start_items(ctx, body, first, selected)
            return 0, ()
        chunks = -(-len(selected.ids) // size)
        if chunks > 1:
            self._log.debug("Fanout mode", chunks=chunks, chunk_size=size, total=len(selected.ids), batch=batch)
        if self._log.verbose:
            for number in range(1, chunks + 1):
                self._log.debug(f"{self._definition.steps.fanout}:{number}/{chunks}", batch=batch)
        if self._unlimited and not walk_first and len(selected.ids) <= MAX_STARTED_AT_ONCE:
            await self._start_items(ctx, body, first, selected)
            return chunks, ()
        messages = tuple(self._runtime.messages.chunks(batch, body, selected, held=walk_first and not is_end))
        if walk_first:
            return chunks if chunks > 1 else 0, messages
        await self._start_items(ctx, body, first, selected.first(size))
        return chunks, messages[1:]

    async def _start_items(
        self, ctx: LayerContext[Any], body: PaginateBody, first: int, selected: SelectedItems
    ) -> int:
        """Start items, numbered from `first` on; return how many."""
        batch = ctx.claim.batch or ""
        fresh = selected
        # A trigger that lists ids goes past the ledger, a retry that lists them only if it is forced.
        asks_ledger = not body.force and (not body.named or bool(body.again))
        if self._runtime.client.ledger is not None and asks_ledger:
            fresh = await self._without_processed(self._definition.ledger_name(ctx.payload), selected)
        already_processed = len(selected.ids) - len(fresh.ids)
        if selected.ids:
            numbers = dict(zip(selected.ids, body.again, strict=True)) if body.again else {}
            again = tuple(numbers[id] for id in fresh.ids) if numbers else ()
            ids = tuple(fresh.ids)
            effect = StartItems(batch, first, ids, fresh.marked, fresh.data, already_processed, again)
            ctx.effects += (effect,)
        if self._log.verbose:
            for id in fresh.ids:
                self._log.debug(f"{self._definition.steps.execute}:{id}", batch=batch)
        return len(fresh.ids)

    async def _without_processed(self, ledger: str, selected: SelectedItems) -> SelectedItems:
        """Leave out the items that an external ledger contains by now.

        The store's own ledger may still contain ids that the external one has forgotten. The external ledger decides
        on ids that are in the own one before it is read; the store leaves out those that are added later.
        """
        client = self._runtime.client
        own_processed = await client.store.processed(ledger, selected.ids)
        expected = frozenset(selected.marked)
        unsure = [id for id in selected.ids if id not in expected]
        processed = await call_ledger(client.marks.processed(ledger, unsure)) if unsure else frozenset[str]()
        remaining = selected.without(processed)
        return replace(remaining, marked=tuple(id for id in remaining.ids if id in expected or id in own_processed))

    def _next_page(self, ctx: LayerContext[Any], walked: PaginateBody, cursor: str | None) -> Message:
        batch = ctx.claim.batch or ""
        self._log.debug("Scheduling next page", next_cursor=cursor, page=walked.page + 1, batch=batch)
        if self._log.verbose:
            self._log.debug(self._definition.steps.next_page, batch=batch)
        body = walked.model_copy(update={"cursor": cursor, "page": walked.page + 1})
        return self._runtime.messages.page(batch, body, ctx.claim.headers)

    def _end_walk(self, ctx: LayerContext[Any], walked: PaginateBody) -> None:
        """End the walk: the source has no more pages, or the limit of the trigger is reached."""
        batch = ctx.claim.batch or ""
        self._log.debug("No more pages", batch=batch)
        if walked.counted is not None and walked.eligible < walked.counted:
            self._log.warning(
                "The pages have named fewer items than count said",
                counted=walked.counted,
                named=walked.eligible,
                why=ROWS_MOVED,
                batch=batch,
            )
        if self._definition.walk_first:
            ctx.effects += (FinishWalk(batch, walked.to_process),)
            entry = self._runtime.entry_log
            entry.info("Total eligible items", total=walked.eligible, batch=batch)
            entry.info("Check result", to_process=walked.to_process, batch=batch)
            if walked.eligible and not walked.to_process:
                entry.info("All items already processed", total=walked.eligible, batch=batch)
