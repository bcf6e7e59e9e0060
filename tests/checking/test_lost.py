"""Steps that nobody waits for."""

from tests.checking.marked import assert_found, assert_messages


def test_a_step_that_is_not_awaited_is_found() -> None:
    """As a statement, in one, or under a name that is never used; whichever method it is, by whatever name."""
    assert_found("""
        import asyncio
        async def run(ctx):
            ctx.run("a", fn)  # !lost-step
            ctx.sleep("b", 5)  # !lost-step
            ctx.step(timeout=5).run("c", fn)  # !lost-step
            ctx.first(ctx.sleep("d", 5), pending)  # !lost-step
            ctx.timeout("e", 5)  # !lost-step
            do = ctx.run
            do("f", fn)  # !lost-step
            ctx.run("g", fn) if ctx.payload else None  # !lost-step
            ctx.payload and ctx.run("h", fn)  # !lost-step
            [ctx.notify(f"i:{id}", "event") for id in ctx.payload]  # !lost-step
            ctx.run("j", fn), 1  # !lost-step
            reply = ctx.call("k", url)  # !lost-step
            typed: object = ctx.call("l", url)  # !lost-step
            asyncio.shield(ctx.run("m", fn))  # !lost-step
            asyncio.wait([ctx.run("n", fn)])  # !lost-step
    """)


def test_a_helper_that_is_not_awaited_is_found() -> None:
    """Where it asks for steps; one that is called between steps and is no coroutine is fine."""
    assert_found("""
        async def ship(ctx, id):
            await ctx.run(f"ship:{id}", send, id)

        async def twice(ctx, id):
            await ship(ctx, id)

        async def names(ctx):
            yield await ctx.run("names", fetch)

        @started
        async def made(ctx):
            await ctx.run("made", fn)

        def tell(ctx):
            ctx.log("told")

        class Batch:
            async def run(self, ctx):
                async def branch():
                    await ctx.run("branch", fn)
                ship(ctx, 1)  # !lost-step
                twice(ctx, 2)  # !lost-step
                self.more(ctx)  # !lost-step
                branch()  # !lost-step
                names(ctx)
                made(ctx)
                tell(ctx)
                elsewhere(ctx)

            async def more(self, ctx):
                await ctx.run("more", fn)
    """)


def test_a_task_that_nobody_waits_for_is_found() -> None:
    """By whatever it is started, dropped or kept under a name that is never used."""
    assert_found("""
        import asyncio
        async def run(ctx):
            async def branch():
                await ctx.run("a", fn)
            asyncio.create_task(ctx.run("b", fn))  # !lost-step
            asyncio.ensure_future(branch())  # !lost-step
            asyncio.get_running_loop().create_task(ctx.run("c", fn))  # !lost-step
            loop = asyncio.get_event_loop()
            loop.create_task(ctx.run("d", fn))  # !lost-step
            task = asyncio.create_task(ctx.run("e", fn))  # !lost-step
            tasks = [asyncio.create_task(ctx.run(f"f:{id}", fn)) for id in ctx.payload]  # !lost-step
            asyncio.gather(ctx.run("g", fn), ctx.run("h", fn))  # !lost-step
            for id in ctx.payload:
                asyncio.create_task(ship(ctx, id))  # !lost-step
    """)


def test_what_is_waited_for_is_fine() -> None:
    """Awaited now or later, kept, passed on, or in a group that waits for it."""
    assert_found("""
        import asyncio
        async def run(ctx):
            pending = ctx.wait_for_event("a", "paid")
            await pending
            task = asyncio.create_task(ctx.run("b", fn))
            await ctx.run("c", fn)
            await task
            both = asyncio.gather(ctx.run("d", fn), ctx.run("e", fn))
            async def later():
                await both
                await seen
            seen = asyncio.create_task(ctx.run("f", fn))
            await later()
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.run("g", fn))
                kept = group.create_task(ctx.run("h", fn))
            tasks = []
            tasks.append(asyncio.create_task(ctx.run("i", fn)))
            await asyncio.wait(tasks)
            steps = {"j": ctx.run("j", fn)}
            await asyncio.gather(*steps.values())
            collect(ctx.run("k", fn))
            dropped = await ctx.run("l", fn)
            timer = asyncio.create_task(ctx.sleep("m", 5))
            timer.cancel()
            return ctx.run("n", fn)
    """)


def test_what_asks_for_no_step_is_fine() -> None:
    """A method that is none, a function of the function's own without steps, names of others."""
    assert_found("""
        import asyncio
        async def run(ctx):
            async def turn():
                await asyncio.sleep(0)
            ctx.log("a")
            ctx.cancel()
            shell.run("b", fn)
            asyncio.create_task(turn())
            await ctx.run("c", lambda: shell.run("d", fn))
    """)


def test_a_name_of_another_function_is_used_elsewhere() -> None:
    """What is known of it here is not all."""
    assert_found("""
        async def run(ctx):
            pending = None
            async def ask():
                nonlocal pending
                pending = ctx.run("a", fn)
            await ask()
            await pending
    """)


def test_a_lost_step_comes_with_advice() -> None:
    """For a coroutine, a block and a task."""
    text = """
        import asyncio
        async def run(ctx):
            ctx.run("a", fn)
            ctx.timeout("b", 5)
            asyncio.create_task(ctx.run("c", fn))
    """
    assert_messages(text, "write await ctx.run(…)", "write async with ctx.timeout(…)", "use asyncio.TaskGroup")
