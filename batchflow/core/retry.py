"""Retry policies: the number of retries, and the wait before each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from batchflow.core import retry_delay
from batchflow.core.duration import Duration, format_duration, to_ms
from batchflow.core.suggestions import explains_options
from batchflow.errors import ConfigurationError

_MAX_FACTOR = 1e300  # no wait is told apart above it, and it keeps infinity out
_MAX_EXPONENT = 2**62  # beyond it factor**n is 1 or over every cap, and a float still holds the exponent


RETRIES_WORDS: Mapping[str, str] = {
    "attempts": "retries=…, which does not count the first attempt",
    "max_attempts": "retries=…, which does not count the first attempt",
    "max_retries": "retries=…",
}
"""The words of other APIs for a number of retries, with what to write."""


@explains_options(
    **RETRIES_WORDS,
    backoff="factor=…",
    multiplier="factor=…",
    initial="first=…",
    max_delay="cap=…",
    retry_delay="first=… and factor=1, or delay='1000 * (1 + retried)'",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The number of retries after a failed attempt, and the waits before them.

    The wait after the n-th failure is `first * factor ** (n - 1)`, at most `cap`, then moved by up to `jitter` of
    itself either way. The default waits 1 s, 4 s and 16 s:

        RetryPolicy(retries=5, first="500ms", factor=2, cap="1m", jitter=0.1)
        RetryPolicy.none()                       # one attempt, no more
        RetryPolicy(delay="1000 * (1 + retried)")

    `delay` is an expression as in QStash, in milliseconds, and replaces `first` and `factor`. `retried` is the number
    of retries so far: 0 before the first. It has numbers, `+ - * /`, parentheses and the functions abs, ceil, exp,
    floor, max, min, pow, round and sqrt. `cap` and `jitter` apply to it too. It is evaluated for all `retries` when the
    policy is made; beyond them a negative wait counts as 0, and one that is infinite or NaN as `cap`.

    Policies with durations of the same length are equal: "60s" is "1m".

    Raises:
        ConfigurationError: `retries` is not a whole number of 0 or more, `factor` is below 1, `jitter` is not between
            0 and 1, a duration is not valid, `cap` is shorter than `first`, or `delay` is not an expression for waits.
    """

    retries: int = 3
    first: Duration = "1s"
    factor: float = 4.0
    cap: Duration = "1h"
    jitter: float = 0.0
    delay: str | None = None
    first_ms: int = field(init=False, repr=False, compare=False)
    cap_ms: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_retries(self.retries)
        first, cap = to_ms(self.first, option="first"), to_ms(self.cap, option="cap")
        if cap < first and self.delay is None:
            raise ConfigurationError(
                f"({format_duration(cap)}) is shorter than 'first' ({format_duration(first)})",
                option="cap",
                want=f"write cap='{format_duration(first)}' or more",
            )
        # Durations are kept as text: `replace` and a copied repr would read a number as seconds.
        object.__setattr__(self, "first", format_duration(first))
        object.__setattr__(self, "cap", format_duration(cap))
        object.__setattr__(self, "first_ms", first)
        object.__setattr__(self, "cap_ms", cap)
        object.__setattr__(self, "factor", _number(self.factor, "factor", 1.0, _MAX_FACTOR, "1 or more, such as 2"))
        object.__setattr__(self, "jitter", _number(self.jitter, "jitter", 0.0, 1.0, "a share from 0 to 1, such as 0.1"))
        if self.delay is not None:
            object.__setattr__(self, "delay", _delay(self.delay, self.retries))

    @classmethod
    def of(
        cls,
        *,
        retries: int | None = None,
        delay: "RetryPolicy | Duration | None" = None,
        default: "RetryPolicy | None" = None,
    ) -> "RetryPolicy":
        """The policy for the options `retries` and `retry_delay`; `default` fills in what they leave open.

            RetryPolicy.of(retries=5, delay="pow(2, retried) * 1000")    # an expression, in milliseconds
            RetryPolicy.of(delay="5s")                                   # text with units, a number of seconds or a
            RetryPolicy.of(delay=5)                                      # timedelta: the same wait every time
            RetryPolicy.of(retries=5, delay=RetryPolicy(first="9s"))     # all of this policy, but 5 retries

        A number as text is an expression: "5" is 5 ms. `cap` and `jitter` of the default apply to an expression and a
        constant wait too; a constant wait longer than the cap raises it.

        Raises:
            ConfigurationError: `retries` or `delay` is not one of these.
        """
        base = delay if isinstance(delay, RetryPolicy) else default or cls()
        often = base.retries if retries is None else retries
        if delay is None or isinstance(delay, RetryPolicy):
            return replace(base, retries=often)
        if isinstance(delay, str) and not _has_units(delay):
            return replace(base, retries=often, delay=delay)
        wait = to_ms(delay, option="retry_delay")
        cap = format_duration(max(wait, base.cap_ms))
        return replace(base, retries=often, first=format_duration(wait), factor=1, cap=cap, delay=None)

    @classmethod
    def none(cls) -> "RetryPolicy":
        """The policy of one attempt: the first failure is final."""
        return cls(retries=0)

    @property
    def attempts(self) -> int:
        """The number of attempts, the first one included."""
        return self.retries + 1

    def delay_ms(self, failures: int, *, chance: float = 0.5) -> int:
        """The wait after the n-th failure, counted from 1.

        `chance`, in [0, 1), places the wait within the jitter; 0.5 is its middle.
        """
        if failures < 1:
            raise ValueError(f"the wait after failure {failures} was asked for; the first failure is 1")
        wait = self._backoff_ms(failures - 1) if self.delay is None else self._evaluated_ms(self.delay, failures - 1)
        return round(wait * (1 + self.jitter * (2 * chance - 1)))

    def expression(self) -> str:
        """The waits without jitter, as QStash's `Upstash-Retry-Delay`: in milliseconds, `retried` counting from 0."""
        if self.delay is not None:
            return f"min({self.cap_ms}, {self.delay})"
        factor = format(Decimal(repr(self.factor)).normalize(), "f")
        return f"min({self.cap_ms}, {self.first_ms} * pow({factor}, retried))"

    def as_wire(self) -> list[int | float | str]:
        """Five numbers that `from_wire` reads, durations in milliseconds; then the expression, where there is one."""
        numbers: list[int | float | str] = [self.retries, self.first_ms, self.factor, self.cap_ms, self.jitter]
        return numbers if self.delay is None else [*numbers, self.delay]

    @classmethod
    def from_wire(cls, wire: Sequence[int | float | str]) -> "RetryPolicy":
        """The policy that `as_wire` wrote.

        Raises:
            ConfigurationError: `wire` has another form.
        """
        if len(wire) not in (5, 6):
            raise ConfigurationError(
                f"a retry policy is stored as 5 numbers, and an expression or none, not as {wire!r}"
            )
        retries, first, factor, cap, jitter, *delay = wire
        return cls(
            retries=int(retries),
            first=f"{int(first)}ms",
            factor=float(factor),
            cap=f"{int(cap)}ms",
            jitter=float(jitter),
            delay=str(delay[0]) if delay else None,
        )

    def _backoff_ms(self, exponent: int) -> float:
        if self.first_ms == 0:
            return 0
        try:
            return min(self.cap_ms, self.first_ms * self.factor ** min(exponent, _MAX_EXPONENT))
        except OverflowError:
            return self.cap_ms

    def _evaluated_ms(self, delay: str, retried: int) -> float:
        wait = retry_delay.evaluate(delay, retried)
        # In this order, so that NaN, which compares with nothing, leaves the cap.
        return max(0, min(self.cap_ms, wait))


def _delay(value: object, retries: int) -> str:
    if not isinstance(value, str):
        want = "write an expression such as 'pow(2, retried) * 1000'"
        raise ConfigurationError(option="delay", got=repr(value), want=want)
    return retry_delay.check(value, retries)


def _has_units(text: str) -> bool:
    """True for text that is meant as a duration: digits followed by letters, without operators."""
    bare = text.replace(" ", "").replace(".", "")
    return bare[:1].isdigit() and bare.isalnum() and not bare.isdigit()


def _check_retries(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        want = "write a whole number of 0 or more, such as 3"
        raise ConfigurationError(option="retries", got=repr(value), want=want)


def _number(value: object, option: str, least: float, most: float, how: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ConfigurationError(option=option, got=repr(value), want=f"write {how}")
    return float(value)
