"""Schedules: their definitions, their next times, and their fires."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from pydantic_core import to_json

from batchflow.core.schedule import DueSchedules, Fire, FireOutcome, NewSchedule, ScheduleStatus
from batchflow.stores import base
from batchflow.stores.sql import batches, messages, reads
from batchflow.stores.sql.transaction import Tx

_Row: TypeAlias = Sequence[Any]


def put(tx: Tx, schedule: NewSchedule, next_at: int | None) -> _Row | None:
    """Add a schedule, or replace its definition."""
    about = {"id": schedule.id, "destination": schedule.destination, "text": schedule.text, "next_at": next_at}
    known = find(tx, schedule.id)
    if known is None:
        tx.run("schedule_add", **about, now=tx.now)
    elif known.schedule != schedule:
        same = known.schedule.cron == schedule.cron
        tx.run("schedule_replace", **{**about, "next_at": known.next_at if same else next_at})
    return _row(tx, schedule.id)


def plan(tx: Tx, id: str, version: int, next_at: int | None) -> bool:
    """Set the time of the next fire, of this version only."""
    return tx.run("schedule_plan", id=id, version=version, next_at=next_at) > 0


def pause(tx: Tx, id: str) -> bool:
    """Fire no more."""
    return tx.run("schedule_pause", id=id) > 0


def resume(tx: Tx, id: str, next_at: int | None) -> bool:
    """Undo `pause`."""
    return tx.run("schedule_resume", id=id, next_at=next_at) > 0


def delete(tx: Tx, id: str) -> bool:
    """Remove a schedule."""
    return tx.run("schedule_drop", id=id) > 0


def fire(tx: Tx, fire: Fire) -> tuple[FireOutcome, _Row | None]:
    """Start the work of a fire, and set the time of the next one."""
    known = find(tx, fire.id)
    if known is None or known.version != fire.version:
        return "stale", _row(tx, fire.id)
    outcome = _start(tx, fire, known)
    tx.run(
        "schedule_fire",
        id=fire.id,
        at=fire.at,
        next_at=fire.next_at,
        outcome=outcome,
        started=fire.start and fire.start.id,
        error=fire.error,
    )
    return outcome, _row(tx, fire.id)


def _start(tx: Tx, fire: Fire, known: ScheduleStatus) -> FireOutcome:
    start = fire.start
    if start is None:
        return "failed"
    if start.batch is None:
        fresh = messages.publish(tx, start.messages)[0]
    else:
        fresh = batches.open_batch(tx, start.batch, start.messages)
    if fresh:
        return "fired"
    under_way = start.open_dedup and reads.under_way(tx, start.open_dedup)
    if not under_way or under_way == start.id:
        return "repeated"
    return "queued" if fire.queue and known.queued_at in (None, fire.at) else "skipped"


def due(tx: Tx, destinations: Sequence[str], limit: int) -> DueSchedules:
    """The schedules of these destinations that may fire now."""
    served = to_json(list(destinations)).decode()
    found = tx.json("schedule_due", served=served, now=tx.now, limit=limit)
    next_at = tx.one("schedule_next", served=served)
    return DueSchedules(
        tuple(map(base.scheduled, found)), next_at, tx.one("schedule_queued", served=served) or 0, tx.now
    )


def listed(tx: Tx, after: str, limit: int) -> list[ScheduleStatus]:
    """Schedules by id."""
    return [base.scheduled(row) for row in tx.json("schedule_list", after=after, limit=limit)]


def find(tx: Tx, id: str) -> ScheduleStatus | None:
    """A schedule."""
    row = _row(tx, id)
    return None if row is None else base.scheduled(row)


def _row(tx: Tx, id: str) -> _Row | None:
    return next(iter(tx.json("schedule_read", id=id)), None)
