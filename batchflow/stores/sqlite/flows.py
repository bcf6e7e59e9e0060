"""Flow keys and lanes: declaring, pinning, finding the lane of a message."""

from collections.abc import Sequence

from pydantic_core import to_json

from batchflow.core.flow import FlowControl, FlowStatus
from batchflow.stores.sqlite.transaction import Tx


def declare(tx: Tx, limits: Sequence[FlowControl]) -> None:
    """Set what the code says of these keys."""
    for flow in limits:
        key = flow.key or ""
        if tx.limits.get(key) != flow:
            tx.run("flow_declare", key=key, parallelism=flow.parallelism, rate=flow.rate, period=flow.period_ms)
            tx.limits[key] = flow


def pin(tx: Tx, limits: FlowControl, paused: bool) -> None:
    """Set what an operator says of a key."""
    tx.run(
        "flow_pin",
        key=limits.key or "",
        parallelism=limits.parallelism,
        rate=limits.rate,
        period=limits.period_ms,
        paused=int(paused),
    )


def unpin(tx: Tx, key: str) -> None:
    """Give a key back to the code."""
    tx.run("flow_unpin", key=key)


def lane_of(tx: Tx, destination: str, flow: FlowControl) -> int:
    """The lane of a destination and flow key, made on first use."""
    declare(tx, (flow,))
    key = flow.key or ""
    lane = tx.lanes.get((destination, key))
    if lane is None:
        lane = _lane_key(tx, destination, key)
        if lane is None:
            tx.run("lane_make", destination=destination, flow=key)
            lane = _lane_key(tx, destination, key)
            assert lane is not None
        tx.lanes[destination, key] = lane
    return lane


def _lane_key(tx: Tx, destination: str, key: str) -> int | None:
    return tx.one("lane_key", destination=destination, flow=key)


def ready_by(tx: Tx, lane: int, due: int) -> None:
    """A message of the lane waits for `due`."""
    tx.run("lane_ready_by", lane=lane, due=due)


def recount(tx: Tx, lane: int) -> None:
    """Messages of the lane were taken: find the earliest of those that are left."""
    tx.run("lane_recount", lane=lane)


def status(tx: Tx, keys: Sequence[str] | None) -> list[FlowStatus]:
    """Flow keys as they stand."""
    found = tx.json("flow_status", all=keys is None, keys=to_json(list(keys or ())).decode())
    return [
        FlowStatus(
            FlowControl(parallelism=parallelism, rate=rate, period=f"{period}ms", key=key or None),
            bool(pinned),
            bool(paused),
            in_use,
            waiting,
            parked_until,
        )
        for key, parallelism, rate, period, pinned, paused, in_use, waiting, parked_until in found
    ]
