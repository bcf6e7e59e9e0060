"""Schedules: their definitions, their fires, and fires that meet the previous one."""

import asyncio
from dataclasses import replace
from typing import Any

from batchflow.core import ids
from batchflow.core.schedule import (
    Cron,
    DueSchedules,
    Fire,
    FireOutcome,
    FireResult,
    NewSchedule,
    ScheduledStart,
    ScheduleStatus,
    schedule_key,
    scheduled_batch_id,
    scheduled_run_id,
)
from tests.conformance.scene import Cases, Scene, message, new_batch

MINUTE = 60_000
SERVED = ["work", "entry"]


def nightly(id: str = "nightly", **changes: Any) -> NewSchedule:
    """A schedule of runs at `work`."""
    made = NewSchedule(id=id, target="report", destination="work", cron=Cron("0 3 * * *"), payload='{"a":1}')
    return replace(made, **changes)


async def put(scene: Scene, id: str = "nightly", *, after: int = MINUTE, **changes: Any) -> ScheduleStatus:
    """A schedule that fires next after so many ms."""
    return await scene.store.put_schedule(nightly(id, **changes), scene.now + after)


async def known(scene: Scene, id: str = "nightly") -> ScheduleStatus:
    """A schedule that exists."""
    found = await scene.store.schedule(id)
    assert found is not None
    return found


async def due(scene: Scene) -> list[str]:
    """The ids of the schedules that may fire."""
    return [it.id for it in (await looked(scene)).due]


async def looked(scene: Scene) -> DueSchedules:
    """The whole answer of a look."""
    return await scene.store.due_schedules(SERVED)


def run_of(at: int, id: str = "nightly", *, overlaps: bool = False) -> ScheduledStart:
    """The run of a fire."""
    key = None if overlaps else schedule_key(id)
    return ScheduledStart(None, (message(scheduled_run_id(id, at), open_dedup=key, keep=True),))


def batch_of(at: int, id: str = "nightly") -> ScheduledStart:
    """The batch of a fire."""
    batch = new_batch(scheduled_batch_id(id, at), open_dedup=schedule_key(id))
    return ScheduledStart(batch, (message(ids.entry_id(batch.id), destination="entry", batch=batch.id),))


def fire_of(found: ScheduleStatus, start: ScheduledStart | None = None, **changes: Any) -> Fire:
    """The fire that is due, of a schedule as it was read."""
    at = found.next_at or 0
    made = Fire(id=found.id, version=found.version, at=at, next_at=at + MINUTE, start=start or run_of(at, found.id))
    return replace(made, **changes)


async def fired(scene: Scene, **changes: Any) -> FireOutcome:
    """The outcome of the fire that is due next."""
    return (await scene.store.fire_schedule(fire_of(await known(scene), **changes))).outcome


