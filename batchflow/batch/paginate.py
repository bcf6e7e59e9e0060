"""Layer 2, one run per page and one per chunk: fetch, filter, split, start, go on to the next page."""

from typing import Any

from batchflow.batch import answers
from batchflow.batch.layers import Layers
from batchflow.batch.payloads import PaginateBody
from batchflow.batch.walk import Fetched
from batchflow.core.codec import Codec
from batchflow.core.message import Message
from batchflow.core.settlement import Page, Publish, StartItems
from batchflow.serve.context import WorkflowContext


class PaginateLayer:
    """Handles the messages of `paginate-{entities}`.

    A page's items are numbered from `page × page_size` on. The first chunk is started by the page itself. Everything a
    page starts, the next page included, is written with its settlement, and so is the outcome of its last step. An
    empty page ends the walk unless it names a next cursor: a source that filters behind its cursor may have an empty
    page in the middle, and no item after it is lost.
    """

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._log = layers.paginate_log
        self._definition = layers.definition
        self._fetched: Codec[Fetched] = Codec.of(Fetched)
        self._ids: Codec[list[str]] = Codec.of(list[str])

    async def handle(self, ctx: WorkflowContext[Any]) -> str:
        """Carry out one paginate message."""
        with self._layers.running(ctx, self._log):
            body = self._layers.payloads.read_page(ctx.claim.body)
            if body.item_ids is not None:
                return self._chunk(ctx, body, body.item_ids)
            return await self._page(ctx, body)

    def _chunk(self, ctx: WorkflowContext[Any], body: PaginateBody, ids: list[str]) -> str:
        batch = ctx.claim.batch or ""
        self._log.info("Processing specific itemIds", count=len(ids), batch=batch)
        if body.named:
            ctx.effects.append(Page(batch, len(ids), chunks=1))
        self._start(ctx, body.first, ids)
        return answers.chunk(len(ids))

    async def _page(self, ctx: WorkflowContext[Any], body: PaginateBody) -> str:
        definition, source = self._definition, self._layers.source
        batch, size, steps = ctx.claim.batch or "", definition.page_size, definition.steps
        page = await ctx.step_as(
            steps.get_batch, self._fetched, source.fetch, ctx.payload, body.cursor, size, last=body.force
        )
        self._log.info("Got batch", size=len(page.ids), next_cursor=page.next_cursor, page=body.page, batch=batch)
        # Before anything is started: a walk that goes in circles ends here.
        probe = body.probe if page.next_cursor is None else source.advance(body.probe, page.next_cursor)
        if not page.named and page.next_cursor is None:
            ctx.effects.append(Page(batch, 0))
            self._log.info("No more pages", batch=batch)
            return answers.walk_complete()
        needed = page.ids
        if not body.force and needed:
            needed = await ctx.step_as(
                steps.filter_existing, self._ids, source.filter, ctx.payload, page.ids, last=True
            )
        skipped = len(page.ids) - len(needed)
        self._log.info("After filtering", need=len(needed), skipped=skipped, batch=batch)
        started = needed if body.remaining is None else needed[: body.remaining]
        chunks, rest = self._hand_on(ctx, body, started)
        left_out = len(needed) - len(started)
        ctx.effects.append(Page(batch, page.named, skipped, page.duplicates, left_out, chunks))
        following = self._next_page(ctx, body.model_copy(update={"probe": probe}), page.next_cursor, len(started))
        if rest or following:
            ctx.effects.append(Publish((*rest, *following)))
        return answers.page(len(started), skipped, page.next_cursor)

    def _hand_on(
        self, ctx: WorkflowContext[Any], body: PaginateBody, ids: list[str]
    ) -> tuple[int, tuple[Message, ...]]:
        """Start a page's items up to the first chunk's end; into how many chunks it is cut, and those that follow.

        The first items of a walk start two commits earlier than by way of a message.
        """
        first, size = body.page * self._definition.page_size, self._definition.chunk_size
        if len(ids) <= size:
            self._start(ctx, first, ids)
            return 0, ()
        rest = tuple(self._layers.messages.further_chunks(ctx.claim.batch or "", body.page, first, ids))
        chunks = len(rest) + 1
        self._log.info("Fanout mode", chunks=chunks, chunk_size=size, total=len(ids), batch=ctx.claim.batch)
        if self._log.verbose:
            for number in range(1, chunks + 1):
                self._log.debug(f"{self._definition.steps.fanout}:{number}/{chunks}", batch=ctx.claim.batch)
        self._start(ctx, first, ids[:size])
        return chunks, rest

    def _start(self, ctx: WorkflowContext[Any], first: int, ids: list[str]) -> None:
        batch = ctx.claim.batch or ""
        if ids:
            ctx.effects.append(StartItems(batch, first, tuple(ids)))
        if self._log.verbose:
            for id in ids:
                self._log.debug(f"{self._definition.steps.execute}:{id}", batch=batch)

    def _next_page(
        self, ctx: WorkflowContext[Any], body: PaginateBody, cursor: str | None, started: int
    ) -> tuple[Message, ...]:
        """The message of the next page; none at the end, and none once the trigger's limit is reached."""
        batch = ctx.claim.batch or ""
        remaining = None if body.remaining is None else body.remaining - started
        if cursor is None or remaining == 0:
            self._log.info("No more pages", batch=batch)
            return ()
        self._log.info("Scheduling next page", next_cursor=cursor, page=body.page + 1, batch=batch)
        if self._log.verbose:
            self._log.debug(self._definition.steps.next_page, batch=batch)
        update = {"cursor": cursor, "page": body.page + 1, "remaining": remaining}
        return (self._layers.messages.page(batch, body.model_copy(update=update)),)
