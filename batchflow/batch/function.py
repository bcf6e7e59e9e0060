"""The short form of a workflow: a function of one id, and a source of ids."""

import functools
import inspect
import itertools
import types
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeAlias, cast, get_args, overload

from typing_extensions import TypeVar

from batchflow.batch.arguments import Id
from batchflow.batch.bound import Workflow
from batchflow.batch.hook_scope import CURRENT_HOOK
from batchflow.batch.hooks import format_type, is_compatible, type_hints, without_exceptions
from batchflow.batch.item_failure import ItemFailure
from batchflow.batch.names import kebab_case
from batchflow.batch.runtime import WorkflowRuntime
from batchflow.batch.workflow import BatchWorkflow, NoParams, Page
from batchflow.core.codec import return_type
from batchflow.core.duration import Duration
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.flow import LIMIT_OPTIONS, FlowControl
from batchflow.core.ports import Client
from batchflow.core.retry import RETRIES_WORDS, RetryPolicy
from batchflow.core.schedule import Schedule
from batchflow.core.suggestions import check_options
from batchflow.errors import ConfigurationError
from batchflow.serve.callables import as_async, is_async

R = TypeVar("R")
Returned = TypeVar("Returned")
Taken = TypeVar("Taken", default=str)

Ids: TypeAlias = Iterable[Id] | AsyncIterable[Id]
IdSource: TypeAlias = Sequence[Id] | Callable[[], Ids | Awaitable[Ids]]
"""A source of ids: a sequence, or a function that returns a sequence, a generator or an async generator."""

_SKIP_SIZE = 10_000
# Ids skipped in one call.
_MAX_OPEN = 16
# Generators that stay open between two pages. A generator that was dropped is started again and skipped forward.


class BatchDecorator(Protocol):
    """The decorator that `@flow.batch(…)` returns."""

    # A `str` is a sequence of them, too: functions of many ids come first.
    @overload
    def __call__(
        self, fn: Callable[[list[str]], Awaitable[Sequence[R | Exception | BaseException]]], /
    ) -> "BatchFunction[R, Awaitable[Sequence[R | Exception | BaseException]], list[str]]": ...
    @overload
    def __call__(
        self, fn: Callable[[list[str]], Sequence[R | Exception | BaseException]], /
    ) -> "BatchFunction[R, Sequence[R | Exception | BaseException], list[str]]": ...
    @overload
    def __call__(self, fn: Callable[[str], Awaitable[R]], /) -> "BatchFunction[R, Awaitable[R]]": ...
    @overload
    def __call__(self, fn: Callable[[str], R], /) -> "BatchFunction[R, R]": ...


class BatchFunction(Workflow[NoParams, R], Generic[R, Returned, Taken]):
    """The workflow of a function, as `@flow.batch` returns it.

    Calling it calls the function, as a unit test does: without the engine, durability, limits or retries.
    """

    def __init__(self, runtime: WorkflowRuntime, function: Callable[[Taken], Returned]) -> None:
        super().__init__(runtime)
        self.function = function
        """The function itself."""
        functools.update_wrapper(self, function, updated=())

    def __call__(self, item_id: Taken, /) -> Returned:
        """Call the function; the result of an async one is to be awaited."""
        return self.function(item_id)


class FunctionWorkflow(BatchWorkflow[NoParams, str, R], Generic[R], abstract=True):
    """The base of the classes that `function_workflow` creates."""


class _FunctionWithSource(FunctionWorkflow[R], Generic[R], abstract=True):
    """A function with a source of ids; the cursor is the number of ids read so far."""

    def __init__(self, source: IdSource) -> None:
        self._read = _id_reader(source)

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        """Return the next ids of the source."""
        start = int(cursor or 0)
        ids, is_end = await self._read(start, limit)
        return Page(ids=ids, next_cursor=None if is_end else str(start + len(ids)))


