"""The definition of a workflow: read from its class and checked once, when the class is created."""

from dataclasses import replace
from inspect import getattr_static
from types import NoneType
from typing import Any, NamedTuple, Optional, TypeVar, cast

from pydantic import BaseModel

from batchflow.batch import options
from batchflow.batch.hooks import (
    HookSignature,
    check_hooks,
    find_defined_hooks,
    format_type,
    has_type_variables,
    hook_signatures,
    is_model,
    type_arguments,
)
from batchflow.batch.member_names import check_member_names
from batchflow.batch.names import Routes, StepNames, WireKeys, check_field_names, kebab_case
from batchflow.batch.options import LedgerScope
from batchflow.core.codec import Codec
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.core.schedule import Schedule
from batchflow.errors import BatchflowError, ConfigurationError

_DEFAULT_TIMEOUT_MS = 900_000

T = TypeVar("T")


class Definition(NamedTuple):
    """The definition of one workflow. `defined_hooks` are the names of the hooks that its class defines.

    Flows have their keys; durations are in ms.
    """

    class_name: str
    name: str
    plural: str
    params: type[BaseModel]
    defined_hooks: frozenset[str]
    routes: Routes
    steps: StepNames
    wire: WireKeys
    params_codec: Codec[Any]
    item_codec: Codec[Any]
    result_codec: Codec[Any]
    page_size: int
    chunk_size: int
    entry_flow: FlowControl
    paginate_flow: FlowControl
    execute_flow: FlowControl
    complete_flow: FlowControl
    invoked_flow: FlowControl
    retry: RetryPolicy
    timeout_ms: int
    ledger_ttl: int | None
    ledger_scope: LedgerScope
    walk_first: bool
    priority: int
    confirm_above: int | None
    schedule: Schedule | None
    failure_budget: FailureBudget | None
    notify_url: str | None
    keep_results: bool
    item_is_id: bool
    group_size: int
    group_wait_ms: int
    group_parallelism: int | None

    def ledger_name(self, params: BaseModel) -> str:
        """Return the name of the ledger for these parameters."""
        return self.ledger_scope.name_for(params)

    @property
    def needs_items(self) -> bool:
        """True if pages must contain the items, since nothing loads one by its id."""
        return "load" not in self.defined_hooks and not self.item_is_id

    @property
    def declared_timeout_ms(self) -> int | None:
        """The time limit of an item, if it is not the one by default."""
        return None if self.timeout_ms == _DEFAULT_TIMEOUT_MS else self.timeout_ms

    @property
    def flows(self) -> tuple[FlowControl, ...]:
        """The flow keys of all layers."""
        return (self.entry_flow, self.paginate_flow, self.execute_flow, self.complete_flow)


def read_definition(cls: type, base: type, *, abstract: bool, ids_only: bool) -> Definition | None:
    """Read and check `cls`; return None for an abstract base, or one whose type variables are open.

    Raises:
        ConfigurationError: the message names the class and the hook or option, and says what to write.
    """
    check_member_names(cls)
    if abstract or cls.__dict__.get("__parameters__"):
        return None
    params_type, item, result = type_arguments(cls, base)
    params = _check_type_arguments(cls, params_type, item, result)
    entity = options.check_slug(cls, "entity", getattr_static(cls, "entity"))
    plural = options.check_slug(cls, "entity_plural", getattr_static(cls, "entity_plural") or f"{entity}s")
    defined_hooks = find_defined_hooks(cls, base)
    hooks = hook_signatures(params, item, result, entity=entity, plural=plural)
    check_hooks(cls, hooks, defined_hooks, ids_only=ids_only)
    if "execute_many" not in defined_hooks:
        _check_no_group_options(cls, base, hooks["execute_many"])
    execute_flow = _execute_flow(cls, base, defined_hooks)
    return _definition(cls, (params, item, result), entity, plural, defined_hooks, execute_flow)


