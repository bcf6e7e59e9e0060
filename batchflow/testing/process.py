"""One life of the process that a test runs the app in: what befalls it, and what is seen of it."""

import random
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from batchflow.core.call import CALL
from batchflow.core.message import Claim, Claimed
from batchflow.core.run import Step
from batchflow.core.settlement import Effect, Settled, Settlement, released
from batchflow.core.store import Store, Verdict
from batchflow.errors import ConfigurationError
from batchflow.testing.history import History
from batchflow.testing.passing import PassingStore
from batchflow.testing.records import RunRecord


@dataclass(slots=True)
class Crash:
    """The process dies at a step, which is named or counted: before it is written, or right after."""

    step: int | str
    side: Literal["before", "after"]
    happened: bool = False

    def __str__(self) -> str:
        return f"env.crash_{self.side}({self.step!r})"


@dataclass(slots=True)
class Faults:
    """What is to befall the processes of a test, over all their lives."""

    crashes: list[Crash] = field(default_factory=list[Crash])
    twice: set[int] = field(default_factory=set[int])
    late_ms: int = 0
    order: random.Random | None = None
    deliveries: int = 0
    _numbers: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    _again: set[str] = field(default_factory=set[str])

    def writing(self, run: str, steps: Sequence[Step | str]) -> Literal["before", "after"] | None:
        """These steps are about to be written; when the process dies of it."""
        for step in steps:
            if not isinstance(step, str):
                if step.kind == "run" and step.state == "pending":
                    continue
                step = step.name
            number = self._numbers.setdefault((run, step), len(self._numbers) + 1)
            for crash in self.crashes:
                if not crash.happened and crash.step in (number, step):
                    crash.happened = True
                    return crash.side
        return None

    def doubles(self, claim: Claim) -> bool:
        """A claim is delivered; whether its message is delivered a second time meanwhile."""
        if claim.destination == CALL or claim.id in self._again:
            self._again.discard(claim.id)
            return False
        self.deliveries += 1
        if self.deliveries not in self.twice:
            return False
        self._again.add(claim.id)
        return True

    def unmet(self) -> list[str]:
        """One sentence for each that never happened."""
        steps, deliveries = len(self._numbers), self.deliveries
        return [
            *(f"{it} never happened: {_count(steps, 'step')} written" for it in self.crashes if not it.happened),
            *(
                f"env.deliver_twice({number}) never happened: {_count(deliveries, 'deliver', 'y', 'ies')} made"
                for number in sorted(self.twice)
                if number > deliveries
            ),
        ]


def checked_number(number: object, option: str) -> int:
    """A number that counts from 1.

    Raises:
        ConfigurationError: it is none.
    """
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ConfigurationError(f"'{option}' cannot be {number!r}; write a number from 1")
    return number


class ProcessStore(PassingStore):
    """The store as one life of the process sees it. It stays open when the app closes it; the test's end closes it."""

    def __init__(self, store: Store, history: History, faults: Faults) -> None:
        super().__init__(store)
        self._history = history
        self._faults = faults
        self._held: list[tuple[int, Claim]] = []
        self._promised: dict[str, int] = {}

    async def close(self) -> None:
        """Nothing: what is in memory is to outlive a stop of the app."""

    async def claim(self, worker: str, destinations: Sequence[str], limit: int) -> Claimed:
        """See the protocol; what is delivered twice, late or in another order is made so here."""
        claimed = await self._through("claim", lambda: self.store.claim(worker, destinations, limit))
        for claim in claimed.claims:
            self._history.claimed(claim)
            if self._faults.doubles(claim):
                # Due again with another fence: what the first delivery writes from here on is stale.
                await self.store.settle(released(claim))
        if self._faults.late_ms or self._faults.order or self._held:
            return self._by_detour(claimed)
        return claimed

    def _by_detour(self, claimed: Claimed) -> Claimed:
        now = self._history.now_ms()
        late = now + self._faults.late_ms
        self._held += [(self._promised.pop(claim.id, late), claim) for claim in claimed.claims]
        there = [held for held in self._held if held[0] <= now]
        if self._faults.order is not None:
            handed = [self._faults.order.choice(there)] if there else []
        else:
            # A message that is delivered twice is carried out once at a time.
            handed = list({held[1].id: held for held in reversed(there)}.values())[::-1]
        for held in handed:
            self._held.remove(held)
        dues = [due for due, _ in self._held] + ([] if claimed.next_due is None else [claimed.next_due])
        return Claimed([claim for _, claim in handed], min(dues, default=None))

    async def dismiss(self, worker: str) -> None:
        """See the protocol; what was held back for the worker is so for the next one, until the same time."""
        self._promised.update((claim.id, due) for due, claim in self._held)
        self._held.clear()
        await self._through("dismiss", lambda: self.store.dismiss(worker))

    def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> Awaitable[Verdict]:
        """See the protocol."""
        return self._record(claim, fence, step, effects)

    async def _record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...]) -> Verdict:
        if self.died.is_set():
            await self._gone("record")
        death = self._faults.writing(claim, [step])
        if death == "before":
            await self._die("record")
        verdict = await self.store.record(claim, fence, step, effects)
        if verdict == "recorded":
            self._history.recorded(claim, step, effects)
        if death is not None or self.died.is_set():
            await self._die("record")
        return verdict

    def settle(self, settlement: Settlement) -> Awaitable[Settled]:
        """See the protocol."""
        return self._settle(settlement)

    async def _settle(self, settlement: Settlement) -> Settled:
        if self.died.is_set():
            await self._gone("settle")
        death = self._faults.writing(settlement.id, [*settlement.steps, *self._riding(settlement)])
        if death == "before":
            await self._die("settle")
        answer = await self.store.settle(settlement)
        if not answer.stale:
            self._history.settled(settlement)
        if death is not None or self.died.is_set():
            await self._die("settle")
        return answer

    def _riding(self, settlement: Settlement) -> list[str]:
        """The last step of an item, which goes with its end and is in no journal."""
        run: RunRecord[object] | None = self._history.runs.get(settlement.id)
        if run is None or not run.item or settlement.ending not in ("done", "answered", "dead"):
            return []
        return [record.name for record in run.history if record.name not in run.journal]


def _count(count: int, word: str, one: str = "", many: str = "s") -> str:
    return f"{count} {word}{one if count == 1 else many} {'was' if count == 1 else 'were'}"
