"""The fields of a payload: which names `-p` may give, and by which one the payload is read."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, RootModel, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

from batchflow.batch.names import camel
from batchflow.batch.wire_names import spellings
from batchflow.core.spelling import did_you_mean
from batchflow.errors import InputError

_OPTIONS = {
    "dedupId": "--dedup-id",
    "dedup_id": "--dedup-id",
    "delay": "--delay",
    "label": "--label",
    "payload": "--payload",
    "runId": "--run-id",
    "run_id": "--run-id",
    "wait": "--wait",
}
_UNIONS: tuple[object, ...] = (Union, UnionType)


class Fields:
    """What is known of the fields of a payload type; of `dict` and the like nothing is, and every name fits."""

    def __init__(self, annotation: Any, route: str) -> None:
        self._route = route
        self._known = _known(annotation)

    def field(self, name: str) -> str:
        """The one name that a field is written by: the same for its alias, camelCase and its own name."""
        return name if self._known is None else self._known.get(name, name)

    def check(self, name: str) -> None:
        """Raise `InputError` for a name that no field goes by."""
        if self._known is None or name in self._known:
            return
        if name in _OPTIONS:
            raise InputError(f"'{name}' is no field of the payload of '{self._route}' but an option: {_OPTIONS[name]}")
        meant = did_you_mean(name, set(self._known.values())) if self._known else ", which has no fields"
        raise InputError(f"unknown field '{name}' of the payload of '{self._route}'{meant}")


def _known(annotation: Any) -> Mapping[str, str] | None:
    """Every name a field goes by, with the one it is written by; None where other names are taken, too."""
    origin: object = get_origin(annotation)
    args: tuple[Any, ...] = get_args(annotation)
    if origin is Annotated:
        return _known(args[0])
    if origin in _UNIONS:
        return _of_any([it for it in args if it is not NoneType])
    # `typing.is_typeddict` knows those of typing alone.
    if is_dataclass(annotation) or hasattr(annotation, "__required_keys__"):
        return _of_schema(annotation)
    return _of_model(annotation) if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _of_any(members: list[Any]) -> Mapping[str, str] | None:
    if len(members) == 1:
        return _known(members[0])
    known: dict[str, str] = {}
    for member in members:
        found = _known(member)
        if found is None:
            return None
        # Another member may know the field by another name, so it stays as it is; camelCase may be no name of it.
        known |= {name: name for name, written in found.items() if name == written or name != camel(written)}
    return known


def _of_model(model: type[BaseModel]) -> Mapping[str, str] | None:
    if issubclass(model, RootModel):
        return _known(model.model_fields["root"].annotation)
    validators = model.__pydantic_decorators__.model_validators.values()
    # What looks at the payload before the fields do may take any name.
    takes_more = model.model_config.get("extra") == "allow" or any(it.info.mode != "after" for it in validators)
    return None if takes_more else {name: _written(model, name, field) for name, field in spellings(model).items()}


def _written(model: type[BaseModel], name: str, field: str) -> str:
    alias = model.model_fields[field].validation_alias
    written = alias if isinstance(alias, str) else field
    # One of several aliases stays as it is, and so does the beginning of a path to the field.
    return written if name in {field, camel(field)} else name


def _of_schema(annotation: Any) -> Mapping[str, str] | None:
    known: dict[str, str] = {}
    try:
        for by_alias in (True, False):
            schema = TypeAdapter[Any](annotation).json_schema(by_alias=by_alias)
            schema = schema.get("$defs", {}).get(schema.get("$ref", "").rpartition("/")[2], schema)
            if schema.get("additionalProperties"):
                return None
            known |= {name: name for name in schema.get("properties", {})}
    except (PydanticInvalidForJsonSchema, PydanticUserError):
        return None
    return known
