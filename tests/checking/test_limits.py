"""Limits of time around durable waits."""

import pytest

from tests.checking.marked import assert_found, assert_messages, messages


@pytest.mark.parametrize(
    "wait",
    [
        "ctx.sleep('a', 5)",
        "ctx.sleep_until('a', when)",
        "ctx.call('a', url)",
        "ctx.invoke('a', child, 1)",
        "ctx.wait_for_event('a', 'paid')",
        "ctx.wait_for_webhook('a', webhook)",
        "ctx.first(ctx.sleep('a', 5), other)",
        "asyncio.gather(ctx.run('b', fn), ctx.sleep('a', 5))",
    ],
)
@pytest.mark.parametrize(
    "limit",
    [
        "async with asyncio.timeout(5):\n        await {wait}",
        "async with asyncio.timeout(delay=5):\n        await {wait}",
        "async with asyncio.timeout_at(at), lock:\n        await {wait}",
        "with anyio.fail_after(5):\n        await {wait}",
        "with anyio.move_on_after(5) as scope:\n        await {wait}",
        "limit = asyncio.timeout(5)\n    async with limit:\n        if ctx.payload:\n            await {wait}",
        "await asyncio.wait_for({wait}, 5)",
        "await asyncio.wait_for({wait}, timeout=5)",
        "await asyncio.wait_for(timeout=5, fut={wait})",
        "await asyncio.wait([asyncio.create_task({wait})], timeout=5)",
        "pending = asyncio.create_task({wait})\n    await asyncio.wait_for(asyncio.shield(pending), 5)",
        "waits = [{wait}]\n    async with asyncio.timeout(5):\n        await asyncio.gather(*waits)",
    ],
)
def test_a_limit_around_a_durable_wait_is_found(limit: str, wait: str) -> None:
    """In whatever way it is set, also where the wait was asked for before."""
    text = f"import anyio, asyncio\nasync def run(ctx):\n    {limit.format(wait=wait)}"
    assert [it.partition(" does not limit ")[2].partition("(")[0] for it in messages(text)] == [
        wait[wait.rfind("ctx.") :].partition("(")[0]
    ]


def test_a_limit_around_a_helper_that_waits_is_found() -> None:
    """As far as this file goes."""
    assert_found("""
        import asyncio
        async def approved(ctx):
            await ask(ctx)

        async def ask(ctx):
            await ctx.wait_for_event("ask", "yes")

        async def count(ctx):
            await ctx.run("count", fn)

        async def run(ctx):
            async with asyncio.timeout(5):  # !timeout
                await approved(ctx)
            async with asyncio.timeout(5):  # !timeout
                await count(ctx)
            async with asyncio.timeout(5):
                await elsewhere(ctx)
    """)


def test_a_limit_around_a_step_that_executes_is_found() -> None:
    """Nothing is recorded of what it cuts off, and the replay would wait for that first."""
    text = """
        import asyncio
        async def run(ctx):
            await asyncio.wait_for(ctx.run("a", fn), 5)
            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                group.create_task(ctx.step(retry=None).run("b", fn))
    """
    assert_messages(
        text,
        "asyncio.wait_for(…) may end before ctx.run(…)",
        "asyncio.timeout(…) may end before ctx.step(retry=None).run(…)",
    )


def test_a_limit_around_what_is_not_of_the_run_is_fine() -> None:
    """What was waited for before, and limits that are the context's own, or none."""
    assert_found("""
        import asyncio
        async def run(ctx):
            event = await ctx.wait_for_event("a", "paid", timeout="1d")
            later = asyncio.create_task(ctx.sleep("b", 5))
            async with asyncio.timeout(5):
                await ctx.notify("d", "paid")
                later.cancel()
            await ctx.step(timeout=5).run("e", fn)
            async with ctx.timeout("f", "1d"):
                await ctx.sleep("g", 5)
            async with asyncio.timeout(None):
                await ctx.sleep("h", 5)
            await asyncio.wait_for(ctx.sleep("i", 5), None)
            await asyncio.wait([asyncio.create_task(ctx.sleep("j", 5))])
            await ctx.sleep("l", 5)
    """)


def test_a_limit_is_told_with_what_to_use() -> None:
    """The wait's own timeout where it has one."""
    text = """
        import asyncio
        async def run(context):
            async with asyncio.timeout(5):
                await context.sleep("a", 5)
            await asyncio.wait_for(context.wait_for_event("b", "paid"), 5)
    """
    own = "use context.timeout(name, delay), context.first(…) or its own timeout"
    assert_messages(text, "use context.timeout(name, delay) or context.first(…)", own)
