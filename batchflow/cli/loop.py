"""The event loop of one command: it ends when the command does, whatever user code still holds on to."""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any

try:
    import uvloop
except ImportError:  # not on Windows
    uvloop = None

_LEFT_SECONDS = 1.0
# For tasks that are cancelled at the end, and do not go.


def run_to_the_end(main: Coroutine[Any, Any, int]) -> int:
    """Run `main` on a loop of its own and return what it returns.

    Unlike `asyncio.run`, this waits for no thread of the loop's pool: a sync hook that hangs must not hold the command.
    """
    spare_the_collector()
    loop = new_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(_end_tasks())
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()


def new_loop() -> asyncio.AbstractEventLoop:
    """The fastest event loop there is for this platform."""
    return asyncio.new_event_loop() if uvloop is None else uvloop.new_event_loop()


def spare_the_collector() -> None:
    """Let the garbage collector look at this process less often; for a process that does nothing but run batches."""
    # Reference counting frees nearly all that a run makes. Looking for cycles among everything that is under way, every
    # 700 objects as is the default, takes a fifth of the time of a batch of small items.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def _end_tasks() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=_LEFT_SECONDS)
