"""What a run has done so far: its steps and their journal. Pure values."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

StepKind: TypeAlias = Literal["run", "sleep", "call", "invoke", "wait"]
"""`run` executes in the function's own time; the others wait: for a time, an HTTP answer, a child, an event."""

StepState: TypeAlias = Literal["done", "failed", "cancelled", "timeout", "pending", "abandoned"]
"""`cancelled`: the child that was waited for was. `timeout`: the event did not come in time. `abandoned`, which is
shown and never recorded: the run has ended, and did not wait for it any more."""

NEVER = 2**53 - 1
"""The time at which something is due that time alone does not make due, in ms."""


class Step(NamedTuple):
    """One step of a run as it is recorded.

    `number` is the place at which the code asked for it (1, 2, …), `position` the place at which its outcome was
    recorded (1, 2, …; 0 while it is pending). `value` is the JSON text of a result, `error` that of a failure.
    `failures` counts failed attempts; `due` is when a pending step goes on, in ms (0: not by time alone). `at` is when
    the outcome was recorded, or since when a pending step waits for something from outside; 0 in journals of old.
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
    at: int = 0


Journal: TypeAlias = tuple[Step, ...]


class Arrival(NamedTuple):
    """What came in from outside for a step that waits: the answer of a call, the end of a child, an event."""

    number: int
    state: StepState
    value: str | None
    error: str | None
    at: int


def ripen(journal: Sequence[Step], now: int, arrivals: Sequence[Arrival] = ()) -> list[Step]:
    """What has come for `journal` by `now`, arrivals and timers that are due, as recorded entries in time order.

    Only what is returned has changed. Positions go on after the last recorded one, so that a replay hands them out
    where the claim that woke them did. Of what came for one step the first counts, and an arrival before a timeout of
    the same moment. As with every newly recorded step, failures and losses of the run start again from none.
    """
    pending = {step.number: step for step in journal if step.state == "pending"}
    came: list[tuple[int, int, int, Step]] = []
    for place, (number, state, value, error, at) in enumerate(arrivals):
        if number in pending:
            step = pending[number]._replace(state=state, value=value, error=error)
            came.append((min(at, now), 0, place, step))
    for number, step in pending.items():
        if step.kind in _TIMED and 0 < step.due <= now:
            came.append((step.due, 1, number, step._replace(state=_when_due(step), value="null")))
    position = last_position(journal)
    ripe: dict[int, Step] = {}
    for _, _, _, step in sorted(came, key=lambda one: one[:3]):
        if step.number not in ripe:
            ripe[step.number] = step._replace(position=position + len(ripe) + 1, at=now)
    return list(ripe.values())


_TIMED = frozenset({"sleep", "wait"})


def _when_due(step: Step) -> StepState:
    return "done" if step.kind == "sleep" else "timeout"


def last_position(journal: Iterable[Step]) -> int:
    """The position of the latest recorded outcome; 0 when there is none."""
    return max((step.position for step in journal), default=0)


def merged(journal: Iterable[Step], changed: Iterable[Step]) -> Journal:
    """`journal` with `changed` entries put in the place of those of the same number."""
    steps = {step.number: step for step in journal}
    steps.update((step.number, step) for step in changed)
    return tuple(sorted(steps.values()))


RunState: TypeAlias = Literal["waiting", "running", "completed", "failed", "cancelled"]
RUN_STATES: tuple[RunState, ...] = ("waiting", "running", "completed", "failed", "cancelled")


class RunQuery(NamedTuple):
    """Which runs: all of it has to fit. `before` is where a page ends: `(created_at, id)` of its last run."""

    state: RunState | None = None
    destination: str | None = None
    label: str | None = None
    before: tuple[int, str] | None = None


class Waiter(NamedTuple):
    """A run that waits for an event: at which step, since when and until when (ms; None: as long as it takes)."""

    run: str
    step: str
    since: int
    until: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution of a served function, as it can be asked for. Times are ms since the epoch."""

    id: str
    destination: str
    state: RunState
    created_at: int
    started_at: int | None = None
    ended_at: int | None = None
    payload: str = "null"
    result: str | None = None
    error: str | None = None
    failures: int = 0
    batch: str | None = None
    label: str | None = None
    parent: str | None = None
    journal: Journal = ()

    @property
    def steps(self) -> Journal:
        """The journal as it is shown: what is pending in a run that has ended is abandoned."""
        if self.state in ("waiting", "running"):
            return self.journal
        return tuple(it._replace(state="abandoned", due=0) if it.state == "pending" else it for it in self.journal)
