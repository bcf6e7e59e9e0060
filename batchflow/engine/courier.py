"""Bringing a claim to the endpoint it is for."""

from collections import ChainMap
from collections.abc import Awaitable, Mapping
from typing import Protocol, cast

from batchflow.core.call import CALL
from batchflow.core.message import Claim
from batchflow.core.ports import Delivered, Lease, Runtime
from batchflow.core.settlement import Settlement


class Courier(Protocol):
    """Delivers a claim and says how it ended."""

    def interrupt(self, claim: Claim, why: str) -> None:
        """The task that carries the claim out is cancelled now: no step of it starts any more."""
        ...

    def is_interrupted(self, claim: Claim) -> bool:
        """Whether it is."""
        ...

    def waited_s(self, claim: Claim, now: float) -> float:
        """For how many seconds, up to the event loop's time `now`, it has waited for threads: that is not its time."""
        ...

    def ended(self, claim: Claim) -> None:
        """The claim is carried out."""
        ...

    @property
    def destinations(self) -> tuple[str, ...]:
        """What can be delivered to; messages for others are left to other workers."""
        ...

    def timeout_ms(self, destination: str) -> int | None:
        """How long one attempt may take there."""
        ...

    def is_light(self, destination: str) -> bool:
        """Whether what is delivered there does nothing but wait, and so takes no place of what works."""
        ...

    def deliver(self, claim: Claim) -> Awaitable[Settlement | None]:
        """Carry the claim out, in the present task. None: it was lost, or could not be recorded; give it back."""
        ...


class LocalCourier:
    """Calls the endpoint in this process; calls over HTTP go to `caller`."""

    def __init__(self, endpoints: Mapping[str, Delivered], caller: Delivered, runtime: Runtime) -> None:
        self._endpoints: Mapping[str, Delivered] = ChainMap({CALL: caller}, cast("dict[str, Delivered]", endpoints))
        self._runtime = runtime

    def interrupt(self, claim: Claim, why: str) -> None:
        """See the protocol."""
        key = claim.id, claim.fence
        self._runtime.interrupted[key] = why
        if (heed := self._runtime.branched.get(key)) is not None:
            heed()

    def is_interrupted(self, claim: Claim) -> bool:
        """See the protocol."""
        return (claim.id, claim.fence) in self._runtime.interrupted

    def waited_s(self, claim: Claim, now: float) -> float:
        """See the protocol."""
        waited = self._runtime.queueing.get((claim.id, claim.fence))
        return 0.0 if waited is None else waited(now)

    def ended(self, claim: Claim) -> None:
        """See the protocol."""
        if self._runtime.queueing:
            self._runtime.queueing.pop((claim.id, claim.fence), None)
        if self._runtime.interrupted:
            self._runtime.interrupted.pop((claim.id, claim.fence), None)
        if self._runtime.branched:
            self._runtime.branched.pop((claim.id, claim.fence), None)

    def is_light(self, destination: str) -> bool:
        """See the protocol."""
        return destination == CALL

    @property
    def destinations(self) -> tuple[str, ...]:
        """See the protocol."""
        return tuple(self._endpoints)

    def timeout_ms(self, destination: str) -> int | None:
        """See the protocol."""
        return self._endpoints[destination].timeout_ms

    def deliver(self, claim: Claim) -> Awaitable[Settlement | None]:
        """See the protocol."""
        lease = self._runtime.lease
        if lease is not None and lease.is_doubtful(lease.losses):
            return self._deliver_under(lease, claim)
        return self._endpoints[claim.destination].deliver(claim, self._runtime)

    async def _deliver_under(self, lease: Lease, claim: Claim) -> Settlement | None:
        """Deliver it if the lease still holds; else it is given back, as far as it is still ours."""
        if not await lease.holds(lease.losses):
            return None
        return await self._endpoints[claim.destination].deliver(claim, self._runtime)
