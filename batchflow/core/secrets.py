"""Secret values: how they are stored, read again, and shown.

A store keeps secret values in JSON beside a mark, `{"batchflow:secret": …}`. So whoever shows a JSON text can mask
them without the type that has declared them: the command, another app, an app whose code has changed.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Final, cast, final, overload

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, SecretBytes, SecretStr, TypeAdapter, ValidationError
from pydantic import Secret as PydanticSecret
from pydantic_core import (
    CoreSchema,
    ErrorDetails,
    PydanticSerializationUnexpectedValue,
    SchemaSerializer,
    core_schema,
    from_json,
    to_json,
)

from batchflow.errors import ConfigurationError

MASK: Final = "**********"
"""Shown in place of a secret value."""

SECRET_OUTCOME: Final = '{"batchflow:secret":null}'
"""The `value` of a pending step whose outcome, once it arrives from outside, is secret as a whole."""

_MARK = "batchflow:secret"
_MARK_BYTES = _MARK.encode()
_MARKED_HEAD = f'{{"{_MARK}":'


@final
class Secret:
    """Marks a value as secret: `api_key: Annotated[str, Secret]`. pydantic's `SecretStr` needs no mark.

    Code gets the value; logs, answers over HTTP and the command show `**********` in its place. A mark on a model, a
    list or a dict masks all of it.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Add the mark to the schema of the value."""
        schema = handler(source)
        if schema["type"] in _SHARED:
            return core_schema.chain_schema([schema], metadata={_MARK: True})
        return cast("CoreSchema", {**schema, "metadata": {**schema.get("metadata", {}), _MARK: True}})

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe the value as one that is sent and never answered."""
        return {**handler(schema), "format": "password", "writeOnly": True}


_SHARED = frozenset({"definition-ref", "definitions", "model", "dataclass", "typed-dict"})
# The schema of such a type is that of all its values, secret or not.


# Stored


def secret_serializer(schema: Mapping[str, Any]) -> SchemaSerializer | None:
    """The serializer that writes the secret values of a type beside their marks; None for a type without any.

    Raises:
        ConfigurationError: a secret is the key of a dict.
    """
    marking = _Marking(schema)
    if not marking.has_secret(schema):
        return None
    # The ready serializers of the models within are pydantic's own, which mask or write plainly.
    return SchemaSerializer(cast("CoreSchema", marking.rewritten(schema)), _use_prebuilt=False)


