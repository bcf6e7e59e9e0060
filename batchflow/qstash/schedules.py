"""The schedules of an app on QStash: QStash fires those of functions by requests, the app's store has the others."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol
from urllib.parse import quote, unquote

from batchflow.core.call import printable_url
from batchflow.core.message import Message
from batchflow.core.ports import ScheduleTarget
from batchflow.core.run import RunQuery
from batchflow.core.schedule import (
    Cron,
    Fire,
    FireOutcome,
    FireResult,
    NewSchedule,
    Overlap,
    ScheduleStatus,
    scheduled_run_id,
)
from batchflow.core.store import RunReads, ScheduleStore
from batchflow.errors import BatchflowError, ConfigurationError, InputError, NotFoundError, StoreUnavailable
from batchflow.logs import logger
from batchflow.qstash.directory import Directory
from batchflow.qstash.rest import QStashRest
from batchflow.qstash.run_options import check_run_options
from batchflow.qstash.shown import Shown
from batchflow.wire.submissions import Submission

DEFINITION = "batchflow-schedule"
"""The header of a schedule's requests with what QStash does not keep of its definition."""

_PATH = "/v2/schedules"
_MOST_RUNS = 100
_OF_SCHEDULE = 16
# The last characters of the ids of its runs.


class SchedulingEngine(Protocol):
    """The part of an engine that its schedules use."""

    @property
    def schedule_targets(self) -> Mapping[str, ScheduleTarget]:
        """The functions that schedules start, by route."""
        ...

    @property
    def run_store(self) -> RunReads:
        """Its runs, for reading."""
        ...

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """Start runs; returns for each if it is new."""
        ...

    async def give_due(self) -> None:
        """Give QStash the messages of batches that are due."""
        ...


class ScheduleDefinition(Shown):
    """The part of a schedule that QStash does not keep; the defaults are those of one that somebody else has made."""

    overlap: Overlap = "allow"
    label: str | None = None
    zone: str = "UTC"
    declared: bool = False


class ShownSchedule(Shown):
    """A schedule. Times are in ms."""

    schedule_id: str
    destination: str
    cron: str
    created_at: int = 0
    is_paused: bool = False
    header: Mapping[str, Sequence[str]] = {}
    body: str | None = None
    last_schedule_time: int | None = None
    next_schedule_time: int | None = None
    error: str | None = None

    def to_status(self, target: ScheduleTarget) -> ScheduleStatus:
        """The schedule as batchflow has it; QStash does not count its fires."""
        headers = {name.lower(): values[0] for name, values in self.header.items() if values}
        schedule = read_schedule(self.schedule_id, target, headers, self.body)
        return ScheduleStatus(
            schedule=replace(schedule, cron=Cron.parse(self.cron)),
            version=0,
            paused=self.is_paused,
            created_at=self.created_at,
            next_at=self.next_schedule_time,
            last_at=self.last_schedule_time,
            error=self.error,
        )


