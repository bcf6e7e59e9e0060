"""Which parameters of a workflow belong to its ledger: `processed_per`, read and checked, and the ledger's name."""

from collections.abc import Mapping
from typing import Any, cast, get_args, get_origin

from pydantic import BaseModel, PydanticUserError, Secret, SecretBytes, SecretStr, TypeAdapter
from pydantic_core import to_json

from batchflow.core.ledger import ledger_name
from batchflow.core.spelling import did_you_mean
from batchflow.errors import ConfigurationError

_SECRETS = (Secret, SecretStr, SecretBytes)


class LedgerScope:
    """Names the ledger of a batch: one for each combination of the values that these parameters have."""

    __slots__ = ("_adapters", "_workflow")

    def __init__(self, workflow: str, adapters: Mapping[str, TypeAdapter[Any]]) -> None:
        self._workflow = workflow
        self._adapters = adapters

    @classmethod
    def read(cls, owner: str, workflow: str, params: type[BaseModel], names: object) -> "LedgerScope":
        """The scope that `processed_per` of the class `owner` names.

        Raises:
            ConfigurationError: it is no tuple of names, one is no parameter, or one has no JSON that may be shown.
        """
        listed = cast("tuple[object, ...]", names) if isinstance(names, tuple) else None
        if listed is None or not all(isinstance(name, str) for name in listed):
            example = names if isinstance(names, str) and names.isidentifier() else "year"
            raise ConfigurationError(
                f"{owner}.processed_per cannot be {names!r}; write a tuple of names of parameters, such as "
                f"('{example}',)"
            )
        return cls(workflow, {name: _adapter(owner, params, name) for name in cast("tuple[str, ...]", listed)})

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters; none where the workflow has one ledger."""
        return tuple(self._adapters)

    def ledger(self, params: BaseModel) -> str:
        """The name of the ledger of a batch with these parameters."""
        if not self._adapters:
            return self._workflow
        values = {name: _jsonable(adapter, getattr(params, name)) for name, adapter in self._adapters.items()}
        return ledger_name(self._workflow, values)


def _adapter(owner: str, params: type[BaseModel], name: str) -> TypeAdapter[Any]:
    field = params.model_fields.get(name)
    if field is None:
        meant = did_you_mean(name, params.model_fields) if params.model_fields else ", which has none"
        raise ConfigurationError(f"{owner}.processed_per names '{name}', no parameter of {params.__name__}{meant}")
    wrong = f"{owner}.processed_per names '{params.__name__}.{name}'"
    if _is_secret(field.annotation):
        raise ConfigurationError(f"{wrong}, which is secret, and names of ledgers are shown; name another")
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
        adapter.json_schema(mode="serialization")
    except PydanticUserError as error:
        raise ConfigurationError(f"{wrong}, whose type has no JSON; name another") from error
    return adapter


def _is_secret(annotation: object) -> bool:
    kind = get_origin(annotation) or annotation
    if isinstance(kind, type) and issubclass(kind, _SECRETS):
        return True
    return any(map(_is_secret, get_args(annotation)))


def _jsonable(adapter: TypeAdapter[Any], value: Any) -> Any:
    dumped = adapter.dump_python(value, mode="json", by_alias=False, round_trip=True)
    # A set has no order, and a mapping's is no part of it: alike is to be written alike.
    return _sorted(sorted(dumped, key=to_json) if isinstance(value, set | frozenset) else dumped)


def _sorted(value: Any) -> Any:
    match value:
        case dict():
            pairs = cast("dict[str, Any]", value)
            return {name: _sorted(pairs[name]) for name in sorted(pairs)}
        case list():
            return [_sorted(it) for it in cast("list[Any]", value)]
        case _:
            return value
