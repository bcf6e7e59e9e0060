"""The names of a workflow: routes, steps, and fields of its payloads."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pydantic import AliasChoices, AliasPath, BaseModel
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from batchflow.errors import ConfigurationError

_WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def kebab_case(name: str) -> str:
    """`WelcomePlaceholder` → `welcome-placeholder`, `send_mail` → `send-mail`, `HTTPCheck` → `http-check`."""
    return _WORD_BOUNDARY.sub("-", name).replace("_", "-").strip("-").lower()


def camel_case(name: str) -> str:
    """`paid_only` → `paidOnly`, `order-line` → `orderLine`."""
    return to_camel(name.replace("-", "_"))


def quantity(count: int, noun: str, plural: str | None = None) -> str:
    """`1 page`, `1,000 pages`; the plural has an s unless it is given."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


class Routes(NamedTuple):
    """The routes of the layers, below the application's prefix."""

    process: str
    paginate: str
    execute: str
    complete: str

    @classmethod
    def of(cls, class_name: str, workflow: str, verb: str, entity: str, plural: str) -> "Routes":
        """Return the routes of a workflow.

        Raises:
            ConfigurationError: two routes are equal.
        """
        routes = cls(
            process=f"/{workflow}/process-{plural}",
            paginate=f"/{workflow}/paginate-{plural}",
            execute=f"/{workflow}/{verb}-{entity}",
            complete=f"/{workflow}/complete",
        )
        if routes.execute in (routes.process, routes.paginate):
            raise ConfigurationError(
                f"{class_name} would serve two layers at '{routes.execute}'; set another entity_plural or execute_verb"
            )
        return routes


class StepNames(NamedTuple):
    """The names of a workflow's durable steps, and of the log lines about other effects."""

    get_all_items: str
    filter_existing: str
    trigger_paginate: str
    get_batch: str
    item_flow: str
    fanout: str
    execute: str
    next_page: str
    get_item: str
    process_item: str
    process_items: str
    save_result: str
    on_success: str
    on_failure: str
    on_complete: str
    on_item_failure: str

    @classmethod
    def of(cls, workflow: str) -> "StepNames":
        """Return the names for a workflow: `{workflow}:get-batch` and so on."""
        return cls(**{name: f"{workflow}:{name.replace('_', '-')}" for name in cls._fields})


class WireKeys(NamedTuple):
    """The names of an entity in payloads and results, such as `userId` and `userIds`; the entity and its plural."""

    id: str
    ids: str
    entity: str
    plural: str

    @classmethod
    def of(cls, entity: str, plural: str) -> "WireKeys":
        """Return the names of an entity."""
        return cls(id=f"{camel_case(entity)}Id", ids=f"{camel_case(entity)}Ids", entity=entity, plural=plural)

    def quantity(self, count: int) -> str:
        """`1 user`, `1,000 users`."""
        return quantity(count, self.entity, self.plural)


RESERVED_FIELDS = (
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
    "failureBudget",
    "headers",
    "priority",
    "confirm",
    "page",
    "workflowRunId",
)
"""Fields of every workflow's payloads and answers, beside those named after the entity."""


def check_field_names(class_name: str, params: type[BaseModel], wire: WireKeys) -> None:
    """Raise `ConfigurationError` for a parameter with a reserved name, or with the name of another one."""
    reserved = {*RESERVED_FIELDS, wire.id, wire.ids}
    seen: dict[str, str] = {}
    for name, field in params.model_fields.items():
        for alias in dict.fromkeys((name, camel_case(name), *_aliases(field))):
            if alias in reserved:
                raise ConfigurationError(
                    f"{class_name}'s parameter '{params.__name__}.{name}' goes by '{alias}' in payloads, "
                    f"which is batchflow's own there; name it otherwise"
                )
            if seen.setdefault(alias, name) != name:
                raise ConfigurationError(
                    f"{class_name}'s parameters '{seen[alias]}' and '{name}' of {params.__name__} both go by "
                    f"'{alias}' in payloads; rename one"
                )


def field_names(params: type[BaseModel]) -> Mapping[str, str]:
    """Map every accepted name of a parameter (its own, its aliases, camelCase) to its field."""
    return {
        alias: name
        for name, field in params.model_fields.items()
        for alias in (name, camel_case(name), *_aliases(field))
    }


def wire_name(name: str, field: FieldInfo) -> str:
    """Return the documented name of a parameter: its alias, or else its name in camelCase."""
    return field.alias or camel_case(name)


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
