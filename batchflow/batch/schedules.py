"""`flow.schedules`: schedules that are made, listed, paused and deleted at run time."""

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from batchflow.core.ports import ScheduleTarget
from batchflow.core.schedule import (
    Cron,
    Fire,
    FireResult,
    NewSchedule,
    Overlap,
    ScheduledStart,
    ScheduleStatus,
    check_overlap,
)
from batchflow.core.store import ScheduleStore
from batchflow.core.suggestions import did_you_mean
from batchflow.errors import ConfigurationError, InputError, NotFoundError
from batchflow.serve.validation import format_value, validate_headers, validate_label

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ScheduleHost(Protocol):
    """The part of an engine that schedules need."""

    @property
    def schedule_store(self) -> ScheduleStore:
        """The schedules."""
        ...

    @property
    def schedule_targets(self) -> Mapping[str, ScheduleTarget]:
        """The workflows and functions that schedules start, by the destination of their work."""
        ...

    def now(self) -> int:
        """The time, in ms since the epoch."""
        ...

    def new_schedule_id(self) -> str:
        """An id for a schedule that is made without one."""
        ...

    def report_start(self, start: ScheduledStart) -> None:
        """A fire has started this work."""
        ...

    def wake_schedules(self) -> None:
        """A schedule has changed."""
        ...


class ScheduleAdmin:
    """The schedules of an app: those that its code declares, and those that are made at run time."""

    def __init__(self, host: ScheduleHost) -> None:
        self._host = host

    @property
    def destinations(self) -> frozenset[str]:
        """The destinations of the workflows and functions of the app."""
        return frozenset(self._host.schedule_targets)

    async def create(
        self,
        target: ScheduleTarget | str,
        cron: str,
        *,
        id: str | None = None,
        timezone: str | None = None,
        params: object = None,
        payload: object = None,
        overlap: Overlap = "skip",
        label: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ScheduleStatus:
        """Make a schedule of a workflow or function, given itself or by name; its options are those of `Schedule`.

        With the `id` of a schedule that was made so before, this replaces it: its history and its pause stay.

        Raises:
            InputError: an option is invalid, the payload does not fit, or the id is that of a declared schedule.
            NotFoundError: there is no such workflow or function.
        """
        found = self.target(target)
        try:
            times = Cron.parse(cron, timezone)
            check_overlap(overlap)
            checked = validate_headers(headers)
        except ConfigurationError as error:
            raise InputError(error.problem, option=error.option, got=error.got, want=error.want) from error
        schedule = NewSchedule(
            id=self._host.new_schedule_id() if id is None else _check_id(id),
            target=found.title,
            destination=found.schedule_route,
            cron=times,
            starts=found.schedule_starts,
            payload=found.schedule_payload(params, payload),
            overlap=overlap,
            label=validate_label(label),
            headers=checked,
        )
        if (declared := self._declared(schedule.id)) is not None:
            raise InputError(
                f"which the code of '{declared.title}' declares",
                option="id",
                got=f"'{schedule.id}'",
                want="name another",
            )
        status = await self._host.schedule_store.put_schedule(schedule, times.next_after(self._host.now()))
        self._host.wake_schedules()
        return status

    async def get(self, id: str) -> ScheduleStatus:
        """The current state of a schedule.

        Raises:
            NotFoundError: it does not exist.
        """
        found = await self._host.schedule_store.schedule(id)
        if found is None:
            raise await self._not_found(id)
        return found

    async def list(self, *, after: str = "", limit: int = 100) -> Sequence[ScheduleStatus]:
        """The schedules whose ids are after `after`, by id, those of other apps of the store too."""
        return await self._host.schedule_store.schedules(after=after, limit=limit)

    async def pause(self, id: str) -> ScheduleStatus:
        """Fire no more until `resume`; a deploy does not undo this. Pausing again changes nothing.

        Raises:
            NotFoundError: it does not exist.
        """
        await self._host.schedule_store.pause_schedule(id)
        return await self.get(id)

    async def resume(self, id: str) -> ScheduleStatus:
        """Fire again from the next time on; what the pause has left out is not made up for.

        Raises:
            NotFoundError: it does not exist.
        """
        status = await self.get(id)
        await self._host.schedule_store.resume_schedule(id, status.schedule.cron.next_after(self._host.now()))
        self._host.wake_schedules()
        return await self.get(id)

    async def delete(self, id: str) -> None:
        """Delete a schedule; what it has started goes on.

        Raises:
            NotFoundError: it does not exist.
            InputError: the code of this app declares it, so that the next worker would make it again.
        """
        if (declared := self._declared(id)) is not None:
            raise InputError(
                f"the code of '{declared.title}' declares the schedule '{id}'; pause it, or take it out of the code",
                field="id",
                status=409,
            )
        if not await self._host.schedule_store.delete_schedule(id):
            raise await self._not_found(id)

    async def trigger(self, id: str) -> FireResult:
        """Fire a schedule now, paused or not; its overlap rule applies, and its next fire stays.

        Raises:
            NotFoundError: it does not exist.
            InputError: this app does not have its workflow or function, or its payload does not fit any more.
        """
        while True:
            status = await self.get(id)
            schedule, now = status.schedule, self._host.now()
            target = self._host.schedule_targets.get(schedule.destination)
            if target is None:
                raise InputError(f"the schedule '{id}' starts '{schedule.target}', which this app does not have")
            start = target.scheduled_start(schedule, now)
            queue = schedule.overlap == "queue"
            fire = Fire(id=id, version=status.version, at=now, next_at=status.next_at, start=start, queue=queue)
            result = await self._host.schedule_store.fire_schedule(fire)
            if result.outcome == "fired":
                self._host.report_start(start)
            if result.outcome != "stale":
                return result

    def target(self, target: ScheduleTarget | str) -> ScheduleTarget:
        """The workflow or function, given itself or by its name or route.

        Raises:
            NotFoundError: there is none.
        """
        targets = self._host.schedule_targets
        if not isinstance(target, str):
            if hasattr(target, "schedule_route") and target.schedule_route in targets:
                return target
            want = "give a workflow or function of this app, or its name"
            raise InputError(option="target", got=format_value(target), want=want)
        named = {it.title: it for it in targets.values()}
        found = named.get(target) or targets.get(target)
        if found is None:
            raise NotFoundError(
                f"there is no workflow or function '{target}'{did_you_mean(target, named)}", field="target"
            )
        return found

    def _declared(self, id: str) -> ScheduleTarget | None:
        return next((it for it in self._host.schedule_targets.values() if _declares(it, id)), None)

    async def _not_found(self, id: str) -> NotFoundError:
        known = [it.id for it in await self._host.schedule_store.schedules(limit=500)]
        return NotFoundError(f"there is no schedule '{id}'{did_you_mean(id, known)}", field="id")


def _declares(target: ScheduleTarget, id: str) -> bool:
    declared = target.declared_schedule
    return declared is not None and declared.id == id


def _check_id(id: object) -> str:
    if not isinstance(id, str) or not _ID.fullmatch(id):
        want = "write 1 to 100 letters, digits, '.', '_' and '-', such as 'nightly'"
        raise InputError(option="id", got=format_value(id), want=want)
    return id
