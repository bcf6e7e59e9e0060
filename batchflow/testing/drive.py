"""Runs an app to idle in virtual time, without a worker and without waiting."""

import asyncio
import itertools
from functools import partial
from typing import NamedTuple, Protocol

from batchflow.app import Batchflow
from batchflow.core.message import ClaimResult
from batchflow.core.ports import Groups
from batchflow.core.store import Store
from batchflow.engine.cron import CronScheduler
from batchflow.engine.dispatcher import Dispatcher
from batchflow.engine.engine import Engine
from batchflow.engine.observers import CountingObserver
from batchflow.engine.worker import LEASE_MS
from batchflow.testing.clock import ManualClock
from batchflow.testing.faults import ProcessCrashed, StoreProxy

_numbers = itertools.count(1)


class DriveResult(NamedTuple):
    """The result of `drive`. `elapsed_ms` is virtual; `endings` counts settlements by their ending.

    `waiting` counts the messages left by flow key, which do not start with time alone: their key is paused, or this app
    does not serve their destination. After a drive `until` a time they may also be due later.
    """

    claimed: int
    endings: dict[str, int]
    elapsed_ms: int
    waiting: dict[str, int]


class StillWaiting(AssertionError):
    """The app did not come to rest within the bound; the message names what is left."""


class Beside(Protocol):
    """Another store, whose work comes to the driven engine."""

    @property
    def next_fire(self) -> int | None:
        """The time of the next fire of its schedules, in ms; a drive to idle does not wait for it."""
        ...

    async def next_due(self) -> int | None:
        """The time when more of its work is due, in ms."""
        ...

    async def give_due(self) -> None:
        """Hand over what is due, and fire schedules."""
        ...


async def drive(app: Batchflow, clock: ManualClock, *, rounds: int = 10_000, until: int | None = None) -> DriveResult:
    """Claim, deliver and settle until nothing is due, jump the clock to what is due next, and so on to the end.

    The app was made with `clock` and has no worker of its own. The drive reclaims the claims of dead workers when their
    lease expires. Real time passes only while user functions take it. With `until`, in ms since the epoch, it delivers
    what is due up to then, and leaves the clock there. Schedules fire at each of their times that the clock passes;
    without `until` it does not move for them alone.

    Raises:
        StillWaiting: the app does not come to rest within `rounds` claims.
        ProcessCrashed: a `FaultyStore` crashed; its claims stay with the worker until a later `drive` reclaims them.
    """
    await app.start(worker=False)
    return await drive_engine(app.engine, clock, rounds=rounds, until=until)


async def drive_engine(
    engine: Engine, clock: ManualClock, *, rounds: int, until: int | None, beside: Beside | None = None
) -> DriveResult:
    """Do what `drive` does, with an engine that is open, and with the work of a store `beside` its own.

    Raises:
        StillWaiting, ProcessCrashed: as for `drive`.
    """
    store = engine.store
    begun = clock.now()
    worker = f"drive-{next(_numbers)}"
    await store.register(worker, LEASE_MS)
    dispatcher, tally = engine.make_dispatcher(worker), CountingObserver()
    cron = await _scheduler(engine)
    with engine.observers.observing(tally):
        for _ in range(rounds):
            if cron is not None:
                await cron.fire_due()
            if beside is not None:
                await beside.give_due()
            active = dispatcher.active_count
            claimed = await _claim_until_crash(store, dispatcher)
            engine.write_log()
            # The end of a group may have made others due since the claim.
            has_ended = dispatcher.active_count < active
            if (
                claimed.claims
                or has_ended
                or await _call_groups(store, worker, dispatcher.groups, claimed.next_due, clock, until)
            ):
                continue
            if not await _advance_clock(store, worker, claimed.next_due, clock, until, cron, beside):
                break
        else:
            raise StillWaiting(
                f"not at rest after {rounds} rounds and {clock.now() - begun} ms: {await _describe_remaining(store)}"
            )
    await store.deregister(worker)
    engine.write_log(due_only=False)
    waiting = {flow.limits.key or "": flow.waiting for flow in await store.flows() if flow.waiting}
    return DriveResult(tally.claims, tally.endings, clock.now() - begun, waiting)


