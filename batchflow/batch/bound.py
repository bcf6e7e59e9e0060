"""A workflow that is ready to be triggered: what `flow.add` returns."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from batchflow.batch import answers
from batchflow.batch import dry_run as counting
from batchflow.batch.arguments import (
    check_force,
    check_ids,
    check_limit,
    check_names,
    check_params,
    check_scope,
    check_source,
    derived_id,
)
from batchflow.batch.endpoints import endpoints_of
from batchflow.batch.handle import BatchHandle
from batchflow.batch.layers import Layers
from batchflow.batch.options import check_instance
from batchflow.batch.payloads import EntryBody, EntryRequest
from batchflow.batch.statistics import Statistics
from batchflow.batch.summary import BatchSummary
from batchflow.batch.workflow import BatchWorkflow
from batchflow.core.flow import FlowControl
from batchflow.core.ports import Client
from batchflow.core.settlement import Effect, OpenBatch
from batchflow.errors import ConfigurationError
from batchflow.serve.checks import checked_label
from batchflow.serve.children import ChildOptions, Link
from batchflow.serve.endpoint import Endpoint

Params = TypeVar("Params", bound=BaseModel)
Result = TypeVar("Result")
P = TypeVar("P", bound=BaseModel)
R = TypeVar("R")


class Workflow(Generic[Params, Result]):
    """A workflow bound to an engine: trigger it, dry-run it, find its batches."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self.definition = layers.definition
        self.name = layers.definition.name
        self.added: BatchWorkflow[Any, Any, Any] = layers.workflow
        """What was added: an object of the user's own class."""
        self.endpoints: tuple[Endpoint, ...] = endpoints_of(layers)
        """The layers, each at its route; `complete` is the end of a batch."""
        self.declared_flows: tuple[FlowControl, ...] = layers.definition.flows
        """The limits the code gives to the keys of the layers."""

    def __repr__(self) -> str:
        return f"Workflow('{self.name}')"

    async def trigger(
        self,
        params: Params | None = None,
        *,
        force: bool = False,
        ids: Sequence[str] | None = None,
        limit: int | None = None,
        dedup_id: str | None = None,
        label: str | None = None,
    ) -> BatchHandle[Result]:
        """Start a batch, durable when this returns.

        `force` runs items that are already processed too. `ids` runs exactly these, unfiltered, instead of what
        `fetch` names. `limit` stops after so many items: the small batch before the full one. A second trigger with
        the same `dedup_id` starts nothing and returns the handle of the first; its other arguments are not looked at.

        Raises:
            InputError: parameters of another type, no or repeated ids, a limit below 1, a label that is none;
                `TooLarge`, which is one: the parameters are. Nothing was started.
            UnserializableError: the parameters do not survive JSON.
        """
        definition = self.definition
        checked = check_params(definition, params)
        text = self._written(checked)
        named = check_ids(definition, ids)
        check_limit(limit, named)
        check_force(force)
        id = self._layers.client.new_id("batch") if dedup_id is None else derived_id(self.name, dedup_id)
        batch = self._layers.messages.batch(
            id,
            text,
            ledger=definition.ledger_of(checked),
            force=force,
            named=named is not None,
            label=checked_label(label),
        )
        entry = EntryBody(force=force, limit=limit, total=None if named is None else len(named))
        first, *others = self._layers.messages.of_trigger(id, entry, named or ())
        opened = await self._layers.client.open_batch(batch, first)
        if opened or (others and await self._is_pending(id)):
            for messages in others:
                await self._layers.client.publish(messages)
        return self.batch(id)

    async def dry_run(self, params: Params | None = None, *, force: bool = False) -> Statistics:
        """What `trigger` with these parameters would do now, counted exactly; nothing is written or started.

        Raises:
            InputError: the parameters are of another type, or the workflow runs named ids only.
            NonRetryable: `fetch` or `filter` returned what they must not, or the pages would never end.
        """
        check_source(self.definition)
        return await counting.dry_run(self._layers, check_params(self.definition, params), force=force)

    # The ledger

    # With `processed_per` there is one ledger for each value of these parameters, and `params` says which is meant.

    async def processed(self, ids: Sequence[str], params: Params | None = None) -> frozenset[str]:
        """Those of `ids` that count as processed.

        Raises:
            InputError: one is no id; or the workflow has `processed_per`, and `params` does not say which is meant.
        """
        return await self._layers.client.processed(self._ledger(params), check_names(ids))

    async def mark(self, ids: Sequence[str], params: Params | None = None) -> None:
        """Count `ids` as processed, for as long as `processed_ttl` says: what was done before, or elsewhere.

        Raises:
            InputError: as for `processed`.
        """
        await self._layers.client.mark(self._ledger(params), check_names(ids), self.definition.ledger_ttl)

    async def forget(self, ids: Sequence[str] | None = None, params: Params | None = None) -> int:
        """Count `ids` as not processed, all there are when it is None; how many were.

        Raises:
            InputError: as for `processed`.
        """
        return await self._layers.client.forget(self._ledger(params), None if ids is None else check_names(ids))

    def _ledger(self, params: Params | None) -> str:
        return self.definition.ledger_of(check_scope(self.definition, params))

    # As a child (`batchflow.serve.children.Invocable`)

    @property
    def title(self) -> str:
        """Its name."""
        return self.name

    def invoked(self, payload: Params, link: Link, options: ChildOptions) -> tuple[Effect, ...]:
        """What opens a batch for the run that waits for it."""
        if not (options.retries is options.retry_delay is options.flow_control is None):
            raise ConfigurationError(
                f"'{self.name}' is a batch workflow, whose retries and limits are its class's; invoke it without them"
            )
        check_source(self.definition)
        params = check_params(self.definition, payload)
        text = self._written(params)
        id = derived_id(self.name, link.id)
        ledger = self.definition.ledger_of(params)
        batch = self._layers.messages.batch(
            id, text, ledger=ledger, force=False, named=False, label=options.label, parent=link
        )
        (first,) = self._layers.messages.of_trigger(id, EntryBody(), ())
        return (OpenBatch(batch, tuple(first)),)

    def outcome(self, text: str) -> BatchSummary:
        """How the batch ended."""
        return answers.read_summary(text)

    def batch(self, id: str) -> BatchHandle[Result]:
        """The handle of one of the workflow's batches."""
        return BatchHandle(id, self.definition, self._layers.client)

    async def batches(self, *, open_only: bool = False, limit: int = 50) -> list[BatchHandle[Result]]:
        """The handles of the latest batches, newest first."""
        found = await self._layers.client.batches(workflow=self.name, open_only=open_only, limit=limit)
        return [self.batch(it.id) for it in found]

    def read(self, body: str | bytes) -> EntryRequest[Params]:
        """A trigger as it comes over the wire: `{"dryRun": true, "paidOnly": true}`.

        Raises:
            InputError: it is no JSON object, or a field is unknown or does not fit.
        """
        return self._layers.payloads.read_entry(body)

    async def receive(self, request: EntryRequest[Params]) -> Statistics | BatchHandle[Result]:
        """Do what a request asks for: a dry run, or a trigger."""
        if request.dry_run:
            return await self.dry_run(request.params, force=request.force)
        return await self.trigger(
            request.params,
            force=request.force,
            ids=request.ids,
            limit=request.limit,
            dedup_id=request.dedup_id,
            label=request.label,
        )

    @property
    def request_model(self) -> type[BaseModel]:
        """The shape of a trigger over the wire, for its documentation."""
        return self._layers.payloads.entry_model

    def _written(self, params: BaseModel) -> str:
        where = f"the parameters of '{self.name}'"
        text, _ = self.definition.params_codec.round_trip(params, where=where)
        self._layers.client.limit.check(text, where)
        return text

    async def _is_pending(self, id: str) -> bool:
        """Whether the first trigger was cut off before its entry was published."""
        batch = await self._layers.client.batch(id)
        return batch is not None and batch.state == "pending"


def bind(workflow: BatchWorkflow[P, Any, R], client: Client) -> Workflow[P, R]:
    """Make a workflow ready to be served and triggered.

    Raises:
        ConfigurationError: its class is a base for others, or options were set on the object.
    """
    if "__batch__" not in vars(type(workflow)):
        raise ConfigurationError(f"{type(workflow).__name__} is a base for workflows; add an object of a subclass")
    check_instance(workflow)
    return Workflow(Layers(workflow, client))
