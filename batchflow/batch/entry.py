"""Layer 1, one run per trigger: open the batch and start the walk, at once or after everything is counted."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from batchflow.batch import answers
from batchflow.batch.layers import Layers
from batchflow.batch.payloads import EntryBody
from batchflow.batch.walk import Probe
from batchflow.core.codec import Codec
from batchflow.core.settlement import Enter, Page, Publish
from batchflow.serve.context import WorkflowContext

SLICE_IDS = 5_000
"""About how many ids one slice of the counting reads: its journal holds them."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Some pages of the counting: their ids, how many were named in all, and where the next slice starts."""

    pages: list[list[str]]
    named: int
    next_cursor: str | None
    probe: Probe


class EntryLayer:
    """Handles the messages of `process-{entities}`.

    Without `count_first` it has no step, or the `count` hook as one, and publishes the first page together with the
    opening of the batch: totals read "so far" until the walk ends. With it, slices of pages are counted and filtered,
    each a message that chains to the next, so that no journal grows with the batch; the last one starts the walk.
    """

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._log = layers.entry_log
        self._definition = definition = layers.definition
        self._count = layers.hook("count")
        self._pages = max(1, SLICE_IDS // definition.page_size)
        self._slice: Codec[Slice] = Codec.of(Slice)
        self._number: Codec[int] = Codec.of(int)

    async def handle(self, ctx: WorkflowContext[Any]) -> str:
        """Carry out one entry message."""
        with self._layers.running(ctx, self._log):
            body = EntryBody.model_validate_json(ctx.claim.body)
            if not body.slice:
                params: BaseModel = ctx.payload
                self._log.info("Starting with payload", payload=params.model_dump(mode="json"), batch=ctx.claim.batch)
            if body.total is not None:
                return self._named(ctx, body.total)
            if self._definition.count_first:
                return await self._counted(ctx, body)
            return await self._uncounted(ctx, body)

    def _named(self, ctx: WorkflowContext[Any], total: int) -> str:
        """The trigger has named the ids, and their chunks are published already."""
        ctx.effects.append(Enter(_batch(ctx), total))
        self._log.info("Total eligible items", total=total)
        return answers.started(total, total, 0)

    async def _uncounted(self, ctx: WorkflowContext[Any], body: EntryBody) -> str:
        total = None
        if self._count is not None:
            total = await ctx.step_as(self._definition.steps.get_all_items, self._number, self._count, ctx.payload)
            self._log.info("Total eligible items", total=total)
        if total == 0:
            ctx.effects.append(Enter(_batch(ctx), 0))
            return answers.nothing_eligible()
        # Under a limit it depends on the filter how many of them run.
        self._start(ctx, body, total if body.limit is None else None)
        return answers.started_uncounted(total)

    async def _counted(self, ctx: WorkflowContext[Any], body: EntryBody) -> str:
        steps = self._definition.steps
        found = await ctx.step_as(
            steps.get_all_items, self._slice, self._read_slice, ctx.payload, body.cursor, body.probe
        )
        needed = sum(map(len, found.pages))
        body = body.model_copy(
            update={
                "eligible": body.eligible + found.named,
                "duplicates": body.duplicates + found.named - needed,
                "slice": body.slice + 1,
                "cursor": found.next_cursor,
                "probe": found.probe,
            }
        )
        if not body.force and needed:
            needed = await ctx.step_as(
                steps.filter_existing, self._number, self._count_needed, ctx.payload, found.pages
            )
        body = body.model_copy(update={"to_process": body.to_process + needed})
        if found.next_cursor is not None:
            ctx.effects.append(Publish((self._layers.messages.entry(_batch(ctx), body, ctx.claim.headers),)))
            return answers.counting(body.eligible)
        return self._conclude(ctx, body)

    def _conclude(self, ctx: WorkflowContext[Any], body: EntryBody) -> str:
        """Everything is counted."""
        processed = body.eligible - body.duplicates - body.to_process
        self._log.info("Total eligible items", total=body.eligible)
        if not body.eligible:
            ctx.effects.append(Enter(_batch(ctx), 0))
            return answers.nothing_eligible()
        self._log.info("Check result", to_process=body.to_process, already_processed=processed)
        if not body.to_process:
            self._log.info("All items already processed", total=body.eligible)
            ctx.effects += (
                Enter(_batch(ctx), 0),
                Page(_batch(ctx), body.eligible, already_processed=processed, duplicates=body.duplicates),
            )
            return answers.nothing_left(body.eligible, processed)
        wanted = body.to_process if body.limit is None else min(body.to_process, body.limit)
        self._start(ctx, body, wanted)
        return answers.started(body.eligible, wanted, processed)

    def _start(self, ctx: WorkflowContext[Any], body: EntryBody, total: int | None) -> None:
        batch = _batch(ctx)
        first = self._layers.payloads.paginate(force=body.force, remaining=body.limit)
        ctx.effects += (Enter(batch, total), Publish((self._layers.messages.page(batch, first, ctx.claim.headers),)))
        self._log.info("Triggering paginate workflow", batch=batch, total=total)
        if self._log.verbose:
            self._log.debug(self._definition.steps.trigger_paginate, batch=batch)

    async def _read_slice(self, params: BaseModel, cursor: str | None, probe: Probe) -> Slice:
        source, size = self._layers.source, self._definition.page_size
        pages: list[list[str]] = []
        named = 0
        while len(pages) < self._pages:
            fetched = await source.fetch(params, cursor, size)
            pages.append(fetched.ids)
            named += fetched.named
            cursor = fetched.next_cursor
            if cursor is None:
                break
            probe = source.advance(probe, cursor)
        return Slice(pages, named, cursor, probe)

    async def _count_needed(self, params: BaseModel, pages: list[list[str]]) -> int:
        return sum([len(await self._layers.source.filter(params, ids)) for ids in pages])


def _batch(ctx: WorkflowContext[Any]) -> str:
    return ctx.claim.batch or ""
