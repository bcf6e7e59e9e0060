"""Moments that are given: as a datetime, or in ms since the epoch."""

from datetime import datetime

from batchflow.errors import ConfigurationError
from batchflow.serve.showing import shown

ERA_MS = 10**11
"""Times in ms are larger since 1973; times in seconds will be smaller until the year 5138."""

_SUCH_AS_S = 10**9
_LATEST_MS = 253_402_300_799_999  # the end of the year 9999, the last one that a datetime has


def instant(when: object, *, option: str = "when", now: int | None = None) -> int:
    """A moment in ms since the epoch, of a datetime with its time zone or of such a number.

    Beside a clock that shows `now`, a number that is too small for its era is refused: it counts seconds.

    Raises:
        ConfigurationError: it is neither, or no such number.
    """
    match when:
        case bool():
            pass
        case int() if when < ERA_MS <= (now or 0):
            raise ConfigurationError(
                f"'{option}' cannot be {shown(when)}, which looks like seconds (in ms it was before 1974); "
                f"write a datetime with its time zone, or ms: {1000 * max(when, _SUCH_AS_S)}"
            )
        case int() if when > _LATEST_MS:
            raise ConfigurationError(
                f"'{option}' cannot be {shown(when)}, which is after the year 9999; "
                f"write a datetime with its time zone, or milliseconds since the epoch"
            )
        case int():
            return when
        case datetime(tzinfo=zone) if zone is not None:
            return int(when.timestamp() * 1000)
        case _:
            pass
    raise ConfigurationError(
        f"'{option}' cannot be {shown(when)}; write a datetime with its time zone, such as "
        f"datetime(2030, 1, 1, tzinfo=timezone.utc), or milliseconds since the epoch"
    )
