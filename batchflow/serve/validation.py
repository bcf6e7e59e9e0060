"""Argument validation. `check_…` raises, `validate_…` and `parse_…` return the value; errors say what to write."""

import inspect
import re
import reprlib
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import is_dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast

from pydantic import BaseModel

from batchflow.core.codec import Codec, type_name
from batchflow.core.duration import Duration, to_ms
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Step
from batchflow.core.secrets import masked_text
from batchflow.core.suggestions import NO_WORDS, check_options
from batchflow.errors import BatchflowError, ConfigurationError, InputError, ReplayError, UnserializableError, step_text
from batchflow.serve.callables import is_async

_MAX_SHOWN = 100


def format_value(value: object) -> str:
    """Format a value for an error message: functions and classes by name, everything truncated."""
    name = getattr(value, "__name__", None)
    if isinstance(name, str):
        kind = "class" if isinstance(value, type) else type(value).__name__.replace("_", " ")
        return f"the {kind} '{name}'"
    if isinstance(value, BaseModel) or is_dataclass(value):
        # A field may be secret.
        return type_with_article(value)
    try:
        text = repr(value)
    except Exception:  # a user's __repr__ may raise anything, and that of a huge int does
        text = type_with_article(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def type_with_article(value: object) -> str:
    name = type(value).__name__
    return "None" if value is None else f"an {name}" if name[0] in "aeiou" else f"a {name}"


def is_valid_text(value: object) -> bool:
    """Return whether `value` is text with a form in UTF-8."""
    return isinstance(value, str) and is_encodable(value)


def is_encodable(text: str) -> bool:
    """Return whether `text` has a form in UTF-8, which half of a surrogate pair does not."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


T = TypeVar("T")

ErrorFactory: TypeAlias = Callable[[str], BatchflowError]
"""Creates the error with a message."""

MAX_LABEL = 200
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_INVALID_IN_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_label_error = partial(InputError, field="label")


def check_no_unknown_options(
    what: str, options: Collection[str], function: Callable[..., Any], words: Mapping[str, str] = NO_WORDS
) -> None:
    """Raise `ConfigurationError` for options that are not parameters of `function`, with the likely name."""
    if options:
        parameters = inspect.signature(function).parameters.values()
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        check_options(what, options, [it.name for it in parameters if it.kind in kinds], words)


def check_instance(option: str, value: object, kind: type, expected: str) -> None:
    """Raise `ConfigurationError` unless `value` is a `kind` or None."""
    if value is not None and not isinstance(value, kind):
        raise ConfigurationError(option=option, got=format_value(value), want=f"write {expected}")


def check_flag(option: str, value: object) -> None:
    """Raise `ConfigurationError` unless `value` is a bool."""
    if not isinstance(value, bool):
        raise ConfigurationError(option=option, got=format_value(value), want="write True or False")


def check_retry(value: object) -> None:
    """Raise `ConfigurationError` unless `value` is a `RetryPolicy` or None."""
    check_instance("retry", value, RetryPolicy, "a policy, such as RetryPolicy(retries=3)")


def check_flow(value: object) -> None:
    """Raise `ConfigurationError` unless `value` is a `FlowControl` or None."""
    check_instance("flow_control", value, FlowControl, "limits, such as FlowControl(parallelism=10, rate=5)")


def require_key(flow: FlowControl | None) -> FlowControl | None:
    """Return the limits of one message, which need a key of their own.

    Raises:
        ConfigurationError: they have no key, or are not a `FlowControl`.
    """
    check_flow(flow)
    if flow is not None and flow.key is None:
        raise ConfigurationError(
            f"{flow!r} names no key; write FlowControl(key='…', …) to say what shares these limits"
        )
    return flow


def parse_timeout(value: Duration | None) -> int | None:
    """Return a timeout in ms, or None.

    Raises:
        ConfigurationError: it is not a duration, or is zero.
    """
    if value is None:
        return None
    limit = to_ms(value, option="timeout")
    if limit == 0:
        raise ConfigurationError(
            option="timeout", got=repr(value), want="write a duration such as '30s', or leave it out"
        )
    return limit


def check_string_mapping(option: str, value: object, *, encodable: bool = False) -> None:
    """Raise `ConfigurationError` unless `value` maps text to text, with `encodable` all in UTF-8, or is None.

    The values may be secrets, and are not shown.
    """
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            option=option, got=type_with_article(value), want="write names and texts, such as {'name': 'text'}"
        )
    for name, text in cast("Mapping[object, object]", value).items():
        if not isinstance(name, str):
            raise ConfigurationError(f"has the name {format_value(name)}", option=option, want="names are texts")
        if not isinstance(text, str):
            raise ConfigurationError(
                f"has {type_with_article(text)} for {name!r}", option=option, want="write text, or leave it out"
            )
        if encodable and not (is_encodable(name) and is_encodable(text)):
            raise ConfigurationError(
                f"has a text for {name!r} that has no form in UTF-8", option=option, want="write another"
            )


def validate_headers(value: Mapping[str, str] | None) -> dict[str, str]:
    """Return headers that are valid in HTTP (RFC 9110, 5.1 and 5.5).

    Raises:
        ConfigurationError: they are not. The values may be secrets, and are not shown.
    """
    check_string_mapping("headers", value, encodable=True)
    for name, text in (value or {}).items():
        if not _HEADER_NAME.fullmatch(name):
            raise ConfigurationError(
                f"has {name!r}, which is not a header name", option="headers", want="write 'x-tenant' or the like"
            )
        if _INVALID_IN_HEADER.search(text):
            raise ConfigurationError(
                f"has a line break or control character in {name!r}", option="headers", want="write one line"
            )
    return dict(value or {})


def validate_text(what: str, value: object, make_error: ErrorFactory, expected: str) -> str:
    """Return text with a form in UTF-8.

    Raises:
        BatchflowError: `value` is something else; the error is created by `make_error`.
    """
    if not isinstance(value, str):
        id: object = None if isinstance(value, type) else getattr(value, "id", None)
        held = f" (its id is {id!r})" if isinstance(id, str) else ""
        raise make_error(f"{what} cannot be {format_value(value)}{held}; write {expected}")
    if not is_encodable(value):
        raise make_error(f"{what} cannot be {format_value(value)}, which has no form in UTF-8; write {expected}")
    return value


def validate_label(label: str | None, make_error: ErrorFactory = _label_error) -> str | None:
    """Return a label, or None.

    Raises:
        InputError: it is not text of 1 to 200 characters. `make_error` may create another error instead.
    """
    if label is None:
        return None
    text = validate_text("a label", label, make_error, f"a text of 1 to {MAX_LABEL} characters")
    if not 0 < len(text) <= MAX_LABEL:
        raise make_error(f"a label has 1 to {MAX_LABEL} characters, not {len(text)}")
    return text


def validate_run_id(value: object, option: str = "run_id") -> str:
    """Return the id of an existing run; only its type is checked.

    Raises:
        InputError: it is not text.
    """
    refuse = partial(InputError, field="runId")
    return validate_text(f"'{option}'", value, refuse, "the id of a run, such as the id of its handle")


def check_served(function: object, attribute: str) -> None:
    """Raise `InputError` for what is not a served function, which has this attribute."""
    if isinstance(function, type) or not hasattr(function, attribute):
        raise InputError(
            option="function", got=format_value(function), want="write the function that @flow.serve returned"
        )


def check_payload_parser(value: Any) -> None:
    """Raise `ConfigurationError` unless `value` is a plain function of one argument, or None."""
    if value is None:
        return
    fault = f"{format_value(value)}, which cannot be called" if not callable(value) else None
    if fault is None and is_async(value):
        fault = f"{format_value(value)}, which is async"
    if fault is None and not _accepts_one_argument(value):
        fault = f"{format_value(value)}, which does not take one argument"
    if fault is not None:
        raise ConfigurationError(
            option="initial_payload_parser",
            got=fault,
            want="write a plain function of a request's body: def parse(text: str) -> Payload",
        )


def _accepts_one_argument(function: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have no signature
        return True
    try:
        signature.bind("")
    except TypeError:
        return False
    return True


def check_response_type(value: object) -> None:
    """Raise `ConfigurationError` unless the body of a response can be validated as this type, or it is None."""
    if value is not None and value is not bytes:
        Codec.of(value)


MIN_TIMESTAMP_MS = 10**11
"""Timestamps in ms are larger since 1973; timestamps in seconds are smaller until the year 5138."""

_SAMPLE_TIMESTAMP_S = 10**9
_MAX_TIMESTAMP_MS = 253_402_300_799_999  # the end of the year 9999, the last one that a datetime has


def parse_timestamp(when: object, *, option: str = "when", now: int | None = None) -> int:
    """Return a timestamp in ms since the epoch, of a datetime with a time zone or such a number.

    With `now` a number that looks like seconds is refused.

    Raises:
        ConfigurationError: it is something else, or out of range.
    """
    match when:
        case bool():
            pass
        case int() if when < MIN_TIMESTAMP_MS <= (now or 0):
            raise ConfigurationError(
                "which looks like seconds (in ms it was before 1974)",
                option=option,
                got=format_value(when),
                want=(f"write a datetime with its time zone, or ms: {1000 * max(when, _SAMPLE_TIMESTAMP_S)}"),
            )
        case int() if when > _MAX_TIMESTAMP_MS:
            raise ConfigurationError(
                "which is after the year 9999",
                option=option,
                got=format_value(when),
                want="write a datetime with its time zone, or milliseconds since the epoch",
            )
        case int():
            return when
        case datetime(tzinfo=zone) if zone is not None:
            return int(when.timestamp() * 1000)
        case _:
            pass
    raise ConfigurationError(
        option=option,
        got=format_value(when),
        want=(
            "write a datetime with its time zone, such as datetime(2030, 1, 1, "
            "tzinfo=timezone.utc), or milliseconds since the epoch"
        ),
    )


_MAX_STEP_NAME = 500


def check_step_name(name: object) -> None:
    """Raise `ConfigurationError` for what cannot be the name of a step."""
    if isinstance(name, str) and 0 < len(name) <= _MAX_STEP_NAME and (name.isascii() or is_encodable(name)):
        return
    raise ConfigurationError(
        f"a step cannot have the name {format_value(name)}; "
        f"its first argument is a text of 1 to {_MAX_STEP_NAME} characters, as in ctx.run('charge', charge, order_id)"
    )


def nested_step(step: str, inside: str) -> ReplayError:
    """Return the error of a step that was requested by the function of another step."""
    return ReplayError(
        f"{step_text(step)} is asked for inside {step_text(inside)}, and steps do not nest; "
        f"let '{inside}' return, and ask for '{step}' in the durable function itself"
    )


def step_after_final(step: str, last: str) -> ReplayError:
    """Return the error of a step that was requested after one that is written with the settlement."""
    return ReplayError(f"{step_text(step)} is asked for after {step_text(last)}, which was asked for as the last one")


def swallowed_cancellation(sign: str) -> ReplayError:
    """Return the error of a function that swallowed the cancellation which suspends its run."""
    return ReplayError(
        f"the run was suspended, but its function caught the cancellation and {sign}; "
        f"catch Exception where it says 'except:', 'except BaseException' or 'except CancelledError', or raise it again"
    )


def unstorable_step(step: Step, error: Exception) -> UnserializableError:
    """Return the error of a step that the store will never accept."""
    wrong = UnserializableError(f"{step_text(step.name)} cannot be stored: {error}")
    wrong.__cause__ = error
    return wrong


def unreadable_result(step: Step, codec: Codec[Any], error: Exception) -> ReplayError:
    """Return the error of a recorded result that is not valid for the type that the code declares now."""
    # A value of a type that is secret only now was recorded without a mark.
    recorded = "a value" if codec.has_secrets else reprlib.repr(masked_text(step.value or "null"))
    wrong = ReplayError(
        f"{step_text(step.name)} is recorded as {recorded}, "
        f"which is not a valid {type_name(codec.annotation)} as the code declares it now; "
        f"keep reading what is recorded, or give the new step another name"
    )
    wrong.__cause__ = error
    return wrong


def not_callable(step: str, value: object) -> ConfigurationError:
    """Return the error of a step without a function; a coroutine in its place is closed."""
    _close_coroutines([value])
    name = getattr(value, "__name__", "fn")
    return ConfigurationError(
        f"{step_text(step)} cannot call {format_value(value)}; write the function without (), and its arguments after "
        f"it: ctx.run('{step}', {name}, …)"
    )


def validate_awaitables(waits: tuple[Awaitable[T], ...]) -> tuple[Awaitable[T], ...]:
    """Return `waits` if all can be awaited.

    Raises:
        ConfigurationError: one of them cannot. The coroutines among them, which nobody will await, are closed.
    """
    for wait in cast("tuple[object, ...]", waits):
        if isinstance(wait, Awaitable):
            continue
        _close_coroutines(waits)
        if isinstance(wait, Collection) and not isinstance(wait, (str, bytes)):
            _close_coroutines(cast("Collection[object]", wait))
            raise ConfigurationError(
                f"ctx.first takes its waits one by one, not in a {type(cast('object', wait)).__name__}; "
                f"write ctx.first(*waits)"
            )
        raise ConfigurationError(
            f"ctx.first cannot wait for {format_value(wait)}; write waits, without 'await' before them, such as "
            f"ctx.first(ctx.sleep(…), ctx.wait_for_event(…))"
        )
    return waits


def _close_coroutines(values: Iterable[object]) -> None:
    for value in values:
        if isinstance(value, Coroutine):
            cast("Coroutine[Any, Any, Any]", value).close()
