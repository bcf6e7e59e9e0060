"""A function on QStash and the batch that it has invoked end though the app is killed on the way, again and again."""

from collections import Counter

import pytest

from batchflow import Batchflow, WorkflowContext
from batchflow.serve.functions import ServedFunction
from tests.qstash.batch_programs import Params
from tests.qstash.invoking_programs import ITEMS, Welcome, engine_of
from tests.qstash.mortal_stage import MortalStage
from tests.qstash.stage import APP_URL
from tests.stores.kinds import Kind, left


class DyingStage(MortalStage):
    """A stage whose app lives for about twenty moments of a request."""

    DEATHS = 0.06


class App:
    """What each life of the app declares, and what all of them have executed."""

    def __init__(self) -> None:
        self.executed: Counter[str] = Counter()
        self.completed: list[str] = []
        self.parents: list[ServedFunction[None, str]] = []

    def declare(self, flow: Batchflow) -> None:
        welcome = Welcome()
        welcome.executed, welcome.completed = self.executed, self.completed
        batch = flow.add(welcome)

        def step(name: str) -> None:
            self.executed[name] += 1

        @flow.serve("/parent", retries=20, retry_delay="1s")
        async def parent(ctx: WorkflowContext[None]) -> str:
            await ctx.run("before", step, "before")
            summary = await ctx.invoke("welcome all", batch, Params())
            await ctx.run("after", step, "after")
            return f"{summary.state} {summary.counts.succeeded} {summary.counts.failed}"

        self.parents.append(parent)


@pytest.mark.parametrize("kind", ["sqlite", "fakeredis"])
@pytest.mark.parametrize("seed", range(3))
async def test_an_app_that_is_killed_again_and_again_opens_one_batch_and_tells_its_end(
    kind: Kind, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    stage, app = DyingStage(kind, seed, batches=True), App()
    stage.declare = app.declare
    async with stage:
        await stage.open()
        # QStash is told to call the app each five minutes.
        await engine_of(stage).give_due()
        run = await app.parents[0].trigger(None)
        stage.disturb()
        await stage.drive(ms=2 * 3_600_000)
        stage.calm()
        await stage.drive(ms=2 * 3_600_000)
        assert stage.deaths > 0
        assert (await stage.flow.run(run.id).status()).result == '"completed 2 1"'
        assert {item: app.executed[item] for item in ITEMS} == dict.fromkeys(ITEMS, 1)
        assert len(app.completed) == len(await stage.flow.engine.store.batches()) == 1
        assert await left(stage.flow.engine.store) == {}  # type: ignore[arg-type]
