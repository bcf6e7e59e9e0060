"""The JSON form of a declared type: how parameters, items and results are written, read, and proven to survive.

Which differences count as a loss is said in `roundtrip.py`.
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

from batchflow.core.roundtrip import RoundTripDifference, find_difference, not_finite
from batchflow.errors import ConfigurationError, TooLarge, UnserializableError

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
            raise ConfigurationError(_no_json_form(annotation, error)) from error
        self._plain = _plain(annotation)

    def __repr__(self) -> str:
        return f"Codec({type_name(self.annotation)})"

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
            return _result_codecs[function]
        except KeyError:
            return _result_codecs.setdefault(function, Codec.of(return_type(function)))

    def encode(self, value: T) -> str:
        """The JSON text of a value. Whether it survives is for `round_trip` to say.

        Raises:
            UnserializableError: the value is not of the declared type, or cannot be written.
        """
        try:
            return self._write(value, by_alias=False, round_trip=True, warnings="error").decode()
        except Exception as error:  # a serializer of the user's may raise anything
            raise _unserializable("the value", value, self._write_problem(error)) from error

    def decode(self, text: str | bytes) -> T:
        """The value that `encode` wrote.

        Raises:
            pydantic.ValidationError: the text is not JSON of this type.
        """
        return self._read(text, by_name=True, by_alias=False)

    def round_trip(self, value: T, *, where: str) -> tuple[str, T]:
        """The JSON text of a value and what comes back from it: the same as was given, type for type.

        What does not count as a change, and what does, stands in `roundtrip.find_difference`.

        Raises:
            UnserializableError: it would come back changed, or not at all; the sentence names `where`, the type, the
                part that is at fault and the cure.
        """
        if (plain := self._plain.get(type(value))) is not None:
            try:
                return plain(value), value
            except ValueError as error:
                raise _unserializable(where, value, self._write_problem(error)) from error
        try:
            # Warnings cost more than the writing, and the comparison finds all that they warn of.
            text = self._write(value, by_alias=False, round_trip=True, warnings=False)
        except Exception as error:  # a serializer of the user's may raise anything, and so may a validator
            raise _unserializable(where, value, self._write_problem(error)) from error
        try:
            received = self._read(text, by_name=True, by_alias=False)
        except Exception as error:
            raise _unserializable(where, value, self._read_problem(value, error)) from error
        unsure: list[type] = []
        found = find_difference(value, received, unsure)
        if found is None and unsure and not self._is_written_as(received, text):
            found = RoundTripDifference(
                unsure[0].__name__, "comes back changed", "give it an __eq__, and a form that keeps all of it"
            )
        if found is not None:
            raise _unserializable(where, value, self._type_mismatch(value) or found)
        return text.decode(), received

    def json_schema(self) -> dict[str, Any]:
        """The JSON schema of what `encode` writes, by field name.

        Raises:
            pydantic.errors.PydanticInvalidForJsonSchema: the type has none.
        """
        return self._adapter.json_schema(by_alias=False)

    def _is_written_as(self, received: T, text: bytes) -> bool:
        # Typed dicts come back in the order of their fields, so the text alone is not enough.
        again = self._write(received, by_alias=False, round_trip=True, warnings=False)
        return again == text or from_json(again) == from_json(text)

    def _type_mismatch(self, value: T) -> RoundTripDifference | None:
        """That the value is of another type than is declared, where this can be told at once."""
        try:
            if not isinstance(self.annotation, type) or isinstance(value, self.annotation):
                return None
        except TypeError:  # Any, typed dicts and protocols are types that cannot be asked
            return None
        return RoundTripDifference("", f"is no {type_name(self.annotation)}, which is declared", _AGREE)

    def _write_problem(self, error: Exception) -> RoundTripDifference:
        """What pydantic says of a value that it cannot write, as a loss."""
        text = str(error).removeprefix("Error serializing to JSON: ")
        if match := _UNEXPECTED.search(text):
            place = f".{match['field']}" if match["field"] else ""
            declared = match["declared"] if place else type_name(self.annotation)
            return RoundTripDifference(match["kind"], f"is no {declared}, which is declared", _AGREE, place)
        if match := _UNKNOWN.search(text):
            return RoundTripDifference(
                "", f"holds {match['kind']}, which has no JSON form", "use a model, a dataclass or plain data"
            )
        if "invalid utf-8" in text:
            return RoundTripDifference("", "holds bytes that are no text", "declare Base64Bytes, or use text")
        return RoundTripDifference("", f"cannot be written ({text.splitlines()[0]})", "use what JSON can hold")

    def _read_problem(self, value: T, error: Exception) -> RoundTripDifference:
        """What pydantic says of JSON that it wrote and cannot read, as a loss."""
        if misfit := self._type_mismatch(value):
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
            return found.nested_in(path)
        try:
            self._write(value, by_alias=False, round_trip=True, warnings="error")
        except Exception as warning:
            return self._write_problem(warning)
        how = "let its JSON hold every required part, in a form that its validators take"
        return RoundTripDifference("", f"cannot be read back ({reason})", how)


@lru_cache(maxsize=1024)
def _codec(annotation: Any, spelling: str) -> Codec[Any]:
    return Codec(annotation)


def type_name(annotation: Any) -> str:
    """A short name of a type for messages: "User", "list[int]", "User | None", "Any"."""
    if annotation is None or annotation is NoneType:
        return "None"
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in _UNIONS:
        return " | ".join(map(type_name, args))
    if origin is Annotated:
        return type_name(args[0])
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, args))}]"
    if origin is not None and args:
        return f"{type_name(origin)}[{', '.join(map(type_name, args))}]"
    return "..." if annotation is ... else str(getattr(annotation, "__name__", annotation))


_return_types: WeakKeyDictionary[FunctionType, Any] = WeakKeyDictionary()
_result_codecs: WeakKeyDictionary[FunctionType, Codec[Any]] = WeakKeyDictionary()


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
        return _return_types[function]
    except KeyError:
        return _return_types.setdefault(function, _awaited_type(_evaluate_return_type(function)))


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


def _evaluate_return_type(function: FunctionType) -> Any:
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
            f"'{function.__qualname__}' declares to return '{type_name(written)}', but {fault}; "
            "name a type that stands at the top of that module, outside TYPE_CHECKING"
        ) from error


def _awaited_type(annotation: Any) -> Any:
    origin, args = get_origin(annotation), get_args(annotation)
    if isinstance(origin, type) and issubclass(origin, Awaitable) and args:
        return args[-1]
    if origin in _UNIONS:
        inner = list(map(_awaited_type, args))
        return annotation if inner == list(args) else reduce(lambda one, other: one | other, inner)
    return NoneType if annotation in (NoReturn, Never) else annotation


def _plain(annotation: Any) -> Mapping[type, Callable[[Any], str]]:
    if annotation is Any or annotation is object:
        return _SAFE
    declared = NoneType if annotation is None else annotation
    members = get_args(declared) if get_origin(declared) in _UNIONS else (declared,)
    safe = {member: _SAFE[member] for member in members if isinstance(member, type) and member in _SAFE}
    return safe if len(safe) == len(members) else {}


def _unserializable(where: str, value: object, found: RoundTripDifference) -> UnserializableError:
    return UnserializableError(f"{where}: {type_name(type(value))} does not survive JSON: {found}")


def _part(whole: Any, step: str | int) -> object:
    try:
        return getattr(whole, step) if isinstance(step, str) and hasattr(whole, step) else whole[step]
    except (LookupError, TypeError):
        return None


def _no_json_form(annotation: Any, error: Exception) -> str:
    reason = "pydantic knows none" if isinstance(error, PydanticSchemaGenerationError) else str(error).splitlines()[0]
    return f"{type_name(annotation)} has no JSON form: {reason.rstrip('.')}; declare a model, a dataclass or plain data"


SIZE_VARIABLE = "BATCHFLOW_MAX_VALUE"
_MAX_CHAR_BYTES = 4
# As many bytes one character has in UTF-8 at most.


class SizeLimit:
    """At most so many bytes of JSON.

    A text of up to `sure` characters is within it; where that is all there is to know, one comparison knows it.
    """

    __slots__ = ("max_bytes", "safe_chars")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.safe_chars = max_bytes // _MAX_CHAR_BYTES

    def __repr__(self) -> str:
        return f"SizeLimit({self.max_bytes})"

    def check(self, text: str, where: str) -> None:
        """Refuse the JSON text of a value that is larger; `where` says whose it is.

        Raises:
            TooLarge: it is.
        """
        if len(text) > self.safe_chars and (size := len(text.encode())) > self.max_bytes:
            raise TooLarge(self.too_large_message(where, f"{size:,}"))

    def too_large_message(self, where: str, size: str) -> str:
        """What is said of a value of `size` bytes."""
        return (
            f"{where}: {size} bytes are more than {SIZE_VARIABLE} allows ({self.max_bytes:,}); "
            f"store it elsewhere and pass a reference on, or raise the setting"
        )


DEFAULT_SIZE_LIMIT = SizeLimit(1_048_576)
NO_SIZE_LIMIT = SizeLimit(2**62)
