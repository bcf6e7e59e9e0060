"""Layer 1, one run per trigger, opens the batch and starts the walk; a last run calls `on_complete`."""

from typing import Any

from batchflow.batch import answers
from batchflow.batch.hook_scope import CURRENT_HOOK
from batchflow.batch.payloads import EntryBody
from batchflow.batch.rollup import read_retries
from batchflow.batch.runtime import WorkflowRuntime
from batchflow.batch.status import BatchSummary
from batchflow.core.codec import Codec
from batchflow.core.secrets import masked_value
from batchflow.core.settlement import FinishEntry, Publish
from batchflow.errors import NonRetryable, StepFailed
from batchflow.serve.context import LayerContext


class EntryLayer:
    """Handles the messages of `process-{entities}`.

    Its only step is the `count` hook, if there is one. The first page is published in the settlement that enters the
    batch: totals read "so far" until the walk ends.
    """

    def __init__(self, runtime: WorkflowRuntime) -> None:
        self._runtime = runtime
        self._log = runtime.entry_log
        self._definition = runtime.definition
        self._count = runtime.hook("count")
        self._count_codec: Codec[int] = Codec.of(int)

    async def handle(self, ctx: LayerContext[Any]) -> str:
        """Handle one entry message."""
        with self._runtime.layer_scope(ctx, self._log):
            body = EntryBody.model_validate_json(ctx.claim.body)
            if not ctx.claim.failures and not ctx.claim.journal:
                # Not again when `count` is tried again.
                payload = masked_value(ctx.claim.params)
                self._log.info("Starting with payload", payload=payload, batch=ctx.claim.batch)
            return await self._enter_walk(ctx, body) if body.total is None else self._enter_ids(ctx, body.total)

    def _enter_ids(self, ctx: LayerContext[Any], total: int) -> str:
        """Enter a batch of listed ids; the trigger has published their chunks."""
        ctx.effects += (FinishEntry(_batch_id(ctx), total),)
        self._log.info("Total eligible items", total=total)
        return answers.started(total, total, 0)

    async def _enter_walk(self, ctx: LayerContext[Any], body: EntryBody) -> str:
        total = None
        if self._count is not None and not body.missing:
            total = await ctx.run_with_codec(
                self._definition.steps.get_all_items, self._count_codec, self._count, ctx.payload
            )
            self._log.info("Total eligible items", total=total)
        if total == 0:
            ctx.effects += (FinishEntry(_batch_id(ctx), 0),)
            return answers.nothing_eligible()
        # With a limit the walk stops early, and the filter decides how many items run.
        counted = total if body.limit is None else None
        self._publish_first_page(ctx, body, counted)
        return answers.started_uncounted(total)

    def _publish_first_page(self, ctx: LayerContext[Any], body: EntryBody, counted: int | None) -> None:
        batch = _batch_id(ctx)
        first = self._runtime.payloads.paginate_model(
            force=body.force, remaining=body.limit, counted=counted, missing=body.missing, canary=body.canary
        )
        page = self._runtime.messages.page(batch, first, ctx.claim.headers)
        # With `walk_first` the end of the walk sets the exact total.
        total = None if self._definition.walk_first else counted
        ctx.effects += (FinishEntry(batch, total), Publish((page,)))
        self._log.debug("Triggering paginate workflow", batch=batch, total=total)
        self._log.debug(self._definition.steps.trigger_paginate, batch=batch)


def _batch_id(ctx: LayerContext[Any]) -> str:
    return ctx.claim.batch or ""


class CompleteLayer:
    """Handles the message at the end of a batch, for its last hooks or for a run that waits for the batch."""

    def __init__(self, runtime: WorkflowRuntime) -> None:
        self._runtime = runtime
        self._log = runtime.entry_log
        self._none_codec: Codec[None] = Codec.of(type(None))

    async def handle(self, ctx: LayerContext[Any]) -> str:
        """Handle the message of one ended batch."""
        with self._runtime.layer_scope(ctx, self._log):
            id = ctx.claim.batch or ""
            batch = await self._runtime.client.store.batch(id)
            if batch is None:
                raise NonRetryable(f"batch '{id}' was removed before its on_complete ran")
            summary = BatchSummary.of(batch, await read_retries(self._runtime.client.store, batch))
            # This message has no headers of its own; `layer_scope` resets the scope.
            CURRENT_HOOK.set(CURRENT_HOOK.get()._replace(headers=batch.headers))
            try:
                await self._call(ctx, "on_success" if summary.succeeded else "on_failure", summary)
            except StepFailed:
                # `on_complete` is called always; the message fails for the reason of the first of them.
                await self._call(ctx, "on_complete", summary)
                raise
            await self._call(ctx, "on_complete", summary)
            return answers.completed(summary)

    async def _call(self, ctx: LayerContext[Any], name: str, summary: BatchSummary) -> None:
        if (hook := self._runtime.hook(name)) is not None:
            definition = self._runtime.definition
            is_last = name == "on_complete" or "on_complete" not in definition.defined_hooks
            step = getattr(definition.steps, name)
            await ctx.run_with_codec(step, self._none_codec, hook, summary, defer_to_settlement=is_last)
