"""Schedules of an app: declared in code and made at run time, fired once, skipped, queued, made up for, paused."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import from_json

from batchflow import Batchflow, BatchWorkflow, Page, Schedule, WorkflowContext
from batchflow.core.schedule import ScheduleStatus
from batchflow.errors import InputError, NotFoundError
from batchflow.stores.sqlite import SqliteStore
from batchflow.testing import ManualClock, drive
from tests.stores.memory import MemoryStore, Place

START = datetime(2026, 6, 1, 12, tzinfo=UTC)
NOON = int(START.timestamp() * 1000)
HOUR = 3_600_000


class Report(BaseModel):
    kind: str = "short"


class Sync(BaseModel):
    paid_only: bool = False
    token: str = ""


class Deploys:
    """A store that several apps use in turn, as deploys do, with one clock."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOON)
        self.place = Place()

    def app(self, *declare: Callable[[Batchflow], object]) -> Batchflow:
        """An app with these functions; it does not work by itself."""
        flow = Batchflow(MemoryStore(self.place, clock=self.clock), clock=self.clock, worker=False)
        for one in declare:
            one(flow)
        return flow

    async def drive(self, flow: Batchflow, hours: float = 0) -> None:
        """Let time pass, firing what is due on the way."""
        await drive(flow, self.clock, until=self.clock.now() + int(hours * HOUR))
        await flow.stop()


@pytest.fixture
def place() -> Deploys:
    return Deploys()


def reports(schedule: Schedule | str | None, *, waits: bool = False) -> Callable[[Batchflow], object]:
    """Declares a function of reports, which ends at once, or waits for an event."""

    def declare(flow: Batchflow) -> object:
        @flow.serve("/reports/daily", schedule=schedule)
        async def report(ctx: WorkflowContext[Report]) -> str:
            if waits:
                await ctx.wait_for_event("wait", "go")
            return f"{ctx.payload.kind} {ctx.headers['Batchflow-Scheduled-At']}"

        return report

    return declare


async def state(flow: Batchflow, id: str = "reports.daily") -> ScheduleStatus:
    """A schedule, read by an app that is opened for it."""
    await flow.start()
    try:
        return await flow.schedules.get(id)
    finally:
        await flow.stop()


async def results(flow: Batchflow) -> list[Any]:
    """The results of all runs, the latest first."""
    await flow.start()
    try:
        return [
            from_json((await flow.run(it.id).status()).result or "null")
            for it in (await flow.runs()).runs
            if it.state == "completed"
        ]
    finally:
        await flow.stop()


# Declared


async def test_schedule_of_a_function_starts_runs(place: Deploys) -> None:
    """With its payload, and the time for which each was scheduled."""
    flow = place.app(reports(Schedule("0 3 * * *", timezone="Europe/Berlin", payload={"kind": "long"})))
    await place.drive(flow, 48)
    assert await results(flow) == ["long 2026-06-03T03:00:00+02:00", "long 2026-06-02T03:00:00+02:00"]
    found = await state(flow)
    assert (found.fires, found.skips, found.schedule.declared) == (2, 0, True)


async def test_schedule_of_a_workflow_starts_batches(place: Deploys) -> None:
    """With its parameters and label, and its id in the headers."""
    seen: list[tuple[bool, str]] = []

    class Welcome(BatchWorkflow[Sync, str, str]):
        schedule = Schedule("0 * * * *", params={"paidOnly": True})

        async def fetch(self, params: Sync, cursor: str | None, limit: int) -> Page:
            seen.append((params.paid_only, self.headers["Upstash-Schedule-Id"]))
            return Page(ids=["a", "b"])

        async def execute(self, item: str) -> str:
            return item

    flow = place.app(lambda flow: flow.add(Welcome()))
    await place.drive(flow, 2.5)
    assert seen == [(True, "welcome")] * 2
    await flow.start()
    batches = await flow.batches(label="welcome")
    assert [(await it.status()).state for it in batches] == ["completed", "completed"]
    await flow.stop()


async def test_schedule_of_a_batch_function(place: Deploys) -> None:
    """`@flow.batch` takes one as well."""
    done: list[str] = []

    def declare(flow: Batchflow) -> object:
        @flow.batch(ids=["a"], schedule="*/30 * * * *")
        def sweep(item_id: str) -> None:
            done.append(item_id)

        return sweep

    await place.drive(place.app(declare), 0.6)
    assert done == ["a"]


async def test_schedule_of_another_expression_is_in_force_with_the_deploy(place: Deploys) -> None:
    """From its start on; the same one leaves a fire that was missed meanwhile."""
    await place.drive(place.app(reports("0 13 * * *")))
    changed = place.app(reports("0 15 * * *"))
    await place.drive(changed, 2)
    assert (await state(changed)).fires == 0
    await place.drive(changed, 1)
    assert (await state(changed)).fires == 1


