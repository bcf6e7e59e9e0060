"""A server that was restarted while nothing was asked of it."""

import asyncio
from pathlib import Path

from tests.conformance.scene import LEASE_MS, renewals
from tests.stores.redis_server import served
from tests.stores.test_redis import opened


async def test_what_was_idle_while_the_server_was_restarted_goes_on_at_once(tmp_path: Path) -> None:
    """As a web process that publishes now and then: its first call is not the one that finds out."""
    with served(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as restarted:
        async with opened(restarted.url) as scene, renewals(scene.store) as renew:
            assert await scene.publish("a") == [True]
            assert await renew("w1", LEASE_MS)
            await asyncio.to_thread(restarted.stop)
            await asyncio.to_thread(restarted.start)
            assert await renew("w1", LEASE_MS)
            assert await scene.publish("a", "b") == [False, True]
