"""A run, its steps and their journal, and how the journal is replayed. Pure: nothing here waits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

from batchflow.core.secrets import SECRET_OUTCOME, marked_text
from batchflow.errors import ReplayError, step_text

StepKind: TypeAlias = Literal["run", "sleep", "call", "invoke", "wait"]
"""`run` executes while the function waits; the others wait: for a time, an HTTP response, a child, an event."""

StepState: TypeAlias = Literal["done", "failed", "cancelled", "timeout", "pending", "abandoned"]
"""`cancelled`: the child of the step was cancelled. `timeout`: the event did not come in time. `abandoned`, shown and
never recorded: the run ended without waiting for the step."""

NEVER = 2**53 - 1
"""The due time, in ms, of a step that time alone does not make due."""


class Step(NamedTuple):
    """One step of a run as it is recorded.

    `number` is its place in the order of requests by the code (1, 2, …), `position` its place in the order of recorded
    outcomes (1, 2, …; 0 while it is pending). `value` is the JSON text of a result, `error` the text of a failure; a
    pending step may have the value `SECRET_OUTCOME`: the outcome that arrives for it is stored as a secret value.
    `failures` counts failed attempts; `due` is the time at which a pending step continues, in ms (0: not by time
    alone). `at` is the time when the outcome was recorded, or since when a pending step waits for something from
    outside; 0 in journals of older versions.
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

    def __repr__(self) -> str:
        # Its value may be secret.
        return f"Step({self.number}, '{self.name}', '{self.kind}', '{self.state}', position={self.position})"


Journal: TypeAlias = tuple[Step, ...]


class Arrival(NamedTuple):
    """An outcome from outside for a step that waits: the result of a call, the end of a child, an event."""

    number: int
    state: StepState
    value: str | None
    error: str | None
    at: int

    def __repr__(self) -> str:
        # Its value may be secret.
        return f"Arrival({self.number}, '{self.state}', at={self.at})"


def apply_arrivals(journal: Sequence[Step], now: int, arrivals: Sequence[Arrival] = ()) -> list[Step]:
    """The steps of `journal` that arrivals and due timers complete by `now`, as recorded entries in time order.

    Only the returned steps change. Their positions follow the last recorded one, so that a replay delivers them in the
    same order as the claim that they woke. The first outcome of a step counts, and an arrival comes before a timeout of
    the same moment. Where a step waits with `SECRET_OUTCOME`, the value of an arrival is stored beside the mark of
    secrets. As with every newly recorded step, failures and losses of the run are reset.
    """
    pending = {step.number: step for step in journal if step.state == "pending"}
    came: list[tuple[int, int, int, Step]] = []
    for place, (number, state, value, error, at) in enumerate(arrivals):
        if number in pending:
            step = pending[number]
            if value is not None and step.value == SECRET_OUTCOME:
                value = marked_text(value)
            step = step._replace(state=state, value=value, error=error)
            came.append((min(at, now), 0, place, step))
    for number, step in pending.items():
        if step.kind in _TIMED and 0 < step.due <= now:
            came.append((step.due, 1, number, step._replace(state=_state_when_due(step), value="null")))
    position = last_position(journal)
    ripe: dict[int, Step] = {}
    for _, _, _, step in sorted(came, key=lambda one: one[:3]):
        if step.number not in ripe:
            ripe[step.number] = step._replace(position=position + len(ripe) + 1, at=now)
    return list(ripe.values())


_TIMED = frozenset({"sleep", "wait"})


def _state_when_due(step: Step) -> StepState:
    return "done" if step.kind == "sleep" else "timeout"


def last_position(journal: Iterable[Step]) -> int:
    """The position of the latest recorded outcome; 0 without one."""
    return max((step.position for step in journal), default=0)


def merge_steps(journal: Iterable[Step], changed: Iterable[Step]) -> Journal:
    """`journal`, with entries replaced by the `changed` ones of the same number."""
    steps = {step.number: step for step in journal}
    steps.update((step.number, step) for step in changed)
    return tuple(sorted(steps.values()))


RunState: TypeAlias = Literal["waiting", "running", "completed", "failed", "cancelled"]
RUN_STATES: tuple[RunState, ...] = ("waiting", "running", "completed", "failed", "cancelled")


class RunQuery(NamedTuple):
    """A filter of runs: all parts have to match. `before` is `(created_at, id)` of the last run of the page before."""

    state: RunState | None = None
    destination: str | None = None
    label: str | None = None
    before: tuple[int, str] | None = None


