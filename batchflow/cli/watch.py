"""How a batch goes, as it is shown while it runs: its speed of late, and what keeps it from going faster."""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchflow.app import Batchflow
from batchflow.batch.bound import Workflow
from batchflow.batch.handle import BatchHandle
from batchflow.batch.status import BatchStatus
from batchflow.cli.display import Display, Moment
from batchflow.core.duration import spell
from batchflow.core.flow import FlowControl, FlowStatus
from batchflow.errors import StoreUnavailable

LOOK_SECONDS = 0.25
_PATIENCE_SECONDS = 1.0
_WINDOW_MS = 5_000
_LIMIT_MS = 1_000
# How often the flow keys are asked: counting what waits takes longer the more there is.


async def watch(handle: BatchHandle[Any], workflow: Workflow[Any, Any], flow: Batchflow, shown: Display) -> None:
    """Show the batch until it has ended; a store that cannot be read for now is asked again."""
    while True:
        try:
            await _watch(handle, workflow, flow, shown)
            return
        except StoreUnavailable:
            await asyncio.sleep(_PATIENCE_SECONDS)


async def _watch(handle: BatchHandle[Any], workflow: Workflow[Any, Any], flow: Batchflow, shown: Display) -> None:
    speed = Speed()
    limit, asked_at = "", -_LIMIT_MS
    async for status in handle.progress(LOOK_SECONDS):
        speed.see(status)
        if status.elapsed_ms - asked_at >= _LIMIT_MS and not status.is_final:
            limit, asked_at = await _limit(workflow, flow), status.elapsed_ms
        shown.show(Moment(status, speed.per_second, speed.eta_ms(status), limit))


@dataclass(frozen=True, slots=True)
class _Seen:
    elapsed_ms: int
    ended: int


class Speed:
    """Items per second over the last seconds: a batch that was resumed has stood still before."""

    def __init__(self) -> None:
        self._seen: deque[_Seen] = deque()

    def see(self, status: BatchStatus) -> None:
        """Take in how far the batch is now."""
        self._seen.append(_Seen(status.elapsed_ms, status.counts.ended))
        while len(self._seen) > 2 and status.elapsed_ms - self._seen[0].elapsed_ms > _WINDOW_MS:
            self._seen.popleft()

    @property
    def per_second(self) -> float:
        """The speed of late; 0 before there is one."""
        first, last = self._seen[0], self._seen[-1]
        ms = last.elapsed_ms - first.elapsed_ms
        return (last.ended - first.ended) * 1000 / ms if ms > 0 else 0.0

    def eta_ms(self, status: BatchStatus) -> int | None:
        """How long the rest takes at this speed; None while the total or the speed is not known."""
        left = status.total - status.counts.ended
        if not status.is_total_known or not self.per_second:
            return None
        return round(left * 1000 / self.per_second)


async def _limit(workflow: Workflow[Any, Any], flow: Batchflow) -> str:
    keys = workflow.definition
    names = {str(keys.execute_flow.key): "", str(keys.paginate_flow.key): "paginate "}
    found = await flow.engine.store.flows(list(names))
    now = flow.engine.now()
    # The items first: while any of them wait, the walk over the pages is not what takes the time.
    return binding(sorted(found, key=lambda it: names[it.limits.key or ""]), names, flow.settings.concurrency, now)


def binding(flows: list[FlowStatus], names: Mapping[str, str], concurrency: int, now: int) -> str:
    """The limit that the first of these keys with waiting messages has come up against; empty where none waits."""
    for flow in flows:
        name = names[flow.limits.key or ""]
        if flow.paused:
            return f"{name}paused by an operator"
        if flow.parked_until > now:
            return f"{name}asked to wait for {spell((flow.parked_until - now + 999) // 1000 * 1000)}"
        if flow.waiting:
            return name + _binding(flow, concurrency)
    return ""


def _binding(flow: FlowStatus, concurrency: int) -> str:
    limits = flow.limits
    if limits.parallelism is not None and flow.in_use >= limits.parallelism:
        return f"parallelism {limits.parallelism}"
    if limits.rate is None or flow.in_use >= concurrency:
        return f"concurrency {concurrency}"
    return f"rate {spell_rate(limits)}"


def spell_rate(limits: FlowControl) -> str:
    """A rate as people read it: "5/s", "100/1m"."""
    return f"{limits.rate}/{'s' if limits.period_ms == 1000 else spell(limits.period_ms)}"
