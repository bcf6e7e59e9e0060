"""Layer 2, one run per page and one per chunk: fetch, filter, split, start, go on to the next page."""

from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from batchflow.batch import answers
from batchflow.batch.layers import Layers
from batchflow.batch.ledger import patiently
from batchflow.batch.payloads import PaginateBody
from batchflow.batch.summary import MOVED
from batchflow.batch.walk import Fetched, Picked
from batchflow.core.codec import Codec
from batchflow.core.message import Message
from batchflow.core.settlement import Page, Publish, StartItems, Walked
from batchflow.serve.context import LayerContext

TOGETHER = 1_000
"""So many items of a page start in one transaction at most, where nothing paces its chunks."""


class PaginateLayer:
    """Handles the messages of `paginate-{entities}`.

    A page's items are numbered from `page × page_size` on. The first chunk is started by the page itself. Everything a
    page starts, the next page included, is written with its settlement, and so is the outcome of its last step. An
    empty page ends the walk unless it names a next cursor: a source that filters behind its cursor may have an empty
    page in the middle, and no item after it is lost. With `walk_first` nothing starts before the walk has ended: every
    chunk is a message, held back until then.
    """

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._log = layers.paginate_log
        self._definition = layers.definition
        self._filters = "filter" in layers.definition.has
        flow = layers.definition.paginate_flow
        self._unlimited = flow.parallelism is None and flow.rate is None
        self._fetched: Codec[Fetched] = Codec.of(Fetched)
        self._picked: Codec[list[str] | Picked] = Codec.of(list[str] | Picked)

    async def handle(self, ctx: LayerContext[Any]) -> str:
        """Carry out one paginate message."""
        with self._layers.running(ctx, self._log):
            body = self._layers.payloads.read_page(ctx.claim.body)
            if body.item_ids is not None:
                return await self._chunk(ctx, body, body.item_ids)
            return await self._page(ctx, body)

    async def _chunk(self, ctx: LayerContext[Any], body: PaginateBody, ids: list[str]) -> str:
        batch = ctx.claim.batch or ""
        self._log.debug("Processing specific itemIds", count=len(ids), batch=batch)
        picked = Picked(ids, body.marked, dict(zip(ids, body.data, strict=True)) if body.data else None)
        if body.named:
            ctx.effects += (Page(batch, len(ids), chunks=1),)
        started = await self._start(ctx, body, body.first, picked)
        return answers.chunk(started)

    async def _page(self, ctx: LayerContext[Any], body: PaginateBody) -> str:
        batch, source = ctx.claim.batch or "", self._layers.source
        page = await self._got(ctx, body)
        self._log.debug("Got batch", size=len(page.ids), next_cursor=page.next_cursor, page=body.page, batch=batch)
        # Before anything is started: a walk that goes in circles ends here.
        probe = body.probe if page.next_cursor is None else source.advance(body.probe, page.next_cursor)
        if not page.named and page.next_cursor is None:
            ctx.effects += (Page(batch, 0),)
            self._end_walk(ctx, body)
            return answers.walk_complete()
        needed = await self._needed(ctx, body, page)
        skipped = len(page.ids) - len(needed.ids)
        self._log.debug("After filtering", need=len(needed.ids), skipped=skipped, batch=batch)
        wanted = needed.first(body.remaining)
        count = len(wanted.ids)
        ends = page.next_cursor is None or body.remaining == count
        chunks, messages = await self._hand_on(ctx, body, wanted, ends=ends)
        ctx.effects += (Page(batch, page.named, skipped, page.duplicates, len(needed.ids) - count, chunks),)
        walked = body.model_copy(
            update={
                "probe": probe,
                "remaining": None if body.remaining is None else body.remaining - count,
                "eligible": body.eligible + page.named,
                "to_process": body.to_process + count,
            }
        )
        if ends:
            self._end_walk(ctx, walked)
        elif not page.ahead:
            messages += (self._next_page(ctx, walked, page.next_cursor),)
        if messages:
            ctx.effects += (Publish(messages),)
        return answers.page(count, skipped, page.next_cursor)

    async def _got(self, ctx: LayerContext[Any], body: PaginateBody) -> Fetched:
        """The page at the cursor.

        Where no code of the user's is to see it, it needs no commit of its own. The first page of a walk goes without,
        so that its items start the earlier; those after it go with the message of their successor, which is fetched
        while the items of this one start. A walk whose next page depends on what is found in this one waits for that,
        and so does one whose filter may fail: it is not to fail on page after page.
        """
        rides = body.force or not (self._filters or self._layers.client.ledger)
        ahead = (
            rides and body.page > 0 and not body.force and body.remaining is None and not self._definition.walk_first
        )

        def following(page: Fetched) -> tuple[Publish, ...]:
            if not page.ahead:
                return ()
            probe = self._layers.source.advance(body.probe, page.next_cursor or "")
            walked = body.model_copy(update={"probe": probe, "eligible": body.eligible + page.named})
            return (Publish((self._next_page(ctx, walked, page.next_cursor),)),)

        return await ctx.run_with_codec(
            self._definition.steps.get_batch,
            self._fetched,
            self._fetch,
            ctx.payload,
            body.cursor,
            ahead,
            defer_to_settlement=rides and not ahead,
            effects=following if ahead else None,
        )

    async def _fetch(self, params: BaseModel, cursor: str | None, ahead: bool) -> Fetched:
        page = await self._layers.source.fetch(params, cursor, self._definition.page_size)
        return replace(page, ahead=True) if ahead and page.next_cursor is not None else page

    async def _needed(self, ctx: LayerContext[Any], body: PaginateBody, page: Fetched) -> Picked:
        if body.force or not page.ids:
            return Picked(page.ids, brought=page.by_id)
        # A ledger elsewhere is asked after it, and by then all is recorded.
        last = self._layers.client.ledger is None
        found = await ctx.run_with_codec(
            self._definition.steps.filter_existing,
            self._picked,
            self._pick,
            ctx.payload,
            page.ids,
            defer_to_settlement=last,
        )
        return replace(found if isinstance(found, Picked) else Picked(found), brought=page.by_id)

    async def _pick(self, params: BaseModel, ids: list[str]) -> list[str] | Picked:
        """What the filter names of a page, and which of it the ledger held before."""
        source, client = self._layers.source, self._layers.client
        if not self._filters:
            return await source.filter(params, ids)
        # Read first: what is marked while the filter works is not what the filter means.
        held = await self._asked(client.marks.processed(self._definition.ledger_of(params), ids))
        needed = await source.filter(params, ids)
        marked = tuple(id for id in needed if id in held)
        return Picked(needed, marked) if marked else needed

    async def _asked(self, asked: Awaitable[frozenset[str]]) -> frozenset[str]:
        return await (asked if self._layers.client.ledger is None else patiently(asked))

    async def _hand_on(
        self, ctx: LayerContext[Any], body: PaginateBody, picked: Picked, *, ends: bool
    ) -> tuple[int, tuple[Message, ...]]:
        """Start a page's items up to the first chunk's end; into how many chunks it is cut, and those that follow.

        The first items of a walk start two commits earlier than by way of a message, and so do all others where nothing
        paces the chunks. Where all is walked first none is started: every chunk follows, held back unless the walk
        `ends` here.
        """
        first, size, batch = body.page * self._definition.page_size, self._definition.chunk_size, ctx.claim.batch or ""
        walk_first = self._definition.walk_first
        if len(picked.ids) <= size and not walk_first:
            await self._start(ctx, body, first, picked)
            return 0, ()
        chunks = -(-len(picked.ids) // size)
        if chunks > 1:
            self._log.debug("Fanout mode", chunks=chunks, chunk_size=size, total=len(picked.ids), batch=batch)
        if self._log.verbose:
            for number in range(1, chunks + 1):
                self._log.debug(f"{self._definition.steps.fanout}:{number}/{chunks}", batch=batch)
        if self._unlimited and not walk_first and len(picked.ids) <= TOGETHER:
            await self._start(ctx, body, first, picked)
            return chunks, ()
        messages = tuple(self._layers.messages.chunks(batch, body, picked, held=walk_first and not ends))
        if walk_first:
            return chunks if chunks > 1 else 0, messages
        await self._start(ctx, body, first, picked.first(size))
        return chunks, messages[1:]

    async def _start(self, ctx: LayerContext[Any], body: PaginateBody, first: int, picked: Picked) -> int:
        """Start items from number `first` on; how many."""
        batch = ctx.claim.batch or ""
        fresh = picked
        if self._layers.client.ledger is not None and not body.force and not body.named:
            fresh = await self._fresh(self._definition.ledger_of(ctx.payload), picked)
        already_processed = len(picked.ids) - len(fresh.ids)
        if picked.ids:
            effect = StartItems(batch, first, tuple(fresh.ids), fresh.marked, fresh.data, already_processed)
            ctx.effects += (effect,)
        if self._log.verbose:
            for id in fresh.ids:
                self._log.debug(f"{self._definition.steps.execute}:{id}", batch=batch)
        return len(fresh.ids)

    async def _fresh(self, ledger: str, picked: Picked) -> Picked:
        """What a ledger beside the engine does not hold by now.

        The engine's own ledger may hold what that one has forgotten since. Of what it held before the other was asked
        the other decides; what it holds only after that has just been done, and the store leaves it out.
        """
        client = self._layers.client
        own = await client.store.processed(ledger, picked.ids)
        meant = frozenset(picked.marked)
        unsure = [id for id in picked.ids if id not in meant]
        held = await patiently(client.marks.processed(ledger, unsure)) if unsure else frozenset[str]()
        left = picked.without(held)
        return replace(left, marked=tuple(id for id in left.ids if id in meant or id in own))

    def _next_page(self, ctx: LayerContext[Any], walked: PaginateBody, cursor: str | None) -> Message:
        batch = ctx.claim.batch or ""
        self._log.debug("Scheduling next page", next_cursor=cursor, page=walked.page + 1, batch=batch)
        if self._log.verbose:
            self._log.debug(self._definition.steps.next_page, batch=batch)
        body = walked.model_copy(update={"cursor": cursor, "page": walked.page + 1})
        return self._layers.messages.page(batch, body, ctx.claim.headers)

    def _end_walk(self, ctx: LayerContext[Any], walked: PaginateBody) -> None:
        """The source has no more pages, or the trigger's limit is reached."""
        batch = ctx.claim.batch or ""
        self._log.debug("No more pages", batch=batch)
        if walked.counted is not None and walked.eligible < walked.counted:
            self._log.warning(
                "The pages have named fewer items than count said",
                counted=walked.counted,
                named=walked.eligible,
                why=MOVED,
                batch=batch,
            )
        if self._definition.walk_first:
            ctx.effects += (Walked(batch, walked.to_process),)
            entry = self._layers.entry_log
            entry.info("Total eligible items", total=walked.eligible, batch=batch)
            entry.info("Check result", to_process=walked.to_process, batch=batch)
            if walked.eligible and not walked.to_process:
                entry.info("All items already processed", total=walked.eligible, batch=batch)
