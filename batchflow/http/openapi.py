"""The parts of the OpenAPI document that FastAPI cannot derive: bodies that are read by hand, error responses."""

from typing import Any, cast

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from batchflow.http.schemas import ErrorResponse

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "the body is not JSON"},
    413: {"model": ErrorResponse, "description": "the body is too large"},
    422: {"model": ErrorResponse, "description": "a field is unknown, missing or does not fit"},
    503: {
        "model": ErrorResponse,
        "description": "the store cannot be used for now; Retry-After says when to try again",
    },
}


_DEFINITIONS = "#/$defs/"


def request_body(annotation: Any, *, required: bool, closed: bool = False) -> dict[str, Any]:
    """What the OpenAPI document says of a body that is read by hand; a `closed` one takes no other fields."""
    schema = {**_json_schema(annotation), **({"additionalProperties": False} if closed else {})}
    body: dict[str, Any] = {"required": required, "content": {"application/json": {"schema": schema}}}
    return {"requestBody": body}


def _json_schema(annotation: Any) -> dict[str, Any]:
    try:
        schema = TypeAdapter(annotation).json_schema(by_alias=True)
    except PydanticInvalidForJsonSchema:
        return {}
    return cast("dict[str, Any]", _inline_refs(schema, schema.pop("$defs", {}), ()))


def _inline_refs(part: Any, definitions: dict[str, Any], within: tuple[str, ...]) -> Any:
    """A schema with its references resolved: inside an OpenAPI document they would point nowhere.

    A type that holds itself is left open at the second level.
    """
    match part:
        case {"$ref": str(ref), **others}:
            name = ref.removeprefix(_DEFINITIONS)
            if name in within:
                return {"title": name}
            found = _inline_refs(definitions.get(name, {}), definitions, (*within, name))
            return {**found, **cast("dict[str, Any]", _inline_refs(others, definitions, within))}
        case dict():
            fields = cast("dict[str, Any]", part)
            return {k: _inline_refs(v, definitions, within) for k, v in fields.items() if not _is_discriminator(v)}
        case list():
            return [_inline_refs(it, definitions, within) for it in cast("list[Any]", part)]
        case _:
            return part


def _is_discriminator(part: Any) -> bool:
    """A discriminator is made of references to definitions, and `oneOf` says enough without it."""
    match part:
        case {"propertyName": str(), "mapping": dict()}:
            return True
        case _:
            return False
