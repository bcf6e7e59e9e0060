"""The short form: a function of one id, and where the ids come from, as a workflow."""

import inspect
import itertools
import types
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, cast, overload

from batchflow.batch.arguments import Id
from batchflow.batch.bound import Workflow
from batchflow.batch.hook_scope import CURRENT_HOOK
from batchflow.batch.hooks import format_type, is_compatible, type_hints
from batchflow.batch.names import kebab_case
from batchflow.batch.workflow import BatchWorkflow, NoParams, Page
from batchflow.core.codec import return_type
from batchflow.core.duration import Duration
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.errors import ConfigurationError
from batchflow.serve.callables import as_async

R = TypeVar("R")

Ids: TypeAlias = Iterable[Id] | AsyncIterable[Id]
IdSource: TypeAlias = Sequence[Id] | Callable[[], Ids | Awaitable[Ids]]
"""Where the ids come from: a sequence, or a function that gives one, a generator or an async generator."""

_DEFAULT_FLOW = FlowControl(parallelism=10, rate=5)
_SKIP_SIZE = 10_000
# Ids passed over at once.
_MAX_OPEN = 16
# Generators kept open between two pages; one that is not there any more is begun again and read up to its place.


class BatchDecorator(Protocol):
    """The decorator that `@flow.batch(…)` gives."""

    @overload
    def __call__(self, fn: Callable[[str], Awaitable[R]], /) -> Workflow[NoParams, R]: ...
    @overload
    def __call__(self, fn: Callable[[str], R], /) -> Workflow[NoParams, R]: ...


class FunctionWorkflow(BatchWorkflow[NoParams, str, R], Generic[R], abstract=True):
    """What a function becomes: its subclasses are made by `function_batch`."""


class _FunctionWithSource(FunctionWorkflow[R], Generic[R], abstract=True):
    """With a source of ids, read in its order; the cursor is the number of ids read so far."""

    def __init__(self, source: IdSource) -> None:
        self._read = _id_reader(source)

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        """The next ids of the source."""
        start = int(cursor or 0)
        ids, is_end = await self._read(start, limit)
        return Page(ids=ids, next_cursor=None if is_end else str(start + len(ids)))


def function_workflow(
    fn: Callable[[str], Awaitable[R]] | Callable[[str], R],
    *,
    ids: IdSource | None = None,
    name: str | None = None,
    flow: FlowControl | None = _DEFAULT_FLOW,
    retry: RetryPolicy | None = None,
    timeout: Duration | None = None,
    processed_ttl: Duration | None = None,
    processed_per: tuple[str, ...] = (),
    walk_first: bool = False,
) -> BatchWorkflow[NoParams, str, R]:
    """A workflow whose `execute` is `fn`, named after it; without `ids` every trigger names its own.

    `fn` takes one id; its parameter says what an item is (`user_id`: a user), its return type what a result is.
    A source is read in its order, page by page, and has to give the same ids in the same order each time.

    Raises:
        ConfigurationError: `fn` takes other arguments, does not say what it returns, or an option does not fit.
    """
    parameter = _id_parameter(fn)
    result = _result_type(fn)
    members: dict[str, Any] = {
        "execute": staticmethod(fn),
        "name": name if name is not None else kebab_case(_function_name(fn)),
        "entity": kebab_case(parameter.removesuffix("_id"))
        if parameter.endswith("_id") and parameter != "_id"
        else "item",
        "execute_flow": flow,
        "processed_ttl": processed_ttl,
        "processed_per": processed_per,
        "walk_first": walk_first,
        "__module__": fn.__module__,
        "__doc__": fn.__doc__,
    }
    members |= {"retry": retry} if retry is not None else {}
    members |= {"item_timeout": timeout} if timeout is not None else {}
    if ids is not None:
        _check_source(_function_name(fn), ids)
    base: Any = FunctionWorkflow if ids is None else _FunctionWithSource
    cls = types.new_class(
        _function_name(fn), (base[result],), {"ids_only": ids is None}, lambda space: space.update(members)
    )
    return cast("BatchWorkflow[NoParams, str, R]", cls() if ids is None else cls(ids))


def _function_name(fn: Callable[..., Any]) -> str:
    return str(getattr(fn, "__name__", type(fn).__name__))


def _id_parameter(fn: Callable[..., Any]) -> str:
    """The name of the one parameter."""
    name = _function_name(fn)
    parameters = list(inspect.signature(fn).parameters.values())
    needed = [it for it in parameters if it.default is it.empty and it.kind not in (it.VAR_POSITIONAL, it.VAR_KEYWORD)]
    positional = [it for it in parameters if it.kind in (it.POSITIONAL_ONLY, it.POSITIONAL_OR_KEYWORD)]
    if not positional or len(needed) > 1 or (needed and needed[0] is not positional[0]):
        raise ConfigurationError(f"'{name}' has to take one argument, the id of an item; write {name}(item_id: str)")
    declared = type_hints(fn).get(positional[0].name, str)
    if not is_compatible(str, declared):
        raise ConfigurationError(
            f"'{name}' declares '{positional[0].name}: {format_type(declared)}' and is given an id; write "
            f"{positional[0].name}: str, or a BatchWorkflow whose load makes more of it"
        )
    return positional[0].name


def _result_type(fn: Callable[..., Any]) -> Any:
    result = return_type(fn)
    if result is Any and "return" not in type_hints(fn):
        raise ConfigurationError(
            f"'{_function_name(fn)}' does not say what it returns; write its return type, such as -> None"
        )
    return result


def _check_source(name: str, source: object) -> None:
    if isinstance(source, str) or not (isinstance(source, Sequence) or callable(source)):
        raise ConfigurationError(
            f"the ids of '{name}' cannot be {source!r}; write a sequence of ids, or a function that gives them"
        )


_ReadIds: TypeAlias = Callable[[int, int], Awaitable[tuple[list[Id], bool]]]
"""Reads so many ids from a place on: those, and whether the source ends with them."""


def _id_reader(source: IdSource) -> _ReadIds:
    if callable(source):
        return _RestartableSource(as_async(source)).read

    async def read(start: int, limit: int) -> tuple[list[Id], bool]:
        return list(source[start : start + limit]), start + limit >= len(source)

    return read


_TakeIds: TypeAlias = Callable[[int], Awaitable[list[Id]]]
"""The next so many ids of what was begun."""


class _RestartableSource:
    """Reads a source that can be begun again, without beginning again for every page.

    What is open is kept by batch and place: a page that is asked for twice, or by another process, finds nothing and
    begins from the start.
    """

    def __init__(self, start: Callable[[], Awaitable[Ids]]) -> None:
        self._call_source = start
        self._open_sources: OrderedDict[tuple[str, int], _TakeIds] = OrderedDict()

    async def read(self, start: int, limit: int) -> tuple[list[Id], bool]:
        """So many ids from a place on, and whether the source ends with them."""
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
    # A plain generator may wait for a database, so it runs in a thread like a plain hook.
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
