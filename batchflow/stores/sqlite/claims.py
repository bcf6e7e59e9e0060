"""Leasing messages to workers, and taking them back."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from batchflow.core.flow import FlowControl, FlowState, admit
from batchflow.core.message import NO_HEADERS, Claim, Claimed
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import NEVER
from batchflow.stores.sqlite import flows, steps
from batchflow.stores.sqlite.transaction import Tx

LANES_AT_ONCE = 64


class _Lane(NamedTuple):
    key: int
    destination: str
    flow: str
    parallelism: int | None
    rate: int | None
    period: int
    in_use: int
    next_start: float
    parked_until: int
    paused: int


def enlist(tx: Tx, worker: str, lease_ms: int, concurrency: int) -> None:
    """Make a worker known."""
    tx.run("worker_enlist", name=worker, until=tx.now + lease_ms, concurrency=concurrency, now=tx.now)


def worker_key(tx: Tx, worker: str) -> int | None:
    """The key of a worker that is known."""
    return tx.one("worker_key", name=worker)


def claim(tx: Tx, worker: str, destinations: Sequence[str], limit: int) -> Claimed:
    """Lease due messages, keys in turn."""
    owner = worker_key(tx, worker)
    if owner is None or limit < 1 or not destinations:
        return Claimed((), None, tx.now)
    wanted = to_json(list(destinations)).decode()
    found: list[tuple[_Lane, list[Any]]] = []
    more = True
    while more:
        lanes = [
            _Lane._make(row) for row in tx.json("lanes_ready", now=tx.now, destinations=wanted, limit=LANES_AT_ONCE)
        ]
        taken = 0
        # Another look is worth it where a lane gave all that was asked of it, or where not all lanes were seen.
        more = len(lanes) == LANES_AT_ONCE
        states: dict[str, FlowState] = {}
        for place, lane in enumerate(lanes):
            share = max(1, (limit - taken) // (len(lanes) - place))
            rows = _take_from(tx, lane, min(share, limit - taken), owner, states)
            taken += len(rows)
            found.append((lane, rows))
            more = more or len(rows) == share
            if taken >= limit:
                break
        limit -= taken
        more = more and taken > 0 and limit > 0
    claims = _compose(tx, found)
    if limit == 0:
        return Claimed(claims, tx.now, tx.now)
    next_due = tx.one("lanes_next", destinations=wanted)
    return Claimed(claims, None if next_due is None or next_due >= NEVER else -int(-next_due // 1), tx.now)


def _take_from(tx: Tx, lane: _Lane, want: int, owner: int, states: dict[str, FlowState]) -> list[Any]:
    """Lease messages of one lane; `states` are those of the keys from which this round has taken already."""
    limits = FlowControl(parallelism=lane.parallelism, rate=lane.rate, period=f"{lane.period}ms")
    # Lanes of several destinations may share a key.
    state = states.get(lane.flow) or FlowState(
        in_use=lane.in_use, next_start=lane.next_start, parked_until=lane.parked_until
    )
    want = admit(limits, state, now=tx.now, want=want).count
    rows = tx.json("message_candidates", lane=lane.key, now=tx.now, limit=want) if want else []
    if rows:
        state = states[lane.flow] = admit(limits, state, now=tx.now, want=len(rows)).state
        tx.run_rows("message_take", [(row[0],) for row in rows], owner=owner, now=tx.now)
        tx.run("flow_take", flow=lane.flow, count=len(rows), next_start=state.next_start)
    flows.recount(tx, lane.key)
    return rows


def _compose(tx: Tx, found: list[tuple[_Lane, list[Any]]]) -> list[Claim]:
    again = [(row[0],) for _, rows in found for row in rows if row[1] > 0]
    journals, woken = steps.journals(tx, again) if again else ({}, set[str]())
    claims: list[Claim] = []
    for lane, rows in found:
        destination = lane.destination
        for id, fence, batch, number, item, failures, losses, body, headers, retry, started_at, depth in rows:
            head = None if batch is None else tx.head(batch)
            claims.append(
                Claim(
                    id,
                    fence + 1,
                    destination,
                    body,
                    None if head is None else head.id,
                    number,
                    item or "",
                    0 if id in woken else failures,
                    0 if id in woken else losses,
                    from_json(headers) if headers else NO_HEADERS,
                    RetryPolicy.from_wire(from_json(retry)) if retry else None,
                    journals.get(id, ()) if fence else (),
                    "null" if head is None else head.params,
                    tx.now if started_at is None else started_at,
                    depth if head is None else head.depth,
                )
            )
    return claims
