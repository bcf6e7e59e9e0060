"""The stores of the processes of a test: they record what happens, apply the faults, and crash with their process."""

from collections.abc import Awaitable, Callable, Sequence, Set

from batchflow.core.message import Claim, ClaimResult
from batchflow.core.run import Step
from batchflow.core.settlement import Effect, Settlement, SettleResult, released
from batchflow.core.store import RecordResult, Store
from batchflow.testing.faults import FaultPlan, StoreProxy
from batchflow.testing.history import History
from batchflow.testing.records import RunRecord


class RecordingStore(StoreProxy):
    """The store of one life of a process, which records what is written and crashes as planned.

    It stays open when the app closes it; the end of the test closes it.
    """

    def __init__(self, store: Store, history: History, faults: FaultPlan) -> None:
        super().__init__(store)
        self._history = history
        self._faults = faults

    async def close(self) -> None:
        """Do nothing: the state in memory has to outlive a stop of the app."""

    def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> Awaitable[RecordResult]:
        """See the protocol."""
        return self.write_step(claim, step, effects, lambda: self.store.record(claim, fence, step, effects))

    async def write_step(
        self, run: str, step: Step, effects: tuple[Effect, ...], write: Callable[[], Awaitable[RecordResult]]
    ) -> RecordResult:
        """Write a step by `write`, and record that; the process may crash before or after it."""
        if self.died.is_set():
            await self._hang("record")
        death = self._faults.crash_at(run, [step])
        if death == "before":
            await self._crash("record")
        verdict = await write()
        if verdict == "recorded":
            self._history.on_record(run, step, effects)
        if death is not None or self.died.is_set():
            await self._crash("record")
        return verdict

    def settle(self, settlement: Settlement) -> Awaitable[SettleResult]:
        """See the protocol."""
        return self._settle(settlement)

    async def _settle(self, settlement: Settlement) -> SettleResult:
        if self.died.is_set():
            await self._hang("settle")
        death = self._faults.crash_at(settlement.id, [*settlement.steps, *self._final_step(settlement)])
        if death == "before":
            await self._crash("settle")
        answer = await self.store.settle(settlement)
        if not answer.stale:
            self._history.on_settle(settlement)
        if death is not None or self.died.is_set():
            await self._crash("settle")
        return answer

    def _final_step(self, settlement: Settlement) -> list[str]:
        """Return the name of an item's last step, which is settled with the item and never in its journal."""
        run: RunRecord[object] | None = self._history.runs.get(settlement.id)
        if run is None or not run.item or settlement.ending not in ("done", "failed", "dead"):
            return []
        return [record.name for record in run.history if record.name not in run.journal]


class DelayedClaims:
    """Holds back claims that are to be delivered late or in another order."""

    def __init__(self, faults: FaultPlan, now: Callable[[], int]) -> None:
        self._faults = faults
        self._now = now
        self._delayed: list[tuple[int, Claim]] = []
        self._due: dict[str, int] = {}

    def reschedule(self, claimed: ClaimResult) -> ClaimResult:
        """Return what is delivered now: of these claims, and of those that are held back."""
        if not (self._faults.late_ms or self._faults.order or self._delayed):
            return claimed
        now = self._now()
        late = now + self._faults.late_ms
        self._delayed += [(self._due.pop(claim.id, late), claim) for claim in claimed.claims]
        there = [held for held in self._delayed if held[0] <= now]
        if self._faults.order is not None:
            delivered = [self._faults.order.choice(there)] if there else []
        else:
            # Two deliveries of one message do not overlap in one batch of claims.
            delivered = list({held[1].id: held for held in reversed(there)}.values())[::-1]
        for held in delivered:
            self._delayed.remove(held)
        dues = [due for due, _ in self._delayed] + ([] if claimed.next_due is None else [claimed.next_due])
        return ClaimResult([claim for _, claim in delivered], min(dues, default=None))

    def release(self) -> None:
        """Leave the claims to the next worker, until the same time."""
        self._due.update((claim.id, due) for due, claim in self._delayed)
        self._delayed.clear()


class ProcessStore(RecordingStore):
    """The store of a process that claims its work there."""

    def __init__(self, store: Store, history: History, faults: FaultPlan) -> None:
        super().__init__(store, history, faults)
        self._delays = DelayedClaims(faults, history.now_ms)

    async def claim(self, worker: str, destinations: Sequence[str], limit: int) -> ClaimResult:
        """See the protocol; this applies double, late and reordered deliveries."""
        claimed = await self._call_verb("claim", lambda: self.store.claim(worker, destinations, limit))
        for claim in claimed.claims:
            self._history.on_claim(claim)
            if self._faults.is_delivered_twice(claim):
                # The message becomes due with another fence, so whatever the first delivery writes now is stale.
                await self.store.settle(released(claim))
        return self._delays.reschedule(claimed)

    async def deregister(self, worker: str) -> None:
        """See the protocol; delayed claims of the worker stay delayed for the next one, until the same time."""
        self._delays.release()
        await self._call_verb("dismiss", lambda: self.store.deregister(worker))


class RequestedStore(RecordingStore):
    """The store of a process that works only while it is requested to: each request names its message.

    What it claims it does not execute, but gives to whoever makes the requests. Messages to the `internal`
    destinations are not recorded.
    """

    def __init__(self, store: Store, history: History, faults: FaultPlan, internal: Set[str]) -> None:
        super().__init__(store, history, faults)
        self._internal = internal
        self._next_due: int | None = None
        self._claimed: set[str] = set()
        self._given: dict[str, int] = {}

    @property
    def next_due(self) -> int | None:
        """The time when more is due, as of the latest claim; None if that is only what was given and is not lost."""
        return None if self._next_due in self._given.values() else self._next_due

    async def claim(self, worker: str, destinations: Sequence[str], limit: int) -> ClaimResult:
        """See the protocol."""
        claimed = await self._call_verb("claim", lambda: self.store.claim(worker, destinations, limit))
        self._next_due = claimed.next_due
        self._claimed.update(claim.id for claim in claimed.claims)
        return claimed

    async def claim_one(self, worker: str, id: str, fence: int) -> ClaimResult:
        """See the protocol."""
        claimed = await self._call_verb("claim_one", lambda: self.store.claim_one(worker, id, fence))
        for claim in claimed.claims:
            self._given.pop(claim.id, None)
            if claim.destination not in self._internal:
                self._history.on_claim(claim)
        return claimed

    def settle(self, settlement: Settlement) -> Awaitable[SettleResult]:
        """See the protocol."""
        if settlement.id in self._claimed:
            self._claimed.discard(settlement.id)
            if settlement.ending == "suspended":
                self._given[settlement.id] = settlement.due
        return super().settle(settlement)

    async def deregister(self, worker: str) -> None:
        """See the protocol; a process that has crashed does not leave."""
        if not self.died.is_set():
            await self.store.deregister(worker)
