"""The headers of a run reach its function on QStash as its trigger has set them."""

import pytest

from batchflow import WorkflowContext
from tests.qstash.stage import APP_URL, WireStage


@pytest.mark.parametrize("value", ["plain", "Zoë", "東京 😀", ""])
async def test_a_header_has_the_same_value_in_a_run_and_in_the_runs_that_it_invokes(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage() as stage:

        @stage.flow.serve("/child")
        async def child(ctx: WorkflowContext[None]) -> str:
            return ctx.headers["x-child"]

        @stage.flow.serve("/parent")
        async def parent(ctx: WorkflowContext[None]) -> list[str]:
            found = await ctx.invoke("invoke", child, None, headers={"x-child": value})
            return [ctx.headers["x-parent"], found]

        await stage.open()
        run = await parent.trigger(None, headers={"x-parent": value})
        await stage.drive()
        assert await run.wait() == [value, value]
