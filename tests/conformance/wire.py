"""What the cases of stores that keep posts are written with, beside the scene of all cases."""

from dataclasses import dataclass
from typing import Any

import pytest

from batchflow.core import settlement
from batchflow.core.message import Claim
from batchflow.core.posts import LogEntry, LogState, Post, Posted
from batchflow.core.settlement import Effect, LeaveQueue, Log, SettleResult
from batchflow.core.wire_runs import RunLink
from batchflow.core.wire_store import WireStore
from tests.conformance.scene import Cases, Scene, message

TENANT = "acme"


def new_post(
    id: str,
    *,
    tenant: str = TENANT,
    dedup: str | None = None,
    queue: str | None = None,
    link: RunLink | None = None,
    **changes: Any,
) -> Post:
    """A post to `work` under a key without limits, unless said otherwise."""
    return Post(message(id, label=tenant, **changes), tenant, f'{{"post":"{id}"}}', dedup, queue, link)


@dataclass(slots=True)
class WireScene(Scene):
    """A store that keeps posts, with a worker registered."""

    @property
    def wire(self) -> WireStore:
        """The store, as it keeps posts."""
        assert isinstance(self.store, WireStore)
        return self.store

    def entry(self, message: str, state: LogState, *, tenant: str = TENANT, detail: str = "{}") -> LogEntry:
        """An entry of the log, of now."""
        return LogEntry(message, tenant, state, self.now, detail)

    async def post(self, *ids: str, **changes: Any) -> list[Posted]:
        """Post messages with these ids."""
        return list(await self.wire.post([new_post(id, **changes) for id in ids]))

    async def posted(self, *ids: str, **changes: Any) -> list[Claim]:
        """Post messages that are new, and claim what may begin."""
        assert await self.post(*ids, **changes) == [Posted(id) for id in ids]
        return await self.claim()

    async def deliver(self, claim: Claim, *effects: Effect, leaves: bool = True) -> SettleResult:
        """Settle the claim of a post as delivered, with its last entry; it leaves its queue."""
        left = (LeaveQueue(claim.id),) if leaves else ()
        return await self.done(claim, Log((self.entry(claim.id, "DELIVERED"),)), *left, *effects)

    async def try_again(self, claim: Claim, *effects: Effect) -> SettleResult:
        """Settle the claim of a post as failed; it is due again at once."""
        return await self.store.settle(settlement.retry(claim, self.now, "Boom: no")._replace(effects=effects))

    async def history(self, message: str, *, tenant: str = TENANT) -> list[str]:
        """The states that the log has of a post, the oldest first."""
        found = await self.wire.log_entries(tenant, message=message)
        return [entry.state for _, entry in reversed(found)]

    async def open_ids(self, *, tenant: str = TENANT) -> list[str]:
        """The ids of the posts that have not ended."""
        return [entry.message for _, entry in await self.wire.open_posts(tenant)]


class WireCases(Cases):
    """What all cases of stores that keep posts have."""

    @pytest.fixture
    def wire(self, scene: Scene) -> WireScene:
        """The scene, whose store keeps posts."""
        return WireScene(scene.store, scene.clock)