def function_workflow(
    fn: Callable[[str], Awaitable[R]] | Callable[[str], R],
    *,
    ids: IdSource | None = None,
    name: str | None = None,
    entity: str | None = None,
    entity_plural: str = "",
    execute_verb: str = BatchWorkflow.execute_verb,
    page_size: int = BatchWorkflow.page_size,
    chunk_size: int = BatchWorkflow.chunk_size,
    flow: FlowControl | None = BatchWorkflow.execute_flow,
    entry_flow: FlowControl | None = BatchWorkflow.entry_flow,
    paginate_flow: FlowControl | None = None,
    retry: RetryPolicy = BatchWorkflow.retry,
    timeout: Duration = BatchWorkflow.item_timeout,
    processed_ttl: Duration | None = None,
    processed_per: tuple[str, ...] = (),
    walk_first: bool = False,
    priority: int = 0,
    confirm_above: int | None = None,
    group_size: int = BatchWorkflow.group_size,
    group_wait: Duration = BatchWorkflow.group_wait,
    group_parallelism: int | None = None,
    item_flow: Callable[[str], FlowControl | None] | None = None,
    on_item_failure: Callable[[ItemFailure[NoParams]], Any] | None = None,
    schedule: Schedule | str | None = None,
    failure_budget: FailureBudget | None = None,
    notify_url: str | None = None,
) -> BatchWorkflow[NoParams, str, R]:
    """Create a workflow named after `fn`, which becomes its `execute`. Without `ids` every trigger lists its ids.

    `fn` takes one id; the name of its parameter gives the entity (`user_id`: a user), its return type that of results.
    If its parameter is a list of ids (`user_ids: list[str]`) it becomes `execute_many`.
    A source is read page by page, and has to return the same ids in the same order each time. Its pages have no limits
    by default: they read memory or a generator, and `flow` limits what starts.

    Raises:
        ConfigurationError: `fn` takes other arguments or has no return type, or an option is invalid.
    """
    parameter, takes_many = _id_parameter(fn)
    result = _result_type(fn, takes_many=takes_many)
    groups = {"group_size": group_size, "group_wait": group_wait, "group_parallelism": group_parallelism}
    if not takes_many:
        _check_no_group_options(_function_name(fn), groups)
    members: dict[str, Any] = {
        "execute_many" if takes_many else "execute": staticmethod(fn),
        "name": name if name is not None else kebab_case(_function_name(fn)),
        "entity": entity if entity is not None else _entity_of(parameter),
        "entity_plural": entity_plural,
        "execute_verb": execute_verb,
        "page_size": page_size,
        "chunk_size": chunk_size,
        "execute_flow": flow,
        "entry_flow": entry_flow,
        "paginate_flow": paginate_flow,
        "retry": retry,
        "item_timeout": timeout,
        "processed_ttl": processed_ttl,
        "processed_per": processed_per,
        "walk_first": walk_first,
        "priority": priority,
        "confirm_above": confirm_above,
        **groups,
        "schedule": schedule,
        "failure_budget": failure_budget,
        "notify_url": notify_url,
        "__module__": fn.__module__,
        "__doc__": fn.__doc__,
    }
    if on_item_failure is not None:
        members["on_item_failure"] = staticmethod(_failure_hook(fn, on_item_failure))
    if item_flow is not None:
        members["item_flow"] = staticmethod(_item_flow_hook(fn, item_flow))
    if ids is not None:
        _check_source(_function_name(fn), ids)
    base: Any = FunctionWorkflow if ids is None else _FunctionWithSource
    cls = types.new_class(
        _function_name(fn), (base[result],), {"ids_only": ids is None}, lambda space: space.update(members)
    )
    return cast("BatchWorkflow[NoParams, str, R]", cls() if ids is None else cls(ids))


_OPTIONS = tuple(inspect.signature(function_workflow).parameters)[1:]
_WORDS_OF_OPTIONS = {
    **{word: f"flow=FlowControl({limit})" for word, limit in LIMIT_OPTIONS.items()},
    "flow_control": "flow=FlowControl(…)",
    "execute_flow": "flow=FlowControl(…)",
    "item_timeout": "timeout=…",
    **dict.fromkeys(("retries", *RETRIES_WORDS), "retry=RetryPolicy(retries=…)"),
    "retry_delay": "retry=RetryPolicy(first=…, factor=1)",
    "batch_size": "page_size=…, or group_size=… for a function of many ids",
    **dict.fromkeys(("failure_function", "on_failure", "on_error"), "on_item_failure=…"),
}


def check_function_options(options: Mapping[str, Any]) -> None:
    """Raise `ConfigurationError` for an option of `@flow.batch` that does not exist."""
    check_options("flow.batch", options, _OPTIONS, _WORDS_OF_OPTIONS)


def bind_function(fn: Callable[..., Any], client: Client, options: Mapping[str, Any]) -> BatchFunction[Any, Any]:
    """Make the workflow of a function, ready to be served and triggered.

    Raises:
        ConfigurationError: as for `function_workflow`.
    """
    return BatchFunction(WorkflowRuntime(function_workflow(fn, **options), client), fn)


def _entity_of(parameter: str) -> str:
    for suffix in ("_id", "_ids"):
        if parameter.endswith(suffix) and parameter != suffix:
            return kebab_case(parameter.removesuffix(suffix))
    return "item"


def _function_name(fn: Callable[..., Any]) -> str:
    return str(getattr(fn, "__name__", type(fn).__name__))


def _check_no_group_options(name: str, options: Mapping[str, Any]) -> None:
    for option, value in options.items():
        if value != getattr(BatchWorkflow, option):
            raise ConfigurationError(
                f"'{name}' takes one id at a time, so that {option} does nothing; write "
                f"{name}(item_ids: list[str]) -> list[…], which returns one result for each id"
            )


