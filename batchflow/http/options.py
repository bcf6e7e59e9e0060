"""What a trigger sets beside its payload, as headers of its request. Their names are QStash's."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pydantic.alias_generators import to_camel

from batchflow.batch.triggering import BatchTrigger
from batchflow.core.duration import Duration, to_ms
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.core.spelling import slips
from batchflow.errors import ConfigurationError, InputError
from batchflow.serve.app_url import ROOT_HEADER
from batchflow.serve.trigger import Trigger

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

_MEANINGS = {
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
_NOT_KEPT = (
    *("upstash-callback", "upstash-failure-callback", "upstash-timeout", "upstash-cron", "upstash-queue-name"),
    *("upstash-content-based-deduplication", "upstash-redact-fields"),
)
# What QStash itself sends, and looks like a slip of one that is known.
_SENT = ("upstash-retried",)
_NAMES = {name.lower(): name for name in _MEANINGS}
_SHORT = {name.removeprefix(_PREFIX): known for name, known in _NAMES.items()}
# Errors of a trigger name its arguments.
_ARGUMENTS = {"runId": RUN_ID, "dedupId": DEDUP_ID, "label": LABEL, "delay": DELAY}
_IN_WORDS = {"'run_id'": f"'{RUN_ID}'", "'dedup_id'": f"'{DEDUP_ID}'"}
_OF_ITS_CLASS = "its retries and limits are those of its class; leave it out"
_NOT_OF_BATCHES = {
    RUN_ID: "give it an id of its own in the body, as 'batchId'",
    **dict.fromkeys((RETRIES, RETRY_DELAY, FLOW_KEY, FLOW_VALUE), _OF_ITS_CLASS),
}
_BATCH_FIELDS = {
    "dedup_id": (DEDUP_ID, "dedupId"),
    "label": (LABEL, "label"),
    "delay": (DELAY, "delay"),
    "not_before": (NOT_BEFORE, "notBefore"),
}
_LATEST_S = 253_402_300_799
# The last second of the year 9999.
_MOST = 999_999_999
_HOW_LIMITS = "write parallelism=N, rate=N or both, and period=1m where the rate is not per second"


def read_options(headers: Iterable[tuple[bytes, bytes]], retry: RetryPolicy, root: str) -> Trigger:
    """What the headers ask for; `retry` holds for what they leave open, `root` is where the app was reached.

    Raises:
        InputError: a value does not fit, or a header is one of QStash's whose promise is not kept here.
    """
    given = _Given(headers)
    delay, not_before = given.delay(), given.not_before()
    return Trigger(
        run_id=given.get(RUN_ID),
        dedup_id=given.get(DEDUP_ID),
        delay=delay if not_before is None else None,
        not_before=not_before,
        label=given.get(LABEL),
        headers={**given.forwarded, ROOT_HEADER: root},
        retry_delay=given.retry(retry),
        flow_control=given.limits(),
    )


def with_headers(options: BatchTrigger, headers: Iterable[tuple[bytes, bytes]], root: str) -> BatchTrigger:
    """What a body asks of a batch, with what the headers add; `root` is where the app was reached.

    Raises:
        InputError: a value does not fit or is given in both, or a header is one that no batch honours.
    """
    given = _Given(headers)
    for name, why in _NOT_OF_BATCHES.items():
        if given.get(name) is not None:
            raise InputError(f"'{name}' is not honoured by a batch: {why}", field=name)
    delay, not_before = given.delay(), given.not_before()
    added: dict[str, Any] = {
        "dedup_id": given.get(DEDUP_ID),
        "label": given.get(LABEL),
        "delay": delay if not_before is None else None,
        "not_before": not_before,
    }
    sent = {field: value for field, value in added.items() if value is not None}
    for field in sent:
        if getattr(options, field) is not None:
            header, own = _BATCH_FIELDS[field]
            raise InputError(f"'{own}' is in the body and as the header '{header}'; give it once", field=own)
    named = {**given.forwarded, **(options.headers or {}), ROOT_HEADER: root}
    return replace(options, **sent, headers=named)


def in_json(error: InputError) -> InputError:
    """What the trigger of a batch refused, in the names of its body."""
    sentence, field = str(error), error.field
    for argument in ("dedup_id", "batch_id", "not_before"):
        sentence = sentence.replace(f"'{argument}'", f"'{to_camel(argument)}'")
    return InputError(sentence, field=field and to_camel(field), status=error.status)


def documented_batch_headers() -> list[dict[str, Any]]:
    """What the OpenAPI document says of those that a batch honours."""
    return [it for it in documented_headers() if it["name"] not in _NOT_OF_BATCHES]


def in_headers(error: InputError) -> InputError:
    """What a trigger refused, in the names of the headers."""
    sentence = str(error)
    for argument, header in _IN_WORDS.items():
        sentence = sentence.replace(argument, header)
    return InputError(sentence, field=_ARGUMENTS.get(error.field or "", error.field), status=error.status)


def documented_headers() -> list[dict[str, Any]]:
    """What the OpenAPI document says of them."""
    return [
        {"name": name, "in": "header", "required": False, "description": meaning, "schema": {"type": "string"}}
        for name, meaning in _MEANINGS.items()
    ]


class _Given:
    """The options that a request has, by name, and the headers for the run."""

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._values: dict[str, str] = {}
        self.forwarded: dict[str, str] = {}
        for raw, content in headers:
            name, value = raw.decode("latin-1").lower(), _text(content)
            if name.startswith(_FORWARD):
                self._forward(name.removeprefix(_FORWARD), value)
            elif name.startswith(_NOT_KEPT):
                raise InputError(f"'{name}' is a header whose promise is not kept here; leave it out", field=name)
            elif (known := _NAMES.get(name)) is not None:
                if known in self._values:
                    raise InputError(f"'{known}' is given twice; give it once", field=known)
                self._values[known] = value
            elif name.startswith(_PREFIX) and name not in _SENT:
                self._refuse_slip(name)

    def _refuse_slip(self, name: str) -> None:
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
        return None if text is None else _span(text, DELAY, DELAY)

    def not_before(self) -> int | None:
        text = self.get(NOT_BEFORE)
        if text is None:
            return None
        return 1000 * _number(text, NOT_BEFORE, NOT_BEFORE, _LATEST_S, "a time in unix seconds")

    def retry(self, default: RetryPolicy) -> RetryPolicy | None:
        text, delay = self.get(RETRIES), self.get(RETRY_DELAY)
        if text is None and delay is None:
            return None
        retries = None if text is None else _number(text, RETRIES, RETRIES, _MOST, "a whole number of 0 or more")
        try:
            return RetryPolicy.of(retries=retries, delay=delay, default=default)
        except ConfigurationError as error:
            at_fault = RETRIES if delay is None else RETRY_DELAY
            sentence = str(error).replace("'retry_delay'", f"'{at_fault}'").replace("'delay'", f"'{at_fault}'")
            raise InputError(sentence, field=at_fault) from error

    def limits(self) -> FlowControl | None:
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
            _span(text, name, FLOW_VALUE) if name == "period" else _number(text, name, FLOW_VALUE, _MOST, whole)
        )
    if not limits.keys() & {"parallelism", "rate"}:
        raise InputError(f"'{FLOW_VALUE}' sets no limit with {value!r}; {_HOW_LIMITS}", field=FLOW_VALUE)
    return limits


def _span(text: str, option: str, header: str) -> Duration:
    """A duration; a bare number is seconds, as in QStash."""
    span: Duration = int(text) if _is_number(text, _MOST) else text
    try:
        to_ms(span, option=option)
    except ConfigurationError as error:
        raise InputError(str(error), field=header) from error
    return span


def _number(text: str, option: str, header: str, most: int, how: str) -> int:
    if not _is_number(text, most):
        raise InputError(f"'{option}' cannot be {text!r}; write {how}, such as {_example(option)}", field=header)
    return int(text)


def _is_number(text: str, most: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= most


def _example(option: str) -> str:
    return "1900000000" if option == NOT_BEFORE else "3"


def _text(content: bytes) -> str:
    """A header's value, as nearly all send it today: UTF-8."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")
