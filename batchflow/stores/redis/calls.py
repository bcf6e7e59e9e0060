"""Carrying out operations by the script."""

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio import RedisCluster

from batchflow.core.clock import Clock
from batchflow.errors import StoreError
from batchflow.stores.grouping import Answers
from batchflow.stores.redis import clients, connection, keys, scripts
from batchflow.stores.redis.clients import Client
from batchflow.stores.redis.packing import Asked, Packed
from batchflow.stores.redis.program import Program


class Calls:
    """The script on one namespace of one server.

    `store` is the number the server has given us, `worker` who claims through this store where that is only one.
    """

    def __init__(self, client: Client, prefix: str, place: str, clock: Clock | None) -> None:
        self._client = client
        self._clustered = isinstance(client, RedisCluster)
        self._prefix = prefix
        self._meta = f"{prefix}meta"
        self._place = place
        self._clock = clock
        self._program = Program(client)
        self._asking: set[asyncio.Task[Answers]] = set()
        self._opened = False
        self._program = Program(self._client)
        self.store = 0
        self.worker = ""

    async def open(self, namespace: str) -> int:
        """Look at the server and set an empty namespace up; the number that the server gives us.

        Raises:
            StoreIncompatible: it is no server for this, its user may not do all that is needed, or the namespace was
                made by another version.
        """
        self._opened = False
        self._program = Program(self._client)
        await connection.check_server(self._client, self._place)
        schema, number, refused = await self.one("open", keys.SCHEMA, scripts.commands())
        if refused:
            raise connection.forbidden(refused, self._place)
        keys.check_schema(schema, namespace, self._place)
        if schema < keys.SCHEMA:
            await self.one("migrate")
        await connection.check_eviction(self._client, self._place)
        self.store = number
        self._opened = True
        return number

    async def group(self, operations: Sequence[Asked]) -> Answers:
        """Carry out a group; of each operation its answer, or the error it failed with. Raises nothing."""
        answers: Answers = [(True, None)] * len(operations)
        packed = Packed(operations, self.worker)
        for slot, error in packed.refused:
            refused = StoreError(f"{self._place} cannot take this: {error}")
            refused.__cause__ = error
            answers[slot] = (False, refused)
        if not packed.slots:
            return answers
        try:
            reply = await self._program.run(self._meta, self._request(packed.texts), *packed.plain)
        except connection.ERRORS as error:
            failed = self.failed(error)
            if not failed.retryable and len(packed.slots) > 1:
                # One that can never be carried out fails alone: each again, by itself.
                for slot in packed.slots:
                    (answers[slot],) = await self.group([operations[slot]])
                return answers
            for slot in packed.slots:
                answers[slot] = (False, failed)
            if connection.is_demoted(str(error)):
                await clients.reconnect(self._client)
            return answers
        demoted = False
        for slot, fine, answer in packed.answers(reply):
            answers[slot] = (fine, answer if fine else self._meaning(answer))
            demoted = demoted or (not fine and connection.is_demoted(answer))
        if demoted:
            await clients.reconnect(self._client)
        return answers

    def failed(self, error: BaseException) -> StoreError:
        """What it means that a call came to nothing."""
        meant = connection.translated(error, self._place)
        if self._opened:
            meant = connection.meanwhile(meant)
        meant.__cause__ = error
        return meant

    def _meaning(self, answer: str) -> StoreError:
        meant = connection.meaning(answer, self._place)
        return connection.meanwhile(meant) if self._opened else meant

    async def one(self, verb: str, *arguments: Any) -> Any:
        """Carry out one operation by itself."""
        # In a task of its own: redis-py now and then swallows a cancellation, and whoever asks could not be cancelled.
        asking = asyncio.create_task(self.group([Asked(verb, arguments)]), name="batchflow-redis-call")
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        ((fine, answer),) = await asyncio.shield(asking)
        if not fine:
            raise answer
        return answer

    def by(self, client: Client) -> "Calls":
        """The same by another client, which belongs to another event loop."""
        calls = Calls(client, self._prefix, self._place, self._clock)
        calls.store, calls._opened = self.store, self._opened
        return calls

    def _request(self, operations: Sequence[bytes]) -> bytes:
        now = self._clock.now() if self._clock else None
        return scripts.request(now, self.store, operations, clustered=self._clustered)
