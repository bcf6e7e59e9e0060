"""The time of a store on another machine, as a worker follows it."""

from batchflow.core.clock import Clock


class StoresClock:
    """`own`, but never behind the store: what is due there is due here.

    A worker whose clock is behind would take up what is due, find that it is not, and give it back, again and again.
    """

    def __init__(self, own: Clock) -> None:
        self._own = own
        self._ahead = 0

    def now(self) -> int:
        """See the protocol."""
        return self._own.now() + self._ahead

    def follow(self, now: int) -> None:
        """The store's time was `now` a moment ago."""
        self._ahead = max(0, now - self._own.now())
