"""JSON on the command line: `--params`, `--payload`, `-p name=value`, the data of an event."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, RootModel, TypeAdapter
from pydantic.alias_generators import to_snake
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic_core import from_json, to_json

from batchflow.batch.bound import Workflow
from batchflow.batch.names import camel_case, field_names, wire_name
from batchflow.cli.options import BATCH_OPTIONS, RUN_OPTIONS, option_flag
from batchflow.core.suggestions import did_you_mean
from batchflow.errors import InputError
from batchflow.http.bodies import PayloadReader, ReceivedBody
from batchflow.serve.functions import ServedFunction
from batchflow.serve.validation import type_with_article

T = TypeVar("T")
Payload = TypeVar("Payload")

_UNIONS: tuple[object, ...] = (Union, UnionType)


def read_params(workflow: Workflow[Any, Any], pairs: Sequence[str], text: str | None) -> BaseModel:
    """The parameters of a trigger: `text` is a JSON object, each pair is `name=value`, and pairs win.

    A name is that of the wire (`paidOnly`) or of the model (`paid_only`). A value is read as text first, and as JSON if
    the text does not fit.

    Raises:
        InputError: a name is unknown, missing or repeated, or a value does not fit; the sentence names it.
    """
    fields = InputFields.of_params(workflow)
    given = {} if text is None else _parse_object(text, "--params")
    for name in given:
        fields.check(name)
    named = fields.parse_pairs(pairs)
    present = {fields.field(name) for name in given} | named.keys()
    for name, info in workflow.definition.params.model_fields.items():
        if info.is_required() and name not in present:
            wanted = wire_name(name, info)
            raise InputError(f"'{workflow.name}' needs the parameter '{wanted}'; add -p {wanted}=VALUE")
    return fields.read(given, named, lambda it: workflow.read_request(it).params)


def read_payload(function: ServedFunction[Payload, Any], pairs: Sequence[str], text: str | None) -> Payload:
    """The payload of a run: `text` is JSON, or the input of the function's own parser; each pair is `name=value`.

    With pairs the payload is a JSON object; they win over the fields of `text`. A value is read as text first, and as
    JSON if the text does not fit.

    Raises:
        InputError: the payload is not JSON or does not fit, or a pair names an unknown field; one sentence.
    """
    reader = PayloadReader(function)
    given = "" if text is None else _read_source(text, "--payload")
    if not pairs:
        if given.strip() and function.parse is None:
            _parse_json(given, "--payload")
        return reader.read(ReceivedBody(given.encode(), "" if function.parse else "application/json"))
    fields = InputFields.of_payload(function.payload.annotation, function.endpoint.route)
    named = fields.parse_pairs(pairs)
    rest = _parse_object(given, "--payload") if given.strip() else {}
    return fields.read(rest, named, lambda it: reader.read(ReceivedBody(to_json(it), "application/json")))


def read_json(text: str, what: str) -> Any:
    """The value of a JSON text, of the file `@FILE`, or of stdin for `-`.

    Raises:
        InputError: it is not JSON, or the file cannot be read.
    """
    return _parse_json(_read_source(text, what), what)


class InputFields:
    """The fields that `-p` may name: the parameters of a workflow, or the fields of a payload.

    `known` maps each name of a field to the one that the reader of the payload gets; other names are errors unless
    `allow_unknown`.
    """

    def __init__(
        self, noun: str, owner: str, options: Iterable[str], known: Mapping[str, str], *, allow_unknown: bool
    ) -> None:
        self._noun = noun
        self._owner = owner
        self._options = options
        self._known = known
        self._allow_unknown = allow_unknown
        self._suggestions = set(known.values())

    @classmethod
    def of_params(cls, workflow: Workflow[Any, Any]) -> "InputFields":
        """The parameters of a workflow."""
        model = workflow.definition.params
        allow_unknown = model.model_config.get("extra") == "allow"
        fields = cls("parameter", f"'{workflow.name}'", BATCH_OPTIONS, field_names(model), allow_unknown=allow_unknown)
        fields._suggestions = {wire_name(name, info) for name, info in model.model_fields.items()}
        return fields

    @classmethod
    def of_payload(cls, annotation: Any, route: str) -> "InputFields":
        """The fields of a payload's type. Any name fits one that has no fields of its own, such as `dict`."""
        known = _known_names(annotation)
        return cls("field", f"the payload of '{route}'", RUN_OPTIONS, known or {}, allow_unknown=known is None)

    def field(self, name: str) -> str:
        """The one name of a field with several names; an unknown name as it is."""
        return self._known.get(name, name)

    def check(self, name: str) -> None:
        """Raise `InputError` for the name of no field."""
        if self._allow_unknown or name in self._known:
            return
        if to_snake(name) in self._options:
            raise InputError(f"'{name}' is not a {self._noun} of {self._owner} but an option: {option_flag(name)}")
        meant = did_you_mean(name, self._suggestions) if self._known else f", which has no {self._noun}s"
        raise InputError(f"unknown {self._noun} '{name}' of {self._owner}{meant}")

    def parse_pairs(self, pairs: Sequence[str]) -> dict[str, str]:
        """The values of `-p name=value` by field.

        Raises:
            InputError: a pair is malformed, or its name is unknown or repeated.
        """
        named: dict[str, str] = {}
        for pair in pairs:
            name, equals, value = pair.partition("=")
            if not equals:
                raise InputError(f"'-p {pair}' is not a {self._noun}; write -p name=value")
            self.check(name)
            field = self.field(name)
            if field in named:
                raise InputError(
                    f"the {self._noun} '{name}' is given twice; give it once, a list as JSON: -p {name}='[…]'"
                )
            named[field] = value
        return named

    def read(self, given: Mapping[str, Any], named: Mapping[str, str], reader: Callable[[dict[str, Any]], T]) -> T:
        """Read an object of the fields `given` and, over them, the texts `named`.

        A text that does not fit is read as JSON instead, so that lists and strict numbers can be passed.

        Raises:
            InputError: the error of `reader`, for a value that fits neither way.
        """
        fields: dict[str, Any] = {name: it for name, it in given.items() if self.field(name) not in named} | dict(named)
        texts = set(named)
        while True:
            try:
                return reader(fields)
            except InputError as error:
                name = self.field((error.field or "").partition(".")[0])
                if name not in texts:
                    raise
                texts.discard(name)
                try:
                    fields[name] = from_json(fields[name])
                except ValueError:
                    raise error from None


