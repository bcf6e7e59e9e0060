"""What each hook is given and gives back, and the checks of those a class has written."""

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Optional, cast, get_args, get_origin

from batchflow.batch.annotations import awaited, fits, hints, spell_type
from batchflow.batch.summary import BatchSummary
from batchflow.errors import ConfigurationError
from batchflow.serve.callables import is_async

NAMES = ("fetch", "filter", "load", "execute", "save", "count", "process", "on_complete")
_DROPPED = ("save", "on_complete")
# What these happen to return is not kept, so that nothing about it can be wrong.


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """The contract of one hook for one workflow: its parameters after self, and what it returns."""

    name: str
    takes: tuple[tuple[str, object], ...]
    returns: object

    def __str__(self) -> str:
        taken = ", ".join(["self", *(f"{name}: {spell_type(kind)}" for name, kind in self.takes)])
        return f"async def {self.name}({taken}) -> {spell_type(self.returns)}"


def hooks_of(params: object, item: object, result: object, *, entity: str) -> dict[str, Hook]:
    """The hooks of a workflow with these type parameters, written with its own names."""
    id_name = f"{entity.replace('-', '_')}_id"
    # By their written names: the classes themselves stand above this module.
    given = ("params", params)
    of_item = (entity.replace("-", "_") if item is not str else id_name, item)
    ids = ("ids", Sequence[str])
    hooks = (
        Hook(name="fetch", takes=(given, ("cursor", Optional[str]), ("limit", int)), returns="Page"),  # noqa: UP045
        Hook(name="filter", takes=(given, ids), returns=Collection[str]),
        Hook(name="load", takes=((id_name, str),), returns=Optional[cast("Any", item)]),  # noqa: UP045
        Hook(name="execute", takes=(of_item,), returns=result),
        Hook(name="save", takes=((id_name, str), ("result", result)), returns=type(None)),
        Hook(name="count", takes=(given,), returns=int),
        Hook(name="process", takes=(("ctx", "WorkflowContext"), of_item), returns=result),
        Hook(name="on_complete", takes=(("summary", BatchSummary),), returns=type(None)),
    )
    return {hook.name: hook for hook in hooks}


def written(cls: type, base: type) -> frozenset[str]:
    """The hooks that `cls`, or a class between it and `base`, has written."""
    return frozenset(name for name in NAMES if inspect.getattr_static(cls, name) is not base.__dict__[name])


def check_hooks(cls: type, hooks: dict[str, Hook], has: frozenset[str], *, ids_only: bool) -> None:
    """Raise `ConfigurationError` for a hook that is missing or does not fit its contract."""
    # One may live on `process` alone, and on ids that every trigger names.
    for name, other in (("fetch", ids_only), ("execute", "process" in has)):
        if name not in has and not other:
            raise ConfigurationError(f"{cls.__name__} has no {name}; write: {hooks[name]}")
    item = hooks["execute"].takes[0][1]
    if "load" not in has and item is not str and not _brings_items(cls, has):
        raise ConfigurationError(
            f"{cls.__name__} has no load, which makes a {spell_type(item)} of an id; write: {hooks['load']}; or have "
            f"the pages bring them: fetch(…) -> Page[{spell_type(item)}]"
        )
    for name in NAMES:
        if name in has:
            _check_hook(cls, hooks[name])
    if "fetch" in has:
        _check_items(cls, hooks["fetch"], _returned(inspect.getattr_static(cls, "fetch")), item)


def _brings_items(cls: type, has: frozenset[str]) -> bool:
    """Whether `fetch` declares that its pages bring items: `-> Page[User]`."""
    return "fetch" in has and bool(get_args(_returned(inspect.getattr_static(cls, "fetch"))))


def _returned(function: Any) -> object:
    return awaited(hints(getattr(function, "__func__", function)).get("return"))


def _check_items(cls: type, hook: Hook, returned: object, item: object) -> None:
    for brought in get_args(returned):
        if not any(fits(brought, it) for it in (item, Optional[cast("Any", item)])):  # noqa: UP045
            raise ConfigurationError(
                f"{cls.__name__}.{hook.name} declares that its pages bring {spell_type(brought)}, not "
                f"{spell_type(item)}; write -> Page[{spell_type(item)}]"
            )


def _check_hook(cls: type, hook: Hook) -> None:
    function = inspect.getattr_static(cls, hook.name)
    bound = function.__get__(object(), cls) if hasattr(function, "__get__") else function
    if not callable(bound):
        raise ConfigurationError(f"{cls.__name__}.{hook.name} is no function but {function!r}; write: {hook}")
    signature = inspect.signature(bound)
    try:
        signature.bind(*hook.takes)
    except TypeError:
        raise ConfigurationError(
            f"{cls.__name__}.{hook.name} cannot be called with {_spell_count(hook)}; write: {hook}"
        ) from None
    if inspect.isasyncgenfunction(bound) or inspect.isgeneratorfunction(bound):
        raise ConfigurationError(f"{cls.__name__}.{hook.name} yields where it has to return; write: {hook}")
    if hook.name == "process" and not is_async(bound):
        raise ConfigurationError(f"{cls.__name__}.process has to be async, since it awaits its ctx; write: {hook}")
    _check_annotations(cls, hook, bound, signature)


def _check_annotations(cls: type, hook: Hook, bound: Callable[..., Any], signature: inspect.Signature) -> None:
    known = hints(bound)
    positional = [
        it for it in signature.parameters.values() if it.kind in (it.POSITIONAL_ONLY, it.POSITIONAL_OR_KEYWORD)
    ]
    for (_, given), parameter in zip(hook.takes, positional, strict=False):
        declared = known.get(parameter.name, given)
        if not _fits(given, declared):
            raise ConfigurationError(
                f"{cls.__name__}.{hook.name} declares '{parameter.name}: {spell_type(declared)}' but is given "
                f"{spell_type(given)}; write: {hook}"
            )
    if hook.name in _DROPPED:
        return
    returned = awaited(known.get("return", hook.returns))
    if not _fits(returned, hook.returns):
        raise ConfigurationError(
            f"{cls.__name__}.{hook.name} declares that it returns {spell_type(returned)}, not "
            f"{spell_type(hook.returns)}; write: {hook}"
        )


def _fits(given: object, wanted: object) -> bool:
    """As `fits`; a class above this module goes by its name."""
    for named, other in ((given, wanted), (wanted, given)):
        other = get_origin(other) or other
        if isinstance(named, str) and isinstance(other, type) and other is not Any:
            return named in (base.__name__ for base in other.__mro__)
    return fits(given, wanted)


def _spell_count(hook: Hook) -> str:
    count = len(hook.takes)
    names = ", ".join(name for name, _ in hook.takes)
    return f"{count} argument{'' if count == 1 else 's'} ({names})"
