"""Steps in the order of a set."""

import pytest

from tests.checking.marked import assert_found, assert_messages, messages

ONE_AFTER_THE_OTHER = "for id in {ids}:\n        await ctx.run(f'a:{{id}}', fn, id)"


@pytest.mark.parametrize(
    "ids",
    [
        "{'a', 'b'}",
        "{it.id for it in ctx.payload}",
        "set(ctx.payload)",
        "frozenset(ctx.payload)",
        "set(ctx.payload) - {'a'}",
        "set(ctx.payload).union(more)",
        "list(set(ctx.payload))",
        "enumerate({*ctx.payload})",
        "[*set(ctx.payload)]",
        "[it.id for it in set(ctx.payload)]",
        "known",
        "listed",
    ],
)
def test_a_loop_over_a_set_is_found(ids: str) -> None:
    """Written there, assigned before, or made a list in between."""
    before = "known = set(ctx.payload)\n    listed = list(known)"
    text = f"async def run(ctx):\n    {before}\n    {ONE_AFTER_THE_OTHER.format(ids=ids)}"
    assert len(messages(text)) == 1


@pytest.mark.parametrize(
    "ids",
    [
        "sorted(set(ctx.payload))",
        "{1, 2, 3}",
        "{ctx.payload[0]}",
        "set(range(9))",
        "set([1, 2])",
        "dict.fromkeys(ctx.payload)",
        "{'a': 1}",
        "ctx.payload",
        "known",
        "listed",
        "len_of(set(ctx.payload))",
    ],
)
def test_a_loop_over_what_has_an_order_is_fine(ids: str) -> None:
    """What was put into order, whole numbers, and what is no set, or not known to be one."""
    before = (
        "known = set(ctx.payload)\n    known = sorted(known)\n    listed = list(set(ctx.payload))\n    listed.sort()"
    )
    text = f"async def run(ctx):\n    {before}\n    {ONE_AFTER_THE_OTHER.format(ids=ids)}"
    assert messages(text) == []


def test_a_parameter_may_be_declared_a_set() -> None:
    """Of a helper, the payload itself, or a variable too; one of whole numbers has an order."""
    assert_found("""
        from collections.abc import Set
        from batchflow import WorkflowContext

        async def mail(ctx, ids: Set[str], numbers: set[int], names: list[str]):
            for id in ids:  # !order
                await ctx.run(f"mail:{id}", fn, id)
            for number in numbers:
                await ctx.run(f"count:{number}", fn, number)
            for name in names:
                await ctx.run(f"greet:{name}", fn, name)

        async def run(ctx: WorkflowContext[set[str]]):
            for id in ctx.payload:  # !order
                await mail(ctx, {id}, {1}, [id])
            known: set[str] = await ctx.run("known", fetch)
            for id in known:  # !order
                await ctx.run(f"known:{id}", fn, id)
            ordered: list[str] = await ctx.run("ordered", fetch)
            for id in ordered:
                await ctx.run(f"ordered:{id}", fn, id)
    """)


def test_the_order_matters_where_steps_follow_each_other() -> None:
    """Directly, in a helper, in a comprehension, numbered, or where their results are kept in that order."""
    assert_found("""
        import asyncio
        async def ship(ctx, id):
            await ctx.run(f"ship:{id}", fn, id)

        async def run(ctx):
            ids = set(ctx.payload)
            for id in ids:  # !order
                if id:
                    await ship(ctx, id)
            for id in ids:  # !order
                await elsewhere(ctx, id)
            [await ctx.run(f"a:{id}", fn, id) for id in ids]  # !order
            {id: await ctx.run(f"b:{id}", fn, id) for id in ids}  # !order
            for number, id in enumerate(ids):  # !order
                asyncio.create_task(ctx.run(f"c:{number}", fn, id))  # !lost-step
            await asyncio.gather(*(ctx.run(f"d:{n}", fn, id) for n, id in enumerate(ids)))  # !order
            results = await asyncio.gather(*[ctx.run(f"e:{id}", fn, id) for id in ids])  # !order
            async def branch(id):
                await ship(ctx, id)
            results += await asyncio.gather(*map(branch, ids))  # !order
            results += await asyncio.gather(*map(lambda id: ctx.run(f"f:{id}", fn, id), ids))  # !order
            tasks = []
            for id in ids:  # !order
                tasks.append(ctx.run(f"g:{id}", fn, id))
            await asyncio.gather(*tasks)
    """)


def test_steps_side_by_side_may_come_in_any_order() -> None:
    """They are known by their names; so may be what asks for no step."""
    assert_found("""
        import asyncio
        async def run(ctx):
            ids = set(ctx.payload)
            await asyncio.gather(*(ctx.run(f"a:{id}", fn, id) for id in ids))
            async with asyncio.TaskGroup() as group:
                for id in ids:
                    group.create_task(ctx.run(f"b:{id}", fn, id))
            tasks = {id: asyncio.create_task(ctx.run(f"c:{id}", fn, id)) for id in ids}
            await asyncio.wait(tasks.values())
            for id in ids:
                ctx.log(id)
                total = len(id)
            done, pending = await asyncio.wait(tasks.values())
            for task in {*done, *pending}:
                await task
    """)


def test_an_order_is_told_with_the_set() -> None:
    """And how to have one."""
    text = """
        async def run(ctx):
            ids = {it.id for it in ctx.payload}
            for place, id in enumerate(ids):
                await ctx.run(f"a:{place}", fn, id)
    """
    assert_messages(text, "sorted(ids)")
