"""What the cases of workflow runs of QStash are written with, beside the scene of posts."""

from dataclasses import dataclass
from typing import Any

import pytest

from batchflow.core.call import Body
from batchflow.core.message import Claim
from batchflow.core.posts import Posted
from batchflow.core.settlement import EndRun
from batchflow.core.wire_runs import AddEntry, AwaitEvent, BeginRun, RunLink, WireRun, WireRunState
from tests.conformance.scene import Scene
from tests.conformance.wire import TENANT, WireCases, WireScene, new_post

URL = "https://app.example/flow"
BEGAN = 1_700_000_000_123
HEAD = '{"id":1'
"""The beginning of the entry of a wait."""


def begins(*entries: str, run: str = "r", created_at: int = BEGAN, **about: Any) -> BeginRun:
    """The first post of a run with these entries, or with one."""
    return BeginRun(run, URL, tuple(Body(text=text) for text in entries or ("first",)), created_at, **about)


def adds(text: str, run: str = "r", **about: Any) -> AddEntry:
    """The post of an entry with this body."""
    return AddEntry(run, Body(text=text), **about)


def awaits(event: str = "paid", run: str = "r", **about: Any) -> AwaitEvent:
    """The post of a wait for an event."""
    return AwaitEvent(run, event, HEAD, **about)


def ends(run: str = "r", state: WireRunState = "RUN_FAILED", **about: Any) -> EndRun:
    """The effect that ends a run."""
    return EndRun(about.pop("tenant", TENANT), run, state, **about)


@dataclass(slots=True)
class RunScene(WireScene):
    """A store that keeps runs, with a worker registered."""

    async def link(self, id: str, link: RunLink, **changes: Any) -> Posted:
        """Post one with a link."""
        (answer,) = await self.wire.post([new_post(id, link=link, **changes)])
        return answer

    async def begun(self, *entries: str, id: str = "s1", tenant: str = TENANT, **about: Any) -> Claim:
        """A run that begins with these entries; the claim of its first post."""
        assert await self.link(id, begins(*entries, **about), tenant=tenant) == Posted(id)
        return await self.claim_one(id)

    async def delivered(self, message: str, *, run: str = "r", tenant: str = TENANT) -> list[str] | None:
        """The bodies that a post delivers; None if its run takes no deliveries."""
        found = await self.wire.claim_entry(tenant, run, message)
        return None if found is None else [entry.body.text for entry in found]

    async def bodies(self, run: str = "r", *, tenant: str = TENANT) -> list[str]:
        """The bodies of all entries of a run."""
        return [entry.body.text for entry in await self.wire.run_entries(tenant, run)]

    async def members(self, run: str = "r", *, tenant: str = TENANT) -> list[tuple[str, int]]:
        """The posts of a run, and the number of the last entry of each."""
        return [(it.message, it.entry) for it in await self.wire.run_members(tenant, run)]

    async def end(self, run: str = "r", state: WireRunState = "RUN_SUCCESS", **about: Any) -> bool:
        """End a run."""
        return await self.wire.end_run(ends(run, state, **about))

    async def found(self, run: str = "r", *, tenant: str = TENANT) -> WireRun:
        """A run that is there."""
        found = await self.wire.wire_run(tenant, run)
        assert found is not None, run
        return found

    async def waiting(self, event: str = "paid", *, tenant: str = TENANT) -> list[str]:
        """The posts that wait for an event."""
        return [wait.message for wait in await self.wire.event_waits(tenant, event)]

    async def notify(
        self, tail: str, run: str | None = None, *, event: str = "paid", tenant: str = TENANT
    ) -> list[str]:
        """Send an event; the posts that it reaches."""
        return [wait.message for wait in await self.wire.notify_event(tenant, event, tail, run)]


class RunScenes(WireCases):
    """What all cases of runs have."""

    @pytest.fixture
    def runs(self, scene: Scene) -> RunScene:
        """The scene, whose store keeps runs."""
        return RunScene(scene.store, scene.clock)
