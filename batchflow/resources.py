"""Resources of a process: what its hooks share, such as an HTTP client, opened before work starts and closed after."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from typing import Any, Generic, TypeAlias, TypeVar, cast

from batchflow.errors import ConfigurationError, ResourceError
from batchflow.logs import logger
from batchflow.serve.failure import describe_error
from batchflow.serve.validation import format_value

T = TypeVar("T")

Opener: TypeAlias = (
    Callable[[], AbstractAsyncContextManager[T]]
    | Callable[[], AbstractContextManager[T]]
    | Callable[[], AsyncIterator[T]]
    | Callable[[], Iterator[T]]
)
"""A function that opens a resource and closes it: a generator of one value, or one that returns a context manager."""


class Resource(Generic[T]):
    """A resource that `flow.resource` has declared; calling it returns the open one.

    It can be called in hooks, durable functions, steps, routes of the app and other resources while the app runs. Each
    start of the app opens it again.
    """

    def __init__(self, name: str, opener: Opener[T]) -> None:
        self.name = name
        self._opener = opener
        self._opened: tuple[T] | None = None
        self._replacement: tuple[T] | None = None

    def __repr__(self) -> str:
        return f"Resource('{self.name}')"

    def __call__(self) -> T:
        """Return the open resource.

        Raises:
            ConfigurationError: the app does not run.
        """
        found = self._replacement or self._opened
        if found is None:
            raise ConfigurationError(
                f"the resource '{self.name}' is not open; it is open while the app runs: inside 'async with flow:', or "
                f"in FastAPI(lifespan=flow.lifespan), the outermost app if one is mounted in another; a test that runs "
                f"a function alone replaces it: 'with resource.override(value):'"
            )
        return found[0]

    @contextmanager
    def override(self, value: T) -> Generator[None]:
        """Use `value` in its place inside of the block, for a test; an app that starts in there does not open it."""
        before, self._replacement = self._replacement, (value,)
        try:
            yield
        finally:
            self._replacement = before

    async def enter(self, stack: AsyncExitStack) -> None:
        """Open it, unless a test has replaced it, and close it with `stack`.

        Raises:
            ResourceError: it cannot be opened.
        """
        if self._replacement is not None:
            return
        try:
            manager = _context_manager(self.name, self._opener)
            self._opened = (await manager.__aenter__(),)
        except Exception as error:
            raise ResourceError(self.name, describe_error(error)) from error
        stack.push_async_callback(self._exit, manager)

    def drop(self) -> None:
        """Forget what is open, without closing it."""
        self._opened = None

    async def _exit(self, manager: AbstractAsyncContextManager[T]) -> None:
        self._opened = None
        try:
            await manager.__aexit__(None, None, None)
        except Exception as error:
            # The work is done and stays done; the other resources and the store are still to be closed.
            logger().error(
                "[batchflow:error] A resource cannot be closed", resource=self.name, error=describe_error(error)
            )


class Resources:
    """The resources of an app: opened in the order of their declaration, closed in reverse."""

    def __init__(self) -> None:
        self._declared: list[Resource[Any]] = []
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def declare(self, opener: Opener[T]) -> Resource[T]:
        """Add a resource.

        Raises:
            ConfigurationError: `opener` cannot open one, or the app runs already.
        """
        if not callable(opener):
            raise ConfigurationError(f"flow.resource cannot take {format_value(opener)}; {_WRITE}")
        name = str(getattr(opener, "__name__", type(opener).__name__))
        if inspect.iscoroutinefunction(opener):
            raise ConfigurationError(f"the resource '{name}' returns where it has to yield; {_WRITE}")
        try:
            inspect.signature(opener).bind()
        except TypeError:
            raise ConfigurationError(f"the resource '{name}' is opened without arguments and takes some") from None
        except ValueError:
            pass  # a builtin without a signature
        if self._is_open:
            raise ConfigurationError(f"the resource '{name}' is declared while the app runs; declare it before")
        resource = Resource(name, opener)
        self._declared.append(resource)
        return resource

    async def open(self) -> None:
        """Open all, one after the other; safe to repeat.

        Raises:
            ResourceError: one cannot be opened; those before it are closed again.
        """
        if self._is_open or not self._declared:
            return
        self._closing = asyncio.Event()
        opened = asyncio.get_running_loop().create_future()
        self._task = task = asyncio.create_task(self._keep_open(opened), name="batchflow-resources")
        try:
            await asyncio.wait((task, opened), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait((task,))
            self._task = None
            raise
        if not opened.done():
            self._task = None
            await task

    @property
    def _is_open(self) -> bool:
        # A task that has ended is left from an event loop that is gone.
        return self._task is not None and not self._task.done()

    async def close(self) -> None:
        """Close all; safe to repeat."""
        task, self._task = self._task, None
        if task is not None and not task.done():
            self._closing.set()
            await asyncio.wait((task,))

    def drop(self) -> None:
        """Forget what is open, after its event loop has gone."""
        self._task = None
        for it in self._declared:
            it.drop()

    async def _keep_open(self, opened: "asyncio.Future[None]") -> None:
        # In a task of its own: a task group or cancel scope has to be left by the task that has entered it, and whoever
        # starts the app is often not the one who stops it.
        async with AsyncExitStack() as stack:
            for it in self._declared:
                await it.enter(stack)
            opened.set_result(None)
            await self._closing.wait()


_WRITE = "write a function that yields it, or one that returns a context manager"


def _context_manager(name: str, opener: Opener[T]) -> AbstractAsyncContextManager[T]:
    made: Any = opener()
    if hasattr(made, "__aenter__"):
        return cast("AbstractAsyncContextManager[T]", made)
    if hasattr(made, "__enter__"):
        return _as_async(cast("AbstractContextManager[T]", made))
    if isinstance(made, AsyncGenerator):
        return asynccontextmanager(lambda: cast("AsyncGenerator[T]", made))()
    if isinstance(made, Generator):
        return _as_async(contextmanager(lambda: cast("Generator[T]", made))())
    if inspect.iscoroutine(made):
        made.close()
    raise ConfigurationError(f"'{name}' returned {format_value(made)}, which cannot be closed; {_WRITE}")


@asynccontextmanager
async def _as_async(manager: AbstractContextManager[T]) -> AsyncGenerator[T]:
    with manager as value:
        yield value
