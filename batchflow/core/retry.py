"""When to try again: how often, and how long to wait before each further attempt."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from batchflow.core.duration import Duration, spell, to_ms
from batchflow.errors import ConfigurationError

_STEEPEST = 1e300  # no wait is told apart above it, and it keeps infinity out
_FARTHEST = 2**62  # beyond it factor**n is 1 or over every cap, and a float still holds the exponent


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a failed attempt is repeated, and after which waits.

    The wait after the n-th failure is `first * factor ** (n - 1)`, at most `cap`, then moved by up to `jitter` of
    itself either way. The default waits 1 s, 4 s and 16 s:

        RetryPolicy(retries=5, first="500ms", factor=2, cap="1m", jitter=0.1)
        RetryPolicy.none()                       # one attempt, no more

    Policies are equal by value, however their durations were written: "60s" is "1m".

    Raises:
        ConfigurationError: `retries` is no whole number of 0 or more, `factor` is below 1, `jitter` is not between 0
            and 1, a duration is none, or `cap` is shorter than `first`.
    """

    retries: int = 3
    first: Duration = "1s"
    factor: float = 4.0
    cap: Duration = "1h"
    jitter: float = 0.0
    first_ms: int = field(init=False, repr=False, compare=False)
    cap_ms: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_retries(self.retries)
        first, cap = to_ms(self.first, option="first"), to_ms(self.cap, option="cap")
        if cap < first:
            raise ConfigurationError(
                f"'cap' ({spell(cap)}) is shorter than 'first' ({spell(first)}); write cap='{spell(first)}' or more"
            )
        # Durations are kept as text: `replace` and a pasted repr read a number as seconds.
        object.__setattr__(self, "first", spell(first))
        object.__setattr__(self, "cap", spell(cap))
        object.__setattr__(self, "first_ms", first)
        object.__setattr__(self, "cap_ms", cap)
        object.__setattr__(self, "factor", _number(self.factor, "factor", 1.0, _STEEPEST, "1 or more, such as 2"))
        object.__setattr__(self, "jitter", _number(self.jitter, "jitter", 0.0, 1.0, "a share from 0 to 1, such as 0.1"))

    @classmethod
    def none(cls) -> "RetryPolicy":
        """The policy of one attempt: the first failure is final."""
        return cls(retries=0)

    @property
    def attempts(self) -> int:
        """How often it is tried in all, the first attempt included."""
        return self.retries + 1

    def delay_ms(self, failures: int, *, chance: float = 0.5) -> int:
        """The wait after the n-th failure, the first being 1.

        `chance`, in [0, 1), places the wait within the jitter; 0.5 is its middle.
        """
        if failures < 1:
            raise ValueError(f"the wait after failure {failures} was asked for; the first failure is 1")
        wait = self._backoff_ms(failures - 1)
        return round(wait * (1 + self.jitter * (2 * chance - 1)))

    def expression(self) -> str:
        """The waits without jitter, as QStash's `Upstash-Retry-Delay`: in milliseconds, `retried` counting from 0."""
        factor = format(Decimal(repr(self.factor)).normalize(), "f")
        return f"min({self.cap_ms}, {self.first_ms} * pow({factor}, retried))"

    def as_wire(self) -> list[int | float]:
        """Five numbers that `from_wire` reads; durations in milliseconds."""
        return [self.retries, self.first_ms, self.factor, self.cap_ms, self.jitter]

    @classmethod
    def from_wire(cls, wire: Sequence[int | float]) -> "RetryPolicy":
        """The policy that `as_wire` wrote.

        Raises:
            ConfigurationError: these are not the five numbers of a policy.
        """
        if len(wire) != 5:
            raise ConfigurationError(f"a retry policy is stored as 5 numbers, not as {wire!r}")
        retries, first, factor, cap, jitter = wire
        return cls(retries=int(retries), first=f"{int(first)}ms", factor=factor, cap=f"{int(cap)}ms", jitter=jitter)

    def _backoff_ms(self, exponent: int) -> float:
        if self.first_ms == 0:
            return 0
        try:
            return min(self.cap_ms, self.first_ms * self.factor ** min(exponent, _FARTHEST))
        except OverflowError:
            return self.cap_ms


def _check_retries(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(f"'retries' cannot be {value!r}; write a whole number of 0 or more, such as 3")


def _number(value: object, option: str, least: float, most: float, how: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ConfigurationError(f"'{option}' cannot be {value!r}; write {how}")
    return float(value)
