"""The engine's own observers: its log, the log of verbose functions, and counters."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from batchflow.core.breaker import BreakerChange
from batchflow.core.duration import humanize_duration
from batchflow.core.message import Claim, Message
from batchflow.core.ports import FailedAttempt, LogNames, Observer, Observers
from batchflow.core.run import Step
from batchflow.core.settlement import Settlement
from batchflow.engine.failure_log import FailureLog
from batchflow.logs import log_of, logger

NO_NAMES: Mapping[str, LogNames] = MappingProxyType({})


class EngineLog(Observer):
    """Logs the events that concern an operator, with the names of destinations, at the engine's time."""

    def __init__(self, names: Mapping[str, LogNames] = NO_NAMES, now: Callable[[], int] = lambda: 0) -> None:
        self.failures = FailureLog(names, now)

    def attempt_failed(self, claim: Claim, attempt: FailedAttempt) -> None:
        """See the protocol."""
        if attempt.where == "delivery":
            logger().error("[batchflow:error] Delivery failed", run=claim.id, exc_info=attempt.error)
        elif attempt.where == "settlement":
            logger().error("[batchflow:error] Settlement was refused", run=claim.id, error=str(attempt.error))
        else:
            self.failures.add(claim, attempt)

    def settled(self, claim: Claim, settlement: Settlement) -> None:
        """Logs what failed for good."""
        # Nearly all claims end well, and thousands do each second.
        if settlement.ending != "done" or self.failures.unsettled:
            self.failures.settle(claim, settlement)

    def batch_ended(self, batch: str) -> None:
        """Logs the failed attempts before the end."""
        self.failures.write()

    def breaker_changed(self, claim: Claim, change: BreakerChange) -> None:
        """See the protocol."""
        self.failures.tell_breaker(claim, change)

    def lost(self, claim: Claim) -> None:
        """See the protocol."""
        self.failures.forget(claim)
        logger().warning("[batchflow] Claim was lost before it could be settled", run=claim.id, fence=claim.fence)

    def store_unavailable(self, error: BaseException, starting: bool) -> None:
        """See the protocol."""
        if starting:
            # The rest of the message is advice for a command that does not wait.
            why = str(error).partition("; ")[0]
            logger().warning("[batchflow] The store is away; waiting for it, and starting when it is there", error=why)
        else:
            logger().error("[batchflow:error] The store fails; waiting for it", error=str(error))

    def store_recovered(self, after_ms: int, starting: bool) -> None:
        """See the protocol."""
        if starting:
            logger().info("[batchflow] The store is there; starting")
        else:
            logger().info("[batchflow] The store works again", after=humanize_duration(after_ms))


class VerboseLog(Observer):
    """Logs the events of verbose functions' runs, one structlog event each, under Upstash's event names.

    `names` are the functions' names, by destination. `time` is in ms since the epoch.
    """

    def __init__(self, names: Mapping[str, str], now: Callable[[], int]) -> None:
        self._names = names
        self._now = now

    def published(self, message: Message) -> None:
        """See the protocol."""
        self._log(message.id, message.destination, "SUBMIT_FIRST_INVOCATION")

    def claimed(self, claim: Claim) -> None:
        """See the protocol."""
        self._log(claim.id, claim.destination, "ENDPOINT_START")

    def step_started(self, claim: Claim, name: str, beside: bool) -> None:
        """See the protocol."""
        self._log(claim.id, claim.destination, "RUN_PARALLEL" if beside else "RUN_SINGLE", step=name)

    def step_recorded(self, claim: Claim, step: Step) -> None:
        """See the protocol."""
        if step.state == "pending" or step.kind in ("run", "sleep"):
            self._log(claim.id, claim.destination, "SUBMIT_STEP", step=step.name)
        elif step.kind == "call":
            self._log(claim.id, claim.destination, "SUBMIT_THIRD_PARTY_RESULT", step=step.name)

    def settled(self, claim: Claim, settlement: Settlement) -> None:
        """See the protocol."""
        if settlement.ending == "done":
            self._log(claim.id, claim.destination, "SUBMIT_CLEANUP")

    def _log(self, run: str, destination: str, event: str, **about: str) -> None:
        if (name := self._names.get(destination)) is not None:
            log_of(f"batchflow:{name}").info(
                f"[batchflow:{name}] {event}", run=run, eventType=event, time=self._now(), **about
            )


class CountingObserver(Observer):
    """Counts claims, settlements, settlements by ending, and lost claims (`stale`)."""

    __slots__ = ("claims", "endings", "settlements", "stale")

    def __init__(self) -> None:
        self.claims = 0
        self.settlements = 0
        self.stale = 0
        self.endings: dict[str, int] = {}

    def claimed(self, claim: Claim) -> None:
        """See the protocol."""
        self.claims += 1

    def settled(self, claim: Claim, settlement: Settlement) -> None:
        """See the protocol."""
        self.settlements += 1
        self.endings[settlement.ending] = self.endings.get(settlement.ending, 0) + 1

    def lost(self, claim: Claim) -> None:
        """See the protocol."""
        self.stale += 1


def with_engine_log(*observers: Observer, log: EngineLog | None = None) -> Observers:
    """The engine's log and `observers`; an observer that raises is logged."""
    return Observers(log or EngineLog(), *observers, on_error=_log_observer_error)


def _log_observer_error(observer: Observer, event: str, error: BaseException) -> None:
    logger().error(
        "[batchflow:error] An observer fails and misses the event",
        observer=type(observer).__name__,
        event_name=event,
        exc_info=error,
    )
