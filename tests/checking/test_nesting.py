"""Steps that are asked for inside of a step."""

from tests.checking.marked import assert_found, assert_messages


def test_nested_steps_are_found() -> None:
    """In a lambda, a function of the function's own, one that calls another, and in the method itself."""
    assert_found("""
        async def run(ctx):
            async def inner():
                await ctx.run("c", fn)  # !nested-step
            async def outer():
                await inner()
            await ctx.run("a", lambda: ctx.sleep("b", 5))  # !nested-step
            await ctx.run("d", outer)
            await ctx.run("e", ctx.sleep, "f", 5)  # !nested-step
            await ctx.step(timeout=5).run("g", lambda: ctx.step(retry=one).run("h", fn))  # !nested-step
            for method in ("call", "invoke"):
                await ctx.run(f"i:{method}", lambda: ctx.wait_for_event("j"))  # !nested-step
    """)


def test_a_function_that_is_handed_the_context_is_looked_into() -> None:
    """One of the module, a method of the class, a partial of one."""
    assert_found("""
        from functools import partial
        async def load(id, context):
            await context.sleep("a", 5)  # !nested-step

        class Batch:
            async def run(self, ctx, item):
                await ctx.run("b", load, 1, ctx)
                await ctx.run("c", partial(load, 1, context=ctx))
                await ctx.run("d", self.draft, ctx)

            async def draft(self, ctx):
                await ctx.run("e", fn)  # !nested-step
    """)


def test_steps_that_follow_each_other_are_fine() -> None:
    """One step's result is an argument of the next; a function may read the context's payload."""
    assert_found("""
        async def run(ctx):
            def total():
                return sum(ctx.payload)
            await ctx.run("a", fn, await ctx.run("b", fn))
            await ctx.run("c", total)
            await ctx.run("d", lambda: ctx.payload)
            await ctx.run("e", load, 1)
            await ctx.run("f", lambda ctx: ctx.run("g"), shell)

        async def load(id):
            await shell.run("h", id)
    """)


def test_a_nested_step_is_told_with_its_name() -> None:
    """The sentence says which one, and what to do."""
    text = """
        async def run(ctx):
            await ctx.run("a", lambda: ctx.run("b", fn))
            await ctx.run("c", ctx.sleep, "d", 5)
            await ctx.run("e", lambda: ctx.sleep(name(), 5))
            await ctx.run("f", lambda: ctx.sleep(*names))
    """
    assert_messages(text, *(f"{it} is requested in" for it in ("step 'b'", "ctx.sleep", "step name()", "a step")))
