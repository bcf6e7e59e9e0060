"""Delivery of claims: to the handlers of this process, and HTTP calls to their callers."""

from collections.abc import Awaitable, Mapping
from types import MappingProxyType

from batchflow.core.batch import Failure
from batchflow.core.message import LOSS_LIMIT, Claim
from batchflow.core.ports import (
    Backlog,
    FailedAttempt,
    FailurePoint,
    Groups,
    Handler,
    Interrupts,
    Lease,
    LogNames,
    Runtime,
)
from batchflow.core.secrets import printable_error
from batchflow.core.settlement import Settlement
from batchflow.logs import safe_repr

_NO_NAMES: Mapping[str, LogNames] = MappingProxyType({})


class Courier:
    """Delivers claims to the handlers of this process, and HTTP calls to `callers`, by destination."""

    def __init__(
        self,
        endpoints: Mapping[str, Handler],
        callers: Mapping[str, Handler],
        runtime: Runtime,
        log_names: Mapping[str, LogNames] = _NO_NAMES,
    ) -> None:
        self._log_names = log_names
        self._endpoints = endpoints
        self._callers = callers
        self._destinations: tuple[str, ...] = ()
        self._runtime = runtime

    @property
    def interrupts(self) -> Interrupts:
        """The interrupts of the claims that it delivers."""
        return self._runtime.interrupts

    @property
    def backlog(self) -> Backlog | None:
        """The large values that wait to be written."""
        return self._runtime.backlog

    @property
    def groups(self) -> Groups:
        """The groups in which claims that it delivers wait to be executed together."""
        return self._runtime.groups

    @property
    def destinations(self) -> tuple[str, ...]:
        """The destinations that it can deliver to. The same object until a handler is added."""
        # There may be thousands, and each claim reads them; handlers are only ever added.
        if len(self._destinations) != len(self._endpoints) + len(self._callers):
            self._destinations = (*self._callers, *self._endpoints)
        return self._destinations

    def timeout_ms(self, destination: str) -> int | None:
        """The time limit of one attempt."""
        return self._handler(destination).timeout_ms

    def log_prefix(self, destination: str) -> str:
        """The prefix of the log lines about claims of a destination."""
        names = self._log_names.get(destination)
        return "batchflow" if names is None else names.prefix

    def is_light(self, destination: str) -> bool:
        """True if a delivery only waits for an answer, and so does not take up a slot."""
        return destination in self._callers

    def deliver(self, claim: Claim) -> Awaitable[Settlement | None]:
        """Deliver a claim in the current task. None: it was lost or could not be recorded, and is to be released."""
        lease = self._runtime.lease
        if lease is not None and lease.may_have_expired(lease.losses):
            return self._deliver_under(lease, claim)
        return self._handler(claim.destination).deliver(claim, self._runtime)

    def _handler(self, destination: str) -> Handler:
        return self._endpoints.get(destination) or self._callers[destination]

    async def _deliver_under(self, lease: Lease, claim: Claim) -> Settlement | None:
        """Deliver it if the lease still holds."""
        if not await lease.holds(lease.losses):
            return None
        return await self._handler(claim.destination).deliver(claim, self._runtime)


def failed_attempt(claim: Claim, error: BaseException, where: FailurePoint) -> FailedAttempt:
    """An attempt that failed outside of user code; its line has no words about a next one."""
    return FailedAttempt(
        error,
        where,
        Failure(type(error).__name__, "", printable_error(safe_repr(error))),
        claim.failures + 1,
        LOSS_LIMIT,
    )
