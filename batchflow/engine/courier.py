"""Bringing a claim to the endpoint it is for."""

from collections import ChainMap
from collections.abc import Awaitable, Mapping
from typing import Protocol, cast

from batchflow.core.call import CALL
from batchflow.core.message import Claim
from batchflow.core.ports import Delivered, Runtime
from batchflow.core.settlement import Settlement


class Courier(Protocol):
    """Delivers a claim and says how it ended."""

    @property
    def interrupted(self) -> dict[tuple[str, int], str]:
        """Why claims, by id and fence, are interrupted: said here before the task that carries one out is cancelled."""
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

    @property
    def interrupted(self) -> dict[tuple[str, int], str]:
        """See the protocol."""
        return self._runtime.interrupted

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
        return self._endpoints[claim.destination].deliver(claim, self._runtime)
