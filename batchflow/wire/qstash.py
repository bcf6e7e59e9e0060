"""The `Upstash-*` headers of a request, as QStash defines them."""

from collections.abc import Iterable, Mapping
from typing import Any

from batchflow.core.duration import Duration, to_ms
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.core.spelling import slips
from batchflow.errors import ConfigurationError, InputError

RUN_ID = "Upstash-Workflow-RunId"


DEDUP_ID = "Upstash-Deduplication-Id"


DELAY = "Upstash-Delay"


NOT_BEFORE = "Upstash-Not-Before"


LABEL = "Upstash-Label"


RETRIES = "Upstash-Retries"


RETRY_DELAY = "Upstash-Retry-Delay"


FLOW_KEY = "Upstash-Flow-Control-Key"


FLOW_VALUE = "Upstash-Flow-Control-Value"


_PREFIX = "upstash-"


_FORWARD = "upstash-forward-"


HEADERS = {
    RUN_ID: "the id of the run; with one that is known, nothing is started",
    DEDUP_ID: "what it is for; with one that is known, nothing is started",
    DELAY: "start after this long, such as 10s or 2h30m",
    NOT_BEFORE: "start not before this time, in unix seconds; wins over Upstash-Delay",
    LABEL: "a name to know it by",
    RETRIES: "how often a failed attempt is repeated",
    RETRY_DELAY: "the wait before each repetition: 5s, or an expression in ms such as pow(2, retried) * 1000",
    FLOW_KEY: "what shares the limits of Upstash-Flow-Control-Value",
    FLOW_VALUE: "limits: parallelism=N, rate=N, period=1m",
}


# What would be a promise that nobody keeps. Of the other Upstash headers none changes what happens.
_UNSUPPORTED = (
    *("upstash-callback", "upstash-failure-callback", "upstash-timeout", "upstash-cron", "upstash-queue-name"),
    *("upstash-content-based-deduplication", "upstash-redact-fields"),
)


# What QStash itself sends, and looks like a slip of one that is known.
_SENT_BY_QSTASH = ("upstash-retried",)


_NAMES = {name.lower(): name for name in HEADERS}


_SHORT = {name.removeprefix(_PREFIX): known for name, known in _NAMES.items()}


_LATEST_S = 253_402_300_799


# The last second of the year 9999.
_MOST = 999_999_999


_HOW_LIMITS = "write parallelism=N, rate=N or both, and period=1m where the rate is not per second"


class UpstashHeaders:
    """The options that a request has, by name, and the headers for the run."""

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._values: dict[str, str] = {}
        self.forwarded: dict[str, str] = {}
        for raw, content in headers:
            name, value = raw.decode("latin-1").lower(), _decode(content)
            if name.startswith(_FORWARD):
                self._forward(name.removeprefix(_FORWARD), value)
            elif name.startswith(_UNSUPPORTED):
                raise InputError(f"'{name}' is a header whose promise is not kept here; leave it out", field=name)
            elif (known := _NAMES.get(name)) is not None:
                if known in self._values:
                    raise InputError(f"'{known}' is given twice; give it once", field=known)
                self._values[known] = value
            elif name.startswith(_PREFIX) and name not in _SENT_BY_QSTASH:
                self._reject_typo(name)

    def _reject_typo(self, name: str) -> None:
        """Other headers of Upstash's change nothing; what was meant to be one that does is told."""
        for _, meant in slips([name.removeprefix(_PREFIX)], _SHORT):
            raise InputError(f"unknown header '{name}'; did you mean '{_SHORT[meant]}'?", field=name)

    def _forward(self, name: str, value: str) -> None:
        if not name:
            raise InputError("'Upstash-Forward-' names no header; write Upstash-Forward-NAME", field="Upstash-Forward-")
        self.forwarded[name] = f"{self.forwarded[name]}, {value}" if name in self.forwarded else value

    def get(self, name: str) -> str | None:
        return self._values.get(name)

    def delay(self) -> Duration | None:
        text = self.get(DELAY)
        return None if text is None else _read_duration(text, DELAY, DELAY)

    def not_before(self) -> int | None:
        text = self.get(NOT_BEFORE)
        if text is None:
            return None
        return 1000 * _read_number(text, NOT_BEFORE, NOT_BEFORE, _LATEST_S, "a time in unix seconds")

    def retry(self, default: RetryPolicy) -> RetryPolicy | None:
        text, delay = self.get(RETRIES), self.get(RETRY_DELAY)
        if text is None and delay is None:
            return None
        retries = None if text is None else _read_number(text, RETRIES, RETRIES, _MOST, "a whole number of 0 or more")
        try:
            return RetryPolicy.of(retries=retries, delay=delay, default=default)
        except ConfigurationError as error:
            at_fault = RETRIES if delay is None else RETRY_DELAY
            sentence = str(error).replace("'retry_delay'", f"'{at_fault}'").replace("'delay'", f"'{at_fault}'")
            raise InputError(sentence, field=at_fault) from error

    def flow_control(self) -> FlowControl | None:
        key, value = self.get(FLOW_KEY), self.get(FLOW_VALUE)
        if key is None and value is None:
            return None
        if key is None or value is None:
            missing, there = (FLOW_KEY, FLOW_VALUE) if key is None else (FLOW_VALUE, FLOW_KEY)
            raise InputError(f"'{missing}' is missing; it goes with '{there}'", field=missing)
        limits = _read_limits(value)
        try:
            return FlowControl(**limits, key=key)
        except ConfigurationError as error:
            at_fault = FLOW_KEY if str(error).startswith("'key'") else FLOW_VALUE
            raise InputError(str(error).replace("'key'", f"'{FLOW_KEY}'"), field=at_fault) from error


def _read_limits(value: str) -> Mapping[str, Any]:
    limits: dict[str, Any] = {}
    for part in value.split(","):
        name, _, text = (it.strip() for it in part.partition("="))
        if name in limits or name not in ("parallelism", "rate", "period"):
            raise InputError(f"'{FLOW_VALUE}' cannot be {value!r}; {_HOW_LIMITS}", field=FLOW_VALUE)
        whole = "a whole number of 1 or more"
        limits[name] = (
            _read_duration(text, name, FLOW_VALUE)
            if name == "period"
            else _read_number(text, name, FLOW_VALUE, _MOST, whole)
        )
    if not limits.keys() & {"parallelism", "rate"}:
        raise InputError(f"'{FLOW_VALUE}' sets no limit with {value!r}; {_HOW_LIMITS}", field=FLOW_VALUE)
    return limits


def _read_duration(text: str, option: str, header: str) -> Duration:
    """A duration; a bare number is seconds, as in QStash."""
    span: Duration = int(text) if _is_number(text, _MOST) else text
    try:
        to_ms(span, option=option)
    except ConfigurationError as error:
        raise InputError(str(error), field=header) from error
    return span


def _read_number(text: str, option: str, header: str, most: int, how: str) -> int:
    if not _is_number(text, most):
        raise InputError(f"'{option}' cannot be {text!r}; write {how}, such as {_example(option)}", field=header)
    return int(text)


def _is_number(text: str, most: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= most


def _example(option: str) -> str:
    return "1900000000" if option == NOT_BEFORE else "3"


def _decode(content: bytes) -> str:
    """A header's value, as nearly all send it today: UTF-8."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")
