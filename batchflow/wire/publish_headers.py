"""The `Upstash-*` headers of a publish request, each with its grammar."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from string import ascii_letters, digits, punctuation
from urllib.parse import quote

from batchflow.core.duration import to_ms
from batchflow.core.retry import RetryPolicy
from batchflow.errors import ConfigurationError, InputError
from batchflow.wire.header_values import FLOW_HINT, LATEST_S, MAX_NUMBER, is_number, limit_texts, read_items
from batchflow.wire.headers import NOT_FORWARDED, is_header_name, is_header_value

MAX_RETRIES = 20
"""The largest number of retries of a post."""

MAX_TIMEOUT_MS = 12 * 3_600_000
"""The longest time that one attempt may have."""

MAX_PERIOD_S = 7 * 86_400
"""The longest period of a rate."""

DEFAULT_RETRIES = 3
"""The number of retries without `Upstash-Retries`."""

DEFAULT_RETRY_DELAY = "min(86400000, exp(2.5 * (retried + 1)) * 1000)"
"""The waits without `Upstash-Retry-Delay`: about 12 s, 2.5 min, 30 min, 6 h, 24 h."""

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
"""The methods that a post may be delivered with."""

_MAX_NAME = 256
_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{_MAX_NAME}}}")
_URL = re.compile(r"https?://(?:[^/?#@\\]*@)?(?:\[[0-9a-f:.]+\]|[^/?#@:\[\]\\]+)(?::[0-9]{1,5})?(?:[/?#].*)?", re.I)
_FORWARD = "upstash-forward-"
_CALLBACKS = {"upstash-callback-": "callback", "upstash-failure-callback-": "failure-callback"}
_REFUSED = {"upstash-header-forward": "it is not supported; name each header as Upstash-Forward-NAME"}
_REDACTED = re.compile(r"(body)|headers?(?:\[([^\]]+)\])?", re.IGNORECASE)
_FLOW_VALUE = "upstash-flow-control-value"


class PublishHeaders:
    """The headers of a request by name, in lower case; those that it forwards, and those of its callbacks.

    Headers that QStash does not know are passed over, as QStash does.

    Raises:
        InputError: a header cannot be sent, or is not supported.
    """

    def __init__(self, headers: Iterable[tuple[str, str]], query: Sequence[tuple[str, str]] = ()) -> None:
        self.content_type: str | None = None
        self.forwarded: list[tuple[str, str]] = []
        self._values: dict[str, str] = {}
        self._nested: dict[str, dict[str, str]] = {"callback": {}, "failure-callback": {}}
        parameters = [(name, value) for name, value in query if name[:8].lower() == "upstash-"]
        if parameters:
            headers = list(headers)
            known = {name.lower() for name, _ in headers}
            headers += [(name, value) for name, value in parameters if name.lower() not in known]
        for name, value in headers:
            lower = name.lower()
            if lower.startswith("upstash-"):
                self._add(name, lower, value)
            elif lower == "content-type":
                self.content_type = _checked(lower, value) or None

    def _add(self, name: str, lower: str, value: str) -> None:
        if not is_header_name(name) or len(name) > _MAX_NAME:
            raise refusal(f"{name[:60]!r} is not the name of a header; write at most {_MAX_NAME} letters", "headers")
        value = _checked(lower, value)
        if lower.startswith(_FORWARD):
            forwarded = lower[len(_FORWARD) :]
            if not forwarded:
                raise refusal("'Upstash-Forward-' names no header; write Upstash-Forward-NAME", _FORWARD)
            if forwarded not in NOT_FORWARDED and forwarded != "content-type":
                self.forwarded.append((name[len(_FORWARD) :], value))
            return
        if not value:
            return
        for prefix, kind in _CALLBACKS.items():
            if lower.startswith(prefix):
                self._nested[kind][f"upstash-{lower[len(prefix) :]}"] = value
                return
        if (why := _REFUSED.get(lower)) is not None:
            raise refusal(f"the header '{lower}' is refused: {why}", lower)
        self._values[lower] = f"{self._values[lower]}, {value}" if lower in self._values else value

    def get(self, name: str) -> str | None:
        """The value of a header; None if the request does not have it, or if it is empty."""
        return self._values.get(name)

    def nested(self, kind: str, retries: int) -> dict[str, str]:
        """The headers of the callback `kind`, which has `retries` unless it names its own."""
        return {"upstash-retries": str(retries), **self._nested[kind]}

    def method(self) -> str:
        """The method of the delivery."""
        text = self.get("upstash-method")
        if text is None:
            return "POST"
        if (method := text.upper()) not in METHODS:
            raise wrong_value("upstash-method", text, f"write one of {', '.join(METHODS)}")
        return method

    def retries(self) -> int:
        """The number of retries."""
        text = self.get("upstash-retries")
        if text is None:
            return DEFAULT_RETRIES
        if not is_number(text):
            raise wrong_value("upstash-retries", text, f"write a whole number from 0 to {MAX_RETRIES}")
        if int(text) > MAX_RETRIES:
            want = f"this server makes at most {MAX_RETRIES} retries"
            raise wrong_value("upstash-retries", text, want, status=412)
        return int(text)

    def retry_delay(self) -> str | None:
        """The expression of the waits; None without one."""
        return self.get("upstash-retry-delay")

    def not_before(self, now: int) -> int:
        """The time, in ms, before which nothing is delivered."""
        text = self.get("upstash-not-before")
        if text is not None:
            return max(now, _read_number(text, "upstash-not-before", least=0, most=LATEST_S) * 1000)
        delay = self.get("upstash-delay")
        return now if delay is None else now + _read_duration(delay, "upstash-delay")

    def timeout_ms(self) -> int | None:
        """The time that one attempt has."""
        text = self.get("upstash-timeout")
        if text is None:
            return None
        timeout = _read_duration(text, "upstash-timeout")
        if timeout == 0:
            raise wrong_value("upstash-timeout", text, "write the time that one attempt has, such as 30s")
        if timeout > MAX_TIMEOUT_MS:
            raise wrong_value("upstash-timeout", text, "an attempt on this server has at most 12h", status=412)
        return timeout

    def dedup_id(self) -> str | None:
        """The deduplication id."""
        return self.get("upstash-deduplication-id")

    def is_content_deduplicated(self) -> bool:
        """True if requests of the same content are published once."""
        name = "upstash-content-based-deduplication"
        text = self.get(name)
        if text is None:
            return False
        # The Python SDK writes `True`.
        if (lower := text.lower()) not in ("true", "false"):
            raise wrong_value(name, text, "write true or false")
        return lower == "true"

    def flow_control(self) -> tuple[str | None, int | None, int | None, int]:
        """The flow key, its parallelism, its rate and the rate's period in seconds; no key without flow control."""
        key, value = self.get("upstash-flow-control-key"), self.get(_FLOW_VALUE)
        if key is None and value is None:
            return None, None, None, 1
        if key is None or value is None:
            missing, present = ("key", "value") if key is None else ("value", "key")
            field = f"upstash-flow-control-{missing}"
            raise refusal(f"'{field}' is missing; it goes with 'upstash-flow-control-{present}'", field)
        return check_name(key, "upstash-flow-control-key"), *_read_limits(value)

    def labels(self) -> tuple[str, ...]:
        """The labels, each once."""
        text = self.get("upstash-label")
        return () if text is None else tuple(dict.fromkeys(check_name(it, "upstash-label") for it in read_items(text)))

    def redact(self) -> tuple[str, ...]:
        """The parts that no answer shows: `body`, `header`, `header[Name]`."""
        text = self.get("upstash-redact-fields")
        return () if text is None else tuple(dict.fromkeys(map(_read_redacted, read_items(text))))

    def queue(self, of_path: str | None) -> str | None:
        """The queue: that of the request's path, else that of the header."""
        name = of_path if of_path is not None else self.get("upstash-queue-name")
        return None if name is None else check_name(name, "upstash-queue-name")

    def cron(self) -> str | None:
        """The cron expression of a request that makes a schedule."""
        cron = self.get("upstash-cron")
        if cron is not None and self.get("upstash-not-before") is not None:
            raise refusal(
                "a schedule has no 'upstash-not-before'; write 'upstash-delay' to delay each of its messages",
                "upstash-not-before",
            )
        return cron