class ScheduleCases(Cases):
    """`put_schedule`, `plan_schedule`, `pause_schedule`, `resume_schedule`, `delete_schedule`, `fire_schedule`."""

    # Definitions

    async def test_put_schedule_adds_one(self, scene: Scene) -> None:
        """It is as it was given, with its next fire."""
        given = nightly(
            cron=Cron("*/5 * * * *", "Europe/Berlin"), overlap="queue", label="l", headers={"A": "ü"}, declared=True
        )
        made = await scene.store.put_schedule(given, scene.now + MINUTE)
        assert (made.schedule, made.next_at, made.created_at) == (given, scene.now + MINUTE, scene.now)
        assert (made.paused, made.fires, made.skips, made.last_at, made.queued_at) == (False, 0, 0, None, None)
        assert await known(scene) == made
        assert await scene.store.schedule("other") is None

    async def test_put_schedule_again_changes_nothing(self, scene: Scene) -> None:
        """The same definition, put by another worker that starts later, moves nothing."""
        made = await put(scene)
        scene.clock.advance("5m")
        assert await put(scene) == made

    async def test_put_schedule_keeps_a_fire_that_was_missed(self, scene: Scene) -> None:
        """What changes beside expression and time zone leaves the time of the next fire alone."""
        made = await put(scene)
        scene.clock.advance("5m")
        again = await put(scene, payload='{"a":2}')
        assert (again.next_at, again.schedule.payload) == (made.next_at, '{"a":2}')
        assert await due(scene) == ["nightly"]

    async def test_put_schedule_with_another_expression_has_its_time(self, scene: Scene) -> None:
        """A changed expression, or time zone, is in force at once."""
        await put(scene)
        for cron in (Cron("0 4 * * *"), Cron("0 4 * * *", "Europe/Berlin")):
            scene.clock.advance("5m")
            assert (await put(scene, cron=cron)).next_at == scene.now + MINUTE
        assert await due(scene) == []

    async def test_put_schedule_keeps_pause_and_history(self, scene: Scene) -> None:
        """A deploy does not undo what an operator has done, and forgets no fire."""
        await put(scene)
        assert await fired(scene) == "fired"
        await scene.store.pause_schedule("nightly")
        before = await known(scene)
        after = await put(scene, cron=Cron("0 4 * * *"))
        assert (after.paused, after.fires, after.last_id) == (True, 1, before.last_id)
        assert after.version != before.version

    async def test_plan_schedule_moves_the_next_fire(self, scene: Scene) -> None:
        """For a clock that was set back; only of a schedule that is as it was read."""
        made = await put(scene)
        assert await scene.store.plan_schedule("nightly", made.version, scene.now + 1)
        assert (await known(scene)).next_at == scene.now + 1
        assert not await scene.store.plan_schedule("nightly", made.version, scene.now + 2)
        assert not await scene.store.plan_schedule("other", made.version, scene.now + 2)

    async def test_delete_schedule_removes_it(self, scene: Scene) -> None:
        """It fires no more; what it has started stays."""
        await put(scene)
        assert await fired(scene) == "fired"
        assert await scene.store.delete_schedule("nightly")
        assert not await scene.store.delete_schedule("nightly")
        assert (await looked(scene)).next_at is None
        await scene.claim_one()

    async def test_schedule_made_anew_is_another_one(self, scene: Scene) -> None:
        """Who has read the deleted one of the same id does not fire the new one."""
        old = await put(scene)
        await scene.store.delete_schedule("nightly")
        scene.clock.advance("1s")
        await put(scene)
        assert (await scene.store.fire_schedule(fire_of(old))).outcome == "stale"

    async def test_schedules_are_listed_by_id(self, scene: Scene) -> None:
        """In pages, paused ones too."""
        for id in ("c", "a", "b"):
            await put(scene, id)
        await scene.store.pause_schedule("b")
        assert [it.id for it in await scene.store.schedules()] == ["a", "b", "c"]
        assert [it.id for it in await scene.store.schedules(limit=2)] == ["a", "b"]
        assert [it.id for it in await scene.store.schedules(after="b")] == ["c"]

    # Being due

    async def test_due_schedules_are_those_whose_time_has_come(self, scene: Scene) -> None:
        """By their time, and with the time of the one after them."""
        await put(scene, "late", after=2 * MINUTE)
        await put(scene, "soon", after=MINUTE)
        found = await looked(scene)
        assert (found.due, found.next_at, found.queued, found.now) == ((), scene.now + MINUTE, 0, scene.now)
        scene.clock.advance("1m")
        assert await due(scene) == ["soon"]
        scene.clock.advance("1m")
        assert await due(scene) == ["soon", "late"]
        assert len((await scene.store.due_schedules(SERVED, 1)).due) == 1

    async def test_due_schedules_are_those_of_the_destinations(self, scene: Scene) -> None:
        """A worker does not hear of schedules that it does not serve."""
        await put(scene, destination="elsewhere")
        scene.clock.advance("1m")
        assert await looked(scene) == DueSchedules((), None, 0, scene.now)
        assert (await scene.store.due_schedules(["elsewhere"])).due

    async def test_due_schedules_without_a_next_time_are_none(self, scene: Scene) -> None:
        """An expression that matches no further date."""
        await scene.store.put_schedule(nightly(), None)
        assert await looked(scene) == DueSchedules((), None, 0, scene.now)

    async def test_pause_schedule_fires_no_more(self, scene: Scene) -> None:
        """And nobody is woken for it."""
        made = await put(scene)
        assert await scene.store.pause_schedule("nightly")
        assert not await scene.store.pause_schedule("nightly")
        assert not await scene.store.pause_schedule("other")
        scene.clock.advance("1m")
        assert await looked(scene) == DueSchedules((), None, 0, scene.now)
        assert (await scene.store.fire_schedule(fire_of(made))).outcome == "stale"

    async def test_resume_schedule_goes_on_with_the_next_time(self, scene: Scene) -> None:
        """What was paused away is not made up for."""
        await put(scene)
        assert not await scene.store.resume_schedule("nightly", 1)
        await scene.store.pause_schedule("nightly")
        scene.clock.advance("5m")
        assert await scene.store.resume_schedule("nightly", scene.now + MINUTE)
        assert not await scene.store.resume_schedule("other", 1)
        assert await due(scene) == []
        scene.clock.advance("1m")
        assert await due(scene) == ["nightly"]

    # Fires

    async def test_fire_schedule_starts_a_run(self, scene: Scene) -> None:
        """The run, the time of the next fire and the history, at once."""
        made = await put(scene)
        at = made.next_at or 0
        result = await scene.store.fire_schedule(fire_of(made))
        assert result == FireResult("fired", await known(scene))
        found = await known(scene)
        assert (found.next_at, found.last_at, found.fires) == (at + MINUTE, at, 1)
        assert (await scene.claim_one()).id == found.last_id == scheduled_run_id("nightly", at)

    async def test_fire_schedule_opens_a_batch(self, scene: Scene) -> None:
        """With its entry."""
        made = await put(scene)
        start = batch_of(made.next_at or 0)
        assert await fired(scene, start=start) == "fired"
        assert (await scene.batch(start.id)).state == "pending"
        assert (await scene.claim_one()).id == ids.entry_id(start.id)
        assert (await known(scene)).last_id == start.id

    async def test_fire_schedule_happens_once(self, scene: Scene) -> None:
        """However many workers saw that it was due."""
        made = await put(scene)
        results = await asyncio.gather(*(scene.store.fire_schedule(fire_of(made)) for _ in range(5)))
        assert sorted(it.outcome for it in results) == ["fired", *["stale"] * 4]
        assert (await known(scene)).fires == 1

    async def test_fire_schedule_of_a_changed_one_is_stale(self, scene: Scene) -> None:
        """A definition that was replaced meanwhile is not fired as it was."""
        made = await put(scene)
        changed = await put(scene, payload="2")
        assert await scene.store.fire_schedule(fire_of(made)) == FireResult("stale", changed)
        await scene.store.delete_schedule("nightly")
        assert await scene.store.fire_schedule(fire_of(made)) == FireResult("stale", None)
        assert await scene.claim() == []

    async def test_fire_schedule_skips_while_the_previous_one_goes_on(self, scene: Scene) -> None:
        """It is counted, and the next one has its time."""
        made = await put(scene)
        assert await fired(scene) == "fired"
        assert await fired(scene) == "skipped"
        found = await known(scene)
        assert (found.fires, found.skips, found.skipped_at) == (1, 1, (made.next_at or 0) + MINUTE)
        assert found.next_at == (made.next_at or 0) + 2 * MINUTE
        await scene.done(await scene.claim_one())
        assert await fired(scene) == "fired"

    async def test_fire_schedule_skips_while_the_previous_batch_is_open(self, scene: Scene) -> None:
        """Until its last item has ended."""
        made = await put(scene)
        at = made.next_at or 0
        assert await fired(scene, start=batch_of(at)) == "fired"
        assert await fired(scene, start=batch_of(at + MINUTE)) == "skipped"
        await scene.store.cancel_batch(scheduled_batch_id("nightly", at))
        assert await fired(scene, start=batch_of(at + 2 * MINUTE)) == "fired"

    async def test_fire_schedule_may_overlap(self, scene: Scene) -> None:
        """Without a key under which it counts as under way."""
        made = await put(scene)
        for number in range(3):
            at = (made.next_at or 0) + number * MINUTE
            assert await fired(scene, start=run_of(at, overlaps=True)) == "fired"
        assert len(await scene.claim()) == 3

    async def test_fire_schedule_queues_one(self, scene: Scene) -> None:
        """The first that meets the previous one waits for its end; those that come after it are skipped."""
        made = await put(scene)
        second = (made.next_at or 0) + MINUTE
        assert [await fired(scene, queue=True) for _ in range(3)] == ["fired", "queued", "skipped"]
        found = await known(scene)
        assert (found.queued_at, found.skips) == (second, 1)
        assert (await looked(scene)).queued == 1
        assert await due(scene) == []
        await scene.done(await scene.claim_one())
        assert await due(scene) == ["nightly"]
        fire = fire_of(found, run_of(second), at=second, next_at=found.next_at, queue=True)
        assert (await scene.store.fire_schedule(fire)).outcome == "fired"
        found = await known(scene)
        assert (found.queued_at, found.last_at, found.fires) == (None, second, 2)
        assert (await looked(scene)).queued == 0

    async def test_fire_schedule_keeps_the_queued_one_that_still_has_to_wait(self, scene: Scene) -> None:
        """Trying it too early changes nothing about it."""
        await put(scene)
        assert [await fired(scene, queue=True) for _ in range(2)] == ["fired", "queued"]
        found = await known(scene)
        at = found.queued_at or 0
        fire = fire_of(found, run_of(at), at=at, next_at=found.next_at, queue=True)
        assert (await scene.store.fire_schedule(fire)).outcome == "queued"
        assert ((await known(scene)).queued_at, (await known(scene)).skips) == (at, 0)

    async def test_pause_schedule_holds_back_a_queued_fire(self, scene: Scene) -> None:
        """Until it is resumed."""
        await put(scene)
        assert [await fired(scene, queue=True) for _ in range(2)] == ["fired", "queued"]
        await scene.done(await scene.claim_one())
        await scene.store.pause_schedule("nightly")
        assert ((await looked(scene)).queued, await due(scene)) == (0, [])
        await scene.store.resume_schedule("nightly", scene.now + MINUTE)
        assert ((await looked(scene)).queued, await due(scene)) == (1, ["nightly"])

    async def test_fire_schedule_whose_work_exists_is_repeated(self, scene: Scene) -> None:
        """A clock that was set back fires nothing twice, whether the first has ended or not."""
        made = await put(scene)
        at = made.next_at or 0
        assert await fired(scene) == "fired"
        assert await fired(scene, at=at, next_at=at, start=run_of(at)) == "repeated"
        await scene.done(await scene.claim_one())
        assert await fired(scene, at=at, next_at=at + MINUTE, start=run_of(at)) == "repeated"
        found = await known(scene)
        assert (found.fires, found.skips, found.next_at) == (1, 0, at + MINUTE)
        assert await scene.claim() == []

    async def test_fire_schedule_without_work_has_failed(self, scene: Scene) -> None:
        """Its error is kept until one starts something."""
        made = await put(scene)
        fire = replace(fire_of(made), start=None, error="the parameters do not fit")
        assert (await scene.store.fire_schedule(fire)).outcome == "failed"
        found = await known(scene)
        assert (found.error, found.fires, found.next_at) == ("the parameters do not fit", 0, fire.next_at)
        assert await fired(scene) == "fired"
        assert (await known(scene)).error is None

    async def test_fire_schedule_after_a_dead_letter_is_fired(self, scene: Scene) -> None:
        """A run that has failed for good is not under way."""
        await put(scene)
        assert await fired(scene) == "fired"
        await scene.dead(await scene.claim_one())
        assert await fired(scene) == "fired"
