"""The JSON form of a declared type: how parameters, items and results are written, read, and proven to survive.

Which differences count as a loss is said in `survival.py`.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache, partial, reduce
from types import FunctionType, MethodType, NoneType, SimpleNamespace, UnionType
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    Never,
    NoReturn,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)
from weakref import WeakKeyDictionary

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import SchemaError, from_json, to_json

from batchflow.core.survival import Loss, loss, not_finite
from batchflow.errors import ConfigurationError, UnserializableError

T = TypeVar("T")

_UNEXPECTED = re.compile(
    r"\(Expected `(?P<declared>.+?)` - .*?\[(?:field_name='(?P<field>[^']*)')?.*?input_type=(?P<kind>\w+)\]"
)
_UNKNOWN = re.compile(r"Unable to serialize unknown type: <class '(?:.*\.)?(?P<kind>[^.']+)'>")


_AGREE = "let value and declaration agree"
_UNIONS = (Union, UnionType)


def _json(value: object) -> str:
    return to_json(value).decode()


# Values of exactly these types, declared as such or not at all, are the same after JSON: they need no reading back.
_SAFE: Mapping[type, Callable[[Any], str]] = {NoneType: _json, bool: _json, int: repr, str: _json}


class Codec(Generic[T]):
    """The JSON form of one declared type, by pydantic: written and read by field name, whatever its aliases.

        codec = Codec.of(User)
        text, user = codec.round_trip(user, where="step 'load' of 'welcome'")

    `annotation` is the declared type.
    """

    __slots__ = ("_adapter", "_plain", "_read", "_write", "annotation")

    def __init__(self, annotation: Any) -> None:
        """Use `Codec.of`, which builds each codec once.

        Raises:
            ConfigurationError: pydantic knows no JSON form of the type.
        """
        self.annotation = annotation
        try:
            self._adapter: TypeAdapter[T] = TypeAdapter(annotation)
            self._write = self._adapter.serializer.to_json
            self._read = self._adapter.validator.validate_json
        except (PydanticUserError, SchemaError, NameError, TypeError, ValueError) as error:
            raise ConfigurationError(_unknown(annotation, error)) from error
        self._plain = _plain(annotation)

    def __repr__(self) -> str:
        return f"Codec({describe(self.annotation)})"

    @staticmethod
    def of(annotation: Any) -> "Codec[Any]":
        """The codec of a type; the same one for the same type, where the type can be hashed.

        Raises:
            ConfigurationError: pydantic knows no JSON form of the type.
        """
        # Unions are equal in any order, but read in theirs: the text tells them apart.
        spelling = "" if isinstance(annotation, type) else repr(annotation)
        try:
            return _codec(annotation, spelling)
        except TypeError:  # it cannot be hashed: schema errors are of another kind
            return Codec[Any](annotation)

    @staticmethod
    def of_result(fn: Callable[..., object]) -> "Codec[Any]":
        """The codec of what `fn` declares to return, built once for each function.

        Raises:
            ConfigurationError: that type is not known, or pydantic knows no JSON form of it.
        """
        function = _underlying(fn)
        if not isinstance(function, FunctionType):
            return Codec.of(return_type(fn))
        try:
            return _results[function]
        except KeyError:
            return _results.setdefault(function, Codec.of(return_type(function)))

    def encode(self, value: T) -> str:
        """The JSON text of a value. Whether it survives is for `round_trip` to say.

        Raises:
            UnserializableError: the value is not of the declared type, or cannot be written.
        """
        try:
            return self._write(value, by_alias=False, round_trip=True, warnings="error").decode()
        except Exception as error:  # a serializer of the user's may raise anything
            raise _refused("the value", value, self._unwritable(error)) from error

    def decode(self, text: str | bytes) -> T:
        """The value that `encode` wrote.

        Raises:
            pydantic.ValidationError: the text is not JSON of this type.
        """
        return self._read(text, by_name=True, by_alias=False)

    def round_trip(self, value: T, *, where: str) -> tuple[str, T]:
        """The JSON text of a value and what comes back from it: the same as was given, type for type.

        What does not count as a change, and what does, stands in `survival.loss`.

        Raises:
            UnserializableError: it would come back changed, or not at all; the sentence names `where`, the type, the
                part that is at fault and the cure.
        """
        if (plain := self._plain.get(type(value))) is not None:
            try:
                return plain(value), value
            except ValueError as error:
                raise _refused(where, value, self._unwritable(error)) from error
        try:
            # Warnings cost more than the writing, and the comparison finds all that they warn of.
            text = self._write(value, by_alias=False, round_trip=True, warnings=False)
        except Exception as error:  # a serializer of the user's may raise anything, and so may a validator
            raise _refused(where, value, self._unwritable(error)) from error
        try:
            came = self._read(text, by_name=True, by_alias=False)
        except Exception as error:
            raise _refused(where, value, self._unreadable(value, error)) from error
        unsure: list[type] = []
        found = loss(value, came, unsure)
        if found is None and unsure and not self._is_written_as(came, text):
            found = Loss(unsure[0].__name__, "comes back changed", "give it an __eq__, and a form that keeps all of it")
        if found is not None:
            raise _refused(where, value, self._misfit(value) or found)
        return text.decode(), came

    def json_schema(self) -> dict[str, Any]:
        """The JSON schema of what `encode` writes, by field name.

        Raises:
            pydantic.errors.PydanticInvalidForJsonSchema: the type has none.
        """
        return self._adapter.json_schema(by_alias=False)

    def _is_written_as(self, came: T, text: bytes) -> bool:
        # Typed dicts come back in the order of their fields, so the text alone is not enough.
        again = self._write(came, by_alias=False, round_trip=True, warnings=False)
        return again == text or from_json(again) == from_json(text)

    def _misfit(self, value: T) -> Loss | None:
        """That the value is of another type than is declared, where this can be told at once."""
        try:
            if not isinstance(self.annotation, type) or isinstance(value, self.annotation):
                return None
        except TypeError:  # Any, typed dicts and protocols are types that cannot be asked
            return None
        return Loss("", f"is no {describe(self.annotation)}, which is declared", _AGREE)

    def _unwritable(self, error: Exception) -> Loss:
        """What pydantic says of a value that it cannot write, as a loss."""
        text = str(error).removeprefix("Error serializing to JSON: ")
        if match := _UNEXPECTED.search(text):
            place = f".{match['field']}" if match["field"] else ""
            declared = match["declared"] if place else describe(self.annotation)
            return Loss(match["kind"], f"is no {declared}, which is declared", _AGREE, place)
        if match := _UNKNOWN.search(text):
            return Loss("", f"holds {match['kind']}, which has no JSON form", "use a model, a dataclass or plain data")
        if "invalid utf-8" in text:
            return Loss("", "holds bytes that are no text", "declare Base64Bytes, or use text")
        return Loss("", f"cannot be written ({text.splitlines()[0]})", "use what JSON can hold")

    def _unreadable(self, value: T, error: Exception) -> Loss:
        """What pydantic says of JSON that it wrote and cannot read, as a loss."""
        if misfit := self._misfit(value):
            return misfit
        part: Any = value
        reason, path = str(error), ""
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            for step in first["loc"]:
                path += f".{step}" if isinstance(step, str) and not isinstance(part, Mapping) else f"[{step!r}]"
                part = _part(part, step)
            reason = f"{path}: {first['msg']}" if path else first["msg"]
        if found := not_finite(part):
            return found.inside(path)
        try:
            self._write(value, by_alias=False, round_trip=True, warnings="error")
        except Exception as warning:
            return self._unwritable(warning)
        how = "let its JSON hold every required part, in a form that its validators take"
        return Loss("", f"cannot be read back ({reason})", how)


@lru_cache(maxsize=1024)
def _codec(annotation: Any, spelling: str) -> Codec[Any]:
    return Codec(annotation)


def describe(annotation: Any) -> str:
    """A short name of a type for messages: "User", "list[int]", "User | None", "Any"."""
    if annotation is None or annotation is NoneType:
        return "None"
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in _UNIONS:
        return " | ".join(map(describe, args))
    if origin is Annotated:
        return describe(args[0])
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, args))}]"
    if origin is not None and args:
        return f"{describe(origin)}[{', '.join(map(describe, args))}]"
    return "..." if annotation is ... else str(getattr(annotation, "__name__", annotation))


_declared: WeakKeyDictionary[FunctionType, Any] = WeakKeyDictionary()
_results: WeakKeyDictionary[FunctionType, Codec[Any]] = WeakKeyDictionary()


def return_type(fn: Callable[..., object]) -> Any:
    """The type that a function, method, partial or callable object declares to return; `Any` where it declares none.

    What is awaited counts as returned. A class gives its instances. A function that never returns gives None.

    Raises:
        ConfigurationError: the declaration names something that does not exist where the function is defined.
    """
    function = _underlying(fn)
    if not isinstance(function, FunctionType):
        return function if isinstance(function, type) else Any
    try:
        return _declared[function]
    except KeyError:
        return _declared.setdefault(function, _awaited(_evaluated(function)))


def _underlying(fn: object) -> object:
    for _ in range(20):  # builtins and wrappers of each other have no end
        if isinstance(fn, type):
            return fn
        if isinstance(fn, partial):
            fn = fn.func
        elif isinstance(fn, MethodType):
            fn = fn.__func__
        elif (inner := getattr(fn, "__wrapped__", None)) is not None:
            fn = inner
        elif isinstance(fn, FunctionType):
            return fn
        else:
            fn = type(fn).__call__ if callable(fn) else None
    return None


def _evaluated(function: FunctionType) -> Any:
    written: Any = Any
    try:
        written = function.__annotations__.get("return", Any)
        # Only this one: a parameter may name what exists for the type checker alone.
        only = SimpleNamespace(__annotations__={"return": written})
        return get_type_hints(only, globalns=function.__globals__, include_extras=True)["return"]
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        missing = error.name if isinstance(error, NameError) else None
        fault = f"there is no '{missing}' in '{function.__module__}'" if missing else f"that is no type ({error})"
        raise ConfigurationError(
            f"'{function.__qualname__}' declares to return '{describe(written)}', but {fault}; "
            "name a type that stands at the top of that module, outside TYPE_CHECKING"
        ) from error


def _awaited(annotation: Any) -> Any:
    origin, args = get_origin(annotation), get_args(annotation)
    if isinstance(origin, type) and issubclass(origin, Awaitable) and args:
        return args[-1]
    if origin in _UNIONS:
        inner = list(map(_awaited, args))
        return annotation if inner == list(args) else reduce(lambda one, other: one | other, inner)
    return NoneType if annotation in (NoReturn, Never) else annotation


def _plain(annotation: Any) -> Mapping[type, Callable[[Any], str]]:
    if annotation is Any or annotation is object:
        return _SAFE
    declared = NoneType if annotation is None else annotation
    members = get_args(declared) if get_origin(declared) in _UNIONS else (declared,)
    safe = {member: _SAFE[member] for member in members if isinstance(member, type) and member in _SAFE}
    return safe if len(safe) == len(members) else {}


def _refused(where: str, value: object, found: Loss) -> UnserializableError:
    return UnserializableError(f"{where}: {describe(type(value))} does not survive JSON: {found}")


def _part(whole: Any, step: str | int) -> object:
    try:
        return getattr(whole, step) if isinstance(step, str) and hasattr(whole, step) else whole[step]
    except (LookupError, TypeError):
        return None


def _unknown(annotation: Any, error: Exception) -> str:
    reason = "pydantic knows none" if isinstance(error, PydanticSchemaGenerationError) else str(error).splitlines()[0]
    return f"{describe(annotation)} has no JSON form: {reason.rstrip('.')}; declare a model, a dataclass or plain data"
