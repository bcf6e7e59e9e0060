"""A journal, as the code asks for its steps again. Pure: it decides who is who, and waits for nothing."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from batchflow.core.run import Step, StepKind, last_position
from batchflow.errors import ReplayError

_NONE: Mapping[str, Step] = MappingProxyType({})


class Replay:
    """Which steps the code has asked for, and which of them are recorded.

    A step is known by its name. Recorded outcomes come back one at a time, in the order in which they were recorded:
    `upcoming` is the next one, `hand_out` takes it.
    """

    __slots__ = ("_asked", "_count", "_handed", "_outcomes", "_recorded", "_taken", "last")

    def __init__(self, journal: Sequence[Step] = ()) -> None:
        self._asked: set[str] = set()
        self._count = 0
        self._handed = 0
        self._outcomes: Sequence[Step] = ()
        self._recorded: Mapping[str, Step] = _NONE
        self._taken: frozenset[int] = frozenset()
        self.last = 0
        """The position of the latest outcome, recorded or placed."""
        if journal:
            self._recorded = {step.name: step for step in journal}
            self._taken = frozenset(step.number for step in journal)
            outcomes = (step for step in journal if step.state != "pending")
            self._outcomes = sorted(outcomes, key=lambda step: step.position)
            self.last = last_position(journal)

    @property
    def newest(self) -> int:
        """When the latest recorded outcome was recorded; 0 where there is none."""
        return self._outcomes[-1].at if self._outcomes else 0

    @property
    def upcoming(self) -> Step | None:
        """The recorded outcome to hand out next."""
        return self._outcomes[self._handed] if self._handed < len(self._outcomes) else None

    def hand_out(self) -> Step:
        """Take the upcoming outcome."""
        self._handed += 1
        return self._outcomes[self._handed - 1]

    def begin(self, name: str) -> int:
        """As `ask`, for a step of a run without a journal: its number, or 0 where `ask` has something to say."""
        if name in self._asked or self._recorded:
            return 0
        self._asked.add(name)
        self._count = number = self._count + 1
        return number

    def ask(self, name: str, kind: StepKind) -> Step:
        """The step the code asks for: as it is recorded, or a new one, pending and with the next number.

        Raises:
            ReplayError: the run has asked for this name before, or the step is recorded as another kind.
        """
        if name in self._asked:
            raise ReplayError(
                f"step '{name}' is asked for twice in one run; give every step a name of its own, "
                f"in a loop for example f'{name}:{{id}}'"
            )
        self._asked.add(name)
        self._count += 1
        if not self._recorded:
            return Step(self._count, name, kind, "pending")
        step = self._recorded.get(name)
        if step is None:
            # Recorded steps keep their numbers, also where the code asks in another order now.
            while self._count in self._taken:
                self._count += 1
            return Step(self._count, name, kind, "pending")
        if step.kind != kind:
            raise ReplayError(
                f"step '{name}' is recorded as a {step.kind} and the code now asks for it as a {kind}; "
                f"give the new step another name"
            )
        return step

    def note(self, name: str) -> bool:
        """The code has asked for this step, though it gets no answer any more; whether it is recorded."""
        self._asked.add(name)
        return name in self._recorded

    def has_asked(self, name: str) -> bool:
        """Whether the code has asked for this step so far."""
        return name in self._asked

    def place(self) -> int:
        """The position of the outcome that is recorded next."""
        self.last += 1
        return self.last

    def changed(self, steps: Iterable[Step]) -> tuple[Step, ...]:
        """Those of `steps` that are not recorded just so, by number."""
        return tuple(sorted(step for step in steps if self._recorded.get(step.name) != step))

    def mismatch(self, waiting: Sequence[str]) -> ReplayError:
        """The code has come to rest without asking for the upcoming outcome; it waits for these steps instead."""
        assert self.upcoming is not None
        name = self.upcoming.name
        return ReplayError(
            f"step '{name}' is recorded next, at position {self.upcoming.position}, but the code does not ask for it "
            f"and waits for {_list(waiting)}; {_CURE}"
        )

    def leftover(self, ended: str) -> ReplayError | None:
        """The error of a function that `ended` ("returned") without asking for all recorded steps; None if it did."""
        names = [step.name for step in self.unasked()]
        if not names:
            return None
        return ReplayError(
            f"step{'s' if len(names) > 1 else ''} {_list(names)} {'are' if len(names) > 1 else 'is'} recorded, but the "
            f"function {ended} without asking for {'them' if len(names) > 1 else 'it'}; {_CURE}"
        )

    def unasked(self) -> tuple[Step, ...]:
        """Recorded outcomes that the code has not asked for, in recorded order."""
        return tuple(step for step in self._outcomes[self._handed :] if step.name not in self._asked)


_CURE = (
    "the code between steps has changed or does not do the same on every attempt: keep names and order of steps while "
    "runs are under way, and take time, chance and outside data into steps"
)


def _list(names: Sequence[str]) -> str:
    if len(names) > 5:
        names = [*names[:5], f"{len(names) - 5} more"]
        return ", ".join(f"'{name}'" for name in names[:5]) + f" and {names[5]}"
    return " and ".join(", ".join(f"'{name}'" for name in names).rsplit(", ", 1)) or "nothing"
