"""What a trigger would do, counted without writing anything: every page is fetched and filtered, none is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from pydantic import BaseModel

from batchflow.batch.layers import Layers
from batchflow.batch.scope import SCOPE, Scope
from batchflow.batch.statistics import BindingLimit, Statistics
from batchflow.batch.walk import Fetched, Probe
from batchflow.core.batch import Batch
from batchflow.core.duration import show
from batchflow.core.flow import Binding, FlowControl, predict_ms
from batchflow.serve.delivery import CURRENT_DELIVERY, DeliveryScope

SAMPLE = 5
_LATEST = 10
# How many batches are looked through for one with ended items.
_EXECUTE: Mapping[Binding, BindingLimit] = {
    "rate": "execute rate",
    "parallelism": "execute parallelism",
    "none": "none",
}
_PAGINATE: Mapping[Binding, BindingLimit] = {
    "rate": "paginate rate",
    "parallelism": "paginate parallelism",
    "none": "none",
}


@dataclass(slots=True)
class Tally:
    """What the walk has counted so far; as large for a million ids as for one page."""

    eligible: int = 0
    to_process: int = 0
    duplicates: int = 0
    pages: int = 0
    chunks: int = 0
    messages: int = 0
    sample: list[str] = field(default_factory=list[str])

    def add(self, page: Fetched, needed: Sequence[str], chunk_size: int) -> None:
        """Count one page, of whose ids so many need work."""
        self.pages += 1
        self.eligible += page.named
        self.duplicates += page.duplicates
        self.to_process += len(needed)
        chunks = ceil(len(needed) / chunk_size)
        if chunks > 1:
            self.chunks += chunks
        # A page starts its first chunk itself.
        self.messages += max(1, chunks)
        if len(self.sample) < SAMPLE:
            self.sample += needed[: SAMPLE - len(self.sample)]


async def dry_run(layers: Layers, params: BaseModel, *, force: bool) -> Statistics:
    """The statistics of a trigger with these parameters, if it came now.

    An id that `fetch` names on two pages counts on both, as nothing here grows with the number of ids.

    Raises:
        NonRetryable: `fetch` or `filter` returned what they must not, or the pages would never end.
    """
    begun = layers.client.now()
    tally = await _walk(layers, params, force=force)
    page_ms = (layers.client.now() - begun) / tally.pages
    latest = await layers.client.store.batches(workflow=layers.definition.name, limit=_LATEST)
    item_ms = _mean_item_ms(latest)
    limits = await _limits(layers)
    duration, binding = _predict(*limits, tally, item_ms=item_ms or 0.0, page_ms=page_ms)
    return Statistics(
        total_eligible=tally.eligible,
        to_process=tally.to_process,
        already_processed=tally.eligible - tally.duplicates - tally.to_process,
        duplicates=tally.duplicates,
        message=_message(tally, layers.definition.plural),
        pages=tally.pages,
        chunks=tally.chunks,
        sample=tuple(tally.sample),
        predicted_duration_ms=duration,
        predicted_duration=show(duration),
        binding_limit=binding,
        mean_item_ms=item_ms,
    )


async def _walk(layers: Layers, params: BaseModel, *, force: bool) -> Tally:
    source, definition, tally = layers.source, layers.definition, Tally()
    cursor: str | None = None
    probe = Probe()
    token = SCOPE.set(Scope(layers.client, definition.name, params))
    lent = None if CURRENT_DELIVERY.get() is not None else CURRENT_DELIVERY.set(DeliveryScope(layers.client.threads))
    try:
        while True:
            page = await source.fetch(params, cursor, definition.page_size)
            needed = page.ids if force else await source.filter(params, page.ids)
            tally.add(page, needed, definition.chunk_size)
            cursor = page.next_cursor
            if cursor is None:
                return tally
            probe = source.advance(probe, cursor)
    finally:
        SCOPE.reset(token)
        if lent is not None:
            CURRENT_DELIVERY.reset(lent)


def _message(tally: Tally, plural: str) -> str:
    return f"[DryRun] Would process {tally.to_process} {plural}" if tally.eligible else "No eligible items found"


def _mean_item_ms(latest: Sequence[Batch]) -> float | None:
    """The mean time of an item in the latest batch that has any."""
    return next((it.worked_ms / it.counts.ended for it in latest if it.counts.ended and it.worked_ms), None)


async def _limits(layers: Layers) -> tuple[FlowControl, FlowControl]:
    """The limits of items and of pages that are in force: those an operator has pinned, else the code's."""
    flows = (layers.definition.execute_flow, layers.definition.paginate_flow)
    present = await layers.client.store.flows([flow.key for flow in flows if flow.key])
    in_force = {status.limits.key: status.limits for status in present}
    execute, paginate = (in_force.get(flow.key, flow) for flow in flows)
    return execute, paginate


def _predict(
    execute_flow: FlowControl, paginate_flow: FlowControl, tally: Tally, *, item_ms: float, page_ms: float
) -> tuple[int, BindingLimit]:
    """How long the slower of the layers takes: they work at the same time."""
    if not tally.to_process:
        return 0, "none"
    execute, by_execute = predict_ms(execute_flow, tally.to_process, mean_ms=item_ms)
    paginate, by_paginate = predict_ms(paginate_flow, tally.messages, mean_ms=page_ms)
    if paginate > execute:
        return paginate, _PAGINATE[by_paginate]
    return execute, _EXECUTE[by_execute]