async def test_schedule_that_the_code_declares_no_more_is_removed(place: Deploys) -> None:
    """By the first worker that does not; those of other apps and those made at run time stay."""
    first = place.app(reports("0 13 * * *"))
    await place.drive(first)
    await first.start()
    await first.schedules.create("reports.daily", "0 14 * * *", id="by-hand")
    await first.stop()
    other = place.app()
    await place.drive(other)
    assert (await state(other)).schedule.declared
    last = place.app(reports(None))
    await place.drive(last)
    await last.start()
    assert [it.id for it in await last.schedules.list()] == ["by-hand"]
    await last.stop()


async def test_pause_of_a_schedule_survives_a_deploy(place: Deploys) -> None:
    """What an operator has done, the code does not undo; nothing that was paused away is made up for."""
    flow = place.app(reports("0 * * * *"))
    await place.drive(flow)
    await flow.start()
    assert (await flow.schedules.pause("reports.daily")).upcoming() == ()
    await flow.stop()
    again = place.app(reports("30 * * * *"))
    await place.drive(again, 5)
    assert (await state(again)).fires == 0
    await again.start()
    assert (await again.schedules.resume("reports.daily")).next_at == NOON + 11 * HOUR // 2
    await again.stop()
    await place.drive(again, 1)
    assert (await state(again)).fires == 1


async def test_schedule_does_not_fire_without_its_worker(place: Deploys) -> None:
    """A process that only triggers and reads declares nothing and fires nothing."""
    flow = place.app(reports("0 * * * *"))
    await flow.start()
    assert await flow.schedules.list() == []
    await flow.stop()


# Missed, repeated


async def test_schedule_makes_up_for_missed_fires_once(place: Deploys) -> None:
    """For the latest of them, however many there were."""
    flow = place.app(reports("0 * * * *"))
    await place.drive(flow)
    place.clock.advance("100h")
    place.clock.advance("5m")
    await place.drive(flow)
    assert await results(flow) == ["short 2026-06-05T16:00:00+00:00"]
    assert (await state(flow)).next_at == NOON + 101 * HOUR


async def test_schedule_goes_on_after_a_clock_that_jumped(place: Deploys) -> None:
    """Ahead by a year and back again: the next fire is not a year away, and nothing that was fired is fired again."""
    flow = place.app(reports("0 * * * *"))
    await place.drive(flow, 1)
    before = place.clock.now()
    place.clock.advance("365d")
    await place.drive(flow)
    assert (await state(flow)).fires == 2
    place.clock.move_to(before)
    await place.drive(flow, 2)
    assert (await state(flow)).fires == 4
    place.clock.move_to(before - HOUR // 2)
    await place.drive(flow, 2.5)
    assert ((await state(flow)).fires, len(await results(flow))) == (4, 4)


async def test_schedule_goes_on_while_a_worker_sees_the_clock_set_back(place: Deploys) -> None:
    """Between two looks of one process, without a start in between."""
    flow = place.app(reports("0 * * * *"))
    await flow.start()
    cron = flow.engine.make_cron()
    await cron.declare()
    place.clock.advance("90d")
    await cron.fire_due()
    place.clock.move_to(NOON)
    await cron.fire_due()
    assert cron.next_at == NOON + HOUR
    await flow.stop()


# Daylight saving


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (datetime(2026, 3, 28, 12, tzinfo=UTC), ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]),
        (datetime(2026, 10, 24, 12, tzinfo=UTC), ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]),
    ],
    ids=["skipped", "repeated"],
)
async def test_schedule_fires_once_where_the_clock_changes(
    place: Deploys, start: datetime, expected: list[str]
) -> None:
    """A time that does not exist fires right after the gap, one that comes twice the first time."""
    place.clock.move_to(int(start.timestamp() * 1000))
    flow = place.app(reports(Schedule("30 2 * * *", timezone="Europe/Berlin")))
    await place.drive(flow, 40)
    assert await results(flow) == [f"short {at}" for at in reversed(expected)]


async def test_schedule_of_quarters_fires_in_the_repeated_hour_too(place: Deploys) -> None:
    """It follows the time that passes."""
    place.clock.move_to(int(datetime(2026, 10, 24, 23, 50, tzinfo=UTC).timestamp() * 1000))
    flow = place.app(reports(Schedule("*/15 * * * *", timezone="Europe/Berlin")))
    await place.drive(flow, 2)
    assert (await state(flow)).fires == 8


# Overlap


async def test_overlap_skip_leaves_out_fires(place: Deploys) -> None:
    """While the run of the previous fire goes on; they are counted and shown."""
    flow = place.app(reports("0 * * * *", waits=True))
    await place.drive(flow, 3)
    found = await state(flow)
    assert (found.fires, found.skips, found.skipped_at) == (1, 2, NOON + 3 * HOUR)
    await flow.start()
    await flow.notify("go")
    await flow.stop()
    await place.drive(flow, 1)
    assert (await state(flow)).fires == 2