class QStashSchedules:
    """See `batchflow.core.store.ScheduleStore`: the schedules of functions are in QStash, those of batches in `stored`.

    Schedules that call anything but a function in the `directory` are not seen.
    """

    def __init__(
        self,
        engine: SchedulingEngine,
        stored: ScheduleStore,
        directory: Directory,
    ) -> None:
        self._engine = engine
        self._stored = stored
        self._directory = directory

    async def put_schedule(self, schedule: NewSchedule, next_at: int | None) -> ScheduleStatus:
        """See the port.

        Raises:
            InputError: QStash cannot keep an option, or has a schedule of another app with this id.
        """
        if schedule.starts == "batch":
            return await self._stored.put_schedule(schedule, next_at)
        check_schedule(schedule)
        known = await self._shown(self._directory.rest_of(schedule.destination), schedule.id)
        made = await self._put(schedule, known) or await self._find(schedule.id)
        # QStash may take a moment to show it.
        return made or ScheduleStatus(schedule=schedule, version=0, paused=False, created_at=0, next_at=next_at)

    async def _put(self, schedule: NewSchedule, known: ShownSchedule | None) -> ScheduleStatus | None:
        """Put a schedule in the place of `known`, which QStash has; the status of that if it is the same."""
        url, rest = self._directory.url_of(schedule.destination), self._directory.rest_of(schedule.destination)
        before = None if known is None else self._replaceable(known, schedule)
        if known is not None and before is None:
            want = "name another: QStash has a schedule of this id for another URL"
            raise InputError(option="id", got=f"'{schedule.id}'", want=want)
        same = before is not None and _comparable(before.schedule) == _comparable(schedule)
        if before is not None and known is not None and same and known.destination == url:
            return before
        if known is not None and known.destination != url:
            logger().warning(
                "[batchflow] A schedule that called another URL calls this app from now on; apps that share an account "
                "need different names",
                schedule=schedule.id,
                before=printable_url(known.destination),
                now=printable_url(url),
            )
        cron, zone = schedule.cron.fields, schedule.cron.timezone
        definition = ScheduleDefinition(
            overlap=schedule.overlap, label=schedule.label, zone=zone, declared=schedule.declared
        )
        headers = {
            **{f"upstash-forward-{name.lower()}": value for name, value in schedule.headers.items()},
            f"upstash-forward-{DEFINITION}": quote(definition.model_dump_json()),
            "upstash-cron": cron if zone == "UTC" else f"CRON_TZ={zone} {cron}",
            "upstash-schedule-id": schedule.id,
            "content-type": "application/json",
        }
        await rest.post(Submission(f"{_PATH}/{url}", headers, schedule.payload.encode()))
        if before is not None and before.paused:
            await self._change(rest, "PATCH", schedule.id, "/pause")
        return None

    async def pause_schedule(self, id: str) -> bool:
        """See the port."""
        return await self._change_own("PATCH", id, "/pause") or await self._stored.pause_schedule(id)

    async def resume_schedule(self, id: str, next_at: int | None) -> bool:
        """See the port; QStash reads the expression itself."""
        return await self._change_own("PATCH", id, "/resume") or await self._stored.resume_schedule(id, next_at)

    async def delete_schedule(self, id: str) -> bool:
        """See the port."""
        return await self._change_own("DELETE", id, "") or await self._stored.delete_schedule(id)

    async def fire_schedule(self, fire: Fire) -> FireResult:
        """See the port: a fire by hand."""
        status = await self._find(fire.id)
        if status is None or fire.start is None:
            result = await self._stored.fire_schedule(fire)
            await self._engine.give_due()
            return result
        (message,) = fire.start.messages
        outcome = await start_run(self._engine, status.schedule, message)
        return FireResult(outcome, replace(status, last_at=fire.at, last_id=message.id))

    async def schedule(self, id: str) -> ScheduleStatus | None:
        """See the port."""
        return await self._find(id) or await self._stored.schedule(id)

    async def _find(self, id: str) -> ScheduleStatus | None:
        for rest in self._directory.rests:
            shown = await self._shown(rest, id)
            if shown is not None and (status := self._status(shown)) is not None:
                return status
        return None

    async def schedules(self, *, after: str = "", limit: int = 100) -> Sequence[ScheduleStatus]:
        """See the port."""
        own = [it for it in await self._own() if it.id > after]
        stored = await self._stored.schedules(after=after, limit=limit)
        return sorted([*own, *stored], key=lambda status: status.id)[:limit]

    async def _own(self) -> list[ScheduleStatus]:
        return [status for _, it in await self._all() if (status := self._status(it)) is not None]

    async def _all(self) -> list[tuple[QStashRest, ShownSchedule]]:
        """The schedules of all accounts, each with its account."""
        found: list[tuple[QStashRest, ShownSchedule]] = []
        for rest in self._directory.rests:
            answer = await rest.get(_PATH)
            with rest.reading():
                found += [(rest, ShownSchedule.model_validate(it)) for it in answer]
        return found

    async def declare(self) -> None:
        """Put the schedules of the code into QStash, and remove those that it declares no more: each start reads once.

        One that is refused is left out.

        Raises:
            StoreError: QStash cannot do it now.
            InputError: it refuses some; the sentence names all of them.
        """
        targets = [it for it in self._engine.schedule_targets.values() if it.schedule_starts == "run"]
        if not targets:
            return
        declared = {it.declared_schedule.id: it.declared_schedule for it in targets if it.declared_schedule is not None}
        shown = await self._all()
        known = {(rest, it.schedule_id): it for rest, it in shown}
        refused: dict[str, list[str]] = {}
        for schedule in declared.values():
            rest = self._directory.rest_of(schedule.destination)
            try:
                await self._put(schedule, known.get((rest, schedule.id)))
            except StoreUnavailable:
                raise
            except BatchflowError as error:
                refused.setdefault(str(error), []).append(schedule.id)
        for rest, it in shown:
            if it.schedule_id not in declared and self._has_declared(it):
                await self._change(rest, "DELETE", it.schedule_id, "")
        if refused:
            raise InputError("; ".join(f"{', '.join(ids)}: {sentence}" for sentence, ids in refused.items()))

    def _has_declared(self, shown: ShownSchedule) -> bool:
        """True for a schedule that the code of this app has declared once; another app may have the same functions."""
        status = self._status(shown)
        if status is None or not status.schedule.declared:
            return False
        with suppress(ConfigurationError):
            return shown.destination == self._directory.url_of(status.schedule.destination)
        return False

    async def _shown(self, rest: QStashRest, id: str) -> ShownSchedule | None:
        try:
            answer = await rest.get(_path(id))
        except NotFoundError:
            return None
        with rest.reading():
            return ShownSchedule.model_validate(answer)

    def _status(self, shown: ShownSchedule) -> ScheduleStatus | None:
        """The schedule; None for one that starts nothing of this app."""
        url = shown.destination
        target = self._engine.schedule_targets.get(self._directory.route_of(url)) or self._directory.target_of(url)
        return None if target is None else _read_status(shown, target)

    def _replaceable(self, known: ShownSchedule, schedule: NewSchedule) -> ScheduleStatus | None:
        """The schedule that QStash has, if this one may take its place: of this app, or declared for the same route."""
        target = self._engine.schedule_targets.get(schedule.destination)
        is_same = known.destination.partition("?")[0].endswith(schedule.destination)
        if schedule.declared and target is not None and is_same:
            return _read_status(known, target)
        return self._status(known)

    async def _change_own(self, method: str, id: str, command: str) -> bool:
        for rest in self._directory.rests:
            shown = await self._shown(rest, id)
            if shown is not None and self._status(shown) is not None:
                return await self._change(rest, method, id, command)
        return False

    async def _change(self, rest: QStashRest, method: str, id: str, command: str) -> bool:
        try:
            await rest.change(method, _path(id) + command)
        except NotFoundError:
            return False
        return True


