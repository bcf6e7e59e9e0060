"""Batches that runs in QStash invoke: a message of the app's store opens each, and tells QStash of its end."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from more_itertools import chunked
from pydantic_core import from_json, to_json

from batchflow.batch.arguments import derive_batch_id
from batchflow.core.codec import Codec
from batchflow.core.ids import child_id
from batchflow.core.message import Claim, Message, failure_flow
from batchflow.core.ports import LogNames, Runtime
from batchflow.core.report import headline
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import RunQuery, Step
from batchflow.core.settlement import OpenBatch, Settlement, cancelled, dead, done, retry, suspended
from batchflow.core.store import RunReads, Store
from batchflow.errors import InputError, NotFoundError, StoreError
from batchflow.logs import logger
from batchflow.qstash.directory import Directory
from batchflow.wire.steps import batch_ended, batch_event
from batchflow.wire.submissions import Address, notify_submission, own_id

INVOKED = "batchflow:invoked"
"""The destination of the messages that wait for such batches. Routes cannot have this name."""

INVOKED_LOG_NAMES = LogNames(INVOKED, "QStash was not told of the end of a batch that a run waits for")
"""The words of the log lines about them."""

LOOK_MS = 3_600_000
"""The time between two looks at the run, which QStash may have cancelled without the app."""

MOST_WAITING = 1_000
"""The number of messages, the latest ones, that the cancellation of runs looks at; the others look themselves."""

LOOKS_AT_ONCE = 20
"""The number of runs that it looks at at the same time."""

_OPENS = "opens"
_RETRY = RetryPolicy(first="2s", cap="1m")


def invoked_message(run: Address, route: str, number: int, opens: OpenBatch) -> Message:
    """The message that opens a batch for step `number` of a run of the endpoint `route`.

    Its id and that of the batch follow from the run and the step, so that a step which is repeated opens nothing again.
    """
    id = child_id(_parent_id(run), number)
    batch = derive_batch_id(opens.batch.workflow, id)
    messages = tuple(
        replace(it, id=batch + it.id.removeprefix(opens.batch.id), batch=batch, headers=dict(it.headers))
        for it in opens.messages
    )
    opened = replace(opens.batch, id=batch, parent=(id, 1), headers=dict(opens.batch.headers))
    return Message(
        id=id,
        destination=INVOKED,
        flow=failure_flow(INVOKED),
        body=to_json([run.run, route]).decode(),
        # Parameters and headers may be secret, and headers of a message are shown nowhere.
        headers={_OPENS: Codec.of(OpenBatch).encode(OpenBatch(opened, messages))},
        keep=True,
        label=own_id(run.run),
    )


class InvokedBatches:
    """Handles these messages. `directory` has the accounts of the runs, which `runs` reads.

    The first claim opens the batch as a child of the message; the end of the batch arrives at the message as at every
    run that invokes a batch, and QStash is told of it until it has answered.
    """

    timeout_ms = 120_000
    """See the port."""

    def __init__(self, directory: Directory, runs: Callable[[], RunReads]) -> None:
        self._directory = directory
        self._runs = runs

    async def deliver(self, claim: Claim, runtime: Runtime) -> Settlement:
        """See the port."""
        run, route = from_json(claim.body)
        now = runtime.clock.now()
        step = next(iter(claim.journal), None)
        try:
            if step is None or step.state == "pending":
                if await self._is_cancelled(run):
                    return cancelled(claim)
                return _opened(claim, now) if step is None else suspended(claim, now + LOOK_MS, ())
            data = batch_ended(step._replace(error=headline(step.error or "")))
            await self._directory.rest_of(route).post(notify_submission(batch_event(claim.id), data, run))
        except NotFoundError:
            # The run has ended.
            pass
        except InputError as error:
            return dead(claim, f"QStash refuses it: {error}")
        except StoreError as error:
            why = f"{type(error).__name__}: {error}"
            if not error.retryable:
                return dead(claim, why)
            logger().warning("[batchflow:invoked] QStash does not answer about a run that waits for a batch", error=why)
            delay = _RETRY.delay_ms(claim.failures + 1, chance=runtime.entropy.chance())
            return retry(claim, now + delay, why)
        return done(claim, "null")

    async def cancel(self, store: Store, ids: Sequence[str], *, all_were: bool) -> None:
        """Cancel the batches that these runs, or any, wait for, if QStash has cancelled the run; `all_were` if so."""
        of_ids = {own_id(it) for it in ids}
        waiting = [
            it
            for state in ("waiting", "running")
            for it in await store.runs(RunQuery(state, INVOKED), MOST_WAITING)
            if not ids or it.label in of_ids
        ]
        runs = {str(it.label) for it in waiting}
        were = runs if all_were else await self._cancelled_of(runs)
        if of_cancelled := [it.id for it in waiting if it.label in were]:
            await store.cancel_runs(ids=of_cancelled)

    async def cancel_of(self, store: Store, run: Address) -> None:
        """Cancel the batches that this very run waits for, which has ended."""
        waiting = await store.runs(RunQuery(destination=INVOKED, label=own_id(run.run)), MOST_WAITING)
        if ids := [it.id for it in waiting if it.id.startswith(f"{_parent_id(run)}.")]:
            await store.cancel_runs(ids=ids)

    async def _cancelled_of(self, runs: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for some in chunked(runs, LOOKS_AT_ONCE):
            were = await asyncio.gather(*(self._is_cancelled(it) for it in some))
            found |= {run for run, was in zip(some, were, strict=True) if was}
        return found

    async def _is_cancelled(self, run: str) -> bool:
        found = await self._runs().run(own_id(run))
        return found is not None and found.state == "cancelled"


def _parent_id(run: Address) -> str:
    # QStash may have had another run with this id, which has ended.
    return f"{own_id(run.run)}.{run.created_at}"


def _opened(claim: Claim, now: int) -> Settlement:
    """The message waits from now on for the batch that it has opened."""
    step = Step(1, "batch", "invoke", "pending", at=now)
    return suspended(claim, now + LOOK_MS, (step,), (Codec.of(OpenBatch).decode(claim.headers[_OPENS]),))
