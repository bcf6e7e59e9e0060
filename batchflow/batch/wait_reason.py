"""The reason why a batch goes no faster, or not on at all: the limit that binds, or what stops it; its failures."""

from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from typing import TypeAlias

from batchflow.batch.definition import Definition
from batchflow.batch.status import BatchStatus, WaitReason, budget_sentence
from batchflow.core.batch import Batch, Counts, ErrorGroup
from batchflow.core.duration import format_duration, humanize_duration
from batchflow.core.flow import FlowControl, FlowStatus
from batchflow.core.ids import entry_id
from batchflow.core.message import UnservedWork, WorkerStatus
from batchflow.core.ports import Client
from batchflow.core.store import Reads
from batchflow.serve.waiting import format_moment, parked_sentence, paused_sentence, unserved_sentence

FlowReader: TypeAlias = Callable[[Sequence[str]], Awaitable[Sequence[FlowStatus]]]
"""Reads the flow keys of these names."""

SILENT_MS = 15_000
"""A worker whose last heartbeat is older than this holds its claims without working, for all that is known."""

LOOK_EVERY_MS = 1_000
"""The reason is looked for no more often, since the store counts what waits for it."""

_MAX_GROUPS = 3
_OTHER_BATCHES = 100
# The number of the latest open batches among which one with a higher priority is looked for.


class WaitReasons:
    """The reasons of one batch over time: each is kept for a second, or until the batch is paused, resumed or ends."""

    def __init__(self, client: Client, definition: Definition | None) -> None:
        self._client = client
        self._definition = definition
        self._found: WaitReason | None = None
        self._looked_at: int | None = None
        self._ended = -1
        self._state: object = None

    async def find(self, batch: Batch) -> WaitReason | None:
        """Return the present reason of the batch, which was read just now; see `find_wait_reason`."""
        stopped = batch.paused, batch.stop_reason, batch.waits_for_approval
        now, state = self._client.now(), (batch.state, stopped)
        is_recent = self._looked_at is not None and 0 <= now - self._looked_at < LOOK_EVERY_MS
        if is_recent and state == self._state and not batch.items_ended:
            return self._found
        self._state = state
        stalled = self._looked_at is None or batch.counts.ended == self._ended
        self._looked_at, self._ended = now, batch.counts.ended
        self._found = await find_wait_reason(
            self._client.store,
            self._definition,
            batch,
            now,
            concurrency=self._client.concurrency,
            stalled=stalled,
            unserved=None if self._client.executes else (),
        )
        return self._found


async def find_wait_reason(
    store: Reads,
    definition: Definition | None,
    batch: Batch,
    now: int,
    *,
    concurrency: int | None = None,
    stalled: bool = True,
    unserved: Sequence[UnservedWork] | None = None,
    flows_of: FlowReader | None = None,
) -> WaitReason | None:
    """Return the reason why an open batch goes no faster; None if nothing holds it back, or it has ended.

    Without a `definition`, as where the app of a batch is not known, its pages are looked for under their default key.
    `concurrency` is that of the process that works for the batch, if there is one. The workers are read only if the
    batch is `stalled`: none of its items ends. `unserved` is work that the caller has read; `flows_of` reads the flow
    keys with what waits for them, as far as the caller knows, in the place of the store, which counts it.
    """
    if batch.items_ended:
        return WaitReason("completion", "on_complete has not ended") if batch.working else None
    if batch.paused:
        if batch.stop_reason == "failure_budget":
            return WaitReason(
                "failure_budget", f"{budget_sentence(batch)}; 'batchflow batches resume {batch.id}' goes on"
            )
        return WaitReason("paused", "an operator has paused the batch")
    if batch.waits_for_approval:
        return WaitReason("approval", approval_text(batch))
    if batch.state == "pending" and (due := await _start_time(store, batch)) is not None:
        return WaitReason("not_before", f"its start time, {format_moment(due)}, has not come")
    routes = WorkflowRoutes(definition, batch.workflow)
    if stalled and (sentence := _unserved(await store.unserved() if unserved is None else unserved, routes, batch)):
        return WaitReason("unserved", sentence)
    keys = flow_keys(definition, batch)
    found = await (store.flows(list(keys)) if flows_of is None else flows_of(list(keys)))
    flows = sorted(found, key=lambda it: keys[it.limits.key or ""])
    for flow in flows:
        if flow.waiting and (sentence := paused_sentence(flow)):
            return WaitReason("key_paused", sentence)
        if flow.waiting and (sentence := parked_sentence(flow, now)):
            return WaitReason("breaker_open" if flow.breaker.open_for else "key_parked", sentence)
    if stalled and (sentence := silent_worker(await store.workers(), routes, now)):
        return WaitReason("worker_silent", sentence)
    if of_items := await _item_keys_reason(store, definition, batch, flows, now):
        return of_items
    limit = binding_limit(flows, keys, batch.counts, concurrency)
    if limit:
        first = await _first_batch(store, batch) if stalled else None
        return WaitReason("limit", f"limit: {limit}" if first is None else f"limit: {limit}; {first}")
    # Fewer items than the canary has: those of a walk that names them again, or which others process.
    is_stuck = batch.needs_approval and batch.state == "open" and batch.counts.ended and not batch.counts.open
    return WaitReason("approval", approval_text(batch)) if is_stuck else None


