"""Schedules: cron expressions with time zones, their declaration in code, and their state in a store. Pure values."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

from pydantic_core import from_json, to_json

from batchflow.core import ids
from batchflow.core.batch import NO_HEADERS, NewBatch
from batchflow.core.message import Message
from batchflow.core.suggestions import closest, did_you_mean, explains_options
from batchflow.errors import ConfigurationError

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

Overlap: TypeAlias = Literal["skip", "queue", "allow"]
"""The rule for a fire while the run or batch of the previous one has not ended: it is skipped, it waits, or it starts.

Of those that wait, one is kept; further ones are skipped.
"""

FireOutcome: TypeAlias = Literal["fired", "skipped", "queued", "repeated", "failed", "stale"]
"""The result of a fire: its work was started; skipped, since the previous one has not ended; kept until that ends; its
work exists already, as after a clock that was set back; failed, since nothing could be started; the schedule changed
since it was read, and nothing was done."""

SCHEDULE_ID_HEADER = "Upstash-Schedule-Id"
"""The header with the schedule's id that a run or batch of a schedule gets."""

SCHEDULED_AT_HEADER = "Batchflow-Scheduled-At"
"""The header with the time for which a run or batch was scheduled, in ISO 8601 with the schedule's offset."""

_ZONE_PREFIX = "CRON_TZ="
_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_DAY_MS = 86_400_000
_EXAMPLE = "'0 3 * * *' for each day at 03:00"


class Cron(NamedTuple):
    """A cron expression of five fields, and the IANA name of the time zone in which it is read.

    An expression with fixed minutes and hours follows the local clock: a time that a change of the clock skips fires
    once, right after the gap, and a time that occurs twice fires the first time. One whose minute or hour begins with
    `*`, such as `*/15 * * * *`, follows the time that passes: it fires as often in the hour that is repeated as in any
    other.
    """

    expression: str
    timezone: str = "UTC"

    @classmethod
    def parse(cls, expression: object, timezone: object = None) -> "Cron":
        """Check an expression, which may begin with `CRON_TZ=Europe/Berlin`, and a time zone (None: UTC).

        Raises:
            ConfigurationError: one of them is invalid, or the expression matches no date.
        """
        if not isinstance(expression, str):
            raise ConfigurationError(
                option="cron", got=_shown(expression), want=f"write five fields as text, such as {_EXAMPLE}"
            )
        text = " ".join(expression.split())
        zone = timezone
        if text.startswith(_ZONE_PREFIX):
            named, _, text = text.removeprefix(_ZONE_PREFIX).partition(" ")
            if timezone is not None and timezone != named:
                raise ConfigurationError(
                    f"{_shown(expression)} names the time zone '{named}', and 'timezone' is {_shown(timezone)}; "
                    "name one of them"
                )
            zone = named
        cron = cls(_check_expression(text, expression), _check_zone(zone))
        if cron.next_after(0) is None:
            raise ConfigurationError(
                "which matches no date", option="cron", got=_shown(expression), want=f"write five fields, as {_EXAMPLE}"
            )
        return cron

    @property
    def fields(self) -> str:
        """The expression as five fields, without a name such as `@daily`."""
        return _ALIASES.get(self.expression, self.expression)

    def next_after(self, at: int) -> int | None:
        """The first time after `at` at which it fires, in ms since the epoch; None: not within 50 years."""
        return next(self.times_after(at), None)

    def times_after(self, at: int) -> Iterator[int]:
        """The times after `at` at which it fires, in ms since the epoch."""
        from cronsim import CronSim

        found = CronSim(self.fields, datetime.fromtimestamp(at / 1000, _zone(self.timezone)))
        for time in found:
            # In a repeated hour the search begins with local times that were before `at`.
            if (ms := int(time.astimezone(UTC).timestamp()) * 1000) > at:
                yield ms

    def latest_until(self, now: int, first: int) -> int:
        """The latest time at which it fires up to `now`, if it fires at `first`, which is not after `now`."""
        latest = first
        # Within the last day there are few; before it, only those of expressions that fire rarely are left.
        for begin in (max(first, now - _DAY_MS), first):
            for time in self.times_after(begin):
                if time > now:
                    break
                latest = time
            if latest > first:
                break
        return latest

    def upcoming(self, after: int, count: int) -> tuple[int, ...]:
        """The next `count` times after `after`, in ms since the epoch."""
        return tuple(islice(self.times_after(after), count))

    def local_time(self, ms: int) -> datetime:
        """A time in the time zone of the expression."""
        return datetime.fromtimestamp(ms / 1000, _zone(self.timezone))


