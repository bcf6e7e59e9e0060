"""What a run has done so far: its steps and their journal. Pure values."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

StepKind: TypeAlias = Literal["run", "sleep"]
StepState: TypeAlias = Literal["done", "failed", "pending"]


class Step(NamedTuple):
    """One step of a run as it is recorded.

    `number` is the place at which the code asked for it (1, 2, …), `position` the place at which its outcome was
    recorded (1, 2, …; 0 while it is pending). `value` is the JSON text of a result, `error` that of a failure.
    `failures` counts failed attempts; `due` is when a pending step goes on, in ms.
    """

    number: int
    name: str
    kind: StepKind
    state: StepState
    position: int = 0
    value: str | None = None
    error: str | None = None
    failures: int = 0
    due: int = 0


Journal: TypeAlias = tuple[Step, ...]


def ripen(journal: Sequence[Step], now: int) -> list[Step]:
    """The timers of `journal` that are due at `now`, as recorded entries in time order.

    Only what is returned has changed. Positions go on after the last recorded one, so that a replay hands timers out
    where the claim that woke them did.
    """
    position = last_position(journal)
    due = sorted(
        (step for step in journal if step.state == "pending" and step.kind == "sleep" and step.due <= now),
        key=lambda step: (step.due, step.number),
    )
    return [step._replace(state="done", position=position + offset, value="null") for offset, step in enumerate(due, 1)]


def last_position(journal: Iterable[Step]) -> int:
    """The position of the latest recorded outcome; 0 when there is none."""
    return max((step.position for step in journal), default=0)


def merged(journal: Iterable[Step], changed: Iterable[Step]) -> Journal:
    """`journal` with `changed` entries put in the place of those of the same number."""
    steps = {step.number: step for step in journal}
    steps.update((step.number, step) for step in changed)
    return tuple(sorted(steps.values()))


RunState: TypeAlias = Literal["waiting", "running", "completed", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution of a served function, as it can be asked for."""

    id: str
    destination: str
    state: RunState
    created_at: int
    ended_at: int | None = None
    payload: str = "null"
    result: str | None = None
    error: str | None = None
    failures: int = 0
    batch: str | None = None
    journal: Journal = ()
