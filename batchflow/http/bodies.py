"""Request bodies: read no further than the limit, and documented."""

from typing import Any, Generic, TypeVar, cast

from fastapi import Request
from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import from_json

from batchflow.errors import InputError, TooLarge
from batchflow.serve.failure import describe_error
from batchflow.serve.functions import ServedFunction


async def read_body(request: Request, limit: int) -> bytes:
    """The body as it was sent.

    Raises:
        TooLarge: it is larger than `limit` bytes; no more than that is kept of it.
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


def has_json_content_type(request: Request) -> bool:
    """Whether the request's Content-Type says that its body is JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in ("application/json", "text/json") or kind.endswith("+json")


def _content_length(request: Request) -> int:
    length = request.headers.get("content-length", "")
    # A server checks what it is sent; int() alone would take "+5", "1_000" and digits of other scripts.
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 0


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit:,} bytes; send less, or raise BATCHFLOW_MAX_BODY")


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


def parse_json(body: bytes, hint: str = _OBJECT_HINT) -> JsonValue:
    """The JSON value of a body; an empty one is `{}`. `wanted` says what to send.

    Raises:
        InputError: it is not JSON (400).
    """
    if not body.strip():
        return {}
    try:
        return cast("JsonValue", from_json(body))
    except ValueError as error:
        raise InputError(f"the body is not JSON ({error}); {hint}", status=400) from error


def parse_object(body: bytes) -> dict[str, JsonValue]:
    """The fields of a body that is a JSON object; `null` and an empty one have none.

    Raises:
        InputError: it is not JSON (400), or another kind of value (422).
    """
    value = parse_json(body)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"the body is a JSON {_json_type(value)}; {_OBJECT_HINT}")
    return value


def decode_text(body: bytes) -> str:
    """A body that is text.

    Raises:
        InputError: it is not UTF-8 (400).
    """
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InputError("the body is neither JSON nor UTF-8 text", status=400) from error


class PayloadReader(Generic[Payload]):
    """Reads what runs of one served function are started with."""

    def __init__(self, function: ServedFunction[Payload, Any]) -> None:
        self._parse = function.parse
        self._name = function.endpoint.name
        self._adapter: TypeAdapter[Payload] = TypeAdapter(function.payload.annotation)
        self._hint = _hint(self._adapter)

    def read(self, body: bytes, *, is_json: bool) -> Payload:
        """The payload; where there is no body, null stands in for one if it fits, else an empty object.

        Where the function has a parser of its own, it reads all that does not come as JSON.

        Raises:
            InputError: it is not JSON (400), does not fit, or the parser raises (422).
        """
        if self._parse is not None and not is_json:
            return self._run_parser(body)
        parse_json(body, self._hint)
        fault: ValidationError | None = None
        for text in [body] if body.strip() else [b"null", b"{}"]:
            try:
                return self._adapter.validate_json(text, by_alias=True, by_name=True)
            except ValidationError as error:
                fault = error
        assert fault is not None
        raise invalid_field(fault) from fault

    def _run_parser(self, body: bytes) -> Payload:
        assert self._parse is not None
        text = decode_text(body)
        try:
            return self._parse(text)
        except Exception as error:
            name = getattr(self._parse, "__name__", "initial_payload_parser")
            raise InputError(
                f"the parser '{name}' of '{self._name}' cannot read this: {describe_error(error)}"
            ) from error


def invalid_field(error: ValidationError) -> InputError:
    """The first thing that does not fit, in a sentence that names its place."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return InputError(f"'{field}' does not fit: {first['msg']}" if field else first["msg"], field=field or None)


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
