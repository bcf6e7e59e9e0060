"""The names a workflow goes by: routes, steps, keys on the wire."""

import re
from dataclasses import dataclass

from pydantic.alias_generators import to_camel

from batchflow.errors import ConfigurationError

_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def kebab(name: str) -> str:
    """`WelcomePlaceholder` → `welcome-placeholder`, `send_mail` → `send-mail`, `HTTPCheck` → `http-check`."""
    return _HUMPS.sub("-", name).replace("_", "-").strip("-").lower()


def camel(name: str) -> str:
    """`paid_only` → `paidOnly`, `order-line` → `orderLine`."""
    return to_camel(name.replace("-", "_"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """Where the layers are served, below the application's prefix."""

    process: str
    paginate: str
    execute: str
    complete: str

    @classmethod
    def of(cls, owner: str, workflow: str, verb: str, entity: str, plural: str) -> "Routes":
        """The routes of a workflow.

        Raises:
            ConfigurationError: two of them are the same.
        """
        routes = cls(
            process=f"/{workflow}/process-{plural}",
            paginate=f"/{workflow}/paginate-{plural}",
            execute=f"/{workflow}/{verb}-{entity}",
            complete=f"/{workflow}/complete",
        )
        if routes.execute in (routes.process, routes.paginate):
            raise ConfigurationError(
                f"{owner} would serve two layers at '{routes.execute}'; set another entity_plural or execute_verb"
            )
        return routes


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The names of a workflow's durable steps, and of the effects that are logged beside them."""

    get_all_items: str
    filter_existing: str
    trigger_paginate: str
    get_batch: str
    fanout: str
    execute: str
    next_page: str
    get_item: str
    process_item: str
    save_result: str
    on_complete: str

    @classmethod
    def of(cls, workflow: str) -> "Steps":
        """The steps of a workflow, `{workflow}:get-batch` and so on."""
        return cls(**{name: f"{workflow}:{name.replace('_', '-')}" for name in cls.__dataclass_fields__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """The entity's keys in payloads and results: `userId`, `userIds`, and the word for many of them."""

    id: str
    ids: str
    plural: str

    @classmethod
    def of(cls, entity: str, plural: str) -> "Wire":
        """The keys of an entity."""
        return cls(id=f"{camel(entity)}Id", ids=f"{camel(entity)}Ids", plural=plural)
