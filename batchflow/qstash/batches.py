"""The batches of an app on QStash: their state is in the app's store, and QStash calls the app for each message."""

import asyncio
from base64 import b64decode
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json

from batchflow.core.store import Store
from batchflow.engine.cron import CronScheduler
from batchflow.errors import ConfigurationError, InputError, StoreError, StoreUnavailable
from batchflow.logs import logger
from batchflow.qstash.relay import Relay
from batchflow.qstash.worker import RequestWorker

END_S = 2.0
"""The time, after the grace, in which the answers to requests have to end when the app stops, in seconds."""

MOST_PRUNED = 100
"""The slices that a request removes at most: some hundred thousand rows."""


class DeliveredMessage(BaseModel):
    """The body of a request of QStash: a message and its fence; without them there is only something to look for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    message: str | None = None
    fence: int = Field(default=0, ge=0, lt=2**63)


class QStashBatches:
    """Executes what QStash names, and gives it what is due then. Made on the event loop of the requests."""

    def __init__(
        self, store: Store, worker: RequestWorker, relay: Relay, cron: CronScheduler, *, retention_ms: int
    ) -> None:
        self._store = store
        self._worker = worker
        self._relay = relay
        self._cron = cron
        self._retention_ms = retention_ms
        self._declared = False
        self._giving = asyncio.Lock()
        self._asked = self._served = 0
        self._was_away: bool = False
        """The store may have stopped in the middle of a verb."""
        self._outages: int = 0
        self._answering: dict[object, asyncio.Task[None]] = {}

    async def answer(self, body: bytes, *, repeated: bool) -> None:
        """Answer one request; with `repeated` an earlier one for the same got no answer.

        A failure callback of QStash stands for the request of which it tells. What a request has begun goes on when the
        request is cancelled, as by a time limit of the server; others for the same message wait for that.

        Raises:
            InputError: the body is not what was given to QStash.
            StoreError: the store or QStash is away, or the app stops; the request is to be sent again.
        """
        try:
            given_up = _given_up(body)
            asked = DeliveredMessage.model_validate_json(body if given_up is None else given_up)
        except ValueError as error:
            raise InputError("the body is not one that batchflow has given to QStash", status=400) from error
        # A look that has begun may have missed what this one is for.
        key = object() if asked.message is None else (asked.message, asked.fence)
        if (task := self._answering.get(key)) is None:
            task = asyncio.create_task(self._do(asked, repeated=repeated or given_up is not None))
            self._answering[key] = task
            task.add_done_callback(lambda _: self._answering.pop(key))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if (own := asyncio.current_task()) is not None and own.cancelling():
                raise
            raise StoreUnavailable("the app stops") from None

    async def _do(self, asked: DeliveredMessage, *, repeated: bool) -> None:
        if asked.message is None:
            await self._look()
            return
        with self._noting_outages():
            claim = await self._worker.deliver(asked.message, asked.fence)
        if claim is None and repeated:
            # Whoever has executed it may have been killed: then its lease ends without another request.
            await self._relay.wake_after_lease()
        if claim is not None and claim.number >= 0:
            await self._relay.replace(claim.destination)
        else:
            # It may have made many due.
            await self._relay.run()

    async def give_due(self) -> None:
        """Give QStash what is due. Without an answer of QStash or the store that is left to the next request.

        Of calls at the same time, those that wait share the next run.
        """
        self._asked += 1
        asked = self._asked
        async with self._giving:
            if self._served >= asked:
                return
            served = self._asked
            await self._try_to_give()
            self._served = served

    async def _try_to_give(self) -> None:
        # What is due is given though QStash may not have learnt to call the app regularly.
        await self.schedule()
        try:
            await self._relay.run()
        except (StoreError, ConfigurationError) as error:
            logger().warning(
                "[batchflow] What is due could not be given to QStash; trying again later", error=str(error)
            )

    async def schedule(self) -> None:
        """Have QStash call the app regularly. Without an answer that is left to the next batch."""
        try:
            await self._relay.schedule()
        except (StoreError, ConfigurationError) as error:
            logger().warning("[batchflow] QStash could not be told to call this app regularly", error=str(error))

    async def close(self, grace_s: float) -> None:
        """Wait up to `grace_s` for what is executed, release the rest, and leave the store."""
        await self._worker.stop(grace_s)
        await self._end_answers(min(grace_s, END_S))
        await self._worker.close()
        await self._relay.close()

    async def _end_answers(self, seconds: float) -> None:
        """Wait as long for the answers, now that nothing is executed, and then cancel them."""
        if tasks := set(self._answering.values()):
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=END_S)

    async def _look(self) -> None:
        """Do what a worker does beside its claims: reclaim, repair, prune and fire schedules; then give what is due."""
        with self._noting_outages():
            async with self._worker.working():
                await self._tidy()
                if not self._declared:
                    await self._cron.declare()
                    self._declared = True
                await self._cron.fire_due()
        await self._relay.run()
        await self._relay.wake_at(self._cron.next_at)

    async def _tidy(self) -> None:
        await self._store.expire()
        ended = self._worker.ended_outages
        # It looks at all that is open, which only what an outage may have left is worth.
        deep = self._was_away or ended != self._outages
        if count := await self._store.reconcile(self._worker.destinations, deep=deep):
            logger().warning("[batchflow] Repaired what the store had left half done", places_and_messages=count)
        self._was_away, self._outages = False, ended
        for _ in range(MOST_PRUNED):
            if not await self._store.prune(self._retention_ms):
                break

    @contextmanager
    def _noting_outages(self) -> Generator[None]:
        try:
            yield
        except StoreUnavailable:
            self._was_away = True
            raise


def _given_up(body: bytes) -> bytes | None:
    """The body of the request that QStash has given up, if this is the body of its failure callback."""
    read: Any = from_json(body)
    source = cast("dict[str, Any]", read).get("sourceBody") if isinstance(read, dict) else None
    return None if source is None else b64decode(str(source), validate=True)
