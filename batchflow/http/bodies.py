"""Reading request bodies: their bytes, their JSON, the payload of a run. The command reads payloads here too."""

from codecs import BOM_UTF8
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import from_json

from batchflow.errors import InputError, TooLarge
from batchflow.serve.failure import describe_error
from batchflow.serve.functions import ServedFunction

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


async def read_body(request: "Request", limit: int) -> bytes:
    """The bytes of the body.

    Raises:
        TooLarge: the body is larger than `limit` bytes; no more than that is read.
    """
    chunks: list[bytes] = []
    size = 0
    if _content_length(request) > limit:
        raise _too_large(limit)
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


async def read_object(request: "Request", limit: int) -> dict[str, JsonValue]:
    """The fields of a body that is a JSON object; an empty body and `null` have none.

    Raises:
        TooLarge: as for `read_body`.
        InputError: the body is not JSON (400), or not an object (422).
    """
    body = (await read_body(request, limit)).removeprefix(BOM_UTF8)
    value = parse_json(body, _OBJECT_HINT) if body.strip() else None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"the body is a JSON {_json_type(value)}; {_OBJECT_HINT}")
    return value


def has_json_content_type(request: "Request") -> bool:
    """True if the Content-Type of a request is one of JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in ("application/json", "text/json") or kind.endswith("+json")


def parse_json(body: bytes, hint: str, *, allow_inf_nan: bool = True) -> JsonValue:
    """The value of a JSON text, which may begin with a byte order mark; `hint` says what to send.

    Raises:
        InputError: it is not JSON (400).
    """
    try:
        return cast("JsonValue", from_json(body.removeprefix(BOM_UTF8), allow_inf_nan=allow_inf_nan))
    except ValueError as error:
        raise InputError(f"the body is not JSON ({error}); {hint}", status=400) from error


def decode_text(body: bytes) -> str:
    """The text of a body.

    Raises:
        InputError: it is not UTF-8 (400).
    """
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InputError("the body is neither JSON nor UTF-8 text", status=400) from error


class PayloadReader(Generic[Payload]):
    """Reads the payloads of runs of one function."""

    def __init__(self, function: ServedFunction[Payload, Any]) -> None:
        self._parser = function.parse
        self._name = function.endpoint.name
        self._adapter: TypeAdapter[Payload] = TypeAdapter(function.payload.annotation)
        self._hint = _hint(self._adapter)

    def read(self, body: bytes, *, is_json: bool) -> Payload:
        """The payload. An empty body is `null` if that fits, else an empty object.

        If the function has a parser of its own, it reads every body that is not sent as JSON.

        Raises:
            InputError: the body is not JSON (400), does not fit, or the parser raises (422).
        """
        if self._parser is not None and not is_json:
            return self._run_parser(body)
        body = body.removeprefix(BOM_UTF8)
        fault: ValidationError | None = None
        for text in [body] if body.strip() else [b"null", b"{}"]:
            try:
                return self._adapter.validate_json(text, by_alias=True, by_name=True)
            except ValidationError as error:
                fault = error
        assert fault is not None
        if body.strip():
            parse_json(body, self._hint)
        raise invalid_field(fault) from fault

    def _run_parser(self, body: bytes) -> Payload:
        assert self._parser is not None
        text = decode_text(body)
        try:
            return self._parser(text)
        except Exception as error:
            name = getattr(self._parser, "__name__", "initial_payload_parser")
            raise InputError(
                f"the parser '{name}' of '{self._name}' cannot read this: {describe_error(error)}"
            ) from error


def invalid_field(error: ValidationError) -> InputError:
    """The error for the first field that does not fit."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return does_not_fit(first["loc"], first["msg"])


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
        case _:
            return "number"
