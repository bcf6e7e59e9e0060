"""A webhook: a third party is given a URL of the run's own, and answers early, late, or not at all."""

import asyncio

import pytest

from batchflow import WorkflowContext
from batchflow.serve.functions import ServedFunction
from tests.scenarios.scenario_app import Nothing, Scene
from tests.waiting import DEADLINE_S


def asking(scene: Scene, urls: list[str]) -> ServedFunction[Nothing, list[str]]:
    """Gives its URL away, does something else for an hour, and waits for two answers of a day each."""

    @scene.flow.serve("/asking", base_url="https://app.example.com")
    async def ask(ctx: WorkflowContext[Nothing]) -> list[str]:
        webhook = await ctx.create_webhook("webhook")
        await ctx.run("give away", scene.step("give away", does=urls.append), webhook.url)
        await ctx.sleep("something else", "1h")
        first = await ctx.wait_for_webhook("first", webhook, timeout="1d")
        if first.timed_out:
            return await ctx.run("give up", scene.step("give up", ["nobody answers"]))
        second = await ctx.wait_for_webhook("second", webhook, timeout="1d")
        said = [f"{it.data.method} {it.data.text}" for it in (first, second) if not it.timed_out]
        return await ctx.run("note", scene.step("note", said))

    return ask


def answers_later(scene: Scene, urls: list[str]) -> ServedFunction[list[str], None]:
    """Sends one request after the other."""

    @scene.flow.serve("/third-party")
    async def third_party(ctx: WorkflowContext[list[str]]) -> None:
        for text in ctx.payload:
            await ctx.run(text, scene.ask, urls[0], text)
            await ctx.sleep(f"after {text}", "2h")

    return third_party


@pytest.mark.parametrize("delay", ["1m", "2h"])
async def test_webhook_gives_what_came_before_and_while_it_waits(both: Scene, delay: str) -> None:
    """Early requests are kept and handed out in their order; late ones wake the run."""
    urls: list[str] = []
    run = await both.start(asking(both, urls).trigger(Nothing()))
    await both.flow.trigger(answers_later(both, urls), ["one", "two"], delay=delay)
    await both.drive()
    assert (await run.status()).result == '["PUT one","PUT two"]'
    assert both.executed == {"give away": 1, "note": 1}


async def test_webhook_that_nobody_asks_times_out(both: Scene) -> None:
    """And the code says what becomes of it."""
    urls: list[str] = []
    ended = await both.to_the_end(asking(both, urls).trigger(Nothing()))
    assert ended.result == '["nobody answers"]'
    assert both.executed == {"give away": 1, "give up": 1}


async def test_webhook_of_a_run_that_has_ended_is_gone(scene: Scene) -> None:
    """It answers 404."""
    urls: list[str] = []
    await scene.to_the_end(asking(scene, urls).trigger(Nothing()))
    assert await scene.ask(urls[0], "too late") == 404


async def test_webhook_requests_that_come_together_are_all_kept(scene: Scene) -> None:
    """None is lost and none is handed out twice."""
    urls: list[str] = []

    @scene.flow.serve("/collecting", base_url="https://app.example.com")
    async def collect(ctx: WorkflowContext[Nothing]) -> list[str]:
        webhook = await ctx.create_webhook("webhook")
        await ctx.run("give away", scene.step("give away", does=urls.append), webhook.url)
        await ctx.sleep("something else", "1h")
        return [(await ctx.wait_for_webhook(f"{number}", webhook)).data.text for number in range(20)]

    @scene.flow.serve("/crowd")
    async def crowd(ctx: WorkflowContext[Nothing]) -> None:
        await asyncio.gather(*[ctx.run(f"{number}", scene.ask, urls[0], f"{number}") for number in range(20)])

    run = await scene.start(collect.trigger(Nothing()))
    await scene.flow.trigger(crowd, Nothing(), delay="1m")
    await scene.drive()
    texts = await run.wait(timeout=DEADLINE_S)
    assert sorted(texts, key=int) == [str(number) for number in range(20)]
    assert scene.executed == {"give away": 1}
