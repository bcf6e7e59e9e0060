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
from batchflow.core.flow import FlowControl
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

    A canary is started in order: a page starts as many items as are missing, and leaves the rest of it to a message,
    which sees how many of them were new; once as many have started as the canary has, the rest and the next page are
    held until the batch is approved. With `walk_first` the first items of the walk go along with its pages, and that
    message comes after the last of them.
    """

    def __init__(self, runtime: WorkflowRuntime) -> None:
        self._runtime = runtime
        self._log = runtime.paginate_log
        self._definition = runtime.definition
        self._has_filter = "filter" in runtime.definition.defined_hooks
        self._item_keys = runtime.item_keys
        flow = runtime.definition.paginate_flow
        self._unlimited = flow.parallelism is None and flow.rate is None
        self._fetched_codec: Codec[FetchedPage] = Codec.of(FetchedPage)
        self._selected_codec: Codec[list[str] | SelectedItems] = Codec.of(list[str] | SelectedItems)

    async def handle(self, ctx: LayerContext[Any]) -> str:
        """Handle one paginate message."""
        with self._runtime.layer_scope(ctx, self._log):
            body = self._runtime.payloads.read_page(ctx.claim.body)
            if body.rest:
                return await self._rest(ctx, body)
            if body.item_ids is not None and not body.canary:
                return await self._chunk(ctx, body, body.item_ids)
            return await self._page(ctx, body)

    async def _chunk(self, ctx: LayerContext[Any], body: PaginateBody, ids: list[str]) -> str:
        batch = ctx.claim.batch or ""
        self._log.debug("Processing specific itemIds", count=len(ids), batch=batch)
        selected = _items_of(body)
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
            if body.canary and body.item_ids:
                ctx.effects += (Publish((self._carried(ctx, body, _items_of(body)),)),)
            self._end_walk(ctx, body)
            return answers.walk_complete()
        needed = await self._filter_step(ctx, body, page)
        skipped = len(page.ids) - len(needed.ids)
        self._log.debug("After filtering", need=len(needed.ids), skipped=skipped, batch=batch)
        to_start = needed.first(body.remaining)
        count = len(to_start.ids)
        is_end = page.next_cursor is None or body.remaining == count
        walked = body.model_copy(
            update={
                "probe": probe,
                "remaining": None if body.remaining is None else body.remaining - count,
                "eligible": body.eligible + page.named,
                "to_process": body.to_process + count,
            }
        )
        next_cursor = None if is_end or page.ahead else page.next_cursor
        if not body.canary:
            chunks, messages = await self._start_or_chunk(ctx, body, to_start, self._first(body), is_end=is_end)
            if next_cursor is not None:
                messages += (self._next_page(ctx, walked, next_cursor),)
        elif self._definition.walk_first:
            chunks, messages = self._carry_canary(ctx, walked, to_start, next_cursor)
        else:
            rest = walked.model_copy(update={"cursor": next_cursor, "first": self._first(body)})
            messages = await self._start_canary(ctx, rest, to_start)
            chunks = self._count_chunks(to_start)
        ctx.effects += (RecordPage(batch, page.named, skipped, page.duplicates, len(needed.ids) - count, chunks),)
        if is_end:
            self._end_walk(ctx, walked)
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
        has_bound = body.remaining is not None or body.canary > 0
        ahead = defers and body.page > 0 and not body.force and not has_bound and not self._definition.walk_first

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

    # The canary

    async def _rest(self, ctx: LayerContext[Any], body: PaginateBody) -> str:
        """Go on with a page that was left at some item: of its canary, or of the batch once it is approved."""
        selected = _items_of(body)
        messages = await self._start_canary(ctx, body, selected)
        if messages:
            ctx.effects += (Publish(messages),)
        return answers.chunk(len(selected.ids))

    async def _start_canary(
        self, ctx: LayerContext[Any], body: PaginateBody, selected: SelectedItems
    ) -> tuple[Message, ...]:
        """Start items of a canary, numbered from `body.first` on; return the messages of what is left.

        That are the other items, and the page at `body.cursor`. They are held once as many items have started as the
        canary has.
        """
        id = ctx.claim.batch or ""
        batch = await self._runtime.client.store.batch(id)
        ahead = body.model_copy(update={"item_ids": None, "marked": (), "data": (), "first": 0, "rest": False})
        if batch is None or not batch.needs_approval:
            _, messages = await self._start_or_chunk(ctx, body, selected, body.first, is_end=True)
            return messages + self._page_ahead(ctx, ahead.model_copy(update={"canary": 0}))
        missing = max(0, body.canary - batch.counts.started)
        started, left = selected.first(missing), selected.after(missing)
        if started.ids:
            await self._start_items(ctx, body, body.first, started)
        if not left.ids:
            return self._page_ahead(ctx, ahead)
        if missing:
            return (self._left_over(ctx, body, left, body.first + len(started.ids)),)
        messages = tuple(self._runtime.messages.chunks(id, body, left, body.first, held=True))
        return messages + self._page_ahead(ctx, ahead.model_copy(update={"canary": 0}), held=True)

    def _page_ahead(self, ctx: LayerContext[Any], body: PaginateBody, *, held: bool = False) -> tuple[Message, ...]:
        return () if body.cursor is None else (self._next_page(ctx, body, body.cursor, held=held),)

    def _left_over(self, ctx: LayerContext[Any], body: PaginateBody, items: SelectedItems, first: int) -> Message:
        update: dict[str, Any] = {**_fields_of(items), "first": first, "rest": True}
        return self._runtime.messages.rest(ctx.claim.batch or "", body.model_copy(update=update), ctx.claim.headers)

    def _carry_canary(
        self, ctx: LayerContext[Any], body: PaginateBody, selected: SelectedItems, next_cursor: str | None
    ) -> tuple[int, tuple[Message, ...]]:
        """Hold the items of a page, or pass the first ones of the walk on to the next page.

        All items of a page go the same way. Return the number of chunks, and the messages.
        """
        carried, chunks, messages = _items_of(body), 0, tuple[Message, ...]()
        if len(carried.ids) < body.canary:
            carried = carried.joined(selected)
        else:
            found = self._runtime.messages.chunks(ctx.claim.batch or "", body, selected, self._first(body), held=True)
            messages = tuple(found)
            chunks = len(messages)
        if next_cursor is not None:
            walked = body.model_copy(update=_fields_of(carried))
            return chunks, (*messages, self._next_page(ctx, walked, next_cursor))
        return chunks, (*messages, self._carried(ctx, body, carried)) if carried.ids else messages

    def _carried(self, ctx: LayerContext[Any], body: PaginateBody, items: SelectedItems) -> Message:
        """Return the message of the first items of a walk that has ended."""
        # They are numbered from 0 on, as are those of the first pages, which had no chunks of their own.
        body = body.model_copy(update={"cursor": None, "page": 0})
        return self._left_over(ctx, body, items, 0)

    def _count_chunks(self, selected: SelectedItems) -> int:
        count, size = len(selected.ids), self._definition.chunk_size
        return -(-count // size) if count > size else 0

    def _first(self, body: PaginateBody) -> int:
        """Return the number of the first item of a page."""
        return body.page * self._definition.page_size

    async def _start_or_chunk(
        self, ctx: LayerContext[Any], body: PaginateBody, selected: SelectedItems, first: int, *, is_end: bool
    ) -> tuple[int, tuple[Message, ...]]:
        """Start the first chunk of a page; return the number of its chunks, and the messages of the others.

        So the first items of a walk start two commits earlier than with a message, and without limits all of them do.
        With `walk_first` no item is started: every chunk is a message, held unless the walk ends here (`is_end`).
        """
        size, batch = self._definition.chunk_size, ctx.claim.batch or ""
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
        messages = tuple(self._runtime.messages.chunks(batch, body, selected, first, held=walk_first and not is_end))
        if walk_first:
            return chunks if chunks > 1 else 0, messages
        await self._start_items(ctx, body, first, selected.first(size))
        return chunks, messages[1:]

    async def _start_items(
        self, ctx: LayerContext[Any], body: PaginateBody, first: int, selected: SelectedItems
    ) -> int:
        """Start items, numbered from `first` on; return how many."""
        batch = ctx.claim.batch or ""
        limits = await self._item_flow_step(ctx, selected)
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
            flows = tuple(limits[id] for id in ids) if limits else ()
            effect = StartItems(batch, first, ids, fresh.marked, fresh.data, already_processed, again, flows)
            ctx.effects += (effect,)
        if self._log.verbose:
            for id in fresh.ids:
                self._log.debug(f"{self._definition.steps.execute}:{id}", batch=batch)
        return len(fresh.ids)

    async def _item_flow_step(self, ctx: LayerContext[Any], selected: SelectedItems) -> dict[str, FlowControl | None]:
        """Call `item_flow` for these items as a step; return the limits by id, or nothing without the hook."""
        if self._item_keys is None or not selected.ids:
            return {}
        found = await ctx.run_with_codec(
            self._definition.steps.item_flow,
            self._item_keys.codec,
            self._item_keys.find,
            ctx.payload,
            selected.ids,
            selected.brought,
            defer_to_settlement=True,
        )
        return dict(zip(selected.ids, found.flows(), strict=True))

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

    def _next_page(
        self, ctx: LayerContext[Any], walked: PaginateBody, cursor: str | None, *, held: bool = False
    ) -> Message:
        batch = ctx.claim.batch or ""
        self._log.debug("Scheduling next page", next_cursor=cursor, page=walked.page + 1, batch=batch)
        if self._log.verbose:
            self._log.debug(self._definition.steps.next_page, batch=batch)
        body = walked.model_copy(update={"cursor": cursor, "page": walked.page + 1})
        return self._runtime.messages.page(batch, body, ctx.claim.headers, held=held)

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


def _items_of(body: PaginateBody) -> SelectedItems:
    ids = body.item_ids or []
    return SelectedItems(ids, body.marked, dict(zip(ids, body.data, strict=True)) if body.data else None)


def _fields_of(items: SelectedItems) -> dict[str, Any]:
    return {"item_ids": items.ids, "marked": items.marked, "data": items.data}