class _Marking:
    """Changes a schema of pydantic so that its serializer writes marks."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        parts = schema["definitions"] if schema["type"] == "definitions" else ()
        self._secret_refs: set[str] = set()
        while found := {it["ref"] for it in parts if it["ref"] not in self._secret_refs and self.has_secret(it)}:
            self._secret_refs |= found

    def has_secret(self, node: Any) -> bool:
        """True if a part of the schema is secret."""
        match node:
            case {"type": "definition-ref", "schema_ref": ref}:
                return ref in self._secret_refs or _is_marked(node)
            case {"type": str()} if _is_marked(node) or _is_pydantic_secret(node):
                return True
            case _:
                return any(map(self.has_secret, _parts(node)))

    def rewritten(self, node: Any) -> Any:
        """The schema, whose secret parts write their marks."""
        match node:
            case list() | tuple():
                return [self.rewritten(part) for part in cast("list[Any]", node)]
            case {"type": str()} if _is_pydantic_secret(node):
                return {**node, "serialization": self._revealing(node)}
            case {"type": str()} if _is_marked(node):
                inner = {**node, "metadata": {**node["metadata"], _MARK: False}}
                return {**inner, "serialization": _marking_all(self.rewritten(inner))}
            case {"serialization": {"type": "function-plain" | "function-wrap"}} if self.has_secret(node):
                # The code of a user writes it, and may reveal what is secret.
                return {**node, "serialization": _marking_all(self._with_parts(node))}
            case {"type": "dict", "keys_schema": keys} if self.has_secret(keys):
                raise ConfigurationError("the key of a dict cannot be secret; keep the secret in its value")
            case Mapping():
                return self._with_parts(cast("Mapping[str, Any]", node))
            case _:
                return node

    def _with_parts(self, node: Mapping[str, Any]) -> dict[str, Any]:
        return {**node, **{name: self.rewritten(part) for name, part in _named_parts(node)}}

    def _revealing(self, node: Mapping[str, Any]) -> Any:
        value = self.rewritten(_without_ref(node["json_schema"]["schema"]))
        written = core_schema.dict_schema(core_schema.str_schema(), value)
        return core_schema.plain_serializer_function_ser_schema(_reveal_secret, return_schema=written)


def _reveal_secret(secret: Any) -> dict[str, object]:
    if not isinstance(secret, SecretStr | SecretBytes | PydanticSecret):
        raise PydanticSerializationUnexpectedValue(f"Expected a secret - not {type(secret).__name__}")
    return marked(cast("SecretStr", secret).get_secret_value())


def _marking_all(inner: Mapping[str, Any]) -> Any:
    return core_schema.wrap_serializer_function_ser_schema(_mark_all, schema=cast("Any", _without_ref(inner)))


def _mark_all(value: object, write: Callable[[object], object]) -> object:
    return None if value is None else marked(write(value))


def _without_ref(schema: Mapping[str, Any]) -> dict[str, Any]:
    # A schema may be defined once; the outer one keeps its name.
    return {name: part for name, part in schema.items() if name != "ref"}


def _is_marked(schema: Mapping[str, Any]) -> bool:
    metadata = schema.get("metadata")
    return isinstance(metadata, dict) and cast("dict[str, Any]", metadata).get(_MARK) is True


def _is_pydantic_secret(schema: Mapping[str, Any]) -> bool:
    match schema:
        case {"type": "json-or-python", "serialization": {"function": function}}:
            return function in _pydantic_serializers()
        case _:
            return False


@cache
def _pydantic_serializers() -> frozenset[Any]:
    """The functions that mask pydantic's own secret types."""
    found: set[Any] = set()
    nodes: list[Any] = [TypeAdapter(it).core_schema for it in (SecretStr, SecretBytes, PydanticSecret[str])]
    while nodes:
        match node := nodes.pop():
            case {"serialization": {"function": function}}:
                found.add(function)
            case _:
                nodes.extend(_parts(node))
    return frozenset(found)


_OPAQUE = frozenset({"metadata", "default", "serialization", "config", "expected", "members", "cls", "function"})
# These hold values of users, and no schemas.


