"""Names of steps: one that is used twice, and one that stays the same in a loop."""

import pytest

from tests.checking.marked import assert_found, assert_messages, messages


def test_a_name_used_twice_is_found() -> None:
    """Whichever methods it is used with, at the second place; a constant of the module is a name too."""
    assert_found("""
        CHARGE = "charge"
        async def run(ctx):
            await ctx.run("charge", charge)
            await ctx.sleep("charge", 5)  # !duplicate-name
            await ctx.step(timeout=5).run(CHARGE, charge)  # !duplicate-name
            await ctx.run(f"charge", charge)  # !duplicate-name
            await asyncio.gather(ctx.run("a", charge), ctx.run("a", charge))  # !duplicate-name
    """)


def test_a_name_used_again_after_a_failure_is_found() -> None:
    """The failed step has that name already."""
    assert_found("""
        async def run(ctx):
            try:
                return await ctx.run("charge", charge)
            except StepFailed:
                return await ctx.run("charge", charge_again)  # !duplicate-name
    """)


def test_names_in_branches_that_exclude_each_other_are_fine() -> None:
    """One run passes through one of them."""
    assert_found("""
        async def run(ctx):
            if ctx.payload:
                await ctx.run("a", one)
            elif ctx.headers:
                await ctx.run("a", two)
            else:
                await (ctx.run("a", three) if ctx.attempt else ctx.run("a", four))
            match ctx.payload:
                case 1:
                    await ctx.run("b", one)
                case _:
                    await ctx.run("b", two)
            try:
                await ctx.run("c", one)
            except KeyError:
                await ctx.run("d", one)
            except ValueError:
                await ctx.run("d", two)
            else:
                await ctx.run("d", three)
    """)


def test_a_name_used_after_a_return_is_fine() -> None:
    """What follows is reached by other runs only; a branch that goes on is none of these."""
    assert_found("""
        async def run(ctx):
            if ctx.payload == 1:
                await ctx.run("a", one)
                return
            match ctx.payload:
                case 2:
                    await ctx.run("a", two)
                    raise ValueError
                case 3:
                    pass
            if ctx.payload == 4:
                await ctx.run("b", one)
            await ctx.run("a", three)
            await ctx.run("b", two)  # !duplicate-name
    """)


def test_other_methods_and_other_objects_have_no_step_names() -> None:
    """`run` of something else is no step, and what is not durable has no name."""
    assert_found("""
        async def run(ctx):
            ctx.log("a")
            ctx.log("a")
            while True:
                await ctx.first(pending, waiting)
            shell.run("b", fn)
            shell.run("b", fn)
            await ctx.run("a", fn)
    """)


@pytest.mark.parametrize(
    "loop",
    [
        "for id in ctx.payload:\n        await ctx.run({name}, fn)",
        "async for id in ctx.first(ids):\n        await ctx.run({name}, fn)",
        "while id := following():\n        await ctx.run({name}, fn)",
        "while await ctx.run({name}, fn):\n        id = 1",
        "[await ctx.run({name}, fn) for id in ctx.payload]",
        "await asyncio.gather(*(ctx.run({name}, fn) for id in ctx.payload))",
        "await asyncio.gather(*map(lambda id: ctx.run({name}, fn), ctx.payload))",
        "await asyncio.gather(*itertools.starmap(lambda id, _: ctx.run({name}, fn), pairs))",
        "{{id: await ctx.run({name}, fn) for id in ctx.payload}}",
        "[0 for id in ctx.payload if await ctx.run({name}, fn)]",
    ],
)
def test_a_name_that_does_not_vary_with_its_loop_is_found(loop: str) -> None:
    """A constant, and a text that uses nothing of the loop; one that uses something of it is fine."""
    code = f"import itertools\nasync def run(ctx):\n    batch = ctx.run_id\n    {loop}"
    for name, count in {"'charge'": 1, "f'charge:{batch}'": 1, "f'charge:{id}'": 0, "name(id)": 0}.items():
        assert len(messages(code.format(name=name))) == count, name


def test_a_name_may_vary_by_what_the_loop_assigns() -> None:
    """Directly, by a counter, or by an object that moves on."""
    assert_found("""
        async def run(ctx):
            tries = 0
            while True:
                tries += 1
                await ctx.sleep(f"wait:{tries}", 5)
                page.advance()
                await ctx.run(f"page:{page.number}", fn)
                await ctx.run(f"last:{book.number}", fn)  # !name-in-loop
                await ctx.run(f"next:{next(numbers)}", fn)
    """)


def test_what_is_iterated_over_is_outside_of_the_loop() -> None:
    """It is asked for once."""
    assert_found("""
        async def run(ctx):
            for id in await ctx.run("ids", fetch):
                await ctx.run(f"charge:{id}", fn)
            else:
                await ctx.run("end", fn)
            return [it for it in await ctx.run("more", fetch)]
    """)