async def test_overlap_queue_starts_one_afterwards(place: Deploys) -> None:
    """When the previous run has ended, with the time for which it was scheduled."""
    flow = place.app(reports(Schedule("0 * * * *", overlap="queue"), waits=True))
    await place.drive(flow, 3)
    found = await state(flow)
    assert (found.fires, found.skips, found.queued_at) == (1, 1, NOON + 2 * HOUR)
    await flow.start()
    await flow.notify("go")
    await flow.stop()
    await place.drive(flow, 0.25)
    found = await state(flow)
    assert (found.fires, found.last_at, found.queued_at) == (2, NOON + 2 * HOUR, None)
    assert found.next_at == NOON + 4 * HOUR


async def test_overlap_allow_starts_each(place: Deploys) -> None:
    """Whatever the earlier ones do."""
    flow = place.app(reports(Schedule("0 * * * *", overlap="allow"), waits=True))
    await place.drive(flow, 3)
    assert ((await state(flow)).fires, (await state(flow)).skips) == (3, 0)


# At run time


async def test_create_makes_a_schedule_at_run_time(place: Deploys) -> None:
    """By name or by the function itself; with the same id it replaces it."""
    flow = place.app(reports(None))
    await flow.start()
    made = await flow.schedules.create("reports.daily", "0 * * * *", payload=Report(kind="long"))
    assert made.id.startswith("sch_")
    assert not made.schedule.declared
    named = await flow.schedules.create(flow.served["/reports/daily"], "5 * * * *", id="five", payload={"kind": "x"})
    again = await flow.schedules.create("/reports/daily", "6 * * * *", id="five")
    assert (named.id, again.id, again.next_at) == ("five", "five", NOON + 6 * 60_000)
    assert sorted(it.id for it in await flow.schedules.list()) == sorted([made.id, "five"])
    await flow.stop()
    await place.drive(flow, 1)
    assert len(await results(flow)) == 2


async def test_delete_removes_a_schedule(place: Deploys) -> None:
    """One that the code declares is not deleted: the next worker would make it again."""
    flow = place.app(reports("0 * * * *"))
    await place.drive(flow)
    await flow.start()
    await flow.schedules.create("reports.daily", "0 * * * *", id="mine")
    await flow.schedules.delete("mine")
    with pytest.raises(NotFoundError, match="'mine'"):
        await flow.schedules.delete("mine")
    with pytest.raises(InputError, match="pause it") as caught:
        await flow.schedules.delete("reports.daily")
    assert caught.value.status == 409
    await flow.stop()


async def test_trigger_fires_a_schedule_now(place: Deploys) -> None:
    """Paused or not, by its overlap rule; its next fire stays."""
    flow = place.app(reports("0 15 * * *", waits=True))
    await place.drive(flow)
    await flow.start()
    await flow.schedules.pause("reports.daily")
    first = await flow.schedules.trigger("reports.daily")
    assert first.outcome == "fired"
    place.clock.advance("1m")
    assert (await flow.schedules.trigger("reports.daily")).outcome == "skipped"
    found = await flow.schedules.get("reports.daily")
    assert (found.fires, found.skips, found.next_at, found.paused) == (1, 1, NOON + 3 * HOUR, True)
    assert (await flow.run(found.last_id or "").status()).state == "waiting"
    await flow.stop()


async def test_schedule_whose_payload_fits_no_more_fails_and_says_so(place: Deploys) -> None:
    """The next fires are tried again; other schedules go on."""
    flow = place.app(reports(None))
    await flow.start()
    await flow.schedules.create("reports.daily", "0 * * * *", id="old", payload={"kind": "x"})
    await flow.stop()

    def changed(flow: Batchflow) -> object:
        @flow.serve("/reports/daily")
        async def report(ctx: WorkflowContext[int]) -> int:
            return ctx.payload

        return report

    later = place.app(changed)
    await later.start()
    await later.schedules.create("reports.daily", "0 * * * *", id="sound", payload=1)
    await later.stop()
    await place.drive(later, 1)
    found = await state(later, "old")
    assert found.error is not None
    assert ("payload" in found.error, found.fires, found.next_at) == (True, 0, NOON + 2 * HOUR)
    assert (await state(later, "sound")).fires == 1


# Many workers


async def test_schedule_fires_once_for_all_workers() -> None:
    """Five processes' worth of schedulers look at the same moment."""
    clock = ManualClock(NOON)
    flow = Batchflow(SqliteStore(":memory:", clock=clock), clock=clock, worker=False)
    reports("0 * * * *")(flow)
    await flow.start()
    crons = [flow.engine.make_cron() for _ in range(5)]
    await asyncio.gather(*(it.declare() for it in crons))
    for hour in range(1, 4):
        clock.advance("1h")
        await asyncio.gather(*(it.fire_due() for it in crons))
        await drive(flow, clock, until=clock.now())
        assert (await flow.schedules.get("reports.daily")).fires == hour
    await flow.stop()
