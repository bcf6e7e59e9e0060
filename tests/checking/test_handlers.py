"""Blocks around steps that swallow the suspension of a run."""

import pytest

from tests.checking.marked import assert_found, assert_messages


def test_handlers_of_everything_are_found() -> None:
    """Bare, by name, in a tuple, with a step that is hidden in a helper or a group."""
    assert_found("""
        import asyncio, builtins
        async def run(ctx):
            try:
                await ctx.run("a", fn)
            except:  # !except
                pass
            try:
                await helper(ctx)
            except (ValueError, BaseException) as error:  # !except
                log(error)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(ctx.run("b", fn))
            except* builtins.BaseException:  # !except
                pass
            try:
                ctx.cancel()
            except BaseException:  # !except
                raise ValueError
    """)


def test_handlers_that_raise_again_are_fine() -> None:
    """As they should; so are handlers of `Exception`, and such that come after one that has raised again."""
    assert_found("""
        import asyncio
        async def run(ctx):
            try:
                await ctx.run("a", fn)
            except Exception:
                pass
            except BaseException:
                log()
                raise
            try:
                await ctx.run("b", fn)
            except asyncio.CancelledError as error:
                raise error
            except:
                pass
            try:
                await ctx.run("c", fn)
            except BaseException:  # !except
                if ctx.payload:
                    return
                raise
    """)


def test_handlers_around_other_code_are_fine() -> None:
    """Nothing is suspended there; nor is it inside of a step."""
    assert_found("""
        async def run(ctx):
            try:
                text = str(ctx.payload)
            except:
                text = ""
            async def step():
                try:
                    await client.get()
                except BaseException:
                    return
            try:
                function = lambda: client.get()
            except BaseException:
                pass
            await ctx.run("a", step)
    """)


def test_the_cancellation_of_a_step_is_not_to_be_caught() -> None:
    """That of a task of one's own may be."""
    assert_found("""
        import asyncio
        async def run(ctx):
            task = asyncio.create_task(ctx.run("a", fn))
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
            try:
                await ctx.run("b", fn)
            except asyncio.CancelledError:  # !except
                pass
    """)


def test_suppressing_everything_is_found() -> None:
    """Under any name; suppressing exceptions is fine."""
    assert_found("""
        import contextlib
        from contextlib import suppress as quiet
        async def run(ctx):
            with contextlib.suppress(BaseException):  # !except
                await ctx.run("a", fn)
            with quiet(ValueError, BaseException):  # !except
                await ctx.run("b", fn)
            with contextlib.suppress(Exception):
                await ctx.run("c", fn)
            with contextlib.suppress(BaseException):
                compute()
    """)


@pytest.mark.parametrize("leaving", ["return", "return 1", "break", "continue"])
def test_leaving_a_finally_is_found(leaving: str) -> None:
    """Wherever in the block it stands; around steps."""
    assert_found(f"""
        async def run(ctx):
            while True:
                try:
                    await ctx.sleep(f"a:{{name()}}", 5)
                finally:
                    if ctx.payload:
                        {leaving}  # !finally
                try:
                    compute()
                finally:
                    {leaving}
    """)


def test_leaving_a_loop_inside_of_a_finally_is_fine() -> None:
    """The block goes on; so it does after a function of its own has returned."""
    assert_found("""
        async def run(ctx):
            try:
                await ctx.run("a", fn)
            finally:
                for it in ctx.payload:
                    if it:
                        break
                def function():
                    return 1
                await ctx.run("b", function)
    """)


def test_swallowed_suspensions_come_with_advice() -> None:
    """What to catch, and where to leave."""
    text = """
        import contextlib
        async def run(ctx):
            try:
                await ctx.run("a", fn)
            except:
                pass
            try:
                await ctx.run("b", fn)
            except BaseException:
                pass
            finally:
                return
            with contextlib.suppress(BaseException):
                await ctx.run("c", fn)
    """
    assert_messages(text, "'except:' around", "'except BaseException' around", "'return' in", "suppress(BaseException)")
