"""Bringing a claim to the handler of its destination."""

from collections.abc import Awaitable, Mapping

from batchflow.core.call import CALL
from batchflow.core.interrupts import Interrupts
from batchflow.core.message import Claim
from batchflow.core.ports import Handler, Lease, Runtime
from batchflow.core.settlement import Settlement


class Courier:
    """Delivers claims to the endpoints of this process, and calls over HTTP to `caller`."""

    def __init__(self, endpoints: Mapping[str, Handler], caller: Handler, runtime: Runtime) -> None:
        self._endpoints = endpoints
        self._caller = caller
        self._destinations: tuple[str, ...] = ()
        self._runtime = runtime

    @property
    def interrupts(self) -> Interrupts:
        """How what it delivers is interrupted."""
        return self._runtime.interrupts

    @property
    def destinations(self) -> tuple[str, ...]:
        """What can be delivered to; messages for others are left to others. The same object until one is added."""
        # There may be thousands, and each claim asks; none is ever taken away.
        if len(self._destinations) != len(self._endpoints) + 1:
            self._destinations = (CALL, *self._endpoints)
        return self._destinations

    def timeout_ms(self, destination: str) -> int | None:
        """How long one attempt may take there."""
        return self._handler(destination).timeout_ms

    def is_light(self, destination: str) -> bool:
        """Whether what is delivered there does nothing but wait, and so takes no place of what works."""
        return destination == CALL

    def deliver(self, claim: Claim) -> Awaitable[Settlement | None]:
        """Carry the claim out, in the present task. None: it was lost, or could not be recorded; give it back."""
        lease = self._runtime.lease
        if lease is not None and lease.is_doubtful(lease.losses):
            return self._deliver_under(lease, claim)
        return self._handler(claim.destination).deliver(claim, self._runtime)

    def _handler(self, destination: str) -> Handler:
        return self._caller if destination == CALL else self._endpoints[destination]

    async def _deliver_under(self, lease: Lease, claim: Claim) -> Settlement | None:
        """Deliver it if the lease still holds; else it is given back, as far as it is still ours."""
        if not await lease.holds(lease.losses):
            return None
        return await self._handler(claim.destination).deliver(claim, self._runtime)
