"""Reading request bodies: their bytes, their JSON, the payload of a run. The command reads payloads here too."""

import json
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import from_json

from batchflow.core.json_body import decode_body, is_json_type, json_text
from batchflow.core.secrets import misfit_reason
from batchflow.errors import InputError, TooLarge
from batchflow.serve.functions import ServedFunction, parse_payload

if TYPE_CHECKING:
    from fastapi import Request

Payload = TypeVar("Payload")

_OBJECT_HINT = "send a JSON object"
_HINTS = {
    "object": _OBJECT_HINT,
    "array": "send a JSON array",
    "string": "send a JSON string, in double quotes",
    "boolean": "send true or false",
    "integer": "send a number",
    "number": "send a number",
}


@dataclass(frozen=True, slots=True)
class ReceivedBody:
    """The body of a request, unpacked, and its Content-Type."""

    content: bytes
    content_type: str = ""

    @property
    def is_json(self) -> bool:
        """True if it is sent as JSON."""
        return is_json_type(self.content_type)

    @property
    def json_text(self) -> bytes | str:
        """The text for a JSON parser; empty for a body of blanks."""
        return json_text(self.content, self.content_type)

    def to_text(self) -> str:
        """The body as text.

        Raises:
            InputError: it is not text in the charset that it declares, or in UTF-8 (400).
        """
        text = decode_body(self.content, self.content_type)
        if "\ufffd" in text and "\ufffd".encode() not in self.content:
            raise InputError("the body is neither JSON nor UTF-8 text", status=400)
        return text


async def read_body(request: "Request", limit: int) -> ReceivedBody:
    """The body, unpacked if its Content-Encoding is gzip or deflate.

    Raises:
        TooLarge: the body is larger than `limit` bytes, packed or unpacked; no more than that is read.
        InputError: it has another Content-Encoding (415), or is not what that says (400).
    """
    chunks: list[bytes] = []
    size = 0
    unpack = _unpacker(request.headers.get("content-encoding", ""), limit)
    if _content_length(request) > limit:
        raise _too_large(limit)
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return ReceivedBody(unpack(b"".join(chunks)), request.headers.get("content-type", ""))


def _unpacker(encoding: str, limit: int) -> Callable[[bytes], bytes]:
    match encoding.strip().lower():
        case "" | "identity":
            return lambda content: content
        case "gzip" | "x-gzip":
            return partial(_unpack, wbits=16 + zlib.MAX_WBITS, name="gzip", limit=limit)
        case "deflate":
            return partial(_unpack, wbits=zlib.MAX_WBITS, name="deflate", limit=limit)
        case _:
            sentence = "the Content-Encoding of the body is not supported; send it as it is, or as gzip or deflate"
            raise InputError(sentence, status=415)


def _unpack(content: bytes, *, wbits: int, name: str, limit: int) -> bytes:
    unpacked = b""
    while content:
        stream = zlib.decompressobj(wbits)
        try:
            unpacked += stream.decompress(content, limit + 1 - len(unpacked))
        except zlib.error as error:
            raise InputError(f"the body is not {name}, as its Content-Encoding says", status=400) from error
        if len(unpacked) > limit:
            raise _too_large(limit)
        if not stream.eof:
            raise InputError(f"the body ends before its {name} does; send the whole of it", status=400)
        content = stream.unused_data
    return unpacked


async def read_object(request: "Request", limit: int) -> dict[str, JsonValue]:
    """The fields of a body that is a JSON object; an empty body has none.

    Raises:
        TooLarge: as for `read_body`.
        InputError: the body cannot be unpacked, is not JSON (400), or not an object (422).
    """
    text = (await read_body(request, limit)).json_text
    value = parse_json(text, _OBJECT_HINT) if text else {}
    if not isinstance(value, dict):
        raise InputError(f"the body is a JSON {_json_type(value)}; {_OBJECT_HINT}")
    return value


def parse_json(text: bytes | str, hint: str, *, allow_inf_nan: bool = True) -> JsonValue:
    """The value of a JSON text; `hint` says what to send.

    Raises:
        InputError: it is not JSON (400), or an object in it has a name twice (422).
    """
    try:
        value = from_json(text, allow_inf_nan=allow_inf_nan)
    except ValueError as error:
        raise InputError(f"the body is not JSON ({error}); {hint}", status=400) from error
    _check_names_once(text)
    return cast("JsonValue", value)


def _check_names_once(text: bytes | str) -> None:
    """Raise `InputError` for a name that an object has twice: readers differ in which of the values they take."""
    json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=_once)


def _once(pairs: list[tuple[str, object]]) -> None:
    if len(pairs) > len({name for name, _ in pairs}):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError("is given twice in the body", option=twice, want="give it once", field=twice)


class PayloadReader(Generic[Payload]):
    """Reads the payloads of runs of one function."""

    def __init__(self, function: ServedFunction[Payload, Any]) -> None:
        self._parser = function.parse
        self._name = function.endpoint.name
        self._adapter: TypeAdapter[Payload] = TypeAdapter(function.payload.annotation)
        self._hint = _hint(self._adapter)
        self._has_secrets = function.payload.has_secrets

    def read(self, body: ReceivedBody) -> Payload:
        """The payload. An empty body is `null` if that fits, else an empty object.

        If the function has a parser of its own, it reads every body that is not sent as JSON.

        Raises:
            InputError: the body is not JSON (400), does not fit, or the parser raises (422).
        """
        if self._parser is not None and not body.is_json:
            return parse_payload(self._parser, body.to_text(), self._name)
        given = body.json_text
        fault: ValidationError | None = None
        for text in [given] if given else [b"null", b"{}"]:
            try:
                value = self._adapter.validate_json(text, by_alias=True, by_name=True)
                _check_names_once(text)
                return value
            except ValidationError as error:
                fault = error
        assert fault is not None
        if given:
            parse_json(given, self._hint)
        raise invalid_field(fault, secret=self._has_secrets) from fault


def invalid_field(error: ValidationError, *, secret: bool = False) -> InputError:
    """The error for the first field that does not fit; of a type with a `secret`, it does not quote what was sent."""
    first = error.errors(include_url=False, include_context=False, include_input=secret)[0]
    return does_not_fit(first["loc"], misfit_reason(first))


def does_not_fit(path: Iterable[object], message: str) -> InputError:
    """The error for a value that is not of its type; `path` leads to it, and is empty for the whole."""
    field = ".".join(str(part) for part in path)
    return InputError(f"does not fit: {message}", option=field, field=field) if field else InputError(message)


def _content_length(request: "Request") -> int:
    length = request.headers.get("content-length", "")
    # A server checks what it is sent; int() alone would take "+5", "1_000" and digits of other scripts.
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 0


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit:,} bytes; send less, or raise BATCHFLOW_MAX_BODY")


def _hint(adapter: TypeAdapter[Any]) -> str:
    try:
        kind = adapter.json_schema().get("type")
    except PydanticInvalidForJsonSchema:
        kind = None
    return _HINTS.get(str(kind), "send JSON")


def _json_type(value: JsonValue) -> str:
    match value:
        case list():
            return "array"
        case str():
            return "string"
        case bool():
            return "boolean"
        case None:
            return "null"
        case _:
            return "number"
