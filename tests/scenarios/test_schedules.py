"""Schedules on real processes: several see the same times, one is killed in the midst of them, and each fires once."""

from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from batchflow import Batchflow
from batchflow.core.schedule import Cron, NewSchedule
from tests.scenarios.places import Place, Process
from tests.scenarios.schedule_program import make
from tests.sdk.server import ServerProcess
from tests.waiting import wait_until

YEARLY = Cron("0 0 1 1 *")


class Stage:
    """The app of the test, which does not work, and the store in which its schedules are."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place = place
        self.log = folder / "log"
        self.flow = make(place.url, str(folder / "own"))
        self.holder = self.flow if place.server is None else Batchflow(place.server.store)

    @contextmanager
    def workers(self, count: int) -> Generator[Sequence[Process | ServerProcess]]:
        """Processes that look for what is due: those of the app, and on QStash its servers beside two of the app."""
        with ExitStack() as stack:
            if (first := self.place.server) is None:
                yield stack.enter_context(self.place.started(count, "schedule_program", self.log))
                return
            app = stack.enter_context(self.place.started(2, "schedule_program", self.log))
            server = ServerProcess(first.store, self.place.folder, "other-server")
            stack.callback(server.kill)
            yield [server, *app]

    @contextmanager
    def nobody(self) -> Generator[None]:
        """A time without any process that looks for what is due."""
        if (server := self.place.server) is not None:
            server.kill()
        yield
        if server is not None:
            server.start()

    async def add(self, *ids: str) -> None:
        """Schedules that are due next year."""
        next_at = YEARLY.next_after(self.flow.engine.now())
        for id in ids:
            schedule = NewSchedule(id=id, target="tick", destination="/tick", cron=YEARLY)
            await self.flow.engine.schedule_store.put_schedule(schedule, next_at)

    async def make_due(self, *ids: str) -> None:
        """Change them as if an hour had passed since they were due."""
        store = self.holder.engine.store
        due = self.holder.engine.now() - 3_600_000
        for status in await store.schedules(limit=1_000):
            if status.id.endswith(ids):
                assert await store.plan_schedule(status.id, status.version, due)

    async def fires(self) -> list[int]:
        """The number of fires of each schedule."""
        return [it.fires for it in await self.holder.engine.store.schedules(limit=1_000)]

    async def has_ended(self, count: int) -> bool:
        """Whether as many runs have ended."""
        return len((await self.flow.runs(state="completed", limit=200)).runs) >= count


@pytest.fixture
async def stage(place: Place, tmp_path: Path) -> AsyncIterator[Stage]:
    """What a test of schedules has."""
    made = Stage(place, tmp_path)
    await made.flow.start(worker=False)
    await made.holder.start(worker=False)
    yield made
    await made.holder.stop()
    await made.flow.stop()


async def test_each_fire_happens_once_whoever_is_killed(stage: Stage) -> None:
    """Three processes look at many schedules that are due at once; one of them dies in between, and on QStash two."""
    count = 20 if stage.place.is_qstash else 60
    ids = [f"s{number:03d}" for number in range(count)]

    async def live() -> bool:
        return stage.place.is_qstash or len(await stage.flow.workers()) == 3

    async def fired(least: int) -> bool:
        return sum(await stage.fires()) >= least

    with stage.workers(3) as started:
        await wait_until(live, description="all workers have registered")
        await stage.add(*ids)
        await stage.make_due(*ids)
        await wait_until(lambda: fired(count // 3), description="a third of them has fired")
        for victim in started[:2] if stage.place.is_qstash else started[:1]:
            victim.kill()
        await wait_until(lambda: fired(count), description="all have fired")
        await wait_until(lambda: stage.has_ended(count), description="what they have started has ended", timeout=300)
    assert await stage.fires() == [1] * count
    runs = (await stage.flow.runs(limit=200)).runs
    assert len({run.label for run in runs}) == len(runs) == count


async def test_fire_that_was_missed_while_nobody_worked_happens_once(stage: Stage) -> None:
    """Who works later makes up for it, and sees one that another process makes."""
    await stage.add("missed")
    with stage.nobody():
        await stage.make_due("missed")
    with stage.workers(2):
        await wait_until(lambda: stage.has_ended(1), description="the missed fire has happened")
        await stage.add("made-later")
        await stage.make_due("made-later")
        await wait_until(lambda: stage.has_ended(2), description="the next one has happened")
    assert await stage.fires() == [1, 1]
    assert len((await stage.flow.runs()).runs) == 2