def _definition(
    cls: type,
    arguments: tuple[type[BaseModel], object, object],
    entity: str,
    plural: str,
    defined_hooks: frozenset[str],
    execute_flow: FlowControl,
) -> Definition:
    params, item, result = arguments
    options_of_class = options.OptionReader(cls)
    name = options.check_slug(cls, "name", options_of_class.value("name") or kebab_case(cls.__name__))
    verb = options.check_slug(cls, "execute_verb", options_of_class.value("execute_verb"))
    wire = WireKeys.of(entity, plural)
    check_field_names(cls.__name__, params, wire)
    return Definition(
        class_name=cls.__name__,
        name=name,
        plural=plural,
        params=params,
        defined_hooks=defined_hooks,
        routes=Routes.of(cls.__name__, name, verb, entity, plural),
        steps=StepNames.of(name),
        wire=wire,
        params_codec=_codec(cls, "params", params),
        item_codec=_item_codec(cls, item),
        result_codec=_codec(cls, "result", result),
        page_size=options_of_class.count("page_size"),
        chunk_size=options_of_class.count("chunk_size"),
        entry_flow=options_of_class.flow("entry_flow").with_default_key(f"{name}.process"),
        paginate_flow=options_of_class.flow("paginate_flow").with_default_key(f"{name}.paginate"),
        execute_flow=execute_flow.with_default_key(f"{name}.execute"),
        complete_flow=FlowControl(key=f"{name}.complete"),
        invoked_flow=FlowControl(key=f"{name}.invoked"),
        retry=options_of_class.instance("retry", RetryPolicy, "RetryPolicy(retries=3)"),
        timeout_ms=options_of_class.duration("item_timeout"),
        ledger_scope=LedgerScope.read(cls.__name__, name, params, options_of_class.value("processed_per")),
        ledger_ttl=None
        if options_of_class.value("processed_ttl") is None
        else options_of_class.duration("processed_ttl"),
        walk_first=options_of_class.instance("walk_first", bool, "True or False"),
        priority=options_of_class.priority(),
        confirm_above=options_of_class.limit("confirm_above"),
        schedule=options_of_class.schedule(),
        failure_budget=options_of_class.failure_budget(),
        notify_url=options_of_class.url("notify_url"),
        keep_results=result not in (None, NoneType),
        item_is_id=item is str,
        group_size=options_of_class.count("group_size"),
        group_wait_ms=options_of_class.duration("group_wait"),
        group_parallelism=options_of_class.limit("group_parallelism"),
    )


def _check_no_group_options(cls: type, base: type, hook: HookSignature) -> None:
    for name in options.GROUP_OPTIONS:
        if getattr_static(cls, name) is not base.__dict__[name]:
            raise ConfigurationError(
                f"{cls.__name__}.{name} does nothing, since the class has no execute_many; write: {hook}"
            )


def _execute_flow(cls: type, base: type, defined_hooks: frozenset[str]) -> FlowControl:
    """Return the limits of layer 3, which count items; the default ones mean calls of `execute_many` where it is."""
    flow = options.OptionReader(cls).flow("execute_flow")
    if "execute_many" not in defined_hooks:
        return flow
    size = options.OptionReader(cls).count("group_size")
    if getattr_static(cls, "execute_flow") is base.__dict__["execute_flow"]:
        return replace(flow, parallelism=(flow.parallelism or 1) * size, rate=(flow.rate or 1) * size)
    if flow.parallelism is not None and flow.parallelism < size:
        raise ConfigurationError(
            f"{cls.__name__}.group_size is {size} and execute_flow lets {flow.parallelism} items be under way at once, "
            f"so that no group can ever be full; write execute_flow = FlowControl(parallelism={2 * size}, …), which "
            f"counts items, or group_size = {flow.parallelism}"
        )
    return flow


def _check_type_arguments(cls: type, params: object, item: object, result: object) -> type[BaseModel]:
    for what, argument in (("parameters", params), ("item", item), ("result", result)):
        if has_type_variables(argument) or isinstance(argument, str) or type(argument).__name__ == "ForwardRef":
            raise ConfigurationError(
                f"{cls.__name__} does not say what its {what} type is; write the class itself in "
                f"BatchWorkflow[Params, Item, Result], or abstract=True for a base of other workflows"
            )
    if not is_model(params):
        raise ConfigurationError(
            f"{cls.__name__}'s parameters are a pydantic model, not {format_type(params)}; "
            f"write a class of BaseModel as the first type in BatchWorkflow[…]"
        )
    return params


def _item_codec(cls: type, item: object) -> Codec[Any]:
    """Return the codec of what `load` returns: an item, or None for an unknown id."""
    _codec(cls, "item", item)
    return Codec.of(Optional[cast("Any", item)])  # noqa: UP045


def _codec(cls: type, what: str, annotation: object) -> Codec[Any]:
    try:
        return Codec.of(annotation)
    except (BatchflowError, TypeError) as error:
        raise ConfigurationError(f"{cls.__name__}'s {what} type: {error}") from error
