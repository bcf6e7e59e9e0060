"""A program whose runs fail for good, and that is killed between a death and the call of its failure function.

`python -m tests.scenarios.failing_program URL LOG FAILURE_URL MODE WHAT`: MODE is `before`, and it kills itself once
a death is stored, or told to QStash; `during`, in the call; `rest`, and it makes the calls that are left, and ends with
them. WHAT is what
fails: a `function` with a failure function, one with a failure `url`, or one of `items`. With `end` it is the
end of a batch after which it is killed, and the URL is told of that.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batchflow import (
    Batchflow,
    BatchWorkflow,
    ItemFailure,
    NonRetryable,
    NoParams,
    Page,
    RetryPolicy,
    RunFailure,
    WorkflowContext,
)
from batchflow.core.dead_letters import DeadLetterQuery
from batchflow.core.message import Claim
from batchflow.core.ports import Observer
from batchflow.core.settlement import Settlement
from batchflow.serve.functions import ServedFunction
from tests.scenarios.working import LISTENER, shorten_leases, working
from tests.waiting import wait_until

SOON = RetryPolicy(retries=3, delay="1000")


def die() -> None:
    """Nothing is given back, closed or written any more."""
    os.kill(os.getpid(), signal.SIGKILL)


class DeathWatch(Observer):
    """Kills the process with the first death."""

    def settled(self, claim: Claim, settlement: Settlement) -> None:
        """Called once the death is stored; that of a run on QStash is not yet."""
        if settlement.ending == "dead" and (claim.batch is not None or LISTENER not in os.environ):
            die()


class LastWords:
    """Kills the process once it has told QStash that a run has failed for good."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            await send(message)
            status = message.get("status", status)
            if status == 489 and message["type"] == "http.response.body":
                die()

        await self._app(scope, receive, sending)


class EndWatch(Observer):
    """Kills the process with the first end of a batch."""

    def batch_ended(self, batch: str) -> None:
        """Called once the end is stored."""
        die()


class Items(BatchWorkflow[NoParams, str, None]):
    """One item, which fails."""

    name = "failing"
    entry_flow = paginate_flow = execute_flow = None

    def __init__(self, log: str, mode: str) -> None:
        self.log, self.mode = log, mode

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(["a"])

    async def execute(self, item: str) -> None:
        raise NonRetryable("closed")

    async def on_item_failure(self, failure: ItemFailure[NoParams]) -> str:
        note(self.log, self.mode, failure)
        return failure.item_id


def note(log: str, mode: str, failure: RunFailure) -> None:
    """Write a line for a call, or die in it."""
    if mode == "during":
        die()
    with Path(log).open("a") as file:
        file.write(f"{failure.run_id} {failure.response}\n")


def app(url: str, log: str, failure_url: str, mode: str) -> tuple[Batchflow, list[ServedFunction[str, None]], Items]:
    """The app: a function with a failure function, one with a failure URL, and a batch."""
    flow = Batchflow(url)

    async def closed(ctx: WorkflowContext[str]) -> None:
        raise NonRetryable("closed")

    async def told(ctx: WorkflowContext[str]) -> None:
        await closed(ctx)

    async def failed(failure: RunFailure[str]) -> str:
        note(log, mode, failure)
        return failure.payload

    served = [
        flow.serve("/function", retry=SOON, failure_function=failed)(closed),
        flow.serve("/url", retry=SOON, failure_url=failure_url)(told),
    ]
    return flow, served, Items(log, mode)


async def make_calls(flow: Batchflow) -> None:
    """Return once no failure function is still to be called."""

    async def is_done() -> bool:
        letters, _ = await flow.engine.dead_letter_store.page(DeadLetterQuery(), 100, None)
        return all(it.failure is None or it.failure.state != "in_progress" for it in letters)

    await wait_until(is_done, description="the failure functions are called", timeout=300)


async def main(url: str, log: str, failure_url: str, mode: str, what: str) -> None:
    """Start one run or batch and die, or make the calls that are left."""
    shorten_leases()
    flow, (function, told), items = app(url, log, failure_url, mode)
    batch = flow.add(items)
    if mode == "before":
        flow.engine.observers.add(EndWatch() if what == "end" else DeathWatch())
    async with working(flow, LastWords if mode == "before" else lambda app: app):
        match mode, what:
            case "rest", _:
                return await make_calls(flow)
            case _, "items":
                await batch.trigger()
            case _, "end":
                await batch.trigger(notify_url=failure_url)
            case _, "function":
                await function.trigger("p")
            case _:
                await told.trigger("p")
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:6]))
