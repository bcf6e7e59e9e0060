"""The hooks, payloads and messages that the layers of one bound workflow share."""

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from batchflow.batch.definition import Definition
from batchflow.batch.hook_scope import CURRENT_HOOK, HookScope
from batchflow.batch.item_keys import ItemKeys
from batchflow.batch.logs import LayerLog
from batchflow.batch.messages import Messages
from batchflow.batch.payloads import Payloads
from batchflow.batch.source import Source
from batchflow.batch.workflow import BatchWorkflow
from batchflow.core.message import Claim
from batchflow.core.ports import Client
from batchflow.core.secrets import describe_misfit
from batchflow.errors import InputError, NonRetryable
from batchflow.serve.callables import as_async
from batchflow.serve.context import LayerContext
from batchflow.serve.delivery_scope import CURRENT_DELIVERY, DeliveryScope

# Called for every item; the constructor of a named tuple takes three times as long.
_new_scope: Callable[..., HookScope] = tuple[Any, ...].__new__

_PARAMS_CACHE_SIZE = 64
# The number of batches whose decoded parameters are cached; more batches seldom run at once.


class WorkflowRuntime:
    """A workflow bound to a client: everything that messages share is created here, once."""

    def __init__(self, workflow: BatchWorkflow[Any, Any, Any], client: Client) -> None:
        definition = workflow.__batch__
        self.definition: Definition = definition
        self.client = client
        self.workflow = workflow
        self.source = Source(
            definition, as_async(workflow.fetch), self.hook("filter") or self._unprocessed, self._encode_item
        )
        self.item_keys = ItemKeys(workflow, definition) if "item_flow" in definition.defined_hooks else None
        self.payloads = Payloads(definition)
        self.messages = Messages(definition, self.payloads)
        self.entry_log = LayerLog(definition.name, "process")
        self.paginate_log = LayerLog(definition.name, "paginate")
        self.execute_log = LayerLog(definition.name, "execute")
        self._cached_params = lru_cache(maxsize=_PARAMS_CACHE_SIZE)(self._decode_params)

    async def _unprocessed(self, params: BaseModel, ids: Sequence[str]) -> list[str]:
        # The default `filter` without the thread that the plain function would take.
        return await self.workflow.unprocessed(ids)

    def _encode_item(self, id: str, item: Any) -> str:
        """Return the JSON text of an item in a page."""
        where = f"item '{id}' that {self.definition.class_name}.fetch returned"
        text, _ = self.definition.item_codec.round_trip(item, where=where)
        self.client.limit.check(text, where)
        return text

    def hook(self, name: str) -> Callable[..., Awaitable[Any]] | None:
        """Return a hook as an async function; None if the class does not define it."""
        return as_async(getattr(self.workflow, name)) if name in self.definition.defined_hooks else None

    def params_of(self, claim: Claim) -> BaseModel | None:
        """Return the parameters of a claim's batch, decoded once. All items share them: do not change them.

        None for a message outside of a batch, which contains its own.
        """
        return self._cached_params(claim.params) if claim.batch else None

    def read_params(self, text: str) -> BaseModel:
        """Return the parameters of a batch, decoded once.

        Raises:
            InputError: they do not fit the class any more.
        """
        return self._cached_params(text)

    def hook_scope(self, ctx: LayerContext[Any], item_id: str = "") -> HookScope:
        """Create the scope of the hooks of this run."""
        claim = ctx.claim
        return _new_scope(
            HookScope, (self.client, self.definition.name, ctx.payload, claim.batch or "", item_id, claim.headers)
        )

    @contextmanager
    def hooks_outside_of_batches(self, params: BaseModel) -> Generator[None]:
        """Set the scope of hooks that are called before there is a batch."""
        token = CURRENT_HOOK.set(HookScope(self.client, self.definition.name, params))
        has_delivery = CURRENT_DELIVERY.get() is not None
        delivery_token = None if has_delivery else CURRENT_DELIVERY.set(DeliveryScope(self.client.threads))
        try:
            yield
        finally:
            CURRENT_HOOK.reset(token)
            if delivery_token is not None:
                CURRENT_DELIVERY.reset(delivery_token)

    @contextmanager
    def layer_scope(self, ctx: LayerContext[Any], log: LayerLog) -> Generator[None]:
        """Set the scope of a layer above the items.

        Raises:
            NonRetryable: the message does not belong to a batch.
        """
        if not ctx.claim.batch:
            raise NonRetryable(f"'{ctx.claim.destination}' only works for a batch; start one with trigger")
        token = CURRENT_HOOK.set(self.hook_scope(ctx))
        log.refresh()
        try:
            yield
        finally:
            CURRENT_HOOK.reset(token)

    def _decode_params(self, text: str) -> BaseModel:
        # Once per batch: the log level may have changed.
        self.execute_log.refresh()
        try:
            return self.definition.params_codec.decode(text)
        except ValueError as error:
            raise InputError(
                f"the parameters stored with the batch do not fit {self.definition.class_name} any more: "
                f"{describe_misfit(error)}"
            ) from error
