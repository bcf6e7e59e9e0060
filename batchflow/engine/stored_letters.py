"""The dead letters of a store."""

from collections.abc import Sequence

from batchflow.core.dead_letters import DeadLetter, DeadLetterGroup, DeadLetterQuery
from batchflow.core.flow import FlowControl
from batchflow.core.ports import DeadLetterPosition
from batchflow.core.posts import PUSH_DESTINATION
from batchflow.core.retry import RetryPolicy
from batchflow.core.store import Store


class StoredDeadLetters:
    """See the port: all dead letters are in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def find(self, id: str) -> DeadLetter | None:
        """See the port."""
        return await self._store.dead_letter(id)

    async def page(
        self, query: DeadLetterQuery, limit: int, after: DeadLetterPosition | None
    ) -> tuple[Sequence[DeadLetter], DeadLetterPosition | None]:
        """See the port; a position is the time of death and the id of the last one."""
        found = await self._store.dead_letters(query, limit + 1, after)
        last = found[limit - 1] if len(found) > limit else None
        return found[:limit], last and (last.died_at, last.id)

    async def groups(self, query: DeadLetterQuery, limit: int) -> Sequence[DeadLetterGroup]:
        """See the port."""
        return await self._store.dead_letter_groups(query, limit)

    async def posts(self, ids: Sequence[str]) -> Sequence[str]:
        """See the port."""
        posts: list[str] = []
        # One after the other: their bodies may be large.
        for id in ids:
            letter = await self._store.dead_letter(id)
            if letter is not None and letter.message.destination == PUSH_DESTINATION:
                posts.append(id)
        return posts

    async def redrive(
        self, id: str, *, restart: bool, retry: RetryPolicy | None, flow: FlowControl | None
    ) -> str | None:
        """See the port."""
        return id if await self._store.redrive(id, restart=restart, retry=retry, flow=flow) else None

    async def call_failure_again(self, id: str) -> bool:
        """See the port."""
        return await self._store.call_failure_again(id)

    async def delete(self, id: str) -> bool:
        """See the port."""
        return await self._store.delete_dead_letter(id)
