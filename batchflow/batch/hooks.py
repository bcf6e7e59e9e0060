"""The signature of each hook, and the checks of the hooks that a class defines."""

import inspect
import re
import types
import typing
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, Optional, TypeGuard, Union, cast, get_args, get_origin

from pydantic import BaseModel
from typing_extensions import NoDefault

from batchflow.batch.item_failure import ItemFailure
from batchflow.batch.status import BatchSummary
from batchflow.core.flow import FlowControl
from batchflow.errors import ConfigurationError
from batchflow.serve.callables import is_async

_MODULE_PREFIX = re.compile(r"[\w.<>]+\.(\w+)")
_NUMERIC_TOWER = {(int, float), (int, complex), (float, complex)}


def type_arguments(cls: type, base: type) -> tuple[object, ...]:
    """Return the arguments of `base`'s type variables in its subclass `cls`, with defaults filled in.

    A variable that `cls` leaves open is its own argument.
    """
    if cls is base:
        return _type_parameters(base)
    for written in cast("tuple[object, ...]", cls.__dict__.get("__orig_bases__", cls.__bases__)):
        origin = get_origin(written) or written
        if isinstance(origin, type) and issubclass(origin, base):
            bindings = _type_bindings(origin, get_args(written))
            return tuple(_substitute(argument, bindings) for argument in type_arguments(origin, base))
    raise TypeError(f"{cls.__name__} is not a subclass of {base.__name__}")


def is_model(annotation: object) -> TypeGuard[type[BaseModel]]:
    """Return True for the class of a pydantic model."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def has_type_variables(annotation: object) -> bool:
    """Return True if the annotation contains a type variable."""
    return isinstance(annotation, typing.TypeVar) or bool(_type_parameters(annotation))


def type_hints(function: object) -> dict[str, object]:
    """Return a function's annotations; empty if their names cannot be resolved (yet)."""
    try:
        return typing.get_type_hints(function)
    except Exception:
        # Names local to a function, or under TYPE_CHECKING: an unresolved annotation is not checked.
        return {}


def awaited_type(annotation: object) -> object:
    """Return the type after `await`; that of `X | Awaitable[X]` is X."""
    members = _union_members(annotation)
    if len(members) > 1:
        return Union[tuple(awaited_type(member) for member in members)]  # noqa: UP007
    if get_origin(annotation) is Coroutine:
        return get_args(annotation)[2]
    return get_args(annotation)[0] if get_origin(annotation) is Awaitable else annotation


def is_compatible(given: object, wanted: object) -> bool:
    """Return True if a value of type `given` may be passed as `wanted`, or if that cannot be decided."""
    return all(
        any(_is_member_compatible(it, place) for place in _union_members(wanted)) for it in _union_members(given)
    )


def format_type(annotation: object) -> str:
    """Return the annotation as source code: "User", "list[str]", "str | None"."""
    if annotation in (None, types.NoneType):
        return "None"
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    members = _union_members(annotation)
    if len(members) > 1:
        return " | ".join(format_type(member) for member in members)
    return _MODULE_PREFIX.sub(r"\1", annotation if isinstance(annotation, str) else repr(annotation))


def _type_parameters(annotation: object) -> tuple[object, ...]:
    return cast("tuple[object, ...]", getattr(annotation, "__parameters__", ()))


def _type_bindings(origin: type, given: tuple[object, ...]) -> Mapping[object, object]:
    bindings: dict[object, object] = {}
    for place, variable in enumerate(_type_parameters(origin)):
        default = getattr(variable, "__default__", NoDefault)
        argument = given[place] if place < len(given) else variable if default is NoDefault else default
        bindings[variable] = types.NoneType if argument is None else _substitute(argument, bindings)
    return bindings


def _substitute(argument: object, bindings: Mapping[object, object]) -> object:
    if isinstance(argument, typing.TypeVar):
        return bindings.get(argument, argument)
    inner = _type_parameters(argument)
    return cast("Any", argument)[tuple(bindings.get(it, it) for it in inner)] if inner else argument


def _union_members(annotation: object) -> tuple[object, ...]:
    if get_origin(annotation) is Annotated:
        return _union_members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for it in get_args(annotation) for member in _union_members(it))
    return (types.NoneType if annotation is None else annotation,)


def _is_member_compatible(given: object, wanted: object) -> bool:
    if given == wanted or Any in (given, wanted) or wanted is object:
        return True
    given, wanted = get_origin(given) or given, get_origin(wanted) or wanted
    if not isinstance(given, type) or not isinstance(wanted, type):
        return True
    try:
        return issubclass(given, wanted) or (given, wanted) in _NUMERIC_TOWER
    except TypeError:
        # A protocol or TypedDict does not support issubclass.
        return True


