"""Flow keys and lanes: limits, the lane of a message, closing lanes, removing idle keys."""

from collections.abc import Iterable, Sequence
from typing import Any

from batchflow.core.flow import FlowControl, FlowHolder, FlowStatus
from batchflow.stores import base
from batchflow.stores.sql.transaction import StaleCache, Tx

HELD, PAUSED, CANCELLED, UNAPPROVED = 1, 2, 4, 8
"""Reasons for which a lane is closed to claims: bits of its `closed`."""

NESTED = 2
"""The `held` of a lane nested under another key; 1 is that of one that is held back."""


def declare(tx: Tx, limits: Sequence[FlowControl]) -> None:
    """Set the code's limits of these keys."""
    for flow in limits:
        tx.run("flow_declare", **_limit_values(flow))
        tx.limits[flow.key or ""] = flow


def apply_message_limits(tx: Tx, flow: FlowControl) -> None:
    """Set the limits that a message carries, unless the code declares its key."""
    key = flow.key or ""
    if tx.limits.get(key) != flow:
        tx.run("flow_follow", **_limit_values(flow))
        if len(tx.limits) > 1000:
            tx.limits.clear()
        tx.limits[key] = flow


def _limit_values(flow: FlowControl) -> dict[str, Any]:
    return {
        "key": flow.key or "",
        "parallelism": flow.parallelism,
        "rate": flow.rate,
        "period": flow.period_ms,
        "burst": flow.burst,
    }


def pin(tx: Tx, limits: FlowControl, until: int | None) -> None:
    """Set an operator's limits of a key."""
    tx.run("flow_pin", **_limit_values(limits), until=until)


def unpin(tx: Tx, key: str, parallelism: bool, rate: bool) -> None:
    """Remove an operator's limits of a key."""
    tx.run("flow_unpin", key=key, parallelism=parallelism, rate=rate)


def pause(tx: Tx, key: str, until: int | None) -> None:
    """Start nothing more under a key."""
    tx.run("flow_pause", key=key, until=until)


def resume(tx: Tx, key: str) -> None:
    """Undo `pause`."""
    tx.run("flow_resume", key=key)


def park(tx: Tx, lane: int, until: int) -> None:
    """Start nothing more under the key of a lane before this time."""
    if until > tx.now:
        tx.run("flow_park", lane=lane, until=until)


def reset(tx: Tx, key: str, starts_only: bool) -> None:
    """Remove all that holds back a key beside the code's limits, or only its latest starts."""
    tx.run("flow_forget_starts" if starts_only else "flow_reset", key=key)


def undo_ended(tx: Tx, changes_at: int) -> int | None:
    """Undo the pins and pauses that have ended by now; returns when the next one ends. `changes_at`: the first end."""
    if changes_at > tx.now:
        return changes_at
    tx.run("flow_undo_ended", now=tx.now)
    return tx.one("flow_next_change")


def lane_of(
    tx: Tx, destination: str, flow: FlowControl, batch: int = 0, *, held: bool = False, parent: str | None = None
) -> int:
    """The lane of a destination, a flow key and a batch, created on first use; nested under the key `parent`."""
    apply_message_limits(tx, flow)
    nested = parent is not None and parent != flow.key
    name = (destination, flow.key or "", batch, NESTED if nested else int(held))
    lane = tx.lanes.get(name)
    if lane is None:
        lane = _lane_key(tx, name)
        if lane is None:
            tx.run("lane_add", **_lane_values(name), parent=parent if nested else None)
            lane = _lane_key(tx, name)
            assert lane is not None
        if len(tx.lanes) > 1000:
            tx.lanes.clear()
        tx.lanes[name] = lane
    return lane


def nested_lanes(tx: Tx, wanted: Iterable[tuple[int, FlowControl]]) -> dict[tuple[int, str], int]:
    """The lanes of items under keys of their own, created on first use.

    Each is given by the lane of the other items of its batch and its limits, and found by that lane and its key.
    """
    limits = {(layer, flow.key or ""): flow for layer, flow in wanted}
    follow = {key: flow for (_, key), flow in limits.items() if tx.limits.get(key) != flow}
    if follow:
        tx.run_rows("flows_follow", [tuple(_limit_values(flow).values()) for flow in follow.values()])
        if len(tx.limits) > 1000:
            tx.limits.clear()
        tx.limits.update(follow)
    names = list(limits)
    tx.run_rows("lanes_add_nested", names)
    return {(layer, key): lane for layer, key, lane in tx.json_rows("lanes_nested_keys", names)}


def mark_ready_at_once(tx: Tx, lanes: Iterable[int]) -> None:
    """Record that a message of each of these lanes, which exist, is due."""
    tx.run_rows("lanes_ready_at_once", [(lane,) for lane in lanes])


def _lane_key(tx: Tx, name: tuple[str, str, int, int]) -> int | None:
    return tx.one("lane_key", **_lane_values(name))


def _lane_values(name: tuple[str, str, int, int]) -> dict[str, Any]:
    return dict(zip(("destination", "flow", "batch", "held"), name, strict=True))


def close_lanes(tx: Tx, batch: int, why: int) -> None:
    """Close the lanes of a batch to claims, for one more reason."""
    tx.run("lanes_close", batch=batch, why=why)


def reopen_lanes(tx: Tx, batch: int, why: int) -> None:
    """Remove this reason for which the lanes of a batch are closed."""
    tx.run("lanes_open", batch=batch, why=why)


def set_priority(tx: Tx, batch: int, priority: int) -> None:
    """Change the priority of the lanes of a batch."""
    tx.run("lanes_set_priority", batch=batch, priority=priority)


def mark_ready(tx: Tx, lane: int, due: int) -> None:
    """Record that a message of the lane is due at `due`.

    Raises:
        Stale: the lane is not there any more; another process has removed it since this one looked.
    """
    if not tx.run("lane_ready_by", lane=lane, due=due):
        raise StaleCache


def recount_lane(tx: Tx, lane: int) -> None:
    """Update the earliest due time of a lane, after messages were taken."""
    tx.run("lane_recount", lane=lane)


def remove_idle(tx: Tx) -> int:
    """Remove the idle keys of one slice, with their lanes, and return how many."""
    undo_ended(tx, tx.now)
    found = tx.json("flow_idle", after=tx.idle_after, now=tx.now, limit=base.IDLE_KEYS_LIMIT)
    tx.idle_after = found[-1][0] if len(found) == base.IDLE_KEYS_LIMIT else ""
    gone = [(key,) for key, idle in found if idle]
    if gone:
        tx.run_rows("flow_drop_lanes", gone)
        tx.run_rows("flow_drop", gone)
        tx.forget_cached()
    return len(gone)


def status(tx: Tx, keys: Sequence[str] | None, waiting: bool) -> list[FlowStatus]:
    """The status of flow keys."""
    if keys is None:
        found = tx.json("flow_status_all", now=tx.now, counted=waiting)
    else:
        found = tx.json_rows("flow_status", [(key,) for key in sorted(set(keys))], now=tx.now, counted=waiting)
    return [base.flow(row) for row in found]


def holders(tx: Tx, key: str, limit: int) -> list[FlowHolder]:
    """The claimed messages of a flow key."""
    return [FlowHolder._make(row) for row in tx.json("flow_holders", flow=key, limit=limit)]
