"""Claims of workers: leasing messages, in the order of flow keys and lanes."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from batchflow.core.batch import NO_HEADERS
from batchflow.core.flow import FlowControl, FlowState, admit, split_claims
from batchflow.core.message import (
    ALONE_MS,
    Claim,
    ClaimResult,
)
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import NEVER, Journal
from batchflow.stores import base
from batchflow.stores.base import flow_control
from batchflow.stores.sql import breakers, events, flows, steps
from batchflow.stores.sql.batches import count_waiting
from batchflow.stores.sql.transaction import BatchHead, Tx

CANDIDATE = (
    "id", "fence", "batch", "number", "item", "failures", "losses", "body", "headers", "retry", "started_at", "depth",
    "data", "waits",
)  # fmt: skip
"""The columns of a message that may be leased. Rows are not made into objects: there is one for each item."""


class Lane(NamedTuple):
    """A lane from which something may start; if `lane` is None, all lanes that are nested under `flow`."""

    lane: int | None
    destination: str
    flow: str
    ahead: int
    max_parallelism: int | None
    max_rate: int | None
    max_period: int
    max_burst: int
    in_use: int
    next_start: float
    priority: int
    open_for: int


_PRIORITY = attrgetter("priority")

# Made for every item; the constructor of a named tuple takes three times as long.
_new: Callable[..., Claim] = tuple[Any, ...].__new__


def register(tx: Tx, worker: str, lease_ms: int, concurrency: int, destinations: Sequence[str] | None) -> None:
    """Add a worker."""
    serves = None if destinations is None else to_json(sorted(destinations)).decode()
    until = tx.now + lease_ms
    tx.run("worker_register", name=worker, until=until, concurrency=concurrency, serves=serves, now=tx.now)


def worker_key(tx: Tx, worker: str) -> int | None:
    """The key of a registered worker."""
    return tx.one("worker_key", name=worker)


def claim(tx: Tx, worker: str, destinations: Sequence[str], limit: int) -> ClaimResult:
    """Lease due messages: flow keys take turns, and so do the lanes of each key; a suspect is leased alone."""
    owner = worker_key(tx, worker)
    if owner is None or limit < 1 or not destinations:
        return ClaimResult((), None, tx.now)
    has_suspect, changes_at, opens = tx.json("claim_begin", worker=owner, now=tx.now)
    if has_suspect:
        return ClaimResult((), tx.now + ALONE_MS, tx.now)
    if changes_at is not None:
        opens = opens or changes_at <= tx.now
        changes_at = flows.undo_ended(tx, changes_at)
    served = tx.destination_list(destinations)
    turns = _Turns(tx)
    if (suspect := _lease_suspect(tx, served, owner, turns)) is not None:
        return ClaimResult(_begin(tx, [suspect]), tx.now + ALONE_MS, tx.now)
    found: list[tuple[Lane, list[Any]]] = []
    more = True
    if opens:
        tx.run("nested_open", now=tx.now)
    while more:
        tx.run("flows_open", now=tx.now, served=served, limit=limit)
        found_lanes = tx.json("lanes_ready", now=tx.now, served=served, limit=base.LANES_LIMIT)
        lanes = _of_highest_priority([Lane._make(row) for row in found_lanes])
        taken, emptied = 0, False
        # Another round may find more if a lane was not exhausted, or if not all lanes were seen.
        more = len(found_lanes) == base.LANES_LIMIT or len(lanes) < len(found_lanes)
        states: dict[str, FlowState] = {}
        for place, lane in enumerate(lanes):
            part = max(1, (limit - taken) // (len(lanes) - place))
            if lane.lane is None:
                leased = _lease_nested(tx, lane, min(part, limit - taken), served, owner, states, turns)
            else:
                leased = _lease_from_lane(tx, lane, min(part, limit - taken), owner, states, turns)
            found += leased
            count = sum(len(rows) for _, rows in leased)
            taken += count
            # A lane may have nothing that is due, as one whose messages are claimed alone: it hides others no more.
            emptied = emptied or not all(rows for _, rows in leased)
            # Below those that are nested there may be others with a lower priority.
            more = more or count == part or (lane.lane is None and len(leased) > 0)
            if taken >= limit:
                break
        limit -= taken
        more = more and limit > 0 and (taken > 0 or emptied)
    claims = _begin(tx, [(lane.destination, rows) for lane, rows in found])
    if limit == 0:
        return ClaimResult(claims, tx.now, tx.now)
    next_due = tx.one("lanes_next", now=tx.now, served=served)
    if changes_at is not None:
        next_due = changes_at if next_due is None else min(next_due, changes_at)
    return ClaimResult(claims, None if next_due is None or next_due >= NEVER else -int(-next_due // 1), tx.now)


def claim_one(tx: Tx, worker: str, id: str, fence: int) -> ClaimResult:
    """Lease the message with this fence, whatever its due time and the limits of its keys."""
    owner = worker_key(tx, worker)
    found = [] if owner is None else tx.json("message_of_fence", id=id, fence=fence, owner=owner, now=tx.now)
    claims: list[Claim] = []
    for lane, destination, is_own, is_held, may_start in found:
        rows = _candidate(tx, id)
        if is_own:
            (claim,) = _claims_of(tx, [(destination, rows)], {}, ())
            # Nothing that has come since becomes a recorded entry.
            claims = [claim._replace(fence=fence + 1, journal=tuple(steps.journal_of(tx, id)))]
        elif is_held or may_start:
            tx.run("message_lease_one", id=id, owner=owner, now=tx.now)
            if not is_held:
                breakers.take_slot(tx, lane, id)
                flows.recount_lane(tx, lane)
            claims = _begin(tx, [(destination, rows)])
        else:
            events.wake(tx, [(id, lane)])
    return ClaimResult(claims, None, tx.now)


def _of_highest_priority(lanes: list[Lane]) -> list[Lane]:
    """Of the lanes of each flow key, those with its highest priority, which come first."""
    if not any(map(_PRIORITY, lanes)):
        return lanes
    highest: dict[str, int] = {}
    return [lane for lane in lanes if lane.priority == highest.setdefault(lane.flow, lane.priority)]


class _Turns:
    """The turns that one claim uses, taken from the store when the first is needed."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._left = 0
        self._next = 0

    def take(self) -> int:
        if not self._left:
            self._left = base.LANES_LIMIT
            self._next = self._tx.one("turns_allocate", count=base.LANES_LIMIT) - base.LANES_LIMIT
        self._left -= 1
        self._next += 1
        return self._next