async def _scheduler(engine: Engine) -> CronScheduler | None:
    """The schedules of an engine; None if there are none."""
    cron = engine.make_cron()
    await cron.declare()
    return cron if await engine.store.schedules(limit=1) else None


async def _claim_until_crash(store: Store, dispatcher: Dispatcher) -> ClaimResult:
    """Claim once and execute all the claims."""
    if not isinstance(store, StoreProxy):
        return await _run_round(dispatcher)
    round = asyncio.ensure_future(_run_round(dispatcher))
    death = asyncio.ensure_future(store.died.wait())
    try:
        await asyncio.wait([round, death], return_when=asyncio.FIRST_COMPLETED)
        if not store.died.is_set():
            return round.result()
    finally:
        death.cancel()
        if not round.done():
            # The cancellation of a test would hit every await in here, and this has to finish all the same.
            await asyncio.shield(asyncio.ensure_future(_cancel_round(store, dispatcher, round)))
    raise ProcessCrashed("the store's process died, as the test wants it")


async def _cancel_round(store: StoreProxy, dispatcher: Dispatcher, round: "asyncio.Future[ClaimResult]") -> None:
    """Cancel what is running, after a crash or at the cancellation of the test."""
    round.cancel()
    await asyncio.gather(round, return_exceptions=True)
    store.release_settlements()
    await dispatcher.stop(0)


async def _run_round(dispatcher: Dispatcher) -> ClaimResult:
    claimed = await dispatcher.claim_once()
    await dispatcher.join()
    return claimed


async def _call_groups(
    store: Store, worker: str, groups: Groups, next_due: int | None, clock: ManualClock, until: int | None
) -> bool:
    """Call the groups that have waited long enough before something else is due; return False if there are none."""
    now, due = clock.now(), groups.next_due
    if due is None or (next_due is not None and now < next_due < due and (until is None or next_due <= until)):
        return False
    clock.move_to(max(now, due if until is None else min(due, until)))
    await store.register(worker, LEASE_MS)
    # After `until` nothing moves the clock any more.
    (groups.call_all if until is not None and due > until else partial(groups.call_due, clock.now()))()
    return True


async def _advance_clock(
    store: Store,
    worker: str,
    next_due: int | None,
    clock: ManualClock,
    until: int | None,
    cron: CronScheduler | None,
    beside: Beside | None,
) -> bool:
    """Jump to the next time at which something may be due; return False if there is none up to `until`."""
    now = clock.now()
    # Nothing is running here, so a dead worker holds what is in use.
    held = any(flow.in_use for flow in await store.flows())
    times = [max(next_due, now + 1)] if next_due is not None else []
    if held:
        times.append(now + LEASE_MS)
    if beside is not None and (due := await beside.next_due()) is not None:
        times.append(max(due, now + 1))
    fires = [
        max(at, now + 1)
        for at in (None if cron is None else cron.next_at, None if beside is None else beside.next_fire)
        if at is not None
    ]
    if times or until is not None:
        times += fires
    if until is not None and min(times, default=until + 1) > until:
        clock.move_to(max(now, until))
        return False
    if not times:
        return False
    clock.move_to(min(times))
    await store.register(worker, LEASE_MS)
    return await store.expire() > 0 or len(times) > held or bool(fires)


async def _describe_remaining(store: Store) -> str:
    flows = [
        f"{flow.waiting} waiting and {flow.in_use} running under '{flow.limits.key}'"
        for flow in await store.flows()
        if flow.waiting or flow.in_use
    ]
    batches = [f"batch '{batch.id}' is {batch.state}" for batch in await store.batches(open_only=True)]
    return "; ".join([*flows, *batches]) or "nothing is left of it"
