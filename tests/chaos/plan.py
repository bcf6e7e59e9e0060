"""What is done to a run, and when: a list of faults that a seed makes, by how many items are done."""

import random
from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["kill", "end", "stop", "server", "cut", "cut after", "cut inside", "late", "delay"]

SAID: dict[Kind, str] = {
    "kill": "workers killed with -9 and started again",
    "end": "workers stopped in good order and started again",
    "stop": "workers suspended past their lease and continued",
    "server": "servers killed with -9 and started again",
    "cut": "times all connections of a worker cut",
    "cut after": "connections cut between request and answer",
    "cut inside": "connections cut in the middle of a request",
    "late": "requests that arrived after the ones that followed them",
    "delay": "times answers delayed",
}
COUNTS: dict[Kind, int] = {
    "kill": 6,
    "end": 2,
    "stop": 3,
    "server": 3,
    "cut": 6,
    "cut after": 6,
    "cut inside": 4,
    "late": 6,
    "delay": 3,
}
BEGINS, ENDS = 0.02, 0.92


class Planned(NamedTuple):
    """One fault: after how many items, what, to which worker, how much (0 to 1)."""

    at: int
    kind: Kind
    slot: int
    amount: float


def plan(seed: int, items: int, workers: int) -> list[Planned]:
    """The faults of a run, in their order."""
    chance = random.Random(seed)
    kinds: list[Kind] = [kind for kind, count in COUNTS.items() for _ in range(count)]
    chance.shuffle(kinds)
    places = sorted(chance.randrange(int(items * BEGINS), int(items * ENDS)) for _ in kinds)
    return [
        Planned(at, kind, chance.randrange(workers), chance.random()) for at, kind in zip(places, kinds, strict=True)
    ]
