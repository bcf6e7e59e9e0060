"""The JSON form of a declared type, for parameters, items and results, and the size limit of JSON texts.

`roundtrip.py` decides which differences after a round trip are errors.
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
from batchflow.core.secrets import revealed, secret_serializer
from batchflow.errors import ConfigurationError, TooLarge, UnserializableError, step_text

T = TypeVar("T")

_UNEXPECTED = re.compile(
    r"\(Expected `(?P<declared>.+?)` - .*?\[(?:field_name='(?P<field>[^']*)')?.*?input_type=(?P<kind>\w+)\]"
)
_UNKNOWN = re.compile(r"Unable to serialize unknown type: <class '(?:.*\.)?(?P<kind>[^.']+)'>")


_AGREE = "let value and declaration agree"
_UNIONS = (Union, UnionType)


def _json(value: object) -> str:
    return to_json(value).decode()


# Values of exactly these types, declared so or not at all, survive JSON unchanged: they need not be read back.
_SAFE: Mapping[type, Callable[[Any], str]] = {NoneType: _json, bool: _json, int: repr, str: _json}


class Codec(Generic[T]):
    """The JSON form of one declared type, by pydantic: written and read by field name, whatever its aliases.

        codec = Codec.of(User)
        text, user = codec.round_trip(user, where="step 'load' of 'welcome'")

    `annotation` is the declared type; `has_secrets` is true if values of it may hold secret ones, which are written
    beside a mark.
    """

    __slots__ = ("_adapter", "_plain", "_read", "_write", "annotation", "has_secrets")

    def __init__(self, annotation: Any) -> None:
        """Use `Codec.of`, which builds each codec once.

        Raises:
            ConfigurationError: pydantic has no JSON form for the type.
        """
        self.annotation = annotation
        try:
            self._adapter: TypeAdapter[T] = TypeAdapter(annotation)
            self._write = self._adapter.serializer.to_json
            self._read = self._adapter.validator.validate_json
            marking = secret_serializer(self._adapter.core_schema)
        except ConfigurationError as error:
            raise ConfigurationError(f"{type_name(annotation)} has no JSON form: {error}") from error
        except (PydanticUserError, SchemaError, NameError, TypeError, ValueError) as error:
            raise ConfigurationError(_no_json_form(annotation, error)) from error
        self.has_secrets = marking is not None
        if marking is not None:
            self._write = marking.to_json
        self._plain = _plain(annotation)

    def __repr__(self) -> str:
        return f"Codec({type_name(self.annotation)})"

    @staticmethod
    def of(annotation: Any) -> "Codec[Any]":
        """The codec of a type, cached if the type can be hashed.

        Raises:
            ConfigurationError: pydantic has no JSON form for the type.
        """
        # Unions with the same members are equal, but are read in their order: the text distinguishes them.
        spelling = "" if isinstance(annotation, type) else repr(annotation)
        try:
            return _codec(annotation, spelling)
        except TypeError:  # not hashable; schema errors have other types
            return Codec[Any](annotation)

    @staticmethod
    def of_result(fn: Callable[..., object]) -> "Codec[Any]":
        """The codec of the declared return type of `fn`, built once for each function.

        Raises:
            ConfigurationError: the type cannot be evaluated, or pydantic has no JSON form for it.
        """
        function = _underlying(fn)
        if not isinstance(function, FunctionType):
            return Codec.of(return_type(fn))
        try:
            return _result_codecs[function]
        except KeyError:
            return _result_codecs.setdefault(function, Codec.of(return_type(function)))

    def encode(self, value: T, *, sparse: bool = False) -> str:
        """The JSON text of a value, if `sparse` without fields that are None; it is not checked that it survives.

        Raises:
            UnserializableError: the value is not of the declared type, or cannot be written.
        """
        try:
            return self._write(value, by_alias=False, round_trip=True, warnings="error", exclude_none=sparse).decode()
        except Exception as error:  # serializers of user code may raise anything
            raise _unserializable("the value", value, self._write_problem(error)) from error

    def reveal(self, value: T, *, by_alias: bool) -> bytes:
        """The JSON text of a value for a receiver outside, with its secret values and without their marks.

        Raises:
            ValueError: the value cannot be written.
        """
        return revealed(self._write(value, by_alias=by_alias, warnings=False))

    def decode(self, text: str | bytes) -> T:
        """The value that `encode` wrote.

        Raises:
            pydantic.ValidationError: the text is not JSON of this type.
        """
        return self._read(revealed(text), by_name=True, by_alias=False)

    def decode_input(self, text: str | bytes) -> T:
        """The value of a text that another program may have written: fields have their names or their aliases.

        Raises:
            pydantic.ValidationError: as for `decode`.
        """
        return self._read(revealed(text), by_name=True, by_alias=True)

    def round_trip(self, value: T, *, where: str) -> tuple[str, T]:
        """The JSON text of a value and the value read back from it, equal to the original in value and type.

        `roundtrip.find_difference` defines what counts as a difference.

        Raises:
            UnserializableError: the value would come back changed, or not at all; the message names `where`, the type,
                the part at fault and the cure.
        """
        if (plain := self._plain.get(type(value))) is not None:
            try:
                return plain(value), value
            except ValueError as error:
                raise _unserializable(where, value, self._write_problem(error)) from error
        try:
            # Warnings cost more than the serialization, and the comparison finds everything that they warn of.
            text = self._write(value, by_alias=False, round_trip=True, warnings=False)
        except Exception as error:  # serializers and validators of user code may raise anything
            raise _unserializable(where, value, self._write_problem(error)) from error
        try:
            received = self._read(revealed(text) if self.has_secrets else text, by_name=True, by_alias=False)
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
        # Typed dicts come back in the order of their fields: comparing the texts alone is not enough.
        again = self._write(received, by_alias=False, round_trip=True, warnings=False)
        return again == text or from_json(again) == from_json(text)

    def _type_mismatch(self, value: T) -> RoundTripDifference | None:
        """The difference between the value's type and the declared one, if `isinstance` can decide it."""
        try:
            if not isinstance(self.annotation, type) or isinstance(value, self.annotation):
                return None
        except TypeError:  # Any, typed dicts and protocols do not support isinstance
            return None
        return RoundTripDifference("", f"is not the declared {type_name(self.annotation)}", _AGREE)

    def _write_problem(self, error: Exception) -> RoundTripDifference:
        """The difference that pydantic's error for a value that it cannot write describes."""
        text = str(error).removeprefix("Error serializing to JSON: ")
        if match := _UNEXPECTED.search(text):
            place = f".{match['field']}" if match["field"] else ""
            declared = match["declared"] if place else type_name(self.annotation)
            return RoundTripDifference(match["kind"], f"is not the declared {declared}", _AGREE, place)
        if match := _UNKNOWN.search(text):
            remedy = "await it" if match["kind"] == "coroutine" else "use a model, a dataclass or plain data"
            return RoundTripDifference("", f"holds {match['kind']}, which has no JSON form", remedy)
        if "invalid utf-8" in text:
            return RoundTripDifference("", "holds bytes that are not text", "declare Base64Bytes, or use text")
        return RoundTripDifference("", f"cannot be written ({text.splitlines()[0]})", "use what JSON can hold")

    def _read_problem(self, value: T, error: Exception) -> RoundTripDifference:
        """The difference that pydantic's error for JSON that it wrote and cannot read describes."""
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
    """The declared return type of a function, method, partial or callable object; `Any` if it declares none.

    An awaitable counts as its result. A class returns its instances. A function that never returns counts as None.

    Raises:
        ConfigurationError: the annotation names something that does not exist where the function is defined.
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
        # Only this annotation: those of parameters may name types that exist for the type checker alone.
        only = SimpleNamespace(__annotations__={"return": written})
        return get_type_hints(only, globalns=function.__globals__, include_extras=True)["return"]
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        missing = error.name if isinstance(error, NameError) else None
        fault = f"there is no '{missing}' in '{function.__module__}'" if missing else f"that is not a type ({error})"
        raise ConfigurationError(
            f"'{function.__qualname__}' declares to return '{type_name(written)}', but {fault}; "
            "name a type that the module defines or imports at its top, outside TYPE_CHECKING"
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


def _with_hook(where: str) -> str:
    # Here, since `where` is made for every step and read for one that fails.
    before, quote, step = where.removesuffix("'").partition("step '")
    return f"{before}{step_text(step)}" if quote and where.endswith("'") else where


def _unserializable(where: str, value: object, found: RoundTripDifference) -> UnserializableError:
    return UnserializableError(f"{_with_hook(where)}: {type_name(type(value))} does not survive JSON: {found}")


def _part(whole: Any, step: str | int) -> object:
    try:
        return getattr(whole, step) if isinstance(step, str) and hasattr(whole, step) else whole[step]
    except (LookupError, TypeError):
        return None


def _no_json_form(annotation: Any, error: Exception) -> str:
    reason = "pydantic has none" if isinstance(error, PydanticSchemaGenerationError) else str(error).splitlines()[0]
    return f"{type_name(annotation)} has no JSON form: {reason.rstrip('.')}; declare a model, a dataclass or plain data"


SIZE_VARIABLE = "BATCHFLOW_MAX_VALUE"
_MAX_CHAR_BYTES = 4
# The largest number of bytes that a character has in UTF-8.


class SizeLimit:
    """A limit on the size of a JSON text, in bytes of UTF-8.

    A text of up to `safe_chars` characters cannot exceed it: most texts need one comparison and no encoding.
    """

    __slots__ = ("max_bytes", "safe_chars")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.safe_chars = max_bytes // _MAX_CHAR_BYTES

    def __repr__(self) -> str:
        return f"SizeLimit({self.max_bytes})"

    def check(self, text: str, where: str) -> None:
        """Check the JSON text of a value, which `where` describes.

        Raises:
            TooLarge: it has more bytes than the limit.
        """
        if len(text) > self.safe_chars and (size := len(text.encode())) > self.max_bytes:
            raise TooLarge(self.too_large_message(where, f"{size:,}"))

    def too_large_message(self, where: str, size: str) -> str:
        """The message for a value of `size` bytes."""
        return (
            f"{_with_hook(where)}: {size} bytes are more than {SIZE_VARIABLE} allows ({self.max_bytes:,}); "
            f"store it elsewhere and pass a reference on, or raise the setting"
        )


DEFAULT_SIZE_LIMIT = SizeLimit(1_048_576)
NO_SIZE_LIMIT = SizeLimit(2**62)
