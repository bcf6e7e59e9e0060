"""The log of a run: bound to run, step and attempt, silent on replay; and the events of a verbose function."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from structlog.testing import capture_logs

from batchflow import Batchflow, NoParams, WorkflowContext
from batchflow.testing import ManualClock, drive
from tests.scenarios.scenario_app import Answering

CLOCK = ManualClock()


@pytest.fixture
async def flow() -> AsyncGenerator[Batchflow]:
    async with Batchflow("sqlite://", clock=CLOCK, worker=False) as app:
        yield app


async def test_a_line_is_logged_once_however_often_it_is_replayed(flow: Batchflow) -> None:
    @flow.serve("/talks")
    async def talks(ctx: WorkflowContext[NoParams]) -> None:
        def work() -> None:
            ctx.log.bind(more=1).warning("inside")

        ctx.log.info("begun")
        await ctx.run("work", work)
        ctx.log.info("worked", answer=42)
        await ctx.sleep("nap", "1d")
        ctx.log.debug("slept")
        await ctx.sleep("again", "1d")

    with capture_logs() as lines:
        run = await talks.trigger(NoParams())
        await drive(flow, CLOCK)
    said = [line for line in lines if line.get("run") == run.id]
    assert [line["event"] for line in said] == ["begun", "inside", "worked", "slept"]
    assert {line["attempt"] for line in said} == {1}
    assert [line.get("step") for line in said] == [None, "work", None, None]
    assert (said[1]["log_level"], said[1]["more"], said[2]["answer"]) == ("warning", 1, 42)


async def test_a_verbose_function_logs_one_event_for_each_thing_the_engine_does(flow: Batchflow) -> None:
    @flow.serve("/verbose", verbose=True)
    async def verbose(ctx: WorkflowContext[NoParams]) -> None:
        await ctx.run("one", lambda: 1)
        await ctx.sleep("nap", "1h")

    with capture_logs() as lines:
        run = await verbose.trigger(NoParams())
        await drive(flow, CLOCK)
    told: list[Any] = [(line["eventType"], line.get("step")) for line in lines if "eventType" in line]
    assert told == [
        ("SUBMIT_FIRST_INVOCATION", None),
        ("ENDPOINT_START", None),
        ("RUN_SINGLE", "one"),
        ("SUBMIT_STEP", "one"),
        ("SUBMIT_STEP", "nap"),
        ("ENDPOINT_START", None),
        ("SUBMIT_CLEANUP", None),
    ]
    assert all(line["run"] == run.id and line["time"] > 0 for line in lines if "eventType" in line)


async def test_the_answer_of_a_call_is_told_of_once_however_often_it_is_replayed(flow: Batchflow) -> None:
    """And a step that has a branch behind it, which is over, is one by itself."""
    flow.engine.caller = Answering()

    @flow.serve("/calling", verbose=True)
    async def calling(ctx: WorkflowContext[NoParams]) -> None:
        async with ctx.timeout("limit", "1h"):
            await ctx.call("ask", "https://ai.test/")
        await ctx.run("after", lambda: 1)
        for night in range(2):
            await ctx.sleep(f"night {night}", "1d")

    with capture_logs() as lines:
        await calling.trigger(NoParams())
        await drive(flow, CLOCK)
    told = [(line["eventType"], line.get("step")) for line in lines if "eventType" in line]
    assert told.count(("SUBMIT_THIRD_PARTY_RESULT", "ask")) == 1
    assert told.count(("RUN_SINGLE", "after")) == 1
