"""How an engine interrupts what it has under way: said to the attempt first, then its task is cancelled."""

from collections.abc import Callable
from typing import TypeAlias

from batchflow.core.message import Claim

TIMEOUT = "batchflow:timeout"
"""Why an engine interrupts an attempt that has taken too long; it counts as a failed attempt."""

STOP = "batchflow:stop"
"""Why an engine interrupts an attempt as it stops; it does not count."""

ClaimKey: TypeAlias = tuple[str, int]
"""A claim by id and fence: what was lost may be claimed again while its stale claim is still carried out."""


class Interrupts:
    """Which claims of one engine are interrupted and why, and what they have told of themselves for that.

    Nothing of it is made for a claim that is not interrupted, has no branches and does not wait for threads.
    """

    __slots__ = ("_on_request", "_waited", "requested")

    def __init__(self) -> None:
        self.requested: dict[ClaimKey, str] = {}
        """Why claims are interrupted. An attempt looks whether it is empty before each step."""
        self._on_request: dict[ClaimKey, Callable[[], None]] = {}
        self._waited: dict[ClaimKey, Callable[[float], float]] = {}

    def request(self, claim: Claim, why: str) -> None:
        """Interrupt a claim: no step of it starts any more. Cancel its task after that."""
        key = claim.id, claim.fence
        self.requested[key] = why
        if (heed := self._on_request.get(key)) is not None:
            heed()

    def why(self, claim: Claim) -> str | None:
        """Why a claim is interrupted; None: it is not."""
        return self.requested.get((claim.id, claim.fence)) if self.requested else None

    def on_request(self, claim: Claim, heed: Callable[[], None]) -> None:
        """Call `heed` when the claim is interrupted: it has branches, which do not see that by themselves."""
        self._on_request[claim.id, claim.fence] = heed

    def excuse(self, claim: Claim, waited_s: Callable[[float], float]) -> None:
        """`waited_s` says for how many seconds, up to the event loop's time, the claim has waited for threads."""
        self._waited[claim.id, claim.fence] = waited_s

    def waited_s(self, claim: Claim, now: float) -> float:
        """For how many seconds, up to the event loop's time `now`, it has waited for threads: that is not its time."""
        waited_s = self._waited.get((claim.id, claim.fence)) if self._waited else None
        return 0.0 if waited_s is None else waited_s(now)

    def ended(self, claim: Claim) -> None:
        """The claim is carried out."""
        if self._waited:
            self._waited.pop((claim.id, claim.fence), None)
        if self.requested:
            self.requested.pop((claim.id, claim.fence), None)
        if self._on_request:
            self._on_request.pop((claim.id, claim.fence), None)
