"""The verbs that are one operation of a group, whatever the store."""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from batchflow.core.batch import NewBatch
from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.core.run import Step
from batchflow.core.settlement import Effect, Settled, Settlement
from batchflow.core.store import Verdict
from batchflow.errors import StoreError
from batchflow.stores import slices


class Writing(ABC):
    """The part of a store that asks for one operation and hands its answer on."""

    _sweeping: "asyncio.Task[None] | None" = None

    @abstractmethod
    def _add(self, verb: str, *arguments: Any) -> "asyncio.Future[Any]":
        """Ask for an operation; the future has its answer once it is durable."""

    # Messages

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """See the protocol."""
        return list(await self._add("publish", messages))

    def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> "asyncio.Future[Verdict]":
        """See the protocol."""
        if effects:
            return self._add("record_with_effects", claim, fence, step, effects)
        return self._add("record", claim, fence, step)

    def settle(self, settlement: Settlement) -> "asyncio.Future[Settled]":
        """See the protocol."""
        return self._add("settle", settlement)

    async def expire(self) -> int:
        """See the protocol."""
        taken_back: int = await self._add("expire")
        await self._sweep()
        # Keys that are idle go a slice at a time; a slice without any ends it, for the next call to go on from there.
        while await self._add("remove_idle"):
            pass
        return taken_back

    async def redrive(self, id: str) -> bool:
        """See the protocol."""
        return await self._add("redrive", id)

    # Runs

    async def cancel_run(self, id: str) -> bool:
        """See the protocol."""
        found: bool = await self._add("cancel_run", id)
        self._sweep_behind()
        return found

    async def cancel_runs(self, *, destination: str | None = None, label: str | None = None) -> int:
        """See the protocol."""
        count = 0
        while (destination or label) and (found := await self._add("cancel_all", destination, label)):
            count += found
        self._sweep_behind()
        return count

    # Events

    async def notify(self, event: str, data: str, run: str | None = None) -> Sequence[str]:
        """See the protocol."""
        return list(await self._add("notify", event, data, run))

    # Batches

    async def open_batch(self, batch: NewBatch, messages: Sequence[Message]) -> bool:
        """See the protocol."""
        return await self._add("open_batch", batch, messages)

    async def cancel_batch(self, id: str) -> bool:
        """See the protocol."""
        begun: bool = await self._add("cancel_batch", id)
        if begun:
            self._sweep_behind()
        return begun

    async def pause_batch(self, id: str) -> bool:
        """See the protocol."""
        return await self._add("pause_batch", id)

    async def resume_batch(self, id: str) -> bool:
        """See the protocol."""
        return await self._add("resume_batch", id)

    def _sweep_behind(self) -> None:
        """End what waits of cancelled batches without having anybody wait for it."""
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.create_task(self._sweep_quietly(), name="batchflow-cancelling")

    async def _sweep_quietly(self) -> None:
        # Whoever keeps house goes on with it where this one cannot.
        with contextlib.suppress(StoreError):
            await self._sweep()

    async def _sweep(self) -> None:
        """End what waits of cancelled batches, a slice at a time."""
        while await self._add("sweep_cancelled"):
            pass

    async def _end_sweep(self) -> None:
        """Have nothing swept any more; what is left is ended by whoever keeps house next."""
        sweeping, self._sweeping = self._sweeping, None
        if sweeping is not None:
            sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sweeping

    # The ledger

    async def mark(self, ledger: str, ids: Sequence[str], ttl_ms: int | None) -> None:
        """See the protocol."""
        await self._add("mark", ledger, ids, ttl_ms)

    async def forget(self, ledger: str, ids: Sequence[str] | None = None) -> int:
        """See the protocol."""
        return await self._add("forget", ledger, ids)

    # Flow keys

    async def declare(self, limits: Sequence[FlowControl]) -> None:
        """See the protocol."""
        await self._add("declare", limits)

    async def pin(self, limits: FlowControl) -> None:
        """See the protocol."""
        await self._add("pin", limits)

    async def unpin(self, key: str, *, parallelism: bool = True, rate: bool = True) -> None:
        """See the protocol."""
        await self._add("unpin", key, parallelism, rate)

    async def pause(self, key: str) -> None:
        """See the protocol."""
        await self._add("pause", key)

    async def resume(self, key: str) -> None:
        """See the protocol."""
        await self._add("resume", key)

    # Housekeeping

    async def prune(self, retention_ms: int) -> int:
        """See the protocol."""
        swept: int = await self._add("sweep_cancelled")
        return swept + await self._add("prune", retention_ms, slices.PRUNED)
