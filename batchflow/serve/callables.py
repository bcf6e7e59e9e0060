"""Calling user code: async functions directly, plain functions in worker threads."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import copy_context
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from batchflow.core.duration import humanize_duration
from batchflow.core.ports import PlainCall
from batchflow.serve.delivery_scope import CURRENT_DELIVERY, CURRENT_STEP

P = ParamSpec("P")
T = TypeVar("T")


@overload
def as_async(fn: Callable[P, Awaitable[T]], /) -> Callable[P, Awaitable[T]]: ...
@overload
def as_async(fn: Callable[P, Awaitable[T] | T], /) -> Callable[P, Awaitable[T]]: ...
def as_async(fn: Callable[..., Any], /) -> Callable[..., Awaitable[Any]]:
    """Return `fn` itself when it is async, or else an async function that calls it in a worker thread.

    An `async def`, a bound method or partial of one, and an object whose `__call__` is one count as async. A plain
    function that returns an awaitable (a lambda around an async call) is called in a thread, and the awaitable is
    awaited on the event loop. The thread sees the caller's context variables. Cancelling the call does not stop the
    thread: it runs on, its result is dropped, and another thread takes its place.
    """
    return fn if is_async(fn) else cast("Callable[..., Awaitable[Any]]", _ThreadedFunction(fn))


def is_async(fn: Callable[..., Any]) -> bool:
    """Return whether calling `fn` returns a coroutine."""
    # Nearly all steps are functions or methods, and their code object knows; inspect takes ten times as long.
    code = getattr(fn, "__code__", None)
    if code is not None and code.co_flags & inspect.CO_COROUTINE:
        return True
    while isinstance(fn, functools.partial):
        fn = fn.func
    return (
        isinstance(fn, _ThreadedFunction)
        or inspect.iscoroutinefunction(fn)
        or inspect.iscoroutinefunction(_dunder_call(fn))
    )


async def call_with_timeout(
    timeout_ms: int, fn: Callable[..., Awaitable[T]], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> T:
    """Call `fn` and cancel it after `timeout_ms`, not counting the time a plain function waits for a thread.

    Raises:
        TimeoutError: the call took longer.
    """
    seconds = timeout_ms / 1000
    scope = asyncio.timeout(seconds)

    def on_wait(is_waiting: bool, now: float) -> None:
        if not scope.expired():
            scope.reschedule(None if is_waiting else now + seconds)

    try:
        async with scope:
            if isinstance(fn, _ThreadedFunction):
                return cast("T", await fn.call_reporting_waits(on_wait, args, kwargs))
            return await fn(*args, **kwargs)
    except TimeoutError as error:
        if scope.expired():
            raise TimeoutError(f"took longer than {humanize_duration(timeout_ms)}") from error
        raise


def _call_in_thread(call: "functools.partial[Any]") -> Any:
    try:
        return call()
    except StopIteration as error:
        # A future cannot hold a StopIteration; a coroutine that raises one does the same (PEP 479).
        raise RuntimeError(f"{call.func} raised StopIteration") from error


THREAD_ENTRY = _call_in_thread.__code__
"""The code object in the traceback of every exception that was raised in a thread."""


def _callable_name(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        fn = cast("functools.partial[Any]", fn).func
    return getattr(fn, "__qualname__", "") or type(fn).__qualname__


def _dunder_call(fn: object) -> object:
    return None if inspect.isroutine(fn) or inspect.isclass(fn) else getattr(fn, "__call__", None)  # noqa: B004


class _ThreadedFunction(Generic[P, T]):
    """An awaitable wrapper of a plain function."""

    __slots__ = ("__wrapped__",)

    def __init__(self, fn: Callable[P, T]) -> None:
        self.__wrapped__ = fn

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        return self._call(functools.partial(self.__wrapped__, *args, **kwargs), None)

    def call_reporting_waits(
        self, on_wait: Callable[[bool, float], None], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Coroutine[Any, Any, T]:
        """Call the function, and `on_wait` when it starts or stops waiting for a thread."""
        return self._call(functools.partial(self.__wrapped__, *args, **kwargs), on_wait)

    async def _call(self, call: "functools.partial[Any]", on_wait: Callable[[bool, float], None] | None) -> Any:
        context, delivery = copy_context(), CURRENT_DELIVERY.get()
        if delivery is None or delivery.threads is None:
            result = await asyncio.get_running_loop().run_in_executor(None, lambda: context.run(_call_in_thread, call))
            return await result if inspect.isawaitable(result) else result

        def report_wait(is_waiting: bool, now: float) -> None:
            delivery.on_thread_wait(is_waiting, now)
            if on_wait is not None:
                on_wait(is_waiting, now)

        run, _, step = CURRENT_STEP.get() or ("", 0, "")
        about = PlainCall(_callable_name(call.func), run, step)
        result = await delivery.threads.run(lambda: context.run(_call_in_thread, call), about, report_wait)
        return await result if inspect.isawaitable(result) else result