def _id_parameter(fn: Callable[..., Any]) -> tuple[str, bool]:
    """Return the name of the only parameter, and True if it is a list of ids."""
    name = _function_name(fn)
    parameters = list(inspect.signature(fn).parameters.values())
    needed = [it for it in parameters if it.default is it.empty and it.kind not in (it.VAR_POSITIONAL, it.VAR_KEYWORD)]
    positional = [it for it in parameters if it.kind in (it.POSITIONAL_ONLY, it.POSITIONAL_OR_KEYWORD)]
    if not positional or len(needed) > 1 or (needed and needed[0] is not positional[0]):
        raise ConfigurationError(f"'{name}' has to take one argument, the id of an item; write {name}(item_id: str)")
    declared = type_hints(fn).get(positional[0].name, str)
    is_many = not is_compatible(str, declared) or bool(get_args(declared))
    if is_many and is_compatible(list[str], declared) and get_args(declared) in ((), (str,), (Any,)):
        return positional[0].name, True
    if not is_compatible(str, declared):
        raise ConfigurationError(
            f"'{name}' declares '{positional[0].name}: {format_type(declared)}' and is given an id; write "
            f"{positional[0].name}: str, or a BatchWorkflow whose load makes more of it"
        )
    return positional[0].name, False


def _result_type(fn: Callable[..., Any], *, takes_many: bool) -> Any:
    result = return_type(fn)
    if result is Any and "return" not in type_hints(fn):
        raise ConfigurationError(f"'{_function_name(fn)}' has no return type; write one, such as -> None")
    if not takes_many:
        return result
    results = get_args(result)
    if len(results) != 1 or not is_compatible(result, Sequence):
        raise ConfigurationError(
            f"'{_function_name(fn)}' takes many ids and declares that it returns {format_type(result)}; write the type "
            f"of one result for each id, such as -> list[str]"
        )
    return without_exceptions(results[0])


def _failure_hook(fn: Callable[..., Any], hook: object) -> Callable[..., Any]:
    if not callable(hook) or isinstance(hook, type):
        raise ConfigurationError(
            f"the on_item_failure of '{_function_name(fn)}' cannot be {hook!r}; write a function of an ItemFailure"
        )
    return hook


def _item_flow_hook(
    fn: Callable[..., Any], hook: Callable[[str], FlowControl | None]
) -> Callable[[NoParams, str], FlowControl | None]:
    if not callable(hook) or isinstance(hook, type) or is_async(hook):
        raise ConfigurationError(
            f"the item_flow of '{_function_name(fn)}' cannot be {hook!r}; write a plain function of an id, such as "
            f"lambda item_id: FlowControl(key=…, parallelism=1)"
        )

    def item_flow(params: NoParams, item_id: str) -> FlowControl | None:
        return hook(item_id)

    return item_flow


def _check_source(name: str, source: object) -> None:
    if isinstance(source, str) or not (isinstance(source, Sequence) or callable(source)):
        raise ConfigurationError(
            f"the ids of '{name}' cannot be {source!r}; write a sequence of ids, or a function that gives them"
        )


_ReadIds: TypeAlias = Callable[[int, int], Awaitable[tuple[list[Id], bool]]]
"""Takes an offset and a limit; returns the ids, and True if they are the last ones."""


def _id_reader(source: IdSource) -> _ReadIds:
    if callable(source):
        return _RestartableSource(as_async(source)).read

    async def read(start: int, limit: int) -> tuple[list[Id], bool]:
        return list(source[start : start + limit]), start + limit >= len(source)

    return read


_TakeIds: TypeAlias = Callable[[int], Awaitable[list[Id]]]
"""Takes a number; returns as many of the next ids of an open source."""


class _RestartableSource:
    """Reads a source that can be restarted, and keeps it open between pages.

    Open sources are kept by batch and offset. A page that is read again, or by another process, restarts the source.
    """

    def __init__(self, start: Callable[[], Awaitable[Ids]]) -> None:
        self._call_source = start
        self._open_sources: OrderedDict[tuple[str, int], _TakeIds] = OrderedDict()

    async def read(self, start: int, limit: int) -> tuple[list[Id], bool]:
        """Return up to `limit` ids from an offset on, and True if they are the last ones."""
        batch = CURRENT_HOOK.get().batch
        take = self._open_sources.pop((batch, start), None) or await self._open(start)
        ids = await take(limit)
        if len(ids) < limit:
            return ids, True
        self._open_sources[batch, start + limit] = take
        if len(self._open_sources) > _MAX_OPEN:
            self._open_sources.popitem(last=False)
        return ids, False

    async def _open(self, place: int) -> _TakeIds:
        ids_of_source = await self._call_source()
        take = (
            _take_async(aiter(ids_of_source))
            if isinstance(ids_of_source, AsyncIterable)
            else _take_in_thread(iter(ids_of_source))
        )
        while place and (passed := len(await take(min(place, _SKIP_SIZE)))):
            place -= passed
        return take


def _take_in_thread(ids: Iterator[Id]) -> _TakeIds:
    # A plain generator may block on a database, so it runs in a thread like a plain hook.
    return as_async(lambda count: list(itertools.islice(ids, count)))


def _take_async(ids: AsyncIterator[Id]) -> _TakeIds:
    async def take(count: int) -> list[Id]:
        taken: list[Id] = []
        try:
            while len(taken) < count:
                taken.append(await anext(ids))
        except StopAsyncIteration:
            pass
        return taken

    return take
