"""Compares a value with the one read back from its JSON, in types and parts, and names the cure for a difference.

This module neither reads nor writes JSON.
"""

import math
import reprlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime, time, tzinfo
from decimal import Decimal
from enum import Enum
from functools import lru_cache, partial
from types import NoneType
from typing import Any, NamedTuple, TypeAlias

from pydantic import BaseModel, Secret, SecretBytes, SecretStr

_ABSENT = object()
_PLAIN = frozenset({NoneType, bool, int, float, str, bytes})  # equal is the same, and NaN equals nothing


class RoundTripDifference(NamedTuple):
    """A difference: its type, its path (".pets[0]", "" for the value itself), the problem, and the cure."""

    kind: str
    problem: str
    want: str
    path: str = ""

    def nested_in(self, place: str) -> "RoundTripDifference":
        """The same difference, with the path from the value that holds this one."""
        return self._replace(path=place + self.path)

    def __str__(self) -> str:
        return f"{f'the {self.kind} at {self.path}' if self.path else 'it'} {self.problem}; {self.want}"


Comparison: TypeAlias = Callable[[Any, Any, list[type]], RoundTripDifference | None]


def find_difference(sent: object, received: object, unsure: list[type]) -> RoundTripDifference | None:
    """The first difference of `received` from `sent`, or None.

    An int that comes back as the float of the same value is not a difference: a declared float promises that. Private
    attributes and computed fields of models are not compared. Types that cannot be compared (without an `__eq__`, or
    with one that does not return a bool) are added to `unsure`.
    """
    if sent is received:
        return None
    kind = type(sent)
    if kind is not type(received):
        return None if kind is int and type(received) is float and sent == received else _other_type(sent, received)
    if kind in _PLAIN and sent == received:
        return None
    return _comparison_of(kind)(sent, received, unsure)


@lru_cache(maxsize=1024)
def _comparison_of(kind: type[object]) -> Comparison:
    """The comparison for two values of one type."""
    if issubclass(kind, BaseModel):
        return partial(_model, tuple(kind.model_fields))
    if is_dataclass(kind):
        return partial(_dataclass, tuple(field.name for field in fields(kind)))
    for base, rule in _COMPARISONS:
        if issubclass(kind, base):
            return rule
    return _leaf if kind.__eq__ is not object.__eq__ else _undecided


def _model(
    names: tuple[str, ...], sent: BaseModel, received: BaseModel, unsure: list[type]
) -> RoundTripDifference | None:
    here, there = sent.__dict__, received.__dict__
    for name in names:
        before: object = here.get(name, _ABSENT)
        after: object = there.get(name, _ABSENT)
        # Most fields end here, at a fraction of the cost of a call.
        kind = type(before)
        if before is after or (kind is type(after) and kind in _PLAIN and before == after):
            continue
        if found := find_difference(before, after, unsure):
            if type(sent).model_fields[name].exclude:
                how = "drop exclude=True, or leave the field at its default"
                return RoundTripDifference(kind.__name__, "is excluded from JSON", how, f".{name}")
            return found.nested_in(f".{name}")
    extra = sent.__pydantic_extra__
    return find_difference(extra, received.__pydantic_extra__, unsure) if extra else None


def _dataclass(
    names: tuple[str, ...], sent: object, received: object, unsure: list[type]
) -> RoundTripDifference | None:
    for name in names:
        before: object = getattr(sent, name, _ABSENT)
        after: object = getattr(received, name, _ABSENT)
        kind = type(before)
        if before is after or (kind is type(after) and kind in _PLAIN and before == after):
            continue
        if found := find_difference(before, after, unsure):
            return found.nested_in(f".{name}")
    return None


def _sequence(sent: Sequence[object], received: Sequence[object], unsure: list[type]) -> RoundTripDifference | None:
    if len(sent) != len(received):
        return _other_length(sent, received)
    for place, (before, after) in enumerate(zip(sent, received, strict=True)):
        kind = type(before)
        if before is after or (kind is type(after) and kind in _PLAIN and before == after):
            continue
        if found := find_difference(before, after, unsure):
            return found.nested_in(f"[{place}]")
    return None


def _deque(sent: deque[object], received: deque[object], unsure: list[type]) -> RoundTripDifference | None:
    if sent.maxlen != received.maxlen:
        return RoundTripDifference("deque", "loses its maxlen", "use a list, and make a deque of it where it is read")
    return _sequence(sent, received, unsure)


def _mapping(
    sent: Mapping[Any, object], received: Mapping[Any, object], unsure: list[type]
) -> RoundTripDifference | None:
    if len(sent) != len(received):
        return _other_length(sent, received)
    for (key, before), other in zip(sent.items(), received, strict=True):
        if type(key) is not str or type(other) is not str or key != other:
            return _by_key(sent, received, unsure)
        if found := find_difference(before, received[other], unsure):
            return found.nested_in(f"[{reprlib.repr(key)}]")
    return None


def _by_key(
    sent: Mapping[Any, object], received: Mapping[Any, object], unsure: list[type]
) -> RoundTripDifference | None:
    # Typed dicts come back in the order of their fields; equal keys may still have different types.
    theirs = {key: (key, value) for key, value in received.items()}
    for (key, before), other in zip(sent.items(), received, strict=True):
        twin, after = theirs.get(key, (other, _ABSENT))
        if after is _ABSENT or find_difference(key, twin, unsure):
            kind, cure = type(key).__name__, "declare the type of its keys"
            what = "comes back with other keys"
            if type(twin) is not type(key):
                what = f"has a key that is {kind} and comes back as {type(twin).__name__}"
            return RoundTripDifference(type(sent).__name__, what, f"{cure}, such as dict[{kind}, …]")
        if found := find_difference(before, after, unsure):
            return found.nested_in(f"[{reprlib.repr(key)}]")
    return None