def _known_names(annotation: Any) -> Mapping[str, str] | None:
    """Each name of a field, with the name that the reader of the payload gets; None if other names fit, too."""
    origin: object = get_origin(annotation)
    args: tuple[Any, ...] = get_args(annotation)
    if origin is Annotated:
        return _known_names(args[0])
    if origin in _UNIONS:
        return _of_any([it for it in args if it is not NoneType])
    # `typing.is_typeddict` does not know those of typing_extensions.
    if is_dataclass(annotation) or hasattr(annotation, "__required_keys__"):
        return _of_schema(annotation)
    return _of_model(annotation) if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _of_any(members: list[Any]) -> Mapping[str, str] | None:
    if len(members) == 1:
        return _known_names(members[0])
    known: dict[str, str] = {}
    for member in members:
        found = _known_names(member)
        if found is None:
            return None
        # Other members can have the field under another name, so names stay as they are; camelCase is not always one.
        known |= {name: name for name, written in found.items() if name == written or name != camel_case(written)}
    return known


def _of_model(model: type[BaseModel]) -> Mapping[str, str] | None:
    if issubclass(model, RootModel):
        return _known_names(model.model_fields["root"].annotation)
    validators = model.__pydantic_decorators__.model_validators.values()
    # A validator that runs before the fields do can accept any name.
    takes_more = model.model_config.get("extra") == "allow" or any(it.info.mode != "after" for it in validators)
    return None if takes_more else {name: _written(model, name, field) for name, field in field_names(model).items()}


def _written(model: type[BaseModel], name: str, field: str) -> str:
    alias = model.model_fields[field].validation_alias
    written = alias if isinstance(alias, str) else field
    # One of several aliases stays as it is; so does the first part of an alias path.
    return written if name in {field, camel_case(field)} else name


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


def _parse_object(text: str, what: str) -> dict[str, Any]:
    value = _parse_json(text, what)
    if not isinstance(value, dict):
        raise InputError(
            f'{what} must be a JSON object such as \'{{"name": "value"}}\', not {type_with_article(value)}'
        )
    return cast("dict[str, Any]", value)


def _read_source(text: str, what: str) -> str:
    if text == "-":
        return sys.stdin.read().removeprefix("\ufeff")
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{what} cannot be read from '{text[1:]}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{what} cannot be read from '{text[1:]}': it is not UTF-8 text") from error


def _parse_json(text: str, what: str) -> Any:
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise InputError(f"{what} is not JSON: {error}") from error
