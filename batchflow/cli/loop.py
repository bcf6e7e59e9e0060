"""The event loop of one command: it ends when the command does, whatever user code still holds on to."""

import asyncio
from collections.abc import Coroutine
from typing import Any

_LEFT_SECONDS = 1.0
# For tasks that are cancelled at the end, and do not go.


def run_to_the_end(main: Coroutine[Any, Any, int]) -> int:
    """Run `main` on a loop of its own and return what it returns.

    Unlike `asyncio.run`, this waits for no thread of the loop's pool: a sync hook that hangs must not hold the command.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(_end_tasks())
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()


async def _end_tasks() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=_LEFT_SECONDS)
