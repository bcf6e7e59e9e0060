"""What is sent to somebody who is not known here, as JSON: the data of events, the bodies of calls."""

from typing import Any, cast

from pydantic_core import from_json, to_json, to_jsonable_python

from batchflow.core.codec import Codec
from batchflow.core.survival import Loss, not_finite
from batchflow.errors import ConfigurationError, UnserializableError

ANYTHING: Codec[Any] = Codec.of(Any)

_PLAIN = frozenset({type(None), bool, int, float, str, bytes, set, frozenset})


def event_text(data: object, event: str) -> str:
    """The data of an event as JSON text. An object goes as its type writes it, and may be read as that type again.

    Raises:
        UnserializableError: it does not survive that: NaN, a set, a key that is no text.
    """
    where = f"the data of event '{event}'"
    text, _ = ANYTHING.round_trip(_plain(data, where), where=where)
    return text


def call_text(body: object, step: str) -> bytes:
    """The body of a call as JSON.

    Raises:
        UnserializableError: it has no JSON form.
    """
    where = f"the body of call '{step}'"
    try:
        text = to_json(body, by_alias=True)
    except ValueError as error:
        raise UnserializableError(f"{where} has no JSON form: {error}") from error
    # Where none of these words is, there is no such number: neither pydantic's own spelling nor what it writes instead.
    if b"NaN" in text or b"Infinity" in text or b"null" in text:
        found = _no_number(to_jsonable_python(body, by_alias=True), from_json(text))
        if found is not None:
            raise UnserializableError(f"{where} has no JSON form: {found}")
    return text


def _plain(value: Any, where: str) -> Any:
    """The same with every object of a type of its own as what that type writes of it."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, dict):
        entries = cast("dict[Any, Any]", value)
        return {key: _plain(part, where) for key, part in entries.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(part, where) for part in value)
    try:
        codec = Codec.of(type(value))
    except ConfigurationError:
        return value
    return from_json(codec.round_trip(value, where=where)[0])


def _no_number(sent: Any, written: Any) -> Loss | None:
    """The first number that is none, unless its type writes it as text."""
    parts: list[tuple[Any, Any, Any]] = []
    if isinstance(sent, dict) and isinstance(written, dict):
        ours, theirs = cast("dict[str, Any]", sent), cast("dict[str, Any]", written)
        parts = [(key, part, theirs.get(key)) for key, part in ours.items()]
    elif isinstance(sent, list) and isinstance(written, list):
        ours, theirs = cast("list[Any]", sent), cast("list[Any]", written)
        parts = [(place, *pair) for place, pair in enumerate(zip(ours, theirs, strict=False))]
    elif isinstance(sent, float) and not isinstance(written, str):
        return not_finite(sent)
    for place, part, other in parts:
        if (found := _no_number(part, other)) is not None:
            return found.inside(f"[{place!r}]")
    return None
