"""What is awaited between steps."""

from tests.checking.marked import assert_found, assert_messages


def test_awaiting_something_else_is_found() -> None:
    """A function of the module, a method, an iteration, a context manager, a task."""
    assert_found("""
        import asyncio

        async def fetch(id):
            return await client.get(id)

        async def run(ctx):
            client = ctx.payload.client
            await fetch(1)  # !await
            await client.get(1)  # !await
            await asyncio.Event().wait()  # !await
            await asyncio.to_thread(fetch, 1)  # !await
            async for row in client.rows():  # !await
                pass
            [row async for row in client.rows()]  # !await
            async with client.open() as opened:  # !await
                pass
            await ctx.payload.send()  # !await
            reply = client.get(2)  # !await
            await reply
    """)


def test_tasks_of_something_else_are_found() -> None:
    """Gathered, grouped, waited for, or only started."""
    assert_found("""
        import asyncio
        async def run(ctx):
            await asyncio.gather(ctx.run("a", fn), client.get(1))  # !await
            await asyncio.gather(*[client.get(id) for id in ctx.payload])  # !await
            await asyncio.gather(*map(client.get, ctx.payload))  # !await
            await asyncio.wait_for(client.get(1), timeout=timeout())  # !await
            asyncio.create_task(client.get(1))  # !await
            await ctx.first(ctx.sleep("b", 5), client.get(1))  # !await
            async with asyncio.TaskGroup() as group:
                group.create_task(client.get(1))  # !await
    """)


def test_awaiting_the_context_is_fine() -> None:
    """Its methods, by whatever name, and what `step` gives."""
    assert_found("""
        async def run(ctx):
            await ctx.run("a", fn)
            await ctx.step(timeout="5s").run("b", fn)
            again = ctx.step(timeout="5s")
            await again.run("c", fn)
            other, step = ctx, 1
            mine = ctx
            await mine.sleep("d", 5)
            do = ctx.run
            await do("e", fn)
            await ctx.call("f", url="http://shop")
            event = await ctx.wait_for_event("g", "paid")
            pending = ctx.invoke("h", function, event)
            await (pending if event else ctx.sleep("i", 5))
            async with ctx.timeout("j", "1h"):
                await ctx.first(ctx.sleep("k", 5), pending)
    """)


def test_steps_side_by_side_are_fine() -> None:
    """`gather`, groups, races and timeouts over steps, lists of them and tasks of them."""
    assert_found("""
        import asyncio
        async def run(ctx):
            steps = [ctx.run(f"a:{id}", fn, id) for id in ctx.payload]
            await asyncio.gather(*steps, return_exceptions=True)
            tasks = []
            tasks.append(asyncio.create_task(ctx.run("b", fn)))
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                await task
            named = {"c": ctx.run("c", fn)}
            named["d"] = ctx.run("d", fn)
            await asyncio.gather(*named.values())
            for first in asyncio.as_completed(list(tasks)):
                await first
            async with asyncio.TaskGroup() as group:
                started = group.create_task(ctx.run("e", fn))
            await asyncio.shield(started)
            await asyncio.gather(*[asyncio.ensure_future(it) for it in tasks])
            await race(ctx.run("f", fn), ctx.run("g", fn))
            lock = asyncio.Lock()
            async with lock, asyncio.Semaphore(3):
                await ctx.run("h", fn)
    """)


def test_a_helper_that_is_given_the_context_is_fine() -> None:
    """What it does itself is looked at, in this file; so it is where it is a method, or given a list of steps."""
    assert_found("""
        import asyncio
        from shop import elsewhere

        async def helper(item, *, context):
            await context.run("a", fn)
            await client.get(item)  # !await

        class Batch(Base):
            async def run(self, ctx, item):
                await elsewhere(ctx)
                await helper(item, context=ctx)
                await super().run(ctx, item)
                await self.more(ctx, item)
                await self.all([ctx.run("b", fn)])
                await self.ways[item](self, ctx)
                await self.none(item)  # !await

            async def more(self, ctx, item):
                await ctx.run("c", fn)
                await client.get(item)  # !await

            async def all(self, steps):
                await asyncio.gather(*steps)
                await steps[0]

            async def none(self, item):
                await client.get(item)
    """)


def test_a_function_of_the_functions_own_is_looked_at_itself() -> None:
    """It sees the context without being given it."""
    assert_found("""
        import asyncio
        async def run(ctx):
            async def branch(id):
                await ctx.run(f"a:{id}", fn)
                await client.get(id)  # !await
            async def turn():
                await asyncio.sleep(0)
            await asyncio.gather(branch(1), branch(2), turn())
            await asyncio.gather(*[branch(id) for id in ctx.payload])
    """)


def test_awaiting_in_a_step_is_fine() -> None:
    """A function that is handed to a step awaits what it likes."""
    assert_found("""
        import asyncio
        async def fetch(id):
            await client.get(id)

        async def run(ctx):
            async def local():
                await client.get(1)
                async with asyncio.timeout(5):
                    await asyncio.sleep(5)
            await ctx.run("a", fetch, 1)
            await ctx.run("b", local)
            await ctx.run("c", lambda: client.get(1))
    """)


def test_what_reaches_outside_is_told_once() -> None:
    """As input and output, and not as an await too."""
    assert_found("""
        import asyncio, httpx
        async def run(ctx):
            async with httpx.AsyncClient() as client:  # !io
                await client.get(1)  # !await
            await asyncio.open_connection("shop", 80)  # !io
            await asyncio.sleep(5)  # !sleep
    """)


def test_an_await_comes_with_advice() -> None:
    """By the context's own name; a long call is cut."""
    assert_messages("async def run(context):\n    await charge(context.payload)\n", "charge(…) is awaited outside")
    assert_messages(f"async def run(ctx):\n    await {'very_' * 20}long()\n", f"{'very_' * 8}…() is awaited")