def test_a_loop_that_is_left_after_the_step_is_none() -> None:
    """By `return`, `break` or `raise`; not where a handler or `continue` goes round again."""
    assert_found("""
        async def run(ctx):
            for id in ctx.payload:
                if id:
                    return await ctx.run("found", fn)
            while True:
                await ctx.run("once", fn)
                break
            for id in ctx.payload:
                try:
                    return await ctx.run("again", fn)  # !name-in-loop
                except StepFailed:
                    pass
            while True:
                await ctx.run("round", fn)  # !name-in-loop
                if ctx.payload:
                    continue
                return
    """)


def test_a_helper_that_is_called_in_a_loop_is_in_the_loop() -> None:
    """Its parameters vary, its constants do not."""
    assert_found("""
        async def ship(ctx, id):
            await ctx.run("pack", pack, id)  # !name-in-loop
            await ctx.run(f"ship:{id}", send, id)

        async def run(ctx):
            async def branch(id):
                await ctx.run("weigh", weigh, id)  # !name-in-loop
                await ctx.run(f"bill:{id}", bill, id)
            for id in ctx.payload:
                await ship(ctx, id)
            await asyncio.gather(*map(branch, ctx.payload), *(branch(id) for id in ctx.payload))
    """)


def test_a_function_that_is_mapped_is_in_the_loop() -> None:
    """It is called for each; what gives the function is called once."""
    assert_found("""
        async def run(ctx):
            async def branch(id):
                await ctx.run("weigh", weigh, id)  # !name-in-loop
                await ctx.run(f"bill:{id}", bill, id)
            await asyncio.gather(*map(branch, ctx.payload))
            names = [*map(await ctx.run("choose", choose), await ctx.run("ids", fetch))]
            sorted(ctx.payload, key=lambda id: ctx.run("once", fn))
    """)


def test_a_helper_that_is_called_twice_is_found() -> None:
    """At the second call, also through another function, and beside a step of that name."""
    assert_found("""
        async def charge(ctx, id):
            await ctx.run("charge", send, id)
            await ctx.run(f"bill:{id}", send, id)

        async def checkout(ctx, id):
            if not id:
                raise ValueError
            return await charge(ctx, id)

        class Batch:
            async def run(self, ctx):
                async def pack():
                    await ctx.run("pack", fn)
                await charge(ctx, 1)
                await charge(ctx, 2)  # !duplicate-name
                await checkout(ctx, 3)  # !duplicate-name
                await ctx.run("charge", fn)  # !duplicate-name
                await asyncio.gather(pack(), pack())  # !duplicate-name
                await self.weigh(ctx)
                try:
                    await self.weigh(ctx)  # !duplicate-name
                except StepFailed:
                    pass

            async def weigh(self, ctx):
                with self.lock:
                    return await ctx.run("weigh", fn)
    """)


def test_helpers_that_are_called_again_with_other_names_are_fine() -> None:
    """Names that are made of what is passed, steps that not every call comes to, calls that exclude each other."""
    assert_found("""
        async def charge(ctx, id, name):
            if id:
                await ctx.run("charge", fn)
                return
            for it in ctx.payload:
                await ctx.run(f"a:{it}", fn)
            await ctx.run("refund", fn)
            await ctx.run(name, fn)
            await (ctx.run("b", fn) if id else ctx.run("c", fn))

        async def once(ctx):
            await ctx.run("once", fn)

        @cached
        async def decorated(ctx):
            await ctx.run("decorated", fn)

        async def names(ctx):
            yield await ctx.run("names", fetch)

        async def run(ctx):
            await charge(ctx, 1, "one")
            await charge(ctx, 0, "two")
            if ctx.payload:
                await once(ctx)
            else:
                await once(ctx)
            await decorated(ctx)
            await decorated(ctx)
            generated = names(ctx), names(ctx)
            await other.once(ctx)
    """)


def test_a_helper_that_is_called_twice_is_told_with_the_first_place() -> None:
    """The sentence names the step, too."""
    text = """
        async def charge(ctx, id):
            await ctx.run("charge", send, id)

        async def run(ctx):
            await charge(ctx, 1)
            await charge(ctx, 2)
    """
    assert_messages(text, "charge(…) requests the step 'charge', as line 6 does")


def test_a_name_in_a_loop_is_told_with_the_name_to_write() -> None:
    """The sentence has the loop's own variable."""
    text = """
        async def run(ctx):
            for order in ctx.payload:
                await ctx.run("charge", charge, order)
                await ctx.run(f"refund:{ctx.run_id}", refund, order)
                await ctx.run(text, refund, order)
    """
    assert_messages(text, "f'charge:{order}'", "f'refund:{ctx.run_id}:{order}'", "f'{text}:{order}'")


def test_a_name_used_twice_is_told_with_the_first_place() -> None:
    """The sentence says where it is used already."""
    text = "async def run(ctx):\n    await ctx.run('a', fn)\n    await ctx.run('a', fn)"
    assert_messages(text, "'a' is used in line 2 already")
