"""Which names a payload's parts go by, and which a workflow's own parameters cannot take."""

from collections.abc import Iterator, Mapping

from pydantic import AliasChoices, AliasPath, BaseModel
from pydantic.fields import FieldInfo

from batchflow.batch.names import Wire, camel
from batchflow.errors import ConfigurationError

RESERVED = (
    "dryRun",
    "force",
    "cursor",
    "itemId",
    "itemIds",
    "limit",
    "label",
    "ids",
    "dedupId",
    "dedup",
    "batchId",
    "delay",
    "notBefore",
    "headers",
    "page",
    "workflowRunId",
)
"""What the payloads and answers of every workflow use themselves, beside the entity's own keys."""


def check_fields(owner: str, params: type[BaseModel], wire: Wire) -> None:
    """Raise `ConfigurationError` for a parameter that goes by a name the payloads use, or by another's name."""
    taken = {*RESERVED, wire.id, wire.ids}
    seen: dict[str, str] = {}
    for name, field in params.model_fields.items():
        for spelling in dict.fromkeys((name, camel(name), *_aliases(field))):
            if spelling in taken:
                raise ConfigurationError(
                    f"{owner}'s parameter '{params.__name__}.{name}' goes by '{spelling}' in payloads, "
                    f"which is batchflow's own there; name it otherwise"
                )
            if seen.setdefault(spelling, name) != name:
                raise ConfigurationError(
                    f"{owner}'s parameters '{seen[spelling]}' and '{name}' of {params.__name__} both go by "
                    f"'{spelling}' in payloads; rename one"
                )


def spellings(params: type[BaseModel]) -> Mapping[str, str]:
    """Every name a parameter may be sent by, and the field it stands for: its own, its aliases, camelCase."""
    return {
        spelling: name
        for name, field in params.model_fields.items()
        for spelling in (name, camel(name), *_aliases(field))
    }


def wire_name(name: str, field: FieldInfo) -> str:
    """The one name a parameter is written by in documentation: its alias, else its camelCase."""
    return field.alias or camel(name)


def _aliases(field: FieldInfo) -> Iterator[str]:
    for alias in (field.alias, field.serialization_alias, field.validation_alias):
        match alias:
            case str():
                yield alias
            case AliasPath(path=[str(first), *_]):
                yield first
            case AliasChoices(choices=choices):
                for choice in choices:
                    yield from _aliases(FieldInfo(validation_alias=choice))
            case _:
                pass
