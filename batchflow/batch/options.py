"""Reads and checks the options of a workflow's class."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from pydantic import BaseModel, PydanticUserError, TypeAdapter
from pydantic_core import to_json

from batchflow.core.batch import PRIORITY_DESCRIPTION, is_priority, ledger_name
from batchflow.core.duration import to_ms
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.flow import FlowControl
from batchflow.core.schedule import Schedule, as_schedule
from batchflow.core.secrets import secret_serializer
from batchflow.core.suggestions import did_you_mean
from batchflow.errors import ConfigurationError
from batchflow.serve.app_url import check_url

T = TypeVar("T")

OPTION_NAMES = (
    "name",
    "entity",
    "entity_plural",
    "execute_verb",
    "page_size",
    "chunk_size",
    "entry_flow",
    "paginate_flow",
    "execute_flow",
    "retry",
    "item_timeout",
    "group_size",
    "group_wait",
    "group_parallelism",
    "processed_ttl",
    "processed_per",
    "walk_first",
    "priority",
    "confirm_above",
    "schedule",
    "failure_budget",
    "notify_url",
)

BUDGET_EXAMPLE = "FailureBudget(max_failures=100), or None"
"""The valid values of a failure budget, for messages."""

GROUP_OPTIONS = ("group_size", "group_wait", "group_parallelism")
"""The options of `execute_many`."""

_SLUG = re.compile(r"[A-Za-z0-9]+(?:[-_.][A-Za-z0-9]+)*")
_MAX_COUNT = 10_000
# Item numbers are page × page_size + place, and have nine digits.


class OptionReader:
    """Reads the options of a class; every method raises `ConfigurationError` for an invalid value."""

    def __init__(self, cls: type) -> None:
        self._cls = cls

    def value(self, name: str) -> Any:
        """Return the option unchecked."""
        return getattr(self._cls, name)

    def count(self, name: str) -> int:
        """Return a whole number from 1 to 10,000."""
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_COUNT:
            raise self._option_error(name, value, f"a whole number from 1 to {_MAX_COUNT:,}, such as 50")
        return value

    def limit(self, name: str) -> int | None:
        """Return a whole number from 1 on, or None for no limit."""
        value = self.value(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise self._option_error(name, value, "a whole number of 1 or more, or None for no limit")
        return value

    def priority(self) -> int:
        """Return the priority of a batch."""
        value = self.value("priority")
        if not is_priority(value):
            raise self._option_error("priority", value, PRIORITY_DESCRIPTION)
        return value

    def instance(self, name: str, kind: type[T], example: str) -> T:
        """Return an instance of `kind`."""
        value = self.value(name)
        if not isinstance(value, kind):
            raise self._option_error(name, value, example)
        return value

    def flow(self, name: str) -> FlowControl:
        """Return the limits of a layer; None means no limits."""
        value = self.value(name)
        if value is None:
            return FlowControl()
        if not isinstance(value, FlowControl):
            raise self._option_error(name, value, "FlowControl(parallelism=10, rate=5), or None for no limits")
        return value

    def duration(self, name: str) -> int:
        """Return a duration above zero in milliseconds."""
        value = self.value(name)
        ms = to_ms(value, option=f"{self._cls.__name__}.{name}")
        if ms == 0:
            raise self._option_error(name, value, "a duration such as '15m'")
        return ms

    def schedule(self) -> Schedule | None:
        """Return the schedule; a cron expression is one."""
        try:
            return as_schedule(self.value("schedule"))
        except ConfigurationError as error:
            raise ConfigurationError(f"{self._cls.__name__}.schedule: {error}") from error

    def failure_budget(self) -> FailureBudget | None:
        """Return the failure budget, or None."""
        value = self.value("failure_budget")
        if not isinstance(value, FailureBudget | None):
            raise self._option_error("failure_budget", value, BUDGET_EXAMPLE)
        return value

    def url(self, name: str) -> str | None:
        """Return an absolute URL, or None."""
        value = self.value(name)
        check_url(f"{self._cls.__name__}.{name}", value, no_query=False)
        return value

    def _option_error(self, name: str, value: object, how: str) -> ConfigurationError:
        return ConfigurationError(f"{self._cls.__name__}.{name} cannot be {value!r}; write {how}")


def check_slug(cls: type, name: str, value: object) -> str:
    """Return a name that is valid in a URL.

    Raises:
        ConfigurationError: the name is not.
    """
    if not isinstance(value, str) or not _SLUG.fullmatch(value):
        raise ConfigurationError(
            f"{cls.__name__}.{name} cannot be {value!r}; write letters and digits, with '-', '_' or '.' between them"
        )
    return value


def check_no_instance_options(instance: object) -> None:
    """Reject options that are set on the object, since they are read from its class.

    Raises:
        ConfigurationError: the object has one.
    """
    for name in OPTION_NAMES:
        if name in getattr(instance, "__dict__", {}):
            owner = type(instance).__name__
            raise ConfigurationError(f"{owner}.{name} is set on the object and not read there; set it on the class")


class LedgerScope:
    """Names the ledger of a batch. Each combination of values of the `processed_per` parameters has its own."""

    __slots__ = ("_adapters", "_workflow")

    def __init__(self, workflow: str, adapters: Mapping[str, TypeAdapter[Any]]) -> None:
        self._workflow = workflow
        self._adapters = adapters

    @classmethod
    def read(cls, class_name: str, workflow: str, params: type[BaseModel], names: object) -> "LedgerScope":
        """Read `processed_per` of the class `class_name`.

        Raises:
            ConfigurationError: it is not a tuple of names, or one is not a parameter with a public JSON form.
        """
        names_given = cast("tuple[object, ...]", names) if isinstance(names, tuple) else None
        if names_given is None or not all(isinstance(name, str) for name in names_given):
            example = names if isinstance(names, str) and names.isidentifier() else "year"
            raise ConfigurationError(
                f"{class_name}.processed_per cannot be {names!r}; write a tuple of names of parameters, such as "
                f"('{example}',)"
            )
        return cls(
            workflow, {name: _adapter_of(class_name, params, name) for name in cast("tuple[str, ...]", names_given)}
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters; empty if the workflow has a single ledger."""
        return tuple(self._adapters)

    def name_for(self, params: BaseModel) -> str:
        """Return the name of the ledger for these parameters."""
        if not self._adapters:
            return self._workflow
        values = {name: _to_json_value(adapter, getattr(params, name)) for name, adapter in self._adapters.items()}
        return ledger_name(self._workflow, values)


