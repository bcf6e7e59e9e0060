"""The parts of the model: its clock, its chance, and a batch as it keeps one."""

from dataclasses import dataclass, field, replace

from batchflow.core.batch import Batch, Item, NewBatch

START = 1_700_000_000_000


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.ms = START

    def now(self) -> int:
        return self.ms


class NoChance:
    """Every draw is the same."""

    def bytes(self, n: int, /) -> bytes:
        return bytes(n)

    def chance(self) -> float:
        return 0.5


@dataclass
class Job:
    """A batch and what it is made of."""

    new: NewBatch
    batch: Batch
    entered: bool = False
    items: dict[int, Item] = field(default_factory=dict[int, Item])

    def count(self, **more: int) -> None:
        counts = self.batch.counts
        changed = {name: getattr(counts, name) + number for name, number in more.items()}
        self.batch = replace(self.batch, counts=counts._replace(**changed))
