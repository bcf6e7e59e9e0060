"""Who is told what happens: the events of an engine's work, and several observers as one."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Literal, Protocol, TypeAlias

from batchflow.core.message import Claim, Message
from batchflow.core.run import Step
from batchflow.core.settlement import Settlement

FailurePoint: TypeAlias = Literal["step", "function", "delivery", "settlement"]
"""What has failed: a step, the function outside of steps, the way to the function, the settlement in the store."""


class Observer(Protocol):
    """Is told what happens in one process, as values; one that extends it writes the events it wants.

    Events are told on the event loop, in the midst of the work, and in the task that carries the claim out where there
    is one: an observer returns at once. What it raises is left out and costs the work nothing.
    """

    def published(self, message: Message) -> None:
        """A trigger has stored a message that was not known before."""

    def claimed(self, claim: Claim) -> None:
        """A claim was leased to this worker and starts now."""

    def step_started(self, claim: Claim, name: str, beside: bool) -> None:
        """A step executes from here on, perhaps `beside` others of its run."""

    def step_recorded(self, claim: Claim, step: Step) -> None:
        """A step is durable or goes with the settlement: its outcome, or that it waits.

        What comes from outside is told when the code gets it, once and not when it is replayed.
        """

    def attempt_failed(self, claim: Claim, error: BaseException, where: FailurePoint, step: Step | None) -> None:
        """An attempt has failed; `step` is what becomes of the step, where one has failed: tried again, or final."""

    def settled(self, claim: Claim, settlement: Settlement) -> None:
        """The claim has ended so, durably. Of each claim this is told once, or `lost` is, or the worker has stopped."""

    def lost(self, claim: Claim) -> None:
        """The claim was another's when it was to be settled: nothing was changed."""

    def store_unavailable(self, error: BaseException, starting: bool) -> None:
        """The store fails from here on, perhaps already as this process is `starting`."""

    def store_recovered(self, after_ms: int, starting: bool) -> None:
        """It works again."""

    def batch_ended(self, batch: str) -> None:
        """A settlement of this worker was the batch's last; what `on_complete` does is still to come."""


class Observers:
    """Some observers as one. An event that none of them wants is None: it costs nobody more than to look.

    `on_error` is told of an observer that raises, with the event's name: the first time, for each of them.
    """

    __slots__ = (
        "_failing",
        "_members",
        "_on_error",
        "attempt_failed",
        "batch_ended",
        "claimed",
        "lost",
        "published",
        "settled",
        "step_recorded",
        "step_started",
        "store_recovered",
        "store_unavailable",
    )

    published: Callable[[Message], None] | None
    claimed: Callable[[Claim], None] | None
    step_started: Callable[[Claim, str, bool], None] | None
    step_recorded: Callable[[Claim, Step], None] | None
    attempt_failed: Callable[[Claim, BaseException, FailurePoint, Step | None], None] | None
    settled: Callable[[Claim, Settlement], None] | None
    lost: Callable[[Claim], None] | None
    store_unavailable: Callable[[BaseException, bool], None] | None
    store_recovered: Callable[[int, bool], None] | None
    batch_ended: Callable[[str], None] | None

    def __init__(
        self, *members: Observer, on_error: Callable[[Observer, str, BaseException], None] | None = None
    ) -> None:
        self._on_error = on_error
        self._failing: set[tuple[int, str]] = set()
        self._members: tuple[Observer, ...] = members
        self._rebuild()

    def add(self, observer: Observer) -> None:
        """Tell `observer` too, from now on."""
        self._members += (observer,)
        self._rebuild()

    @contextmanager
    def observing(self, observer: Observer) -> Generator[None]:
        """Meanwhile `observer` is told too."""
        self.add(observer)
        try:
            yield
        finally:
            self._members = tuple(it for it in self._members if it is not observer)
            self._rebuild()

    def _rebuild(self) -> None:
        for event in EVENTS:
            unwanted = getattr(Observer, event)
            members = [it for it in self._members if getattr(type(it), event, unwanted) is not unwanted]
            setattr(self, event, self._combined(event, members))

    def _combined(self, event: str, members: list[Observer]) -> Callable[..., None] | None:
        if not members:
            return None
        if len(members) == 1:
            return self._guarded(event, members[0])
        guarded = [self._guarded(event, member) for member in members]

        def tell(*values: Any) -> None:
            for one in guarded:
                one(*values)

        return tell

    def _guarded(self, event: str, member: Observer) -> Callable[..., None]:
        listener = getattr(member, event)

        def tell(*values: Any) -> None:
            try:
                listener(*values)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self._report_error(event, member, error)

        return tell

    def _report_error(self, event: str, member: Observer, error: BaseException) -> None:
        if (id(member), event) not in self._failing:
            self._failing.add((id(member), event))
            if self._on_error is not None:
                self._on_error(member, event, error)


EVENTS = tuple(name for name in Observers.__slots__ if not name.startswith("_"))
"""The names of all events."""