def _lease_suspect(tx: Tx, served: int, owner: int, turns: _Turns) -> tuple[str, list[Any]] | None:
    """Lease the suspect that is due first, and return its destination and its row; None if there is none."""
    for *fields, id in tx.json("suspects_due", served=served, now=tx.now):
        lane = Lane._make(fields)
        limits, state = _flow_of(lane, {})
        admission = admit(limits, state, now=tx.now, want=1)
        if admission.count:
            rows = _candidate(tx, id)
            for parent in map(Lane._make, tx.json("lane_parent", lane=lane.lane)):
                _take_of_parent(tx, parent, 1, {}, turns, id)
            _lease_rows(tx, lane, rows, owner, admission.state, turns)
            return lane.destination, rows
    return None


def _candidate(tx: Tx, id: str) -> list[Any]:
    """The row of one message."""
    return tx.json("message_candidate", id=id)


def _flow_of(lane: Lane, states: Mapping[str, FlowState]) -> tuple[FlowControl, FlowState]:
    limits = flow_control(lane.flow, lane.max_parallelism, lane.max_rate, lane.max_period, lane.max_burst)
    # Lanes of several destinations and batches may share a key.
    return limits, states.get(lane.flow) or FlowState(
        in_use=lane.in_use, next_start=lane.next_start, half_open=lane.open_for > 0
    )


def _lease_from_lane(
    tx: Tx, lane: Lane, want: int, owner: int, states: dict[str, FlowState], turns: _Turns
) -> list[tuple[Lane, list[Any]]]:
    """Lease messages of one lane; `states` are the states of flow keys that this round has changed.

    Returns the lane with its messages, none if nothing of it is due; or nothing if its key had no room left.
    """
    rows, ahead = _candidates(tx, lane, want, states)
    if ahead is None:
        return []
    if rows:
        turn = _lease_rows(tx, lane, rows, owner, states[lane.flow], turns)
        tx.run("lane_set_served", lane=lane.lane, turn=turn, ahead=ahead)
    assert lane.lane is not None
    flows.recount_lane(tx, lane.lane)
    return [(lane, rows)]


def _candidates(tx: Tx, lane: Lane, want: int, states: dict[str, FlowState]) -> tuple[list[Any], int | None]:
    """Choose messages of one lane, and note the state of its key with them in `states`; and the lane's new `ahead`.

    `ahead` is None if another lane of the key has taken the free slots: this lane has not changed.
    """
    limits, state = _flow_of(lane, states)
    admission = admit(limits, state, now=tx.now, want=want)
    want = admission.count
    if not want:
        return [], None
    tx.run("lane_promote", lane=lane.lane, now=tx.now)
    rows, ahead = _share_candidates(
        tx.json("message_candidates", lane=lane.lane, now=tx.now, limit=want), want, lane.ahead
    )
    if rows:
        if len(rows) < want:
            admission = admit(limits, state, now=tx.now, want=len(rows))
        states[lane.flow] = admission.state
    return rows, ahead


