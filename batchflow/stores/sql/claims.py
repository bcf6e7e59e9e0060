"""Leasing messages to workers, and taking them back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json

from batchflow.core.batch import NO_HEADERS
from batchflow.core.flow import FlowControl, FlowState, admit, share
from batchflow.core.message import ALONE_MS, Claim, Claimed
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import NEVER
from batchflow.stores import slices
from batchflow.stores.rows import flow_control
from batchflow.stores.sql import flows, steps
from batchflow.stores.sql.transaction import BatchHead, Tx

CANDIDATE = (
    "id", "fence", "batch", "number", "item", "failures", "losses", "body", "headers", "retry", "started_at", "depth",
    "data",
)  # fmt: skip
"""A message that may be leased, as it is taken apart here: a row for each item, so that it is given no class."""


class Lane(NamedTuple):
    """A lane that may start something."""

    lane: int
    destination: str
    flow: str
    ahead: int
    max_parallelism: int | None
    max_rate: int | None
    max_period: int
    max_burst: int
    in_use: int
    next_start: float


# Made for every item; the constructor of a named tuple takes three times as long.
_new: Callable[..., Claim] = tuple[Any, ...].__new__


def enlist(tx: Tx, worker: str, lease_ms: int, concurrency: int) -> None:
    """Make a worker known."""
    tx.run("worker_enlist", name=worker, until=tx.now + lease_ms, concurrency=concurrency, now=tx.now)


def worker_key(tx: Tx, worker: str) -> int | None:
    """The key of a worker that is known."""
    return tx.one("worker_key", name=worker)


def claim(tx: Tx, worker: str, destinations: Sequence[str], limit: int) -> Claimed:
    """Lease due messages, keys in turn, and the lanes of each; a suspect alone."""
    owner = worker_key(tx, worker)
    if owner is None or limit < 1 or not destinations:
        return Claimed((), None, tx.now)
    if tx.one("suspect_held", worker=owner):
        return Claimed((), tx.now + ALONE_MS, tx.now)
    served = tx.served(destinations)
    turns = _Turns(tx)
    if (suspect := _take_suspect(tx, served, owner, turns)) is not None:
        return Claimed(_compose(tx, [suspect]), tx.now + ALONE_MS, tx.now)
    found: list[tuple[Lane, list[Any]]] = []
    more = True
    while more:
        tx.run("flows_open", now=tx.now, served=served, limit=limit)
        found_lanes = tx.json("lanes_ready", now=tx.now, served=served, limit=slices.LANES)
        lanes = [Lane._make(row) for row in found_lanes]
        taken = 0
        # Another look is worth it where a lane gave all that was asked of it, or where not all lanes were seen.
        more = len(lanes) == slices.LANES
        states: dict[str, FlowState] = {}
        for place, lane in enumerate(lanes):
            part = max(1, (limit - taken) // (len(lanes) - place))
            rows = _take_from(tx, lane, min(part, limit - taken), owner, states, turns)
            taken += len(rows)
            found.append((lane, rows))
            more = more or len(rows) == part
            if taken >= limit:
                break
        limit -= taken
        more = more and taken > 0 and limit > 0
    claims = _compose(tx, found)
    if limit == 0:
        return Claimed(claims, tx.now, tx.now)
    next_due = tx.one("lanes_next", now=tx.now, served=served)
    return Claimed(claims, None if next_due is None or next_due >= NEVER else -int(-next_due // 1), tx.now)


class _Turns:
    """Turns that one claim gives to what it serves, taken from the store when the first is needed."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._left = 0
        self._next = 0

    def take(self) -> int:
        if not self._left:
            self._left = slices.LANES
            self._next = self._tx.one("turns_take", count=slices.LANES) - slices.LANES
        self._left -= 1
        self._next += 1
        return self._next


