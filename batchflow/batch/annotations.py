"""Type annotations as they are when the program runs: the arguments of a generic base, and whether two fit."""

import re
import types
import typing
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Annotated, Any, TypeGuard, Union, cast, get_args, get_origin

from pydantic import BaseModel
from typing_extensions import NoDefault

_MODULE = re.compile(r"[\w.<>]+\.(\w+)")
_WIDENS = {(int, float), (int, complex), (float, complex)}


def type_arguments(cls: type, base: type) -> tuple[object, ...]:
    """What `base`'s type variables stand for in its subclass `cls`, defaults filled in.

    A variable that is still open in `cls` stands for itself.
    """
    if cls is base:
        return _parameters(base)
    for written in cast("tuple[object, ...]", cls.__dict__.get("__orig_bases__", cls.__bases__)):
        origin = get_origin(written) or written
        if isinstance(origin, type) and issubclass(origin, base):
            meaning = _meaning(origin, get_args(written))
            return tuple(_substituted(argument, meaning) for argument in type_arguments(origin, base))
    raise TypeError(f"{cls.__name__} is no subclass of {base.__name__}")


def is_model(annotation: object) -> TypeGuard[type[BaseModel]]:
    """Whether it is a pydantic model's class."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def is_open(annotation: object) -> bool:
    """Whether a type variable is left in it."""
    return isinstance(annotation, typing.TypeVar) or bool(_parameters(annotation))


def hints(function: object) -> dict[str, object]:
    """A function's annotations; empty where their names cannot be looked up (yet)."""
    try:
        return typing.get_type_hints(function)
    except Exception:
        # Names of a function's inside, or under TYPE_CHECKING: what cannot be read cannot contradict.
        return {}


def awaited(annotation: object) -> object:
    """What a function annotated to return this gives once awaited; `X | Awaitable[X]` is X."""
    members = _members(annotation)
    if len(members) > 1:
        return Union[tuple(awaited(member) for member in members)]  # noqa: UP007
    if get_origin(annotation) is Coroutine:
        return get_args(annotation)[2]
    return get_args(annotation)[0] if get_origin(annotation) is Awaitable else annotation


def fits(given: object, wanted: object) -> bool:
    """Whether a value of type `given` may stand where `wanted` is declared; True where that cannot be told."""
    return all(any(_member_fits(it, place) for place in _members(wanted)) for it in _members(given))


def spell_type(annotation: object) -> str:
    """The annotation as one writes it: "User", "list[str]", "str | None"."""
    if annotation in (None, types.NoneType):
        return "None"
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    members = _members(annotation)
    if len(members) > 1:
        return " | ".join(spell_type(member) for member in members)
    return _MODULE.sub(r"\1", annotation if isinstance(annotation, str) else repr(annotation))


def _parameters(annotation: object) -> tuple[object, ...]:
    return cast("tuple[object, ...]", getattr(annotation, "__parameters__", ()))


def _meaning(origin: type, given: tuple[object, ...]) -> Mapping[object, object]:
    meaning: dict[object, object] = {}
    for place, variable in enumerate(_parameters(origin)):
        default = getattr(variable, "__default__", NoDefault)
        argument = given[place] if place < len(given) else variable if default is NoDefault else default
        meaning[variable] = types.NoneType if argument is None else _substituted(argument, meaning)
    return meaning


def _substituted(argument: object, meaning: Mapping[object, object]) -> object:
    if isinstance(argument, typing.TypeVar):
        return meaning.get(argument, argument)
    inner = _parameters(argument)
    return cast("Any", argument)[tuple(meaning.get(it, it) for it in inner)] if inner else argument


def _members(annotation: object) -> tuple[object, ...]:
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for it in get_args(annotation) for member in _members(it))
    return (types.NoneType if annotation is None else annotation,)


def _member_fits(given: object, wanted: object) -> bool:
    if given == wanted or Any in (given, wanted) or wanted is object:
        return True
    given, wanted = get_origin(given) or given, get_origin(wanted) or wanted
    if not isinstance(given, type) or not isinstance(wanted, type):
        return True
    try:
        return issubclass(given, wanted) or (given, wanted) in _WIDENS
    except TypeError:
        # A protocol or TypedDict does not say.
        return True