@lru_cache(maxsize=256)
def retry_policy(retries: int, retry_delay: str | None) -> RetryPolicy:
    """The policy of a post.

    Raises:
        InputError: the expression is not valid.
    """
    try:
        return RetryPolicy(retries=retries, delay=retry_delay or DEFAULT_RETRY_DELAY, cap="24h")
    except ConfigurationError as error:
        raise refusal(f"'upstash-retry-delay' is not valid: {error}", "upstash-retry-delay") from error


def check_name(text: str, field: str) -> str:
    """The name of a queue, a URL group, a label or a flow key.

    Raises:
        InputError: it has other characters than QStash lets through; `field` is named.
    """
    if not is_name(text):
        raise wrong_value(field, text, "write a name of letters, digits, '-', '_' and '.', not '.' or '..'")
    return text


def is_name(text: str) -> bool:
    """True for what `check_name` accepts."""
    # In the path of a URL, "." and ".." are not names.
    return _NAME.fullmatch(text) is not None and text not in (".", "..")


@lru_cache(maxsize=1024)
def check_url(text: str, field: str) -> str:
    """A URL that can be pushed to, in ASCII.

    Raises:
        InputError: it does not begin with http:// or https://, has no host, or has spaces or control characters.
    """
    # The sentences do not show it: its query or password may be secret.
    url = text
    if not url.isascii() and is_header_value(url):
        url = quote(url, safe=ascii_letters + digits + punctuation + " ")
    found = _URL.fullmatch(url)
    if found is None or not url.isprintable() or " " in url:
        raise refusal(f"'{field}' is not a URL with a host; write one such as https://example.com/path", field)
    return url