def _take_suspect(tx: Tx, served: int, owner: int, turns: _Turns) -> tuple[Lane, list[Any]] | None:
    """Lease the message that is claimed alone and due first; None where there is none."""
    for *fields, id in tx.json("suspects_due", served=served, now=tx.now):
        lane = Lane._make(fields)
        limits, state = _flow_of(lane, {})
        admission = admit(limits, state, now=tx.now, want=1)
        if admission.count:
            rows = tx.json("message_suspect_read", id=id)
            _lease(tx, lane, rows, owner, admission.state, turns)
            return lane, rows
    return None


def _flow_of(lane: Lane, states: Mapping[str, FlowState]) -> tuple[FlowControl, FlowState]:
    limits = flow_control(lane.flow, lane.max_parallelism, lane.max_rate, lane.max_period, lane.max_burst)
    # Lanes of several destinations and batches may share a key.
    return limits, states.get(lane.flow) or FlowState(in_use=lane.in_use, next_start=lane.next_start)


def _take_from(tx: Tx, lane: Lane, want: int, owner: int, states: dict[str, FlowState], turns: _Turns) -> list[Any]:
    """Lease messages of one lane; `states` are those of the keys from which this round has taken already."""
    limits, state = _flow_of(lane, states)
    admission = admit(limits, state, now=tx.now, want=want)
    want = admission.count
    if not want:
        # Another lane of the key has taken what there was; nothing of this one has changed.
        return []
    tx.run("lane_promote", lane=lane.lane, now=tx.now)
    rows, ahead = _shared(tx.json("message_candidates", lane=lane.lane, now=tx.now, limit=want), want, lane.ahead)
    if rows:
        if len(rows) < want:
            admission = admit(limits, state, now=tx.now, want=len(rows))
        states[lane.flow] = admission.state
        turn = _lease(tx, lane, rows, owner, admission.state, turns)
        tx.run("lane_served", lane=lane.lane, turn=turn, ahead=ahead)
    flows.recount(tx, lane.lane)
    return rows


def _shared(rows: list[Any], want: int, ahead: int) -> tuple[list[Any], int]:
    """As many candidates as are wanted, of what has started and of what is fresh."""
    started = sum(1 for row in rows if row[1])
    parts = share(want, started, len(rows) - started, ahead)
    return rows[: parts.started] + rows[started : started + parts.fresh], parts.ahead


def _lease(tx: Tx, lane: Lane, rows: list[Any], owner: int, state: FlowState, turns: _Turns) -> int:
    turn = turns.take()
    tx.run_rows("message_take", [(row[0],) for row in rows], owner=owner, now=tx.now)
    tx.run("flow_take", flow=lane.flow, count=len(rows), next_start=state.next_start, turn=turn)
    return turn


def _compose(tx: Tx, found: list[tuple[Lane, list[Any]]]) -> list[Claim]:
    again = [(row[0],) for _, rows in found for row in rows if row[1] > 0]
    journals, woken = steps.journals(tx, again) if again else ({}, set[str]())
    claims: list[Claim] = []
    for lane, rows in found:
        destination = lane.destination
        for id, fence, batch, number, item, failures, losses, body, headers, retry, started_at, depth, data in rows:
            head = None if batch is None else tx.head(batch)
            claim = (
                id,
                fence + 1,
                destination,
                body,
                None if head is None else head.id,
                number,
                item or "",
                0 if id in woken else failures,
                0 if id in woken else losses,
                _headers(headers, head, number),
                RetryPolicy.from_wire(from_json(retry)) if retry else None,
                journals.get(id, ()) if fence else (),
                "null" if head is None else head.params,
                tx.now if started_at is None else started_at,
                depth if head is None else head.depth,
                data,
            )
            claims.append(_new(Claim, claim))
    return claims


def _headers(text: str | None, head: BatchHead | None, number: int) -> Mapping[str, str]:
    if head is not None and number >= 0:
        return head.headers
    return from_json(text) if text else NO_HEADERS