def check_schedule(schedule: NewSchedule) -> None:
    """Raise `InputError` for a schedule of a function that QStash cannot keep."""
    if schedule.starts == "batch":
        return
    if schedule.overlap == "queue":
        raise InputError("is not supported on QStash", option="overlap", got="'queue'", want="write 'skip' or 'allow'")
    check_run_options(None, None, schedule.label, schedule.headers)


def read_schedule(id: str, target: ScheduleTarget, headers: Mapping[str, str], body: str | None) -> NewSchedule:
    """The schedule with these headers, whose names are in lower case, and this body.

    Raises:
        ValueError, BatchflowError: they are not those of a schedule.
    """
    definition = ScheduleDefinition.model_validate_json(unquote(headers.get(DEFINITION, "{}")))
    own = {name: value for name, value in headers.items() if not name.startswith("upstash-")}
    return NewSchedule(
        id=id,
        target=target.title,
        destination=target.schedule_route,
        cron=Cron.parse("* * * * *", definition.zone),
        payload=body or target.schedule_payload(None, None),
        overlap=definition.overlap,
        label=definition.label,
        headers={name: value for name, value in own.items() if name not in (DEFINITION, "content-type")},
        declared=definition.declared,
    )


async def start_run(engine: SchedulingEngine, schedule: NewSchedule, message: Message) -> FireOutcome:
    """Start the run of a fire, unless it exists or, with `skip`, the one of the previous fire has not ended."""
    # QStash would start one with the id of a run that has ended.
    if await engine.run_store.run(message.id) is not None:
        return "repeated"
    if schedule.overlap == "skip":
        query = RunQuery("waiting", message.destination, message.label)
        suffix = scheduled_run_id(schedule.id, 0)[-_OF_SCHEDULE:]
        for run in await engine.run_store.runs(query, _MOST_RUNS):
            if run.id.endswith(suffix):
                return "skipped"
    (new,) = await engine.publish([message])
    return "fired" if new else "repeated"


def _read_status(shown: ShownSchedule, target: ScheduleTarget) -> ScheduleStatus | None:
    try:
        return None if target.schedule_starts == "batch" else shown.to_status(target)
    except (BatchflowError, ValueError):
        # Somebody else has made it, with an expression that only QStash knows.
        return None


def _path(id: str) -> str:
    return f"{_PATH}/{quote(id, safe='')}"


def _comparable(schedule: NewSchedule) -> str:
    headers = {name.lower(): value for name, value in schedule.headers.items()}
    cron = schedule.cron._replace(expression=schedule.cron.fields)
    return replace(schedule, headers=dict(sorted(headers.items())), cron=cron).text
