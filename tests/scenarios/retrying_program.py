"""A program whose batch fails, and whose retry is cut off.

`python -m tests.scenarios.retrying_program STORE LOG MODE`: MODE is `fail`, and all items of the batch fail; `cut`,
and it kills itself once it has published a part of the retry of all its items by their ids; `work`, and it asks for the
same retry, works, and kills itself after some items; `rest`, and it asks and works until the retry has ended.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from batchflow import Batchflow, BatchWorkflow, NonRetryable, NoParams, Page
from batchflow.core.message import Message
from batchflow.engine import engine, worker

LEASE_MS = 2_000
BATCH = "bat_first"
ITEMS = [f"i{number:03d}" for number in range(450)]
KILLED_AFTER = 100


def die() -> None:
    """Nothing is given back, closed or written any more."""
    os.kill(os.getpid(), signal.SIGKILL)


class Invites(BatchWorkflow[NoParams, str, str]):
    """Each chunk is a message, so that a retry is published in several portions."""

    name = "invites"
    entity = "account"
    page_size, chunk_size = 150, 1
    entry_flow = paginate_flow = execute_flow = None

    def __init__(self, log: Path, mode: str) -> None:
        self.log, self.mode = log, mode
        self.executed = 0

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        first = int(cursor or 0)
        last = first + limit
        return Page(ids=ITEMS[first:last], next_cursor=str(last) if last < len(ITEMS) else None)

    async def execute(self, account_id: str) -> str:
        if self.mode == "fail":
            raise NonRetryable("closed")
        with self.log.open("a") as file:
            file.write(f"{account_id}\n")
        self.executed += 1
        if self.mode == "work" and self.executed == KILLED_AFTER:
            die()
        return account_id


async def main(store: str, log: str, mode: str) -> None:
    """Run the program in one of its modes."""
    # Another process has the claims of a dead one when its lease is over.
    engine.LEASE_MS = LEASE_MS
    worker.Heartbeat = partial(worker.Heartbeat, lease_ms=LEASE_MS)  # pyright: ignore[reportAttributeAccessIssue]
    flow = Batchflow(store, worker=mode != "cut", concurrency=8)
    invites = flow.add(Invites(Path(log), mode))
    async with flow:
        if mode == "fail":
            await (await invites.trigger(batch_id=BATCH)).wait(60)
            return
        if mode == "cut":
            publish = flow.engine.publish

            async def publish_once(messages: Sequence[Message]) -> Sequence[bool]:
                await publish(messages)
                die()
                return ()

            flow.engine.publish = publish_once
        retry = await invites.batch(BATCH).retry(ids=ITEMS)
        await retry.wait(60)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
