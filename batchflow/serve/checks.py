"""What arguments are held to: each check passes what fits, and says of the rest what was wrong and what to write."""

import inspect
import re
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

from batchflow.core.call import without_userinfo
from batchflow.core.codec import Codec
from batchflow.core.duration import Duration, to_ms
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.errors import BatchflowError, ConfigurationError, InputError
from batchflow.serve.callables import is_async

T = TypeVar("T")

Refusal: TypeAlias = Callable[[str], BatchflowError]
"""Makes the error of a sentence."""

ERA_MS = 10**11
"""Times in ms are larger since 1973; times in seconds will be smaller until the year 5138."""

_SUCH_AS_S = 10**9
_LATEST_MS = 253_402_300_799_999  # the end of the year 9999, the last one that a datetime has
_LONGEST_LABEL = 200
_LONGEST_SHOWN = 100
_NO_LABEL = partial(InputError, field="label")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def shown(value: object) -> str:
    """A value as sentences show it: functions and classes by name, everything in short."""
    name = getattr(value, "__name__", None)
    if isinstance(name, str):
        kind = "class" if isinstance(value, type) else type(value).__name__.replace("_", " ")
        return f"the {kind} '{name}'"
    try:
        text = repr(value)
    except Exception:  # that of an object of the user's may raise anything, and that of a huge int does
        text = _kind(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def shown_url(url: object) -> str:
    """The same of a URL, without the password that it may hold."""
    return shown(without_userinfo(url) if isinstance(url, str) else url)


def is_text(value: object) -> bool:
    """Whether this is text that can be written."""
    return isinstance(value, str) and is_writable(value)


def is_writable(text: str) -> bool:
    """Whether text can be written at all: half of a surrogate pair has no form in UTF-8."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_instance(option: str, value: object, kind: type, how: str) -> None:
    """An object of this class, or None.

    Raises:
        ConfigurationError: it is another.
    """
    if value is not None and not isinstance(value, kind):
        raise ConfigurationError(f"'{option}' cannot be {shown(value)}; write {how}")


def check_retry(value: object) -> None:
    """A whole policy, or None.

    Raises:
        ConfigurationError: it is something else.
    """
    check_instance("retry", value, RetryPolicy, "a policy, such as RetryPolicy(retries=3)")


def check_flow(value: object) -> None:
    """Limits, or None.

    Raises:
        ConfigurationError: it is something else.
    """
    check_instance("flow_control", value, FlowControl, "limits, such as FlowControl(parallelism=10, rate=5)")


def keyed(flow: FlowControl | None) -> FlowControl | None:
    """Limits that are given for one message.

    Raises:
        ConfigurationError: they are none, or name no key, and so would change those of everything else under it.
    """
    check_flow(flow)
    if flow is not None and flow.key is None:
        raise ConfigurationError(
            f"{flow!r} names no key; write FlowControl(key='…', …) to say what shares these limits"
        )
    return flow


def limit_ms(value: Duration | None) -> int | None:
    """How long something may take, in ms; None of None.

    Raises:
        ConfigurationError: it is no duration, or none at all.
    """
    if value is None:
        return None
    limit = to_ms(value, option="timeout")
    if limit == 0:
        raise ConfigurationError(f"'timeout' cannot be {value!r}; write a duration such as '30s', or leave it out")
    return limit


def check_texts(option: str, value: object, *, exactly: bool = False) -> None:
    """Names and texts, or None; `exactly` refuses text that cannot be written.

    Raises:
        ConfigurationError: it is something else. What it holds may be secret, and is not shown.
    """
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"'{option}' cannot be {_kind(value)}; write names and texts, such as {{'name': 'text'}}"
        )
    for name, text in cast("Mapping[object, object]", value).items():
        if not isinstance(name, str):
            raise ConfigurationError(f"'{option}' has the name {shown(name)}; names are texts")
        if not isinstance(text, str):
            raise ConfigurationError(f"'{option}' has {_kind(text)} for {name!r}; write text, or leave it out")
        if exactly and not (is_writable(name) and is_writable(text)):
            raise ConfigurationError(f"'{option}' has a text for {name!r} that has no form in UTF-8; write another")


def _kind(value: object) -> str:
    name = type(value).__name__
    return "None" if value is None else f"an {name}" if name[0] in "aeiou" else f"a {name}"


def headers_of(value: Mapping[str, str] | None) -> dict[str, str]:
    """Headers, their values being text.

    Raises:
        ConfigurationError: they are something else.
    """
    check_texts("headers", value, exactly=True)
    return dict(value or {})


def checked_text(what: str, value: object, refuse: Refusal, how: str) -> str:
    """Text that can be written.

    Raises:
        BatchflowError: it is something else; as `refuse` makes it.
    """
    if not isinstance(value, str):
        id: object = None if isinstance(value, type) else getattr(value, "id", None)
        held = f" (its id is {id!r})" if isinstance(id, str) else ""
        raise refuse(f"{what} cannot be {shown(value)}{held}; write {how}")
    if not is_writable(value):
        raise refuse(f"{what} cannot be {shown(value)}, which has no form in UTF-8; write {how}")
    return value


def checked_label(label: str | None, refuse: Refusal = _NO_LABEL) -> str | None:
    """A label, or None.

    Raises:
        InputError: it is no text of 1 to 200 characters; or what `refuse` makes of that.
    """
    if label is None:
        return None
    text = checked_text("a label", label, refuse, f"a text of 1 to {_LONGEST_LABEL} characters")
    if not 0 < len(text) <= _LONGEST_LABEL:
        raise refuse(f"a label has 1 to {_LONGEST_LABEL} characters, not {len(text)}")
    return text


def checked_run_id(value: object, option: str = "run_id") -> str:
    """The id of a run that is there.

    Raises:
        InputError: it is no text.
    """
    refuse = partial(InputError, field="runId")
    return checked_text(f"'{option}'", value, refuse, "the id of a run, such as the id of its handle")


def is_absolute(url: object) -> bool:
    """Whether this is a URL that can be called."""
    if not isinstance(url, str) or not is_writable(url) or url != url.strip() or _CONTROL.search(url):
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def check_url(option: str, value: object, *, bare: bool = True) -> None:
    """An absolute URL, or None; a `bare` one ends with its path, since more is put behind it.

    Raises:
        ConfigurationError: it is something else.
    """
    if value is None:
        return
    if not is_absolute(value) or " " in cast("str", value):
        raise ConfigurationError(
            f"'{option}' cannot be {shown_url(value)}; write an absolute URL, such as https://app.example.com"
        )
    if bare and ("?" in cast("str", value) or "#" in cast("str", value)):
        raise ConfigurationError(f"'{option}' cannot be {shown_url(value)}; write it without a query and a fragment")


def check_parser(value: Any) -> None:
    """A plain function of one text, or None.

    Raises:
        ConfigurationError: it is another function, or none.
    """
    if value is None:
        return
    fault = f"{shown(value)}, which cannot be called" if not callable(value) else None
    if fault is None and is_async(value):
        fault = f"{shown(value)}, which is async"
    if fault is None and not _takes_one(value):
        fault = f"{shown(value)}, which does not take one argument"
    if fault is not None:
        raise ConfigurationError(
            f"'initial_payload_parser' cannot be {fault}; write a plain function of a request's body: "
            f"def parse(text: str) -> Payload"
        )


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins do not say what they take
        return True
    try:
        signature.bind("")
    except TypeError:
        return False
    return True


def check_response(value: object) -> None:
    """A type that the body of an answer can be read as, or None.

    Raises:
        ConfigurationError: it is something else.
    """
    if value is not None and value is not bytes:
        Codec.of(value)


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


def uncallable(step: str, value: object) -> ConfigurationError:
    """Says that a step is given what is no function; a coroutine that nobody will await is closed."""
    _close([value])
    name = getattr(value, "__name__", "fn")
    return ConfigurationError(
        f"step '{step}' cannot call {shown(value)}; write the function without (), and its arguments after it: "
        f"ctx.run('{step}', {name}, …)"
    )


def checked_waits(waits: tuple[Awaitable[T], ...]) -> tuple[Awaitable[T], ...]:
    """What can be awaited.

    Raises:
        ConfigurationError: something cannot. The coroutines among the others, which nobody will await, are closed.
    """
    for wait in cast("tuple[object, ...]", waits):
        if isinstance(wait, Awaitable):
            continue
        _close(waits)
        if isinstance(wait, Collection) and not isinstance(wait, (str, bytes)):
            _close(cast("Collection[object]", wait))
            raise ConfigurationError(
                f"ctx.first takes its waits one by one, not in a {type(cast('object', wait)).__name__}; "
                f"write ctx.first(*waits)"
            )
        raise ConfigurationError(
            f"ctx.first cannot wait for {shown(wait)}; write waits, without 'await' before them, such as "
            f"ctx.first(ctx.sleep(…), ctx.wait_for_event(…))"
        )
    return waits


def _close(values: Iterable[object]) -> None:
    for value in values:
        if isinstance(value, Coroutine):
            cast("Coroutine[Any, Any, Any]", value).close()
