"""Carrying out operations by the script, from the event loop or from a thread."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import redis
from pydantic_core import PydanticSerializationError
from redis import exceptions
from redis.asyncio import Redis

from batchflow.core.clock import Clock
from batchflow.errors import StoreError
from batchflow.stores.grouping import Answers
from batchflow.stores.redis import connection, reads, scripts, wire

VALUES: dict[str, Callable[[Any], Any]] = {"settle": reads.settled, "claim": reads.claimed}
"""What is made of the answers of some verbs before anybody has them."""


class Asked(NamedTuple):
    """A verb with its arguments."""

    verb: str
    arguments: Sequence[Any]


class Calls:
    """The script on one namespace of one server. `store` is the number the server has given us."""

    def __init__(self, client: Redis, prefix: str, place: str, clock: Clock | None) -> None:
        self._client = client
        self._meta = f"{prefix}meta"
        self._place = place
        self._clock = clock
        self._script = scripts.script()
        self.store = 0

    async def group(self, operations: Sequence[Asked]) -> Answers:
        """Carry out a group; of each operation its answer, or the error it failed with. Raises nothing."""
        answers: Answers = [(True, None)] * len(operations)
        encoded: list[tuple[int, int, bytes]] = []
        for slot, (verb, arguments) in enumerate(operations):
            try:
                encoded.append((_rank(verb, arguments), slot, wire.operation(verb, arguments)))
            except (PydanticSerializationError, UnicodeError) as error:
                refused = StoreError(f"{self._place} cannot take this: {error}")
                refused.__cause__ = error
                answers[slot] = (False, refused)
        if not encoded:
            return answers
        encoded.sort(key=lambda one: one[:2])
        try:
            reply = await self._run(self._request([text for _, _, text in encoded]))
        except (exceptions.RedisError, OSError) as error:
            failed = self.failed(error)
            for _, slot, _ in encoded:
                answers[slot] = (False, failed)
            return answers
        for (_, slot, _), (fine, answer) in zip(encoded, scripts.answers(reply), strict=True):
            if fine:
                made = VALUES.get(operations[slot].verb)
                answers[slot] = (True, made(answer) if made else answer)
            else:
                answers[slot] = (False, connection.meaning(answer, self._place))
        return answers

    def failed(self, error: BaseException) -> StoreError:
        """What it means that a call came to nothing."""
        meant = connection.translated(error, self._place)
        meant.__cause__ = error
        return meant

    async def one(self, verb: str, *arguments: Any) -> Any:
        """Carry out one operation by itself."""
        ((fine, answer),) = await self.group([Asked(verb, arguments)])
        if not fine:
            raise answer
        return answer

    def blocking(self, client: redis.Redis, verb: str, *arguments: Any) -> Any:
        """The same from a thread."""
        request = self._request([wire.operation(verb, arguments)])
        try:
            try:
                reply = client.evalsha(self._script.sha, 1, self._meta, cast(str, request))
            except exceptions.NoScriptError:
                reply = client.eval(self._script.text, 1, self._meta, cast(str, request))
        except (exceptions.RedisError, OSError) as error:
            raise connection.translated(error, self._place) from error
        ((fine, answer),) = scripts.answers(reply)
        if not fine:
            raise connection.meaning(answer, self._place)
        return answer

    def _request(self, operations: Sequence[bytes]) -> bytes:
        return scripts.request(self._clock.now() if self._clock else None, self.store, operations)

    async def _run(self, request: bytes) -> Any:
        client = cast(Any, self._client)
        try:
            return await client.evalsha(self._script.sha, 1, self._meta, request)
        except exceptions.NoScriptError:
            # The server was restarted, or its scripts were flushed: nothing was carried out.
            return await client.eval(self._script.text, 1, self._meta, request)


def _rank(verb: str, arguments: Sequence[Any]) -> int:
    rank = scripts.RANK.get(verb, len(scripts.RANK)) * 2
    # What stays comes before what ends: a step that begins to wait with its suspension is there when its child ends.
    return rank + (verb == "settle" and arguments[0].ending in {"done", "answered", "dead", "cancelled"})
