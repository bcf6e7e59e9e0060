"""A program whose batch fails, and whose retry is cut off.

`python -m tests.scenarios.retrying_program URL LOG MODE`: MODE is `fail`, and all items of the batch fail; `cut`,
and it kills itself once it has published a part of the retry of all its items by their ids; `work`, and it asks for the
same retry, works, and kills itself after some items; `rest`, and it asks and works until the retry has ended.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from batchflow import Batchflow, BatchWorkflow, FlowControl, NonRetryable, NoParams, Page
from batchflow.batch import messages as batch_messages
from batchflow.core.message import Message
from tests.scenarios.working import shorten_leases, working

BATCH = "bat_first"
ITEMS = [f"i{number:02d}" for number in range(45)]
PORTION = 20
PARALLELISM = 8
KILLED_AFTER = 10


def die() -> None:
    """Nothing is given back, closed or written any more."""
    os.kill(os.getpid(), signal.SIGKILL)


class Invites(BatchWorkflow[NoParams, str, str]):
    """Each chunk is a message, so that a retry is published in several portions."""

    name = "invites"
    entity = "account"
    page_size, chunk_size = 15, 1
    entry_flow = paginate_flow = None
    execute_flow = FlowControl(parallelism=PARALLELISM)

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


async def main(url: str, log: str, mode: str) -> None:
    """Run the program in one of its modes."""
    shorten_leases()
    batch_messages.PUBLISH_BATCH_SIZE = PORTION
    flow = Batchflow(url)
    invites = flow.add(Invites(Path(log), mode))
    if mode == "cut":
        await flow.start(worker=False)
        publish = flow.engine.publish

        async def publish_once(messages: Sequence[Message]) -> Sequence[bool]:
            await publish(messages)
            die()
            return ()

        flow.engine.publish = publish_once
        await invites.batch(BATCH).retry(ids=ITEMS)
    async with working(flow):
        if mode == "fail":
            batch = await invites.trigger(batch_id=BATCH)
        else:
            batch = await invites.batch(BATCH).retry(ids=ITEMS)
        await batch.wait(60)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
