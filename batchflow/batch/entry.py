"""Layer 1, one run per trigger: open the batch and start the walk."""

from typing import Any

from pydantic import BaseModel

from batchflow.batch import answers
from batchflow.batch.layers import Layers
from batchflow.batch.payloads import EntryBody
from batchflow.core.codec import Codec
from batchflow.core.settlement import Enter, Publish
from batchflow.serve.context import LayerContext


class EntryLayer:
    """Handles the messages of `process-{entities}`.

    It has no step, or the `count` hook as one, and publishes the first page together with the opening of the batch:
    totals read "so far" until the walk ends.
    """

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._log = layers.entry_log
        self._definition = layers.definition
        self._count = layers.hook("count")
        self._number: Codec[int] = Codec.of(int)

    async def handle(self, ctx: LayerContext[Any]) -> str:
        """Carry out one entry message."""
        with self._layers.running(ctx, self._log):
            body = EntryBody.model_validate_json(ctx.claim.body)
            params: BaseModel = ctx.payload
            self._log.info("Starting with payload", payload=params.model_dump(mode="json"), batch=ctx.claim.batch)
            return await self._walk(ctx, body) if body.total is None else self._named(ctx, body.total)

    def _named(self, ctx: LayerContext[Any], total: int) -> str:
        """The trigger has named the ids, and their chunks are published already."""
        ctx.effects += (Enter(_batch(ctx), total),)
        self._log.info("Total eligible items", total=total)
        return answers.started(total, total, 0)

    async def _walk(self, ctx: LayerContext[Any], body: EntryBody) -> str:
        total = None
        if self._count is not None:
            total = await ctx.run_with_codec(
                self._definition.steps.get_all_items, self._number, self._count, ctx.payload
            )
            self._log.info("Total eligible items", total=total)
        if total == 0:
            ctx.effects += (Enter(_batch(ctx), 0),)
            return answers.nothing_eligible()
        # Under a limit it depends on the filter how many of them run, and the walk stops before it has named them all.
        counted = total if body.limit is None else None
        self._start(ctx, body, counted)
        return answers.started_uncounted(total)

    def _start(self, ctx: LayerContext[Any], body: EntryBody, counted: int | None) -> None:
        batch = _batch(ctx)
        first = self._layers.payloads.paginate(force=body.force, remaining=body.limit, counted=counted)
        page = self._layers.messages.page(batch, first, ctx.claim.headers)
        # Where all is walked first, the end of the walk says exactly how many there are.
        total = None if self._definition.walk_first else counted
        ctx.effects += (Enter(batch, total), Publish((page,)))
        self._log.debug("Triggering paginate workflow", batch=batch, total=total)
        self._log.debug(self._definition.steps.trigger_paginate, batch=batch)


def _batch(ctx: LayerContext[Any]) -> str:
    return ctx.claim.batch or ""