def _check_expression(text: str, given: str) -> str:
    from cronsim import CronSim, CronSimError

    if text.startswith("@"):
        if text not in _ALIASES:
            raise ConfigurationError(
                f"which is not known{did_you_mean(text, _ALIASES)}", option="cron", got=_shown(given)
            )
        return text
    count = len(text.split())
    if count != 5:
        raise ConfigurationError(
            f"which has {count} field{'' if count == 1 else 's'}",
            option="cron",
            got=_shown(given),
            want=f"write five: minute, hour, day of the month, month, day of the week, such as {_EXAMPLE}",
        )
    try:
        CronSim(text, datetime(2020, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ConfigurationError(
            f"whose {str(error).removeprefix('Bad ')} is invalid",
            option="cron",
            got=_shown(given),
            want=f"write five fields, such as {_EXAMPLE}",
        ) from error
    return text


def _check_zone(name: object) -> str:
    if name is None:
        return "UTC"
    key = getattr(name, "key", name)
    if not isinstance(key, str) or not key:
        raise ConfigurationError(
            option="timezone", got=_shown(name), want="write the name of a time zone, such as 'Europe/Berlin'"
        )
    try:
        _zone(key)
    except (ValueError, LookupError, OSError) as error:
        from zoneinfo import available_timezones

        meant = closest(key, available_timezones()) or "Europe/Berlin"
        raise ConfigurationError(
            "which is not known", option="timezone", got=_shown(name), want=f"write a name such as '{meant}'"
        ) from error
    return key


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


@lru_cache(maxsize=256)
def _zone(name: str) -> "ZoneInfo":
    # zoneinfo is not needed by a program without schedules.
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)


@explains_options(
    tz="timezone='Europe/Berlin'",
    expression="the expression without a name: Schedule('0 3 * * *')",
    body="payload=… of a function, params=… of a workflow",
)
@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule that code declares: `schedule=Schedule("0 3 * * *", timezone="Europe/Berlin")`.

    `cron` has five fields (minute, hour, day of the month, month, day of the week), and is read in `timezone`. Each
    fire starts a batch with `params`, or a run of a function with `payload`: a value of its type, or its JSON.
    `overlap` says what a fire does while the run or batch of the previous one has not ended: "skip" drops it, "queue"
    starts it afterwards, one at most, and "allow" starts it. Its runs and batches have the `label`, by default the
    schedule's id, and the `headers`.

    Raises:
        ConfigurationError: an option is invalid.
    """

    cron: str
    _: KW_ONLY
    timezone: str | None = None
    params: object = field(default=None, repr=False)
    payload: object = field(default=None, repr=False)
    overlap: Overlap = "skip"
    label: str | None = None
    headers: Mapping[str, str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        Cron.parse(self.cron, self.timezone)
        check_overlap(self.overlap)
        if self.params is not None and self.payload is not None:
            raise ConfigurationError("exclude each other", option="params", other="payload", want="give one of them")

    @property
    def times(self) -> Cron:
        """Its expression and time zone."""
        return Cron.parse(self.cron, self.timezone)


def as_schedule(value: object, option: str = "schedule") -> Schedule | None:
    """A declaration: a `Schedule`, or a cron expression in its place.

    Raises:
        ConfigurationError: it is neither, or invalid.
    """
    if value is None or isinstance(value, Schedule):
        return value
    if not isinstance(value, str):
        raise ConfigurationError(
            option=option, got=_shown(value), want=f"write a cron expression, such as {_EXAMPLE}, or Schedule(…)"
        )
    return Schedule(value)


def check_overlap(value: object) -> None:
    """Raise `ConfigurationError` unless `value` is an `Overlap`."""
    if value not in get_args(Overlap):
        raise ConfigurationError(option="overlap", got=_shown(value), want="write 'skip', 'queue' or 'allow'")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSchedule:
    """A schedule as it is put into a store.

    Its fires start a batch or a run, as `starts` says, at the `destination` of the workflow or function `target`, with
    the JSON text `payload`. A `declared` one belongs to the code of its target, which puts it and removes it.
    """

    id: str
    target: str
    destination: str
    cron: Cron
    starts: Literal["batch", "run"] = "run"
    payload: str = field(default="null", repr=False)
    overlap: Overlap = "skip"
    label: str | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS, repr=False)
    declared: bool = False

    @property
    def text(self) -> str:
        """It as JSON, as a store keeps it; equal schedules have the same text."""
        return to_json([dict(self.headers) if it == "headers" else getattr(self, it) for it in _STORED]).decode()

    @classmethod
    def of_text(cls, text: str) -> "NewSchedule":
        """The schedule with this `text`."""
        about: dict[str, Any] = dict(zip(_STORED, from_json(text), strict=True))
        about["cron"] = Cron(*about["cron"])
        return cls(**about)


_STORED = ("id", "target", "destination", "cron", "starts", "payload", "overlap", "label", "headers", "declared")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleStatus:
    """The current state of a schedule. Times are ms since the epoch.

    `version` grows with every change. It fires next at `next_at`, unless it is `paused`. The latest fire that started
    work was scheduled for `last_at`, and its batch or run is `last_id`; `fires` have started work and `skips` have not,
    the latest at `skipped_at`. The fire of `queued_at` waits for the end of the previous one. `error` says why the
    latest fire could start nothing.
    """

    schedule: NewSchedule
    version: int
    paused: bool
    created_at: int
    next_at: int | None
    last_at: int | None = None
    last_id: str | None = None
    fires: int = 0
    skips: int = 0
    skipped_at: int | None = None
    queued_at: int | None = None
    error: str | None = None

    @property
    def id(self) -> str:
        """The id of the schedule."""
        return self.schedule.id

    def upcoming(self, count: int = 5) -> tuple[int, ...]:
        """The times of its next fires, in ms since the epoch: a missed one is the first; none while it is paused."""
        if self.paused or self.next_at is None:
            return ()
        return (self.next_at, *self.schedule.cron.upcoming(self.next_at, count - 1))[:count]


class DueSchedules(NamedTuple):
    """The schedules of some destinations that may fire now, and the time when the next one is due (ms; None: never).

    `queued` is the number of those whose queued fire waits for the end of the previous one. `now` is the store's time.
    """

    due: tuple[ScheduleStatus, ...]
    next_at: int | None
    queued: int
    now: int


class ScheduledStart(NamedTuple):
    """The work that a fire starts: a batch with its first messages, or the message of a run."""

    batch: NewBatch | None
    messages: tuple[Message, ...]

    @property
    def id(self) -> str:
        """The id of the batch or run."""
        return self.messages[0].id if self.batch is None else self.batch.id

    @property
    def open_dedup(self) -> str | None:
        """The key under which it counts as under way; None if fires may overlap."""
        return self.messages[0].open_dedup if self.batch is None else self.batch.open_dedup


@dataclass(frozen=True, slots=True, kw_only=True)
class Fire:
    """A fire of the schedule `id`, which was read with `version`. It was due at `at`, and the next one is at `next_at`.

    It starts `start`; without it, it fails with `error`. With `queue` it waits if the previous one has not ended.
    """

    id: str
    version: int
    at: int
    next_at: int | None
    start: ScheduledStart | None = None
    error: str | None = None
    queue: bool = False


class FireResult(NamedTuple):
    """The outcome of a fire, and the schedule afterwards; None if it does not exist."""

    outcome: FireOutcome
    schedule: ScheduleStatus | None


def schedule_key(id: str) -> str:
    """The `open_dedup` of the runs and batches of a schedule whose fires do not overlap."""
    return f"schedule:{id}"


def scheduled_batch_id(id: str, at: int) -> str:
    """The id of the batch of the fire at `at`: derived, so that repeating the fire opens no second one."""
    return ids.batch_id(at, hashlib.sha256(id.encode()).digest()[: ids.BATCH_ENTROPY])


def scheduled_run_id(id: str, at: int) -> str:
    """The id of the run of the fire at `at`; see `scheduled_batch_id`."""
    return ids.run_id(at, hashlib.sha256(id.encode()).digest()[: ids.RUN_ENTROPY])


def scheduled_headers(schedule: NewSchedule, at: int) -> Mapping[str, str]:
    """The headers of the batch or run of the fire at `at`."""
    own = {
        SCHEDULE_ID_HEADER: schedule.id,
        SCHEDULED_AT_HEADER: schedule.cron.local_time(at).isoformat(timespec="seconds"),
    }
    return {**schedule.headers, **own}