def approval_text(batch: Batch) -> str:
    """Return the end of a batch's canary in one sentence, with the command that approves the batch."""
    counts = batch.counts
    failed = f", {counts.failed:,} failed" if counts.failed else ""
    return (
        f"{counts.ended:,} of {batch.canary or 0:,} canary items have ended{failed}; "
        f"'batchflow batches approve {batch.id}' goes on"
    )


def flow_keys(definition: Definition | None, batch: Batch) -> dict[str, str]:
    """Return the flow keys of the pages and of the items of a batch, each with what begins the name of its limits."""
    paginate_key = f"{batch.workflow}.paginate" if definition is None else str(definition.paginate_flow.key)
    # Where both have one key, it is that of the items.
    return {paginate_key: "paginate ", batch.flow_key or f"{batch.workflow}.execute": ""}


async def _item_keys_reason(
    store: Reads, definition: Definition | None, batch: Batch, flows: Sequence[FlowStatus], now: int
) -> WaitReason | None:
    """Return the reason if the items that could start next all have flow keys of their own that hold them back."""
    has_keys = definition is None or "item_flow" in definition.defined_hooks
    if not has_keys or any(_is_full(flow) for flow in flows if flow.limits.key == batch.flow_key):
        return None
    opened = await store.open_messages(batch.id)
    wait = [it.flow_key for it in opened if it.state == "waiting" and it.due_at is None]
    if not wait or batch.flow_key in wait:
        return None
    found = await store.flows(sorted(set(wait)))
    for flow in found:
        if not (_is_full(flow) or flow.paused or flow.parked_until > now):
            return None
    for flow in found:
        if sentence := paused_sentence(flow):
            return WaitReason("key_paused", sentence)
    for flow in found:
        if sentence := parked_sentence(flow, now):
            return WaitReason("key_parked", sentence)
    named = max(found, key=lambda it: it.waiting)
    return WaitReason("limit", f"limit: {named.limits.key} parallelism {named.limits.parallelism}")


def _is_full(flow: FlowStatus) -> bool:
    return flow.limits.parallelism is not None and flow.in_use >= flow.limits.parallelism


class WorkflowRoutes:
    """The destinations of a workflow; without its definition, all below its name."""

    def __init__(self, definition: Definition | None, workflow: str) -> None:
        self._routes = None if definition is None else set(definition.routes)
        self._prefix = f"/{workflow}/"

    def __contains__(self, destination: str) -> bool:
        return destination.startswith(self._prefix) if self._routes is None else destination in self._routes


async def _first_batch(store: Reads, batch: Batch) -> str | None:
    """Return a sentence about the batch of the workflow whose items start before those of this one, if there is one."""
    others = await store.batches(workflow=batch.workflow, open_only=True, limit=_OTHER_BATCHES, params=False)
    found = [it for it in others if it.priority > batch.priority and it.counts.open and not it.paused]
    if not found:
        return None
    first = max(found, key=lambda it: it.priority)
    return f"batch '{first.id}' goes first, whose priority is {first.priority}"


async def _start_time(store: Reads, batch: Batch) -> int | None:
    entry = await store.run(entry_id(batch.id))
    return None if entry is None or entry.started_at is not None or entry.failures else entry.due_at


def _unserved(work: Sequence[UnservedWork], routes: WorkflowRoutes, batch: Batch) -> str:
    found = [it.destination for it in work if it.destination in routes and it.batch in (None, batch.id)]
    return unserved_sentence(found)


def silent_worker(workers: Sequence[WorkerStatus], routes: Container[str], now: int) -> str:
    """Return a sentence about a worker that holds items of the workflow and is not heard of; else an empty text."""
    for worker in workers:
        held = sum(count for destination, count in worker.holds.items() if destination in routes)
        silent_ms = max(0, now - worker.seen_at) if worker.seen_at else 0
        if held and (worker.lost or silent_ms > SILENT_MS):
            since = f" for {humanize_duration(silent_ms // 1000 * 1000)}" if silent_ms else ""
            return f"the worker '{worker.name}' holds {held:,} and has been silent{since}"
    return ""


def binding_limit(
    flows: Sequence[FlowStatus], names: Mapping[str, str], counts: Counts, concurrency: int | None
) -> str:
    """Return the limit that holds back the first of these flow keys with messages that could start, or an empty text.

    Items that wait for their next attempt could not.
    """
    for flow in flows:
        name = names[flow.limits.key or ""]
        if flow.waiting > (0 if name else counts.retrying + counts.parked):
            return (limit := _flow_limit(flow, concurrency)) and name + limit
    return ""


def _flow_limit(flow: FlowStatus, concurrency: int | None) -> str:
    limits = flow.limits
    if _is_full(flow):
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