def _read_redacted(item: str) -> str:
    found = _REDACTED.fullmatch(item)
    if found is None:
        raise wrong_value("upstash-redact-fields", item, "write body, header or header[NAME]")
    if found[1]:
        return "body"
    return "header" if found[2] is None else f"header[{found[2].strip()}]"


def _read_limits(value: str) -> tuple[int | None, int | None, int]:
    texts = limit_texts(value)
    if texts is None or not texts.keys() & {"parallelism", "rate"}:
        raise wrong_value(_FLOW_VALUE, value, FLOW_HINT)
    period_ms = _read_duration(texts.pop("period", "1s"), _FLOW_VALUE)
    if period_ms % 1000 or not 1 <= period_ms // 1000 <= MAX_PERIOD_S:
        raise wrong_value(_FLOW_VALUE, value, "write a period of whole seconds, from 1s to 7d")
    limits = {name: _read_number(text, _FLOW_VALUE, least=1) for name, text in texts.items()}
    return limits.get("parallelism"), limits.get("rate"), period_ms // 1000


def _read_duration(text: str, header: str) -> int:
    """The ms of a duration; a bare number is seconds, as in QStash."""
    try:
        return to_ms(int(text) if is_number(text) else text, option=header)
    except ConfigurationError:
        raise wrong_value(header, text, "write a time such as 10s, 2h30m or 7d") from None


def _read_number(text: str, header: str, *, least: int, most: int = MAX_NUMBER) -> int:
    if not is_number(text, most) or int(text) < least:
        raise wrong_value(header, text, f"write a whole number from {least} to {most}")
    return int(text)


def _checked(header: str, value: str) -> str:
    """The value without spaces around it."""
    if not is_header_value(value):
        raise refusal(f"the value of '{header}' has a control character in it; leave it out", header)
    return value.strip(" \t")


def wrong_value(header: str, got: str, want: str, *, status: int = 400) -> InputError:
    """The error for a header that has the value `got`."""
    shown = got if len(got) <= 60 else f"{got[:59]}…"
    return InputError(option=header, got=repr(shown), want=want, field=header, status=status)


def refusal(sentence: str, field: str) -> InputError:
    """The error for a request that QStash refuses with 400."""
    return InputError(sentence, field=field, status=400)
