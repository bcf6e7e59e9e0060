"""The engine's own observers: its log, the log of verbose functions, and counters."""

from collections.abc import Callable, Mapping

from batchflow.core.duration import humanize_duration
from batchflow.core.message import Claim, Message
from batchflow.core.ports import FailurePoint, Observer, Observers
from batchflow.core.run import Step
from batchflow.core.settlement import Settlement
from batchflow.logs import logger


class EngineLog(Observer):
    """Logs the events that concern an operator."""

    def attempt_failed(self, claim: Claim, error: BaseException, where: FailurePoint, step: Step | None) -> None:
        """Logs failures outside the user's code; failures inside it are logged by its layers or its run."""
        if where == "delivery":
            logger().error("[batchflow:error] Delivery failed", run=claim.id, exc_info=error)
        elif where == "settlement":
            logger().error("[batchflow:error] Settlement was refused", run=claim.id, error=str(error))

    def settled(self, claim: Claim, settlement: Settlement) -> None:
        """Logs dead letters."""
        if settlement.ending == "dead":
            reason, _, _ = (settlement.error or "").partition("\n")
            logger().error("[batchflow:error] Dead letter", run=claim.id, destination=claim.destination, error=reason)

    def lost(self, claim: Claim) -> None:
        """See the protocol."""
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
            logger().info(f"[batchflow:{name}] {event}", run=run, eventType=event, time=self._now(), **about)


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


def with_engine_log(*observers: Observer) -> Observers:
    """The engine's log and `observers`; an observer that raises is logged."""
    return Observers(EngineLog(), *observers, on_error=_log_observer_error)


def _log_observer_error(observer: Observer, event: str, error: BaseException) -> None:
    logger().error(
        "[batchflow:error] An observer fails and misses the event",
        observer=type(observer).__name__,
        event_name=event,
        exc_info=error,
    )
