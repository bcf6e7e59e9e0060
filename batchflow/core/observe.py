"""The events of an engine's work, and the observers that receive them."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Literal, Protocol, TypeAlias

from batchflow.core.message import Claim, Message
from batchflow.core.run import Step
from batchflow.core.settlement import Settlement

FailurePoint: TypeAlias = Literal["step", "function", "delivery", "settlement"]
"""The part that failed: a step, the function outside of steps, the delivery, or the settlement in the store."""


class Observer(Protocol):
    """Receives the events of one process. A subclass defines the methods of the events that it wants.

    The methods are called on the event loop, during the work, and in the task of the claim if there is one: they have
    to return at once. An exception in an observer does not affect the work.
    """

    def published(self, message: Message) -> None:
        """A trigger has stored a new message."""

    def claimed(self, claim: Claim) -> None:
        """This worker has leased a claim and starts it."""

    def step_started(self, claim: Claim, name: str, beside: bool) -> None:
        """A step starts to execute; `beside`: others of its run execute too."""

    def step_recorded(self, claim: Claim, step: Step) -> None:
        """A step is durable, or part of the settlement: its outcome, or that it waits.

        An outcome from outside is reported when the code receives it, and not again on a replay.
        """

    def attempt_failed(self, claim: Claim, error: BaseException, where: FailurePoint, step: Step | None) -> None:
        """An attempt has failed; `step`, if a step failed, is its new state: to be retried, or final."""

    def settled(self, claim: Claim, settlement: Settlement) -> None:
        """The claim has ended durably. Each claim gets one `settled` or `lost`, unless the worker stops."""

    def lost(self, claim: Claim) -> None:
        """Another worker had the claim when it was to be settled: nothing was changed."""

    def store_unavailable(self, error: BaseException, starting: bool) -> None:
        """The store has begun to fail; `starting`: while this process starts."""

    def store_recovered(self, after_ms: int, starting: bool) -> None:
        """The store works again."""

    def batch_ended(self, batch: str) -> None:
        """A settlement of this worker was the last of the batch; `on_complete` is still to run."""


class Observers:
    """Several observers as one. An event that none of them wants is None, so that it costs only a comparison.

    `on_error` is called with the first exception of each observer and event.
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
        """Add an observer."""
        self._members += (observer,)
        self._rebuild()

    @contextmanager
    def observing(self, observer: Observer) -> Generator[None]:
        """Add an observer for the time of a `with` block."""
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