HOOK_NAMES = (
    "fetch",
    "filter",
    "item_flow",
    "load",
    "execute",
    "execute_many",
    "save",
    "count",
    "process",
    "on_success",
    "on_failure",
    "on_complete",
    "on_item_failure",
)
END_HOOKS = frozenset({"on_success", "on_failure", "on_complete"})
"""The hooks that are called once, when a batch has ended."""

_ANY_RESULT = ("save", *END_HOOKS, "on_item_failure")
# Their return values are dropped, or kept as any JSON, so any return type is right.


class HookSignature(NamedTuple):
    """The signature of one hook of one workflow: its parameters after self, and its return type."""

    name: str
    parameters: tuple[tuple[str, object], ...]
    returns: object

    def __str__(self) -> str:
        taken = ", ".join(["self", *(f"{name}: {format_type(kind)}" for name, kind in self.parameters)])
        kind = "def" if self.name == "item_flow" else "async def"
        return f"{kind} {self.name}({taken}) -> {format_type(self.returns)}"


def hook_signatures(
    params: object, item: object, result: object, *, entity: str, plural: str
) -> dict[str, HookSignature]:
    """Return the signatures for these type parameters, with the names of the entity."""
    id_name = f"{entity.replace('-', '_')}_id"
    plural = plural.replace("-", "_") if item is not str else f"{id_name}s"
    # As strings: these classes are defined in modules that import this one.
    given = ("params", params)
    of_item = (entity.replace("-", "_") if item is not str else id_name, item)
    ids = ("ids", Sequence[str])
    hooks = (
        HookSignature(name="fetch", parameters=(given, ("cursor", Optional[str]), ("limit", int)), returns="Page"),  # noqa: UP045
        HookSignature(name="filter", parameters=(given, ids), returns=Collection[str]),
        HookSignature(name="item_flow", parameters=(given, (id_name, str)), returns=Optional[FlowControl]),  # noqa: UP045
        HookSignature(name="load", parameters=((id_name, str),), returns=Optional[cast("Any", item)]),  # noqa: UP045
        HookSignature(name="execute", parameters=(of_item,), returns=result),
        HookSignature(
            name="execute_many",
            parameters=((plural, list[cast("Any", item)]),),
            returns=Sequence[cast("Any", None if result is types.NoneType else result)],
        ),
        HookSignature(name="save", parameters=((id_name, str), ("result", result)), returns=type(None)),
        HookSignature(name="count", parameters=(given,), returns=int),
        HookSignature(name="process", parameters=(("ctx", "WorkflowContext"), of_item), returns=result),
        *(HookSignature(name=name, parameters=(("summary", BatchSummary),), returns=type(None)) for name in END_HOOKS),
        HookSignature(name="on_item_failure", parameters=(("failure", ItemFailure),), returns=type(None)),
    )
    return {hook.name: hook for hook in hooks}


def find_defined_hooks(cls: type, base: type) -> frozenset[str]:
    """Return the names of the hooks that `cls` or a class between it and `base` defines."""
    return frozenset(name for name in HOOK_NAMES if inspect.getattr_static(cls, name) is not base.__dict__[name])


def check_hooks(cls: type, hooks: dict[str, HookSignature], defined_hooks: frozenset[str], *, ids_only: bool) -> None:
    """Raise `ConfigurationError` for a hook that is missing or does not match its signature."""
    # `process` and `execute_many` replace `execute`, and ids of the trigger replace `fetch`.
    for name, other in (("fetch", ids_only), ("execute", bool(defined_hooks & {"process", "execute_many"}))):
        if name not in defined_hooks and not other:
            raise ConfigurationError(f"{cls.__name__} has no {name}; write: {hooks[name]}")
    for name in ("execute", "process"):
        if name in defined_hooks and "execute_many" in defined_hooks:
            raise ConfigurationError(
                f"{cls.__name__} has {name} and execute_many, and an item is processed by one of them; remove the other"
            )
    item = hooks["execute"].parameters[0][1]
    if "load" not in defined_hooks and item is not str and not _declares_page_items(cls, defined_hooks):
        raise ConfigurationError(
            f"{cls.__name__} has no load, which makes a {format_type(item)} of an id; write: {hooks['load']}; or have "
            f"the pages bring them: fetch(…) -> Page[{format_type(item)}]"
        )
    for name in HOOK_NAMES:
        if name in defined_hooks:
            _check_hook(cls, hooks[name])
    if "fetch" in defined_hooks:
        _check_page_items(cls, hooks["fetch"], _return_annotation(inspect.getattr_static(cls, "fetch")), item)


