"""What is known of a worker. Pure values."""

from collections.abc import Mapping
from typing import NamedTuple


class WorkerStatus(NamedTuple):
    """A worker as it stands. Times are ms since the epoch; 0 where a worker of an older batchflow has not told them.

    `since` is when it was enlisted, `seen_at` its last heartbeat, `lease_until` when its claims are taken back unless
    another one comes. `holds` is how many claims it has, by destination; `concurrency` how many it may have (0: it has
    not told), and `hanging` how many of its threads run plain functions that were given up. It is `lost` where its
    lease has ended, or its process is gone, and its claims wait to be taken back.
    """

    name: str
    since: int
    seen_at: int
    lease_until: int
    concurrency: int
    hanging: int
    holds: Mapping[str, int]
    lost: bool

    @property
    def held(self) -> int:
        """How many claims it has in all."""
        return sum(self.holds.values())
