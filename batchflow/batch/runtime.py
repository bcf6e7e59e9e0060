"""What the layers of one bound workflow share: its hooks, payloads and messages, and the scope they run hooks in."""

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from batchflow.batch.definition import Definition
from batchflow.batch.hook_scope import CURRENT_HOOK, HookScope
from batchflow.batch.logs import LayerLog
from batchflow.batch.messages import Messages
from batchflow.batch.payloads import Payloads
from batchflow.batch.source import Source
from batchflow.batch.workflow import BatchWorkflow
from batchflow.core.message import Claim
from batchflow.core.ports import Client
from batchflow.errors import InputError, NonRetryable
from batchflow.serve.callables import as_async
from batchflow.serve.context import LayerContext

# Made for every item; the constructor of a named tuple takes three times as long.
_new_scope: Callable[..., HookScope] = tuple[Any, ...].__new__

_PARAMS_CACHE_SIZE = 64
# Parameters of this many batches are kept decoded; more are seldom under way at once.


class WorkflowRuntime:
    """One workflow, bound: everything that does not change between two messages is made here, once."""

    def __init__(self, workflow: BatchWorkflow[Any, Any, Any], client: Client) -> None:
        definition = workflow.__batch__
        self.definition: Definition = definition
        self.client = client
        self.workflow = workflow
        self.source = Source(
            definition, as_async(workflow.fetch), self.hook("filter") or self._unprocessed, self._encode_item
        )
        self.payloads = Payloads(definition)
        self.messages = Messages(definition, self.payloads)
        self.entry_log = LayerLog(definition.name, "process")
        self.paginate_log = LayerLog(definition.name, "paginate")
        self.execute_log = LayerLog(definition.name, "execute")
        self._cached_params = lru_cache(maxsize=_PARAMS_CACHE_SIZE)(self._decode_params)

    async def _unprocessed(self, params: BaseModel, ids: Sequence[str]) -> list[str]:
        # What `filter` does by default, without a thread for a plain function that only hands on.
        return await self.workflow.unprocessed(ids)

    def _encode_item(self, id: str, item: Any) -> str:
        """The JSON text of an item that a page has brought."""
        where = f"item '{id}' that {self.definition.class_name}.fetch returned"
        text, _ = self.definition.item_codec.round_trip(item, where=where)
        self.client.limit.check(text, where)
        return text

    def hook(self, name: str) -> Callable[..., Awaitable[Any]] | None:
        """A hook as an async function; None where the class has not written it."""
        return as_async(getattr(self.workflow, name)) if name in self.definition.defined_hooks else None

    def params_of(self, claim: Claim) -> BaseModel | None:
        """The parameters of a claim's batch, decoded once and shared by all its items: not to be changed.

        None for a message outside of any batch, which brings its own.
        """
        return self._cached_params(claim.params) if claim.batch else None

    def hook_scope(self, ctx: LayerContext[Any], item_id: str = "") -> HookScope:
        """What the hooks see while this run is carried out."""
        claim = ctx.claim
        return _new_scope(
            HookScope, (self.client, self.definition.name, ctx.payload, claim.batch or "", item_id, claim.headers)
        )

    @contextmanager
    def layer_scope(self, ctx: LayerContext[Any], log: LayerLog) -> Generator[None]:
        """Set the scope around a layer above the items, and log what goes wrong in it.

        Raises:
            NonRetryable: the message belongs to no batch.
        """
        if not ctx.claim.batch:
            raise NonRetryable(f"'{ctx.claim.destination}' only works for a batch; start one with trigger")
        token = CURRENT_HOOK.set(self.hook_scope(ctx))
        log.refresh()
        try:
            yield
        except Exception as error:
            log.error(error, run=ctx.run_id, batch=ctx.claim.batch)
            raise
        finally:
            CURRENT_HOOK.reset(token)

    def _decode_params(self, text: str) -> BaseModel:
        # A new batch is also the time to look at what is logged.
        self.execute_log.refresh()
        try:
            return self.definition.params_codec.decode(text)
        except ValueError as error:
            raise InputError(
                f"the parameters stored with the batch do not fit {self.definition.class_name} any more: {error}"
            ) from error
