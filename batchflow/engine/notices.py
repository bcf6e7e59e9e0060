"""Notices of a worker's maintenance: work that nobody serves, and dead letters that retention is about to remove."""

from datetime import UTC, datetime

from batchflow.core.dead_letters import DeadLetterQuery
from batchflow.core.message import unserved_sentence
from batchflow.core.store import Reads
from batchflow.logs import logger

EXPIRY_WARNING_MS = 24 * 3_600_000
"""The time before their removal from which dead letters are warned of."""
_MOST_GROUPS = 1_000


async def warn_of_unserved_work(store: Reads, worker: str) -> None:
    """Log the work that no worker serves, if `worker` is the first of the living ones by name: the others do not."""
    if not (found := await store.unserved()):
        return
    living = [it.name for it in await store.workers() if not it.lost]
    if living and living[0] == worker:
        destinations = [work.destination for work in found]
        logger().warning(f"[batchflow] {unserved_sentence(found)}", destinations=destinations)


async def warn_of_expiring_dead_letters(store: Reads, worker: str, retention_ms: int, now: int) -> None:
    """Log the dead letters that retention removes within a day, if `worker` is the first of the living ones by name."""
    until = now - retention_ms + EXPIRY_WARNING_MS
    if retention_ms <= EXPIRY_WARNING_MS or not await store.dead_letters(limit=1, before=(until, "")):
        return
    living = [it.name for it in await store.workers() if not it.lost]
    if living and living[0] == worker:
        groups = await store.dead_letter_groups(DeadLetterQuery(until=until), _MOST_GROUPS)
        command = f"batchflow dlq --until {datetime.fromtimestamp(until / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
        logger().warning(
            "[batchflow] Retention removes dead letters within a day; resume or export those that you need",
            dead_letters=sum(group.size for group in groups),
            look=command,
        )
