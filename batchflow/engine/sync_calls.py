"""Calls from code that is not async."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from batchflow.engine.engine import Engine
from batchflow.errors import InputError

T = TypeVar("T")


def run_sync(engine: Engine, name: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `call` on the event loop of the engine, or on one of its own while the store is open for it.

    Raises:
        InputError: this thread runs an event loop, or the engine does not run and its runs would end with this process.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise InputError(f"'{name}_sync' would block the event loop of this thread; write 'await flow.{name}(…)'")
    if engine.loop is not None:
        return asyncio.run_coroutine_threadsafe(call(), engine.loop).result()
    if not engine.is_durable:
        raise InputError(
            f"'{name}_sync' needs a running app if its state is in memory (sqlite://), or the run would be lost; "
            f"start the app before, or give it a URL such as sqlite:///batchflow.db"
        )
    return asyncio.run(_with_open_store(engine, call))


async def _with_open_store(engine: Engine, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    await engine.open()
    try:
        return await call()
    finally:
        await engine.close()