def _adapter_of(class_name: str, params: type[BaseModel], name: str) -> TypeAdapter[Any]:
    field = params.model_fields.get(name)
    if field is None:
        meant = did_you_mean(name, params.model_fields) if params.model_fields else ", which has none"
        raise ConfigurationError(
            f"{class_name}.processed_per names '{name}', not a parameter of {params.__name__}{meant}"
        )
    option = f"{class_name}.processed_per names '{params.__name__}.{name}'"
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
        adapter.json_schema(mode="serialization")
    except PydanticUserError as error:
        raise ConfigurationError(f"{option}, whose type has no JSON; name another") from error
    if secret_serializer(adapter.core_schema) is not None:
        raise ConfigurationError(f"{option}, which is secret, and names of ledgers are shown; name another")
    return adapter


def _to_json_value(adapter: TypeAdapter[Any], value: Any) -> Any:
    dumped = adapter.dump_python(value, mode="json", by_alias=False, round_trip=True)
    # Sets and mappings have no order of their own: equal values must have equal names.
    return _sort_keys(sorted(dumped, key=to_json) if isinstance(value, set | frozenset) else dumped)


def _sort_keys(value: Any) -> Any:
    match value:
        case dict():
            pairs = cast("dict[str, Any]", value)
            return {name: _sort_keys(pairs[name]) for name in sorted(pairs)}
        case list():
            return [_sort_keys(it) for it in cast("list[Any]", value)]
        case _:
            return value
