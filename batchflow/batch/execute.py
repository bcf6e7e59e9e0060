"""Layer 3, one run per item, loads the item, processes it and saves the result."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from batchflow.batch import answers
from batchflow.batch.collector import Collector
from batchflow.batch.hook_scope import CURRENT_HOOK, call_ledger
from batchflow.batch.runtime import WorkflowRuntime
from batchflow.core.codec import Codec
from batchflow.core.run import Step
from batchflow.core.secrets import describe_misfit
from batchflow.errors import InputError, NonRetryable
from batchflow.serve.callables import as_async
from batchflow.serve.context import LayerContext
from batchflow.serve.delivery_scope import CURRENT_DELIVERY
from batchflow.serve.endpoint import FailureResult


class ExecuteLayer:
    """Handles the messages of `execute-{entity}`: exactly one item each.

    It runs for every item of every batch, so names, codecs and hooks are prepared in the constructor.
    """

    def __init__(self, runtime: WorkflowRuntime) -> None:
        definition = runtime.definition
        self._runtime = runtime
        self._log = runtime.execute_log
        self._steps = definition.steps
        self._id_key = definition.wire.id
        self._needs_items = definition.needs_items
        self._done = answers.ItemAnswer(definition.wire.id)
        self._item: Codec[Any] = definition.item_codec
        self._result: Codec[Any] = definition.result_codec
        self._ignored_result = _IgnoredResultCodec(type(None))
        self._result_pair = _ResultCodec(definition.result_codec.annotation)
        self._load = runtime.hook("load")
        self._save = runtime.hook("save")
        # Called directly if the class does not define `process`: one call less for every item.
        self._execute: Callable[[Any], Awaitable[Any]] = as_async(runtime.workflow.execute)
        self._has_default_process = "process" not in definition.defined_hooks
        self._is_grouped = "execute_many" in definition.defined_hooks
        self._step = definition.steps.process_items if self._is_grouped else definition.steps.process_item

    async def handle(self, ctx: LayerContext[Any]) -> str | FailureResult:
        """Handle the message of one item."""
        item_id = ctx.claim.item
        if not item_id:
            # Sent by hand, outside of a batch: the payload has the id and the parameters.
            try:
                item_id, ctx.payload = self._runtime.payloads.read_item(ctx.claim.body)
            except InputError as error:
                return answers.refused(str(error))
            if not item_id:
                return answers.missing(self._id_key)
        log, save, ledger = self._log, self._save, self._runtime.client.ledger
        if log.verbose:
            log.debug("Starting", item_id=item_id)
        token = CURRENT_HOOK.set(self._runtime.hook_scope(ctx, item_id))
        try:
            item: Any = item_id
            load = self._load if ctx.claim.data is None else partial(self._decode_item, ctx.claim.data)
            if load is not None:
                item = await ctx.run_with_codec(self._steps.get_item, self._item, load, item_id)
                if item is None:
                    return answers.not_found(self._id_key, item_id)
            elif self._needs_items:
                raise NonRetryable(f"the class has no load, which makes an item of '{item_id}'; write it")
            # All steps are recorded before an external ledger marks the item, so that no step runs twice.
            defers = ledger is None
            if self._has_default_process:
                text, result = await ctx.run_with_codec(
                    self._step if not ctx.claim.journal else self._recorded_step(ctx.claim.journal),
                    self._result_pair,
                    partial(self._collector().process, ctx) if self._is_grouped else self._execute,
                    item,
                    defer_to_settlement=defers and save is None,
                )
            else:
                text, result = "", await self._runtime.workflow.process(ctx, item)
            if save is not None:
                await ctx.run_with_codec(
                    self._steps.save_result, self._ignored_result, save, item_id, result, defer_to_settlement=defers
                )
            # A step has encoded its result already; a result of `process` is still to be encoded.
            text = text or self._encode_result(result, item_id)
            if ledger is not None and ctx.claim.batch:
                definition = self._runtime.definition
                await call_ledger(ledger.mark(definition.ledger_name(ctx.payload), [item_id], definition.ledger_ttl))
            if log.verbose:
                log.debug("Completed", item_id=item_id)
            return self._done.text(item_id, text)
        finally:
            CURRENT_HOOK.reset(token)

    def _recorded_step(self, journal: Sequence[Step]) -> str:
        """Return the step that processes an item, also if the class had `execute` when the item's run began."""
        names = (self._steps.process_item, self._steps.process_items)
        return next((step.name for step in journal if step.name in names), self._step)

    def _collector(self) -> Collector:
        """Return the collector of the worker that delivers."""
        delivery = CURRENT_DELIVERY.get()
        assert delivery is not None
        assert delivery.runtime is not None
        collectors = delivery.runtime.groups.collectors
        collector = collectors.get(self)
        if collector is None:
            runtime = self._runtime
            collector = Collector(runtime.definition, runtime.workflow.execute_many, delivery.runtime, self._log)
            collectors[self] = collector
        return collector

    async def _decode_item(self, data: str, item_id: str) -> Any:
        """Decode an item that its page contained."""
        try:
            return self._item.decode(data)
        except ValueError as error:
            raise InputError(
                f"item '{item_id}', as it was stored with the batch, does not fit "
                f"{self._runtime.definition.class_name} any more: {describe_misfit(error)}"
            ) from error

    def _encode_result(self, result: Any, item_id: str) -> str:
        text, _ = self._result.round_trip(result, where=self._step)
        self._runtime.client.limit.check(text, f"the result of item '{item_id}' of '{self._runtime.definition.name}'")
        return text


class _ResultCodec(Codec[Any]):
    """The codec of results, which are decoded to a pair of the JSON text and the value.

    The answer contains the text, so encoding the value a second time is avoided.
    """

    __slots__ = ()

    def decode(self, text: str | bytes) -> tuple[str, Any]:
        """Return the pair for a recorded text."""
        return text if isinstance(text, str) else text.decode(), super().decode(text)

    def round_trip(self, value: Any, *, where: str) -> tuple[str, tuple[str, Any]]:
        """Return the JSON text, and the pair."""
        pair = super().round_trip(value, where=where)
        return pair[0], pair


class _IgnoredResultCodec(Codec[None]):
    """The codec of a step whose return value is ignored, so that it needs no JSON form."""

    __slots__ = ()

    def round_trip(self, value: object, *, where: str) -> tuple[str, None]:
        """Return the encoding of None for any value."""
        return "null", None
