"""`-p name=value` and `--params JSON`: read against the workflow's parameters."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, RootModel, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic_core import PydanticUndefined, from_json, to_json

from batchflow.batch.bound import Workflow
from batchflow.batch.names import camel
from batchflow.batch.wire_names import spellings, wire_name
from batchflow.core.spelling import did_you_mean
from batchflow.errors import InputError
from batchflow.http.bodies import PayloadReader
from batchflow.serve.functions import ServedFunction

_RUN_OPTIONS = {
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


class PayloadFields:
    """What is known of the fields of a payload type; of `dict` and the like nothing is, and every name fits."""

    def __init__(self, annotation: Any, route: str) -> None:
        self._route = route
        self._known = _known_names(annotation)

    def field(self, name: str) -> str:
        """The one name that a field is written by: the same for its alias, camelCase and its own name."""
        return name if self._known is None else self._known.get(name, name)

    def check(self, name: str) -> None:
        """Raise `InputError` for a name that no field goes by."""
        if self._known is None or name in self._known:
            return
        if name in _RUN_OPTIONS:
            raise InputError(
                f"'{name}' is no field of the payload of '{self._route}' but an option: {_RUN_OPTIONS[name]}"
            )
        meant = did_you_mean(name, set(self._known.values())) if self._known else ", which has no fields"
        raise InputError(f"unknown field '{name}' of the payload of '{self._route}'{meant}")


def _known_names(annotation: Any) -> Mapping[str, str] | None:
    """Every name a field goes by, with the one it is written by; None where other names are taken, too."""
    origin: object = get_origin(annotation)
    args: tuple[Any, ...] = get_args(annotation)
    if origin is Annotated:
        return _known_names(args[0])
    if origin in _UNIONS:
        return _of_any([it for it in args if it is not NoneType])
    # `typing.is_typeddict` knows those of typing alone.
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
        # Another member may know the field by another name, so it stays as it is; camelCase may be no name of it.
        known |= {name: name for name, written in found.items() if name == written or name != camel(written)}
    return known


def _of_model(model: type[BaseModel]) -> Mapping[str, str] | None:
    if issubclass(model, RootModel):
        return _known_names(model.model_fields["root"].annotation)
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


T = TypeVar("T")

_BATCH_OPTIONS = {
    "dryRun": "--dry-run",
    "dry_run": "--dry-run",
    "force": "--force",
    "limit": "--limit",
    "ids": "--ids",
    "label": "--label",
    "batchId": "--batch-id",
    "batch_id": "--batch-id",
    "dedupId": "--dedup-id",
    "dedup_id": "--dedup-id",
    "dedup": "--dedup",
    "delay": "--delay",
    "notBefore": "--not-before",
    "not_before": "--not-before",
    "headers": "--header",
}


def read_params(workflow: Workflow[Any, Any], pairs: Sequence[str], text: str | None) -> BaseModel:
    """The parameters of a trigger: `text` is a JSON object, each pair `name=value`, and pairs win.

    Names are those of the wire (`paidOnly`) or of the model (`paid_only`). A value is taken as text first, and as JSON
    where the text does not fit, so that lists and numbers in strict models can be given.

    Raises:
        InputError: a name is unknown, missing or given twice, or a value does not fit; one sentence that names it.
    """
    reader = _ParamsReader(workflow)
    given = reader.parse_object(text) | reader.parse_pairs(pairs)
    reader.check_required(given)
    as_text = {name for pair in pairs for name in [reader.field(pair.partition("=")[0])]}
    return read_with_json_fallback(given, as_text, reader.validate, reader.field)


def read_with_json_fallback(
    given: dict[str, Any], as_text: set[str], read: Callable[[dict[str, Any]], T], field: Callable[[str], str]
) -> T:
    """What `read` makes of `given`; one of the fields `as_text` that does not fit as text is tried as JSON.

    `field` gives the name in `given` of one that an error names.

    Raises:
        InputError: what `read` raises, of a value that does not fit either way.
    """
    given, left = dict(given), set(as_text)
    while True:
        try:
            return read(given)
        except InputError as error:
            name = field((error.field or "").partition(".")[0])
            if name not in left:
                raise
            left.discard(name)
            try:
                given[name] = from_json(given[name])
            except ValueError:
                raise error from None


class _ParamsReader:
    def __init__(self, workflow: Workflow[Any, Any]) -> None:
        self._workflow = workflow
        self._model = workflow.definition.params
        self._spellings = spellings(self._model)

    def field(self, name: str) -> str:
        """The field that goes by a name; the name itself where none does."""
        return self._spellings.get(name, name)

    def parse_pairs(self, pairs: Sequence[str]) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for pair in pairs:
            name, equals, value = pair.partition("=")
            if not equals:
                raise InputError(f"'-p {pair}' is no parameter; write -p name=value")
            field = self._check_name(name)
            if field in given:
                raise InputError(
                    f"the parameter '{name}' is given twice; give it once, a list as JSON: -p {name}='[…]'"
                )
            given[field] = value
        return given

    def parse_object(self, text: str | None) -> dict[str, Any]:
        if text is None:
            return {}
        try:
            value = from_json(text)
        except ValueError as error:
            raise InputError(f"--params is no JSON: {error}") from error
        if not isinstance(value, dict):
            raise InputError(f"--params is a JSON object such as '{{\"paidOnly\": true}}', not {text}")
        return {self._check_name(name): it for name, it in cast("dict[str, Any]", value).items()}

    def check_required(self, given: dict[str, Any]) -> None:
        for name, field in self._model.model_fields.items():
            if name not in given and field.default is PydanticUndefined and field.default_factory is None:
                wanted = wire_name(name, field)
                raise InputError(f"'{self._workflow.name}' needs the parameter '{wanted}'; add -p {wanted}=VALUE")

    def validate(self, given: dict[str, Any]) -> BaseModel:
        # By their wire names, since that is how a sentence about them reads.
        named = {self._wire(name): value for name, value in given.items()}
        params: BaseModel = self._workflow.read(to_json(named)).params
        return params

    def _check_name(self, name: str) -> str:
        if name in self._spellings or self._model.model_config.get("extra") == "allow":
            return self.field(name)
        if name in _BATCH_OPTIONS:
            raise InputError(
                f"'{name}' is no parameter of '{self._workflow.name}' but an option: {_BATCH_OPTIONS[name]}"
            )
        known = [wire_name(field, info) for field, info in self._model.model_fields.items()]
        meant = did_you_mean(name, known) if known else ", which has no parameters"
        raise InputError(f"unknown parameter '{name}' of '{self._workflow.name}'{meant}")

    def _wire(self, name: str) -> str:
        field = self._model.model_fields.get(name)
        return name if field is None else wire_name(name, field)


Payload = TypeVar("Payload")


def read_payload(function: ServedFunction[Payload, Any], pairs: Sequence[str], text: str | None) -> Payload:
    """What a run is started with: `text` is JSON, or for the function's own parser if any; each pair is `name=value`.

    With pairs it is a JSON object, and they win over it, whatever name of a field it has. A value is taken as text
    first, and as JSON where the text does not fit.

    Raises:
        InputError: it is no JSON, does not fit, or no field has the name of a pair; one sentence.
    """
    reader = PayloadReader(function)
    given = "" if text is None else _read_source(text, "--payload")
    if not pairs:
        if given.strip() and function.parse is None:
            _parse_json(given, "--payload")
        return reader.read(given.encode(), is_json=function.parse is None)
    fields = PayloadFields(function.payload.annotation, function.endpoint.route)
    named = _parse_pairs(pairs, fields)
    rest = {name: value for name, value in _parse_object(given).items() if fields.field(name) not in named}
    return read_with_json_fallback(
        {**rest, **named}, set(named), lambda it: reader.read(to_json(it), is_json=True), fields.field
    )


def read_json(text: str, what: str) -> Any:
    """The JSON that `text` is, or that is in the file `@FILE`, or that comes by stdin with `-`.

    Raises:
        InputError: it is none, or the file cannot be read.
    """
    return _parse_json(_read_source(text, what), what)


def _parse_object(text: str) -> dict[str, Any]:
    value = _parse_json(text if text.strip() else "{}", "--payload")
    if not isinstance(value, dict):
        raise InputError("-p gives the fields of a JSON object; --payload beside it is one, or is left out")
    return cast("dict[str, Any]", value)


def _parse_pairs(pairs: Sequence[str], fields: PayloadFields) -> dict[str, str]:
    named: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"'-p {pair}' is no field; write -p name=value")
        fields.check(name)
        field = fields.field(name)
        if field in named:
            raise InputError(f"the field '{name}' is given twice; give it once, a list as JSON: -p {name}='[…]'")
        named[field] = value
    return named


def _read_source(text: str, what: str) -> str:
    if text == "-":
        return sys.stdin.read()
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{what} cannot be read from '{text[1:]}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{what} cannot be read from '{text[1:]}': it is no UTF-8 text") from error


def _parse_json(text: str, what: str) -> Any:
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise InputError(f"{what} is no JSON: {error}") from error
