"""The options of an engine."""

from typing import NamedTuple

from batchflow.core.codec import DEFAULT_SIZE_LIMIT, SizeLimit


class EngineOptions(NamedTuple):
    """Options of an engine.

    `concurrency` limits the active claims, `grace_s` is the time that a stop waits for them, `threads` limits the
    threads for plain functions; ended runs and batches are removed after `retention_ms`. `always_replay` suspends runs
    after every step. `name` is the first part of a worker's name, by default the machine's; `limit` is the largest
    value.
    """

    concurrency: int
    grace_s: float
    retention_ms: int
    threads: int
    always_replay: bool = False
    name: str | None = None
    limit: SizeLimit = DEFAULT_SIZE_LIMIT