def _named_parts(node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    # Only a schema has a text as its type: a field of a model may have any of these names.
    opaque = _OPAQUE if isinstance(node.get("type"), str) else frozenset[str]()
    return ((name, part) for name, part in node.items() if name not in opaque)


def _parts(node: Any) -> Iterator[Any]:
    match node:
        case Mapping():
            return (part for _, part in _named_parts(cast("Mapping[str, Any]", node)))
        case list() | tuple():
            return iter(cast("list[Any]", node))
        case _:
            return iter(())


# Read


@overload
def revealed(text: bytes) -> bytes: ...
@overload
def revealed(text: str | bytes) -> str | bytes: ...
def revealed(text: str | bytes) -> str | bytes:
    """A stored JSON text without its marks."""
    has_marks = _MARK_BYTES in text if isinstance(text, bytes) else _MARK in text
    return text if not has_marks else to_json(_revealed(from_json(text)))


def revealed_value(text: str) -> Any:
    """The value of a stored JSON text, as code sees it."""
    return from_json(revealed(text))


def _revealed(value: Any) -> Any:
    return _replaced(value, _revealed)


def marked(value: object) -> dict[str, object]:
    """The stored JSON form of a secret value."""
    return {_MARK: value}


def marked_text(text: str) -> str:
    """The stored JSON form of a secret value, whose JSON text this is."""
    return f"{_MARKED_HEAD}{text}}}"


def unmarked_text(text: str) -> str:
    """The JSON text of which `marked_text` made this one; any other text stays as it is."""
    return text[len(_MARKED_HEAD) : -1] if text.startswith(_MARKED_HEAD) else text


# Shown


def masked_text(text: str) -> str:
    """A stored JSON text as it may be shown: without secret values, tokens of webhooks and passwords of URLs."""
    if _MARK in text:
        text = to_json(masked(from_json(text))).decode()
    return printable_text(text)


def masked_value(text: str | None) -> Any:
    """The value of a stored JSON text as it may be shown; None for no text."""
    return None if text is None else from_json(masked_text(text))


def masked(value: Any) -> Any:
    """A value of JSON as it may be shown."""
    return _replaced(value, lambda _: MASK)


_TOKEN = re.compile(r"[^\s\"'/?#&=<>]*\.whk_[0-9a-f]+")
_INPUT = re.compile(r"input_value=.*, (?=input_type=)")


_PASSWORD = re.compile(r"(?<=://)([^\s/:@\"']*):[^\s/@\"']+@")


def printable_text(text: str) -> str:
    """A text without the tokens of webhooks, and without the passwords of URLs."""
    text = _TOKEN.sub(MASK, text) if ".whk_" in text else text
    return _PASSWORD.sub(rf"\1:{MASK}@", text) if "://" in text and "@" in text else text


def printable_error(text: str) -> str:
    """The text of an error, without tokens, passwords of URLs, and the inputs that pydantic quotes.

    An input may be secret, or hold a part that is: the text does not tell.
    """
    return printable_text(_INPUT.sub("", text) if "input_value=" in text else text)


_MIN_SECRET = 4
# A shorter text is found in many words.

_LONG_SECRET = 8
# A shorter one is a part of other words, such as paths of files.


def secret_texts(text: str) -> Iterator[str]:
    """The secret values in a stored JSON text, each as text."""
    return _marked_leaves(from_json(text), within=False) if _MARK in text else iter(())


def _marked_leaves(value: Any, *, within: bool) -> Iterator[str]:
    match value:
        case dict():
            fields = cast("dict[str, Any]", value)
            within = within or (len(fields) == 1 and _MARK in fields)
            for part in fields.values():
                yield from _marked_leaves(part, within=within)
        case list():
            for part in cast("list[Any]", value):
                yield from _marked_leaves(part, within=within)
        case str() if within:
            yield value
        case int() | float() if within and not isinstance(value, bool):
            yield str(value)
        case _:
            pass


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """A text with the mask in place of each of these secret values, as they are and as a `repr` shows them."""
    hidden = {it for secret in secrets for it in (secret, repr(secret)[1:-1]) if len(it) >= _MIN_SECRET}
    for secret in sorted(hidden, key=len, reverse=True):
        if len(secret) < _LONG_SECRET and secret in text:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
        else:
            text = text.replace(secret, MASK)
    return text


def describe_misfit(error: ValueError) -> str:
    """The first reason why a value does not fit its type, without the value, which may be secret."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_context=False)[0]
    place, reason = ".".join(map(str, first["loc"])), misfit_reason(first)
    return f"{place}: {reason}" if place else reason


def misfit_reason(found: ErrorDetails) -> str:
    """The message of one of pydantic's errors; it does not quote the input, if the error has that."""
    # The validators of users may quote it.
    quoted = str(found.get("input", ""))
    return found["msg"].replace(quoted, MASK) if len(quoted) >= _MIN_SECRET else found["msg"]


def _replaced(value: Any, secret: Callable[[Any], Any]) -> Any:
    match value:
        case dict():
            fields = cast("dict[str, Any]", value)
            if len(fields) == 1 and _MARK in fields:
                return secret(fields[_MARK])
            return {name: _replaced(part, secret) for name, part in fields.items()}
        case list():
            return [_replaced(part, secret) for part in cast("list[Any]", value)]
        case _:
            return value


_HEAD = re.compile(r"(?:[A-Za-z][\w+.-]*:?//?/?)?")


def printable_store_url(url: str) -> str:
    """The URL of a store as it may be shown: without its password and its options, and also if it is misspelt."""
    if url.startswith("sqlite://"):
        return url
    head = cast("re.Match[str]", _HEAD.match(url))[0]
    address, *options = re.split("[?#]", url[len(head) :], maxsplit=1)
    if options and "@" in options[0]:
        # Either the password has a question mark, or the options have an "at": nobody can tell.
        return f"{head}…"
    before, _, server = address.rpartition("@")
    # A name without a password may be the password.
    user = before.partition(":")[0] if ":" in before else ""
    hosts, slash, path = server.partition("/")
    return f"{head}{user}{'@' if user else ''}{','.join(map(_printable_host, hosts.split(',')))}{slash}{path}"


def _printable_host(host: str) -> str:
    name, _, port = host.rpartition(":")
    # A password may stand where a port is expected.
    return host if host.endswith("]") or not name or port.isdigit() else f"{name}:…"