def _lease_nested(
    tx: Tx, parent: Lane, want: int, served: int, owner: int, states: dict[str, FlowState], turns: _Turns
) -> list[tuple[Lane, list[Any]]]:
    """Lease messages of the lanes under a key, as many as both that key and their own have room for.

    Returns these lanes with their messages, as `_lease_from_lane` does.
    """
    limits, state = _flow_of(parent, states)
    want = admit(limits, state, now=tx.now, want=want).count
    found: list[tuple[Lane, list[Any]]] = []
    left, more = want, want > 0
    while more and left:
        limit = min(left, base.LANES_LIMIT)
        ready = tx.json("nested_ready", parent=parent.flow, priority=parent.priority, served=served, limit=limit)
        before, more = left, len(ready) == limit
        leased: list[tuple[Lane, list[Any], int]] = []
        for place, lane in enumerate(map(Lane._make, ready)):
            part = max(1, left // (len(ready) - place))
            rows, ahead = _candidates(tx, lane, part, states)
            if ahead is not None:
                leased.append((lane, rows, ahead))
            left -= len(rows)
            more = more or len(rows) == part
        if leased:
            _lease_from_lanes(tx, leased, owner, states, turns)
            found += [(lane, rows) for lane, rows, _ in leased]
        more = more and (left < before or len(leased) > 0)
    if left < want:
        last = next(rows[-1][0] for _, rows in reversed(found) if rows)
        _take_of_parent(tx, parent, want - left, states, turns, last)
    return found


def _lease_from_lanes(
    tx: Tx, leased: Sequence[tuple[Lane, list[Any], int]], owner: int, states: Mapping[str, FlowState], turns: _Turns
) -> None:
    """Lease the chosen messages of several lanes, each given with its new `ahead`, in as many statements as for one."""
    _lease_messages(tx, [row for _, rows, _ in leased for row in rows], owner)
    taken: dict[str, tuple[int, int]] = {}
    places: list[tuple[object, ...]] = []
    for lane, rows, ahead in leased:
        turn = turns.take() if rows else None
        if turn is not None:
            taken[lane.flow] = taken.get(lane.flow, (0, 0))[0] + len(rows), turn
        places.append((lane.lane, turn, ahead if rows else None))
    if taken:
        counts = [(key, count, states[key].next_start, turn) for key, (count, turn) in taken.items()]
        tx.run_rows("flows_lease", counts)
    for lane, rows, _ in leased:
        if rows and states[lane.flow].half_open:
            breakers.begin_trial(tx, lane.flow, rows[0][0])
    tx.run_rows("lanes_set_served", places)


def _take_of_parent(tx: Tx, parent: Lane, count: int, states: dict[str, FlowState], turns: _Turns, last: str) -> None:
    """Take room of a key for messages that are leased from lanes under it, the message `last` for one."""
    limits, state = _flow_of(parent, states)
    states[parent.flow] = state = admit(limits, state, now=tx.now, want=count).state
    tx.run("flow_lease_nested", flow=parent.flow, count=count, next_start=state.next_start, turn=turns.take())
    if state.half_open:
        breakers.begin_trial(tx, parent.flow, last)


def _share_candidates(rows: list[Any], want: int, ahead: int) -> tuple[list[Any], int]:
    """Choose `want` candidates among started and fresh messages."""
    started = sum(1 for row in rows if row[1])
    parts = split_claims(want, started, len(rows) - started, ahead)
    return rows[: parts.started] + rows[started : started + parts.fresh], parts.ahead


def _lease_rows(tx: Tx, lane: Lane, rows: list[Any], owner: int, state: FlowState, turns: _Turns) -> int:
    turn = turns.take()
    _lease_messages(tx, rows, owner)
    tx.run("flow_lease", flow=lane.flow, count=len(rows), next_start=state.next_start, turn=turn)
    if state.half_open:
        breakers.begin_trial(tx, lane.flow, rows[0][0])
    return turn


def _lease_messages(tx: Tx, rows: Sequence[Any], owner: int) -> None:
    tx.run_rows("message_lease", [(row[0],) for row in rows], owner=owner, now=tx.now)


def _begin(tx: Tx, found: list[tuple[str, list[Any]]]) -> list[Claim]:
    """The claims of leased messages, whose journals are brought up to now; each destination is given with its rows."""
    again = [row for _, rows in found for row in rows if row[1] > 0]
    journals, woken = steps.journals(tx, [(row[0],) for row in again]) if again else ({}, set[str]())
    count_waiting(tx, [(row[2], row[3], row[-1]) for row in again if row[-1]], -1)
    return _claims_of(tx, found, journals, woken)


def _claims_of(
    tx: Tx, found: Iterable[tuple[str, list[Any]]], journals: Mapping[str, Journal], woken: Container[str]
) -> list[Claim]:
    claims: list[Claim] = []
    for destination, rows in found:
        for id, fence, batch, number, item, failures, losses, body, headers, retry, started_at, depth, data, _ in rows:
            head = None if batch is None else tx.batch_head(batch)
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
