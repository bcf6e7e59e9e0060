"""One way to call user code: async functions as they are, plain ones in the runtime's worker threads."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Executor
from contextvars import ContextVar, copy_context
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from batchflow.core.duration import show

P = ParamSpec("P")
T = TypeVar("T")

THREADS: ContextVar[Executor | None] = ContextVar("batchflow_threads", default=None)
"""Where plain functions run; None is the event loop's default pool, as for a dry run outside of any delivery."""


@overload
def as_async(fn: Callable[P, Awaitable[T]], /) -> Callable[P, Awaitable[T]]: ...
@overload
def as_async(fn: Callable[P, Awaitable[T] | T], /) -> Callable[P, Awaitable[T]]: ...
def as_async(fn: Callable[..., Any], /) -> Callable[..., Awaitable[Any]]:
    """`fn` itself when it is async, otherwise an async function that calls it in a worker thread.

    Async are: an `async def`, a bound method or a partial of one, an object whose `__call__` is one. A plain function
    that returns an awaitable (a lambda around an async call) is called in a thread and its awaitable awaited on the
    event loop. The caller's context variables are seen in the thread. Cancelling the call does not stop the thread: it
    runs on, and its result is dropped.
    """
    return fn if is_async(fn) else cast("Callable[..., Awaitable[Any]]", _Threaded(fn))


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether calling `fn` gives a coroutine."""
    # Nearly all steps are functions or methods, and their code object knows; inspect takes ten times as long.
    code = getattr(fn, "__code__", None)
    if code is not None and code.co_flags & inspect.CO_COROUTINE:
        return True
    while isinstance(fn, functools.partial):
        fn = fn.func
    return isinstance(fn, _Threaded) or inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(_call_of(fn))


async def within(
    timeout_ms: int, fn: Callable[..., Awaitable[T]], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> T:
    """Call `fn` and cancel it after `timeout_ms`.

    Raises:
        TimeoutError: it took longer.
    """
    scope = asyncio.timeout(timeout_ms / 1000)
    try:
        async with scope:
            return await fn(*args, **kwargs)
    except TimeoutError as error:
        if scope.expired():
            raise TimeoutError(f"took longer than {show(timeout_ms)}") from error
        raise


def _called(call: "functools.partial[Any]") -> Any:
    try:
        return call()
    except StopIteration as error:
        # No future takes one; a coroutine that raises it does this, too (PEP 479).
        raise RuntimeError(f"{call.func} raised StopIteration") from error


def _call_of(fn: object) -> object:
    return None if inspect.isroutine(fn) or inspect.isclass(fn) else getattr(fn, "__call__", None)  # noqa: B004


class _Threaded(Generic[P, T]):
    """A plain function that is awaited."""

    __slots__ = ("__wrapped__",)

    def __init__(self, fn: Callable[P, T]) -> None:
        self.__wrapped__ = fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        return self._call(functools.partial(self.__wrapped__, *args, **kwargs))

    async def _call(self, call: "functools.partial[Any]") -> Any:
        loop, context = asyncio.get_running_loop(), copy_context()
        result = await loop.run_in_executor(THREADS.get(), lambda: context.run(_called, call))
        return await result if inspect.isawaitable(result) else result