def _defaultdict(
    sent: defaultdict[Any, object], received: defaultdict[Any, object], unsure: list[type]
) -> RoundTripDifference | None:
    if sent.default_factory is not received.default_factory:
        return RoundTripDifference(
            "defaultdict", "loses its default_factory", "use a dict, or the factory that its type declares"
        )
    return _mapping(sent, received, unsure)


def _set(sent: frozenset[object], received: frozenset[object], unsure: list[type]) -> RoundTripDifference | None:
    if len(sent) != len(received):
        return _other_length(sent, received)
    theirs = {member: member for member in received}
    for member in sent:
        twin = theirs.get(member, _ABSENT)
        if twin is _ABSENT:
            if type(member).__eq__ is not object.__eq__:
                return RoundTripDifference(
                    type(sent).__name__, "comes back with other members", "declare the type of its members"
                )
            unsure.append(type(member))
        elif found := find_difference(member, twin, unsure):
            return found.nested_in(f"[{reprlib.repr(member)}]")
    return None


def _decimal(sent: Decimal, received: Decimal, unsure: list[type]) -> RoundTripDifference | None:
    if sent.is_nan():
        return not_finite(sent)
    # Equal is not enough: 1.10 is not 1.1 on an invoice.
    return None if sent.as_tuple() == received.as_tuple() else _other_value(sent)


def _moment(sent: datetime | time, received: datetime | time, unsure: list[type]) -> RoundTripDifference | None:
    zone = sent.tzinfo
    if zone is not None and received.tzinfo != zone and not _is_fixed(zone):
        return RoundTripDifference(
            type(sent).__name__, f"loses its time zone {zone}", "use UTC, and keep the zone's name beside it"
        )
    same = sent == received and sent.utcoffset() == received.utcoffset()
    return None if same and (zone is not None or sent.fold == received.fold) else _other_value(sent)


def _is_fixed(zone: tzinfo) -> bool:
    try:
        return zone.utcoffset(None) is not None
    except Exception:  # a zone that wants a datetime has rules of its own
        return False


def _leaf(sent: object, received: object, unsure: list[type]) -> RoundTripDifference | None:
    try:
        same: object = sent == received
    except Exception:
        same = None
    if not isinstance(same, bool):
        unsure.append(type(sent))
        return None
    return None if same else not_finite(sent) or _other_value(sent)


def _undecided(sent: object, received: object, unsure: list[type]) -> RoundTripDifference | None:
    unsure.append(type(sent))
    return None


def _iterator(sent: object, received: object, unsure: list[type]) -> RoundTripDifference | None:
    return RoundTripDifference(type(sent).__name__, "can be read only once", "use a list")


def _secret(sent: object, received: object, unsure: list[type]) -> RoundTripDifference | None:
    how = "drop the serializer that masks it; batchflow stores it whole and shows it masked"
    return None if sent == received else RoundTripDifference(type(sent).__name__, "is masked in JSON", how)


_COMPARISONS: tuple[tuple[type | tuple[type, ...], Comparison], ...] = (
    (defaultdict, _defaultdict),
    (dict, _mapping),
    (deque, _deque),
    ((list, tuple), _sequence),
    ((set, frozenset), _set),
    ((datetime, time), _moment),
    (Decimal, _decimal),
    ((SecretStr, SecretBytes, Secret), _secret),
    (Iterator, _iterator),
    (Enum, _leaf),
)


def _other_type(sent: object, received: object) -> RoundTripDifference:
    """The difference of a value that comes back with another type."""
    kind, other = type(sent).__name__, type(received).__name__
    if sent is _ABSENT or received is _ABSENT:
        return RoundTripDifference("field", "is set on one side only", "set every field")
    if found := not_finite(sent):
        return found
    if isinstance(sent, Iterator):
        return RoundTripDifference(kind, "can be read only once", "use a list")
    cure = f"declare {kind} there, or use {other}"
    if isinstance(received, Iterator):
        cure = f"declare {kind} there"
    elif isinstance(sent, BaseModel) and isinstance(received, BaseModel) and not isinstance(sent, type(received)):
        cure = f"declare {kind} there, with a discriminator if it is part of a union"
    return RoundTripDifference(kind, f"comes back as {other}", cure)


def _other_value(sent: object) -> RoundTripDifference:
    how = "let its serializers and validators, or what is declared there, keep the whole value"
    return RoundTripDifference(type(sent).__name__, "comes back with another value", how)


def _other_length(sent: Any, received: Any) -> RoundTripDifference:
    how = "let its serializers and validators keep every entry"
    return RoundTripDifference(type(sent).__name__, f"comes back with {len(received)} of {len(sent)} entries", how)


def not_finite(value: object) -> RoundTripDifference | None:
    """The difference of a NaN or infinity; None for every other value."""
    match value:
        case float():
            finite = math.isfinite(value)
        case Decimal():
            finite = value.is_finite()
        case _:
            finite = True
    how = "JSON knows no such number, use None or text in its place"
    return None if finite else RoundTripDifference(type(value).__name__, f"is {value}", how)
