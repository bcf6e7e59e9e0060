"""Fires the schedules of a process's workflows and functions, and declares those of its code."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from batchflow.core.ports import ScheduleTarget
from batchflow.core.schedule import Fire, FireOutcome, FireResult, ScheduledStart, ScheduleStatus
from batchflow.core.secrets import printable_error
from batchflow.core.store import Schedules
from batchflow.errors import StoreError, StoreUnavailable
from batchflow.logs import logger, safe_repr

LOOK_S = 5.0
"""The longest time between two looks: other processes may have made or changed a schedule."""

QUEUED_LOOK_S = 1.0
"""The same while a queued fire waits for the end of the previous one."""

SET_BACK_MS = 1_000
"""Time that goes back this far between two looks was set back; less is the resolution of clocks."""

_PAGE = 500
_LATE_MS = 60_000
_MOST_ROUNDS = 1_000


class CronScheduler:
    """Fires the schedules of `targets`, which are given by the destination of their work, while it runs.

    Several processes may fire the same schedules: the store lets one of them do it. `on_start` is called with the work
    that a fire of this process has started.
    """

    def __init__(
        self,
        store: Schedules,
        targets: Mapping[str, ScheduleTarget],
        on_start: Callable[[ScheduledStart], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._targets = targets
        self._on_start = on_start
        self._wake = asyncio.Event()
        self._latest = 0
        self._queued = 0
        self.next_at: int | None = None
        """The time of the next fire, as of the latest look."""

    def wake(self) -> None:
        """Look soon: a schedule has changed."""
        self._wake.set()

    async def declare(self) -> None:
        """Put the schedules of the code into the store, and remove those that it declares no more.

        Raises:
            StoreError: the store cannot do it now.
        """
        declared = {it.id: it for target in self._targets.values() if (it := target.declared_schedule) is not None}
        if not self._targets:
            return
        now = (await self._store.due_schedules((), 0)).now
        for schedule in declared.values():
            await self._store.put_schedule(schedule, schedule.cron.next_after(now))
        for status in await self._own():
            if status.schedule.declared and status.id not in declared:
                await self._store.delete_schedule(status.id)
        await self._plan(now)

    async def run(self) -> None:
        """Fire what is due until cancelled."""
        while True:
            self._wake.clear()
            pause = LOOK_S
            try:
                pause = await self.fire_due()
            except StoreError:
                pass  # the dispatcher reports it
            except Exception as error:
                # A defect here must not end all schedules.
                logger().error("[batchflow:error] Schedules could not be fired; trying again", error=safe_repr(error))
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def fire_due(self) -> float:
        """Fire what is due, and return the seconds until the next look.

        Raises:
            StoreError: the store cannot do it now.
        """
        destinations = tuple(self._targets)
        if not destinations:
            return LOOK_S
        for _ in range(_MOST_ROUNDS):
            found = await self._store.due_schedules(destinations)
            if found.now < self._latest - SET_BACK_MS:
                await self._plan(found.now)
                self._latest = found.now
                continue
            self._latest = found.now
            for status in found.due:
                await self._fire(status, found.now)
            if not found.due:
                self.next_at, self._queued = found.next_at, found.queued
                longest = QUEUED_LOOK_S if found.queued else LOOK_S
                return longest if found.next_at is None else min(longest, max(found.next_at - found.now, 1) / 1000)
        return QUEUED_LOOK_S

    async def _fire(self, status: ScheduleStatus, now: int) -> None:
        """Fire what a schedule has to fire: the queued fire, and the one that is due."""
        current: ScheduleStatus | None = status
        if status.queued_at is not None:
            current = (await self._attempt(status, status.queued_at, status.next_at)).schedule
        if current is None or current.paused or current.next_at is None or current.next_at > now:
            return
        cron = current.schedule.cron
        await self._attempt(current, cron.latest_until(now, current.next_at), cron.next_after(now), now)

    async def _attempt(self, status: ScheduleStatus, at: int, next_at: int | None, now: int = 0) -> FireResult:
        schedule = status.schedule
        fire = Fire(id=status.id, version=status.version, at=at, next_at=next_at, queue=schedule.overlap == "queue")
        try:
            fire = replace(fire, start=self._targets[schedule.destination].scheduled_start(schedule, at))
        except Exception as error:
            # Of the user's types, whose validators may raise anything.
            fire = replace(fire, error=printable_error(f"{type(error).__name__}: {safe_repr(error)}"))
        try:
            result = await self._store.fire_schedule(fire)
        except StoreUnavailable:
            raise
        except StoreError as error:
            # The store refuses this work for good; other schedules go on.
            fire = replace(fire, start=None, error=printable_error(str(error)))
            result = await self._store.fire_schedule(fire)
        if result.outcome == "fired" and fire.start is not None:
            self._on_start(fire.start)
        _log(result.outcome, status, fire, late=now - at > _LATE_MS)
        return result

    async def _plan(self, now: int) -> None:
        """Set the next fires that are not what the expression says: the clock was set back, or a time zone changed.

        A fire that was missed stays due.
        """
        for status in await self._own():
            if status.paused or (status.next_at is not None and status.next_at <= now):
                continue
            if (next_at := status.schedule.cron.next_after(now)) != status.next_at:
                await self._store.plan_schedule(status.id, status.version, next_at)

    async def _own(self) -> list[ScheduleStatus]:
        own: list[ScheduleStatus] = []
        after = ""
        while page := await self._store.schedules(after=after, limit=_PAGE):
            after = page[-1].id
            own += [it for it in page if it.schedule.destination in self._targets]
        return own


def _log(outcome: FireOutcome, status: ScheduleStatus, fire: Fire, *, late: bool) -> None:
    prefix = f"[{status.schedule.target}:schedule]"
    about = {"schedule": status.id, "at": status.schedule.cron.local_time(fire.at).isoformat(timespec="minutes")}
    if outcome == "fired" and fire.start is not None:
        said = "Fired late, once for all that was missed" if late else "Fired"
        logger().info(f"{prefix} {said}", started=fire.start.id, **about)
    elif outcome == "skipped":
        logger().info(f"{prefix} Skipped: the previous fire has not ended", previous=status.last_id, **about)
    elif outcome == "queued" and status.queued_at is None:
        logger().info(f"{prefix} Queued until the previous fire has ended", previous=status.last_id, **about)
    elif outcome == "failed":
        logger().error(f"[{status.schedule.target}:error] A schedule could start nothing", error=fire.error, **about)
