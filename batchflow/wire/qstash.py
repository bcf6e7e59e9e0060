"""The `Upstash-*` headers of a request, as QStash defines them."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from batchflow.core.duration import Duration, to_ms
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.core.suggestions import find_typos
from batchflow.errors import ConfigurationError, InputError
from batchflow.wire.header_values import FLOW_HINT, LATEST_S, MAX_NUMBER, is_number, limit_texts

RUN_ID = "Upstash-Workflow-RunId"
DEDUP_ID = "Upstash-Deduplication-Id"
DELAY = "Upstash-Delay"
NOT_BEFORE = "Upstash-Not-Before"
LABEL = "Upstash-Label"
RETRIES = "Upstash-Retries"
RETRY_DELAY = "Upstash-Retry-Delay"
FLOW_KEY = "Upstash-Flow-Control-Key"
FLOW_VALUE = "Upstash-Flow-Control-Value"

HEADERS = {
    RUN_ID: "the id of the run; with a known one, nothing is started",
    DEDUP_ID: "the purpose of the run; with a known one, nothing is started",
    DELAY: "start after this long, such as 10s or 2h30m",
    NOT_BEFORE: "start at this time at the earliest, in unix seconds; wins over Upstash-Delay",
    LABEL: "a name to find the run by",
    RETRIES: "the number of times that a failed attempt is repeated",
    RETRY_DELAY: "the wait before each repetition: 5s, or an expression in ms such as pow(2, retried) * 1000",
    FLOW_KEY: "the key that shares the limits of Upstash-Flow-Control-Value",
    FLOW_VALUE: "limits: parallelism=N, rate=N, period=1m",
}
"""The headers that are read, with the description of each."""

_PREFIX = "upstash-"
_FORWARD = "upstash-forward-"
_NAMES = {name.lower(): name for name in HEADERS}
_SHORT_NAMES = {name.removeprefix(_PREFIX): known for name, known in _NAMES.items()}
# SDKs send these with every trigger, and QStash with every delivery; they describe a request, and ask for nothing.
_DESCRIBING = frozenset(
    f"upstash-{name}"
    for name in (
        *("feature-set", "workflow-init", "workflow-url", "workflow-sdk-version", "workflow-createdat"),
        *("workflow-invoke-count", "workflow-calltype", "telemetry-sdk", "telemetry-framework", "telemetry-runtime"),
        *("telemetry-platform", "retried", "max-retries", "message-id", "schedule-id", "topic-name", "signature"),
        *("region", "caller-ip"),
    )
)
_METHOD = ("upstash-method", "POST")  # a run is started by a POST in any case
_RETRY_HEADERS = {"retries": RETRIES, "delay": RETRY_DELAY, "retry_delay": RETRY_DELAY}


class UpstashHeaders:
    """The supported headers of a request by name, and the headers that it forwards to the run."""

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._values: dict[str, str] = {}
        self.forwarded: dict[str, str] = {}
        for raw, content in headers:
            name, value = raw.decode("latin-1").lower(), header_text(content)
            if name.startswith(_FORWARD):
                self._forward(name.removeprefix(_FORWARD), value)
            elif (known := _NAMES.get(name)) is not None:
                if known in self._values:
                    raise InputError("is given twice", option=known, want="give it once", field=known)
                self._values[known] = value
            elif name.startswith(_PREFIX) and name not in _DESCRIBING and (name, value) != _METHOD:
                raise _unknown_header(name)

    def _forward(self, name: str, value: str) -> None:
        if not name:
            raise InputError("'Upstash-Forward-' names no header; write Upstash-Forward-NAME", field="Upstash-Forward-")
        self.forwarded[name] = f"{self.forwarded[name]}, {value}" if name in self.forwarded else value

    def get(self, name: str) -> str | None:
        """The value of a header; None if the request does not have it."""
        return self._values.get(name)

    def delay(self) -> Duration | None:
        """The delay; None without one, and if there is a time that wins over it."""
        text = self.get(DELAY)
        delay = None if text is None else _read_duration(text, DELAY, DELAY)
        return delay if self.get(NOT_BEFORE) is None else None

    def not_before(self) -> datetime | None:
        """The earliest time of the start."""
        text = self.get(NOT_BEFORE)
        if text is None:
            return None
        seconds = _read_number(text, NOT_BEFORE, NOT_BEFORE, "a time in unix seconds", most=LATEST_S)
        return datetime.fromtimestamp(seconds, UTC)

    def retry(self, default: RetryPolicy) -> RetryPolicy | None:
        """The retry policy; `default` has the parts that the headers leave open. None without such headers."""
        text, delay = self.get(RETRIES), self.get(RETRY_DELAY)
        if text is None and delay is None:
            return None
        retries = None if text is None else _read_number(text, RETRIES, RETRIES, "a whole number of 0 or more")
        try:
            return RetryPolicy.of(retries=retries, delay=delay, default=default)
        except ConfigurationError as error:
            raise _named(error, _RETRY_HEADERS, RETRIES if delay is None else RETRY_DELAY) from error

    def flow_control(self) -> FlowControl | None:
        """The flow control; None without such headers."""
        key, value = self.get(FLOW_KEY), self.get(FLOW_VALUE)
        if key is None and value is None:
            return None
        if key is None or value is None:
            missing, present = (FLOW_KEY, FLOW_VALUE) if key is None else (FLOW_VALUE, FLOW_KEY)
            raise InputError(f"is missing; it goes with '{present}'", option=missing, field=missing)
        limits = _read_limits(value)
        try:
            return FlowControl(**limits, key=key)
        except ConfigurationError as error:
            raise _named(error, {"key": FLOW_KEY}, FLOW_VALUE) from error


def _named(error: ConfigurationError, headers: Mapping[str, str], default: str) -> InputError:
    """An error under the names of headers; `default` is the field if the option at fault has no header of its own."""
    return InputError(error.sentence(lambda it: headers.get(it, it)), field=headers.get(error.option or "", default))


def _unknown_header(name: str) -> InputError:
    """The error for a header that would change nothing, though its sender expects that it does."""
    for _, meant in find_typos([name.removeprefix(_PREFIX)], _SHORT_NAMES):
        return InputError(f"unknown header '{name}'; did you mean '{_SHORT_NAMES[meant]}'?", field=name)
    return InputError(f"the header '{name}' is not supported; leave it out", field=name)


def _read_limits(value: str) -> dict[str, Any]:
    texts = limit_texts(value)
    if texts is None:
        raise InputError(option=FLOW_VALUE, got=repr(value), want=FLOW_HINT, field=FLOW_VALUE)
    if not texts.keys() & {"parallelism", "rate"}:
        raise InputError(f"'{FLOW_VALUE}' sets no limit with {value!r}; {FLOW_HINT}", field=FLOW_VALUE)
    return {name: _read_limit(name, text) for name, text in texts.items()}


def _read_limit(name: str, text: str) -> Duration:
    if name == "period":
        return _read_duration(text, name, FLOW_VALUE)
    return _read_number(text, name, FLOW_VALUE, "a whole number of 1 or more")


def _read_duration(text: str, option: str, header: str) -> Duration:
    """A duration; a bare number is seconds, as in QStash."""
    duration: Duration = int(text) if is_number(text) else text
    try:
        to_ms(duration, option=option)
    except ConfigurationError as error:
        raise InputError(str(error), field=header) from error
    return duration


def _read_number(text: str, option: str, header: str, want: str, *, most: int = MAX_NUMBER) -> int:
    if not is_number(text, most):
        example = "1900000000" if option == NOT_BEFORE else "3"
        raise InputError(option=option, got=repr(text), want=f"write {want}, such as {example}", field=header)
    return int(text)


def header_text(content: bytes) -> str:
    """The text of a header: UTF-8, as nearly all clients send it, else Latin-1."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")
