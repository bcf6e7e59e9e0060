"""`-p name=value` and `--params JSON`: read against the workflow's parameters."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from pydantic import BaseModel
from pydantic_core import PydanticUndefined, from_json, to_json

from batchflow.batch.bound import Workflow
from batchflow.batch.wire_names import spellings, wire_name
from batchflow.core.spelling import did_you_mean
from batchflow.errors import InputError

T = TypeVar("T")

_OPTIONS = {
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
    reader = _Reader(workflow)
    given = reader.of_json(text) | reader.of_pairs(pairs)
    reader.check_required(given)
    as_text = {name for pair in pairs for name in [reader.field(pair.partition("=")[0])]}
    return fitted(given, as_text, reader.validated, reader.field)


def fitted(
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


class _Reader:
    def __init__(self, workflow: Workflow[Any, Any]) -> None:
        self._workflow = workflow
        self._model = workflow.definition.params
        self._spellings = spellings(self._model)

    def field(self, name: str) -> str:
        """The field that goes by a name; the name itself where none does."""
        return self._spellings.get(name, name)

    def of_pairs(self, pairs: Sequence[str]) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for pair in pairs:
            name, equals, value = pair.partition("=")
            if not equals:
                raise InputError(f"'-p {pair}' is no parameter; write -p name=value")
            field = self._known(name)
            if field in given:
                raise InputError(
                    f"the parameter '{name}' is given twice; give it once, a list as JSON: -p {name}='[…]'"
                )
            given[field] = value
        return given

    def of_json(self, text: str | None) -> dict[str, Any]:
        if text is None:
            return {}
        try:
            value = from_json(text)
        except ValueError as error:
            raise InputError(f"--params is no JSON: {error}") from error
        if not isinstance(value, dict):
            raise InputError(f"--params is a JSON object such as '{{\"paidOnly\": true}}', not {text}")
        return {self._known(name): it for name, it in cast("dict[str, Any]", value).items()}

    def check_required(self, given: dict[str, Any]) -> None:
        for name, field in self._model.model_fields.items():
            if name not in given and field.default is PydanticUndefined and field.default_factory is None:
                wanted = wire_name(name, field)
                raise InputError(f"'{self._workflow.name}' needs the parameter '{wanted}'; add -p {wanted}=VALUE")

    def validated(self, given: dict[str, Any]) -> BaseModel:
        # By their wire names, since that is how a sentence about them reads.
        named = {self._wire(name): value for name, value in given.items()}
        params: BaseModel = self._workflow.read(to_json(named)).params
        return params

    def _known(self, name: str) -> str:
        if name in self._spellings or self._model.model_config.get("extra") == "allow":
            return self.field(name)
        if name in _OPTIONS:
            raise InputError(f"'{name}' is no parameter of '{self._workflow.name}' but an option: {_OPTIONS[name]}")
        known = [wire_name(field, info) for field, info in self._model.model_fields.items()]
        meant = did_you_mean(name, known) if known else ", which has no parameters"
        raise InputError(f"unknown parameter '{name}' of '{self._workflow.name}'{meant}")

    def _wire(self, name: str) -> str:
        field = self._model.model_fields.get(name)
        return name if field is None else wire_name(name, field)
