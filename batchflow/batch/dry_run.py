"""The dry run of a trigger: fetches and filters every page, counts the items, and writes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from batchflow.batch.names import WireKeys
from batchflow.batch.runtime import WorkflowRuntime
from batchflow.batch.source import CycleDetector, FetchedPage
from batchflow.core.batch import Batch
from batchflow.core.duration import humanize_duration
from batchflow.core.flow import Bottleneck, FlowControl, predict_ms

BindingLimit: TypeAlias = Literal[
    "execute rate", "execute parallelism", "paginate rate", "paginate parallelism", "none"
]
"""The limit that determines the duration of a batch; "none" if everything starts at once."""


class Statistics(BaseModel):
    """The result of a dry run. Its JSON names are camelCase.

    `sample` has the first ids that would be processed; `pages` and `chunks` are those of layer 2. The duration is
    predicted from the limits of the workflow and `mean_item_ms`, the mean time of an item in its latest batch. It is
    None without such a batch; items are then assumed to take no time.
    """

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        defer_build=True,
    )

    success: bool = True
    total_eligible: int
    to_process: int
    already_processed: int
    duplicates: int = 0
    dry_run: bool = True
    message: str
    pages: int
    chunks: int
    sample: tuple[str, ...] = ()
    predicted_duration_ms: int = 0
    predicted_duration: str = "0s"
    binding_limit: BindingLimit = "none"
    mean_item_ms: float | None = None


SAMPLE_SIZE = 5
_BATCHES_SEARCHED = 10
# The number of batches that are searched for one with ended items.
_EXECUTE_LIMITS: Mapping[Bottleneck, BindingLimit] = {
    "rate": "execute rate",
    "parallelism": "execute parallelism",
    "none": "none",
}
_PAGINATE_LIMITS: Mapping[Bottleneck, BindingLimit] = {
    "rate": "paginate rate",
    "parallelism": "paginate parallelism",
    "none": "none",
}


@dataclass(slots=True)
class DryRunCounts:
    """The counts of a walk. Their size does not depend on the number of ids."""

    eligible: int = 0
    to_process: int = 0
    duplicates: int = 0
    pages: int = 0
    chunks: int = 0
    messages: int = 0
    sample: list[str] = field(default_factory=list[str])

    def add(self, page: FetchedPage, needed: Sequence[str], chunk_size: int) -> None:
        """Count one page; `needed` are those of its ids that need work."""
        self.pages += 1
        self.eligible += page.named
        self.duplicates += page.duplicates
        self.to_process += len(needed)
        chunks = ceil(len(needed) / chunk_size)
        if chunks > 1:
            self.chunks += chunks
        # A page starts its first chunk without a message of its own.
        self.messages += max(1, chunks)
        if len(self.sample) < SAMPLE_SIZE:
            self.sample += needed[: SAMPLE_SIZE - len(self.sample)]


async def dry_run(runtime: WorkflowRuntime, params: BaseModel, *, force: bool) -> Statistics:
    """Return the statistics of a trigger with these parameters.

    An id on two pages is counted twice, since memory does not grow with the number of ids.

    Raises:
        NonRetryable: `fetch`, `filter` or `item_flow` returned an invalid value, or the pages would never end.
    """
    started_at = runtime.client.now()
    counts = await _walk(runtime, params, force=force)
    page_ms = (runtime.client.now() - started_at) / counts.pages
    latest = await runtime.client.store.batches(workflow=runtime.definition.name, limit=_BATCHES_SEARCHED)
    item_ms = _mean_item_ms(latest)
    limits = await _current_flows(runtime)
    duration, binding = _predict_duration(*limits, counts, item_ms=item_ms or 0.0, page_ms=page_ms)
    return Statistics(
        total_eligible=counts.eligible,
        to_process=counts.to_process,
        already_processed=counts.eligible - counts.duplicates - counts.to_process,
        duplicates=counts.duplicates,
        message=_message(counts, runtime.definition.wire),
        pages=counts.pages,
        chunks=counts.chunks,
        sample=tuple(counts.sample),
        predicted_duration_ms=duration,
        predicted_duration=humanize_duration(duration),
        binding_limit=binding,
        mean_item_ms=item_ms,
    )


async def _walk(runtime: WorkflowRuntime, params: BaseModel, *, force: bool) -> DryRunCounts:
    source, definition, counts = runtime.source, runtime.definition, DryRunCounts()
    cursor: str | None = None
    probe = CycleDetector()
    with runtime.hooks_outside_of_batches(params):
        while True:
            page = await source.fetch(params, cursor, definition.page_size)
            needed = page.ids if force else await source.filter(params, page.ids)
            if runtime.item_keys is not None and needed:
                await runtime.item_keys.find(params, needed, page.by_id)
            counts.add(page, needed, definition.chunk_size)
            cursor = page.next_cursor
            if cursor is None:
                return counts
            probe = source.advance(probe, cursor)


def _message(counts: DryRunCounts, wire: WireKeys) -> str:
    return (
        f"[DryRun] Would process {wire.quantity(counts.to_process)}" if counts.eligible else "No eligible items found"
    )


def _mean_item_ms(latest: Sequence[Batch]) -> float | None:
    """The mean time of an item in the latest batch that has any."""
    return next((it.worked_ms / it.counts.ended for it in latest if it.counts.ended and it.worked_ms), None)


async def _current_flows(runtime: WorkflowRuntime) -> tuple[FlowControl, FlowControl]:
    """The limits of items and of pages that are in force: those an operator has pinned, else the code's."""
    flows = (runtime.definition.execute_flow, runtime.definition.paginate_flow)
    present = await runtime.client.store.flows([flow.key for flow in flows if flow.key])
    in_force = {status.limits.key: status.limits for status in present}
    execute, paginate = (in_force.get(flow.key, flow) for flow in flows)
    return execute, paginate


def _predict_duration(
    execute_flow: FlowControl, paginate_flow: FlowControl, counts: DryRunCounts, *, item_ms: float, page_ms: float
) -> tuple[int, BindingLimit]:
    """Return the duration of the slower layer, since they work at the same time, and its limit."""
    if not counts.to_process:
        return 0, "none"
    execute, by_execute = predict_ms(execute_flow, counts.to_process, mean_ms=item_ms)
    paginate, by_paginate = predict_ms(paginate_flow, counts.messages, mean_ms=page_ms)
    if paginate > execute:
        return paginate, _PAGINATE_LIMITS[by_paginate]
    return execute, _EXECUTE_LIMITS[by_execute]
