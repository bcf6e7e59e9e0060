"""Request bodies: read no further than the limit, and documented."""

from typing import Any, cast

from fastapi import Request
from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from batchflow.errors import TooLarge

_DEFINITIONS = "#/$defs/"


async def read_body(request: Request, limit: int) -> bytes:
    """The body as it was sent.

    Raises:
        TooLarge: it is larger than `limit` bytes; no more than that is kept of it.
    """
    chunks: list[bytes] = []
    size = 0
    if _declared(request) > limit:
        raise _too_large(limit)
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def says_json(request: Request) -> bool:
    """Whether the request's Content-Type says that its body is JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in ("application/json", "text/json") or kind.endswith("+json")


def documented(annotation: Any, *, required: bool, closed: bool = False) -> dict[str, Any]:
    """What the OpenAPI document says of a body that is read by hand; a `closed` one takes no other fields."""
    schema = {**_schema(annotation), **({"additionalProperties": False} if closed else {})}
    body: dict[str, Any] = {"required": required, "content": {"application/json": {"schema": schema}}}
    return {"requestBody": body}


def _declared(request: Request) -> int:
    length = request.headers.get("content-length", "")
    # A server checks what it is sent; int() alone would take "+5", "1_000" and digits of other scripts.
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 0


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit:,} bytes; send less, or raise BATCHFLOW_MAX_BODY")


def _schema(annotation: Any) -> dict[str, Any]:
    try:
        schema = TypeAdapter(annotation).json_schema(by_alias=True)
    except PydanticInvalidForJsonSchema:
        return {}
    return cast("dict[str, Any]", _inlined(schema, schema.pop("$defs", {}), ()))


def _inlined(part: Any, definitions: dict[str, Any], within: tuple[str, ...]) -> Any:
    """A schema with its references resolved: inside an OpenAPI document they would point nowhere.

    A type that holds itself is left open at the second level.
    """
    match part:
        case {"$ref": str(ref), **others}:
            name = ref.removeprefix(_DEFINITIONS)
            if name in within:
                return {"title": name}
            found = _inlined(definitions.get(name, {}), definitions, (*within, name))
            return {**found, **cast("dict[str, Any]", _inlined(others, definitions, within))}
        case dict():
            fields = cast("dict[str, Any]", part)
            return {k: _inlined(v, definitions, within) for k, v in fields.items() if not _is_mapping(v)}
        case list():
            return [_inlined(it, definitions, within) for it in cast("list[Any]", part)]
        case _:
            return part


def _is_mapping(part: Any) -> bool:
    """A discriminator is made of references to definitions, and `oneOf` says enough without it."""
    match part:
        case {"propertyName": str(), "mapping": dict()}:
            return True
        case _:
            return False