class Waiter(NamedTuple):
    """A run that waits for an event: the step, and the times since and until it waits (ms).

    `since` is None if that is not known, `until` if it waits without a limit.
    """

    run: str
    step: str
    since: int | None
    until: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution of a served function, as it can be read. Times are ms since the epoch.

    Of one that waits, `flow_key` is the key that it starts under, and `due_at` the time from which it may start: None
    if that has come, or if it waits for something else than time.
    """

    id: str
    destination: str
    state: RunState
    created_at: int
    started_at: int | None = None
    ended_at: int | None = None
    payload: str = field(default="null", repr=False)
    result: str | None = field(default=None, repr=False)
    error: str | None = None
    failures: int = 0
    batch: str | None = None
    label: str | None = None
    parent: str | None = None
    flow_key: str | None = None
    due_at: int | None = None
    journal: Journal = ()

    @property
    def steps(self) -> Journal:
        """The journal as it is shown: pending steps of a run that has ended are `abandoned`."""
        if self.state in ("waiting", "running"):
            return self.journal
        return tuple(it._replace(state="abandoned", due=0) if it.state == "pending" else it for it in self.journal)


_NONE: Mapping[str, Step] = MappingProxyType({})


class Replay:
    """The replay of a journal: the steps that the code has requested, and the recorded ones.

    Steps are matched by name. Recorded outcomes are delivered one at a time, in the order in which they were recorded:
    `next_outcome` is the next one, `take_next` takes it.
    """

    __slots__ = ("_count", "_outcomes", "_recorded", "_recorded_numbers", "_requested", "_taken", "position")

    def __init__(self, journal: Sequence[Step] = ()) -> None:
        self._requested: set[str] = set()
        self._count = 0
        self._taken = 0
        self._outcomes: Sequence[Step] = ()
        self._recorded: Mapping[str, Step] = _NONE
        self._recorded_numbers: frozenset[int] = frozenset()
        self.position = 0
        """The position of the latest outcome, from the journal or new."""
        if journal:
            self._recorded = {step.name: step for step in journal}
            self._recorded_numbers = frozenset(step.number for step in journal)
            outcomes = (step for step in journal if step.state != "pending")
            self._outcomes = sorted(outcomes, key=lambda step: step.position)
            self.position = last_position(journal)

    @property
    def last_recorded_at(self) -> int:
        """The time when the latest recorded outcome was recorded; 0 without one."""
        return self._outcomes[-1].at if self._outcomes else 0

    @property
    def next_outcome(self) -> Step | None:
        """The recorded outcome to deliver next."""
        return self._outcomes[self._taken] if self._taken < len(self._outcomes) else None

    def take_next(self) -> Step:
        """Take the next outcome."""
        self._taken += 1
        return self._outcomes[self._taken - 1]

    def request_fresh(self, name: str) -> int:
        """As `request`, for a step of a run without a journal: its number, or 0 if `request` has to be called."""
        if name in self._requested or self._recorded:
            return 0
        self._requested.add(name)
        self._count = number = self._count + 1
        return number

    def request(self, name: str, kind: StepKind) -> Step:
        """The step that the code requests: the recorded one, or a new one, pending and with the next number.

        Raises:
            ReplayError: the run has requested this name before, or the step is recorded as another kind.
        """
        if name in self._requested:
            raise ReplayError(
                f"{step_text(name)} is asked for twice in one run; give every step a name of its own, "
                f"in a loop for example f'{name}:{{id}}'"
            )
        self._requested.add(name)
        self._count += 1
        if not self._recorded:
            return Step(self._count, name, kind, "pending")
        step = self._recorded.get(name)
        if step is None:
            # Recorded steps keep their numbers, even if the code requests them in another order now.
            while self._count in self._recorded_numbers:
                self._count += 1
            return Step(self._count, name, kind, "pending")
        if step.kind != kind:
            raise ReplayError(
                f"{step_text(name)} is recorded as a {step.kind} and the code now asks for it as a {kind}; "
                f"give the new step another name"
            )
        return step

    def mark_requested(self, name: str) -> bool:
        """Mark a step as requested, though it gets no outcome any more; returns True if it is recorded."""
        self._requested.add(name)
        return name in self._recorded

    def was_requested(self, name: str) -> bool:
        """True if the code has requested this step."""
        return name in self._requested

    def next_position(self) -> int:
        """Advance to the position of the next new outcome, and return it."""
        self.position += 1
        return self.position

    def changed_steps(self, steps: Iterable[Step]) -> tuple[Step, ...]:
        """Those of `steps` that differ from their recorded state, by number."""
        return tuple(sorted(step for step in steps if self._recorded.get(step.name) != step))

    def mismatch_error(self, waiting: Sequence[str]) -> ReplayError:
        """The error of code that rests without having requested the next outcome, and waits for these steps instead."""
        assert self.next_outcome is not None
        name = self.next_outcome.name
        return ReplayError(
            f"{step_text(name)} is recorded next, at position {self.next_outcome.position}, but the code does not ask "
            f"for it and waits for {_list(waiting)}; {_WANT}"
        )

    def unrequested_error(self, ended: str) -> ReplayError | None:
        """The error of a function that `ended` ("returned") before it requested all recorded steps; None if it did."""
        names = [step.name for step in self.unrequested_steps()]
        if not names:
            return None
        return ReplayError(
            f"step{'s' if len(names) > 1 else ''} {_list(names)} {'are' if len(names) > 1 else 'is'} recorded, but the "
            f"function {ended} without asking for {'them' if len(names) > 1 else 'it'}; {_WANT}"
        )

    def unrequested_steps(self) -> tuple[Step, ...]:
        """Recorded outcomes that the code has not requested, in recorded order."""
        return tuple(step for step in self._outcomes[self._taken :] if step.name not in self._requested)


_WANT = (
    "the code between steps has changed or does not do the same on every attempt: keep names and order of steps while "
    "runs are under way, and take time, chance and outside data into steps"
)


def _list(names: Sequence[str]) -> str:
    if len(names) > 5:
        names = [*names[:5], f"{len(names) - 5} more"]
        return ", ".join(f"'{name}'" for name in names[:5]) + f" and {names[5]}"
    return " and ".join(", ".join(f"'{name}'" for name in names).rsplit(", ", 1)) or "nothing"
