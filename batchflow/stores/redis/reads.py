"""Answers of the script made into values. An empty list comes as an empty object: Lua knows no difference."""

from collections.abc import Sequence
from itertools import repeat
from typing import Any

from pydantic_core import from_json

from batchflow.core.batch import NO_HEADERS
from batchflow.core.ledger import Mark
from batchflow.core.message import Claim, Claimed, DeadLetter
from batchflow.core.retry import RetryPolicy
from batchflow.core.run import Journal, Run, Step, Waiter
from batchflow.core.settlement import Settled
from batchflow.core.worker import WorkerStatus
from batchflow.stores import rows

STALE = Settled(stale=True)
FRESH = Settled()
FRESH_ITEMS = 6


def settled(answer: Sequence[Any]) -> Settled:
    """How a settlement went."""
    stale, ended = answer
    if stale:
        return STALE
    return Settled(ended_batch=ended) if ended else FRESH


def claimed(answer: Sequence[Any] | None) -> Claimed | None:
    """What was leased; None where the server has to be told what is served."""
    if answer is None:
        return None
    found, next_due, params, now, *rest = answer
    # An empty list where there are none.
    headers: dict[str, str] = dict(rest[0]) if rest and rest[0] else {}
    claims: list[Claim] = []
    for row in found:
        if len(row) == FRESH_ITEMS:
            claims += _fresh(row, params, headers)
        else:
            claims.append(_claim(row, params))
    return Claimed(claims, next_due, now)


def _fresh(row: list[Any], params: dict[str, str], headers: dict[str, str]) -> list[Claim]:
    """Items of a batch that nobody has claimed before."""
    destination, batch, started, depth, items, data = row
    text, begin = params[batch], f"{batch}.r"
    shared = from_json(headers[batch]) if batch in headers else NO_HEADERS
    return [
        Claim(
            f"{begin}{number:09d}",
            1,
            destination,
            "null",
            batch,
            number,
            item,
            0,
            0,
            shared,
            None,
            (),
            text,
            started,
            depth,
            brought,
        )
        for number, item, brought in zip(items[::2], items[1::2], data or repeat(None), strict=False)
    ]


def _claim(row: list[Any], params: dict[str, str]) -> Claim:
    id, fence, destination, body, batch, number, item, failures, losses, headers, retry, journal, *rest = row
    started, depth, data = rest
    return Claim(
        id,
        fence,
        destination,
        body,
        batch,
        number,
        item,
        failures,
        losses,
        from_json(headers) if headers else NO_HEADERS,
        RetryPolicy.from_wire(from_json(retry)) if retry else None,
        _journal(journal) if journal else (),
        params[batch] if batch else "null",
        started,
        depth,
        data,
    )


def _journal(text: str) -> Journal:
    return tuple(_step(row) for row in from_json(text))


def _step(row: list[Any]) -> Step:
    # Numbers that are too large for Lua's JSON come as text.
    row[8] = int(row[8])
    return Step._make(row)


def run(row: Sequence[Any]) -> Run:
    """A run; without its journal where that was not read."""
    *fields, journal = row
    return rows.run(fields, _journal(journal) if journal else ())


def dead_letter(row: Sequence[Any]) -> DeadLetter:
    """A dead letter."""
    *fields, journal = row
    return rows.dead_letter(fields, _journal(journal))


def waiter(row: Sequence[Any]) -> Waiter:
    """Who waits for an event."""
    run, step, since, until = row
    return Waiter(run, step, since, int(until) or None)


def worker(row: Sequence[Any]) -> WorkerStatus:
    """A worker."""
    name, since, seen_at, lease_until, concurrency, hanging, holds, lost = row
    return WorkerStatus(name, since, seen_at, int(lease_until), concurrency, hanging, holds or {}, lost)


def mark(row: Sequence[Any]) -> Mark:
    """A mark."""
    item, expires_at = row
    return Mark(item, None if expires_at is None else int(expires_at))
