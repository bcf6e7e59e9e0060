"""The end of a batch: `on_complete`, once, after its last item."""

from typing import Any

from batchflow.batch import answers
from batchflow.batch.layers import Layers
from batchflow.batch.scope import SCOPE
from batchflow.batch.summary import BatchSummary
from batchflow.core.codec import Codec
from batchflow.errors import NonRetryable
from batchflow.serve.context import LayerContext


class CompleteLayer:
    """Handles the message that the end of a batch publishes, for `on_complete` or for a run that waits for it."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._log = layers.entry_log
        self._nothing: Codec[None] = Codec.of(type(None))
        self._on_complete = layers.hook("on_complete")

    async def handle(self, ctx: LayerContext[Any]) -> str:
        """Carry out the message of one ended batch."""
        with self._layers.running(ctx, self._log):
            id = ctx.claim.batch or ""
            batch = await self._layers.client.store.batch(id)
            if batch is None:
                raise NonRetryable(f"batch '{id}' was removed before on_complete could be told of it")
            summary = BatchSummary.of(batch)
            self._log.info("Batch ended", batch=summary.id, state=summary.state, summary=str(summary))
            if self._on_complete is not None:
                # Its own message brings none, and the scope goes with `running`.
                SCOPE.set(SCOPE.get()._replace(headers=batch.headers))
                step = self._layers.definition.steps.on_complete
                await ctx.run_with_codec(step, self._nothing, self._on_complete, summary, defer_to_settlement=True)
            return answers.completed(summary)
