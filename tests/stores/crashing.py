"""A process that opens a store, does one thing, says so, and waits for its end.

python -m tests.stores.crashing PATH claim|publish
"""

import asyncio
import sys

from batchflow.engine.clock import SystemClock
from batchflow.stores.sqlite import SqliteStore
from tests.conformance.scene import message


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(path: str, verb: str) -> None:
    store = SqliteStore(path, clock=SystemClock())
    await store.open()
    if verb == "claim":
        await store.register("doomed", 3_600_000)
        claimed = await store.claim("doomed", ["work"], 10)
        _say(str(len(claimed.claims)))
    elif verb == "publish":
        await store.publish([message("theirs")])
        _say("published")
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
