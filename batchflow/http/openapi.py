"""The parts of the OpenAPI document that FastAPI cannot derive: bodies that are read by hand, error responses."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, cast

from pydantic import AwareDatetime, BaseModel, BeforeValidator, GetJsonSchemaHandler, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import CoreSchema

from batchflow.core import retry_delay
from batchflow.core.duration import DURATION_PATTERN
from batchflow.http.schemas.base import BatchflowErrorResponse
from batchflow.serve.validation import MAX_LABEL
from batchflow.wire import qstash

T = TypeVar("T")


class QueryForm:
    """Describes an optional value as one that is never null, as a URL has no null, and has a form beside its type."""

    def __init__(self, **form: Any) -> None:
        self._form = form

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        others = [it for it in found.get("anyOf", ()) if it != {"type": "null"}]
        return {**(others[0] if len(others) == 1 else found), **self._form}


_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})")


def _check_time(value: object) -> object:
    # pydantic takes a bare number as seconds, so that the year 2030 would be a time of 1970.
    if isinstance(value, str) and not _TIME.fullmatch(value):
        raise ValueError("write a time with its offset, such as 2030-01-01T00:00:00Z")
    return value


TimeParam: TypeAlias = Annotated[AwareDatetime | None, BeforeValidator(_check_time), QueryForm()]
"""A time of a query, in the form of RFC 3339, that may be left out."""

QueryParam: TypeAlias = Annotated[T | None, QueryForm()]
"""A parameter of a query that may be left out."""

_HEADER_FORMS: Mapping[str, Mapping[str, Any]] = {
    qstash.RUN_ID: {"pattern": "^(?!bat_)[A-Za-z0-9_:-]{1,128}$"},
    qstash.DEDUP_ID: {"minLength": 1},
    qstash.DELAY: {"pattern": f"^[0-9]{{1,9}}$|{DURATION_PATTERN}"},
    qstash.NOT_BEFORE: {"pattern": "^[0-9]{1,12}$"},
    qstash.LABEL: {"minLength": 1, "maxLength": MAX_LABEL},
    qstash.RETRIES: {"pattern": "^[0-9]{1,9}$"},
    qstash.RETRY_DELAY: {"minLength": 1, "maxLength": retry_delay.MAX_LENGTH},
    qstash.FLOW_KEY: {"pattern": "^[A-Za-z0-9._-]+$"},
    qstash.FLOW_VALUE: {"pattern": r"(parallelism|rate)\s*="},
}
"""The forms of the headers' values; one that fits them may still be refused, with a sentence."""

_DEFINITIONS = "#/$defs/"
_ERRORS = {
    400: "the body is not JSON",
    401: "the token of the app is missing or wrong",
    403: "the request is not allowed: from another machine without a token, or from a page of another origin",
    404: "it does not exist",
    413: "the body is too large",
    415: "the body has a Content-Encoding other than gzip and deflate",
    422: "a field or parameter is unknown, missing or does not fit",
    503: "the store is unavailable for now; Retry-After says when to try again",
}
_ERROR_CONTENT = {
    "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{BatchflowErrorResponse.__name__}"}}}
}
BODY_ERRORS = (400, 413, 415, 422, 503)
"""The errors of a route that reads a JSON body."""


def error_responses(*statuses: int, described: Mapping[int, str] | None = None) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for these statuses; `described` adds some with descriptions of their own."""
    descriptions = {**{status: _ERRORS[status] for status in statuses}, **(described or {})}
    # FastAPI makes a validator for each model of each route, which took most of the time that it takes to make an app.
    # The first one puts the schema into the document, under a name that no app has.
    of_first: dict[str, Any] = {"model": BatchflowErrorResponse}
    return {
        status: {"description": text, **(of_first if number == 0 else _ERROR_CONTENT)}
        for number, (status, text) in enumerate(descriptions.items())
    }


def header_parameters(descriptions: Mapping[str, str]) -> list[dict[str, Any]]:
    """The `parameters` of a route that reads these headers of QStash by hand."""
    return [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": text,
            "schema": {"type": "string", **_HEADER_FORMS.get(name, {})},
        }
        for name, text in descriptions.items()
    ]


def event_stream(model: type[BaseModel]) -> dict[str, Any]:
    """The 200 response of a route that streams documents of a model as server-sent events."""
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": _json_schema(model, "serialization"),
    }
    event = {
        "type": "object",
        "properties": {"data": data, "event": {"type": "string", "enum": ["message", "done"]}},
        "required": ["data"],
    }
    return {
        "description": "server-sent events: the whole after each change, the last one as event `done`",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "itemSchema": event}},
    }


def request_body(annotation: Any, *, required: bool, closed: bool = False, types: Iterable[str] = ()) -> dict[str, Any]:
    """The `requestBody` of a route that reads its body by hand: JSON, or text of one of `types`.

    A `closed` body takes no fields but those of its schema.
    """
    schema = {**_json_schema(annotation), **({"additionalProperties": False} if closed else {})}
    content = {"application/json": {"schema": schema}, **{type: {"schema": {"type": "string"}} for type in types}}
    return {"requestBody": {"required": required, "content": content}}


def _json_schema(annotation: Any, mode: Literal["validation", "serialization"] = "validation") -> dict[str, Any]:
    try:
        schema = TypeAdapter(annotation).json_schema(by_alias=True, mode=mode)
    except PydanticInvalidForJsonSchema:
        return {}
    return cast("dict[str, Any]", _inline_refs(schema, schema.pop("$defs", {}), ()))


def _inline_refs(part: Any, definitions: dict[str, Any], within: tuple[str, ...]) -> Any:
    """A schema with its references resolved: inside an OpenAPI document they would point nowhere.

    A type that contains itself is left open at the second level.
    """
    match part:
        case {"$ref": str(ref), **others}:
            name = ref.removeprefix(_DEFINITIONS)
            if name in within:
                return {"title": name}
            found = _inline_refs(definitions.get(name, {}), definitions, (*within, name))
            return {**found, **cast("dict[str, Any]", _inline_refs(others, definitions, within))}
        case {"writeOnly": True, "default": _}:
            # A secret that is preset.
            rest = {
                name: it for name, it in cast("dict[str, Any]", part).items() if name not in ("default", "examples")
            }
            return _inline_refs(rest, definitions, within)
        case dict():
            fields = cast("dict[str, Any]", part)
            parts = {k: _inline_refs(v, definitions, within) for k, v in fields.items() if not _is_discriminator(v)}
            return _without_titles(parts)
        case list():
            return [_inline_refs(it, definitions, within) for it in cast("list[Any]", part)]
        case _:
            return part


def _without_titles(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema whose properties have no generated titles: "Dryrun" says less than `dryRun`."""
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return schema
    cut = dict(cast("dict[str, Any]", properties))
    for name, part in cut.items():
        if isinstance(part, dict):
            fields = cast("dict[str, Any]", part)
            cut[name] = {key: value for key, value in fields.items() if key != "title"}
    return {**schema, "properties": cut}


def _is_discriminator(part: Any) -> bool:
    """True of a discriminator, which consists of references to definitions; `oneOf` is enough without it."""
    match part:
        case {"propertyName": str(), "mapping": dict()}:
            return True
        case _:
            return False
