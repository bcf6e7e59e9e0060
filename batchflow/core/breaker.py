"""The circuit breaker of a flow key: it opens after failed attempts in a row, and then tries one message at a time."""

from typing import NamedTuple


class BreakerLimits(NamedTuple):
    """A batch's circuit breaker: it opens after `max_in_a_row` failed attempts, and parks the key for `open_for` ms."""

    max_in_a_row: int
    open_for: int


class Breaker(NamedTuple):
    """The state of the circuit breaker of a flow key.

    `in_a_row` attempts have failed since the last success. While it is open, `open_for` (ms; 0: it is closed) is the
    time for which each failed trial parks the key again, and `trial` is the message that is tried now, if one is.
    """

    in_a_row: int = 0
    open_for: int = 0
    trial: str | None = None


CLOSED = Breaker()


class BreakerChange(NamedTuple):
    """The circuit breaker of `key` has opened, for `open_for` ms after `in_a_row` failed attempts, or closed (0 ms)."""

    key: str
    in_a_row: int
    open_for: int

    @classmethod
    def of(cls, key: str, before: Breaker, after: Breaker) -> "BreakerChange | None":
        """The change of a breaker, if it has opened or closed."""
        if bool(before.open_for) == bool(after.open_for):
            return None
        return cls(key, max(before.in_a_row, after.in_a_row), after.open_for)


def judge(breaker: Breaker, id: str, failures: int | None, limits: BreakerLimits | None) -> Breaker:
    """The breaker after the claim of the message `id` has ended with these `failures`.

    0 failures are a success, and None says nothing about either (`Settlement.outcome`). `limits` are those of its
    batch, if it is an item. While the breaker is open only the trial counts; if it says nothing, another message is
    tried. A result that has an `open_for` and another `in_a_row` than before parks the key for that time from now on; a
    trial that is over does not park it otherwise.
    """
    if breaker.open_for:
        if breaker.trial != id:
            return breaker
        if failures is None:
            return breaker._replace(trial=None)
        if failures == 0:
            return CLOSED
        return Breaker(breaker.in_a_row + failures, limits.open_for if limits else breaker.open_for)
    if failures == 0:
        return CLOSED
    if failures is None or limits is None:
        return breaker
    in_a_row = breaker.in_a_row + failures
    return Breaker(in_a_row, limits.open_for if in_a_row >= limits.max_in_a_row else 0)