def _declares_page_items(cls: type, defined_hooks: frozenset[str]) -> bool:
    """Return True if `fetch` declares items in its pages: `-> Page[User]`."""
    return "fetch" in defined_hooks and bool(get_args(_return_annotation(inspect.getattr_static(cls, "fetch"))))


def _return_annotation(function: Any) -> object:
    return awaited_type(type_hints(getattr(function, "__func__", function)).get("return"))


def _check_page_items(cls: type, hook: HookSignature, returned: object, item: object) -> None:
    for declared_item in get_args(returned):
        if not any(is_compatible(declared_item, it) for it in (item, Optional[cast("Any", item)])):  # noqa: UP045
            raise ConfigurationError(
                f"{cls.__name__}.{hook.name} declares that its pages bring {format_type(declared_item)}, not "
                f"{format_type(item)}; write -> Page[{format_type(item)}]"
            )


def _check_hook(cls: type, hook: HookSignature) -> None:
    function = inspect.getattr_static(cls, hook.name)
    bound = function.__get__(object(), cls) if hasattr(function, "__get__") else function
    if not callable(bound):
        raise ConfigurationError(f"{cls.__name__}.{hook.name} is not a function but {function!r}; write: {hook}")
    signature = inspect.signature(bound)
    try:
        signature.bind(*hook.parameters)
    except TypeError:
        raise ConfigurationError(
            f"{cls.__name__}.{hook.name} cannot be called with {_format_parameter_count(hook)}; write: {hook}"
        ) from None
    if inspect.isasyncgenfunction(bound) or inspect.isgeneratorfunction(bound):
        raise ConfigurationError(f"{cls.__name__}.{hook.name} yields where it has to return; write: {hook}")
    if hook.name == "process" and not is_async(bound):
        raise ConfigurationError(f"{cls.__name__}.process has to be async, since it awaits its ctx; write: {hook}")
    if hook.name == "item_flow" and is_async(bound):
        raise ConfigurationError(
            f"{cls.__name__}.item_flow has to be a plain function, since it is called for one item after the other; "
            f"write: {hook}"
        )
    _check_annotations(cls, hook, bound, signature)


def _check_annotations(cls: type, hook: HookSignature, bound: Callable[..., Any], signature: inspect.Signature) -> None:
    known = type_hints(bound)
    positional = [
        it for it in signature.parameters.values() if it.kind in (it.POSITIONAL_ONLY, it.POSITIONAL_OR_KEYWORD)
    ]
    for (_, given), parameter in zip(hook.parameters, positional, strict=False):
        declared = known.get(parameter.name, given)
        if not _is_compatible(given, declared):
            raise ConfigurationError(
                f"{cls.__name__}.{hook.name} declares '{parameter.name}: {format_type(declared)}' but is given "
                f"{format_type(given)}; write: {hook}"
            )
    if hook.name in _ANY_RESULT:
        return
    returned = awaited_type(known.get("return", hook.returns))
    if hook.name == "execute_many" and not _is_compatible_list(returned, hook.returns):
        raise ConfigurationError(
            f"{cls.__name__}.execute_many declares that it returns {format_type(returned)}, not one "
            f"{format_type(get_args(hook.returns)[0])} for each item; write: {hook}"
        )
    if not _is_compatible(returned, hook.returns):
        raise ConfigurationError(
            f"{cls.__name__}.{hook.name} declares that it returns {format_type(returned)}, not "
            f"{format_type(hook.returns)}; write: {hook}"
        )


def _is_compatible_list(given: object, wanted: object) -> bool:
    """Return True if lists of type `given` may have the items of `wanted`, beside exceptions."""
    arguments = get_args(given)
    if len(arguments) != 1 or not is_compatible(given, wanted):
        return is_compatible(given, wanted)
    return is_compatible(without_exceptions(arguments[0]), get_args(wanted)[0])


def without_exceptions(annotation: object) -> object:
    """Return a type without the exceptions of its union: `str` for `str | ValueError`."""
    members = tuple(it for it in _union_members(annotation) if not _is_exception(it))
    return Union[members] if members else Any  # noqa: UP007


def _is_exception(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseException)


def _is_compatible(given: object, wanted: object) -> bool:
    """Like `is_compatible`, with classes that cannot be imported here given by name."""
    for named, other in ((given, wanted), (wanted, given)):
        other = get_origin(other) or other
        if isinstance(named, str) and isinstance(other, type) and other is not Any:
            return named in (base.__name__ for base in other.__mro__)
    return is_compatible(given, wanted)


def _format_parameter_count(hook: HookSignature) -> str:
    count = len(hook.parameters)
    names = ", ".join(name for name, _ in hook.parameters)
    return f"{count} argument{'' if count == 1 else 's'} ({names})"
