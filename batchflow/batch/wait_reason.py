"""The reason why a batch goes no faster, or not on at all: the limit that binds, or what stops it; its failures."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import NamedTuple

from batchflow.batch.definition import Definition
from batchflow.batch.status import BatchStatus
from batchflow.core.batch import Batch, Counts, ErrorGroup
from batchflow.core.duration import format_duration, humanize_duration
from batchflow.core.flow import FlowControl, FlowStatus
from batchflow.core.ids import entry_id
from batchflow.core.message import WorkerStatus
from batchflow.core.store import Reads
from batchflow.serve.waiting import unserved_reason

SILENT_MS = 15_000
"""A worker whose last heartbeat is older than this holds its claims without working, for all that is known."""

_CLAIM_MS = 2_000
_MAX_GROUPS = 3


class WaitReason(NamedTuple):
    """The limit that binds, such as "rate 50/s"; or else, as a sentence without a period, why nothing starts."""

    limit: str = ""
    sentence: str = ""


async def find_wait_reason(
    store: Reads,
    definition: Definition,
    batch: Batch,
    now: int,
    *,
    concurrency: int | None = None,
    stalled: bool = True,
) -> WaitReason:
    """Return the reason why an open batch goes no faster.

    `concurrency` is that of the process that works for the batch, if there is one. The workers are read only if the
    batch is `stalled`: none of its items ends.
    """
    if batch.items_ended:
        return WaitReason(sentence="on_complete has not ended") if batch.working else WaitReason()
    if batch.paused:
        return WaitReason(sentence="an operator has paused the batch")
    if stalled and (reason := await unserved_reason(store, astuple(definition.routes))):
        return WaitReason(sentence=reason)
    keys = {str(definition.execute_flow.key): "", str(definition.paginate_flow.key): "paginate "}
    flows = sorted(await store.flows(list(keys)), key=lambda it: keys[it.limits.key or ""])
    if (reason := _stopped_key(flows, batch, now)) or not stalled:
        return WaitReason(binding_limit(flows, keys, batch.counts, concurrency, now), reason)
    if reason := silent_worker(await store.workers(), definition, now):
        return WaitReason(sentence=reason)
    if await _waits_for_its_time(store, batch, now):
        return WaitReason(sentence="its start time has not come")
    return WaitReason(binding_limit(flows, keys, batch.counts, concurrency, now))


def _stopped_key(flows: Sequence[FlowStatus], batch: Batch, now: int) -> str:
    for flow in flows:
        if flow.waiting and flow.paused:
            return f"an operator has paused the flow key '{flow.limits.key}'"
    return ""


def silent_worker(workers: Sequence[WorkerStatus], definition: Definition, now: int) -> str:
    """Return a sentence about a worker that holds items of the workflow and is not heard of; else an empty text."""
    routes = set(astuple(definition.routes))
    for worker in workers:
        held = sum(count for destination, count in worker.holds.items() if destination in routes)
        silent_ms = max(0, now - worker.seen_at) if worker.seen_at else 0
        if held and (worker.lost or silent_ms > SILENT_MS):
            since = f" for {humanize_duration(silent_ms // 1000 * 1000)}" if silent_ms else ""
            return f"the worker '{worker.name}' holds {held:,} and has been silent{since}"
    return ""


async def _waits_for_its_time(store: Reads, batch: Batch, now: int) -> bool:
    # A message that is due is claimed within this time.
    if batch.state != "pending" or now - batch.created_at < _CLAIM_MS:
        return False
    entry = await store.run(entry_id(batch.id))
    return entry is not None and entry.state == "waiting" and entry.started_at is None and not entry.failures


def binding_limit(
    flows: Sequence[FlowStatus], names: Mapping[str, str], counts: Counts, concurrency: int | None, now: int
) -> str:
    """Return the limit that holds back the first of these flow keys with messages that could start, or an empty text.

    Items that wait for their next attempt could not.
    """
    for flow in flows:
        name = names[flow.limits.key or ""]
        if flow.parked_until > now:
            return f"{name}asked to wait for {format_duration((flow.parked_until - now + 999) // 1000 * 1000)}"
        if flow.waiting > (0 if name else counts.retrying + counts.parked):
            return (limit := _flow_limit(flow, concurrency)) and name + limit
    return ""


def _flow_limit(flow: FlowStatus, concurrency: int | None) -> str:
    limits = flow.limits
    if limits.parallelism is not None and flow.in_use >= limits.parallelism:
        return f"parallelism {limits.parallelism}"
    if concurrency is not None and (limits.rate is None or flow.in_use >= concurrency):
        return f"concurrency {concurrency}"
    return f"rate {format_rate(limits)}" if limits.rate is not None else ""


def format_rate(limits: FlowControl) -> str:
    """Return a rate as text such as "5/s" or "100/1m"."""
    return f"{limits.rate}/{'s' if limits.period_ms == 1000 else format_duration(limits.period_ms)}"


def failing_text(status: BatchStatus) -> str:
    """Return the present failures, such as "20 retrying: 15 × ConnectError, 5 × ReadTimeout"; empty without any."""
    counts = status.counts
    if not counts.retrying:
        return ""
    groups = format_groups(status.errors)
    return f"{counts.retrying:,} retrying" + (f": {groups}" if groups else "")


def format_groups(groups: Sequence[ErrorGroup]) -> str:
    """Return the largest groups of errors in one line; a single one with its message and its place."""
    if len(groups) == 1:
        (group,) = groups
        where = f" ({group.where})" if group.where else ""
        return f"{group.attempts:,} × {group.message or group.type}{where}"
    left = len(groups) - _MAX_GROUPS
    return ", ".join(map(str, groups[:_MAX_GROUPS])) + (f" and {left} more kinds" if left > 0 else "")
